package git

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"

	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// Files are those of a commit of a local repository, for looking at them in a directory, where they are when they are brought. Unlike in
// what Materialise writes, submodules and links out of the repository are left out.
type Files struct {
	commit, url string
	writer      *writer
	// names are the regular files, hashes those of their contents.
	names  []string
	hashes map[string]string
	// others are what is no regular file; true for directories that are made.
	others map[string]bool
	// brought are files that are made, too.
	brought map[string]bool
	// making guards brought and others.
	making sync.Mutex
}

// Files prepares the files of a commit in the empty directory dir. Where the commit has links they are all brought at once, since only
// then it shows where a link leads. Close must be called.
func (r *Repository) Files(ctx context.Context, commit, dir string) (*Files, error) {
	at, err := r.parse(ctx, commit)
	if err != nil {
		return nil, fmt.Errorf("writing out commit %s of %q: %w", revision.Short(commit), r.url, err)
	}
	f := &Files{commit: commit, url: r.url, hashes: map[string]string{}, others: map[string]bool{".": true}, brought: map[string]bool{}}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return nil, f.explain(errors.Join(errNotEmpty, err))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, f.explain(err)
	}
	f.writer = &writer{repo: r, root: root, lenient: true, bytes: r.limits.tree, files: r.limits.files, later: f.note}
	err = f.writer.tree(ctx, at.TreeHash, ".")
	if err == nil && len(f.writer.links) > 0 {
		if err = f.bring(f.names); err == nil {
			err = f.writer.checkLinks()
		}
	}
	if err != nil {
		return nil, f.explain(errors.Join(err, root.Close()))
	}
	return f, nil
}

func (f *Files) note(e object.TreeEntry, name string) error {
	_, other := f.others[name]
	if _, file := f.hashes[name]; file || other {
		return fmt.Errorf("%w: it has %q twice", ErrUnsafe, name)
	}
	switch {
	case e.Mode == filemode.Dir:
		f.others[name] = false
	case e.Mode.IsFile() && e.Mode != filemode.Symlink:
		f.names = append(f.names, name)
		f.hashes[name] = e.Hash.String()
	default: // is written at once
		f.others[name] = true
		return f.make(path.Dir(name))
	}
	return nil
}

// make makes a directory.
func (f *Files) make(dir string) error {
	if f.others[dir] {
		return nil
	}
	f.others[dir] = true
	return f.writer.root.MkdirAll(dir, 0o755)
}

// Dir makes a directory of the commit, even if nothing in it is brought. What the commit has not is left out.
func (f *Files) Dir(name string) error {
	f.making.Lock()
	defer f.making.Unlock()
	if _, ok := f.others[name]; !ok {
		return nil
	}
	if err := f.make(name); err != nil {
		return f.explain(err)
	}
	return nil
}

// Names are the paths of all regular files, with slashes, in the order in which filepath.WalkDir finds them in a directory.
func (f *Files) Names() []string { return f.names }

// Hashes are those of the contents of all regular files by their paths, with slashes, as BlobHash computes them.
func (f *Files) Hashes() map[string]string { return f.hashes }

// Read gives the first bytes of a file, at most so many, whether it was brought or not; fs.ErrNotExist if the commit has none.
func (f *Files) Read(name string, most int64) ([]byte, error) {
	hash, ok := f.hashes[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	var data bytes.Buffer
	err := f.writer.repo.store.beside(func(store storer.EncodedObjectStorer) error {
		blob, err := object.GetBlob(store, plumbing.NewHash(hash))
		if err != nil {
			return err
		}
		in, err := blob.Reader()
		if err != nil {
			return err
		}
		defer in.Close()
		data.Grow(int(max(0, min(blob.Size, most))) + bytes.MinRead)
		_, err = data.ReadFrom(io.LimitReader(in, most))
		return err
	})
	if err != nil {
		return nil, f.explain(fmt.Errorf("%w: reading %q: %w", ErrUnreachable, name, err))
	}
	return data.Bytes(), nil
}

// Bring writes out files that are not yet there. What the commit has not is left out.
func (f *Files) Bring(names ...string) error {
	if err := f.bring(names); err != nil {
		return f.explain(err)
	}
	return nil
}

func (f *Files) bring(names []string) error {
	f.making.Lock()
	defer f.making.Unlock()
	for _, name := range names {
		hash, ok := f.hashes[name]
		if !ok || f.brought[name] {
			continue
		}
		err := f.make(path.Dir(name))
		if err == nil {
			err = f.writer.repo.store.beside(func(store storer.EncodedObjectStorer) error {
				return f.writer.file(store, plumbing.NewHash(hash), name, 0o644)
			})
		}
		if err != nil {
			return err
		}
		f.brought[name] = true
	}
	return nil
}

func (f *Files) explain(err error) error {
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		err = fmt.Errorf("%w: a partial clone lacks it: clone without --filter, and without sparse-checkout", err)
	}
	return fmt.Errorf("writing out commit %s of %q: %w", revision.Short(f.commit), f.url, err)
}

// Whole says that all files are there, as those of a commit with links are.
func (f *Files) Whole() bool {
	f.making.Lock()
	defer f.making.Unlock()
	return len(f.brought) == len(f.hashes)
}

// Close ends the writing. The directory stays.
func (f *Files) Close() error { return f.writer.root.Close() }

// BlobHash computes Git's hash of a file of so many bytes, which are to be written to it.
func BlobHash(size int64) hash.Hash {
	return plumbing.NewHasher(plumbing.BlobObject, size).Hash
}
