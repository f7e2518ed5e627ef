package volume

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

func testGear() *gear { return newGear(make([]byte, 32)) }

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// cutAll returns where the chunks of data end.
func cutAll(g *gear, data []byte) (ends []int) {
	for at := 0; at < len(data); {
		at += g.cut(data[at:])
		ends = append(ends, at)
	}
	return ends
}

// The rule of the format, written once more, as plainly as can be.
func TestGearFollowsTheFormat(t *testing.T) {
	g := testGear()
	data := noise(1, 8<<20)
	start := 0
	for i, end := range cutAll(g, data) {
		h, want := uint64(0), len(data)
		for n := 16<<10 + 1; start+n <= len(data); n++ {
			h = h<<1 + g[data[start+n-1]]
			zero := 14
			if n <= 64<<10 {
				zero = 18
			}
			if h>>(64-zero) == 0 || n == 256<<10 {
				want = start + n
				break
			}
		}
		if end != want {
			t.Fatalf("chunk %d, from %d, ends at %d, want %d", i, start, end, want)
		}
		start = end
	}
}

func TestGearBounds(t *testing.T) {
	g := testGear()
	data := noise(2, 64<<20)
	ends := cutAll(g, data)
	if mean := len(data) / len(ends); mean < 56<<10 || mean > 80<<10 {
		t.Errorf("chunks of noise have %d bytes on average", mean)
	}
	start := 0
	for _, end := range ends[:len(ends)-1] {
		if n := end - start; n <= minCut || n > maxCut {
			t.Errorf("a chunk of %d bytes", n)
		}
		start = end
	}
	for _, n := range []int{1, minCut, minCut + 1, softCut, softCut + 1, maxCut, maxCut + 1, 10 * maxCut} {
		at := 0
		for _, end := range cutAll(g, make([]byte, n)) {
			if end-at > maxCut || end <= at {
				t.Errorf("%d zeros: a chunk from %d to %d", n, at, end)
			}
			at = end
		}
		if at != n {
			t.Errorf("%d zeros: the chunks end at %d", n, at)
		}
	}
}

// Another key divides otherwise.
func TestGearIsKeyed(t *testing.T) {
	data := noise(3, 16<<20)
	other := make([]byte, 32)
	other[0] = 1
	same := map[int]bool{}
	for _, end := range cutAll(testGear(), data) {
		same[end] = true
	}
	for _, end := range cutAll(newGear(other), data) {
		if same[end] && end != len(data) {
			t.Errorf("both keys end a chunk at %d", end)
		}
	}
}

func BenchmarkGear(b *testing.B) {
	g := testGear()
	data := noise(4, 16<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for at := 0; at < len(data); {
			at += g.cut(data[at:])
		}
	}
}
