// Package mem is a store in memory, for tests. It can be told to misbehave as real stores do.
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

// Op names an operation of store.Store.
type Op string

// The operations, as passed to Faults.
const (
	Put    Op = "put"
	Get    Op = "get"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
)

// Fault says how one operation goes wrong. The zero Fault is none.
type Fault struct {
	// Delay passes before the operation, or until the context ends.
	Delay time.Duration
	// Err is returned instead of doing the operation; a List returns it after Keep objects.
	Err error
	// Keep and Cut shorten a listing to its first Keep objects, sorted by name. Without Err the listing then claims to be
	// complete, which a correct store never does.
	Keep int
	Cut  bool
	// Lose makes a Put report success and store nothing.
	Lose bool
	// Corrupt replaces the data that a Get returns or a Put stores. It may change its argument.
	Corrupt func([]byte) []byte
}

// Faults decides how an operation on name (for List, the prefix) goes wrong. It may be called from several goroutines at once.
type Faults func(op Op, name string) Fault

// Store is a store.Store in memory.
type Store struct {
	mu      sync.Mutex
	objects map[string]object
	faults  Faults
}

type object struct {
	data     []byte
	modified time.Time
}

var _ store.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store { return &Store{objects: map[string]object{}} }

// SetFaults makes every following operation ask f; nil ends all faults.
func (s *Store) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// Names returns the names of all objects, sorted, whatever the faults.
func (s *Store) Names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// Overwrite replaces or creates an object, which nothing does through the interface.
func (s *Store) Overwrite(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[name] = object{slices.Clone(data), time.Now()}
}

// fault applies what all operations share, and returns the rest.
func (s *Store) fault(ctx context.Context, op Op, name string) (Fault, error) {
	s.mu.Lock()
	faults := s.faults
	s.mu.Unlock()
	var f Fault
	if faults != nil {
		f = faults(op, name)
	}
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return f, fmt.Errorf("%s %q: %w", op, name, err)
	}
	if f.Err != nil && op != List {
		return f, fmt.Errorf("%s %q: %w", op, name, f.Err)
	}
	return f, nil
}

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	f, err := s.fault(ctx, Put, name)
	if err != nil || f.Lose {
		return err
	}
	data = slices.Clone(data)
	if f.Corrupt != nil {
		data = f.Corrupt(data)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.objects[name]; taken {
		return fmt.Errorf("put %q: %w", name, store.ErrExists)
	}
	s.objects[name] = object{data, time.Now()}
	return nil
}

func (s *Store) object(op Op, name string) (object, error) {
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
	if err := store.CheckName(name); err != nil {
		return nil, err
	}
	if err := store.CheckRange(name, off); err != nil {
		return nil, err
	}
	f, err := s.fault(ctx, Get, name)
	if err != nil {
		return nil, err
	}
	o, err := s.object(Get, name)
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
	data := slices.Clone(o.data[off : off+length])
	if f.Corrupt != nil {
		data = f.Corrupt(data)
	}
	return data, nil
}

// Stat implements store.Store.
func (s *Store) Stat(ctx context.Context, name string) (store.Info, error) {
	if err := store.CheckName(name); err != nil {
		return store.Info{}, err
	}
	if _, err := s.fault(ctx, Stat, name); err != nil {
		return store.Info{}, err
	}
	o, err := s.object(Stat, name)
	if err != nil {
		return store.Info{}, err
	}
	return store.Info{Name: name, Size: int64(len(o.data)), Modified: o.modified}, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		f, err := s.fault(ctx, List, prefix)
		if err != nil {
			yield(store.Info{}, err)
			return
		}
		infos := s.snapshot(prefix)
		if f.Err != nil || f.Cut {
			infos = infos[:min(f.Keep, len(infos))]
		}
		for _, info := range infos {
			if err := ctx.Err(); err != nil {
				yield(store.Info{}, fmt.Errorf("list %q: %w", prefix, err))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
		if f.Err != nil {
			yield(store.Info{}, fmt.Errorf("list %q: %w", prefix, f.Err))
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
	if err := store.CheckName(name); err != nil {
		return err
	}
	f, err := s.fault(ctx, Delete, name)
	if err != nil || f.Lose {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
	return nil
}
