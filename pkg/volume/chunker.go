package volume

import "encoding/binary"

// Bounds of a chunk of a file of variable chunks, in bytes. A chunk below softCut ends less readily than one above, so that most are
// a little longer than that.
const (
	minCut  = 16 << 10
	softCut = 64 << 10
	maxCut  = 256 << 10
)

// A chunk ends where a hash is below a limit, which is to say that its highest 18 or 14 bits are zero.
const (
	hardLimit = 1 << (64 - 18)
	softLimit = 1 << (64 - 14)
)

// gear finds where the chunks of a file end, from the file's bytes and a key, so that the lengths of chunks do not tell which file
// it is.
type gear [256]uint64

func newGear(key []byte) *gear {
	var b [8 * 256]byte
	_, _ = newHasher(key).Digest().Read(b[:]) // never fails
	g := &gear{}
	for i := range g {
		g[i] = binary.BigEndian.Uint64(b[8*i:])
	}
	return g
}

// cut returns the length of the chunk that data begin with. Data are at least maxCut long, or all that is left.
func (g *gear) cut(data []byte) int {
	data = data[:min(len(data), maxCut)]
	if len(data) <= minCut {
		return len(data)
	}
	soft := min(len(data), softCut)
	n, h := g.find(data[minCut:soft], 0, hardLimit)
	if h < hardLimit {
		return minCut + n
	}
	n, _ = g.find(data[soft:], h, softLimit)
	return soft + n
}

// find returns how many bytes it takes to bring the hash below the limit, and the hash then; if none do, all.
func (g *gear) find(data []byte, h, limit uint64) (int, uint64) {
	n := 0
	for ; len(data)-n >= 4; n += 4 {
		b := data[n : n+4 : n+4]
		if h = h<<1 + g[b[0]]; h < limit {
			return n + 1, h
		}
		if h = h<<1 + g[b[1]]; h < limit {
			return n + 2, h
		}
		if h = h<<1 + g[b[2]]; h < limit {
			return n + 3, h
		}
		if h = h<<1 + g[b[3]]; h < limit {
			return n + 4, h
		}
	}
	for ; n < len(data); n++ {
		if h = h<<1 + g[data[n]]; h < limit {
			return n + 1, h
		}
	}
	return n, h
}
