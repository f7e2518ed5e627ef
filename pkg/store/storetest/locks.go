package storetest

import (
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// RunLocks checks the contract of store.Locker. Each call of open returns an empty store that locks for keep, an hour or more; what it is
// left with cannot be deleted.
func RunLocks(t *testing.T, keep time.Duration, open func(t *testing.T) store.Locker) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, store.Locker, time.Duration){
		"Put": lockedPut, "PutUnlocked": unlockedPut, "Prolong": prolong, "Absent": lockAbsent,
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			if got := s.Retention(); got != keep {
				t.Fatalf("it locks for %v, want %v", got, keep)
			}
			if err := s.CheckLock(t.Context()); err != nil {
				t.Fatalf("CheckLock: %v", err)
			}
			test(t, s, keep)
		})
	}
}

func lockedUntil(t *testing.T, s store.Locker, name string) time.Time {
	t.Helper()
	until, err := s.LockedUntil(t.Context(), name)
	if err != nil {
		t.Fatalf("LockedUntil(%q): %v", name, err)
	}
	return until
}

func wantLocked(t *testing.T, s store.Locker, name string) {
	t.Helper()
	wantErr(t, "Delete under a lock", s.Delete(t.Context(), name), store.ErrLocked)
	if _, err := s.Stat(t.Context(), name); err != nil {
		t.Errorf("after a refused Delete: %v", err)
	}
}

func lockedPut(t *testing.T, s store.Locker, keep time.Duration) {
	before := time.Now().Add(-time.Second) // stores may know no parts of a second
	put(t, s, "packs/x", []byte("kept"))
	until := lockedUntil(t, s, "packs/x")
	if at := before.Add(keep); until.Before(at) || until.After(time.Now().Add(keep+store.LockSpare(keep)+time.Minute)) {
		t.Errorf("locked until %v, want %v and a little spare", until, at)
	}
	wantLocked(t, s, "packs/x")
}

func unlockedPut(t *testing.T, s store.Locker, keep time.Duration) {
	if err := s.PutUnlocked(t.Context(), "packs/x", []byte("free")); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "second PutUnlocked", s.PutUnlocked(t.Context(), "packs/x", nil), store.ErrExists)
	if until := lockedUntil(t, s, "packs/x"); !until.IsZero() {
		t.Errorf("locked until %v, want not at all", until)
	}
	if err := s.Delete(t.Context(), "packs/x"); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if err := s.PutUnlocked(t.Context(), "packs/y", []byte("free")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lock(t.Context(), "packs/y", time.Now().Add(keep)); err != nil {
		t.Fatal(err)
	}
	wantLocked(t, s, "packs/y")
}

func prolong(t *testing.T, s store.Locker, keep time.Duration) {
	put(t, s, "packs/x", []byte("kept"))
	before := lockedUntil(t, s, "packs/x")
	later := time.Now().Add(2 * keep).Truncate(time.Second)
	for _, until := range []time.Time{later, time.Now(), later.Add(-keep)} {
		got, err := s.Lock(t.Context(), "packs/x", until)
		if err != nil || got.Before(later) {
			t.Errorf("Lock until %v: %v, %v, want never before %v", until, got, err, later)
		}
		if read := lockedUntil(t, s, "packs/x"); !read.Equal(got) || !read.After(before) {
			t.Errorf("locked until %v, want %v", read, got)
		}
	}
	wantLocked(t, s, "packs/x")
}

func lockAbsent(t *testing.T, s store.Locker, keep time.Duration) {
	_, err := s.LockedUntil(t.Context(), "packs/none")
	wantErr(t, "LockedUntil of nothing", err, store.ErrNotFound)
	_, err = s.Lock(t.Context(), "packs/none", time.Now().Add(keep))
	wantErr(t, "Lock of nothing", err, store.ErrNotFound)
}
