package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	indexPrefix = "index/"
	// indexPacks is how many packs one index object describes at most.
	indexPacks      = 256
	indexHeaderSize = 16 + headerSize + 4 + 4
)

// described is a pack with its chunks, as an index object holds it.
type described struct {
	id     packID
	header [headerSize]byte // of the pack object: with it, a piece can be read and opened in one request
	size   uint32
	chunks []packed
}

func encodeIndex(packs []described) []byte {
	var b []byte
	for _, p := range packs {
		b = append(append(b, p.id[:]...), p.header[:]...)
		b = binary.BigEndian.AppendUint32(b, p.size)
		b = binary.BigEndian.AppendUint32(b, uint32(len(p.chunks)))
		b = appendEntries(b, p.chunks)
	}
	return b
}

func decodeIndex(b []byte) ([]described, error) {
	var packs []described
	for len(b) > 0 {
		if len(b) < indexHeaderSize {
			return nil, fmt.Errorf("%w: half a pack", ErrDamaged)
		}
		p := described{id: packID(b[:16]), header: [headerSize]byte(b[16:]), size: binary.BigEndian.Uint32(b[16+headerSize:])}
		length := uint64(binary.BigEndian.Uint32(b[20+headerSize:])) * entrySize
		b = b[indexHeaderSize:]
		if length > uint64(len(b)) {
			return nil, fmt.Errorf("%w: half a pack", ErrDamaged)
		}
		var err error
		if p.chunks, err = decodeEntries(b[:length], p.size); err != nil {
			return nil, err
		}
		packs, b = append(packs, p), b[length:]
	}
	return packs, nil
}

// located is a chunk with the number of its pack in an index.
type located struct {
	packed
	pack uint32
}

// index knows where every chunk of the Vault lies. It is read-only once loaded.
type index struct {
	packs   []described // without their chunks
	chunks  []located   // sorted by id
	adopted []described
	// damaged names the objects that were found damaged and done without.
	damaged []string
}

// find returns where a chunk lies.
func (x *index) find(id chunkID) (located, bool) {
	i := sort.Search(len(x.chunks), func(i int) bool { return bytes.Compare(x.chunks[i].id[:], id[:]) >= 0 })
	if i == len(x.chunks) || x.chunks[i].id != id {
		return located{}, false
	}
	return x.chunks[i], true
}

func (x *index) add(p described) {
	for _, c := range p.chunks {
		x.chunks = append(x.chunks, located{c, uint32(len(x.packs))})
	}
	p.chunks = nil
	x.packs = append(x.packs, p)
}

// loadIndex reads all index objects and holds them against the packs that exist. A pack that is gone is left out, so that
// a save stores its chunks anew; one that no index describes (its save was killed, or its index is damaged) is read.
func (v *Vault) loadIndex(ctx context.Context) (*index, error) {
	infos, err := list(ctx, v.store, indexPrefix)
	if err != nil {
		return nil, fmt.Errorf("listing index: %w", err)
	}
	// Listed after the index, so that what another save adds meanwhile is not taken for lost.
	existing, err := v.listPacks(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing packs: %w", err)
	}
	if err := v.confirm(ctx); err != nil {
		return nil, fmt.Errorf("listing packs: %w", err)
	}
	x := &index{}
	known := map[packID]bool{}
	var mu sync.Mutex
	err = each(ctx, infos, func(ctx context.Context, _ int, info store.Info) error {
		packs, err := v.readIndex(ctx, info)
		mu.Lock()
		defer mu.Unlock()
		if errors.Is(err, ErrDamaged) || errors.Is(err, store.ErrNotFound) {
			x.damaged = append(x.damaged, info.Name)
			return nil
		}
		for _, p := range packs {
			size, exists := existing[p.id]
			switch {
			case known[p.id]:
			case !exists:
				x.damaged = append(x.damaged, p.id.object())
			case size == int64(p.size):
				x.add(p)
				known[p.id] = true
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading index: %w", err)
	}
	maps.DeleteFunc(existing, func(id packID, _ int64) bool { return known[id] })
	if err := v.adopt(ctx, x, existing); err != nil {
		return nil, fmt.Errorf("reading footers of packs: %w", err)
	}
	slices.SortFunc(x.chunks, func(a, b located) int { return bytes.Compare(a.id[:], b.id[:]) })
	slices.Sort(x.damaged)
	x.damaged = slices.Compact(x.damaged)
	return x, nil
}

// listPacks returns the size of every pack.
func (v *Vault) listPacks(ctx context.Context) (map[packID]int64, error) {
	packs := map[packID]int64{}
	for info, err := range v.store.List(ctx, packPrefix) {
		if err != nil {
			return nil, err
		}
		if id, ok := parsePack(info.Name); ok {
			packs[id] = info.Size
		}
	}
	return packs, nil
}

func (v *Vault) readIndex(ctx context.Context, info store.Info) ([]described, error) {
	data, err := v.getSmall(ctx, info)
	if err != nil {
		return nil, err
	}
	plaintext, err := v.keys.openObject(typeIndex, info.Name, data)
	if err != nil {
		return nil, err
	}
	return decodeIndex(plaintext)
}

// adopt adds packs that no index describes.
func (v *Vault) adopt(ctx context.Context, x *index, sizes map[packID]int64) error {
	ids := make([]packID, 0, len(sizes))
	for id := range sizes {
		ids = append(ids, id)
	}
	var mu sync.Mutex
	return each(ctx, ids, func(ctx context.Context, _ int, id packID) error {
		p, err := v.readFooter(ctx, id, sizes[id])
		mu.Lock()
		defer mu.Unlock()
		switch {
		case errors.Is(err, ErrDamaged):
			x.damaged = append(x.damaged, id.object())
			return nil
		case err != nil:
			return err
		}
		x.add(p)
		x.adopted = append(x.adopted, p)
		return nil
	})
}

// readFooter describes a pack from its own footer.
func (v *Vault) readFooter(ctx context.Context, id packID, size int64) (described, error) {
	name := id.object()
	p := described{id: id, size: uint32(size)}
	if size < headerSize+tagSize+trailerSize || size > maxPack {
		return p, fmt.Errorf("object %q: %w: %d bytes", name, ErrDamaged, size)
	}
	header, err := v.store.Get(ctx, name, 0, headerSize)
	if err != nil {
		return p, err
	}
	s, err := v.keys.openHeader(typePack, name, header)
	if err != nil {
		return p, err
	}
	p.header = [headerSize]byte(header)
	trailer, err := v.store.Get(ctx, name, size-trailerSize, trailerSize)
	if err != nil {
		return p, err
	}
	length := int64(binary.BigEndian.Uint32(trailer))
	at := size - trailerSize - length
	if length < tagSize || at < headerSize {
		return p, fmt.Errorf("object %q: %w: footer of %d bytes", name, ErrDamaged, length)
	}
	footer, err := v.store.Get(ctx, name, at, length)
	if err != nil {
		return p, err
	}
	if footer, err = s.open(at, footer); err == nil {
		p.chunks, err = decodeEntries(footer, uint32(at))
	}
	if err != nil {
		return p, fmt.Errorf("object %q: footer: %w", name, err)
	}
	return p, nil
}
