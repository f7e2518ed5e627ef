package volume

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	indexPrefix = "index/"
	// An index object describes at most so many packs, and no more packs once it has so many chunks.
	indexPacks      = 256
	indexChunks     = 64 << 10
	indexHeaderSize = 16 + headerSize + 4 + 4
	// indexTries is how often the index is listed again because others replaced a part of it.
	indexTries = 10
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

// packInfo is what the index keeps of a pack.
type packInfo struct {
	id     packID
	header [headerSize]byte
	size   uint32
	chunks uint32
	// What follows is known once the index was held against the packs that exist.
	modified  time.Time // by the store's clock
	missing   bool      // it does not exist, or not in its size
	condemned bool      // it is about to be deleted
}

// gone tells whether no listing shows the pack, and not only in another size.
func (p *packInfo) gone() bool { return p.modified.IsZero() }

// indexObject is what an index object describes.
type indexObject struct {
	name   string
	packs  []uint32 // numbers in the index
	chunks int
}

// place says where a chunk lies.
type place struct {
	pack   uint32 // number in the index
	off    uint32 // of the piece in the pack
	stored uint32 // length of the piece
	raw    uint32 // length of the chunk
}

// index knows where the chunks of the Vault lie. It does not change once it is loaded.
type index struct {
	packs   []packInfo
	places  *table
	objects []indexObject
	// adopted are packs that no index object describes, and that are not condemned.
	adopted []described
	// unread are packs that exist, and that no index object and no footer of their own describes.
	unread map[packID]bool
	// damaged names the objects that were found damaged or missing and done without.
	damaged []string
}

// find returns where a chunk lies, in the order of preference; several places if several packs hold it.
func (x *index) find(id chunkID) []slot { return x.places.find(id) }

// missing tells whether a place is in a pack that does not exist.
func (x *index) missing(s slot) bool { return x.packs[s.pack].missing }

// add takes a pack; places are not found before they are sorted.
func (x *index) add(p described) {
	off := uint32(headerSize)
	for _, c := range p.chunks {
		x.places.add(c.id, place{uint32(len(x.packs)), off, c.stored, c.raw})
		off += c.stored
	}
	x.packs = append(x.packs, packInfo{id: p.id, header: p.header, size: p.size, chunks: uint32(len(p.chunks))})
}

// loadIndex reads the index as it is, to read what it describes. It must be closed.
func (v *Vault) loadIndex(ctx context.Context) (*index, error) {
	x, _, err := v.readIndex(ctx)
	if err != nil {
		return nil, err
	}
	x.places.sort()
	return x, nil
}

// checkIndex reads the index and holds it against the packs that exist. One that is gone or condemned is unusable, so that
// a save stores its chunks anew; one that no index describes (its save was killed, or its index is damaged) is read.
func (v *Vault) checkIndex(ctx context.Context) (x *index, err error) {
	// Read before the packs are listed: a pack that is deleted meanwhile is either named here or not listed.
	var condemned map[packID]bool
	var known map[packID]uint32
	err = both(ctx, func(ctx context.Context) (err error) {
		condemned, err = v.condemned(ctx)
		return err
	}, func(ctx context.Context) (err error) {
		x, known, err = v.readIndex(ctx)
		return err
	})
	if err != nil {
		x.close()
		return nil, err
	}
	return v.held(ctx, x, known, condemned, false)
}

// indexBeside is checkIndex for who has read the condemned objects, and wants those packs, too, that no index describes.
func (v *Vault) indexBeside(ctx context.Context, condemned map[packID]bool) (*index, error) {
	x, known, err := v.readIndex(ctx)
	if err != nil {
		return nil, err
	}
	return v.held(ctx, x, known, condemned, true)
}

// held completes an index that was just read. All says to read condemned packs, too, that no index describes.
func (v *Vault) held(ctx context.Context, x *index, known map[packID]uint32, condemned map[packID]bool, all bool) (*index, error) {
	if err := v.hold(ctx, x, known, condemned, all); err != nil {
		x.close()
		return nil, err
	}
	x.places.sort()
	return x, nil
}

