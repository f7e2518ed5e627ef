package volume_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func (w *world) repair(t testing.TB, o volume.RepairOptions) *volume.RepairReport {
	t.Helper()
	r, err := w.vault.Repair(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// damages are ways to damage a vault that lose nothing.
var damages = map[string]func(t *testing.T, w *world){
	"index damaged": func(t *testing.T, w *world) { w.spoil(t, objects(w.Memory, "index/")[0]) },
	"index lost":    func(t *testing.T, w *world) { w.lose(t, "index/") },
	"every index damaged": func(t *testing.T, w *world) {
		for _, name := range objects(w.Memory, "index/") {
			w.spoil(t, name)
		}
	},
	"footer damaged": func(t *testing.T, w *world) {
		name := largest(t, w, "packs/")
		data := object(t, w, name)
		w.Overwrite(name, flipped(data, len(data)-30))
	},
	"trailers damaged": func(t *testing.T, w *world) {
		for _, name := range objects(w.Memory, "packs/") {
			data := object(t, w, name)
			w.Overwrite(name, flipped(data, len(data)-1))
		}
	},
	"packs cut behind their chunks": func(t *testing.T, w *world) {
		for _, name := range objects(w.Memory, "packs/") {
			data := object(t, w, name)
			w.Overwrite(name, data[:len(data)-30])
		}
	},
	"condemned damaged": func(t *testing.T, w *world) { w.spoil(t, objects(w.Memory, "condemned/")[0]) },
}

// lose deletes one object with the prefix.
func (w *world) lose(t testing.TB, prefix string) {
	t.Helper()
	if err := w.Delete(t.Context(), objects(w.Memory, prefix)[0]); err != nil {
		t.Fatal(err)
	}
}

func largest(t *testing.T, w *world, prefix string) (name string) {
	size := 0
	for _, n := range objects(w.Memory, prefix) {
		if data := object(t, w, n); len(data) > size {
			name, size = n, len(data)
		}
	}
	return name
}

// living is a vault with several snapshots, and packs that are condemned.
func living(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	for i := range 4 {
		s := save(t, w.vault, tree(t, numbers(i*3, i*3+5)...))
		if i == 0 {
			must(t, w.vault.Forget(t.Context(), s.ID))
		}
	}
	w.clock.pass(25 * time.Hour)
	w.prune(t, volume.PruneOptions{MinLive: 0.7})
	return w
}

func TestRepair(t *testing.T) {
	base := living(t)
	if r := base.repair(t, volume.RepairOptions{}); r.Err() != nil || len(r.Removed) != 0 || r.Described != 0 || r.Salvaged.Objects != 0 {
		t.Errorf("repaired what was whole: %+v", r)
	}
	for what, damage := range damages {
		t.Run(what, func(t *testing.T) {
			w := base.copy(t)
			damage(t, w)
			before := strings.Join(w.Names(), "\n")
			dry := w.repair(t, volume.RepairOptions{DryRun: true})
			if after := strings.Join(w.Names(), "\n"); after != before {
				t.Errorf("a dry run changed\n%s\nto\n%s", before, after)
			}
			r := w.repair(t, volume.RepairOptions{})
			if len(r.Left.Hurt) > 0 {
				t.Errorf("hurt: %+v", r.Left.Hurt)
			}
			if dry.Described != r.Described || dry.Salvaged != r.Salvaged || len(dry.Removed) != len(r.Removed) {
				t.Errorf("did %+v, a dry run said %+v", r, dry)
			}
			if r.Described == 0 && r.Salvaged.Objects == 0 && len(r.Removed) == 0 {
				t.Errorf("nothing was done: %+v", r)
			}
			w.loads(t, "repaired")
			if again := w.repair(t, volume.RepairOptions{}); again.Described+again.Salvaged.Objects+len(again.Removed) != 0 {
				t.Errorf("repairing again did %+v", again)
			}
			for range 3 {
				w.clock.pass(25 * time.Hour)
				w.prune(t, volume.PruneOptions{})
			}
			w.check(t, "repaired and pruned")
			w.loads(t, "repaired and pruned")
		})
	}
}

// What is lost for good is named, with the files and snapshots that it hurts, and the rest is mended.
func TestRepairNamesWhatIsLost(t *testing.T) {
	w := newWorld(t)
	kept := save(t, w.vault, tree(t, 1, 2))
	before := objects(w.Memory, "packs/")
	hurt := save(t, w.vault, tree(t, 2, 3))
	for _, name := range objects(w.Memory, "packs/") {
		if data := object(t, w, name); len(data) > 15_000 && !strings.Contains(strings.Join(before, " "), name) {
			must(t, w.Delete(t.Context(), name))
		}
	}
	w.spoil(t, objects(w.Memory, "index/")[0])
	r := w.repair(t, volume.RepairOptions{})
	wantErr(t, "repair", r.Err(), volume.ErrDamaged)
	if len(r.Left.Hurt) != 1 || r.Left.Hurt[0].ID != hurt.ID || r.Left.Hurt[0].Count != 1 || r.Left.Hurt[0].Files[0].Path != "3" {
		t.Errorf("hurt %+v, want file 3 of %s, and nothing of %s", r.Left.Hurt, hurt.ID, kept.ID)
	}
}

// A repair may be cut at any operation on the store: everything recorded loads, and the next one goes on.
func TestRepairInterrupted(t *testing.T) {
	t.Parallel()
	base := living(t)
	for _, what := range []string{"every index damaged", "packs cut behind their chunks"} {
		for way, crash := range map[string]func(int) storetest.Faults{"before": storetest.CrashBefore, "after": storetest.CrashAfter} {
			for n := 1; ; n++ {
				w := base.copy(t)
				damages[what](t, w)
				w.SetFaults(crash(n))
				_, err := w.vault.Repair(t.Context(), volume.RepairOptions{})
				w.SetFaults(nil)
				if err == nil {
					break
				}
				when := fmt.Sprintf("%s: killed %s operation %d", what, way, n)
				w.loads(t, when)
				if r := w.repair(t, volume.RepairOptions{}); len(r.Left.Hurt) > 0 {
					t.Errorf("%s: hurt %+v", when, r.Left.Hurt)
				}
				if n%4 != 0 {
					continue // what follows is long
				}
				for range 3 {
					w.clock.pass(25 * time.Hour)
					w.prune(t, volume.PruneOptions{})
				}
				w.check(t, when)
			}
		}
	}
}

func TestStat(t *testing.T) {
	w := newWorld(t)
	save(t, w.vault, tree(t, 1, 2, 3))
	s, err := w.vault.Stat(t.Context())
	must(t, err)
	if s.Snapshots != 1 || s.Objects["packs"].Objects != len(objects(w.Memory, "packs/")) || s.Total.Objects != len(w.Names()) ||
		s.Raw < 60_000 || s.Raw > 61_000 || s.Stored > s.Objects["packs"].Bytes || s.Chunks < 4 || s.Condemned.Objects != 0 {
		t.Errorf("%+v", s)
	}
	must(t, w.vault.Forget(t.Context(), strings.TrimPrefix(objects(w.Memory, "snapshots/")[0], "snapshots/")))
	w.clock.pass(25 * time.Hour)
	r := w.prune(t, volume.PruneOptions{})
	if s, err = w.vault.Stat(t.Context()); err != nil || s.Condemned != r.Condemned {
		t.Errorf("condemned %+v, %v; want %+v", s, err, r.Condemned)
	}
}
