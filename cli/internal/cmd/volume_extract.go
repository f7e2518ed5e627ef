package cmd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// halfWay begins the name of the directory in which an extraction grows until it is whole.
const halfWay = ".lockstep-extract-"

type extracted struct {
	Path string `json:"path"`
	// Target is where it is now.
	Target string       `json:"target"`
	Stats  volume.Stats `json:"stats"`
}

type volumeExtractOptions struct {
	vault  vault.Flags
	labels map[string]string
	to     string
	force  bool
	format output.Format
}

func (p *Program) volumeExtractCommand() *cobra.Command {
	var o volumeExtractOptions
	cmd := &cobra.Command{
		Use:   "extract SNAPSHOT|POINT[:NAMESPACE/CLAIM] PATH... --to DIR",
		Short: "Get single files or directories out of a snapshot or a restore point",
		Long: `Get files or directories, with all that is below them, out of a snapshot or out of a volume of a restore point, with no cluster.

Each PATH comes to the same path below DIR, with its modes, times and extended attributes; owners and devices need root. It grows
beside its place and gets there only when it is whole. Nothing that exists is overwritten, unless --force says so: then files are
replaced, and directories get what the snapshot has and keep what else is there. Nothing is written outside of DIR, whatever the
snapshot holds: no symlink below DIR is followed.

A volume of a point is named by the point's ID and, where it has several, the claim.`,
		Example: `  lockstep volume extract 20260102-030405-1a2b3c4d:shop/data-database-0 pgdata/postgresql.conf --to .
  lockstep volume extract latest etc/nginx srv/www --to /tmp/out --label app=shop`,
		Args: cobra.MinimumNArgs(2),
		RunE: p.onVault(&o.vault, func(ctx context.Context, v *vault.Opened, args []string) error {
			return p.volumeExtract(ctx, v, args[0], args[1:], o)
		}),
	}
	o.vault.AddFlags(cmd.Flags(), true)
	addLabels(cmd, &o.labels, "latest is the newest snapshot with this label")
	cmd.Flags().StringVar(&o.to, "to", "", "directory to extract into; it is made if it does not exist")
	cmd.Flags().BoolVar(&o.force, "force", false, "replace files that exist")
	// The error says that the flag does not exist, and it was added above.
	_ = cmd.MarkFlagRequired("to")
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) volumeExtract(ctx context.Context, v *vault.Opened, name string, paths []string, o volumeExtractOptions) (err error) {
	id, err := snapshotID(ctx, v, name, o.labels)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.to, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(o.to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := p.nameHalves(root, o.to); err != nil {
		return err
	}
	done := []extracted{}
	for _, path := range wantedPaths(paths) {
		e := extraction{p: p, v: v, id: id, path: path, root: root, to: o.to, force: o.force}
		got, err := e.run(ctx)
		if err != nil {
			return p.nearTo(ctx, v, id, path, err)
		}
		done = append(done, *got)
	}
	return o.format.Print(p.Out, done, func(w io.Writer) error {
		for _, d := range done {
			if _, err := fmt.Fprintf(w, "extracted %s: %s, %s\n", output.Path(d.Target), output.Count(int(d.Stats.Files), "file", "files"),
				output.Bytes(d.Stats.Size)); err != nil {
				return err
			}
		}
		return nil
	})
}

// nameHalves names what extractions have left that were killed. Nobody can tell that from one that is under way.
func (p *Program) nameHalves(root *os.Root, to string) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), halfWay) {
			p.note("note: %s is of an extraction that was killed or is under way; if none is, delete it", output.Path(filepath.Join(to, e.Name())))
		}
	}
	return nil
}

// wantedPaths writes paths as snapshots have them, and leaves out what lies below another.
func wantedPaths(paths []string) []string {
	var clean []string
	for _, p := range paths {
		clean = append(clean, strings.TrimPrefix(path.Clean("/"+p), "/"))
	}
	slices.Sort(clean)
	var out []string
	for _, p := range clean {
		below := func(dir string) bool { return dir == "" || p == dir || strings.HasPrefix(p, dir+"/") }
		if !slices.ContainsFunc(out, below) {
			out = append(out, p)
		}
	}
	return out
}

// extraction is that of one path.
type extraction struct {
	p     *Program
	v     *vault.Opened
	id    string
	path  string // empty is all of the snapshot
	root  *os.Root
	to    string
	force bool
}

func (e extraction) run(ctx context.Context) (*extracted, error) {
	place := filepath.FromSlash(e.path)
	if place == "" {
		place = "."
	}
	if !filepath.IsLocal(place) { // such as a name of a device, on some systems
		return nil, fault.New(fault.Refused, "", "%q cannot be a file here", e.path)
	}
	existing, err := e.look(place)
	if err != nil {
		return nil, err
	}
	// Into a directory that exists, the engine puts what is missing or different, and follows no symlink.
	if existing != nil && existing.IsDir() {
		return e.load(ctx, place, volume.ExistingOverwrite)
	}
	beside := halfWay + rand.Text()
	if err := e.root.Mkdir(beside, 0o700); err != nil {
		return nil, err
	}
	got, err := e.load(ctx, filepath.Join(beside, "whole"), volume.ExistingRefuse)
	if err == nil {
		err = e.put(filepath.Join(beside, "whole"), place)
	}
	if err := errors.Join(err, e.root.RemoveAll(beside)); err != nil {
		return nil, err
	}
	got.Target = filepath.Join(e.to, place)
	return got, nil
}

