// Package cached keeps copies of small objects in a directory, so that a store far away is asked for each once.
//
// Copies are the objects as the store has them: sealed ones stay sealed. The directory may vanish, be emptied or filled with garbage at
// any time, and several processes may share it: in the place of a copy that is not as it was written the store is read.
package cached

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	iofs "io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	// maxObject is the size of the largest object that is kept, in bytes.
	maxObject = 64 << 20
	// maxListed bounds how many listed objects are remembered.
	maxListed = 1 << 20
	// stale is when a file that was never finished counts as left by a process that died.
	stale = time.Hour
)

// Store is a store.Store that keeps copies of what is read whole from another one.
type Store struct {
	store.Store
	dir    string
	prefix []string
	limit  int64

	mu   sync.Mutex
	size int64 // about what the directory holds; -1: not known yet
	// listed has the sizes of objects that a listing showed and that were not read since.
	listed map[string]int64
}

var _ store.Store = (*Store)(nil)

// New returns a store that passes everything on to s, but may answer a Get of a whole object whose name begins with one of the
// prefixes from dir. Such objects must never change. A copy answers only if a listing, for which the store is always asked, showed
// the object since it was last read: so what was deleted is not found, and to list and then read many is cheap. The copies together
// take about limit bytes at most; those not used for longest go first.
//
// Dir must be the store's own, and nobody else's to write to. It is made when there is something to keep.
func New(s store.Store, dir string, limit int64, prefixes ...string) *Store {
	return &Store{Store: s, dir: dir, prefix: prefixes, limit: limit, size: -1, listed: map[string]int64{}}
}

// Uncached returns the store behind the cache, for who wants to know what it really holds.
func (s *Store) Uncached() store.Store { return s.Store }

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if off != 0 || !s.keeps(name) || ctx.Err() != nil {
		return s.Store.Get(ctx, name, off, length)
	}
	size, listed := s.take(name)
	if listed && (length < 0 || length == size) {
		if data := s.read(name, size); data != nil {
			return data, nil
		}
	}
	data, err := s.Store.Get(ctx, name, off, length)
	if whole := length < 0 || listed && length == size; err == nil && whole {
		s.write(name, data)
	}
	return data, err
}

// take returns the size of an object that a listing showed, once.
func (s *Store) take(name string) (size int64, listed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, listed = s.listed[name]
	delete(s.listed, name)
	return size, listed
}

// List implements store.Store. It always asks the store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		for info, err := range s.Store.List(ctx, prefix) {
			if err == nil && s.keeps(info.Name) {
				s.note(info)
			}
			if !yield(info, err) {
				return
			}
		}
	}
}

func (s *Store) note(info store.Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.listed) >= maxListed {
		clear(s.listed)
	}
	s.listed[info.Name] = info.Size
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := s.Store.Delete(ctx, name)
	if err == nil && s.keeps(name) {
		s.take(name)
		s.remove(s.path(name))
	}
	return err
}

func (s *Store) keeps(name string) bool {
	return slices.ContainsFunc(s.prefix, func(p string) bool { return strings.HasPrefix(name, p) })
}

// path is where the copy of an object is. The hash makes one flat directory of any names.
func (s *Store) path(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(s.dir, base64.RawURLEncoding.EncodeToString(sum[:]))
}

// sum is what a copy ends with: it binds the object to its name.
func sum(name string, data []byte) []byte {
	h := sha256.New()
	h.Write([]byte(name))
	h.Write([]byte{0})
	h.Write(data)
	return h.Sum(nil)
}

// read returns a copy of the given size, or nil if there is no good one.
func (s *Store) read(name string, size int64) []byte {
	path := s.path(name)
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != size+sha256.Size {
		return nil
	}
	file, err := os.ReadFile(path)
	if err != nil || int64(len(file)) != size+sha256.Size {
		return nil
	}
	data, end := file[:size], file[size:]
	if !bytes.Equal(end, sum(name, data)) {
		s.remove(path)
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // only for the order in which copies go
	return slices.Clip(data)
}

// write keeps a copy. That it cannot is no error: the cache is nobody's only source.
func (s *Store) write(name string, data []byte) {
	if len(data) > maxObject || int64(len(data)) > s.limit/4 {
		return
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return
	}
	private := filepath.Join(s.dir, "."+rand.Text())
	if err := os.WriteFile(private, append(slices.Clip(data), sum(name, data)...), 0o600); err != nil {
		s.remove(private)
		return
	}
	if err := os.Rename(private, s.path(name)); err != nil {
		s.remove(private)
		return
	}
	s.grow(int64(len(data) + sha256.Size))
}

// grow counts a copy, and has the oldest go once there is too much.
func (s *Store) grow(by int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size >= 0 {
		s.size += by
	}
	if s.size >= 0 && s.size <= s.limit {
		return
	}
	s.size = s.shrink()
}

// shrink removes copies, those first that were not used for longest, until a quarter of the room is free, if there are too
// many, and returns the size of what is left. Others may do the same at the same time.
func (s *Store) shrink() int64 {
	files, total := s.files()
	if total <= s.limit {
		return total
	}
	slices.SortFunc(files, func(a, b iofs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, f := range files {
		if total <= s.limit/4*3 {
			break
		}
		s.remove(filepath.Join(s.dir, f.Name()))
		total -= f.Size()
	}
	return total
}

// files returns the copies, and removes what processes that died left.
func (s *Store) files() (files []iofs.FileInfo, total int64) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, 0
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		if strings.HasPrefix(e.Name(), ".") && time.Since(info.ModTime()) > stale {
			s.remove(filepath.Join(s.dir, e.Name()))
			continue
		}
		files = append(files, info)
		total += info.Size()
	}
	return files, total
}

func (s *Store) remove(path string) {
	if err := os.Remove(path); err != nil && !errors.Is(err, iofs.ErrNotExist) {
		return // it will be tried again when there is too much
	}
}
