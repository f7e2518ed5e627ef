package reader

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

const (
	minCut  = 16 << 10
	softCut = 64 << 10
	maxCut  = 256 << 10
)

// gear is the table of a writer's hash.
func gear(chunker []byte) (g [256]uint64) {
	h, err := blake3.NewKeyed(chunker)
	if err != nil {
		panic("reader: " + err.Error()) // only for keys that have not 32 bytes
	}
	var b [256 * 8]byte
	_, _ = h.Digest().Read(b[:]) // never fails
	for i := range g {
		g[i] = binary.BigEndian.Uint64(b[i*8:])
	}
	return g
}

// cut is where a writer that keeps to the page ends the chunk that begins data.
func cut(g *[256]uint64, data []byte) int {
	const hard, soft = uint64(1<<18-1) << 46, uint64(1<<14-1) << 50 // the highest 18 and 14 bits
	var h uint64
	for i := minCut; i < min(len(data), maxCut); i++ {
		h = h<<1 + g[data[i]]
		mask := hard
		if i >= softCut {
			mask = soft
		}
		if h&mask == 0 {
			return i + 1
		}
	}
	return min(len(data), maxCut)
}

// form is that of a file of which form 0 does not hold all.
func form(size uint64) byte {
	if size%4096 == 0 {
		return 1
	}
	return 2
}
