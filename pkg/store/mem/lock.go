package mem

import (
	"context"
	"fmt"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// SetRetention has the store lock, for that long by its clock, what is written from now on.
func (s *Store) SetRetention(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep = d
}

// Retention implements store.Locker.
func (s *Store) Retention() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keep
}

// CheckLock implements store.Locker.
func (s *Store) CheckLock(ctx context.Context) error {
	if s.Retention() == 0 {
		return fmt.Errorf("%w: it was not told for how long", store.ErrCannotLock)
	}
	return alive(ctx, "check lock", "")
}

// PutUnlocked implements store.Locker.
func (s *Store) PutUnlocked(ctx context.Context, name string, data []byte) error {
	return s.put(ctx, name, data, false)
}

// LockedUntil implements store.Locker.
func (s *Store) LockedUntil(ctx context.Context, name string) (time.Time, error) {
	if err := check(ctx, "locked until", name); err != nil {
		return time.Time{}, err
	}
	o, err := s.object("locked until", name)
	return o.locked, err
}

// Lock implements store.Locker.
func (s *Store) Lock(ctx context.Context, name string, until time.Time) (time.Time, error) {
	if err := check(ctx, "lock", name); err != nil {
		return time.Time{}, err
	}
	o, err := s.object("lock", name)
	if err != nil {
		return time.Time{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.After(o.locked) {
		o.locked = until
		s.objects[name] = o
	}
	return o.locked, nil
}
