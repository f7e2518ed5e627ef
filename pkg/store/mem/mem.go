// Package mem is a store in memory, for tests. To have it misbehave as real stores do, see storetest.Memory.
package mem

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// Store is a store.Store in memory.
type Store struct {
	mu      sync.Mutex
	objects map[string]object
	now     func() time.Time
	keep    time.Duration
}

type object struct {
	data     []byte
	modified time.Time
	locked   time.Time // until then
}

var _ store.Locker = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{objects: map[string]object{}, now: time.Now} }

// SetClock makes now the clock that Info.Modified comes from. It must be safe to call from several goroutines.
func (s *Store) SetClock(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// Names returns the names of all objects, sorted.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// Overwrite replaces or creates an object, which nothing does through the interface.
func (s *Store) Overwrite(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[name] = object{data: slices.Clone(data), modified: s.now()}
}

// check refuses what every operation on an object refuses.
func check(ctx context.Context, op, name string) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	return alive(ctx, op, name)
}

func alive(ctx context.Context, op, name string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %q: %w", op, name, err)
	}
	return nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	return s.put(ctx, name, data, true)
}

func (s *Store) put(ctx context.Context, name string, data []byte, lock bool) error {
	if err := check(ctx, "put", name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.objects[name]; taken {
		return fmt.Errorf("put %q: %w", name, store.ErrExists)
	}
	o := object{data: slices.Clone(data), modified: s.now()}
	if lock && s.keep > 0 {
		o.locked = o.modified.Add(s.keep + store.LockSpare(s.keep))
	}
	s.objects[name] = o
	return nil
}

func (s *Store) object(op, name string) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o, found := s.objects[name]
	if !found {
		return o, fmt.Errorf("%s %q: %w", op, name, store.ErrNotFound)
	}
	return o, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if err := check(ctx, "get", name); err != nil {
		return nil, err
	}
	if err := store.CheckRange(name, off); err != nil {
		return nil, err
	}
	o, err := s.object("get", name)
	if err != nil {
		return nil, err
	}
	size := int64(len(o.data))
	if off > size || off > 0 && off == size && length < 0 || length > size-off {
		return nil, fmt.Errorf("get %q: %w", name, io.ErrUnexpectedEOF)
	}
	if length < 0 {
		length = size - off
	}
	return slices.Clone(o.data[off : off+length]), nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := check(ctx, "stat", name); err != nil {
		return store.Info{}, err
	}
	o, err := s.object("stat", name)
	if err != nil {
		return store.Info{}, err
	}
	return store.Info{Name: name, Size: int64(len(o.data)), Modified: o.modified}, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		for _, info := range s.snapshot(prefix) {
			if alive(ctx, "list", prefix) != nil {
				break
			}
			if !yield(info, nil) {
				return
			}
		}
		if err := alive(ctx, "list", prefix); err != nil {
			yield(store.Info{}, err)
		}
	}
}

func (s *Store) snapshot(prefix string) []store.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var infos []store.Info
	for name, o := range s.objects {
		if strings.HasPrefix(name, prefix) {
			infos = append(infos, store.Info{Name: name, Size: int64(len(o.data)), Modified: o.modified})
		}
	}
	slices.SortFunc(infos, func(a, b store.Info) int { return strings.Compare(a.Name, b.Name) })
	return infos
}

// Delete implements store.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := check(ctx, "delete", name); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[name].locked.After(s.now()) {
		return fmt.Errorf("delete %q: %w", name, store.ErrLocked)
	}
	delete(s.objects, name)
	return nil
}
