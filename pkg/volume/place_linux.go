package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// makeSmall makes a file of one chunk when that has come, in one go, so that such files are never open while they wait.
func (b *batch) makeSmall(it item) error {
	if !it.dir.fresh {
		if there, err := b.keepSmall(it); there || err != nil {
			return err
		}
	}
	b.want(want{it.entry.whole, func(chunk []byte, err error) error {
		if err == nil && int64(len(chunk)) != it.entry.size {
			err = fmt.Errorf("%w: chunk of %d bytes for a file of %d", ErrDamaged, len(chunk), it.entry.size)
		}
		if err != nil {
			b.fail(it, err)
			chunk = nil
		}
		if err := it.create(chunk); err != nil {
			return FileError{it.path(), err}
		}
		if err == nil {
			b.progress.count(it.entry)
			b.progress.bytes.Add(it.entry.size)
		}
		return nil
	}})
	return nil
}

// create makes a file of one chunk. One that has fewer bytes than it should ends in a hole.
func (it item) create(content []byte) error {
	if err := it.clear(); err != nil {
		return err
	}
	fd, err := it.openNew(unix.O_WRONLY)
	if err != nil {
		return err
	}
	if int64(len(content)) < it.entry.size {
		err = retry0(func() error { return unix.Ftruncate(fd, it.entry.size) })
	}
	if err == nil {
		err = writeFull(fd, content, 0)
	}
	if err == nil {
		err = it.setMeta(fd)
	}
	return errors.Join(err, unix.Close(fd))
}