// hold holds the index against the packs that exist.
func (v *Vault) hold(ctx context.Context, x *index, known map[packID]uint32, condemned map[packID]bool, all bool) error {
	// Listed after the index, so that what another save adds meanwhile is not taken for lost.
	existing, err := v.listPacks(ctx)
	if err == nil {
		err = v.confirm(ctx)
	}
	if err != nil {
		return fmt.Errorf("listing packs: %w", err)
	}
	for i := range x.packs {
		p := &x.packs[i]
		p.condemned = condemned[p.id]
		file, exists := existing[p.id]
		p.modified = file.modified
		p.missing = file.size != int64(p.size)
		if exists && p.missing {
			x.damaged = append(x.damaged, p.id.object())
		}
	}
	maps.DeleteFunc(existing, func(id packID, _ packFile) bool {
		_, described := known[id]
		return described || condemned[id] && !all
	})
	if err := v.adopt(ctx, x, existing, condemned); err != nil {
		return fmt.Errorf("reading footers of packs: %w", err)
	}
	slices.Sort(x.damaged)
	x.damaged = slices.Compact(x.damaged)
	return nil
}

// close lets go of the index; of nil there is nothing to let go of.
func (x *index) close() {
	if x != nil {
		x.places.close()
	}
}

// readIndex reads all index objects. The map says which packs they describe.
func (v *Vault) readIndex(ctx context.Context) (*index, map[packID]uint32, error) {
	x := &index{places: &table{}, unread: map[packID]bool{}}
	known := map[packID]uint32{}
	done := map[string]bool{}
	for range indexTries {
		replaced, err := v.readIndexObjects(ctx, x, known, done)
		if err != nil {
			x.close()
			return nil, nil, fmt.Errorf("reading index: %w", err)
		}
		if !replaced {
			return x, known, nil
		}
	}
	x.close()
	return nil, nil, fmt.Errorf("reading index: %w: its objects vanish faster than they can be read", store.ErrUnavailable)
}

// readIndexObjects adds the index objects that are not done. Replaced says that some vanished between listing and reading:
// others that describe the same packs were written before.
func (v *Vault) readIndexObjects(ctx context.Context, x *index, known map[packID]uint32, done map[string]bool) (replaced bool, err error) {
	infos, err := list(ctx, v.store, indexPrefix)
	if err != nil {
		return false, err
	}
	infos = slices.DeleteFunc(infos, func(i store.Info) bool { return done[i.Name] })
	var mu sync.Mutex
	err = each(ctx, infos, func(ctx context.Context, _ int, info store.Info) error {
		packs, err := v.readIndexObject(ctx, info)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case errors.Is(err, store.ErrNotFound):
			replaced = true
			return nil
		case errors.Is(err, ErrDamaged):
			x.damaged = append(x.damaged, info.Name)
			err = nil
		}
		done[info.Name] = true
		x.describe(info.Name, packs, known)
		return err
	})
	return replaced, err
}

// describe takes what an index object says. Known has the numbers of the packs that the index has.
func (x *index) describe(name string, packs []described, known map[packID]uint32) {
	o := indexObject{name: name}
	for _, p := range packs {
		number, again := known[p.id]
		if !again {
			number = uint32(len(x.packs))
			known[p.id] = number
			x.add(p)
		} else if q := &x.packs[number]; q.header != p.header || q.size != p.size || int(q.chunks) != len(p.chunks) {
			x.damaged = append(x.damaged, name)
		}
		o.packs = append(o.packs, number)
		o.chunks += len(p.chunks)
	}
	x.objects = append(x.objects, o)
}

// packFile is a pack as a listing shows it.
type packFile struct {
	size     int64
	modified time.Time
}

// listPacks returns every pack that exists.
func (v *Vault) listPacks(ctx context.Context) (map[packID]packFile, error) {
	packs := map[packID]packFile{}
	for info, err := range v.store.List(ctx, packPrefix) {
		if err != nil {
			return nil, err
		}
		if id, ok := parsePack(info.Name); ok {
			packs[id] = packFile{info.Size, info.Modified}
		}
	}
	return packs, nil
}

