package reader

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
)

const (
	maxChunk    = 16 << 20
	maxVariable = 1 << 20
	entrySize   = 40
	trailerSize = 4 + tagSize
)

// A pack is what its footer says.
type pack struct {
	name    string
	size    uint32
	header  []byte
	entries []entry
	sealer  sealer
}

// An entry is a chunk in a pack.
type entry struct {
	id     digest
	piece  uint32 // length of its piece
	length uint32 // length when decoded
}

// A place is where a chunk lies.
type place struct {
	pack          *pack
	offset        uint32
	piece, length uint32
}

func hash(data []byte) digest { return blake3.Sum256(data) }

// id is the name of a chunk in packs.
func (v *Vault) id(d digest) (id digest) {
	h, err := blake3.NewKeyed(v.keys.chunkID)
	if err != nil {
		panic("reader: " + err.Error()) // only for keys that have not 32 bytes
	}
	h.Write(d[:])
	h.Sum(id[:0])
	return id
}

// readPacks reads the footer of every pack, and in check every chunk too. Each chunk that is all right can then be read by its digest. The
// errors name the packs that are not all right.
func (v *Vault) readPacks(check bool) (problems []error) {
	v.packs, v.chunks = map[string]*pack{}, map[digest]place{}
	for _, name := range v.objects["packs"] {
		p, err := v.readPack(name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		v.packs[name] = p
		var data []byte
		if check {
			if data, err = v.read(name, maxObject); err != nil {
				problems = append(problems, err)
				continue
			}
		}
		offset := uint32(headerSize)
		for i, e := range p.entries {
			at := place{p, offset, e.piece, e.length}
			offset += e.piece
			if check {
				if err := v.checkChunk(data[at.offset:at.offset+at.piece], at, e.id); err != nil {
					problems = append(problems, fmt.Errorf("%s: chunk %d: %w", name, i, err))
					continue
				}
			}
			v.chunks[e.id] = at
		}
	}
	return problems
}

// readPack reads header, trailer and footer of a pack.
func (v *Vault) readPack(name string) (*pack, error) {
	size, err := v.size(name)
	if err != nil {
		return nil, err
	}
	if size > maxObject || size < headerSize+tagSize+trailerSize {
		return nil, fmt.Errorf("%s: %d bytes are no pack", name, size)
	}
	header, err := v.readAt(name, 0, headerSize)
	if err != nil {
		return nil, err
	}
	p := &pack{name: name, size: uint32(size), header: header}
	if p.sealer, err = v.sealer(name, typePack, header); err != nil {
		return nil, err
	}
	trailer, err := v.openPiece(p, roleTrailer, size-trailerSize, trailerSize)
	if err != nil {
		return nil, fmt.Errorf("%s: trailer: %w", name, err)
	}
	if len(trailer) != 4 {
		return nil, fmt.Errorf("%s: trailer of %d bytes", name, len(trailer))
	}
	n := int64(binary.BigEndian.Uint32(trailer))
	if n < tagSize || n > size-headerSize-trailerSize {
		return nil, fmt.Errorf("%s: footer of %d bytes in a pack of %d", name, n, size)
	}
	footer, err := v.openPiece(p, roleFooter, size-trailerSize-n, n)
	if err != nil {
		return nil, fmt.Errorf("%s: footer: %w", name, err)
	}
	if p.entries, err = decodeEntries(footer, uint32(size)); err != nil {
		return nil, fmt.Errorf("%s: footer: %w", name, err)
	}
	return p, nil
}

func (v *Vault) openPiece(p *pack, role uint32, offset, n int64) ([]byte, error) {
	piece, err := v.readAt(p.name, offset, n)
	if err != nil {
		return nil, err
	}
	return p.sealer.open(role, piece, uint64(offset))
}

// decodeEntries decodes the entries of a pack of that size, which they, the footer and the trailer fill exactly.
func decodeEntries(footer []byte, size uint32) ([]entry, error) {
	if len(footer) == 0 || len(footer)%entrySize != 0 {
		return nil, fmt.Errorf("%d bytes are no list of entries", len(footer))
	}
	entries := make([]entry, 0, len(footer)/entrySize)
	sum := uint64(headerSize+tagSize+trailerSize) + uint64(len(footer))
	for c := (cursor{rest: footer}); len(c.rest) > 0; {
		e := entry{c.digest(), c.u32(), c.u32()}
		switch {
		case e.length == 0 || e.length > maxChunk:
			return nil, fmt.Errorf("chunk of %d bytes", e.length)
		case e.piece < 1+tagSize+1 || e.piece > 1+tagSize+e.length:
			return nil, fmt.Errorf("piece of %d bytes for a chunk of %d", e.piece, e.length)
		}
		sum += uint64(e.piece)
		entries = append(entries, e)
	}
	if sum != uint64(size) {
		return nil, fmt.Errorf("its chunks make a pack of %d bytes, not %d", sum, size)
	}
	return entries, nil
}

// checkChunk decodes a chunk and holds it against its id.
func (v *Vault) checkChunk(piece []byte, at place, id digest) error {
	plain, err := at.pack.sealer.open(roleContent, piece, uint64(at.offset))
	if err != nil {
		return err
	}
	data, err := decodeChunk(v.zstd, plain, at.length)
	if err != nil {
		return err
	}
	if v.id(hash(data)) != id {
		return errors.New("its bytes are not those that its id names")
	}
	return nil
}

// chunk returns the bytes whose BLAKE3 hash is d.
func (v *Vault) chunk(d digest) ([]byte, error) {
	id := v.id(d)
	v.used(id)
	if v.chunks == nil {
		v.readPacks(false) // a chunk that is missing for what is wrong with a pack says so itself
	}
	at, ok := v.chunks[id]
	if !ok {
		return nil, fmt.Errorf("chunk %x is missing", d)
	}
	plain, err := v.openPiece(at.pack, roleContent, int64(at.offset), int64(at.piece))
	if err != nil {
		return nil, fmt.Errorf("chunk %x in %s: %w", d, at.pack.name, err)
	}
	data, err := decodeChunk(v.zstd, plain, at.length)
	if err != nil {
		return nil, fmt.Errorf("chunk %x in %s: %w", d, at.pack.name, err)
	}
	if hash(data) != d {
		return nil, fmt.Errorf("chunk %x in %s has other bytes", d, at.pack.name)
	}
	return data, nil
}

// decodeChunk decodes the plaintext of a chunk's piece, which has that length when decoded.
func decodeChunk(d *zstd.Decoder, plain []byte, length uint32) ([]byte, error) {
	if len(plain) == 0 || length > maxChunk {
		return nil, errors.New("no chunk")
	}
	var data []byte
	var err error
	switch encoded := plain[1:]; plain[0] {
	case 0:
		data = encoded
	case 1:
		data, err = decodeS2(encoded, length)
	case 2:
		data, err = decodeZstd(d, encoded, length)
	default:
		return nil, fmt.Errorf("encoding %d is unknown", plain[0])
	}
	if err != nil {
		return nil, err
	}
	if len(data) != int(length) {
		return nil, fmt.Errorf("%d bytes where %d belong", len(data), length)
	}
	return data, nil
}

func decodeS2(block []byte, length uint32) ([]byte, error) {
	n, err := s2.DecodedLen(block)
	if err != nil {
		return nil, fmt.Errorf("s2: %w", err)
	}
	if n != int(length) {
		return nil, fmt.Errorf("an S2 block of %d bytes where %d belong", n, length)
	}
	data, err := s2.Decode(make([]byte, n), block)
	if err != nil {
		return nil, fmt.Errorf("s2: %w", err)
	}
	return data, nil
}

// newZstd makes a decoder that yields no more than the space it is given.
func newZstd() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic("reader: " + err.Error()) // only for options that contradict one another
	}
	return d
}

