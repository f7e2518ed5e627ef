package volume

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// window is how much of a file a worker reads at once.
	window = 16 * cellSize
	// ahead is how many entries the walk may be ahead of the slowest file before them.
	ahead = 1024
)

// scanner reads a tree: one goroutine walks it, several read files, and one takes the entries in the order of the walk.
type scanner struct {
	sink       sink // nil: only digests are wanted
	progress   *progress
	readback   bool // the tree was just loaded: pass over the marker, and read from the disk
	links      map[inode]string
	ordered    chan *node
	tasks      chan task
	fileErrors []FileError
	// abort ends the scan for a reason that is not a file's.
	abort context.CancelCauseFunc
}

type inode struct{ dev, ino uint64 }

// node is one record on its way to the sink.
type node struct {
	entry *entry
	dir   *directory // that the entry is in, or that it ends; nil for the root
	err   error
	done  chan struct{} // closed when entry and err are final; nil if they are from the start
}

func (n *node) path() string {
	switch {
	case n.dir == nil:
		return "."
	case n.entry.kind == kindEnd:
		return cmp.Or(n.dir.path, ".")
	}
	return n.dir.join(n.entry.name)
}

// directory is an open directory. It stays open until all of its files were opened.
type directory struct {
	fd   int
	path string // "" is the root
	refs atomic.Int32
}

func (d *directory) join(name string) string {
	if d.path == "" {
		return name
	}
	return d.path + "/" + name
}

func (d *directory) release() {
	if d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// task is one span of a file to read; all of it if the file is not open yet, because it has but one.
type task struct {
	file *inFile
	span int64
}

// scan reads the tree below dir and returns its roots. If files could not be read the error is a *FileErrors.
func (s *scanner) scan(ctx context.Context, dir string) (roots Roots, err error) {
	s.links = map[inode]string{}
	s.ordered = make(chan *node, ahead)
	s.tasks = make(chan task, 64)
	ctx, s.abort = context.WithCancelCause(ctx)
	defer s.abort(nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(s.ordered)
		defer close(s.tasks)
		return s.walkRoot(ctx, dir)
	})
	for range max(4, 2*runtime.GOMAXPROCS(0)) {
		g.Go(func() error {
			r := reader{scanner: s, window: make([]byte, window)}
			for t := range s.tasks {
				r.do(ctx, t)
			}
			return nil
		})
	}
	g.Go(func() (err error) {
		roots, err = s.collect(ctx)
		return err
	})
	if err := g.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return Roots{}, err
	}
	if len(s.fileErrors) > 0 {
		return Roots{}, &FileErrors{s.fileErrors}
	}
	return roots, nil
}

// collect hands the entries over in order. After a file failed it only looks for further failures.
func (s *scanner) collect(ctx context.Context) (roots Roots, err error) {
	var m merkle
	for n := range s.ordered {
		if n.done != nil {
			<-n.done // closed even when ctx ends
		}
		if err := ctx.Err(); err != nil {
			return Roots{}, err
		}
		if n.err != nil {
			s.fileErrors = append(s.fileErrors, FileError{n.path(), n.err})
			continue
		}
		if len(s.fileErrors) > 0 {
			continue
		}
		roots = m.add(n.entry)
		if n.entry.kind == kindEnd {
			n.entry.roots = roots
		}
		if s.sink != nil {
			if err := s.sink.entry(ctx, n.entry); err != nil {
				return Roots{}, err
			}
		}
		s.progress.count(n.entry)
	}
	return roots, ctx.Err()
}

