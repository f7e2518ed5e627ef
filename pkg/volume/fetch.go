package volume

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	// maxFetch bounds what one request fetches, and maxGap what it fetches needlessly between two wanted pieces.
	maxFetch = 8 << 20
	maxGap   = 128 << 10
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
	index    *index
	progress *progress
	slots    chan struct{}
}

func newFetcher(v *Vault, x *index, p *progress) *fetcher {
	return &fetcher{v, x, p, make(chan struct{}, parallel)}
}

// planned is a want with the place where its chunk lies.
type planned struct {
	want
	at located
}

// fetch gets the chunks in as few requests as is reasonable, several at once, and hands each to its use.
func (f *fetcher) fetch(ctx context.Context, wants []want) error {
	plan, err := f.plan(wants)
	if err != nil {
		return err
	}
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
			return f.get(ctx, part)
		})
	}
	return g.Wait()
}

// plan finds the chunks and sorts them as they lie.
func (f *fetcher) plan(wants []want) ([]planned, error) {
	plan := make([]planned, 0, len(wants))
	for _, w := range wants {
		at, found := f.index.find(f.vault.keys.chunkID(w.digest))
		if found {
			plan = append(plan, planned{w, at})
			continue
		}
		if err := w.use(nil, fmt.Errorf("%w: a chunk is in none of the packs", ErrDamaged)); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(plan, func(a, b planned) int {
		return cmp.Or(cmp.Compare(a.at.pack, b.at.pack), cmp.Compare(a.at.off, b.at.off))
	})
	return plan, nil
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
	p := f.index.packs[part[0].at.pack]
	first, last := part[0].at, part[len(part)-1].at
	length := int64(last.off+last.stored) - int64(first.off)
	data, err := f.vault.store.Get(ctx, p.id.object(), int64(first.off), length)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(part, fmt.Errorf("%w: %w", ErrDamaged, err))
	case err != nil:
		return err
	}
	f.progress.stored.Add(length)
	s := f.vault.keys.sealer(p.header[:], p.id.object())
	var scratch []byte
	for i := 0; i < len(part); {
		same := i + 1
		for same < len(part) && part[same].at.off == part[i].at.off {
			same++
		}
		at := part[i].at
		piece := data[at.off-first.off:][:at.stored]
		if int(at.raw) > len(scratch) {
			scratch = make([]byte, max(int(at.raw), cellSize))
		}
		chunk, err := openPiece(s, at, piece, scratch, part[i].digest)
		if err != nil {
			err = fmt.Errorf("object %q at %d: %w", p.id.object(), at.off, err)
		}
		for ; i < same; i++ {
			if err := part[i].use(chunk, err); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func refuse(part []planned, err error) error {
	for _, w := range part {
		if err := w.use(nil, err); err != nil {
			return err
		}
	}
	return nil
}

// openPiece decrypts, decodes and verifies one chunk.
func openPiece(s sealer, at located, piece, scratch []byte, want Hash) ([]byte, error) {
	encoded, err := s.open(int64(at.off), piece)
	if err != nil {
		return nil, err
	}
	chunk, err := decodeChunk(scratch, encoded, int(at.raw))
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
	chunks := make([][]byte, len(digests))
	wants := make([]want, len(digests))
	for i, d := range digests {
		wants[i] = want{d, func(chunk []byte, err error) error {
			chunks[i] = bytes.Clone(chunk)
			return err
		}}
	}
	return chunks, f.fetch(ctx, wants)
}
