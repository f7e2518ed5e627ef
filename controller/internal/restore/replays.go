package restore

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"
)

// maxReplays bounds the memory that rendered commits may take. A restore whose replay was dropped prepares it again.
const maxReplays = 32

// replays remembers the replays of restores that are under way.
type replays struct {
	mu    sync.Mutex
	byUID map[types.UID]*replay
	order []types.UID // oldest first
}

func newReplays() *replays { return &replays{byUID: map[types.UID]*replay{}} }

func (r *replays) get(uid types.UID) *replay {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byUID[uid]
}

func (r *replays) put(uid types.UID, fresh *replay) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.byUID[uid]; !known {
		r.order = append(r.order, uid)
	}
	r.byUID[uid] = fresh
	if len(r.order) > maxReplays {
		delete(r.byUID, r.order[0])
		r.order = r.order[1:]
	}
}

func (r *replays) drop(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.byUID, uid)
	r.order = slices.DeleteFunc(r.order, func(u types.UID) bool { return u == uid })
}
