package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
	"github.com/lockstep-dr/lockstep/test/reader"
)

// clock is a store's clock.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Millisecond)
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// world is a vault in a store with its own clock.
type world struct {
	*storetest.Memory
	clock *clock
	id    *age.X25519Identity
	vault *volume.Vault
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{Memory: storetest.NewMemory(), clock: &clock{now: time.Date(2031, 1, 2, 3, 4, 5, 0, time.UTC)}, id: newIdentity(t)}
	w.SetClock(w.clock.Now)
	var err error
	if w.vault, err = volume.Create(t.Context(), w, w.id.Recipient()); err != nil {
		t.Fatal(err)
	}
	return w
}

// copy returns a world of its own with the same objects, as old as they are.
func (w *world) copy(t testing.TB) *world {
	t.Helper()
	c := &world{Memory: storetest.NewMemory(), clock: &clock{}, id: w.id}
	c.SetClock(c.clock.Now)
	for info, err := range w.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		data, err := w.Get(t.Context(), info.Name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		c.clock.now = info.Modified
		c.Overwrite(info.Name, data)
	}
	c.clock.now = w.clock.Now()
	var err error
	if c.vault, err = volume.Open(t.Context(), c, w.id); err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) prune(t testing.TB, o volume.PruneOptions) *volume.PruneReport {
	t.Helper()
	r, err := w.vault.Prune(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// verifies fails the test unless the vault verifies clean.
func verifies(t testing.TB, v *volume.Vault, when string) {
	t.Helper()
	r, err := v.Verify(t.Context(), volume.VerifyOptions{Level: volume.VerifyData})
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		t.Errorf("%s: verify: %v", when, err)
	}
}

// check fails the test unless the vault verifies clean, by the engine and by the reader that knows only the page.
func (w *world) check(t testing.TB, when string) {
	t.Helper()
	verifies(t, w.vault, when)
	files := fstest.MapFS{}
	for _, name := range w.Names() {
		data, err := w.Get(context.Background(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = &fstest.MapFile{Data: data}
	}
	if _, err := reader.CheckFS(files, w.id); err != nil {
		t.Errorf("%s: reader: %v", when, err)
	}
}

// loads fails the test unless every recorded snapshot loads.
func (w *world) loads(t testing.TB, when string) {
	t.Helper()
	loadsAll(t, w.vault, when)
}

func loadsAll(t testing.TB, v *volume.Vault, when string) {
	t.Helper()
	snapshots, err := v.Snapshots(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	dir := fastDir(t)
	defer os.RemoveAll(dir)
	for _, s := range snapshots {
		if _, err := v.Load(t.Context(), s.ID, filepath.Join(dir, s.ID), volume.LoadOptions{Verify: volume.VerifyReadback}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// fastDir makes a directory, of which nothing is left after the test, in memory if it can be: there a sync costs nothing.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "lockstep-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// tree makes a directory of files, each of 20 kB from a seed of its own.
func tree(t testing.TB, seeds ...int) string {
	t.Helper()
	dir := t.TempDir()
	for _, seed := range seeds {
		write(t, filepath.Join(dir, fmt.Sprint(seed)), randomBytes(uint64(seed), 20_000))
	}
	return dir
}

func numbers(from, to int) (n []int) {
	for ; from < to; from++ {
		n = append(n, from)
	}
	return n
}

func TestPrune(t *testing.T) {
	w := newWorld(t)
	first := save(t, w.vault, tree(t, numbers(0, 20)...))
	save(t, w.vault, tree(t, numbers(10, 30)...))
	if r := w.prune(t, volume.PruneOptions{}); r.Condemned.Objects != 0 || r.Deleted.Objects != 0 || r.Snapshots != 2 {
		t.Errorf("pruning what is all live: %+v", r)
	}
	if err := w.vault.Forget(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if r := w.prune(t, volume.PruneOptions{}); r.Condemned.Objects != 0 || r.Young.Objects == 0 {
		t.Errorf("pruning what is young: %+v", r)
	}
	w.clock.pass(25 * time.Hour)
	before := len(w.Names())
	dry := w.prune(t, volume.PruneOptions{DryRun: true, NoOtherSaves: true, Grace: 1})
	if len(w.Names()) != before {
		t.Error("a dry run changed something")
	}
	r := w.prune(t, volume.PruneOptions{MinLive: 0.9})
	if r.Condemned.Objects == 0 || r.Deleted.Objects != 0 || r.Repacked.Bytes < 200_000 || r.Repacked.Bytes > 210_000 {
		t.Errorf("first step: %+v", r)
	}
	if dry.Condemned.Objects > r.Condemned.Objects {
		t.Errorf("a dry run condemns %+v", dry)
	}
	w.check(t, "after the first step")
	w.clock.pass(23 * time.Hour)
	if r := w.prune(t, volume.PruneOptions{}); r.Waiting.Objects == 0 || r.Deleted.Objects != 0 {
		t.Errorf("before the grace time passed: %+v", r)
	}
	w.clock.pass(2 * time.Hour)
	deleted := w.prune(t, volume.PruneOptions{})
	if deleted.Deleted != r.Condemned {
		t.Errorf("second step: %+v, want deleted what was condemned: %+v", deleted, r.Condemned)
	}
	w.check(t, "after the second step")
	w.loads(t, "after the second step")
	w.prune(t, volume.PruneOptions{})
	if left := objects(w.Memory, "condemned/"); len(left) != 0 {
		t.Errorf("left %q", left)
	}
	size := 0
	for _, name := range objects(w.Memory, "packs/") {
		size += len(object(t, w, name))
	}
	if size > 410_000 {
		t.Errorf("packs of %d bytes for 400 kB", size)
	}
	for _, line := range deleted.Reasons() {
		t.Log(line)
	}
}

// Whoever says that nothing else runs gets their room back at once.
func TestPruneAtOnce(t *testing.T) {
	w := newWorld(t)
	s := save(t, w.vault, tree(t, 1, 2, 3))
	for _, o := range []volume.PruneOptions{{Grace: time.Hour}, {Grace: -time.Hour, NoOtherSaves: true}} {
		if _, err := w.vault.Prune(t.Context(), o); err == nil {
			t.Errorf("pruned with %+v", o)
		}
	}
	must(t, w.vault.Forget(t.Context(), s.ID))
	w.SetFaults(func(storetest.Call) storetest.Fault { // a store that tells some times by the second
		w.clock.pass(-100 * time.Millisecond)
		return storetest.Fault{}
	})
	r := w.prune(t, volume.PruneOptions{NoOtherSaves: true})
	w.SetFaults(nil)
	if left := append(objects(w.Memory, "packs/"), objects(w.Memory, "index/")...); len(left) != 0 || r.Deleted.Objects == 0 {
		t.Errorf("left %q, %+v", left, r)
	}
	w.check(t, "afterwards")
}

// Times are the store's alone: with this machine's clock years away from it, nothing is condemned too early.
func TestPruneUsesTheStoresClock(t *testing.T) {
	for _, years := range []int{-20, 20} {
		w := newWorld(t)
		w.clock.now = time.Now().AddDate(years, 0, 0)
		s := save(t, w.vault, tree(t, 1))
		must(t, w.vault.Forget(t.Context(), s.ID))
		if r := w.prune(t, volume.PruneOptions{}); r.Condemned.Objects != 0 {
			t.Errorf("%d years off: %+v", years, r)
		}
		w.clock.pass(24 * time.Hour)
		if r := w.prune(t, volume.PruneOptions{}); r.Condemned.Objects == 0 || r.Deleted.Objects != 0 {
			t.Errorf("%d years off: %+v", years, r)
		}
	}
}

// What cannot be read leaves open what is needed: nothing is condemned or deleted then.
func TestPruneNeverGuesses(t *testing.T) {
	base := newWorld(t)
	s := save(t, base.vault, tree(t, numbers(0, 30)...))
	must(t, base.vault.Forget(t.Context(), s.ID))
	kept := save(t, base.vault, tree(t, numbers(0, 5)...))
	base.clock.pass(25 * time.Hour)
	base.prune(t, volume.PruneOptions{})
	base.clock.pass(25 * time.Hour)
	for what, spoil := range map[string]func(w *world){
		"snapshot":  func(w *world) { w.spoil(t, "snapshots/"+kept.ID) },
		"condemned": func(w *world) { w.spoil(t, objects(w.Memory, "condemned/")[0]) },
		"tree": func(w *world) {
			for _, name := range objects(w.Memory, "packs/") {
				if len(object(t, w, name)) < 10_000 {
					w.spoil(t, name)
				}
			}
		},
		"unavailable": func(w *world) { w.SetFaults(failing(storetest.Get, "snapshots/", store.ErrUnavailable)) },
		"listing cut": func(w *world) {
			w.SetFaults(storetest.On(storetest.List, "snapshots/", storetest.Fault{Err: store.ErrUnavailable}))
		},
		"vault gone": func(w *world) { w.SetFaults(failing(storetest.Get, "config", store.ErrNotFound)) },
	} {
		t.Run(what, func(t *testing.T) {
			w := base.copy(t)
			spoil(w)
			before := strings.Join(w.Names(), "\n")
			r, err := w.vault.Prune(t.Context(), volume.PruneOptions{})
			if err == nil {
				t.Errorf("pruned: %+v", r)
			}
			if after := strings.Join(w.Names(), "\n"); after != before {
				t.Errorf("changed\n%s\nto\n%s", before, after)
			}
		})
	}
}

// spoil flips a bit in the middle of an object.
func (w *world) spoil(t testing.TB, name string) {
	t.Helper()
	data, err := w.Get(t.Context(), name, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	w.Overwrite(name, flipped(data, len(data)/2))
}

// What was condemned and is needed again outlives its pack.
func TestPruneRescues(t *testing.T) {
	w := newWorld(t)
	src := tree(t, numbers(0, 10)...)
	first := save(t, w.vault, src)
	packs := objects(w.Memory, "packs/")
	must(t, w.vault.Forget(t.Context(), first.ID))
	w.clock.pass(25 * time.Hour)
	record := object(t, w, "snapshots/"+save(t, w.vault, src).ID)
	id := objects(w.Memory, "snapshots/")[0]
	must(t, w.Delete(t.Context(), id))
	if r := w.prune(t, volume.PruneOptions{}); r.Condemned.Objects != len(packs) {
		t.Fatalf("%+v", r)
	}
	// A save whose last reading came just before.
	must(t, w.Put(t.Context(), id, record))
	w.clock.pass(25 * time.Hour)
	r := w.prune(t, volume.PruneOptions{})
	if r.Deleted.Objects != len(packs) || r.Repacked.Objects == 0 {
		t.Errorf("%+v", r)
	}
	w.check(t, "after the rescue")
	w.loads(t, "after the rescue")
}

// A store that keeps objects for a time loses nothing, and gains nothing either, from prunes before it is over.
func TestPruneUnderRetention(t *testing.T) {
	w := newWorld(t)
	for i := range 12 {
		s := save(t, w.vault, tree(t, numbers(i, i+3)...))
		if i < 8 {
			must(t, w.vault.Forget(t.Context(), s.ID))
		}
	}
	w.SetFaults(failing(storetest.Delete, "", store.ErrLocked))
	var sizes []int
	for range 6 {
		w.clock.pass(25 * time.Hour)
		r := w.prune(t, volume.PruneOptions{MinLive: 0.9})
		sizes = append(sizes, len(objects(w.Memory, "index/"))+len(objects(w.Memory, "packs/")))
		if len(sizes) > 2 && r.Kept.Objects == 0 {
			t.Errorf("prune %d says nothing of what the store keeps: %+v", len(sizes), r)
		}
		w.check(t, fmt.Sprintf("prune %d", len(sizes)))
	}
	if sizes[5] > sizes[2] {
		t.Errorf("objects grow: %d", sizes)
	}
	w.SetFaults(nil)
	for range 3 {
		w.clock.pass(25 * time.Hour)
		w.prune(t, volume.PruneOptions{MinLive: 0.9})
	}
	if left := objects(w.Memory, "index/"); len(left) > 8 || len(objects(w.Memory, "condemned/")) != 0 {
		t.Errorf("left %q after retention, and condemned %q", left, objects(w.Memory, "condemned/"))
	}
	w.loads(t, "after retention")
}

// Prunes may be cut at any operation on the store: the vault verifies clean, everything recorded loads, and the next prune
// goes on.
func TestPruneInterrupted(t *testing.T) {
	t.Parallel()
	base := newWorld(t)
	for i := range 12 { // enough index objects to merge
		s := save(t, base.vault, tree(t, i, i+1, i+2))
		if i%3 != 0 {
			must(t, base.vault.Forget(t.Context(), s.ID))
		}
	}
	base.clock.pass(25 * time.Hour)
	second := base.copy(t)
	second.prune(t, volume.PruneOptions{MinLive: 0.9})
	second.clock.pass(25 * time.Hour)
	third := second.copy(t)
	third.prune(t, volume.PruneOptions{MinLive: 0.9})
	for what, from := range map[string]*world{"condemning and repacking": base, "deleting": second, "tidying": third} {
		for way, crash := range map[string]func(int) storetest.Faults{"before": storetest.CrashBefore, "after": storetest.CrashAfter} {
			n := 1
			for ; ; n++ {
				w := from.copy(t)
				w.SetFaults(crash(n))
				_, err := w.vault.Prune(t.Context(), volume.PruneOptions{MinLive: 0.9})
				w.SetFaults(nil)
				if err == nil {
					break
				}
				when := fmt.Sprintf("%s: killed %s operation %d", what, way, n)
				if !errors.Is(err, storetest.ErrCrashed) {
					t.Errorf("%s: %v", when, err)
				}
				w.check(t, when)
				w.loads(t, when)
				for range 3 {
					w.prune(t, volume.PruneOptions{MinLive: 0.9})
					w.clock.pass(25 * time.Hour)
				}
				w.check(t, when+", and again")
			}
			if n < 10 {
				t.Errorf("%s makes only %d operations", what, n)
			}
		}
	}
}

// However two prunes interleave, nothing that is needed goes, even if the store's clock jumps so far between their steps that the
// grace time means nothing.
func TestTwoPrunes(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		w := newWorld(t)
		src := tree(t, numbers(0, 6)...)
		for i := range 6 {
			s := save(t, w.vault, tree(t, i, i+1, i+2))
			if i%2 == 0 {
				must(t, w.vault.Forget(t.Context(), s.ID))
			}
		}
		save(t, w.vault, src)
		w.clock.pass(25 * time.Hour)
		jump := storetest.Random(seed, 0.1, storetest.Fault{After: func() { w.clock.pass(30 * time.Hour) }},
			storetest.Fault{Delay: time.Millisecond}, storetest.Fault{After: func() { w.clock.pass(-40 * time.Hour) }})
		w.SetFaults(jump)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for range 4 {
					if _, err := w.vault.Prune(t.Context(), volume.PruneOptions{MinLive: 0.95}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		w.SetFaults(nil)
		w.check(t, fmt.Sprintf("seed %d", seed))
		w.loads(t, fmt.Sprintf("seed %d", seed))
	}
}
