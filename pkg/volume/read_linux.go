package volume

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// readings is how often a scan that keeps going reads a file that changes meanwhile; what it finds at last is recorded.
const readings = 3

// inFile is a regular file, or a block device, being read by one or several readers.
type inFile struct {
	entry  *entry
	dir    *directory // nil for an image
	group  *group
	stat   unix.Stat_t // as the walk saw it
	old    *entry      // of the parent, if the file looks unchanged
	fd     int         // -1: not open
	device bool        // a block device: its zeros are holes
	dense  bool        // the file has no holes, or they cannot be found
	last   bool        // this reading is to be recorded, even if the file changes

	pending atomic.Int32 // spans that are to be read, if several readers do
	mu      sync.Mutex
	spans   []readSpan
	err     error
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

// open opens the file by its name.
func (f *inFile) open(readback bool) (err error) {
	if f.fd < 0 {
		if f.fd, err = openNoAtime(f.dir.fd, f.entry.name, unix.O_NONBLOCK); err != nil {
			f.fd = -1
			return err
		}
	}
	if readback {
		_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_DONTNEED) // best effort: the disk should answer, not the cache
	}
	f.dense = f.device || f.stat.Blocks*512 >= f.stat.Size
	return nil
}

// close lets go of the file and its directory.
func (f *inFile) close() {
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
	f.dir.release()
}

// check returns ErrChanged unless the file is still as the walk saw it. Of a device nobody can tell.
func (f *inFile) check() error {
	if f.device {
		return nil
	}
	var now unix.Stat_t
	if err := fstat(f.fd, &now); err != nil {
		return err
	}
	if now.Ino != f.stat.Ino || now.Dev != f.stat.Dev || now.Size != f.stat.Size || changed(&f.stat, &now) {
		return ErrChanged
	}
	return nil
}

// renew takes the file as it is now, for another reading.
func (f *inFile) renew() error {
	if f.dir != nil && f.fd >= 0 {
		unix.Close(f.fd) // its name may be that of another file by now
		f.fd = -1
	}
	if err := f.open(false); err != nil {
		return err
	}
	if err := fstat(f.fd, &f.stat); err != nil {
		return err
	}
	if f.stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return ErrChanged
	}
	f.dense = f.stat.Blocks*512 >= f.stat.Size
	f.entry.setMeta(&f.stat)
	f.spans, f.err = nil, nil
	return nil
}

// form is how a file of more than a chunk is divided.
func (f *inFile) form() form {
	if f.device || f.stat.Size%4096 == 0 {
		return formFixed
	}
	return formVariable
}

// complete sets what was found in the file.
func (f *inFile) complete() {
	e := &f.entry.file
	e.size = f.stat.Size
	if !f.device {
		e.stamp = newStamp(&f.stat)
	}
	if len(f.spans) == 1 && f.spans[0].whole != nil {
		e.form, e.whole = formWhole, *f.spans[0].whole
		e.digest = wholeDigest(e.size, e.whole)
		return
	}
	slices.SortFunc(f.spans, func(a, b readSpan) int { return cmp.Compare(a.number, b.number) })
	e.form = f.form()
	h := newFileHash(e.size)
	for _, sp := range f.spans {
		e.spans = append(e.spans, sp.span)
		if !sp.empty {
			h.add(sp.number, sp.digest)
		}
	}
	e.digest = h.sum()
}

func newStamp(st *unix.Stat_t) stamp {
	return stamp{int64(st.Ctim.Sec), uint32(st.Ctim.Nsec), st.Ino}
}

