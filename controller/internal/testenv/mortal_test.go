package testenv_test

import (
	"errors"
	"testing"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

// TestTheDeadAreDead: the write that it dies at is carried out, and none after it; nothing is read any more.
func TestTheDeadAreDead(t *testing.T) {
	world := storetest.NewMemory()
	m := &testenv.Mortal{At: 2}
	s := m.Store(world)
	if err := s.Put(t.Context(), "one", nil); err != nil || m.Dead() {
		t.Error(err)
	}
	if err := s.Put(t.Context(), "two", nil); !errors.Is(err, testenv.ErrDead) || !m.Dead() {
		t.Error(err)
	}
	if err := s.Delete(t.Context(), "one"); !errors.Is(err, testenv.ErrDead) {
		t.Error(err)
	}
	for _, name := range []string{"one", "two"} {
		if _, err := world.Stat(t.Context(), name); err != nil {
			t.Error(err)
		}
		if _, err := s.Stat(t.Context(), name); !errors.Is(err, testenv.ErrDead) {
			t.Error(err)
		}
	}
	for _, err := range s.List(t.Context(), "") {
		if !errors.Is(err, testenv.ErrDead) {
			t.Error(err)
		}
	}
	if len(m.Writes()) != 2 {
		t.Errorf("%q", m.Writes())
	}
}
