package volume_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
	"github.com/lockstep-dr/lockstep/test/seed"
)

var pruneSoak = flag.Duration("prune-soak", 5*time.Second, "how long each of the tests of prunes beside saves and loads runs")

// at has meanwhile run by itself when the nth operation on the store begins, which waits for it.
func (w *world) at(n int, meanwhile func()) {
	var running atomic.Bool
	w.SetFaults(func(c storetest.Call) storetest.Fault {
		if c.N == n && running.CompareAndSwap(false, true) {
			meanwhile()
		}
		return storetest.Fault{}
	})
}

// days is what happens while a process sleeps: packs are condemned, and after the grace time deleted.
func (w *world) days(t *testing.T) {
	for range 3 {
		w.clock.pass(25 * time.Hour)
		if _, err := w.vault.Prune(t.Context(), volume.PruneOptions{MinLive: 0.9}); err != nil {
			t.Errorf("prune meanwhile: %v", err)
		}
	}
}

// However long a save sleeps before any of its operations, while what it relies on is condemned and deleted: it fails, or its snapshot
// is whole.
func TestSaveOvertaken(t *testing.T) {
	base := newWorld(t)
	old := save(t, base.vault, tree(t, numbers(0, 8)...))
	save(t, base.vault, tree(t, numbers(6, 12)...))
	must(t, base.vault.Forget(t.Context(), old.ID))
	src := tree(t, numbers(2, 9)...) // most of which is forgotten, but there still
	overtaken, recorded := 0, 0
	for n := 1; ; n++ {
		w := base.copy(t)
		w.at(n, func() { w.days(t) })
		_, err := w.vault.Save(t.Context(), src, volume.SaveOptions{})
		w.SetFaults(nil)
		switch {
		case err == nil:
			recorded++
		case errors.Is(err, volume.ErrOvertaken), errors.Is(err, volume.ErrDamaged):
			overtaken++
		default:
			t.Errorf("operation %d: %v", n, err)
		}
		when := fmt.Sprintf("slept before operation %d", n)
		w.check(t, when)
		w.loads(t, when)
		save(t, w.vault, src)
		w.days(t)
		w.check(t, when+", saved again and pruned")
		if w.Count() == 0 || n > 200 {
			t.Fatal("the save never ends")
		}
		if err == nil && recorded > 12 && n > 40 {
			break
		}
	}
	if overtaken == 0 || recorded == 0 {
		t.Errorf("%d saves were overtaken, %d recorded", overtaken, recorded)
	}
}

// What happens during a prune, before any of its operations: saves that rely on what it condemns or deletes, and other prunes.
func TestPruneOvertaken(t *testing.T) {
	t.Parallel()
	first := newWorld(t)
	for i := range 10 {
		s := save(t, first.vault, tree(t, i, i+1, i+2))
		if i%3 != 0 {
			must(t, first.vault.Forget(t.Context(), s.ID))
		}
	}
	first.clock.pass(25 * time.Hour)
	second := first.copy(t)
	second.prune(t, volume.PruneOptions{MinLive: 0.9})
	second.clock.pass(25 * time.Hour)
	src := tree(t, numbers(0, 12)...)
	for from, base := range map[string]*world{"first step": first, "second step": second} {
		for what, meanwhile := range map[string]func(w *world){
			"save": func(w *world) {
				if _, err := w.vault.Save(t.Context(), src, volume.SaveOptions{}); err != nil && !errors.Is(err, volume.ErrOvertaken) {
					t.Errorf("save meanwhile: %v", err)
				}
			},
			"prune": func(w *world) {
				if _, err := w.vault.Prune(t.Context(), volume.PruneOptions{MinLive: 0.95}); err != nil {
					t.Errorf("prune meanwhile: %v", err)
				}
			},
			"days of prunes": func(w *world) { w.days(t) },
		} {
			last := false
			for n := 1; !last; n++ {
				w := base.copy(t)
				reached := false
				w.at(n, func() { reached = true; meanwhile(w) })
				_, err := w.vault.Prune(t.Context(), volume.PruneOptions{MinLive: 0.9})
				w.SetFaults(nil)
				last = !reached
				when := fmt.Sprintf("%s, %s before operation %d", from, what, n)
				if err != nil {
					t.Errorf("%s: %v", when, err)
				}
				w.check(t, when)
				w.loads(t, when)
				w.days(t)
				w.check(t, when+", days later")
			}
		}
	}
}

