package volume

import (
	"context"
	"fmt"
	"hash/crc32"
	"strings"

	"github.com/zeebo/blake3"
)

const (
	segmentMin = 32 << 10
	segmentMax = 256 << 10
	// tableChunk is the size at which a chunk of the table of segments is closed.
	tableChunk = 1 << 20
	// treeGroup is how many segments of a tree are fetched at once.
	treeGroup = 32
)

// errTree says that the records of a tree do not fit together.
var errTree = fmt.Errorf("%w: records of the tree do not fit together", ErrDamaged)

// treeWriter divides the records of a tree into segments, and lists them in a table.
type treeWriter struct {
	// store takes a chunk of metadata, which it must not keep.
	store func(ctx context.Context, d Hash, raw []byte) error

	open    []string // names of the open directories, but for the root
	depth   int
	path    string // of the first record of the segment
	segment []byte
	table   []byte
	chunks  []Hash // of the table
}

// add appends a record. Where a segment ends depends on names, so that a file added or removed changes one segment and not all
// behind it. A segment never begins with the end of a directory.
func (w *treeWriter) add(ctx context.Context, e *entry) error {
	n := len(w.segment)
	if e.kind != kindEnd && (n >= segmentMax || n >= segmentMin && crc32.ChecksumIEEE([]byte(e.name))%16 == 0) {
		if err := w.closeSegment(ctx); err != nil {
			return err
		}
	}
	if len(w.segment) == 0 {
		w.path = strings.Join(append(w.open, e.name), "/")
	}
	w.segment = appendEntry(w.segment, e)
	switch e.kind {
	case kindDir:
		if w.depth++; w.depth > 1 {
			w.open = append(w.open, e.name)
		}
	case kindEnd:
		if w.depth--; w.depth > 0 {
			w.open = w.open[:len(w.open)-1]
		}
	}
	return nil
}

func (w *treeWriter) closeSegment(ctx context.Context) error {
	if len(w.segment) > maxChunk {
		return fmt.Errorf("a record of the tree takes %d bytes, more than %d", len(w.segment), maxChunk)
	}
	d := Hash(blake3.Sum256(w.segment))
	if err := w.store(ctx, d, w.segment); err != nil {
		return err
	}
	w.table = appendBytes(append(w.table, d[:]...), w.path)
	w.segment = w.segment[:0]
	if len(w.table) >= tableChunk {
		return w.closeTable(ctx)
	}
	return nil
}

func (w *treeWriter) closeTable(ctx context.Context) error {
	d := Hash(blake3.Sum256(w.table))
	if err := w.store(ctx, d, w.table); err != nil {
		return err
	}
	w.chunks = append(w.chunks, d)
	w.table = w.table[:0]
	return nil
}

// finish stores what is left, and returns the chunks of the table.
func (w *treeWriter) finish(ctx context.Context) ([]Hash, error) {
	if err := w.closeSegment(ctx); err != nil {
		return nil, err
	}
	if len(w.table) > 0 {
		if err := w.closeTable(ctx); err != nil {
			return nil, err
		}
	}
	return w.chunks, nil
}

// segment is one line of the table of a tree.
type segment struct {
	digest Hash
	path   string // of its first record
}

// decodeTable reads the table of a tree's segments.
func decodeTable(b []byte) ([]segment, error) {
	d := decoder{b: b}
	var table []segment
	for len(d.b) > 0 {
		s := segment{d.digest("table of the tree"), string(d.bytes(maxPath, "table of the tree"))}
		if d.err != nil {
			return nil, d.err
		}
		if first := len(table) == 0; first != (s.path == "") || !first && (!validPath(s.path) || comparePaths(table[len(table)-1].path, s.path) >= 0) {
			return nil, fmt.Errorf("%w: bad path in the table of the tree", ErrDamaged)
		}
		table = append(table, s)
	}
	return table, nil
}

// comparePaths compares in the order of trees: name by name.
func comparePaths(a, b string) int {
	for {
		nameA, restA, moreA := strings.Cut(a, "/")
		nameB, restB, moreB := strings.Cut(b, "/")
		if c := strings.Compare(nameA, nameB); c != 0 || !moreA && !moreB {
			return c
		}
		switch {
		case !moreA:
			return -1
		case !moreB:
			return 1
		}
		a, b = restA, restB
	}
}

