// Package fs is a store in a directory, on a local disk or on NFS. The filesystem must support hard links.
//
// An object is written to a private file in the directory .staging, synced, and linked into place, so that it appears whole
// or not at all, and never replaces another. What writers that died left in .staging is never listed, and is removed a day later
// by whoever writes next.
package fs

import (
	"cmp"
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
	"sync"
	"syscall"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// staging holds objects while they are written. CheckName refuses names with a leading dot, so it never clashes.
const staging = ".staging"

// leftoverAge is longer than any Put takes.
const leftoverAge = 24 * time.Hour

// Store is a store.Store in a directory. Each object is one file below it, which its owner can use, and its group where the
// directory itself is open to its group: several users share a store by a group and the set-group-id bit.
type Store struct {
	// root pins the directory: should another filesystem be mounted over it, or it be unmounted, this store does not
	// mistake the new directory for its own, emptied.
	root *os.Root
	dir  string
	// mode is that of every directory in the store; files have its reading and writing bits.
	mode iofs.FileMode

	mu      sync.Mutex
	durable map[string]bool // directories that are known to be on the disk
	swept   bool            // .staging was looked through for leftovers
}

var _ store.Store = (*Store)(nil)

// Create opens the store in dir like Open, and first makes it if it does not exist or is empty.
func Create(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, unavailable(fmt.Errorf("creating store directory: %w", err))
	}
	if err := syncPath(filepath.Dir(filepath.Clean(dir))); err != nil {
		return nil, unavailable(fmt.Errorf("creating store directory: %w", err))
	}
	s, err := open(dir)
	if err != nil {
		return nil, err
	}
	if err := s.makeDirs(staging); err != nil {
		return nil, errors.Join(unavailable(fmt.Errorf("creating store directory: %w", err)), s.root.Close())
	}
	return s, nil
}

// Open opens the store in an existing directory. One that is not there, or has nothing in it, gives store.ErrUnavailable,
// because a filesystem that is not mounted must not look like an empty store.
func Open(dir string) (*Store, error) {
	s, err := open(dir)
	if err != nil {
		return nil, err
	}
	f, err := s.root.Open(".")
	if err == nil {
		_, err = f.ReadDir(1)
		err = errors.Join(err, f.Close())
	}
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%q is empty: its filesystem may not be mounted", dir)
	}
	if err != nil {
		return nil, errors.Join(unavailable(fmt.Errorf("opening store directory: %w", err)), s.root.Close())
	}
	return s, nil
}

func open(dir string) (*Store, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, unavailable(fmt.Errorf("opening store directory: %w", err))
	}
	info, err := root.Stat(".")
	if err != nil {
		return nil, errors.Join(unavailable(fmt.Errorf("opening store directory: %w", err)), root.Close())
	}
	return &Store{root: root, dir: dir, mode: 0o700 | info.Mode()&(0o070|iofs.ModeSetgid), durable: map[string]bool{".": true}}, nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := check(ctx, name); err != nil {
		return err
	}
	err := s.put(name, data)
	if errors.Is(err, iofs.ErrNotExist) && s.alive() {
		s.forgetDirs() // somebody removed one
		err = s.put(name, data)
	}
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
	dirs := make(chan error, 1)
	go func() { dirs <- s.makeDirs(path.Dir(name)) }() // the disk writes the names of directories while it writes the data
	err = s.writeFile(private, data)
	if err := cmp.Or(err, <-dirs); err != nil {
		return err
	}
	s.sweep(private)
	if err := s.link(private, name); err != nil {
		return err
	}
	return s.syncDir(path.Dir(name))
}

// link gives the private file its name, unless that is taken. An NFS client whose first request succeeded but whose answer was
// lost repeats the request and reports "exists" for its own link.
func (s *Store) link(private, name string) error {
	err := s.root.Link(private, name)
	if errors.Is(err, iofs.ErrExist) && s.same(private, name) {
		return nil
	}
	return err
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

// same tells whether two names are of one file.
func (s *Store) same(private, name string) bool {
	a, errA := s.root.Lstat(private)
	b, errB := s.root.Lstat(name)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// makeDirs makes dir and its parents and has them reach the disk, also those that another writer made but may not have
// synced yet.
func (s *Store) makeDirs(dir string) error {
	s.mu.Lock()
	durable := s.durable[dir]
	s.mu.Unlock()
	if durable {
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
	if err := s.syncDir(path.Dir(dir)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable[dir] = true
	return nil
}

func (s *Store) forgetDirs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = map[string]bool{".": true}
}

// sweep removes what writers that died have left, once. The age of a file is told by the filesystem's own clock: that of fresh.
// It is no matter if it fails: the next writer tries again, and what is left only takes space.
func (s *Store) sweep(fresh string) {
	s.mu.Lock()
	swept := s.swept
	s.swept = true
	s.mu.Unlock()
	now, err := s.root.Lstat(fresh)
	if swept || err != nil {
		return
	}
	entries, err := iofs.ReadDir(s.root.FS(), staging)
	if err != nil {
		return
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() && now.ModTime().Sub(info.ModTime()) > leftoverAge {
			_ = s.root.Remove(path.Join(staging, entry.Name()))
		}
	}
}

func (s *Store) syncDir(dir string) error {
	f, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(syncDirectory(f), f.Close())
}

func syncPath(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(syncDirectory(f), f.Close())
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
		err := l.below(prefix)
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

// below lists from the directory that the prefix names, so that what lies beside it costs nothing.
func (l *lister) below(prefix string) error {
	dir := "."
	if end := strings.LastIndexByte(prefix, '/'); end >= 0 {
		dir = prefix[:end]
		if store.CheckName(dir) != nil {
			return nil // no object has such a name
		}
	}
	switch info, err := l.store.root.Lstat(dir); {
	case errors.Is(err, iofs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), err == nil && !info.IsDir():
		return nil // nothing is there, if the store is
	case err != nil:
		return err
	}
	return l.dir(dir)
}

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
	info, err := s.root.Lstat(name)
	if err == nil && info.IsDir() {
		return nil // no object has that name
	}
	if err == nil {
		err = s.root.Remove(name)
	}
	if err == nil {
		err = s.syncDir(path.Dir(name))
	}
	if err == nil {
		return nil
	}
	err = s.classify(fmt.Errorf("deleting %q in %q: %w", name, s.dir, err))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
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
	return err == nil && linked(info)
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
