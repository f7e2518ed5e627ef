package volume

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// slot is one chunk in a table. Half of an id, which is uniformly distributed and unpredictable without the key, tells 2^32
// chunks apart with a chance of error below 2^-64; and whoever reads a chunk verifies its digest.
type slot struct {
	id [16]byte
	place
}

// table is where chunks lie, sorted by id: 32 bytes a chunk, kept out of the heap once it is large. The zero value is an
// empty table.
type table struct {
	slots  []slot
	region *region // that slots are in; nil while they are on the heap
}

// add appends a chunk, which is found after the next sort.
func (t *table) add(id chunkID, at place) {
	if len(t.slots) == cap(t.slots) {
		t.grow(max(1024, 2*cap(t.slots)))
	}
	t.slots = append(t.slots, slot{[16]byte(id[:]), at})
}

func (t *table) grow(slots int) {
	grown, r := allocate[slot](slots)
	grown = append(grown, t.slots...)
	t.close()
	t.slots, t.region = grown, r
}

// sort makes what was added be found. Places of one chunk come in the order of their packs.
func (t *table) sort() {
	slices.SortFunc(t.slots, func(a, b slot) int {
		if c := bytes.Compare(a.id[:], b.id[:]); c != 0 {
			return c
		}
		return int(a.pack) - int(b.pack)
	})
}

// find returns all places of a chunk. Ids are uniformly distributed, so the search begins where the chunk is to be
// expected, and takes a few steps whatever the size.
func (t *table) find(id chunkID) []slot {
	first := lowerBound(len(t.slots), [16]byte(id[:]), func(i int) [16]byte { return t.slots[i].id })
	end := first
	for end < len(t.slots) && t.slots[end].id == [16]byte(id[:]) {
		end++
	}
	return t.slots[first:end]
}

// number returns the position of a chunk's first place, to mark it in a bitmap.
func (t *table) number(id chunkID) (int, bool) {
	i := lowerBound(len(t.slots), [16]byte(id[:]), func(i int) [16]byte { return t.slots[i].id })
	return i, i < len(t.slots) && t.slots[i].id == [16]byte(id[:])
}

func (t *table) close() {
	t.region.free()
	t.slots, t.region = nil, nil
}

// lowerBound returns the first of n sorted, uniformly distributed ids that is not below id. It narrows by interpolation, and by
// halves where that does not help.
func lowerBound(n int, id [16]byte, at func(int) [16]byte) int {
	lo, hi := 0, n // the answer is in [lo, hi]
	low, high := uint64(0), ^uint64(0)
	want := binary.BigEndian.Uint64(id[:])
	for step := 0; lo < hi; step++ {
		mid := lo + (hi-lo)/2
		if step < 8 && high > low && hi-lo > 8 {
			mid = lo + int(float64(want-low)/float64(high-low)*float64(hi-lo-1))
			mid = min(max(mid, lo), hi-1)
		}
		x := at(mid)
		head := binary.BigEndian.Uint64(x[:])
		if bytes.Compare(x[:], id[:]) < 0 {
			lo, low = mid+1, head
		} else {
			hi, high = mid, head
		}
	}
	return lo
}

// idSet is a set of chunk ids that grows without bound and keeps little of it on the heap.
type idSet struct {
	recent map[[16]byte]struct{}
	frozen []frozenSet
}

type frozenSet struct {
	ids    [][16]byte // sorted
	region *region
}

// recentIDs is how many ids are on the heap.
const recentIDs = 1 << 20

// add tells whether the id is new to the set.
func (s *idSet) add(id chunkID) bool {
	key := [16]byte(id[:])
	if _, in := s.recent[key]; in {
		return false
	}
	for _, f := range s.frozen {
		i := lowerBound(len(f.ids), key, func(i int) [16]byte { return f.ids[i] })
		if i < len(f.ids) && f.ids[i] == key {
			return false
		}
	}
	if s.recent == nil {
		s.recent = map[[16]byte]struct{}{}
	}
	s.recent[key] = struct{}{}
	if len(s.recent) >= recentIDs {
		s.freeze()
	}
	return true
}

// freeze moves the recent ids out of the heap, together with those frozen before that are not more.
func (s *idSet) freeze() {
	merge := len(s.frozen)
	size := len(s.recent)
	for merge > 0 && len(s.frozen[merge-1].ids) <= size {
		merge--
		size += len(s.frozen[merge].ids)
	}
	ids, r := allocate[[16]byte](size)
	for id := range s.recent {
		ids = append(ids, id)
	}
	for _, f := range s.frozen[merge:] {
		ids = append(ids, f.ids...)
		f.region.free()
	}
	slices.SortFunc(ids, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	s.frozen = append(s.frozen[:merge], frozenSet{ids, r})
	clear(s.recent)
}

func (s *idSet) close() {
	for _, f := range s.frozen {
		f.region.free()
	}
	*s = idSet{}
}