func (s *scanner) emit(ctx context.Context, n *node) error {
	select {
	case s.ordered <- n:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *scanner) walkRoot(ctx context.Context, dir string) error {
	fd, err := openRoot(dir)
	if err != nil {
		return err
	}
	root := &directory{fd: fd}
	root.refs.Store(1)
	return s.walk(ctx, root, nil, "")
}

// walk emits an open directory, named name in parent, and all below it. It releases d.
func (s *scanner) walk(ctx context.Context, d, parent *directory, name string) error {
	defer d.release()
	var before, after unix.Stat_t
	open := &node{entry: &entry{kind: kindDir, name: name}, dir: parent}
	if open.err = fstat(d.fd, &before); open.err == nil {
		open.entry.setMeta(&before)
		open.entry.xattrs, open.err = fdXattrs(d.fd)
	}
	var names []string
	if open.err == nil {
		names, open.err = readNames(d.fd)
	}
	if err := s.emit(ctx, open); err != nil || open.err != nil {
		return err
	}
	for _, child := range names {
		if err := s.child(ctx, d, child); err != nil {
			return err
		}
	}
	end := &node{entry: &entry{kind: kindEnd}, dir: d}
	if end.err = fstat(d.fd, &after); end.err == nil && changed(&before, &after) {
		end.err = ErrChanged
	}
	return s.emit(ctx, end)
}

// child emits one entry of a directory, and what is below it.
func (s *scanner) child(ctx context.Context, d *directory, name string) error {
	n := &node{entry: &entry{name: name}, dir: d}
	if d.path == "" && name == marker {
		if s.readback {
			return nil
		}
		n.err = ErrIncomplete
		return s.emit(ctx, n)
	}
	var st unix.Stat_t
	if n.err = fstatat(d.fd, name, &st); n.err != nil {
		return s.emit(ctx, n)
	}
	format := st.Mode & unix.S_IFMT
	switch {
	case format == unix.S_IFSOCK:
		s.progress.skipped.Add(1)
		return nil
	case format == unix.S_IFDIR && d.path == "" && name == lostFound:
		return nil
	case format == unix.S_IFDIR:
		return s.subdirectory(ctx, d, n, &st)
	}
	if st.Nlink > 1 {
		key := inode{uint64(st.Dev), st.Ino}
		if first, seen := s.links[key]; seen {
			n.entry.kind, n.entry.target = kindHard, first
			return s.emit(ctx, n)
		}
		s.links[key] = n.path()
	}
	n.entry.setMeta(&st)
	if format == unix.S_IFREG {
		return s.file(ctx, n, &st)
	}
	n.err = n.entry.setSpecial(d.fd, &st)
	return s.emit(ctx, n)
}

func (s *scanner) subdirectory(ctx context.Context, parent *directory, n *node, st *unix.Stat_t) error {
	fd, err := openNoAtime(parent.fd, n.entry.name, unix.O_DIRECTORY)
	if err == nil {
		var now unix.Stat_t
		if err = fstat(fd, &now); err == nil && (now.Ino != st.Ino || now.Dev != st.Dev) {
			err = ErrChanged
		}
		if err != nil {
			unix.Close(fd)
		}
	}
	if n.err = err; err != nil {
		return s.emit(ctx, n)
	}
	d := &directory{fd: fd, path: n.path()}
	d.refs.Store(1)
	return s.walk(ctx, d, parent, n.entry.name)
}

// file emits a file and has it read: in one task if it has one span, else in one for each span that is not a hole.
func (s *scanner) file(ctx context.Context, n *node, st *unix.Stat_t) error {
	n.entry.kind, n.entry.size = kindFile, st.Size
	n.done = make(chan struct{})
	f := &inFile{node: n, stat: *st, fd: -1}
	f.pending.Store(1)
	n.dir.refs.Add(1)
	if err := s.emit(ctx, n); err != nil {
		n.dir.release()
		return err
	}
	if st.Size <= spanSize {
		return s.assign(ctx, task{f, 0})
	}
	defer f.release(s)
	if err := f.open(s); err != nil {
		f.fail(err)
		return nil
	}
	for off := int64(0); off < st.Size; {
		data, err := f.nextData(off)
		if err != nil {
			f.fail(err)
			return nil
		}
		if data >= st.Size {
			return nil
		}
		span := data / spanSize
		f.pending.Add(1)
		if err := s.assign(ctx, task{f, span}); err != nil {
			return err
		}
		off = (span + 1) * spanSize
	}
	return nil
}

// assign hands a task to the workers. When the scan ends first, it settles the task itself.
func (s *scanner) assign(ctx context.Context, t task) error {
	select {
	case s.tasks <- t:
		return nil
	case <-ctx.Done():
		t.file.fail(ctx.Err())
		t.file.release(s)
		return ctx.Err()
	}
}

// inFile is a regular file being read by one or several workers.
type inFile struct {
	node    *node
	stat    unix.Stat_t // as the walk saw it
	fd      int         // -1: not open
	tried   bool        // open was called, and the directory released
	dense   bool        // the file has no holes, or they cannot be found
	pending atomic.Int32

	mu    sync.Mutex
	spans []readSpan
	err   error
}

type readSpan struct {
	span
	digest Hash
	empty  bool  // all its cells are zero
	whole  *Hash // the file is this one chunk
}

func (f *inFile) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

func (f *inFile) failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err != nil
}

