package volume

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	// maxFetch bounds what one request fetches, and maxGap what it fetches needlessly between two wanted pieces.
	maxFetch = 4 << 20
	maxGap   = 128 << 10
	// fetches is how many requests of a fetcher run at once: with maxFetch, enough for a store that answers late, and what a
	// load keeps in memory.
	fetches = 16
)

// want is a chunk that is wanted.
type want struct {
	digest Hash
	// use takes the chunk, which it must not keep, or an error that is ErrDamaged. It may run in any goroutine. An error that
	// it returns ends the fetch.
	use func(chunk []byte, err error) error
}

// fetcher reads chunks. Several fetches share its budget of requests.
type fetcher struct {
	vault    *Vault
	progress *progress
	slots    chan struct{}

	mu      sync.Mutex
	index   *index
	renewed int             // how often the index was held against the packs that exist
	old     []*index        // that fetches may still use
	bad     map[string]bool // objects that were found damaged

	near near
}

// newFetcher returns a fetcher that owns the index. It must be closed.
func newFetcher(v *Vault, x *index, p *progress) *fetcher {
	return &fetcher{vault: v, index: x, progress: p, slots: make(chan struct{}, fetches), near: newNear()}
}

// openFetcher returns a fetcher for all that the Vault has.
func (v *Vault) openFetcher(ctx context.Context, p *progress) (*fetcher, error) {
	x, err := v.loadIndex(ctx)
	if err != nil {
		return nil, err
	}
	return newFetcher(v, x, p), nil
}

func (f *fetcher) close() {
	for _, x := range append(f.old, f.index) {
		x.close()
	}
}

// damaged names objects that were found damaged and could be done without.
func (f *fetcher) damaged() []string {
	names := slices.Concat(f.index.damaged, slices.Collect(maps.Keys(f.bad)))
	slices.Sort(names)
	return slices.Compact(names)
}

// planned is a want with the place where its chunk lies.
type planned struct {
	want
	index *index
	at    slot
	more  []slot // other places
	again bool   // what is at this place was found damaged, and is read once more
}

// fetch gets the chunks in as few requests as is reasonable, several at once, and hands each to its use.
func (f *fetcher) fetch(ctx context.Context, wants []want) error {
	plan, err := f.plan(ctx, wants)
	if err != nil {
		return err
	}
	return f.each(ctx, plan, f.get)
}

// each has get take the plan in parts that one request gets, several at once.
func (f *fetcher) each(ctx context.Context, plan []planned, get func(context.Context, []planned) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for len(plan) > 0 {
		n := coalesce(plan)
		part := plan[:n]
		plan = plan[n:]
		select {
		case f.slots <- struct{}{}:
		case <-ctx.Done():
			return errors.Join(g.Wait(), ctx.Err())
		}
		g.Go(func() error {
			defer func() { <-f.slots }()
			return get(ctx, part)
		})
	}
	return g.Wait()
}

