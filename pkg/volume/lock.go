package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// parallelLocks is how many locks are asked for at once: such requests are small, and a save may need very many.
const parallelLocks = 32

// locks remembers until when objects are locked, as the store told. A lock never ends earlier.
type locks struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func newLocks() *locks { return &locks{until: map[string]time.Time{}} }

func (l *locks) last(name string, until time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.until[name].Before(until)
}

func (l *locks) note(name string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until[name] = until
}

// locker is the store behind any cache if it locks what is written, else nil.
func (v *Vault) locker() store.Locker {
	if l, ok := uncached(v.store).(store.Locker); ok && l.Retention() > 0 {
		return l
	}
	return nil
}

// CanLock returns store.ErrCannotLock, and how to mend it, if the store says that it does not lock what the Vault writes. It writes nothing:
// that the credentials may lock is not known before CheckLocks.
func (v *Vault) CanLock(ctx context.Context) error {
	if l := v.locker(); l != nil {
		return l.CheckLock(ctx)
	}
	return fmt.Errorf("%w: only S3 with Object Lock can", store.ErrCannotLock)
}

// CheckLocks makes sure that the store locks what the Vault writes, by locking what every snapshot needs: the config and the keys. It
// returns store.ErrCannotLock, and how to mend it, if the store cannot.
func (v *Vault) CheckLocks(ctx context.Context) error {
	if err := v.CanLock(ctx); err != nil {
		return err
	}
	keys, err := list(ctx, v.store, keyPrefix)
	if err != nil {
		return fmt.Errorf("listing keys: %w", err)
	}
	names := []string{configName}
	for _, k := range keys {
		names = append(names, k.Name)
	}
	return v.keep(ctx, v.locker(), names)
}

// keep has objects locked from now on for the store's retention, and half of the spare, so that what is recorded a little later, and
// locked just for the retention, does not outlast them. What is locked for long enough is not locked again.
func (v *Vault) keep(ctx context.Context, l store.Locker, names []string) error {
	retention, spare, now := l.Retention(), store.LockSpare(l.Retention()), time.Now()
	enough, wanted := now.Add(retention+spare/2), now.Add(retention+spare)
	g, groupCtx := errgroup.WithContext(ctx)
	g.SetLimit(parallelLocks)
	for _, name := range names {
		if groupCtx.Err() != nil {
			break
		}
		if v.locks.last(name, enough) {
			continue
		}
		g.Go(func() error {
			until, err := l.LockedUntil(groupCtx, name)
			if err == nil && until.Before(enough) {
				until, err = l.Lock(groupCtx, name, wanted)
			}
			if err != nil {
				return err
			}
			v.locks.note(name, until)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// lock has all that the save's snapshot needs locked for as long as the snapshot itself, what it reuses included. A blind save can ask
// for nothing: it relies on what it wrote.
func (s *saver) lock(ctx context.Context) error {
	l := s.vault.locker()
	if l == nil {
		return nil
	}
	if err := s.vault.CheckLocks(ctx); err != nil {
		return fmt.Errorf("locking the vault: %w", err)
	}
	var packs []string
	for id := range s.needs() {
		packs = append(packs, id.object())
	}
	switch err := s.vault.keep(ctx, l, packs); {
	case errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("locking packs: %w: %w", ErrOvertaken, err)
	case err != nil:
		return fmt.Errorf("locking packs: %w", err)
	}
	err := each(ctx, s.indexObjects(), func(ctx context.Context, _ int, name string) error {
		err := s.vault.keep(ctx, l, []string{name})
		if errors.Is(err, store.ErrNotFound) {
			err = nil // a prune replaced it meanwhile, and its successor was locked as it was written
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("locking the index: %w", err)
	}
	return nil
}

// indexObjects are index objects that together describe the packs that the save needs: the largest first, as a prune keeps them.
func (s *saver) indexObjects() []string {
	names := slices.Clone(s.up.indexes)
	described := newBitmap(len(s.index.packs))
	for _, o := range s.index.bySize() {
		fresh := false
		for _, number := range o.packs {
			fresh = s.relied[number].Load() && described.set(int(number)) || fresh
		}
		if fresh {
			names = append(names, o.name)
		}
	}
	return names
}

// recordLocked makes sure that a snapshot's object is locked.
func (v *Vault) recordLocked(ctx context.Context, id string) error {
	l := v.locker()
	if l == nil {
		return nil
	}
	if err := v.keep(ctx, l, []string{snapshotPrefix + id}); err != nil {
		return fmt.Errorf("locking snapshot %q: %w", id, err)
	}
	return nil
}

// PutUnlockedDocument is PutDocument for a document that is deleted before long: a store that locks does not lock it.
func (v *Vault) PutUnlockedDocument(ctx context.Context, kind, name string, data []byte) error {
	_, err := v.putDocument(ctx, kind, name, data, v.unlockedPut())
	return err
}

// unlockedPut is the store's Put without a lock.
func (v *Vault) unlockedPut() putFunc {
	if l := v.locker(); l != nil {
		return l.PutUnlocked
	}
	return v.store.Put
}

// LockDocument has a document locked from now on for just the store's retention, unless it is locked already. It does nothing if the store
// does not lock.
func (v *Vault) LockDocument(ctx context.Context, kind, name string) error {
	l := v.locker()
	if l == nil {
		return nil
	}
	object, err := v.documentObject(kind, name)
	if err != nil {
		return err
	}
	until, err := l.LockedUntil(ctx, object)
	if err == nil && until.IsZero() {
		_, err = l.Lock(ctx, object, time.Now().Add(l.Retention()))
	}
	if err != nil {
		return fmt.Errorf("locking document %q of kind %q: %w", name, kind, err)
	}
	return nil
}

// DocumentLockedUntil says until when the store keeps a document, whoever asks to delete it; the zero time is not at all.
func (v *Vault) DocumentLockedUntil(ctx context.Context, kind, name string) (time.Time, error) {
	l := v.locker()
	if l == nil {
		return time.Time{}, nil
	}
	object, err := v.documentObject(kind, name)
	if err != nil {
		return time.Time{}, err
	}
	until, err := l.LockedUntil(ctx, object)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrDocumentNotFound
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("document %q of kind %q: %w", name, kind, err)
	}
	return until, nil
}

// locked tells whether the store keeps an object for now.
func (p *pruning) locked(ctx context.Context, name string) (bool, error) {
	l := p.locker()
	if l == nil {
		return false, nil
	}
	now := p.now
	if now.IsZero() {
		now = time.Now()
	}
	until, err := l.LockedUntil(ctx, name)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCannotLock) {
		return false, nil // then deleting it tells more
	}
	return until.After(now), err
}

// unlocked leaves out packs that the store keeps for now: to condemn them would free nothing, and hide them from saves, which could
// use what is in them.
func (p *pruning) unlocked(ctx context.Context, numbers []int) ([]int, error) {
	kept := make([]bool, len(numbers))
	err := each(ctx, numbers, func(ctx context.Context, i, number int) (err error) {
		pack := &p.x.packs[number]
		if p.old(pack.modified) {
			kept[i], err = p.locked(ctx, pack.id.object())
		}
		return err
	})
	var left []int
	for i, number := range numbers {
		if kept[i] {
			p.report.Kept.add(int64(p.x.packs[number].size))
		} else {
			left = append(left, number)
		}
	}
	return left, err
}