// openNew makes a file: with the mode that it is to have if nothing else will change it, else for its owner alone.
func (it item) openNew(access int) (int, error) {
	e, mode := it.entry, uint32(0o600)
	if int(e.uid) == unix.Geteuid() && int(e.gid) == unix.Getegid() && len(e.xattrs) == 0 {
		mode = e.mode & 0o777
	}
	return retry(func() (int, error) {
		return unix.Openat(it.dir.fd, e.name, access|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	})
}

// setMeta sets the metadata of a file that is open.
func (it item) setMeta(fd int) error {
	if err := setMeta(fd, it.entry); err != nil {
		return err
	}
	return setTime(it.dir.fd, it.entry.name, it.entry)
}

// keepSmall keeps a file of one chunk that is there already.
func (b *batch) keepSmall(it item) (there bool, err error) {
	if !it.isFile() {
		return false, nil
	}
	fd, err := openNoAtime(it.dir.fd, it.entry.name, unix.O_NONBLOCK)
	if err != nil {
		return false, nil // there is nothing of use
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != it.entry.size {
		return false, nil
	}
	content := make([]byte, st.Size)
	if err := readFull(fd, content, 0); err != nil || blake3.Sum256(content) != it.entry.whole {
		return false, nil
	}
	// Another name of it may be anywhere, and where it has a hole the saved file has none.
	hole, err := unix.Seek(fd, 0, unix.SEEK_HOLE)
	if st.Nlink > 1 || err != nil || hole < st.Size {
		err = it.create(content)
	} else if err = removeXattrs(fd, it.entry); err == nil {
		err = it.setMeta(fd)
	}
	if err == nil {
		b.progress.count(it.entry)
		b.progress.bytes.Add(st.Size)
	}
	return true, err
}

// isFile tells whether there is a regular file where the entry belongs. To open anything else may do something.
func (it item) isFile() bool {
	var st unix.Stat_t
	return fstatat(it.dir.fd, it.entry.name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// outFile is a file being written.
type outFile struct {
	item
	fd  int
	old int // what was there, to compare with: the file itself, another that is to be replaced, or -1
	// dirty says that bytes that were not written may be anything; else they are holes.
	dirty bool
	// bare says that the entry has no metadata, or the file cannot take it.
	bare bool
	// kept says that someone else closes the file.
	kept bool

	pending atomic.Int32

	// mu is for err, and for writing: the kernel lets one write to a file at a time, and who waits for it there keeps a processor.
	mu      sync.Mutex
	err     error // ErrDamaged
	written int   // since what was written was last sent to the disk
}

// writeBack is how much of a file is written before it is sent to the disk, so that this is not all left to the end.
const writeBack = 8 << 20

// write writes b at off.
func (f *outFile) write(b []byte, off int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := writeFull(f.fd, b, off); err != nil {
		return err
	}
	if f.written += len(b); f.written >= writeBack {
		f.written = 0
		_ = unix.SyncFileRange(f.fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) // what is not sent now is sent later
	}
	return nil
}

func (f *outFile) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// makeFile makes a file and plans what is to be in it.
func (b *batch) makeFile(ctx context.Context, it item) error {
	f := it.opened
	if f == nil {
		var err error
		if f, err = it.open(); err != nil {
			return err
		}
	}
	f.item = it
	b.files = append(b.files, f)
	f.pending.Store(1)
	err := b.plan(ctx, f)
	if damaged(err) {
		f.fail(err)
		err = nil
	}
	return errors.Join(err, b.release(f))
}

// open makes a file at its full length, or takes up what is there.
func (it item) open() (*outFile, error) {
	f := &outFile{item: it, fd: -1, old: -1}
	if !it.dir.fresh {
		if err := f.takeUp(); err != nil {
			return nil, err
		}
	}
	err := error(nil)
	if f.fd < 0 {
		f.fd, err = it.openNew(unix.O_RDWR)
	}
	if err == nil && (f.dirty || it.entry.size > 0) {
		err = retry0(func() error { return unix.Ftruncate(f.fd, it.entry.size) })
	}
	if err != nil {
		f.abandon()
		return nil, err
	}
	return f, nil
}

// takeUp opens what has the file's name. A regular file is written in place if that is its only name; else it is only what
// the new one may be copied from.
func (f *outFile) takeUp() error {
	if !f.isFile() {
		return f.clear()
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(f.dir.fd, f.entry.name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return f.clear() // it cannot be written
	}
	var st unix.Stat_t
	switch err := fstat(fd, &st); {
	case err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG:
		return errors.Join(err, unix.Close(fd), f.clear())
	case st.Nlink > 1:
		f.old = fd
		return f.clear()
	}
	f.fd, f.old, f.dirty = fd, fd, true
	return nil
}

// abandon closes the file unless that was done.
func (f *outFile) abandon() {
	if f.old >= 0 && f.old != f.fd {
		unix.Close(f.old)
	}
	if f.fd >= 0 && !f.kept {
		unix.Close(f.fd)
	}
	f.fd, f.old = -1, -1
}

// release drops one claim on the file; the last one completes it.
func (b *batch) release(f *outFile) error {
	if f.pending.Add(-1) > 0 {
		return nil
	}
	err := error(nil)
	if !f.bare {
		if f.dirty {
			err = removeXattrs(f.fd, f.entry)
		}
		if err == nil {
			err = f.setMeta(f.fd)
		}
	}
	f.abandon()
	switch {
	case err != nil:
		return FileError{f.path(), err}
	case f.err != nil:
		b.fail(f.item, f.err)
	default:
		b.progress.count(f.entry)
	}
	return nil
}

// plan finds out what of a file is to be fetched.
func (b *batch) plan(ctx context.Context, f *outFile) error {
	e := &f.entry.file
	if e.form == formWhole {
		return b.span(ctx, f, 0, e.size, &spanList{extents: []extent{{0, e.size}}, cells: []cellDigest{{0, e.whole}}})
	}
	h := newFileHash(e.size)
	end := int64(0) // of the last extent
	err := b.eachList(ctx, e, func(number int64, c *spanList) error {
		start, length := number*spanSize, spanLength(e.size, number)
		if len(c.cells) > 0 {
			h.add(number, spanDigest(c.cells))
		}
		for _, x := range c.extents {
			if err := f.hole(end, start+x.off); err != nil {
				return err
			}
			end = start + x.off + x.length
		}
		return b.span(ctx, f, start, length, c)
	})
	if err == nil {
		err = f.hole(end, e.size)
	}
	if err == nil && e.form == formFixed && h.sum() != e.digest {
		return fmt.Errorf("%w: cells do not make up the file", ErrDamaged)
	}
	return err
}

// hole makes sure that there is a hole.
func (f *outFile) hole(from, to int64) error {
	if !f.dirty || from >= to {
		return nil
	}
	err := retry0(func() error {
		return unix.Fallocate(f.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, from, to-from)
	})
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	return f.zero(from, to)
}

// zero writes zeros where there is anything else.
func (f *outFile) zero(from, to int64) error {
	buf := make([]byte, cellSize)
	for ; from < to; from += cellSize {
		b := buf[:min(cellSize, to-from)]
		if err := readSome(f.fd, b, from); err != nil {
			return err
		}
		if allZero(b) {
			continue
		}
		clear(b)
		if err := writeFull(f.fd, b, from); err != nil {
			return err
		}
	}
	return nil
}

// readSome reads as much as there is; what is behind the end are zeros.
func readSome(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := retry(func() (int, error) { return unix.Pread(fd, b, off) })
		if err != nil {
			return err
		}
		if n == 0 {
			clear(b)
			return nil
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// piece is a part of a file that is one chunk, or zeros that are no hole.
type piece struct {
	file    *outFile
	extents []extent // of its span
	start   int64    // of its span in the file
	// at is where the piece begins: in the span if it is a cell, else among the bytes of the extents.
	at, length int64
	cell       bool
	zero       bool
	digest     Hash
}

// span plans a span of a file. What is there to compare with is compared in the background.
func (b *batch) span(ctx context.Context, f *outFile, start, length int64, c *spanList) error {
	pieces, err := cut(f, start, length, c)
	if err != nil {
		return err
	}
	if f.old >= 0 {
		f.pending.Add(1)
		b.compares.Go(func() error { return b.replace(ctx, f, pieces) })
		return nil
	}
	for i := range pieces {
		p := &pieces[i]
		if p.zero {
			if err := p.write(make([]byte, p.length)); err != nil {
				return err
			}
			b.progress.bytes.Add(p.length)
			continue
		}
		f.pending.Add(1)
		b.want(want{p.digest, func(chunk []byte, err error) error { return b.use(p, chunk, err) }})
	}
	return nil
}

// cut divides a span into its pieces.
func cut(f *outFile, start, length int64, c *spanList) ([]piece, error) {
	whole := piece{file: f, extents: c.extents, start: start}
	if f.entry.form == formVariable {
		pieces := make([]piece, 0, len(c.chunks))
		for _, k := range c.chunks {
			whole.length, whole.digest = k.length, k.digest
			pieces = append(pieces, whole)
			whole.at += k.length
		}
		return pieces, nil
	}
	pieces := make([]piece, 0, len(c.cells))
	whole.cell = true
	todo := c.cells
	for _, run := range touched(c.extents) {
		for number := uint32(run[0]); int64(number) < run[1]; number++ {
			p := whole
			p.at, p.length, p.zero = int64(number)*cellSize, cellLength(length, number), true
			if len(todo) > 0 && todo[0].number == number {
				p.digest, p.zero, todo = todo[0].digest, false, todo[1:]
			}
			pieces = append(pieces, p)
		}
	}
	if len(todo) > 0 {
		return nil, fmt.Errorf("%w: a cell lies in a hole", ErrDamaged)
	}
	return pieces, nil
}

// part is where a part of a chunk belongs.
type part struct{ from, to, off int64 }

// parts tells where the bytes of the piece belong in the file.
func (p *piece) parts(do func(part) error) error {
	first := int64(0) // of an extent, as the piece counts
	for _, x := range p.extents {
		if p.cell {
			first = x.off
		}
		from, to := max(p.at, first), min(p.at+p.length, first+x.length)
		if from < to {
			if err := do(part{from - p.at, to - p.at, p.start + x.off + from - first}); err != nil {
				return err
			}
		}
		first += x.length
		if first >= p.at+p.length {
			break
		}
	}
	return nil
}

func (p *piece) write(chunk []byte) error {
	return p.parts(func(t part) error { return p.file.write(chunk[t.from:t.to], t.off) })
}

// use takes the chunk of a piece.
func (b *batch) use(p *piece, chunk []byte, err error) error {
	if err == nil && int64(len(chunk)) != p.length {
		err = fmt.Errorf("%w: chunk of %d bytes in the place of %d", ErrDamaged, len(chunk), p.length)
	}
	if err != nil {
		p.file.fail(err)
	} else if err := p.write(chunk); err != nil {
		return FileError{p.file.path(), err}
	} else {
		b.progress.bytes.Add(p.length)
	}
	return b.release(p.file)
}

// replace compares pieces of a file with what is there, and wants those that differ.
func (b *batch) replace(ctx context.Context, f *outFile, pieces []piece) error {
	var wants []want
	var buf []byte
	for i := range pieces {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := &pieces[i]
		buf = slices.Grow(buf[:0], int(p.length))[:p.length]
		same, err := p.compare(buf)
		if err != nil {
			return FileError{f.path(), err}
		}
		if same {
			b.progress.bytes.Add(p.length)
			continue
		}
		f.pending.Add(1)
		wants = append(wants, want{p.digest, func(chunk []byte, err error) error { return b.use(p, chunk, err) }})
	}
	b.want(wants...)
	return b.release(f)
}

// compare tells whether the piece is there, and if so makes sure that it is in the new file and not in a hole.
func (p *piece) compare(buf []byte) (same bool, err error) {
	f := p.file
	clear(buf)
	inPlace := f.old == f.fd
	err = p.parts(func(t part) error {
		if err := readSome(f.old, buf[t.from:t.to], t.off); err != nil || !inPlace {
			return err
		}
		hole, err := unix.Seek(f.fd, t.off, unix.SEEK_HOLE)
		inPlace = err != nil || hole >= t.off+t.to-t.from // a device has no holes
		return nil
	})
	if err != nil {
		return false, err
	}
	if p.zero && !allZero(buf) {
		clear(buf)
		inPlace = false
	}
	if !p.zero && blake3.Sum256(buf) != p.digest {
		return false, nil
	}
	if inPlace {
		return true, nil
	}
	return true, p.write(buf)
}

// fdPath names an open file for system calls that take a path.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func (e *entry) times() []unix.Timespec {
	t := unix.Timespec{Sec: e.sec, Nsec: int64(e.nsec)}
	return []unix.Timespec{t, t}
}

func setTime(dir int, name string, e *entry) error {
	if err := unix.UtimesNanoAt(dir, name, e.times(), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("setting time: %w", err)
	}
	return nil
}

// setMeta sets all metadata but the time, which comes last. The owner comes first, because changing it drops capabilities and
// setuid; the mode comes after the attributes, which could not be set any more on a file without write permission. To look costs
// much less than to set what is right already.
func setMeta(fd int, e *entry) error {
	var st unix.Stat_t
	if err := fstat(fd, &st); err != nil {
		return err
	}
	owned := st.Uid == e.uid && st.Gid == e.gid
	if !owned {
		if err := unix.Fchown(fd, int(e.uid), int(e.gid)); err != nil {
			return fmt.Errorf("setting owner: %w", err)
		}
	}
	for _, x := range e.xattrs {
		if err := unix.Fsetxattr(fd, x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("setting attribute %q: %w", x.name, err)
		}
	}
	if owned && len(e.xattrs) == 0 && st.Mode&maxMode == e.mode {
		return nil
	}
	if err := unix.Fchmod(fd, e.mode); err != nil {
		return fmt.Errorf("setting mode: %w", err)
	}
	return nil
}

// setMetaOf is setMeta for what cannot be opened.
func setMetaOf(path string, e *entry) error {
	if err := unix.Chown(path, int(e.uid), int(e.gid)); err != nil {
		return fmt.Errorf("setting owner: %w", err)
	}
	for _, x := range e.xattrs {
		if err := unix.Setxattr(path, x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("setting attribute %q: %w", x.name, err)
		}
	}
	if err := unix.Chmod(path, e.mode); err != nil {
		return fmt.Errorf("setting mode: %w", err)
	}
	return nil
}

// removeXattrs removes attributes that the entry does not have.
func removeXattrs(fd int, e *entry) error {
	present, err := fdXattrs(fd)
	if err != nil {
		return err
	}
	for _, x := range present {
		if slices.ContainsFunc(e.xattrs, func(w xattr) bool { return w.name == x.name }) {
			continue
		}
		if err := unix.Fremovexattr(fd, x.name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("removing attribute %q: %w", x.name, err)
		}
	}
	return nil
}

// removeDefaultACL removes the default ACL of a directory, which all that is made in it would inherit.
func removeDefaultACL(fd int) error {
	err := unix.Fremovexattr(fd, "system.posix_acl_default")
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("removing default ACL: %w", err)
	}
	return nil
}

// remove removes what a name in a directory stands for, and all below it. It follows no symlink.
func remove(dir int, name string) error {
	err := retry0(func() error { return unix.Unlinkat(dir, name, 0) })
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	root, err := os.OpenRoot(fdPath(dir))
	if err != nil {
		return err
	}
	return errors.Join(root.RemoveAll(name), root.Close())
}
