package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// maxLink is the length in bytes of the longest link target that Linux knows.
const maxLink = 4096

var errNotEmpty = errors.New("the target directory must exist and be empty")

// Materialise writes all files of the revision's commit into the empty directory dir; what a kustomization at
// the revision's path refers to elsewhere in the repository is there, too. Inside the path, submodules and links out
// of the repository are refused; elsewhere they are left out. Pointers of Git LFS stay pointers.
func (r *Repository) Materialise(ctx context.Context, rev v1alpha1.Revision, dir string) error {
	if err := r.materialise(ctx, rev, dir); err != nil {
		return fmt.Errorf("writing out commit %s of %q: %w", revision.Short(rev.Commit), r.url, err)
	}
	return nil
}

func (r *Repository) materialise(ctx context.Context, rev v1alpha1.Revision, dir string) (err error) {
	inside, err := cleanPath(rev.Path)
	if err != nil {
		return err
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return errors.Join(errNotEmpty, err)
	}
	hash, err := r.find(ctx, Ref{Commit: rev.Commit})
	if err != nil {
		return err
	}
	commit, err := r.peel(hash)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	w := &writer{repo: r, root: root, inside: inside, bytes: r.limits.tree, files: r.limits.files}
	if err := w.tree(ctx, commit.TreeHash, "."); err != nil {
		return err
	}
	return w.checkLinks()
}

// writer writes one commit. All names go through an os.Root: nothing can be written outside of it.
type writer struct {
	repo   *Repository
	root   *os.Root
	inside string
	// lenient says that nothing is inside.
	lenient bool
	// later takes files and directories instead of writing them; nil if they are written at once.
	later func(e object.TreeEntry, name string) error
	bytes int64
	files int
	links []string
}

func (w *writer) tree(ctx context.Context, hash plumbing.Hash, dir string) error {
	entries, err := w.repo.entries(hash)
	if err != nil {
		return fmt.Errorf("%w: reading directory %q: %w", ErrUnreachable, dir, err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := path.Join(dir, e.Name)
		if e.Name == "" || e.Name == "." || e.Name == ".." || strings.EqualFold(e.Name, ".git") || strings.ContainsAny(e.Name, "/\x00") {
			return fmt.Errorf("%w: %q is not a name for a file", ErrUnsafe, name)
		}
		if w.files--; w.files < 0 {
			return fmt.Errorf("%w: it has more than %d files", ErrUnsafe, w.repo.limits.files)
		}
		if err := w.entry(ctx, e, name); err != nil {
			return err
		}
	}
	return nil
}

// entries are those of a directory, in the order of their names.
func (r *Repository) entries(hash plumbing.Hash) ([]object.TreeEntry, error) {
	if entries, ok := r.trees[hash]; ok {
		return entries, nil
	}
	t, err := object.GetTree(r.store, hash)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(t.Entries, func(a, b object.TreeEntry) int { return strings.Compare(a.Name, b.Name) })
	r.trees[hash] = t.Entries
	return t.Entries, nil
}

func (w *writer) entry(ctx context.Context, e object.TreeEntry, name string) error {
	if w.later != nil {
		if err := w.later(e, name); err != nil || e.Mode.IsFile() && e.Mode != filemode.Symlink {
			return err
		}
	}
	switch e.Mode {
	case filemode.Dir:
		if w.later == nil {
			if err := w.root.Mkdir(name, 0o755); err != nil {
				return err
			}
		}
		return w.tree(ctx, e.Hash, name)
	case filemode.Regular, filemode.Deprecated:
		return w.file(w.repo.store, e.Hash, name, 0o644)
	case filemode.Executable:
		return w.file(w.repo.store, e.Hash, name, 0o755)
	case filemode.Symlink:
		return w.link(e.Hash, name)
	case filemode.Submodule:
		if w.isInside(name) {
			return fmt.Errorf("%w: %q is a submodule: its files are in another repository", ErrUnsafe, name)
		}
		return w.root.Mkdir(name, 0o755)
	}
	return fmt.Errorf("%w: %q has the unknown mode %s", ErrUnsafe, name, e.Mode)
}

func (w *writer) file(store storer.EncodedObjectStorer, hash plumbing.Hash, name string, mode os.FileMode) (err error) {
	blob, err := object.GetBlob(store, hash)
	if err != nil {
		return fmt.Errorf("%w: reading %q: %w", ErrUnreachable, name, err)
	}
	if w.bytes -= blob.Size; w.bytes < 0 {
		return fmt.Errorf("%w: its files have more than %d bytes", ErrUnsafe, w.repo.limits.tree)
	}
	in, err := blob.Reader()
	if err != nil {
		return fmt.Errorf("%w: reading %q: %w", ErrUnreachable, name, err)
	}
	defer in.Close()
	out, err := w.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	n, err := io.Copy(out, io.LimitReader(in, blob.Size+1))
	if err == nil && n != blob.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("%w: copying %q: %w", ErrUnreachable, name, err)
	}
	return nil
}

func (w *writer) link(hash plumbing.Hash, name string) error {
	blob, err := object.GetBlob(w.repo.store, hash)
	if err != nil {
		return fmt.Errorf("%w: reading %q: %w", ErrUnreachable, name, err)
	}
	in, err := blob.Reader()
	if err != nil {
		return fmt.Errorf("%w: reading %q: %w", ErrUnreachable, name, err)
	}
	defer in.Close()
	target, err := io.ReadAll(io.LimitReader(in, maxLink))
	if err != nil {
		return fmt.Errorf("%w: reading %q: %w", ErrUnreachable, name, err)
	}
	w.links = append(w.links, name)
	return w.root.Symlink(string(target), name)
}

// checkLinks follows every link once all files are there: only then it shows where a link over other links ends.
func (w *writer) checkLinks() error {
	for _, name := range w.links {
		_, err := w.root.Stat(name)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if w.isInside(name) {
			return fmt.Errorf("%w: the link %q leaves the repository or leads nowhere: %w", ErrUnsafe, name, err)
		}
		if err := w.root.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) isInside(name string) bool {
	return !w.lenient && (w.inside == "." || name == w.inside || strings.HasPrefix(name, w.inside+"/"))
}
