package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// markedEmpty is what the mark of a load says of a target that was empty: whatever is in it now was put there by a load.
const markedEmpty = "empty"

// dirTarget is a directory to load into.
type dirTarget struct {
	name   string
	dir    *outDir
	mirror bool
}

// openDirTarget opens a directory, makes sure that it may be loaded into, and marks it as unfinished.
func openDirTarget(name, id string, root *entry, existing Existing) (*dirTarget, error) {
	if err := os.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	fd, err := openRoot(name)
	if err != nil {
		return nil, err
	}
	t := &dirTarget{name, &outDir{fd: fd, entry: root, isRoot: true}, existing == ExistingMirror}
	t.dir.refs.Store(1)
	if err := t.open(id, existing); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return t, nil
}

func (t *dirTarget) open(id string, existing Existing) error {
	names, err := readNames(t.dir.fd)
	if err != nil {
		return fmt.Errorf("reading %q: %w", t.name, err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		var st unix.Stat_t
		return name == lostFound && fstatat(t.dir.fd, name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
	})
	marked := slices.Contains(names, marker)
	names = slices.DeleteFunc(names, func(name string) bool { return name == marker })
	t.dir.fresh = len(names) == 0
	taken := false
	if marked && !t.dir.fresh {
		if taken, err = t.wasEmpty(); err != nil {
			return err
		}
	}
	switch {
	case taken:
		t.mirror = true
	case !t.dir.fresh && existing == ExistingRefuse && marked:
		return fmt.Errorf("%w: it holds an unfinished load into one that held something", ErrNotEmpty)
	case !t.dir.fresh && existing == ExistingRefuse:
		return fmt.Errorf("%w: it holds %q", ErrNotEmpty, names[0])
	}
	if t.mirror {
		t.dir.stale = names
	}
	if err := removeDefaultACL(t.dir.fd); err != nil {
		return err
	}
	if marked && !t.dir.fresh {
		return nil // what it says stays true
	}
	return t.mark(id)
}

// wasEmpty tells whether the target was empty when the unfinished load that marked it began.
func (t *dirTarget) wasEmpty() (bool, error) {
	fd, err := openNoAtime(t.dir.fd, marker, unix.O_NONBLOCK)
	if err != nil {
		return false, fmt.Errorf("reading the mark of an unfinished load: %w", err)
	}
	defer unix.Close(fd)
	text := make([]byte, 100)
	if err := readSome(fd, text, 0); err != nil {
		return false, fmt.Errorf("reading the mark of an unfinished load: %w", err)
	}
	lines := strings.Split(string(text), "\n")
	return len(lines) > 2 && lines[1] == markedEmpty, nil
}

// mark marks the target as unfinished, and makes sure that the mark stays.
func (t *dirTarget) mark(id string) error {
	was := "not " + markedEmpty
	if t.dir.fresh {
		was = markedEmpty
	}
	fd, err := unix.Openat(t.dir.fd, marker, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("marking the load as unfinished: %w", err)
	}
	err = errors.Join(writeFull(fd, []byte(id+"\n"+was+"\n"), 0), unix.Fsync(fd), unix.Close(fd), unix.Fsync(t.dir.fd))
	if err != nil {
		return fmt.Errorf("marking the load as unfinished: %w", err)
	}
	return nil
}

func (t *dirTarget) sync() error {
	if err := removeXattrs(t.dir.fd, t.dir.entry); err != nil {
		return err
	}
	if err := t.dir.setMeta(); err != nil {
		return err
	}
	return retry0(func() error { return unix.Syncfs(t.dir.fd) })
}

func (t *dirTarget) verify(ctx context.Context, want Roots, p *progress) error {
	roots, err := readBack(ctx, t.name, p)
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	return compareRoots(roots, want)
}

func compareRoots(got, want Roots) error {
	switch {
	case got.Content != want.Content:
		return fmt.Errorf("%w: content root %s, want %s", ErrMismatch, got.Content, want.Content)
	case got.Meta != want.Meta:
		return fmt.Errorf("%w: metadata root %s, want %s", ErrMismatch, got.Meta, want.Meta)
	}
	return nil
}

func (t *dirTarget) complete() error {
	if err := unix.Unlinkat(t.dir.fd, marker, 0); err != nil {
		return err
	}
	return errors.Join(setTime(t.dir.fd, ".", t.dir.entry), unix.Fsync(t.dir.fd))
}

func (t *dirTarget) close() { unix.Close(t.dir.fd) }

// fileTarget is a file or a block device to load into. A file has another name until it is complete.
type fileTarget struct {
	dir   *outDir // that the file is in
	name  string  // of the file when it is complete; empty for a device
	entry *entry
	fd    int
	bare  bool     // no metadata are to be set
	file  *outFile // to be filled
	end   int64    // of a device that is to be zero behind the image; 0 where that does not matter
}

// openFileTarget opens a file or device for an entry, whose name becomes that of the unfinished file.
func openFileTarget(name string, e *entry, existing Existing) (*fileTarget, error) {
	var st unix.Stat_t
	err := retry0(func() error { return unix.Stat(name, &st) })
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return openDevice(name, e, existing)
	}
	fd, err := openRoot(filepath.Dir(name))
	if err != nil {
		return nil, err
	}
	t := &fileTarget{dir: &outDir{fd: fd, isRoot: true}, name: filepath.Base(name), entry: e, bare: e.bare()}
	t.dir.refs.Store(1)
	e.name = t.name + marker
	if err := t.open(existing); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return t, nil
}

