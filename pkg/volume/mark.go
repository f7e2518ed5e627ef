package volume

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// bitmap is a set of small numbers. It is safe for concurrent use.
type bitmap []uint64

func newBitmap(n int) bitmap { return make(bitmap, (n+63)/64) }

// set adds a number and tells whether it is new.
func (b bitmap) set(i int) bool {
	bit := uint64(1) << (i % 64)
	return atomic.OrUint64(&b[i/64], bit)&bit == 0
}

func (b bitmap) has(i int) bool { return atomic.LoadUint64(&b[i/64])&(1<<(i%64)) != 0 }

// listsPending is how many lists of chunks are fetched together.
const listsPending = 1024

// marking finds out which chunks snapshots need. A chunk that several need is looked into once, so that many snapshots of one tree
// cost little more than one; what it keeps is a bit for each chunk.
type marking struct {
	f    *fetcher
	x    *index // that the numbers of chunks are of
	keys *keys
	used bitmap // by the number of a chunk's first place
	meta bitmap // those that are parts of trees, and not of files
	// tolerate takes damage, and returns the error that ends the marking, if any.
	tolerate func(error) error
	absent   atomic.Bool // a chunk is in no pack that exists
	// take, if there is one, is told of each chunk when it is first marked, from several goroutines at once, and settle is called from
	// time to time, and at the end of each snapshot, when nothing is being fetched.
	take   func(d Hash, meta bool)
	settle func(context.Context) error

	mu    sync.Mutex
	lists []pendingList
}

// newMarking returns a marking of the chunks of x, which f reads.
func newMarking(f *fetcher, x *index, tolerate func(error) error) *marking {
	n := len(x.places.slots)
	return &marking{
		f: f, x: x, keys: &f.vault.keys, used: newBitmap(n), meta: newBitmap(n), tolerate: tolerate,
		take: func(Hash, bool) {}, settle: func(context.Context) error { return nil },
	}
}

type pendingList struct {
	digest Hash
	form   form
	length int64 // of the span
}

// chunk marks a chunk of a file.
func (m *marking) chunk(d Hash) {
	if _, fresh := m.mark(d); fresh {
		m.take(d, false)
	}
}

// part marks a chunk of a tree, and tells whether it must be looked into.
func (m *marking) part(d Hash) bool {
	n, fresh := m.mark(d)
	if n >= 0 {
		m.meta.set(n)
	}
	if fresh {
		m.take(d, true)
	}
	return fresh
}

// mark marks a chunk and returns its number, which is -1 if it is not known, and whether it was not marked before.
func (m *marking) mark(d Hash) (n int, fresh bool) {
	id := m.keys.chunkID(d)
	n, found := m.x.places.number(id)
	if !slices.ContainsFunc(m.x.find(id), func(s slot) bool { return !m.x.missing(s) }) {
		m.absent.Store(true)
	}
	if !found {
		return -1, true
	}
	return n, m.used.set(n)
}

// snapshot marks all that a snapshot needs.
func (m *marking) snapshot(ctx context.Context, r *record) error {
	for _, d := range r.Tree {
		m.part(d)
	}
	table, err := m.f.table(ctx, r)
	if err != nil {
		return m.damage(err)
	}
	var wants []want
	for i, s := range table {
		if m.part(s.digest) {
			wants = append(wants, want{s.digest, m.segment})
		}
		if len(wants) >= treeGroup || i == len(table)-1 {
			if err := m.f.fetch(ctx, wants); err != nil {
				return err
			}
			wants = wants[:0]
			if err := m.settle(ctx); err != nil {
				return err
			}
		}
		if len(m.lists) >= listsPending || i == len(table)-1 {
			if err := m.fetchLists(ctx); err != nil {
				return err
			}
		}
	}
	return m.settle(ctx)
}

func (m *marking) damage(err error) error {
	if damaged(err) {
		return m.tolerate(err)
	}
	return err
}

// segment marks what the files in a segment need.
func (m *marking) segment(chunk []byte, err error) error {
	for err == nil && len(chunk) > 0 {
		var e *entry
		if e, chunk, err = nextEntry(chunk); err == nil && e.kind == kindFile {
			err = m.file(&e.file)
		}
	}
	if err != nil {
		return m.damage(fmt.Errorf("reading tree: %w", err))
	}
	return nil
}

func (m *marking) file(f *file) error {
	if f.form == formWhole {
		m.chunk(f.whole)
		return nil
	}
	for _, s := range f.spans {
		p := pendingList{s.list, f.form, spanLength(f.size, s.number)}
		if s.inline != nil {
			if err := m.list(p, s.inline); err != nil {
				return err
			}
		} else if m.part(s.list) {
			m.mu.Lock()
			m.lists = append(m.lists, p)
			m.mu.Unlock()
		}
	}
	return nil
}

func (m *marking) list(p pendingList, encoded []byte) error {
	l, err := decodeList(encoded, p.form, p.length)
	for _, c := range l.cells {
		m.chunk(c.digest)
	}
	for _, c := range l.chunks {
		m.chunk(c.digest)
	}
	return err
}

// fetchLists marks what the pending lists name.
func (m *marking) fetchLists(ctx context.Context) error {
	for len(m.lists) > 0 {
		n := min(len(m.lists), listsPending)
		wants := make([]want, n)
		for i, p := range m.lists[:n] {
			wants[i] = want{p.digest, func(chunk []byte, err error) error {
				if err == nil {
					err = m.list(p, chunk)
				}
				if err != nil {
					return m.damage(fmt.Errorf("reading list of chunks: %w", err))
				}
				return nil
			}}
		}
		m.lists = append(m.lists[:0:0], m.lists[n:]...)
		if err := m.f.fetch(ctx, wants); err != nil {
			return err
		}
		if err := m.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}
