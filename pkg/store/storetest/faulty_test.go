package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

const (
	put    = storetest.Put
	get    = storetest.Get
	stat   = storetest.Stat
	list   = storetest.List
	remove = storetest.Delete
)

// Without faults nothing differs from the store itself, and an object seen through a listing that lags is one it held.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return storetest.NewMemory() })
	storetest.Run(t, func(*testing.T) store.Store {
		return storetest.Only(mem.New(), put, get, stat, list, remove)
	})
}

// with returns a store with the objects a, b and c, which hold their names.
func TestLocks(t *testing.T) {
	storetest.RunLocks(t, time.Hour, func(*testing.T) store.Locker {
		s := storetest.NewMemory()
		s.SetRetention(time.Hour)
		return s
	})
}

func with(t *testing.T, f storetest.Faults) *storetest.Memory {
	t.Helper()
	s := storetest.NewMemory()
	for _, name := range []string{"a", "b", "c"} {
		must(t, s.Put(t.Context(), name, []byte(name)))
	}
	s.SetFaults(f)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// each does every operation once.
func each(ctx context.Context, s store.Store) map[storetest.Op]error {
	_, getErr := s.Get(ctx, "a", 0, -1)
	_, statErr := s.Stat(ctx, "a")
	_, listErr := listed(ctx, s)
	return map[storetest.Op]error{put: s.Put(ctx, "new", nil), get: getErr, stat: statErr, list: listErr, remove: s.Delete(ctx, "b")}
}

func listed(ctx context.Context, s store.Store) (names []string, err error) {
	for info, err := range s.List(ctx, "") {
		if err != nil {
			return names, err
		}
		names = append(names, info.Name)
	}
	slices.Sort(names)
	return names, nil
}

func wantNames(t *testing.T, what string, s *storetest.Memory, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, s.Names()); diff != "" {
		t.Errorf("%s: objects (-want +got):\n%s", what, diff)
	}
}

func TestErr(t *testing.T) {
	for _, want := range []error{store.ErrUnavailable, store.ErrDenied, store.ErrLocked, context.DeadlineExceeded} {
		s := with(t, storetest.On("", "", storetest.Fault{Err: want}))
		for op, err := range each(t.Context(), s) {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", op, err, want)
			}
		}
		wantNames(t, "nothing done", s, "a", "b", "c")
	}
}

func TestDoneButNotHeard(t *testing.T) {
	s := with(t, storetest.On("", "", storetest.Fault{Err: store.ErrUnavailable, Done: true}))
	for op, err := range each(t.Context(), s) {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: %v", op, err)
		}
	}
	wantNames(t, "all done", s, "a", "c", "new")
}

func TestLose(t *testing.T) {
	s := with(t, storetest.On("", "", storetest.Fault{Lose: true}))
	for op, err := range each(t.Context(), s) {
		if err != nil {
			t.Errorf("%s: %v", op, err)
		}
	}
	wantNames(t, "nothing done", s, "a", "b", "c")
}

// A request that its caller gave up reaches the store after what the caller did next.
func TestLate(t *testing.T) {
	s := with(t, storetest.On(put, "late", storetest.Fault{Err: context.DeadlineExceeded, Late: 2}))
	data := []byte("1")
	if err := s.Put(t.Context(), "late", data); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late Put: %v", err)
	}
	data[0] = '2'
	must(t, s.Put(t.Context(), "retried", nil))
	wantNames(t, "one operation later", s, "a", "b", "c", "retried")
	if got, err := s.Get(t.Context(), "late", 0, -1); err != nil || string(got) != "1" {
		t.Errorf("two operations later: %q, %v", got, err)
	}

	s.SetFaults(storetest.On(remove, "", storetest.Fault{Err: store.ErrUnavailable, Late: 100}))
	if err := s.Delete(t.Context(), "a"); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("late Delete: %v", err)
	}
	wantNames(t, "before delivery", s, "a", "b", "c", "late", "retried")
	if first, second := s.Deliver(), s.Deliver(); first != 1 || second != 0 {
		t.Errorf("delivered %d and %d requests, want 1 and 0", first, second)
	}
	wantNames(t, "after delivery", s, "b", "c", "late", "retried")
}