// open opens the file, and makes sure that it is the one that the walk saw.
func (f *inFile) open(s *scanner) error {
	f.tried = true
	fd, err := openNoAtime(f.node.dir.fd, f.node.entry.name, unix.O_NONBLOCK)
	f.node.dir.release()
	if err != nil {
		return err
	}
	f.fd = fd
	if s.readback {
		_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) // best effort: the disk should answer, not the cache
	}
	f.dense = f.stat.Blocks*512 >= f.stat.Size
	f.node.entry.xattrs, err = fdXattrs(fd)
	if err != nil {
		return err
	}
	return f.check()
}

// check returns ErrChanged unless the file is still as the walk saw it.
func (f *inFile) check() error {
	var now unix.Stat_t
	if err := fstat(f.fd, &now); err != nil {
		return err
	}
	if now.Ino != f.stat.Ino || now.Dev != f.stat.Dev || now.Size != f.stat.Size || changed(&f.stat, &now) {
		return ErrChanged
	}
	return nil
}

// release drops one claim on the file; the last one completes its entry.
func (f *inFile) release(s *scanner) {
	if f.pending.Add(-1) > 0 {
		return
	}
	if f.fd >= 0 {
		if f.err == nil {
			f.err = f.check()
		}
		unix.Close(f.fd)
	}
	if !f.tried {
		f.node.dir.release()
	}
	slices.SortFunc(f.spans, func(a, b readSpan) int { return cmp.Compare(a.number, b.number) })
	f.complete(&f.node.entry.file)
	f.node.err = f.err
	close(f.node.done)
}

// complete sets what was found in the file.
func (f *inFile) complete(e *file) {
	e.stamp = stamp{int64(f.stat.Ctim.Sec), uint32(f.stat.Ctim.Nsec), f.stat.Ino}
	if len(f.spans) == 1 && f.spans[0].whole != nil {
		e.form, e.whole = formWhole, *f.spans[0].whole
		e.digest = wholeDigest(e.size, e.whole)
		return
	}
	e.form = formFixed
	h := newFileHash(f.stat.Size)
	for _, sp := range f.spans {
		e.spans = append(e.spans, sp.span)
		if !sp.empty {
			h.add(sp.number, sp.digest)
		}
	}
	e.digest = h.sum()
}

// nextData returns where data begin at or after off; past the end if there are none.
func (f *inFile) nextData(off int64) (int64, error) {
	if f.dense {
		return off, nil
	}
	at, err := unix.Seek(f.fd, off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return f.stat.Size, nil
	case errors.Is(err, unix.EINVAL):
		return off, nil // the filesystem does not know
	}
	return at, err
}

// nextHole returns where the data at off end.
func (f *inFile) nextHole(off int64) (int64, error) {
	if f.dense {
		return f.stat.Size, nil
	}
	at, err := unix.Seek(f.fd, off, unix.SEEK_HOLE)
	if errors.Is(err, unix.EINVAL) {
		return f.stat.Size, nil
	}
	return at, err
}

// reader is one worker that reads files.
type reader struct {
	*scanner
	window  []byte
	scratch []byte
}

func (r *reader) do(ctx context.Context, t task) {
	f := t.file
	defer f.release(r.scanner)
	if ctx.Err() != nil {
		f.fail(ctx.Err())
		return
	}
	if !f.tried {
		if err := f.open(r.scanner); err != nil {
			f.fail(err)
			return
		}
	}
	if f.failed() {
		return
	}
	if err := r.readSpan(ctx, f, t.span); err != nil {
		f.fail(err)
	}
}