// look refuses what must not be replaced, and says what is at the place.
func (e extraction) look(place string) (fs.FileInfo, error) {
	for dir := filepath.Dir(place); dir != "."; dir = filepath.Dir(dir) {
		info, err := e.root.Lstat(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case !info.IsDir():
			return nil, fault.New(fault.Refused, "Give another --to.", "%q is in the way: it is no directory, and no symlink is followed", filepath.Join(e.to, dir))
		}
	}
	info, err := e.root.Lstat(place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case place == ".":
		return e.empty(info)
	case !e.force:
		return nil, fault.New(fault.Refused, "Give another --to, or replace it with --force.", "%q exists", filepath.Join(e.to, place))
	}
	return info, nil
}

// empty lets all of a snapshot into the directory itself, if nothing is in it.
func (e extraction) empty(info fs.FileInfo) (fs.FileInfo, error) {
	entries, err := fs.ReadDir(e.root.FS(), ".")
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 && !e.force {
		return nil, fault.New(fault.Refused, "Give another --to, or replace what exists with --force.", "%q is not empty", e.to)
	}
	return info, nil
}

func (e extraction) load(ctx context.Context, place string, existing volume.Existing) (*extracted, error) {
	shown := e.path
	if shown == "" {
		shown = "all"
	}
	show, done := e.p.follow(shown, "extracting")
	r, err := e.v.Load(ctx, e.id, filepath.Join(e.to, place), volume.LoadOptions{Path: e.path, Existing: existing, Progress: show})
	done()
	if err != nil {
		e.p.printFiles("not extracted", viewFiles(err))
		return nil, err
	}
	for _, path := range r.Changed {
		e.p.note("warning: changed while it was saved: %q", path)
	}
	return &extracted{Path: e.path, Target: filepath.Join(e.to, place), Stats: r.Stats}, nil
}

// put moves what is whole to its place.
func (e extraction) put(from, place string) error {
	if dir := filepath.Dir(place); dir != "." {
		if err := e.root.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// Somebody else may have been faster; a directory would not be replaced anyway.
	if _, err := e.root.Lstat(place); err == nil && !e.force {
		return fault.New(fault.Refused, "Give another --to, or replace it with --force.", "%q exists", filepath.Join(e.to, place))
	}
	return e.root.Rename(from, place)
}

// nearTo names, for a path that a snapshot proves not to have, what it has that is called alike.
func (p *Program) nearTo(ctx context.Context, v *vault.Opened, id, wanted string, err error) error {
	if !errors.Is(err, volume.ErrPathNotFound) {
		return err
	}
	dir, name := path.Split(strings.TrimPrefix(path.Clean("/"+wanted), "/"))
	for {
		dir = strings.TrimSuffix(dir, "/")
		names, listErr := entryNames(ctx, v, id, dir)
		switch {
		case listErr == nil:
			hint := fmt.Sprintf("See what there is: lockstep volume list %s %s", id[:8], output.Path(dir))
			if alike := alike(name, names); len(alike) > 0 {
				for i := range alike {
					alike[i] = output.Path(path.Join(dir, alike[i]))
				}
				hint = "There is: " + strings.Join(alike, ", ")
			}
			return fault.New(fault.Absent, hint, "%w: %q", volume.ErrPathNotFound, wanted)
		case !errors.Is(listErr, volume.ErrPathNotFound) || dir == "":
			return err // why nothing is near does not matter
		}
		dir, name = path.Split(dir)
	}
}

// maxNames bounds what is held of a directory for comparing names.
const maxNames = 10_000

func entryNames(ctx context.Context, v *vault.Opened, id, dir string) ([]string, error) {
	var names []string
	for e, err := range v.Entries(ctx, id, dir, false) {
		if err != nil {
			return nil, err
		}
		if len(names) == maxNames {
			break
		}
		names = append(names, path.Base(e.Path))
	}
	return names, nil
}

// alike chooses at most 5 names that are nearest to one.
func alike(name string, names []string) []string {
	type near struct {
		name     string
		distance int
	}
	var found []near
	lower := strings.ToLower(name)
	for _, n := range names {
		other := strings.ToLower(n)
		d := spelling.Distance(lower, other)
		if strings.Contains(other, lower) || strings.Contains(lower, other) {
			d = min(d, 1)
		}
		if d <= max(len(name)/3, min(2, len(name)-1)) {
			found = append(found, near{n, d})
		}
	}
	slices.SortStableFunc(found, func(a, b near) int { return a.distance - b.distance })
	var out []string
	for _, f := range found[:min(len(found), 5)] {
		out = append(out, f.name)
	}
	return out
}