// dataSpans opens a large file and returns the numbers of its spans that are not a hole. If that fails it returns none: whoever
// reads the file finds out why.
func (f *inFile) dataSpans(readback bool) (spans []int64) {
	if f.open(readback) != nil {
		return nil
	}
	for off := int64(0); off < f.stat.Size; {
		data, err := f.nextData(off)
		if err != nil {
			return nil
		}
		if data >= f.stat.Size {
			break
		}
		spans = append(spans, data/spanSize)
		off = (data/spanSize + 1) * spanSize
	}
	return spans
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

// extents finds the data of a span.
func (f *inFile) extents(start, length int64) (extents []extent, err error) {
	for off := start; off < start+length; {
		data, err := f.nextData(off)
		if err != nil {
			return nil, err
		}
		if data >= start+length {
			break
		}
		hole, err := f.nextHole(data)
		if err != nil {
			return nil, err
		}
		hole = min(hole, start+length)
		if hole <= data {
			return nil, ErrChanged
		}
		extents = append(extents, extent{data - start, hole - data})
		off = hole
	}
	return extents, nil
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

// reader is one who reads files, with the buffers that come with the turn to do so; without them it can only settle what it gets.
type reader struct {
	*scanner
	*buffers
}

// do does a task, unless the scan ended.
func (r *reader) do(ctx context.Context, t task) {
	if t.file == nil {
		for _, f := range t.group.small {
			r.small(ctx, f)
		}
		t.group.release()
		return
	}
	f := t.file
	err := ctx.Err()
	if err == nil && !f.failed() {
		err = r.readSpan(ctx, f, t.span)
	}
	if err != nil {
		f.fail(err)
	}
	if f.pending.Add(-1) == 0 {
		f.err = cmp.Or(f.finish(), f.err)
		r.settle(ctx, f)
		f.group.release()
	}
}

// small reads a file, or finds it unchanged.
func (r *reader) small(ctx context.Context, f *inFile) {
	if ctx.Err() == nil && f.old != nil && r.keep(ctx, f) {
		f.close()
		return
	}
	f.err = r.readFile(ctx, f)
	r.settle(ctx, f)
}

// settle completes the entry of a file that was read. If it changed meanwhile it is read again, if that is wanted.
func (r *reader) settle(ctx context.Context, f *inFile) {
	for n := 1; n < readings && r.keepGoing && errors.Is(f.err, ErrChanged) && ctx.Err() == nil; n++ {
		f.last = n == readings-1
		if f.err = f.renew(); f.err == nil {
			f.err = r.readFile(ctx, f)
		}
	}
	f.close()
	if f.err == nil || f.entry.flags&flagChanged != 0 {
		f.complete()
	}
}

// readFile reads all of a file.
func (r *reader) readFile(ctx context.Context, f *inFile) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.open(r.readback); err != nil {
		return err
	}
	for number := range spanCount(f.stat.Size) {
		if err := r.readSpan(ctx, f, number); err != nil {
			return cmp.Or(f.check(), err)
		}
	}
	return f.finish()
}

// finish makes sure that the file did not change while it was read.
func (f *inFile) finish() (err error) {
	if !f.device {
		f.entry.xattrs, err = fdXattrs(f.fd)
	}
	if err == nil {
		err = f.check()
	}
	if f.last && errors.Is(err, ErrChanged) {
		f.entry.flags |= flagChanged
	}
	return err
}

// spanReader reads one span of a file.
type spanReader struct {
	*reader
	file   *inFile
	form   form
	start  int64 // of the span, in the file
	length int64
	holes  bool // the span is more than its one extent
	list   spanList
	cells  []cellDigest // those that are not all zero
	whole  *Hash
	carry  int // bytes of a chunk that began in the window before
}

// readSpan reads one span, hands its chunks and their list to the sink, and notes it in the file.
func (r *reader) readSpan(ctx context.Context, f *inFile, number int64) error {
	s := spanReader{reader: r, file: f, form: f.form(), start: number * spanSize, length: spanLength(f.stat.Size, number)}
	extents, err := f.extents(s.start, s.length)
	if err != nil || len(extents) == 0 {
		return err
	}
	if err := s.read(ctx, extents); err != nil {
		return err
	}
	done := readSpan{span: span{number: number}, digest: spanDigest(s.cells), empty: len(s.cells) == 0, whole: s.whole}
	if s.whole == nil && len(s.list.extents) > 0 {
		s.encodeList(ctx, &done.span)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spans = append(f.spans, done)
	return nil
}

func (s *spanReader) read(ctx context.Context, extents []extent) error {
	s.holes = extents[0] != (extent{0, s.length})
	if !s.file.device {
		s.list.extents = extents
	}
	runs := touched(extents)
	for i, run := range runs {
		for first := run[0]; first < run[1]; first += window / cellSize {
			n := min(window, (run[1]-first)*cellSize, s.length-first*cellSize)
			last := i == len(runs)-1 && first+window/cellSize >= run[1]
			if err := s.window(ctx, first*cellSize, s.data[maxCut:maxCut+n], last); err != nil {
				return err
			}
		}
	}
	return nil
}

// window reads a part of the span into data, and divides it.
func (s *spanReader) window(ctx context.Context, off int64, data []byte, last bool) error {
	if s.file.last {
		clear(data) // what the file does not have any more is recorded as zeros
	}
	err := readFull(s.file.fd, data, s.start+off)
	if short := errors.Is(err, io.ErrUnexpectedEOF); err != nil && (!short || !s.file.last) {
		return err
	}
	s.progress.bytes.Add(int64(len(data)))
	var parts []extent
	if s.holes {
		parts = clip(s.list.extents, off, int64(len(data)))
		blank(data, parts)
	}
	for n := 0; n < len(data); n += cellSize {
		s.cell(ctx, off+int64(n), data[n:min(len(data), n+cellSize)])
	}
	if s.form == formVariable && s.whole == nil && s.sink != nil {
		if s.holes {
			data = compact(data, parts)
		}
		s.cut(ctx, len(data), last)
	}
	return ctx.Err()
}

// cell takes the next cell of the span.
func (s *spanReader) cell(ctx context.Context, off int64, cell []byte) {
	if allZero(cell) {
		return
	}
	d := Hash(blake3.Sum256(cell))
	c := cellDigest{uint32(off / cellSize), d}
	s.cells = append(s.cells, c)
	f := s.file
	switch {
	case f.stat.Size <= cellSize && !s.holes && !f.device:
		s.whole = &d
	case s.form == formVariable:
		return
	case f.device:
		s.list.extents = extend(s.list.extents, extent{off, int64(len(cell))})
	}
	s.list.cells = s.cells
	s.hand(ctx, d, cell, false)
}

// cut divides n bytes of a window, and what is carried over from the one before, into chunks.
func (s *spanReader) cut(ctx context.Context, n int, last bool) {
	rest := s.data[maxCut-s.carry : maxCut+n]
	for len(rest) >= maxCut || last && len(rest) > 0 {
		chunk := rest[:s.gear.cut(rest)]
		rest = rest[len(chunk):]
		d := Hash(blake3.Sum256(chunk))
		s.list.chunks = append(s.list.chunks, sizedChunk{int64(len(chunk)), d})
		s.hand(ctx, d, chunk, false)
	}
	s.carry = copy(s.data[maxCut-len(rest):], rest)
}

// encodeList puts the list of a span where it belongs.
func (s *spanReader) encodeList(ctx context.Context, to *span) {
	list := s.list.encode(s.form)
	to.length = len(list)
	if len(list) <= inlineList {
		to.inline = list
		return
	}
	to.list = blake3.Sum256(list)
	s.hand(ctx, to.list, list, true)
}

// clip returns the parts of extents that are in n bytes at off, counted from there.
func clip(extents []extent, off, n int64) (parts []extent) {
	for _, x := range extents {
		start, end := max(x.off, off), min(x.off+x.length, off+n)
		if start < end {
			parts = append(parts, extent{start - off, end - start})
		}
	}
	return parts
}

// blank clears what is not in the parts: it may have been written since they were found.
func blank(data []byte, parts []extent) {
	at := int64(0)
	for _, p := range parts {
		clear(data[at:p.off])
		at = p.off + p.length
	}
	clear(data[at:])
}

// compact moves the parts together.
func compact(data []byte, parts []extent) []byte {
	n := 0
	for _, p := range parts {
		n += copy(data[n:], data[p.off:p.off+p.length])
	}
	return data[:n]
}

// extend appends an extent, or makes the last one longer if they touch.
func extend(extents []extent, x extent) []extent {
	if n := len(extents); n > 0 && extents[n-1].off+extents[n-1].length == x.off {
		extents[n-1].length += x.length
		return extents
	}
	return append(extents, x)
}

// hand gives a chunk to the sink. That the sink cannot take it is no fault of the file, and ends the scan.
func (r *reader) hand(ctx context.Context, d Hash, raw []byte, isList bool) {
	if r.sink == nil || ctx.Err() != nil {
		return
	}
	if err := r.sink.chunk(ctx, d, raw, isList, &r.encoded); err != nil {
		r.abort(err)
	}
}
