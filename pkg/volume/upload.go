package volume

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"
)

// uploads is how many packs are on their way to the store at once. With the two being filled they are the bulk of what a
// save keeps in memory.
const uploads = 3

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
		var err error
		if p.cur, err = p.up.take(ctx); err != nil {
			return err
		}
	}
	p.cur.add(id, encoded, raw)
	if p.cur.full() {
		p.up.send(p.cur)
		p.cur = nil
	}
	return nil
}

func (p *packer) flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil {
		p.up.send(p.cur)
		p.cur = nil
	}
	return ctx.Err()
}

// uploader stores packs and the index of those that are stored. Its few buffers are what holds back the readers when the
// store is slow.
type uploader struct {
	vault    *Vault
	progress *progress
	g        *errgroup.Group
	ctx      context.Context
	free     chan *pack

	mu     sync.Mutex
	stored []described // durable, and not yet in an index object
	chunks int         // in stored
}

// newUploader returns an uploader, and a context that ends when an upload fails. Adopted packs go into the next index object.
func newUploader(ctx context.Context, v *Vault, p *progress, adopted []described) (*uploader, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	u := &uploader{vault: v, progress: p, g: g, ctx: ctx, free: make(chan *pack, uploads+2), stored: adopted}
	for range cap(u.free) {
		u.free <- &pack{}
	}
	return u, ctx
}

func (u *uploader) take(ctx context.Context) (*pack, error) {
	select {
	case p := <-u.free:
		p.reset()
		return p, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// send stores a pack in the background.
func (u *uploader) send(p *pack) {
	u.g.Go(func() error {
		p.seal(&u.vault.keys)
		if err := u.put(u.ctx, p.id.object(), p.data); err != nil {
			return fmt.Errorf("storing pack: %w", err)
		}
		d := p.describe()
		u.free <- p
		return u.describe(u.ctx, d)
	})
}

func (u *uploader) put(ctx context.Context, name string, data []byte) error {
	if err := u.vault.store.Put(ctx, name, data); err != nil {
		return err
	}
	u.progress.stored.Add(int64(len(data)))
	return nil
}

// describe notes a durable pack, and writes an index object whenever there is enough for one.
func (u *uploader) describe(ctx context.Context, d described) error {
	u.mu.Lock()
	u.stored = append(u.stored, d)
	u.chunks += len(d.chunks)
	var full []described
	if len(u.stored) >= indexPacks || u.chunks >= indexChunks {
		full, u.stored, u.chunks = u.stored, nil, 0
	}
	u.mu.Unlock()
	return u.putIndex(ctx, full)
}

func (u *uploader) putIndex(ctx context.Context, packs []described) error {
	if len(packs) == 0 {
		return nil
	}
	name := indexPrefix + randomName()
	if err := u.put(ctx, name, u.vault.keys.sealObject(typeIndex, name, encodeIndex(packs))); err != nil {
		return fmt.Errorf("storing index: %w", err)
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
