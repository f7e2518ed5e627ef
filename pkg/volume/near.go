package volume

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	// nearBytes is how much a request for lists of chunks gets at least, a quarter of it from before what is wanted: lists are small,
	// are read file by file, and lie together.
	nearBytes = 1 << 20
	// nearKept bounds what is kept of that.
	nearKept = 8 << 20
)

// near is what was fetched lately around lists of chunks, as it is stored.
type near struct {
	turn chan struct{} // of the one who fetches: whoever waits may find then what it wants

	mu    sync.Mutex
	parts []nearPart // the one that was fetched last is the last
	size  int
}

// nearPart is a range of a pack.
type nearPart struct {
	pack packID
	from uint32
	data []byte
}

func newNear() near { return near{turn: make(chan struct{}, 1)} }

// find returns a copy of what is stored at a place, or nil.
func (n *near) find(id packID, at place) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.parts {
		p := &n.parts[i]
		if p.pack == id && at.off >= p.from && uint64(at.off)+uint64(at.stored) <= uint64(p.from)+uint64(len(p.data)) {
			return bytes.Clone(p.data[at.off-p.from:][:at.stored])
		}
	}
	return nil
}

func (n *near) keep(p nearPart) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.parts = append(n.parts, p)
	n.size += len(p.data)
	for len(n.parts) > 1 && n.size > nearKept {
		n.size -= len(n.parts[0].data)
		n.parts = slices.Delete(n.parts, 0, 1)
	}
}

// readNear is read for lists of chunks: it fetches more than what is wanted, and keeps that.
func (f *fetcher) readNear(ctx context.Context, digests []Hash) ([][]byte, error) {
	chunks, wants := collect(digests)
	plan, err := f.plan(ctx, wants)
	if err == nil {
		plan, err = f.openNear(ctx, plan)
	}
	if err != nil || len(plan) == 0 {
		return chunks, err
	}
	select {
	case f.near.turn <- struct{}{}:
		defer func() { <-f.near.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if plan, err = f.openNear(ctx, plan); err != nil {
		return nil, err
	}
	return chunks, f.each(ctx, plan, f.getNear)
}

// openNear hands out what was fetched already, and returns the rest of the plan.
func (f *fetcher) openNear(ctx context.Context, plan []planned) (rest []planned, err error) {
	for _, p := range plan {
		data := f.near.find(p.index.packs[p.at.pack].id, p.at.place)
		if data == nil {
			rest = append(rest, p)
		} else if err := f.open(ctx, []planned{p}, data, p.at.off); err != nil {
			return nil, err
		}
	}
	return rest, nil
}

// getNear is get that also fetches what lies around, and keeps it.
func (f *fetcher) getNear(ctx context.Context, part []planned) error {
	p := &part[0].index.packs[part[0].at.pack]
	first, last := part[0].at, part[len(part)-1].at
	from, end := int64(first.off), int64(last.off+last.stored)
	if missing := nearBytes - (end - from); missing > 0 {
		from = max(headerSize, from-missing/4)
		end = min(int64(p.size), max(end, from+nearBytes))
	}
	data, err := f.vault.getPack(ctx, p.id, from, end-from)
	switch {
	case errors.Is(err, store.ErrNotFound), damaged(err):
		return f.get(ctx, part) // what is wanted may be there nevertheless
	case err != nil:
		return err
	}
	f.progress.stored.Add(int64(len(data)))
	f.near.keep(nearPart{p.id, uint32(from), data})
	return f.open(ctx, part, bytes.Clone(data[int64(first.off)-from:end-from]), first.off)
}
