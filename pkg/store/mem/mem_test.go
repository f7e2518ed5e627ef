package mem_test

import (
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return mem.New() })
}

func TestLocks(t *testing.T) {
	storetest.RunLocks(t, time.Hour, func(*testing.T) store.Locker {
		s := mem.New()
		s.SetRetention(time.Hour)
		return s
	})
}

func TestClock(t *testing.T) {
	s := mem.New()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.SetClock(func() time.Time { return now })
	if err := s.Put(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	now = now.Add(-time.Hour)
	s.Overwrite("b", nil)
	for name, want := range map[string]time.Time{"a": now.Add(time.Hour), "b": now} {
		if info, err := s.Stat(t.Context(), name); err != nil || !info.Modified.Equal(want) {
			t.Errorf("%s was written at %v, %v; want %v", name, info.Modified, err, want)
		}
	}
}
