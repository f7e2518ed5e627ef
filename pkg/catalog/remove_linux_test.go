package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

var (
	now   = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	grace = 24 * time.Hour
	later = now.Add(grace)
)

// faultyVault is a vault in a store that can fail.
func faultyVault(t *testing.T) (*volume.Vault, *storetest.Memory) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := storetest.NewMemory()
	v, err := volume.Create(t.Context(), s, identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	return v, s
}

// saved puts a point with a saved volume and residual objects.
func saved(t *testing.T, v *volume.Vault, day int) point.Record {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "data"), fmt.Appendf(nil, "day %d", day), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := v.Save(t.Context(), dir, volume.SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := record(fmt.Sprintf("202601%02d-000000-%08x", day, day), day)
	r.Volumes = []point.Volume{{
		Namespace: "shop", Claim: "data", Snapshot: s.ID, ContentRoot: s.Roots.Content.String(), MetaRoot: s.Roots.Meta.String(), Taken: r.Taken,
	}}
	r.Residual = &point.Residual{Document: r.ID, Secrets: 1}
	if err := catalog.PutResidual(t.Context(), v, r.ID, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	if err := catalog.Put(t.Context(), v, r); err != nil {
		t.Fatal(err)
	}
	return r
}

// whole tells whether a point is there with all that belongs to it, and fails the test if only a part is.
func whole(t *testing.T, v *volume.Vault, r point.Record) bool {
	t.Helper()
	listed, err := catalog.List(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	isListed := slices.ContainsFunc(listed, func(l point.Record) bool { return l.ID == r.ID })
	_, err = catalog.Get(t.Context(), v, r.ID)
	if err != nil && !errors.Is(err, catalog.ErrPointNotFound) {
		t.Fatal(err)
	}
	if isListed != (err == nil) {
		t.Fatalf("point %s: listed %v, but reading it gives %v", r.ID, isListed, err)
	}
	choice, findErr := catalog.Find(t.Context(), v, match.Query{PointID: r.ID}, nil)
	absent := (*match.AbsentError)(nil)
	if isListed && (findErr != nil || choice.Record.ID != r.ID) || !isListed && !errors.As(findErr, &absent) {
		t.Fatalf("point %s: listed %v, but finding it gives %v", r.ID, isListed, findErr)
	}
	if !isListed {
		return false
	}
	if _, err := v.Snapshot(t.Context(), r.Volumes[0].Snapshot); err != nil {
		t.Fatalf("point %s is there, its data is not: %v", r.ID, err)
	}
	if _, err := catalog.Residual(t.Context(), v, r); err != nil {
		t.Fatalf("point %s is there, its residual objects are not: %v", r.ID, err)
	}
	return true
}

func remove(ctx context.Context, v *volume.Vault, id string) error {
	return catalog.Remove(ctx, v, id, catalog.RemoveOptions{Why: "no rule keeps it", Grace: grace, Now: now})
}

func TestARemovedPointIsProvenAbsent(t *testing.T) {
	v, _ := faultyVault(t)
	old, kept := saved(t, v, 1), saved(t, v, 2)
	if err := remove(t.Context(), v, old.ID); err != nil {
		t.Fatal(err)
	}
	if whole(t, v, old) || !whole(t, v, kept) {
		t.Fatal("the wrong point is gone")
	}
	if _, err := catalog.Get(t.Context(), v, old.ID); !errors.Is(err, catalog.ErrRemoved) {
		t.Errorf("reading it: %v", err)
	}
	if err := catalog.Put(t.Context(), v, old); !errors.Is(err, catalog.ErrRemoved) {
		t.Errorf("writing it again: %v", err)
	}
	if err := remove(t.Context(), v, old.ID); err != nil {
		t.Errorf("removing it again: %v", err)
	}
	of, err := catalog.OfApplication(t.Context(), v, "shop/shop")
	if err != nil || len(of) != 1 || of[0].ID != kept.ID {
		t.Errorf("of the application: %v, %v", of, err)
	}
	// Whoever reads its data may end that.
	report, err := catalog.Sweep(t.Context(), v, later.Add(-time.Second))
	if err != nil || report != (catalog.SweepReport{Waiting: 1}) {
		t.Fatalf("%+v, %v", report, err)
	}
	if _, err := v.Snapshot(t.Context(), old.Volumes[0].Snapshot); err != nil {
		t.Error(err)
	}
	report, err = catalog.Sweep(t.Context(), v, later)
	if err != nil || report != (catalog.SweepReport{Swept: 1}) {
		t.Fatalf("%+v, %v", report, err)
	}
	if _, err := v.Snapshot(t.Context(), old.Volumes[0].Snapshot); !errors.Is(err, volume.ErrSnapshotNotFound) {
		t.Errorf("its data: %v", err)
	}
	if n, err := v.CountDocuments(t.Context(), point.ResidualKind); err != nil || n != 1 {
		t.Errorf("%d sets of residual objects, %v", n, err)
	}
	if left, err := catalog.Removals(t.Context(), v); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if whole(t, v, old) || !whole(t, v, kept) {
		t.Error("the wrong point is gone")
	}
}

func TestAHeldPointIsNotRemoved(t *testing.T) {
	v, s := faultyVault(t)
	r := saved(t, v, 1)
	hold := catalog.Hold{Point: r.ID, Reason: "audit", Since: now}
	for range 2 { // the second replaces the first
		if err := catalog.PutHold(t.Context(), v, hold); err != nil {
			t.Fatal(err)
		}
		hold.Until = later
	}
	held, err := catalog.Holds(t.Context(), v, now)
	if err != nil || len(held) != 1 || held[r.ID].Until != later {
		t.Fatalf("%v, %v", held, err)
	}
	// Nothing is learned from a listing that is late.
	s.SetFaults(func(c storetest.Call) storetest.Fault { return storetest.Fault{Cut: c.Op == storetest.List} })
	if err := remove(t.Context(), v, r.ID); !errors.Is(err, catalog.ErrHeld) {
		t.Fatalf("removing it: %v", err)
	}
	s.SetFaults(nil)
	if !whole(t, v, r) {
		t.Fatal("it is gone")
	}
	if held, err := catalog.Holds(t.Context(), v, later); err != nil || len(held) != 0 {
		t.Errorf("after its end: %v, %v", held, err)
	}
	for _, want := range []bool{true, false} {
		if was, err := catalog.Release(t.Context(), v, r.ID); err != nil || was != want {
			t.Errorf("released %v, %v", was, err)
		}
	}
	if err := remove(t.Context(), v, r.ID); err != nil || whole(t, v, r) {
		t.Errorf("after the release: %v", err)
	}
	if err := catalog.PutHold(t.Context(), v, hold); !errors.Is(err, catalog.ErrRemoved) {
		t.Errorf("holding what was removed: %v", err)
	}
	if _, err := catalog.Sweep(t.Context(), v, later); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"hold", "release"} {
		if n, err := v.CountDocuments(t.Context(), kind); err != nil || n != 0 {
			t.Errorf("%d documents of kind %s are left, %v", n, kind, err)
		}
	}
}

// TestLockedRecordStays has a store that keeps a record, as Object Lock does, and later gives it up.
func TestLockedRecordStays(t *testing.T) {
	v, s := faultyVault(t)
	r := saved(t, v, 1)
	s.SetFaults(func(c storetest.Call) storetest.Fault {
		if c.Op == storetest.Delete {
			return storetest.Fault{Err: store.ErrLocked}
		}
		return storetest.Fault{}
	})
	if err := remove(t.Context(), v, r.ID); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("removing it: %v", err)
	}
	if !whole(t, v, r) {
		t.Fatal("it is gone")
	}
	if report, err := catalog.Sweep(t.Context(), v, later); err != nil || report != (catalog.SweepReport{Locked: 1}) || !whole(t, v, r) {
		t.Fatalf("%+v, %v", report, err)
	}
	s.SetFaults(nil)
	if report, err := catalog.Sweep(t.Context(), v, later); err != nil || report != (catalog.SweepReport{Swept: 1}) || whole(t, v, r) {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestRemovalSurvivesACrash kills the process before and after each request to the store.
func TestRemovalSurvivesACrash(t *testing.T) {
	for _, crash := range []func(int) storetest.Faults{storetest.CrashBefore, storetest.CrashAfter} {
		for n := 1; ; n++ {
			v, s := faultyVault(t)
			old, kept := saved(t, v, 1), saved(t, v, 2)
			s.SetFaults(crash(n))
			err := remove(t.Context(), v, old.ID)
			if err == nil {
				_, err = catalog.Sweep(t.Context(), v, later)
			}
			s.SetFaults(nil)
			if err != nil && !errors.Is(err, storetest.ErrCrashed) {
				t.Fatal(err)
			}
			whole(t, v, old)
			if !whole(t, v, kept) {
				t.Fatalf("crash at %d: the other point is gone", n)
			}
			if again := remove(t.Context(), v, old.ID); again != nil {
				t.Fatalf("crash at %d: going on: %v", n, again)
			}
			if _, again := catalog.Sweep(t.Context(), v, later); again != nil {
				t.Fatalf("crash at %d: going on: %v", n, again)
			}
			if _, gone := v.Snapshot(t.Context(), old.Volumes[0].Snapshot); whole(t, v, old) || !errors.Is(gone, volume.ErrSnapshotNotFound) || !whole(t, v, kept) {
				t.Fatalf("crash at %d: its data: %v", n, gone)
			}
			if left, err := catalog.Removals(t.Context(), v); err != nil || len(left) != 0 {
				t.Fatalf("crash at %d: left %v, %v", n, left, err)
			}
			if err == nil {
				break
			}
		}
	}
}

// TestSaversAndRemovers has points written, held, removed and swept at once, over a store whose requests fail now and then.
func TestSaversAndRemovers(t *testing.T) {
	v, s := faultyVault(t)
	const savers, each = 10, 3
	s.SetFaults(storetest.Random(1, 0.02, storetest.Fault{Delay: time.Millisecond}, storetest.Fault{Err: store.ErrUnavailable, Done: true}))
	retry := func(do func() error) error {
		for {
			if err := do(); !errors.Is(err, store.ErrUnavailable) {
				return err
			}
		}
	}
	var mu sync.Mutex
	var held, removed []point.Record
	made := make(chan point.Record, savers*each)
	var saving, all sync.WaitGroup
	for i := range savers {
		saving.Go(func() {
			for j := range each {
				r := record(fmt.Sprintf("202601%02d-000000-%08x", i+1, i*each+j), i+1)
				if err := retry(func() error { return catalog.Put(t.Context(), v, r) }); err != nil {
					t.Errorf("saver: %v", err)
				}
				made <- r
			}
		})
	}
	for range savers {
		all.Go(func() {
			for r := range made {
				var both sync.WaitGroup
				both.Go(func() {
					err := retry(func() error {
						return catalog.PutHold(t.Context(), v, catalog.Hold{Point: r.ID, Reason: "audit", Since: now})
					})
					if err == nil {
						mu.Lock()
						held = append(held, r)
						mu.Unlock()
					} else if !errors.Is(err, catalog.ErrPointNotFound) {
						t.Errorf("holder: %v", err)
					}
				})
				err := retry(func() error { return remove(t.Context(), v, r.ID) })
				if err == nil {
					mu.Lock()
					removed = append(removed, r)
					mu.Unlock()
				} else if !errors.Is(err, catalog.ErrHeld) {
					t.Errorf("remover: %v", err)
				}
				if _, err := catalog.Sweep(t.Context(), v, later); err != nil && !errors.Is(err, store.ErrUnavailable) {
					t.Errorf("sweeper: %v", err)
				}
				both.Wait()
			}
		})
	}
	saving.Wait()
	close(made)
	all.Wait()
	s.SetFaults(nil)
	if _, err := catalog.Sweep(t.Context(), v, later); err != nil {
		t.Fatal(err)
	}
	for _, r := range held {
		if _, err := catalog.Get(t.Context(), v, r.ID); err != nil {
			t.Errorf("held and gone: %v", err)
		}
	}
	for _, r := range removed {
		if _, err := catalog.Get(t.Context(), v, r.ID); !errors.Is(err, catalog.ErrPointNotFound) {
			t.Errorf("removed and there: %v", err)
		}
	}
	if len(held)+len(removed) < savers*each {
		t.Logf("%d held, %d removed: both gave way to each other for the rest", len(held), len(removed))
	}
}
