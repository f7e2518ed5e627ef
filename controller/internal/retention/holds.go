package retention

import (
	"context"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// holdsAge is how old a listing of holds may be. Whoever removes a point asks for its own hold once more, so that age costs nobody a point.
const holdsAge = time.Minute

// holds are those of each vault, listed once for all policies that are judged within a minute. The zero value has none yet.
type holds struct {
	mu     sync.Mutex
	listed map[string]listing // by the vault's ID
}

type listing struct {
	at    time.Time
	holds map[string]catalog.Hold
}

// of returns the holds of a vault by the IDs of their points, for reading only.
func (h *holds) of(ctx context.Context, v *volume.Vault, now time.Time) (map[string]catalog.Hold, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l, ok := h.listed[v.ID()]; ok && !now.Before(l.at) && now.Sub(l.at) < holdsAge {
		return l.holds, nil
	}
	all, err := catalog.Holds(ctx, v, now)
	if err != nil {
		return nil, err
	}
	if h.listed == nil {
		h.listed = map[string]listing{}
	}
	h.listed[v.ID()] = listing{now, all}
	return all, nil
}