func (t *fileTarget) open(existing Existing) error {
	var st unix.Stat_t
	err := fstatat(t.dir.fd, t.name, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return err
	case existing == ExistingRefuse:
		return fmt.Errorf("%w: it exists", ErrNotEmpty)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("it is neither a regular file nor a block device")
	default:
		// What was there is what the new file is made from, unless an unfinished load has done so already.
		err := renameNew(t.dir.fd, t.name, t.entry.name)
		if errors.Is(err, unix.EEXIST) {
			err = unix.Unlinkat(t.dir.fd, t.name, 0)
		}
		if err != nil {
			return err
		}
	}
	if t.file, err = (item{dir: t.dir, entry: t.entry}).open(); err != nil {
		return err
	}
	t.fd, t.file.kept, t.file.bare = t.file.fd, true, t.bare
	return nil
}

// bare tells whether an entry has no metadata, as that of a device.
func (e *entry) bare() bool {
	return e.mode == 0 && e.uid == 0 && e.gid == 0 && e.sec == 0 && e.nsec == 0 && len(e.xattrs) == 0
}

// edge is how much of a device's beginning and end must be zero for it to count as empty: file systems, partition tables and
// all that is put on devices leave their mark there.
const edge = 1 << 20

// openDevice opens a block device that nobody else uses.
func openDevice(name string, e *entry, existing Existing) (*fileTarget, error) {
	fd, err := retry(func() (int, error) { return unix.Open(name, unix.O_RDWR|unix.O_EXCL|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := &outFile{fd: fd, old: fd, dirty: true, bare: true, kept: true}
	end, err := f.checkDevice(e.size, existing)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	dir := &outDir{fd: -1, isRoot: true}
	dir.refs.Store(1)
	t := &fileTarget{dir: dir, entry: e, fd: fd, bare: true, file: f}
	if existing == ExistingMirror {
		t.end = end
	}
	return t, nil
}

// checkDevice makes sure that an image of the given size may be loaded into the device, and returns the device's size.
func (f *outFile) checkDevice(size int64, existing Existing) (end int64, err error) {
	if end, err = unix.Seek(f.fd, 0, unix.SEEK_END); err != nil {
		return 0, err
	}
	if end < size {
		return 0, fmt.Errorf("the device has %d bytes, and the image %d", end, size)
	}
	if existing != ExistingRefuse {
		return end, nil
	}
	f.old = -1
	b := make([]byte, min(edge, end))
	for _, off := range []int64{0, end - int64(len(b))} {
		if err := readFull(f.fd, b, off); err != nil {
			return 0, err
		}
		if !allZero(b) {
			return 0, fmt.Errorf("%w: the device has data at its beginning or end", ErrNotEmpty)
		}
	}
	return end, nil
}

func (t *fileTarget) sync() error {
	if t.end > t.entry.size {
		behind := outFile{fd: t.fd, dirty: true}
		if err := behind.hole(t.entry.size, t.end); err != nil {
			return fmt.Errorf("zeroing what is behind the image: %w", err)
		}
	}
	return retry0(func() error { return unix.Fsync(t.fd) })
}

func (t *fileTarget) verify(ctx context.Context, want Roots, p *progress) error {
	_ = unix.Fadvise(t.fd, 0, 0, unix.FADV_DONTNEED) // best effort: the disk should answer, not the cache
	now := entry{kind: kindFile}
	var err error
	if now.digest, err = digestFile(ctx, t.fd, t.entry.size, p); err == nil {
		err = now.readMeta(t.fd)
	}
	if err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	got := entryRoots(&now, Roots{})
	if t.bare {
		got.Meta = want.Meta // there are none
	}
	p.count(&now)
	if err := t.verifyBehind(ctx); err != nil {
		return err
	}
	return compareRoots(got, want)
}

// verifyBehind makes sure that nothing is behind the image where nothing is to be.
func (t *fileTarget) verifyBehind(ctx context.Context) error {
	cell := make([]byte, cellSize)
	for off := t.entry.size; off < t.end; off += cellSize {
		b := cell[:min(cellSize, t.end-off)]
		if err := readFull(t.fd, b, off); err != nil {
			return fmt.Errorf("reading back: %w", err)
		}
		if !allZero(b) {
			return fmt.Errorf("%w: the device has data behind the image", ErrMismatch)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// readMeta sets the metadata of an open file.
func (e *entry) readMeta(fd int) (err error) {
	var st unix.Stat_t
	if err := fstat(fd, &st); err != nil {
		return err
	}
	e.setMeta(&st)
	e.xattrs, err = fdXattrs(fd)
	return err
}

func (t *fileTarget) complete() error {
	if t.name == "" {
		return nil
	}
	if err := renameNew(t.dir.fd, t.entry.name, t.name); err != nil {
		return err
	}
	return unix.Fsync(t.dir.fd)
}

// renameNew renames a file to a name that is free, where the file system can make sure of that.
func renameNew(dir int, from, to string) error {
	err := unix.Renameat2(dir, from, dir, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = unix.Renameat(dir, from, dir, to)
	}
	return err
}

func (t *fileTarget) close() {
	unix.Close(t.fd)
	if t.dir.fd >= 0 {
		unix.Close(t.dir.fd)
	}
}

// digestFile computes the digest of a file of the given size, whose holes are read as well.
func digestFile(ctx context.Context, fd int, size int64, p *progress) (Hash, error) {
	spans := make([]Hash, spanCount(size))
	empty := make([]bool, len(spans))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for number := range spans {
		g.Go(func() (err error) {
			spans[number], empty[number], err = digestSpan(ctx, fd, size, int64(number), p)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Hash{}, err
	}
	h := newFileHash(size)
	for number, d := range spans {
		if !empty[number] {
			h.add(int64(number), d)
		}
	}
	return h.sum(), nil
}

func digestSpan(ctx context.Context, fd int, size, number int64, p *progress) (d Hash, empty bool, err error) {
	length := spanLength(size, number)
	var cells []cellDigest
	cell := make([]byte, cellSize)
	for n := uint32(0); int64(n)*cellSize < length; n++ {
		b := cell[:cellLength(length, n)]
		if err := readFull(fd, b, number*spanSize+int64(n)*cellSize); err != nil {
			return d, false, err
		}
		p.bytes.Add(int64(len(b)))
		if !allZero(b) {
			cells = append(cells, cellDigest{n, blake3.Sum256(b)})
		}
		if err := ctx.Err(); err != nil {
			return d, false, err
		}
	}
	return spanDigest(cells), len(cells) == 0, nil
}