// A duplicate of a Put brings back what was deleted in between; to one that is there it does nothing.
func TestDuplicate(t *testing.T) {
	s := with(t, storetest.On(put, "", storetest.Fault{Late: 100}))
	must(t, s.Put(t.Context(), "x", []byte("1")))
	must(t, s.Delete(t.Context(), "x"))
	must(t, s.Put(t.Context(), "y", []byte("1")))
	s.Overwrite("y", []byte("other"))
	wantNames(t, "before delivery", s, "a", "b", "c", "y")
	s.Deliver()
	wantNames(t, "after delivery", s, "a", "b", "c", "x", "y")
	if got, err := s.Get(t.Context(), "y", 0, -1); err != nil || string(got) != "other" {
		t.Errorf("duplicate changed the object to %q, %v", got, err)
	}
}

func TestListings(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault storetest.Fault
		want  []string
		err   error
	}{
		{"none", storetest.Fault{}, []string{"a", "b", "c"}, nil},
		{"fails", storetest.Fault{Err: store.ErrUnavailable}, nil, store.ErrUnavailable},
		{"fails on the way", storetest.Fault{Err: store.ErrUnavailable, Keep: 2}, []string{"a", "b"}, store.ErrUnavailable},
		{"lies", storetest.Fault{Cut: true, Keep: 1}, []string{"a"}, nil},
		{"fails at its end", storetest.Fault{Err: store.ErrUnavailable, Done: true}, []string{"a", "b", "c"}, store.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := with(t, storetest.On(list, "", c.fault))
			got, err := listed(t.Context(), s)
			if diff := cmp.Diff(c.want, got); diff != "" || !errors.Is(err, c.err) {
				t.Errorf("error %v, want %v; names (-want +got):\n%s", err, c.err, diff)
			}
			for range s.List(t.Context(), "") {
				break // stopping must not be answered by more
			}
		})
	}
}

func TestLag(t *testing.T) {
	s := with(t, nil)
	s.SetLag(3)
	want := func(what string, want ...string) {
		t.Helper()
		got, err := listed(t.Context(), s)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v; names (-want +got):\n%s", what, err, diff)
		}
	}
	want("changes made before the lag are seen", "a", "b", "c")
	must(t, s.Delete(t.Context(), "a"))
	must(t, s.Put(t.Context(), "d", nil))
	want("changes are not seen", "a", "b", "c")
	must(t, s.Delete(t.Context(), "d"))
	want("an object that came and went is never seen, an earlier change is", "b", "c")
	want("all but the latest change is seen", "b", "c", "d")
	must(t, s.Delete(t.Context(), "b"))
	must(t, s.Put(t.Context(), "b", []byte("anew")))
	for info, err := range s.List(t.Context(), "b") {
		if err != nil || info.Size != 1 {
			t.Errorf("listed %+v, %v; want the object as it was", info, err)
		}
	}
	s.SetLag(0)
	want("no lag", "b", "c")
}

func TestCorrupt(t *testing.T) {
	longer := func(b []byte) []byte { return append(b, '!') }
	s := with(t, storetest.On("", "", storetest.Fault{Corrupt: longer}))
	data := []byte("new")
	must(t, s.Put(t.Context(), "new", data))
	if got, err := s.Get(t.Context(), "new", 0, -1); string(got) != "new!!" || err != nil || string(data) != "new" {
		t.Errorf("corrupt Put and Get of %q: %q, %v", data, got, err)
	}
}

// A delay ends with the context of its operation.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := with(t, storetest.On("", "", storetest.Fault{Delay: time.Hour}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		for op, err := range each(ctx, s) {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", op, err)
			}
		}
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("waited for %v, want the minute of the context", waited)
		}
		if _, err := s.Get(t.Context(), "a", 0, -1); err != nil || time.Since(start) != time.Hour+time.Minute {
			t.Errorf("slow Get: %v after %v", err, time.Since(start))
		}
	})
}

