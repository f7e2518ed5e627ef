package storetest

import (
	"context"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// Retention implements store.Locker. It is 0 if the store behind is none.
func (f *Faulty) Retention() time.Duration {
	if locker, ok := f.store.(store.Locker); ok {
		return locker.Retention()
	}
	return 0
}

// CheckLock implements store.Locker.
func (f *Faulty) CheckLock(ctx context.Context) error {
	_, err := f.lock(ctx, Locked, "", func(l store.Locker) (time.Time, error) { return time.Time{}, l.CheckLock(ctx) })
	return err
}

// PutUnlocked implements store.Locker. For Faults it is a Put.
func (f *Faulty) PutUnlocked(ctx context.Context, name string, data []byte) error {
	return f.request(ctx, request{op: Put, name: name, data: data, open: true})
}

// LockedUntil implements store.Locker.
func (f *Faulty) LockedUntil(ctx context.Context, name string) (time.Time, error) {
	return f.lock(ctx, Locked, name, func(l store.Locker) (time.Time, error) { return l.LockedUntil(ctx, name) })
}

// Lock implements store.Locker.
func (f *Faulty) Lock(ctx context.Context, name string, until time.Time) (time.Time, error) {
	return f.lock(ctx, Lock, name, func(l store.Locker) (time.Time, error) { return l.Lock(ctx, name, until) })
}

func (f *Faulty) lock(ctx context.Context, op Op, name string, do func(store.Locker) (time.Time, error)) (until time.Time, err error) {
	fault, err := f.begin(ctx, Call{Op: op, Name: name})
	if err != nil {
		return until, err
	}
	if fault.Err == nil && !fault.Lose || fault.Done {
		locker, ok := f.store.(store.Locker)
		if !ok {
			return until, failed(op, name, store.ErrCannotLock)
		}
		until, err = do(locker)
	}
	return until, fault.end(op, name, err)
}