// plan finds the chunks and sorts them as they lie.
func (f *fetcher) plan(ctx context.Context, wants []want) ([]planned, error) {
	x := f.current()
	plan, missing := planIn(x, &f.vault.keys, wants)
	if len(missing) > 0 {
		// A part of the index may be lost. The packs themselves tell what is in them.
		wider, err := f.widen(ctx, x, false)
		if err != nil {
			return nil, err
		}
		if wider != x {
			plan, missing = planIn(wider, &f.vault.keys, wants)
		}
	}
	for _, w := range missing {
		if err := w.use(nil, fmt.Errorf("%w: a chunk is in none of the packs", ErrDamaged)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(plan, func(a, b planned) int {
		return cmp.Or(cmp.Compare(a.at.pack, b.at.pack), cmp.Compare(a.at.off, b.at.off))
	})
	return plan, nil
}

func planIn(x *index, k *keys, wants []want) (plan []planned, missing []want) {
	plan = make([]planned, 0, len(wants))
	for _, w := range wants {
		places := x.find(k.chunkID(w.digest))
		if len(places) == 0 {
			missing = append(missing, w)
			continue
		}
		plan = append(plan, planned{want: w, index: x, at: places[0], more: places[1:]})
	}
	return plan, missing
}

func (f *fetcher) current() *index {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.index
}

// widen returns an index that was held against the packs that exist, instead of x; if x was itself, only when it is stale by now.
func (f *fetcher) widen(ctx context.Context, x *index, stale bool) (*index, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.index != x || f.renewed > 0 && !stale || f.renewed >= indexTries {
		return f.index, nil
	}
	wider, err := f.vault.checkIndex(ctx)
	if err != nil {
		return nil, err
	}
	f.old, f.index = append(f.old, x), wider
	f.renewed++
	return wider, nil
}

// coalesce returns how many of the first chunks one request gets.
func coalesce(plan []planned) int {
	first := plan[0].at
	for i := 1; i < len(plan); i++ {
		last, next := plan[i-1].at, plan[i].at
		if next.pack != first.pack || next.off > last.off+last.stored+maxGap || next.off+next.stored-first.off > maxFetch {
			return i
		}
	}
	return len(plan)
}

// get fetches one range of one pack and hands out what is in it.
func (f *fetcher) get(ctx context.Context, part []planned) error {
	p := &part[0].index.packs[part[0].at.pack]
	first, last := part[0].at, part[len(part)-1].at
	length := int64(last.off+last.stored) - int64(first.off)
	v := f.vault
	if part[0].again {
		v = v.uncached()
	}
	data, err := v.getPack(ctx, p.id, int64(first.off), length)
	switch {
	case errors.Is(err, store.ErrNotFound), damaged(err):
		return f.refuse(ctx, part, fmt.Errorf("%w: %w", ErrDamaged, err))
	case err != nil:
		return err
	}
	f.progress.stored.Add(length)
	return f.open(ctx, part, data, first.off)
}

// open hands out what is in a range of one pack, which begins at from; it decrypts in place.
func (f *fetcher) open(ctx context.Context, part []planned, data []byte, from uint32) error {
	p := &part[0].index.packs[part[0].at.pack]
	s := f.vault.keys.sealer(p.header[:], p.id.object())
	var scratch []byte
	for i := 0; i < len(part); {
		same := i + 1
		for same < len(part) && part[same].at.off == part[i].at.off {
			same++
		}
		at := part[i].at
		piece := data[at.off-from:][:at.stored]
		if int(at.raw) > len(scratch) {
			scratch = make([]byte, max(int(at.raw), cellSize))
		}
		chunk, err := f.vault.openPiece(s, at.place, piece, scratch, part[i].digest)
		if err != nil {
			err = f.refuse(ctx, part[i:same], fmt.Errorf("object %q at %d: %w", p.id.object(), at.off, err))
		} else {
			if part[i].again {
				f.vault.reread.Add(1)
			}
			err = hand(part[i:same], chunk)
		}
		if err != nil {
			return err
		}
		i = same
	}
	return ctx.Err()
}

func hand(part []planned, chunk []byte) error {
	for _, w := range part {
		if err := w.use(chunk, nil); err != nil {
			return err
		}
	}
	return nil
}

// refuse reads the chunks once more, then tries their other places, or says that there are none.
func (f *fetcher) refuse(ctx context.Context, part []planned, damage error) error {
	if !part[0].again && !errors.Is(damage, store.ErrNotFound) {
		again := slices.Clone(part)
		for i := range again {
			again[i].again = true
		}
		return f.get(ctx, again)
	}
	f.note(part[0])
	for _, w := range part {
		places := w.more
		x := w.index
		if len(places) == 0 && errors.Is(damage, store.ErrNotFound) {
			// The pack may have been replaced since the index was read, or since it was last held against the packs.
			wider, err := f.widen(ctx, x, !x.packs[w.at.pack].missing)
			if err != nil {
				return err
			}
			if wider != x {
				x, places = wider, slices.DeleteFunc(slices.Clone(wider.find(f.vault.keys.chunkID(w.digest))), wider.missing)
			}
		}
		err := error(nil)
		if len(places) > 0 {
			err = f.get(ctx, []planned{{want: w.want, index: x, at: places[0], more: places[1:]}})
		} else {
			err = w.use(nil, damage)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// note remembers a pack that was found damaged.
func (f *fetcher) note(w planned) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad == nil {
		f.bad = map[string]bool{}
	}
	f.bad[w.index.packs[w.at.pack].id.object()] = true
}

// openPiece decrypts, decodes and verifies one chunk.
func (v *Vault) openPiece(s sealer, at place, piece, scratch []byte, want Hash) ([]byte, error) {
	encoded, err := s.open(roleContent, int64(at.off), piece)
	if err != nil {
		return nil, err
	}
	chunk, err := v.codec.decode(scratch, encoded, int(at.raw))
	if err != nil {
		return nil, err
	}
	if blake3.Sum256(chunk) != want {
		return nil, fmt.Errorf("%w: a chunk is not the one its place says", ErrDamaged)
	}
	return chunk, nil
}

// read returns chunks that fit in memory together. Damage to any is an error.
func (f *fetcher) read(ctx context.Context, digests []Hash) ([][]byte, error) {
	chunks, wants := collect(digests)
	return chunks, f.fetch(ctx, wants)
}

// collect returns wants that copy the chunks.
func collect(digests []Hash) (chunks [][]byte, wants []want) {
	chunks, wants = make([][]byte, len(digests)), make([]want, len(digests))
	for i, d := range digests {
		wants[i] = want{d, func(chunk []byte, err error) error {
			chunks[i] = bytes.Clone(chunk)
			return err
		}}
	}
	return chunks, wants
}