// The hooks see the store before and after the operation, while its caller waits.
func TestHooks(t *testing.T) {
	s := with(t, nil)
	var seen []string
	look := func(when string, c storetest.Call) {
		seen = append(seen, fmt.Sprintf("%s %d %s %s: %d", when, c.N, c.Op, c.Name, len(s.Names())))
	}
	s.SetFaults(func(c storetest.Call) storetest.Fault {
		look("before", c)
		return storetest.Fault{After: func() { look("after", c) }}
	})
	must(t, s.Put(t.Context(), "x", nil))
	must(t, s.Delete(t.Context(), "a"))
	want := []string{"before 1 put x: 3", "after 1 put x: 4", "before 2 delete a: 4", "after 2 delete a: 3"}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if all, puts, changes := s.Count(), s.Count(put), s.Count(put, remove); all != 2 || puts != 1 || changes != 2 {
		t.Errorf("counted %d operations, %d Puts, %d changes; want 2, 1, 2", all, puts, changes)
	}
	s.SetFaults(nil)
	if n := s.Count(); n != 0 {
		t.Errorf("counted %d operations after SetFaults", n)
	}
}

func TestCrash(t *testing.T) {
	for _, c := range []struct {
		name  string
		crash storetest.Faults
		want  []string
	}{
		{"before 1", storetest.CrashBefore(1), []string{"a", "b", "c"}},
		{"after 1", storetest.CrashAfter(1), []string{"1", "a", "b", "c"}},
		{"before 2", storetest.CrashBefore(2), []string{"1", "a", "b", "c"}},
		{"after 2", storetest.CrashAfter(2), []string{"1", "2", "a", "b", "c"}},
		{"never", storetest.CrashBefore(4), []string{"1", "2", "3", "a", "b", "c"}},
	} {
		s := with(t, c.crash)
		var failed int
		for _, name := range []string{"1", "2", "3"} {
			if err := s.Put(t.Context(), name, nil); errors.Is(err, storetest.ErrCrashed) {
				failed++
			} else if err != nil || failed > 0 {
				t.Errorf("%s: Put(%s) = %v after %d failures", c.name, name, err, failed)
			}
		}
		wantNames(t, c.name, s, c.want...)
	}
}

func TestRandom(t *testing.T) {
	faulty := func(seed uint64, p float64) (numbers []int) {
		random := storetest.Random(seed, p, storetest.Fault{Err: store.ErrUnavailable}, storetest.Fault{Lose: true})
		for n := range 1000 {
			if f := random(storetest.Call{N: n}); f.Err != nil || f.Lose {
				numbers = append(numbers, n)
			}
		}
		return numbers
	}
	first := faulty(1, 0.2)
	if diff := cmp.Diff(first, faulty(1, 0.2)); diff != "" {
		t.Errorf("the same seed differs:\n%s", diff)
	}
	if cmp.Equal(first, faulty(2, 0.2)) {
		t.Error("another seed does the same")
	}
	if n := len(first); n < 150 || n > 250 {
		t.Errorf("%d of 1000 operations are faulty, want about 200", n)
	}
	if none, all := len(faulty(1, 0)), len(faulty(1, 1)); none != 0 || all != 1000 {
		t.Errorf("probability 0 and 1 give %d and %d faults of 1000", none, all)
	}
}

func TestOnly(t *testing.T) {
	for _, permitted := range [][]storetest.Op{{put}, {put, get, stat, list}, {get, stat, list}} {
		s := with(t, nil)
		for op, err := range each(t.Context(), storetest.Only(s, permitted...)) {
			if slices.Contains(permitted, op) != (err == nil) || err != nil && !errors.Is(err, store.ErrDenied) {
				t.Errorf("with %q: %s: %v", permitted, op, err)
			}
		}
	}
}

// Several clients may change faults, lag and objects at once; this is for the race detector.
func TestTogether(t *testing.T) {
	s := storetest.NewMemory()
	s.SetFaults(storetest.Random(1, 0.5, storetest.Fault{Late: 3}, storetest.Fault{Err: store.ErrUnavailable, Late: 2}))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				name := fmt.Sprintf("%d/%d", i, j)
				_ = s.Put(t.Context(), name, nil) // what becomes of it is the fault's business
				_, _ = listed(t.Context(), s)
				_ = s.Delete(t.Context(), name)
				s.SetLag(j % 5)
			}
		})
	}
	wg.Wait()
	s.Deliver()
	if n := s.Count(); n != 8*50*3 {
		t.Errorf("counted %d operations, want %d", n, 8*50*3)
	}
}