// A load during which prunes replace what it reads goes on.
func TestLoadBesidePrunes(t *testing.T) {
	base := newWorld(t)
	for i := range 6 {
		s := save(t, base.vault, tree(t, i, i+1, i+2))
		if i%2 == 0 {
			must(t, base.vault.Forget(t.Context(), s.ID))
		}
	}
	snapshots, err := base.vault.Snapshots(t.Context())
	must(t, err)
	for n := 1; n < 12; n++ {
		w := base.copy(t)
		w.at(n, func() { w.days(t) })
		dir := filepath.Join(fastDir(t), "x")
		if _, err := w.vault.Load(t.Context(), snapshots[0].ID, dir, volume.LoadOptions{Verify: volume.VerifyReadback}); err != nil {
			t.Errorf("operation %d: %v", n, err)
		}
	}
}

// soak is what goes on in the tests of prunes beside saves and loads.
type soak struct {
	*world
	until time.Time
	prune volume.PruneOptions
	// faulty says that the store fails now and then, and so what is done with it.
	faulty bool
	// calm says that it does not just now: until a prune has gone through.
	calm atomic.Bool

	mu sync.Mutex
	// promised are the snapshots of saves that reported success, and that nobody has begun to forget.
	promised map[string]bool

	saved, overtaken, failed atomic.Int64
	loaded, pruned, deleted  atomic.Int64
	disturbed                atomic.Int64
}

// Twenty savers store and forget what others store and forget, while prunes with a grace time of next to nothing delete what they
// just found, and loads read. At the end everything recorded loads.
func TestPruneBesideSaves(t *testing.T) {
	s := &soak{world: newWorld(t), prune: volume.PruneOptions{NoOtherSaves: true, Grace: 20 * time.Millisecond, MinLive: 0.8}}
	s.SetClock(time.Now)
	s.run(t, 1)
	s.check(t, "at the end")
	s.loads(t, "at the end")
}

// The same with twenty loaders on a store that fails, loses answers, delivers late and twice, and whose listings lag behind. It fails
// for some thousand operations at a time, and then not until a prune went through: otherwise prunes fail the more, the more there is to
// prune, and on a slow machine for good. The store's clock goes by what is written, so that the grace time is always longer than the
// lag, as 24 hours are in earnest. What a save promised is there until it is forgotten.
func TestPruneBesideAllOnAFaultyStore(t *testing.T) {
	t.Parallel()
	s := &soak{world: newWorld(t), faulty: true, prune: volume.PruneOptions{NoOtherSaves: true, Grace: 60 * time.Millisecond, MinLive: 0.8}}
	s.SetLag(20)
	random := storetest.Random(seed.First(t), 0.01,
		storetest.Fault{Err: store.ErrUnavailable},
		storetest.Fault{Err: store.ErrUnavailable, Done: true},
		storetest.Fault{Err: store.ErrUnavailable, Keep: 2},
		storetest.Fault{Err: context.DeadlineExceeded, Late: 1},
		storetest.Fault{Err: context.DeadlineExceeded, Late: 20},
		storetest.Fault{Late: 1},
		storetest.Fault{Late: 20},
		storetest.Fault{Delay: time.Millisecond})
	s.SetFaults(func(c storetest.Call) storetest.Fault {
		if c.N%5000 == 0 {
			s.calm.Store(true)
		}
		if s.calm.Load() {
			return storetest.Fault{}
		}
		return random(c)
	})
	s.run(t, 20)
	s.SetFaults(nil)
	s.SetLag(0)
	s.Deliver()
	if s.failed.Load() == 0 {
		t.Error("the store never failed")
	}
	dir := fastDir(t)
	defer os.RemoveAll(dir)
	for id := range s.promised {
		if _, err := s.vault.Load(t.Context(), id, filepath.Join(dir, id), volume.LoadOptions{Verify: volume.VerifyReadback}); err != nil {
			t.Errorf("at the end: %v", err)
		}
	}
}

