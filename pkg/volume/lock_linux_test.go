package volume_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

const month = 30 * 24 * time.Hour

// locking is a vault in a store that locks for a month.
type locking struct {
	*storetest.Memory
	id    *age.X25519Identity
	vault *volume.Vault
}

func newLocking(t *testing.T) *locking {
	t.Helper()
	l := &locking{Memory: storetest.NewMemory(), id: newIdentity(t)}
	l.SetRetention(month)
	var err error
	if l.vault, err = volume.Create(t.Context(), l, l.id.Recipient()); err != nil {
		t.Fatal(err)
	}
	return l
}

// reopen is another process, which remembers nothing.
func (l *locking) reopen(t *testing.T) {
	t.Helper()
	var err error
	if l.vault, err = volume.Open(t.Context(), l, l.id); err != nil {
		t.Fatal(err)
	}
}

// outlasts makes sure that a snapshot, and all that it needs where every pack is needed, is locked for a month from now.
func (l *locking) outlasts(t *testing.T, snapshot *volume.Snapshot) {
	t.Helper()
	until := time.Now().Add(month)
	for _, prefix := range []string{"config", "keys/", "packs/", "index/", "snapshots/" + snapshot.ID} {
		names := objects(l.Memory, prefix)
		if len(names) == 0 {
			t.Errorf("there is nothing below %q", prefix)
		}
		for _, name := range names {
			if got, err := l.LockedUntil(t.Context(), name); err != nil || got.Before(until) {
				t.Errorf("%q is locked until %v, %v, want %v", name, got, err, until)
			}
		}
	}
}

// What a later save reuses is locked as long as what that save records, and no more often than the spare makes needful.
func TestReusedPacksAreLockedLonger(t *testing.T) {
	dir := tree(t, numbers(0, 5)...)
	synctest.Test(t, func(t *testing.T) {
		l := newLocking(t)
		l.outlasts(t, save(t, l.vault, dir))

		l.reopen(t)
		l.SetFaults(nil)
		time.Sleep(time.Hour)
		l.outlasts(t, save(t, l.vault, dir))
		if n := l.Count(storetest.Lock); n != 0 {
			t.Errorf("%d objects were locked anew after an hour, want none: the spare suffices", n)
		}

		time.Sleep(20 * 24 * time.Hour)
		l.reopen(t)
		l.SetFaults(nil)
		last := save(t, l.vault, dir)
		l.outlasts(t, last)
		if n, packs := l.Count(storetest.Lock), len(objects(l.Memory, "packs/")); n < packs {
			t.Errorf("%d objects were locked anew after 20 days, want the %d packs at least", n, packs)
		}
		l.SetFaults(nil)
		save(t, l.vault, dir)
		if n := l.Count(storetest.Lock); n != 0 {
			t.Errorf("%d objects were locked again at once", n)
		}

		time.Sleep(month - time.Minute)
		for _, name := range append(objects(l.Memory, "packs/"), "config", "snapshots/"+last.ID) {
			wantErr(t, "deleting "+name, l.Delete(t.Context(), name), store.ErrLocked)
		}
		loads(t, l.vault, last)
	})
}

// A save whose locks fail has no snapshot, whatever it is that fails, and goes through when the store is well again.
func TestLocksThatFailFailTheSave(t *testing.T) {
	dir := tree(t, numbers(0, 3)...)
	for name, fault := range map[string]struct {
		op     storetest.Op
		prefix string
		fault  storetest.Fault
		want   error
	}{
		"a pack is not locked":         {storetest.Lock, "packs/", storetest.Fault{Err: store.ErrUnavailable}, store.ErrUnavailable},
		"a lock is lost":               {storetest.Lock, "packs/", storetest.Fault{Err: store.ErrCannotLock, Lose: true}, store.ErrCannotLock},
		"no right to ask for a lock":   {storetest.Locked, "packs/", storetest.Fault{Err: store.ErrDenied}, store.ErrDenied},
		"the key is not locked":        {storetest.Lock, "keys/", storetest.Fault{Err: store.ErrDenied}, store.ErrDenied},
		"the index is not locked":      {storetest.Lock, "index/", storetest.Fault{Err: store.ErrUnavailable}, store.ErrUnavailable},
		"the bucket lost its lock":     {storetest.Locked, "", storetest.Fault{Err: store.ErrCannotLock}, store.ErrCannotLock},
		"nobody tells of the snapshot": {storetest.Locked, "snapshots/", storetest.Fault{Err: store.ErrUnavailable}, store.ErrUnavailable},
		"a pack is gone":               {storetest.Locked, "packs/", storetest.Fault{Err: store.ErrNotFound}, volume.ErrOvertaken},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLocking(t)
				save(t, l.vault, dir)
				time.Sleep(20 * 24 * time.Hour)
				l.reopen(t)
				l.SetFaults(storetest.On(fault.op, fault.prefix, fault.fault))
				s, err := l.vault.Save(t.Context(), dir, volume.SaveOptions{})
				if s != nil || !errors.Is(err, fault.want) {
					t.Fatalf("got snapshot %v, %v, want %v", s, err, fault.want)
				}
				l.SetFaults(nil)
				l.outlasts(t, save(t, l.vault, dir))
			})
		})
	}
}

