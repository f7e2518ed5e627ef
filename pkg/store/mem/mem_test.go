package mem_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return mem.New() })
}

func TestFaults(t *testing.T) {
	s := mem.New()
	for _, name := range []string{"a", "b", "c"} {
		if err := s.Put(t.Context(), name, []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	fault := mem.Fault{}
	s.SetFaults(func(mem.Op, string) mem.Fault { return fault })

	fault = mem.Fault{Err: store.ErrUnavailable}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) {
		t.Errorf("failing Stat: %v", err)
	}

	fault = mem.Fault{Err: store.ErrUnavailable, Keep: 2}
	if n, err := count(s); n != 2 || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("failing List: %d objects, %v", n, err)
	}
	fault = mem.Fault{Cut: true, Keep: 1}
	if n, err := count(s); n != 1 || err != nil {
		t.Errorf("lying List: %d objects, %v", n, err)
	}

	fault = mem.Fault{Corrupt: func(b []byte) []byte { return append(b, '!') }}
	if got, err := s.Get(t.Context(), "a", 0, -1); string(got) != "a!" || err != nil {
		t.Errorf("corrupt Get: %q, %v", got, err)
	}

	fault = mem.Fault{Lose: true}
	if err := s.Put(t.Context(), "lost", nil); err != nil {
		t.Errorf("losing Put: %v", err)
	}

	fault = mem.Fault{Delay: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if _, err := s.Get(ctx, "a", 0, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("delayed Get: %v", err)
	}

	s.SetFaults(nil)
	if _, err := s.Stat(t.Context(), "lost"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("lost object: %v", err)
	}
}

func count(s store.Store) (n int, err error) {
	for _, err := range s.List(context.Background(), "") {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}