// readSpan reads one span, hands its cells and their list to the sink, and notes it in the file.
func (r *reader) readSpan(ctx context.Context, f *inFile, number int64) error {
	start := number * spanSize
	length := spanLength(f.stat.Size, number)
	c, err := f.extents(start, length)
	if err != nil || len(c.extents) == 0 {
		return err
	}
	for _, run := range touched(c.extents) {
		if err := r.readCells(ctx, f, start, length, run, &c); err != nil {
			return err
		}
	}
	done := readSpan{span: span{number: number}, digest: spanDigest(c.cells), empty: len(c.cells) == 0}
	if f.stat.Size <= cellSize && len(c.cells) == 1 && c.extents[0] == (extent{0, f.stat.Size}) {
		done.whole = &c.cells[0].digest
	} else {
		r.list(ctx, &done.span, c.encode(formFixed))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spans = append(f.spans, done)
	return nil
}

// list puts the list of a span where it belongs.
func (r *reader) list(ctx context.Context, s *span, list []byte) {
	s.length = len(list)
	if len(list) <= inlineList {
		s.inline = list
		return
	}
	s.list = blake3.Sum256(list)
	r.hand(ctx, s.list, list, true)
}

// extents finds the data of a span.
func (f *inFile) extents(start, length int64) (c spanList, err error) {
	for off := start; off < start+length; {
		data, err := f.nextData(off)
		if err != nil {
			return c, err
		}
		if data >= start+length {
			break
		}
		hole, err := f.nextHole(data)
		if err != nil {
			return c, err
		}
		hole = min(hole, start+length)
		if hole <= data {
			return c, ErrChanged
		}
		c.extents = append(c.extents, extent{data - start, hole - data})
		off = hole
	}
	return c, nil
}

// touched returns the runs of cells that extents reach into, as ranges of cell numbers.
func touched(extents []extent) (runs [][2]int64) {
	for _, x := range extents {
		first, end := x.off/cellSize, (x.off+x.length+cellSize-1)/cellSize
		if n := len(runs); n > 0 && first <= runs[n-1][1] {
			runs[n-1][1] = end
			continue
		}
		runs = append(runs, [2]int64{first, end})
	}
	return runs
}

// readCells reads a run of cells; those that are all zero need no chunk.
func (r *reader) readCells(ctx context.Context, f *inFile, start, length int64, run [2]int64, c *spanList) error {
	for first := run[0]; first < run[1]; first += window / cellSize {
		off := first * cellSize
		data := r.window[:min(window, (run[1]-first)*cellSize, length-off)]
		if err := readFull(f.fd, data, start+off); err != nil {
			return err
		}
		r.progress.bytes.Add(int64(len(data)))
		for number := uint32(first); len(data) > 0; number++ {
			cell := data[:min(cellSize, len(data))]
			data = data[len(cell):]
			if allZero(cell) {
				continue
			}
			d := Hash(blake3.Sum256(cell))
			c.cells = append(c.cells, cellDigest{number, d})
			r.hand(ctx, d, cell, false)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// hand gives a chunk to the sink. That the sink cannot take it is no fault of the file, and ends the scan.
func (r *reader) hand(ctx context.Context, d Hash, raw []byte, isList bool) {
	if r.sink == nil || ctx.Err() != nil {
		return
	}
	if err := r.sink.chunk(ctx, d, raw, isList, &r.scratch); err != nil {
		r.abort(err)
	}
}

// scanTree gives all of the tree below dir to sink.
func scanTree(ctx context.Context, dir string, to sink, p *progress) (Roots, error) {
	s := scanner{sink: to, progress: p}
	return s.scan(ctx, dir)
}

// readBack computes the roots of a tree that was just loaded, but for its marker, from the disk where that can be had.
func readBack(ctx context.Context, dir string, p *progress) (Roots, error) {
	s := scanner{progress: p, readback: true}
	return s.scan(ctx, dir)
}
