package volume

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/klauspost/compress/s2"
)

const (
	packPrefix = "packs/"
	// packTarget is the size at which a pack is closed.
	packTarget = 16 << 20
	// maxChunk bounds what a chunk decompresses to; only records of trees come near.
	maxChunk = 16 << 20
	// maxPack bounds the size of a pack: one that was nearly full, and a chunk, and their footer.
	maxPack = 64 << 20

	entrySize   = 32 + 3*4
	trailerSize = 4
	// minPiece is the least that a chunk takes in a pack: how it is encoded, and the tag.
	minPiece = 1 + tagSize
)

// How a chunk is encoded; the first byte of its piece.
const (
	encodedRaw = 0
	encodedS2  = 1
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

// packed says where a chunk lies in its pack.
type packed struct {
	id     chunkID
	off    uint32 // of the piece in the pack
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
	if p.data == nil {
		p.data = make([]byte, 0, packTarget+4*cellSize) // room for the chunk that fills it, and a footer
	}
	p.data = append(p.data[:0], newHeader(typePack)...)
	p.chunks = p.chunks[:0]
}

// add appends an encoded chunk, and leaves room for its tag.
func (p *pack) add(id chunkID, encoded []byte, raw int) {
	p.chunks = append(p.chunks, packed{id, uint32(len(p.data)), uint32(len(encoded) + tagSize), uint32(raw)})
	p.data = append(p.data, encoded...)
	p.data = append(p.data, make([]byte, tagSize)...)
}

// seal encrypts all pieces in place and appends the footer.
func (p *pack) seal(k *keys) {
	s := k.sealer(p.data, p.id.object())
	for _, c := range p.chunks {
		s.seal(p.data[:c.off], int64(c.off), p.data[c.off:c.off+c.stored-tagSize])
	}
	at := len(p.data)
	p.data = s.seal(p.data, int64(at), appendEntries(nil, p.chunks))
	p.data = binary.BigEndian.AppendUint32(p.data, uint32(len(p.data)-at))
}

func appendEntries(b []byte, chunks []packed) []byte {
	for _, c := range chunks {
		b = append(b, c.id[:]...)
		b = binary.BigEndian.AppendUint32(b, c.off)
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
	for i := range chunks {
		e := b[i*entrySize:]
		c := packed{chunkID(e[:32]), binary.BigEndian.Uint32(e[32:]), binary.BigEndian.Uint32(e[36:]), binary.BigEndian.Uint32(e[40:])}
		if c.off < headerSize || c.stored < minPiece || uint64(c.off)+uint64(c.stored) > uint64(size) || c.raw > maxChunk {
			return nil, fmt.Errorf("%w: entry %d lies outside its pack", ErrDamaged, i)
		}
		chunks[i] = c
	}
	return chunks, nil
}

// encodeChunk appends the encoding of raw to dst: compressed if that saves anything worth the work of undoing it.
func encodeChunk(dst, raw []byte) []byte {
	at := len(dst)
	dst = append(dst, encodedS2)
	need := s2.MaxEncodedLen(len(raw))
	if cap(dst)-len(dst) < need {
		dst = append(make([]byte, 0, len(dst)+need), dst...)
	}
	compressed := s2.Encode(dst[len(dst):cap(dst)], raw)
	if len(compressed) < len(raw)-len(raw)/16 {
		return dst[:at+1+len(compressed)]
	}
	dst[at] = encodedRaw
	return append(dst, raw...)
}

// decodeChunk returns the chunk of length raw; it may be part of encoded, or of dst if that is large enough.
func decodeChunk(dst, encoded []byte, raw int) ([]byte, error) {
	if len(encoded) == 0 {
		return nil, fmt.Errorf("%w: empty chunk", ErrDamaged)
	}
	body := encoded[1:]
	switch encoded[0] {
	case encodedRaw:
		if len(body) == raw {
			return body, nil
		}
	case encodedS2:
		if n, err := s2.DecodedLen(body); err != nil || n != raw || raw > maxChunk {
			break
		}
		if out, err := s2.Decode(dst, body); err == nil {
			return out, nil
		}
	}
	return nil, fmt.Errorf("%w: chunk cannot be decoded", ErrDamaged)
}
