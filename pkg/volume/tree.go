package volume

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"
	"sort"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
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

// subtree hands what is at path, and all below it, to visit, in the order of the tree: first the entry itself, and if it is a
// directory its end last. The root is "". It returns ErrPathNotFound if the snapshot proves not to have the path.
func (f *fetcher) subtree(ctx context.Context, r *record, path string, visit func(*entry) error) error {
	if path == "" {
		return f.tree(ctx, r, visit)
	}
	table, err := f.table(ctx, r)
	if err != nil {
		return err
	}
	var m merkle
	found, done := false, false
	for at, err := range f.entries(ctx, r, within(table, path)) {
		if err != nil {
			return err
		}
		e := at.entry
		if found = found || e.kind != kindEnd && at.path() == path; !found || done {
			continue
		}
		if roots := m.add(e); e.kind == kindEnd && roots != e.roots {
			return errTree
		}
		done = len(m.open) == 0
		if err := visit(e); err != nil {
			return err
		}
	}
	switch {
	case !found:
		return fmt.Errorf("%w: %q", ErrPathNotFound, path)
	case !done:
		return errTree
	}
	return nil
}

// find returns the entry at path. One that is another name of an earlier entry is returned as such.
func (f *fetcher) find(ctx context.Context, r *record, table []segment, path string) (*entry, error) {
	if part := within(table, path); len(part) > 0 {
		for at, err := range f.entries(ctx, r, part[:1]) {
			if err != nil {
				return nil, err
			}
			if at.kind != kindEnd && at.path() == path {
				return at.entry, nil
			}
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrPathNotFound, path)
}

// linker turns hard links as they are in a snapshot into those that a part of it, taken alone, has.
type linker struct {
	*fetcher
	record *record
	base   string    // the part
	table  []segment // of the snapshot, once it was needed
	// first is where in the part the first name is of what has its first name in the snapshot elsewhere.
	first map[string]string
}

// resolve returns a hard link as it is in the part at path: to another path in the part, or, once, what it is a link to.
func (l *linker) resolve(ctx context.Context, e *entry, path string) (*entry, error) {
	switch first, known := l.first[e.target]; {
	case l.base == "":
		return e, nil
	case below(e.target, l.base):
		return &entry{kind: kindHard, name: e.name, target: e.target[len(l.base)+1:]}, nil
	case known:
		return &entry{kind: kindHard, name: e.name, target: first}, nil
	}
	if l.first == nil {
		l.first = map[string]string{}
	}
	l.first[e.target] = path
	found, err := l.find(ctx, e.target)
	if err != nil {
		return nil, err
	}
	found.name = e.name
	return found, nil
}

// find returns what a hard link is to.
func (l *linker) find(ctx context.Context, target string) (*entry, error) {
	if l.table == nil {
		var err error
		if l.table, err = l.fetcher.table(ctx, l.record); err != nil {
			return nil, err
		}
	}
	e, err := l.fetcher.find(ctx, l.record, l.table, target)
	if errors.Is(err, ErrPathNotFound) || err == nil && (e.kind == kindDir || e.kind == kindHard || e.kind == kindError) {
		return nil, errTree
	}
	return e, err
}

// within returns the segments that hold what is at path and below it: all that begin there, and the one before them.
func within(table []segment, path string) []segment {
	first := sort.Search(len(table), func(i int) bool { return comparePaths(table[i].path, path) > 0 })
	end := first
	for end < len(table) && below(table[end].path, path) {
		end++
	}
	return table[max(first-1, 0):end]
}

// below tells whether a path leads to something in the directory dir, at any depth.
func below(path, dir string) bool {
	return dir == "" && path != "" || len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}

// located is a record and where it is.
type located struct {
	*entry
	order *order
}

// path returns the path of the entry; of an end, the directory's.
func (l located) path() string {
	names := l.order.names
	if l.kind == kindDir {
		names = names[:len(names)-1] // the last is for those in it
	}
	return strings.Join(names, "/")
}

// entries yields the records of segments with their paths, which are taken on trust where a segment before is left out. What
// it yields is valid until the next.
func (f *fetcher) entries(ctx context.Context, r *record, table []segment) iter.Seq2[located, error] {
	return func(yield func(located, error) bool) {
		stop := errors.New("stop")
		err := f.segments(ctx, table, func(s segment, chunk []byte) error {
			return eachRecord(chunk, newOrder(r, s.path), func(l located) error {
				if !yield(l, nil) {
					return stop
				}
				return nil
			})
		})
		if err != nil && !errors.Is(err, stop) {
			yield(located{}, err)
		}
	}
}

// eachRecord hands the records of a segment to visit.
func eachRecord(chunk []byte, o *order, visit func(located) error) error {
	for len(chunk) > 0 {
		e, rest, err := nextEntry(chunk)
		if err != nil {
			return fmt.Errorf("reading tree: %w", err)
		}
		if !o.next(e) {
			return errTree
		}
		if err := visit(located{e, o}); err != nil {
			return err
		}
		chunk = rest
	}
	return nil
}

// records hands the records of segments to visit, in their order.
func (f *fetcher) records(ctx context.Context, table []segment, visit func(*entry) error) error {
	return f.segments(ctx, table, func(_ segment, chunk []byte) error {
		for len(chunk) > 0 {
			e, rest, err := nextEntry(chunk)
			if err != nil {
				return fmt.Errorf("reading tree: %w", err)
			}
			if err := visit(e); err != nil {
				return err
			}
			chunk = rest
		}
		return nil
	})
}

// segments hands segments to visit, in their order, and fetches the next few meanwhile.
func (f *fetcher) segments(ctx context.Context, table []segment, visit func(s segment, chunk []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	defer func() {
		cancel()
		_ = g.Wait() // whatever was fetched ahead is not wanted any more
	}()
	groups := make(chan [][]byte)
	g.Go(func() error {
		defer close(groups)
		for rest := table; len(rest) > 0; {
			n := min(len(rest), treeGroup)
			chunks, err := f.readSegments(ctx, rest[:n])
			if err != nil {
				return err
			}
			rest = rest[n:]
			select {
			case groups <- chunks:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for chunks := range groups {
		for _, chunk := range chunks {
			if err := visit(table[0], chunk); err != nil {
				return err
			}
			table = table[1:]
		}
	}
	return g.Wait()
}

func (f *fetcher) readSegments(ctx context.Context, table []segment) ([][]byte, error) {
	digests := make([]Hash, len(table))
	for i, s := range table {
		digests[i] = s.digest
	}
	chunks, err := f.read(ctx, digests)
	if err != nil {
		return nil, fmt.Errorf("reading tree: %w", err)
	}
	return chunks, nil
}

// order knows which record may come next in a tree.
type order struct {
	image bool
	names []string // the last name in each open directory: they must ascend
	ended bool
}

// newOrder returns an order for records of a snapshot that begin at path.
func newOrder(r *record, path string) *order {
	if path == "" {
		return &order{image: r.Image}
	}
	names := strings.Split(path, "/")
	names[len(names)-1] = ""
	return &order{names: names}
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
	chunks, err := f.readNear(ctx, missing)
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