// table reads the table of a snapshot's tree.
func (f *fetcher) table(ctx context.Context, r *record) ([]segment, error) {
	chunks, err := f.read(ctx, r.Tree)
	if err != nil {
		return nil, fmt.Errorf("reading table of the tree: %w", err)
	}
	var all []byte
	for _, c := range chunks {
		all = append(all, c...)
	}
	return decodeTable(all)
}

// tree hands the records of a snapshot to visit, in their order, and verifies their roots. The root comes first, and ends last.
func (f *fetcher) tree(ctx context.Context, r *record, visit func(*entry) error) error {
	table, err := f.table(ctx, r)
	if err != nil {
		return err
	}
	var m merkle
	order := order{image: r.Image}
	err = f.records(ctx, table, func(e *entry) error {
		if !order.next(e) {
			return errTree
		}
		roots := m.add(e)
		if e.kind == kindEnd && roots != e.roots || order.ended && roots != r.Roots {
			return errTree
		}
		return visit(e)
	})
	if err == nil && !order.ended {
		return errTree
	}
	return err
}

// records hands the records of segments to visit, in their order.
func (f *fetcher) records(ctx context.Context, table []segment, visit func(*entry) error) error {
	for len(table) > 0 {
		n := min(len(table), treeGroup)
		digests := make([]Hash, n)
		for i, s := range table[:n] {
			digests[i] = s.digest
		}
		table = table[n:]
		chunks, err := f.read(ctx, digests)
		if err != nil {
			return fmt.Errorf("reading tree: %w", err)
		}
		for _, chunk := range chunks {
			for len(chunk) > 0 {
				var e *entry
				if e, chunk, err = nextEntry(chunk); err != nil {
					return fmt.Errorf("reading tree: %w", err)
				}
				if err := visit(e); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// order knows which record may come next in a tree.
type order struct {
	image bool
	names []string // the last name in each open directory: they must ascend
	ended bool
}

// next tells whether a record may come next.
func (o *order) next(e *entry) bool {
	depth := len(o.names)
	switch {
	case o.ended:
		return false
	case depth == 0 && o.image:
		o.ended = true
		return e.kind == kindFile && e.name == ""
	case depth == 0:
		o.names = append(o.names, "")
		return e.kind == kindDir && e.name == ""
	case e.kind == kindEnd:
		o.names = o.names[:depth-1]
		o.ended = depth == 1
		return true
	case e.name <= o.names[depth-1], depth == 1 && e.name == marker:
		return false
	}
	o.names[depth-1] = e.name
	if e.kind == kindDir {
		o.names = append(o.names, "")
	}
	return true
}

// lists returns the encoded lists of chunks of spans.
func (f *fetcher) lists(ctx context.Context, spans []span) ([][]byte, error) {
	lists := make([][]byte, len(spans))
	var missing []Hash
	for i, s := range spans {
		if lists[i] = s.inline; s.inline == nil {
			missing = append(missing, s.list)
		}
	}
	if len(missing) == 0 {
		return lists, nil
	}
	chunks, err := f.read(ctx, missing)
	if err != nil {
		return nil, err
	}
	for i, s := range spans {
		if s.inline == nil {
			lists[i], chunks = chunks[0], chunks[1:]
		}
	}
	return lists, nil
}

// listsAtOnce is how many lists of chunks of one file are fetched at once.
const listsAtOnce = 16

// eachList hands the lists of a file to visit, span by span.
func (f *fetcher) eachList(ctx context.Context, e *file, visit func(number int64, l *spanList) error) error {
	for spans := e.spans; len(spans) > 0; {
		n := min(len(spans), listsAtOnce)
		lists, err := f.lists(ctx, spans[:n])
		if err != nil {
			return err
		}
		for i, s := range spans[:n] {
			l, err := decodeList(lists[i], e.form, spanLength(e.size, s.number))
			if err != nil {
				return err
			}
			if err := visit(s.number, &l); err != nil {
				return err
			}
		}
		spans = spans[n:]
	}
	return nil
}
