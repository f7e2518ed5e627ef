//go:build linux

package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// pool keeps volumes and snapshots as btrfs subvolumes, each with a file of
// facts beside it. A subvolume appears under its name only when it is whole.
type pool struct{ dir string }

// facts are what a subvolume does not tell itself.
type facts struct {
	Capacity int64     `json:"capacity"`         // bytes
	Source   string    `json:"source,omitempty"` // volume or snapshot this began as
	Created  time.Time `json:"created"`
	Block    bool      `json:"block,omitempty"` // a device, not a directory
}

const (
	volumes   = "volumes"
	snapshots = "snapshots"
	factsExt  = ".json"
)

func openPool(dir string) (*pool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("opening pool %q: %w", dir, err)
	}
	if st.Type != unix.BTRFS_SUPER_MAGIC {
		return nil, fmt.Errorf("pool %q is not a btrfs", dir)
	}
	for _, d := range []string{volumes, snapshots} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return &pool{dir: dir}, nil
}

// path is where the volume or snapshot lies. No id leads out of the pool.
func (p *pool) path(kind, id string) string { return filepath.Join(p.dir, kind, fileName(id)) }

func fileName(id string) string { return strings.NewReplacer("/", "_", "..", "_").Replace(id) }

// get returns the facts, and fs.ErrNotExist when there is no such subvolume.
func (p *pool) get(kind, id string) (facts, error) {
	path := p.path(kind, id)
	if _, err := os.Stat(path); err != nil {
		return facts{}, err
	}
	b, err := os.ReadFile(path + factsExt)
	if err != nil {
		return facts{}, err
	}
	var f facts
	return f, json.Unmarshal(b, &f)
}

// list returns the ids of a kind, sorted.
func (p *pool) list(kind string) ([]string, error) {
	names, err := filepath.Glob(filepath.Join(p.dir, kind, "*"+factsExt))
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(names))
	for _, n := range names {
		ids = append(ids, strings.TrimSuffix(filepath.Base(n), factsExt))
	}
	sort.Strings(ids)
	return ids, nil
}

// create makes a subvolume, empty or as a copy of the one at the path from.
func (p *pool) create(ctx context.Context, kind, id, from string, f facts) error {
	path := p.path(kind, id)
	tmp := path + ".new"
	if err := p.drop(ctx, tmp); err != nil {
		return err
	}
	args := []string{"-q", "subvolume", "create", tmp}
	switch {
	case kind == snapshots:
		args = []string{"-q", "subvolume", "snapshot", "-r", from, tmp}
	case from != "":
		args = []string{"-q", "subvolume", "snapshot", from, tmp}
	}
	if err := btrfs(ctx, args...); err != nil {
		return err
	}
	if kind == volumes && from == "" {
		// Anyone may write, as on a fresh disk of most drivers with fsGroup.
		if err := os.Chmod(tmp, 0o777); err != nil {
			return err
		}
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+factsExt, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// remove deletes a subvolume. One that is not there is no error.
func (p *pool) remove(ctx context.Context, kind, id string) error {
	path := p.path(kind, id)
	if err := p.drop(ctx, path); err != nil {
		return err
	}
	if err := os.Remove(path + factsExt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (p *pool) drop(ctx context.Context, path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return btrfs(ctx, "-q", "subvolume", "delete", path)
}

func btrfs(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "btrfs", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("btrfs %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}
