// Package fs is a store in a directory, on a local disk or on NFS. The filesystem must support hard links.
package fs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// staging holds objects while they are written. CheckName refuses names with a leading dot, so it never clashes.
const staging = ".staging"

// Store is a store.Store in a directory. Each object is one file below it, which its owner can use, and its group where the
// directory itself is open to its group: several users share a store by a group and the set-group-id bit.
type Store struct {
	// root pins the directory: should another filesystem be mounted over it, or it be unmounted, this store does not
	// mistake the new directory for its own, emptied.
	root *os.Root
	dir  string
	// mode is that of every directory in the store; files have its reading and writing bits.
	mode iofs.FileMode
}

var _ store.Store = (*Store)(nil)

// Create opens the store in dir like Open, and first makes the directory if it does not exist.
func Create(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unavailable(fmt.Errorf("creating store directory: %w", err))
	}
	if err := syncPath(filepath.Dir(filepath.Clean(dir))); err != nil {
		return nil, unavailable(fmt.Errorf("creating store directory: %w", err))
	}
	return Open(dir)
}

// Open opens the store in an existing directory. A directory that is not there gives store.ErrUnavailable, because a
// filesystem that is not mounted must not look like an empty store.
func Open(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, unavailable(fmt.Errorf("opening store directory: %w", err))
	}
	info, err := root.Stat(".")
	if err != nil {
		return nil, errors.Join(unavailable(fmt.Errorf("opening store directory: %w", err)), root.Close())
	}
	return &Store{root: root, dir: dir, mode: 0o700 | info.Mode()&(0o070|iofs.ModeSetgid)}, nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	err := s.put(name, data)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("storing %q in %q: %w", name, s.dir, err)
	if errors.Is(err, iofs.ErrExist) {
		return fmt.Errorf("%w: %w", store.ErrExists, err)
	}
	return unavailable(err)
}

// put writes a private file and links it into place: unlike a rename, a link never replaces what is there.
func (s *Store) put(name string, data []byte) (err error) {
	if err := s.makeDirs(staging); err != nil {
		return err
	}
	private := staging + "/" + rand.Text()
	defer func() {
		if rmErr := s.root.Remove(private); rmErr != nil && !errors.Is(rmErr, iofs.ErrNotExist) && err == nil {
			err = rmErr
		}
	}()
	if err := s.writeFile(private, data); err != nil {
		return err
	}
	if err := s.makeDirs(path.Dir(name)); err != nil {
		return err
	}
	if err := s.root.Link(private, name); err != nil && !s.linked(private, name) {
		return err
	}
	return s.syncDir(path.Dir(name))
}

func (s *Store) writeFile(name string, data []byte) error {
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(s.mode & 0o660) // whatever the umask says
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// linked tells whether name is the private file. An NFS client whose first request succeeded but whose answer was lost
// repeats the request and reports "exists" for its own link.
func (s *Store) linked(private, name string) bool {
	a, errA := s.root.Lstat(private)
	b, errB := s.root.Lstat(name)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// makeDirs makes dir and its parents and has them reach the disk.
func (s *Store) makeDirs(dir string) error {
	if dir == "." {
		return nil
	}
	if info, err := s.root.Lstat(dir); err == nil && info.IsDir() {
		return nil
	}
	if err := s.makeDirs(path.Dir(dir)); err != nil {
		return err
	}
	err := s.root.Mkdir(dir, 0o700)
	if err == nil {
		err = s.root.Chmod(dir, s.mode)
	}
	if err != nil && !errors.Is(err, iofs.ErrExist) {
		return err
	}
	return s.syncDir(path.Dir(dir))
}

func (s *Store) syncDir(dir string) error {
	f, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if err := check(ctx, name); err != nil {
		return nil, err
	}
	if err := store.CheckRange(name, off); err != nil {
		return nil, err
	}
	data, err := s.get(name, off, length)
	if err != nil {
		return nil, s.classify(fmt.Errorf("reading %q in %q: %w", name, s.dir, err))
	}
	return data, nil
}

func (s *Store) get(name string, off, length int64) ([]byte, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, iofs.ErrNotExist
	}
	if size := info.Size(); off > size || off > 0 && off == size && length < 0 || length > size-off {
		return nil, io.ErrUnexpectedEOF
	}
	if length < 0 {
		length = info.Size() - off
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(io.NewSectionReader(f, off, length), data); err != nil {
		return nil, err
	}
	return data, nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := check(ctx, name); err != nil {
		return store.Info{}, err
	}
	info, err := s.root.Lstat(name)
	if err == nil && info.IsDir() {
		err = iofs.ErrNotExist
	}
	if err != nil {
		return store.Info{}, s.classify(fmt.Errorf("examining %q in %q: %w", name, s.dir, err))
	}
	return store.Info{Name: name, Size: info.Size(), Modified: info.ModTime()}, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		l := lister{ctx: ctx, store: s, prefix: prefix, yield: yield}
		err := l.dir(".")
		if err == nil && !s.alive() {
			err = errGone
		}
		if err != nil && !errors.Is(err, errStop) {
			yield(store.Info{}, unavailable(fmt.Errorf("listing %q in %q: %w", prefix, s.dir, err)))
		}
	}
}

type lister struct {
	ctx    context.Context
	store  *Store
	prefix string
	yield  func(store.Info, error) bool
}

var (
	// errStop ends a listing whose consumer has seen enough.
	errStop = errors.New("stop")
	errGone = errors.New("the store directory was removed")
)

// dir lists one directory and those below it, as far as the prefix leads there.
func (l *lister) dir(dir string) error {
	f, err := l.store.root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, entry := range entries {
		if err := l.ctx.Err(); err != nil {
			return err
		}
		if err := l.entry(path.Join(dir, entry.Name()), entry); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) entry(name string, entry iofs.DirEntry) error {
	switch {
	case store.CheckName(name) != nil:
		return nil
	case entry.IsDir():
		if below := name + "/"; strings.HasPrefix(below, l.prefix) || strings.HasPrefix(l.prefix, below) {
			return l.dir(name)
		}
		return nil
	case !strings.HasPrefix(name, l.prefix):
		return nil
	}
	info, err := entry.Info()
	if errors.Is(err, iofs.ErrNotExist) {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	if !l.yield(store.Info{Name: name, Size: info.Size(), Modified: info.ModTime()}, nil) {
		return errStop
	}
	return nil
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	err := s.root.Remove(name)
	if err == nil {
		err = s.syncDir(path.Dir(name))
	}
	if err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return s.classify(fmt.Errorf("deleting %q in %q: %w", name, s.dir, err))
	}
	return nil
}

func check(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return store.CheckName(name)
}

// alive tells whether the directory still exists: a removed one answers like an empty one.
func (s *Store) alive() bool {
	info, err := s.root.Stat(".")
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink > 0
}

// classify adds the store's error that a system error about one object amounts to.
func (s *Store) classify(err error) error {
	switch {
	case errors.Is(err, iofs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		if !s.alive() {
			return fmt.Errorf("%w: %w: %w", store.ErrUnavailable, errGone, err)
		}
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return err
	}
	return unavailable(err)
}

// unavailable classifies what says nothing about a single object.
func unavailable(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, iofs.ErrPermission):
		return fmt.Errorf("%w: %w", store.ErrDenied, err)
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}