func decodeZstd(d *zstd.Decoder, frame []byte, length uint32) ([]byte, error) {
	if err := oneFrame(frame); err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	data, err := d.DecodeAll(frame, make([]byte, 0, length))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return data, nil
}

// oneFrame refuses what is not exactly one frame: a decoder would read on, and skip frames that hold nothing.
func oneFrame(frame []byte) error {
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		return err
	}
	if h.Skippable || h.DictionaryID != 0 {
		return errors.New("a frame to skip or with a dictionary")
	}
	c := cursor{rest: frame}
	c.take(uint64(h.HeaderSize))
	for last := false; !last && c.err == nil; {
		b := c.take(3)
		if b == nil {
			return errShort
		}
		block := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		last = block&1 == 1
		if block>>1&3 == 1 { // one byte, to be repeated
			c.take(1)
		} else {
			c.take(uint64(block >> 3))
		}
	}
	if h.HasCheckSum {
		c.take(4)
	}
	return c.end()
}

// decodeIndex calls f for each pack that an index describes, with its object's name and the description as it stands.
func decodeIndex(data []byte, f func(name string, description []byte) error) error {
	c := cursor{rest: data}
	for len(c.rest) > 0 {
		name := packName(c.take(16))
		from := c.rest
		header, size := c.take(headerSize), c.u32()
		entries := c.take(uint64(c.u32()) * entrySize)
		if c.err != nil {
			return c.err
		}
		if err := checkHeader(header, typePack); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := decodeEntries(entries, size); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := f(name, from[:len(from)-len(c.rest)]); err != nil {
			return err
		}
	}
	return c.end()
}

// description is what an index has to say about the pack.
func (p *pack) description() []byte {
	b := append([]byte{}, p.header...)
	b = binary.BigEndian.AppendUint32(b, p.size)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p.entries)))
	for _, e := range p.entries {
		b = append(b, e.id[:]...)
		b = binary.BigEndian.AppendUint32(b, e.piece)
		b = binary.BigEndian.AppendUint32(b, e.length)
	}
	return b
}

func packName(id []byte) string {
	s := hex.EncodeToString(id)
	if len(s) != 32 {
		return ""
	}
	return "packs/" + s[:2] + "/" + s
}
