package volume

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

// packer fills packs, one after the other.
type packer struct {
	up  *uploader
	mu  sync.Mutex
	cur *pack
}

func (p *packer) add(ctx context.Context, id chunkID, encoded []byte, raw int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur == nil {
		p.cur = p.up.vault.budget.pack()
		p.cur.reset()
	}
	p.cur.add(id, encoded, raw)
	if p.cur.full() {
		return p.send(ctx)
	}
	return nil
}

func (p *packer) flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil {
		return p.send(ctx)
	}
	return nil
}

// send has the pack stored. That it waits when the store is slow is what holds back the readers.
func (p *packer) send(ctx context.Context) error {
	full := p.cur
	p.cur = nil
	return p.up.send(ctx, full)
}

// uploader stores packs and the index of those that are stored.
type uploader struct {
	vault    *Vault
	progress *progress
	g        *errgroup.Group
	ctx      context.Context

	mu     sync.Mutex
	stored []described // durable, and not yet in an index object
	chunks int         // in stored
	packs  []storedPack
	// indexes are the index objects that were written.
	indexes []string
}

// storedPack is a pack that a save stored.
type storedPack struct {
	id   packID
	size uint32
}

// newUploader returns an uploader, and a context that ends when an upload fails. Adopted packs go into the next index object.
func newUploader(ctx context.Context, v *Vault, p *progress, adopted []described) (*uploader, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	return &uploader{vault: v, progress: p, g: g, ctx: ctx, stored: adopted}, ctx
}

// send stores a pack in the background, when it is its turn.
func (u *uploader) send(ctx context.Context, p *pack) error {
	if err := u.vault.budget.store(ctx); err != nil {
		return err
	}
	u.g.Go(func() error {
		defer u.vault.budget.doneStoring(p)
		p.seal(&u.vault.keys)
		if err := u.put(u.ctx, p.id.object(), p.data); err != nil {
			return fmt.Errorf("storing pack: %w", err)
		}
		return u.describe(u.ctx, p.describe())
	})
	return nil
}

func (u *uploader) put(ctx context.Context, name string, data []byte) error {
	if err := u.vault.put(ctx, name, data); err != nil {
		return err
	}
	u.progress.stored.Add(int64(len(data)))
	return nil
}

// describe notes a durable pack, and writes an index object whenever there is enough for one.
func (u *uploader) describe(ctx context.Context, d described) error {
	u.mu.Lock()
	u.packs = append(u.packs, storedPack{d.id, d.size})
	u.stored = append(u.stored, d)
	u.chunks += len(d.chunks)
	var full []described
	if len(u.stored) >= indexPacks || u.chunks >= indexChunks {
		full, u.stored, u.chunks = u.stored, nil, 0
	}
	u.mu.Unlock()
	return u.putIndex(ctx, full)
}

// putIndex writes index objects, one unless there are very many packs.
func (u *uploader) putIndex(ctx context.Context, packs []described) error {
	for len(packs) > 0 {
		n, chunks := 0, 0
		for n < min(len(packs), indexPacks) && chunks < indexChunks {
			chunks += len(packs[n].chunks)
			n++
		}
		name := indexPrefix + randomName()
		if err := u.put(ctx, name, u.vault.keys.sealObject(typeIndex, name, encodeIndex(packs[:n]))); err != nil {
			return fmt.Errorf("storing index: %w", err)
		}
		u.mu.Lock()
		u.indexes = append(u.indexes, name)
		u.mu.Unlock()
		packs = packs[n:]
	}
	return nil
}

// finish waits for all packs and, unless the save failed, writes what is left of the index. It returns the error that
// came first: an upload that fails also ends the scan.
func (u *uploader) finish(ctx context.Context, saveErr error) error {
	if err := u.g.Wait(); err != nil {
		return err
	}
	if saveErr != nil {
		return saveErr
	}
	return u.putIndex(ctx, u.stored)
}