// run has savers, prunes and loaders at it for a while.
func (s *soak) run(t *testing.T, loaders int) {
	s.until, s.promised = time.Now().Add(*pruneSoak), map[string]bool{}
	var wg sync.WaitGroup
	for i := range 20 {
		dir := t.TempDir()
		wg.Go(func() { s.saver(t, i, dir) })
	}
	for range 2 {
		wg.Go(func() { s.pruner(t) })
	}
	for range loaders {
		wg.Go(func() { s.loader(t) })
	}
	wg.Wait()
	t.Logf("%d snapshots, %d saves overtaken, %d loads; %d prunes deleted %d packs, %d prunes disturbed; %d operations failed with the store",
		s.saved.Load(), s.overtaken.Load(), s.loaded.Load(), s.pruned.Load(), s.deleted.Load(), s.disturbed.Load(), s.failed.Load())
	if s.saved.Load() == 0 || s.loaded.Load() == 0 || s.deleted.Load() == 0 || s.disturbed.Load() > s.pruned.Load() {
		t.Error("next to nothing happened")
	}
}

// goesOn says that the time is not up. On a slow machine it waits for the first deletion.
func (s *soak) goesOn() bool {
	now := time.Now()
	return now.Before(s.until) || s.deleted.Load() == 0 && now.Before(s.until.Add(time.Minute))
}

// stores says that an error is only that the store failed, which it may, and counts it.
func (s *soak) stores(err error) bool {
	if !s.faulty || !errors.Is(err, store.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	s.failed.Add(1)
	return true
}

// promise keeps or takes back that a snapshot is there.
func (s *soak) promise(id string, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if there {
		s.promised[id] = true
	} else {
		delete(s.promised, id)
	}
}

func (s *soak) isPromised(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.promised[id]
}

// saver saves files of which others have the same, and forgets.
func (s *soak) saver(t *testing.T, number int, dir string) {
	r := rand.New(rand.NewPCG(uint64(number), 1))
	var mine []string
	for s.goesOn() {
		for range 3 {
			seed := r.IntN(40)
			path := filepath.Join(dir, fmt.Sprint(seed))
			if os.Remove(path) != nil {
				write(t, path, randomBytes(uint64(seed), 20_000))
			}
		}
		snapshot, err := s.vault.Save(t.Context(), dir, volume.SaveOptions{})
		switch {
		case errors.Is(err, volume.ErrOvertaken):
			s.overtaken.Add(1)
		case s.stores(err):
		case err != nil:
			t.Errorf("save: %v", err)
			return
		default:
			s.saved.Add(1)
			mine = append(mine, snapshot.ID)
			s.promise(snapshot.ID, true)
		}
		if len(mine) > 2 {
			s.promise(mine[0], false)
			if err := s.vault.Forget(t.Context(), mine[0]); err != nil && !s.stores(err) {
				t.Errorf("forget: %v", err)
			}
			mine = mine[1:]
		}
	}
}

func (s *soak) pruner(t *testing.T) {
	for s.goesOn() {
		r, err := s.vault.Prune(t.Context(), s.prune)
		switch {
		case errors.Is(err, volume.ErrDamaged):
			// It read the snapshot of a save that was overtaken and had not forgotten it yet. That leads to nothing, but must be rare.
			s.disturbed.Add(1)
		case s.stores(err):
		case err != nil:
			t.Errorf("prune: %v", err)
			return
		default:
			s.calm.Store(false)
			s.pruned.Add(1)
			s.deleted.Add(int64(r.Deleted.Objects))
		}
	}
}

// loader loads snapshots, which may be forgotten meanwhile.
func (s *soak) loader(t *testing.T) {
	for s.goesOn() {
		snapshots, err := s.vault.Snapshots(t.Context())
		if s.stores(err) {
			continue
		}
		if err != nil {
			t.Errorf("list: %v", err)
			return
		}
		if len(snapshots) == 0 {
			continue
		}
		id := snapshots[rand.IntN(len(snapshots))].ID
		dir := fastDir(t)
		_, err = s.vault.Load(t.Context(), id, dir, volume.LoadOptions{})
		switch {
		case err == nil:
			s.loaded.Add(1)
		case !s.stores(err) && s.isPromised(id):
			t.Errorf("load: %v", err)
		}
		os.RemoveAll(dir)
	}
}