func (v *Vault) readIndexObject(ctx context.Context, info store.Info) ([]described, error) {
	return twice(v, func(v *Vault) ([]described, error) {
		data, err := v.getSmall(ctx, info)
		if err != nil {
			return nil, err
		}
		plaintext, err := v.keys.openObject(typeIndex, info.Name, data)
		if err != nil {
			return nil, err
		}
		return decodeIndex(plaintext)
	})
}

// adopt adds packs that no index describes.
func (v *Vault) adopt(ctx context.Context, x *index, files map[packID]packFile, condemned map[packID]bool) error {
	ids := slices.Collect(maps.Keys(files))
	var mu sync.Mutex
	return each(ctx, ids, func(ctx context.Context, _ int, id packID) error {
		p, err := v.readFooter(ctx, id, files[id].size)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil // deleted meanwhile
		case errors.Is(err, ErrDamaged):
			x.damaged = append(x.damaged, id.object())
			x.unread[id] = true
			return nil
		case err != nil:
			return err
		}
		x.add(p)
		last := &x.packs[len(x.packs)-1]
		last.modified, last.condemned = files[id].modified, condemned[id]
		if !last.condemned {
			x.adopted = append(x.adopted, p)
		}
		return nil
	})
}

// footerGuess is how much of a pack's end is read at first: enough for the footer of most.
const footerGuess = 64 << 10

// getPack reads a part of a pack. One that ends too early is damaged.
func (v *Vault) getPack(ctx context.Context, id packID, off, length int64) ([]byte, error) {
	data, err := v.store.Get(ctx, id.object(), off, length)
	if err == nil && int64(len(data)) != length {
		err = io.ErrUnexpectedEOF
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("object %q: %w: %w", id.object(), ErrDamaged, err)
	}
	return data, err
}

// readFooter describes a pack from its own footer.
func (v *Vault) readFooter(ctx context.Context, id packID, size int64) (described, error) {
	return twice(v, func(v *Vault) (described, error) { return v.fetchFooter(ctx, id, size) })
}

func (v *Vault) fetchFooter(ctx context.Context, id packID, size int64) (described, error) {
	name := id.object()
	p := described{id: id, size: uint32(size)}
	if size < headerSize+tagSize+trailerSize || size > maxPack {
		return p, fmt.Errorf("object %q: %w: %d bytes", name, ErrDamaged, size)
	}
	header, err := v.getPack(ctx, id, 0, headerSize)
	if err != nil {
		return p, err
	}
	s, err := v.keys.openHeader(typePack, name, header)
	if err != nil {
		return p, err
	}
	p.header = [headerSize]byte(header)
	from := max(headerSize, size-footerGuess)
	end, err := v.getPack(ctx, id, from, size-from)
	if err != nil {
		return p, err
	}
	footer, err := openTrailer(s, end, size)
	if err != nil {
		return p, fmt.Errorf("object %q: footer: %w", name, err)
	}
	at := size - trailerSize - footer
	if at < from {
		if end, err = v.getPack(ctx, id, at, footer); err != nil {
			return p, err
		}
		from = at
	}
	if p.chunks, err = openFooter(s, end[at-from:at-from+footer], at, size); err != nil {
		return p, fmt.Errorf("object %q: footer: %w", name, err)
	}
	return p, nil
}

// openTrailer returns the length of the footer of a pack; end is how the pack ends.
func openTrailer(s sealer, end []byte, size int64) (footer int64, err error) {
	length, err := s.open(roleTrailer, size-trailerSize, slices.Clone(end[len(end)-trailerSize:]))
	if err != nil {
		return 0, err
	}
	footer = int64(binary.BigEndian.Uint32(length))
	if footer < tagSize || footer > size-trailerSize-headerSize {
		return 0, fmt.Errorf("%w: it has %d bytes", ErrDamaged, footer)
	}
	return footer, nil
}

// openFooter returns the chunks that a footer at offset at lists.
func openFooter(s sealer, footer []byte, at, size int64) ([]packed, error) {
	plaintext, err := s.open(roleFooter, at, footer)
	if err != nil {
		return nil, err
	}
	return decodeEntries(plaintext, uint32(size))
}
