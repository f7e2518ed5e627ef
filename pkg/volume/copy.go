package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// copier copies chunks from packs to new ones, as they are encoded.
type copier struct {
	*Vault
	progress   *progress
	data, meta packer
}

// packedAt is a chunk in a pack, and where it begins there.
type packedAt struct {
	packed
	off  int64
	meta bool // it is part of a tree
}

func (p packedAt) end() int64 { return p.off + int64(p.stored) }

// pack copies the wanted chunks of a pack, which its own footer lists. A damaged chunk does not keep others from being copied; the error
// is ErrDamaged then, and store.ErrNotFound if the pack is gone.
func (c *copier) pack(ctx context.Context, id packID, size int64, wanted func(chunkID) (want, meta bool)) error {
	d, err := c.readFooter(ctx, id, size)
	if err != nil {
		return err
	}
	var parts []packedAt
	off := int64(headerSize)
	for _, k := range d.chunks {
		if want, meta := wanted(k.id); want {
			parts = append(parts, packedAt{k, off, meta})
		}
		off += int64(k.stored)
	}
	return c.parts(ctx, id, c.keys.sealer(d.header[:], id.object()), parts)
}

// parts copies chunks of one pack, which are in the order in which they lie.
func (c *copier) parts(ctx context.Context, id packID, s sealer, parts []packedAt) error {
	var damage error
	for len(parts) > 0 {
		n := 1
		for n < len(parts) && parts[n].off <= parts[n-1].end()+maxGap && parts[n].end()-parts[0].off <= maxFetch {
			n++
		}
		err := c.run(ctx, id, s, parts[:n])
		if errors.Is(err, store.ErrNotFound) || err != nil && !damaged(err) {
			return err
		}
		damage = errors.Join(damage, err)
		parts = parts[n:]
	}
	return damage
}

// run copies chunks that one request gets. Those that are found damaged are read once more.
func (c *copier) run(ctx context.Context, id packID, s sealer, parts []packedAt) error {
	_, err := twice(c.Vault, func(v *Vault) (struct{}, error) {
		var err error
		parts, err = c.copy(ctx, v, id, s, parts)
		return struct{}{}, err
	})
	return err
}

// copy copies chunks, and returns those that are damaged.
func (c *copier) copy(ctx context.Context, from *Vault, id packID, s sealer, parts []packedAt) (bad []packedAt, damage error) {
	start := parts[0].off
	data, err := from.getPack(ctx, id, start, parts[len(parts)-1].end()-start)
	if err != nil {
		return parts, err
	}
	c.progress.stored.Add(int64(len(data)))
	for _, p := range parts {
		encoded, err := s.open(roleContent, p.off, data[p.off-start:p.end()-start])
		if err != nil {
			bad = append(bad, p)
			damage = errors.Join(damage, fmt.Errorf("object %q at %d: %w", id.object(), p.off, err))
			continue
		}
		to := &c.data
		if p.meta {
			to = &c.meta
		}
		if err := to.add(ctx, p.id, encoded, int(p.raw)); err != nil {
			return nil, err
		}
	}
	return bad, damage
}

func (c *copier) flush(ctx context.Context) error {
	return errors.Join(c.data.flush(ctx), c.meta.flush(ctx))
}
