package testenv

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// ErrDead is what a controller gets from then on that has died. It must not matter what it makes of it.
var ErrDead = errors.New("the controller is dead")

// Mortal is a controller's way to the world. It dies when one of its writes was carried out, before it hears of that, which for the world is
// the same as before the next one. The zero value never dies.
type Mortal struct {
	// At is the write to die at, counted from 1.
	At int
	// Counts says which writes count; nil: every one does.
	Counts func(what string) bool

	mu     sync.Mutex
	dead   bool
	writes []string
}

// Dead says whether it has died.
func (m *Mortal) Dead() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dead
}

// Writes are those that counted so far, with the one that it died at.
func (m *Mortal) Writes() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

func (m *Mortal) write(what string, do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return ErrDead
	}
	if m.Counts != nil && !m.Counts(what) {
		return do()
	}
	m.writes = append(m.writes, what)
	if len(m.writes) != m.At {
		return do()
	}
	m.dead = true
	if err := do(); err != nil {
		return err
	}
	return ErrDead
}

func (m *Mortal) read(do func() error) error {
	if m.Dead() {
		return ErrDead
	}
	return do()
}

// Client is a way to the API server. Writes of other kinds than controllers make go past it.
func (m *Mortal) Client(inner client.WithWatch) client.WithWatch {
	return interceptor.NewClient(inner, interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			return m.read(func() error { return c.Get(ctx, key, o, opts...) })
		},
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
			return m.read(func() error { return c.List(ctx, l, opts...) })
		},
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			return m.write(fmt.Sprintf("create %T %s", o, o.GetName()), func() error { return c.Create(ctx, o, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			return m.write(fmt.Sprintf("patch %T %s", o, o.GetName()), func() error { return c.Patch(ctx, o, p, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			return m.write(fmt.Sprintf("delete %T %s", o, o.GetName()), func() error { return c.Delete(ctx, o, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return m.write(fmt.Sprintf("patch status of %T %s", o, o.GetName()), func() error { return c.SubResource(sub).Patch(ctx, o, p, opts...) })
		},
	})
}

// Store is a way to a store.
func (m *Mortal) Store(inner store.Store) store.Store { return mortalStore{inner, m} }

type mortalStore struct {
	store.Store
	m *Mortal
}

func (s mortalStore) Put(ctx context.Context, name string, data []byte) error {
	return s.m.write("put "+name, func() error { return s.Store.Put(ctx, name, data) })
}

func (s mortalStore) Delete(ctx context.Context, name string) error {
	return s.m.write("delete "+name, func() error { return s.Store.Delete(ctx, name) })
}

func (s mortalStore) Get(ctx context.Context, name string, off, length int64) (data []byte, err error) {
	err = s.m.read(func() error { data, err = s.Store.Get(ctx, name, off, length); return err })
	return data, err
}

func (s mortalStore) Stat(ctx context.Context, name string) (info store.Info, err error) {
	err = s.m.read(func() error { info, err = s.Store.Stat(ctx, name); return err })
	return info, err
}

func (s mortalStore) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	if s.m.Dead() {
		return func(yield func(store.Info, error) bool) { yield(store.Info{}, ErrDead) }
	}
	return s.Store.List(ctx, prefix)
}

// Deaths gives rounds a controller that dies after its first write, after its second one, and so on until one outlives its round, which
// is the last. What a round finds wrong ends it.
func Deaths(t *testing.T, round func(t *testing.T, m *Mortal)) {
	t.Helper()
	for n := 1; ; n++ {
		m := &Mortal{At: n}
		ok := t.Run(fmt.Sprintf("write %d", n), func(t *testing.T) {
			round(t, m)
			if t.Failed() && m.Dead() {
				t.Logf("it died at: %s", m.Writes()[n-1])
			}
		})
		switch {
		case !ok:
			return
		case !m.Dead():
			t.Logf("killed after each of %d writes: %q", n-1, m.Writes())
			return
		}
	}
}
