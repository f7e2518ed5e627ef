package volume

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

const (
	packPrefix = "packs/"
	// packTarget is the size at which a pack is closed.
	packTarget = 16 << 20
	// maxPack bounds the size of a pack: one that was nearly full, and a chunk, and their footer.
	maxPack = 64 << 20

	entrySize   = 32 + 2*4
	trailerSize = 4 + tagSize
	// minPiece is the least that a chunk takes in a pack: how it is encoded, and the tag.
	minPiece = 1 + tagSize
)

// packID is the random name of a pack.
type packID [16]byte

func (id packID) object() string {
	s := hex.EncodeToString(id[:])
	return packPrefix + s[:2] + "/" + s
}

// parsePack is the inverse of object.
func parsePack(object string) (id packID, ok bool) {
	if len(object) != len(packPrefix)+3+32 {
		return id, false
	}
	b, err := hex.DecodeString(object[len(packPrefix)+3:])
	if err != nil {
		return id, false
	}
	copy(id[:], b)
	return id, id.object() == object
}

// packed is a chunk in a pack. Chunks lie one behind the other, in the order of the footer.
type packed struct {
	id     chunkID
	stored uint32 // length of the piece: encoding, compressed chunk, tag
	raw    uint32 // length of the chunk
}

// pack collects chunks until it is sealed and stored.
type pack struct {
	id     packID
	data   []byte
	chunks []packed
}

// reset makes p an empty pack.
func (p *pack) reset() {
	id, _ := hex.DecodeString(randomName())
	p.id = packID(id)
	p.data = append(p.data[:0], newHeader(typePack)...)
	p.chunks = p.chunks[:0]
}

// add appends an encoded chunk, and leaves room for its tag.
func (p *pack) add(id chunkID, encoded []byte, raw int) {
	if free := cap(p.data) - len(p.data); free < len(encoded)+tagSize {
		p.grow(len(encoded) + tagSize)
	}
	p.chunks = append(p.chunks, packed{id, uint32(len(encoded) + tagSize), uint32(raw)})
	p.data = append(p.data, encoded...)
	p.data = append(p.data, make([]byte, tagSize)...)
}

// packStart is the room that a pack has at first. It doubles as the pack grows: many never come near their full size.
const packStart = 1 << 20

// grow makes room for n more bytes. Of a pack that nears its full size that is for the chunk that fills it, and a footer, too.
func (p *pack) grow(n int) {
	room := max(packStart, 2*cap(p.data), len(p.data)+n)
	if room >= packTarget/2 {
		room = max(packTarget+2*maxCut, len(p.data)+n)
	}
	p.data = append(make([]byte, 0, room), p.data...)
}

// full tells whether the pack should be closed.
func (p *pack) full() bool { return len(p.data)+len(p.chunks)*entrySize >= packTarget }

// seal encrypts all pieces in place and appends footer and trailer.
func (p *pack) seal(k *keys) {
	s := k.sealer(p.data, p.id.object())
	off := headerSize
	for _, c := range p.chunks {
		end := off + int(c.stored)
		s.seal(p.data[:off], roleContent, int64(off), p.data[off:end-tagSize])
		off = end
	}
	p.data = s.seal(p.data, roleFooter, int64(off), appendEntries(nil, p.chunks))
	at := len(p.data)
	p.data = s.seal(p.data, roleTrailer, int64(at), binary.BigEndian.AppendUint32(nil, uint32(at-off)))
}

// describe returns what an index says about the sealed pack.
func (p *pack) describe() described {
	return described{p.id, [headerSize]byte(p.data), uint32(len(p.data)), append([]packed(nil), p.chunks...)}
}

func appendEntries(b []byte, chunks []packed) []byte {
	for _, c := range chunks {
		b = append(b, c.id[:]...)
		b = binary.BigEndian.AppendUint32(b, c.stored)
		b = binary.BigEndian.AppendUint32(b, c.raw)
	}
	return b
}

// decodeEntries reads what appendEntries wrote, about a pack of the given size.
func decodeEntries(b []byte, size uint32) ([]packed, error) {
	if len(b)%entrySize != 0 {
		return nil, fmt.Errorf("%w: half an entry", ErrDamaged)
	}
	chunks := make([]packed, len(b)/entrySize)
	end := uint64(headerSize)
	for i := range chunks {
		e := b[i*entrySize:]
		c := packed{chunkID(e[:32]), binary.BigEndian.Uint32(e[32:]), binary.BigEndian.Uint32(e[36:])}
		end += uint64(c.stored)
		if c.raw == 0 || c.raw > maxChunk || c.stored < minPiece || c.stored > c.raw+minPiece {
			return nil, fmt.Errorf("%w: entry %d cannot be", ErrDamaged, i)
		}
		chunks[i] = c
	}
	if end+uint64(len(b))+tagSize+trailerSize != uint64(size) {
		return nil, fmt.Errorf("%w: entries do not fill their pack", ErrDamaged)
	}
	return chunks, nil
}
