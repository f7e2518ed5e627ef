//go:build linux

// Package home lays out the directory that holds the build cache and the state
// of running clusters, and guards it against concurrent invocations.
package home

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Home is the root directory: build/ is a cache that may be deleted at any
// time, run/ describes what is running.
type Home struct{ Dir string }

// Find returns $LOCKSTEP_HOME, or lockstep in the user's cache directory.
func Find(getenv func(string) string) (Home, error) {
	dir := getenv("LOCKSTEP_HOME")
	if dir == "" {
		cache := getenv("XDG_CACHE_HOME")
		if cache == "" {
			home := getenv("HOME")
			if home == "" {
				return Home{}, errors.New("none of LOCKSTEP_HOME, XDG_CACHE_HOME and HOME is set")
			}
			cache = filepath.Join(home, ".cache")
		}
		dir = filepath.Join(cache, "lockstep")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Home{}, fmt.Errorf("resolving %q: %w", dir, err)
	}
	return Home{Dir: abs}, nil
}

// Build is the cache of what was built, one directory per set of inputs.
func (h Home) Build() string { return filepath.Join(h.Dir, "build") }

// Lab is the state of the lab: its network, S3 and Git servers.
func (h Home) Lab() string { return filepath.Join(h.Dir, "run", "lab") }

// Clusters holds one directory per cluster.
func (h Home) Clusters() string { return filepath.Join(h.Dir, "run", "clusters") }

// Cluster is the state of one cluster.
func (h Home) Cluster(name string) string { return filepath.Join(h.Clusters(), name) }

// Lock takes the named lock, waiting for another process that holds it, and
// returns the function that releases it. The kernel releases it too when the
// process ends, so a killed invocation blocks nobody.
func (h Home) Lock(ctx context.Context, name string) (func(), error) {
	dir := filepath.Join(h.Dir, "run", "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("locking %q: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("waiting for lock %q: %w", name, ctx.Err())
		case <-tick.C:
		}
	}
}

// WriteJSON replaces the file at path in one step, readable by its owner only
// because states hold keys.
func WriteJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(path, append(b, '\n'), 0o600)
}

// WriteFile replaces the file at path in one step, so that a reader sees the
// old or the new content and never a part.
func WriteFile(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// ReadJSON reads what WriteJSON wrote.
func ReadJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("reading %q: %w", path, err)
	}
	return nil
}