// A store that was to lock, and does not, is found out.
func TestCheckLocks(t *testing.T) {
	plain := newVault(t, storetest.NewMemory())
	wantErr(t, "a store without locks", plain.CheckLocks(t.Context()), store.ErrCannotLock)
	l := newLocking(t)
	must(t, l.vault.CheckLocks(t.Context()))
	l.SetFaults(storetest.On(storetest.Locked, "config", storetest.Fault{Err: store.ErrDenied}))
	l.reopen(t)
	wantErr(t, "without the right", l.vault.CheckLocks(t.Context()), store.ErrDenied)
}

// A copy is locked for the retention of where it is, from when it came there, what was there before included.
func TestCopiesAreLocked(t *testing.T) {
	dir := tree(t, numbers(0, 3)...)
	synctest.Test(t, func(t *testing.T) {
		from, to := newVault(t, storetest.NewMemory()), newLocking(t)
		first, second := save(t, from, dir), save(t, from, dir)
		_, err := from.CopyTo(t.Context(), to.vault, []string{first.ID}, volume.CopyOptions{})
		must(t, err)
		to.outlasts(t, first)
		time.Sleep(20 * 24 * time.Hour)
		to.reopen(t)
		to.SetFaults(storetest.On(storetest.Lock, "packs/", storetest.Fault{Err: store.ErrUnavailable}))
		_, err = from.CopyTo(t.Context(), to.vault, []string{second.ID}, volume.CopyOptions{})
		wantErr(t, "copying what cannot be locked", err, store.ErrUnavailable)
		to.SetFaults(nil)
		_, err = to.vault.Snapshot(t.Context(), second.ID)
		wantErr(t, "the snapshot of the copy that failed", err, volume.ErrSnapshotNotFound)
		_, err = from.CopyTo(t.Context(), to.vault, []string{second.ID}, volume.CopyOptions{})
		must(t, err)
		to.outlasts(t, second)
	})
}

// Documents are locked as they are written, and anew when they are found there; what is short-lived is not.
func TestDocumentsAreLocked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocking(t)
		until := func(kind, name string) time.Duration {
			t.Helper()
			at, err := l.vault.DocumentLockedUntil(t.Context(), kind, name)
			must(t, err)
			if at.IsZero() {
				return 0
			}
			return time.Until(at)
		}
		must(t, l.vault.PutDocument(t.Context(), "residual", "a", nil))
		must(t, l.vault.PutUnlockedDocument(t.Context(), "hold", "a", nil))
		if got := until("residual", "a"); got < month || until("hold", "a") != 0 {
			t.Errorf("locked for %v and %v", got, until("hold", "a"))
		}
		must(t, l.vault.DeleteDocument(t.Context(), "hold", "a"))
		wantErr(t, "deleting", l.vault.DeleteDocument(t.Context(), "residual", "a"), store.ErrLocked)
		time.Sleep(10 * 24 * time.Hour)
		l.reopen(t)
		wantErr(t, "writing it again", l.vault.PutDocument(t.Context(), "residual", "a", nil), volume.ErrDocumentExists)
		if got := until("residual", "a"); got < month {
			t.Errorf("written again, it is locked for %v", got)
		}
		must(t, l.vault.PutUnlockedDocument(t.Context(), "point", "a", nil))
		must(t, l.vault.LockDocument(t.Context(), "point", "a"))
		if got := until("point", "a"); got != month {
			t.Errorf("locked for %v, want just the retention", got)
		}
		_, err := l.vault.DocumentLockedUntil(t.Context(), "point", "b")
		wantErr(t, "no such document", err, volume.ErrDocumentNotFound)
	})
}

// A prune leaves packs alone that the store keeps, and does not copy what is in them; when the locks are over they go.
func TestPruneOfLockedPacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLocking(t)
		forgotten := save(t, l.vault, tree(t, numbers(0, 4)...))
		kept := save(t, l.vault, tree(t, numbers(3, 5)...))
		packs := len(objects(l.Memory, "packs/"))
		prune := func() *volume.PruneReport {
			t.Helper()
			time.Sleep(25 * time.Hour)
			r, err := l.vault.Prune(t.Context(), volume.PruneOptions{MinLive: 0.9})
			must(t, err)
			return r
		}
		wantErr(t, "forgetting under a lock", l.vault.Forget(t.Context(), forgotten.ID), store.ErrLocked)
		time.Sleep(month + month/10)
		must(t, l.vault.Forget(t.Context(), forgotten.ID))
		// Its packs were locked anew, as by another point.
		for _, name := range objects(l.Memory, "packs/") {
			_, err := l.Lock(context.Background(), name, time.Now().Add(month))
			must(t, err)
		}
		for range 3 {
			l.SetFaults(nil)
			r := prune()
			if r.Condemned.Objects+r.Repacked.Objects+r.Deleted.Objects != 0 || r.Kept.Objects == 0 {
				t.Fatalf("under locks: %+v", r)
			}
			if n := l.Count(storetest.Delete); n > 3 {
				t.Errorf("%d deletions were tried", n)
			}
		}
		if n := len(objects(l.Memory, "packs/")); n != packs {
			t.Errorf("%d packs, want the %d there were", n, packs)
		}
		time.Sleep(month)
		deleted := 0
		for range 4 {
			deleted += prune().Deleted.Objects
		}
		if deleted == 0 {
			t.Error("nothing was deleted after the locks")
		}
		loads(t, l.vault, kept)
	})
}
