package retention

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	rules "github.com/lockstep-dr/lockstep/pkg/retention"
)

// locks remembers until when stores keep points, by the vault's own ID and the point's. A lock never ends earlier than the store said.
type locks struct {
	mu    sync.Mutex
	until map[[2]string]time.Time
}

// of returns what is remembered and not over.
func (l *locks) of(vault, point string, now time.Time) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := [2]string{vault, point}
	until := l.until[key]
	if !until.After(now) {
		delete(l.until, key)
		return time.Time{}
	}
	return until
}

func (l *locks) note(vault, point string, until time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.until == nil {
		l.until = map[[2]string]time.Time{}
	}
	l.until[[2]string{vault, point}] = until
}

// observeLocks learns which of the points that would go the store keeps, and reports whether there are any. The others need not be asked
// for, of which there may be many.
func (r *Reconciler) observeLocks(ctx context.Context, s *step, verdicts []rules.Verdict) (found bool, err error) {
	now := r.Clock.Now()
	going := map[string]bool{}
	for _, v := range verdicts {
		going[v.Point.ID] = !v.Keep
	}
	for i := range s.facts.points {
		p := &s.facts.points[i]
		if !going[p.ID] {
			continue
		}
		until := r.locks.of(s.vault.ID(), p.ID, now)
		if until.IsZero() {
			until, err = catalog.LockedUntil(ctx, s.vault, p.ID)
			if errors.Is(err, catalog.ErrPointNotFound) {
				continue // removed meanwhile
			}
			if err != nil {
				return false, vaults.NewError(s.name, err)
			}
			if until.After(now) {
				r.locks.note(s.vault.ID(), p.ID, until)
			}
		}
		p.LockedUntil = until
		found = found || until.After(now)
	}
	return found, nil
}
