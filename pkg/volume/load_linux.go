package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// A batch is what is planned together: so many files, which are open all the while, or so many chunks.
	batchFiles  = 256
	batchChunks = 16 << 10
	// batches is how many are loaded at once.
	batches = 3
	// listGroup is how many lists of cells of one file are fetched at once.
	listGroup = 16
)

// loadTree writes a snapshot into dir.
func loadTree(ctx context.Context, dir string, r *record, f *fetcher, verify Verify, p *progress) error {
	root, err := openTarget(dir, r.ID)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	l := &loader{fetcher: f, progress: p, root: root, zeros: make([]byte, cellSize), open: map[*outFile]struct{}{}}
	if err := l.load(ctx, r); err != nil {
		return err
	}
	if verify == VerifyReadback {
		if err := verifyTree(ctx, dir, r.Roots, p); err != nil {
			return err
		}
	}
	if err := l.complete(); err != nil {
		return fmt.Errorf("completing the load: %w", err)
	}
	return nil
}

func verifyTree(ctx context.Context, dir string, want Roots, p *progress) error {
	again := &progress{}
	p.again.Store(again)
	roots, err := readBack(ctx, dir, again)
	switch {
	case err != nil:
		return fmt.Errorf("reading back: %w", err)
	case roots.Content != want.Content:
		return fmt.Errorf("%w: content root %s, want %s", ErrMismatch, roots.Content, want.Content)
	case roots.Meta != want.Meta:
		return fmt.Errorf("%w: metadata root %s, want %s", ErrMismatch, roots.Meta, want.Meta)
	}
	return nil
}

// openTarget opens the directory to load into, makes sure that it is empty, and marks it as unfinished.
func openTarget(dir, id string) (fd int, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return -1, err
	}
	if fd, err = openRoot(dir); err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	if err := emptyTarget(fd, dir); err != nil {
		return -1, err
	}
	// A default ACL of the directory would be inherited by all that is made in it.
	err = unix.Removexattr(fdPath(fd), "system.posix_acl_default")
	if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
		return -1, fmt.Errorf("removing default ACL: %w", err)
	}
	mark, err := unix.Openat(fd, marker, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fmt.Errorf("marking the load as unfinished: %w", err)
	}
	err = errors.Join(writeFull(mark, []byte(id+"\n"), 0), unix.Fsync(mark), unix.Close(mark), unix.Fsync(fd))
	return fd, err
}

// emptyTarget returns ErrNotEmpty if the directory holds anything, after it removed what an unfinished load left there.
func emptyTarget(fd int, dir string) error {
	names, err := readNames(fd)
	if err != nil {
		return fmt.Errorf("reading %q: %w", dir, err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		var st unix.Stat_t
		return name == lostFound && fstatat(fd, name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
	})
	if len(names) == 0 {
		return nil
	}
	if !slices.Contains(names, marker) {
		return fmt.Errorf("%w: it holds %q", ErrNotEmpty, names[0])
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range names {
		if name == marker {
			continue
		}
		if err := root.RemoveAll(name); err != nil {
			return fmt.Errorf("removing an unfinished load: %w", err)
		}
	}
	return nil
}

// loader writes a tree. One goroutine reads the tree, makes everything in it and plans batches; others fill files.
type loader struct {
	*fetcher
	progress *progress
	root     int
	rootMeta *entry
	dirs     []openDir
	batch    batch
	running  *errgroup.Group
	made     int // files so far

	zeros []byte // a cell

	mu     sync.Mutex
	failed []failedFile
	open   map[*outFile]struct{}
}

type openDir struct {
	fd    int
	entry *entry
	path  string
}

type batch struct {
	files int
	wants []want
}

type failedFile struct {
	number int
	FileError
}

// load makes all of the tree and has it reach the disk.
func (l *loader) load(ctx context.Context, r *record) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var runCtx context.Context
	l.running, runCtx = errgroup.WithContext(ctx)
	l.running.SetLimit(batches)
	err := l.tree(runCtx, r, func(e *entry) error { return l.make(runCtx, e) })
	if err == nil {
		l.flush(runCtx)
	} else {
		cancel()
	}
	// The first error ends the other side with that of the context.
	if runErr := l.running.Wait(); runErr != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = runErr
	}
	l.closeAll()
	if err != nil {
		return err
	}
	if len(l.failed) > 0 {
		return l.fileErrors()
	}
	if err := unix.Syncfs(l.root); err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	return nil
}

// closeAll closes what a load that failed left open.
func (l *loader) closeAll() {
	for _, d := range l.dirs {
		if d.fd != l.root {
			unix.Close(d.fd)
		}
	}
	for f := range l.open {
		unix.Close(f.fd)
	}
}

func (l *loader) fileErrors() error {
	slices.SortFunc(l.failed, func(a, b failedFile) int { return cmp.Compare(a.number, b.number) })
	errs := &FileErrors{}
	for _, f := range l.failed {
		errs.Files = append(errs.Files, f.FileError)
	}
	return errs
}

// complete removes the mark of an unfinished load.
func (l *loader) complete() error {
	if err := unix.Unlinkat(l.root, marker, 0); err != nil {
		return err
	}
	return errors.Join(setTime(l.root, l.rootMeta), unix.Fsync(l.root))
}

// make makes one entry in the innermost open directory.
func (l *loader) make(ctx context.Context, e *entry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at := e.name
	err := error(nil)
	switch {
	case len(l.dirs) == 0:
		l.rootMeta = e
		l.dirs = append(l.dirs, openDir{l.root, e, ""})
	case e.kind == kindEnd:
		at = l.dirs[len(l.dirs)-1].path
		err = l.endDir()
	default:
		d := l.dirs[len(l.dirs)-1]
		at = path.Join(d.path, e.name)
		err = l.makeIn(ctx, d, e, at)
	}
	if err != nil && ctx.Err() == nil {
		return FileError{cmp.Or(at, "."), err}
	}
	if e.kind != kindFile {
		l.progress.count(e)
	}
	return err
}

func (l *loader) makeIn(ctx context.Context, d openDir, e *entry, at string) error {
	switch e.kind {
	case kindDir:
		if err := unix.Mkdirat(d.fd, e.name, 0o700); err != nil {
			return err
		}
		fd, err := openNoAtime(d.fd, e.name, unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		l.dirs = append(l.dirs, openDir{fd, e, at})
		return nil
	case kindFile:
		return l.makeFile(ctx, d, e, at)
	case kindHard:
		return l.makeHard(d, e)
	case kindLink:
		return makeLink(d.fd, e)
	}
	return makeSpecial(d.fd, e)
}

func (l *loader) endDir() error {
	n := len(l.dirs)
	d := l.dirs[n-1]
	l.dirs = l.dirs[:n-1]
	if d.fd == l.root {
		if err := removeXattrs(d.fd, d.entry); err != nil {
			return err
		}
		return setMeta(d.fd, d.entry)
	}
	return errors.Join(setMeta(d.fd, d.entry), unix.Close(d.fd))
}

func makeLink(dir int, e *entry) error {
	if err := unix.Symlinkat(e.target, dir, e.name); err != nil {
		return err
	}
	for _, x := range e.xattrs {
		if err := unix.Lsetxattr(entryPath(dir, e.name), x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("setting attribute %q: %w", x.name, err)
		}
	}
	if err := unix.Fchownat(dir, e.name, int(e.uid), int(e.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("setting owner: %w", err)
	}
	return unix.UtimesNanoAt(dir, e.name, e.times(), unix.AT_SYMLINK_NOFOLLOW)
}

// makeSpecial makes a FIFO or a device.
func makeSpecial(dir int, e *entry) error {
	mode, dev := uint32(unix.S_IFIFO), 0
	switch e.kind {
	case kindChar:
		mode, dev = unix.S_IFCHR, int(unix.Mkdev(e.major, e.minor))
	case kindBlock:
		mode, dev = unix.S_IFBLK, int(unix.Mkdev(e.major, e.minor))
	}
	if err := unix.Mknodat(dir, e.name, mode|0o600, dev); err != nil {
		return fmt.Errorf("making node: %w", err)
	}
	fd, err := unix.Openat(dir, e.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(setMeta(fd, e), unix.Close(fd))
}

// makeHard links to an entry that was made before. No part of the way to it may be a symlink.
func (l *loader) makeHard(d openDir, e *entry) error {
	parts := strings.Split(e.target, "/")
	at := l.root
	for _, part := range parts[:len(parts)-1] {
		next, err := unix.Openat(at, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if at != l.root {
			unix.Close(at)
		}
		if err != nil {
			return fmt.Errorf("linking to %q: %w", e.target, err)
		}
		at = next
	}
	err := unix.Linkat(at, parts[len(parts)-1], d.fd, e.name, 0)
	if at != l.root {
		unix.Close(at)
	}
	if err != nil {
		return fmt.Errorf("linking to %q: %w", e.target, err)
	}
	return nil
}

// outFile is a file being written.
type outFile struct {
	loader  *loader
	entry   *entry
	path    string
	number  int
	fd      int
	pending atomic.Int32

	mu  sync.Mutex
	err error // ErrDamaged
}

func (f *outFile) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// release drops one claim on the file; the last one completes it.
func (f *outFile) release() error {
	if f.pending.Add(-1) > 0 {
		return nil
	}
	l := f.loader
	err := setMeta(f.fd, f.entry)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, f)
	if err := errors.Join(err, unix.Close(f.fd)); err != nil {
		return FileError{f.path, err}
	}
	if f.err != nil {
		l.failed = append(l.failed, failedFile{f.number, FileError{f.path, f.err}})
		return nil
	}
	l.progress.count(f.entry)
	return nil
}

// makeFile makes a file, at its full length and empty, and plans its chunks.
func (l *loader) makeFile(ctx context.Context, d openDir, e *entry, at string) error {
	fd, err := unix.Openat(d.fd, e.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	l.made++
	f := &outFile{loader: l, entry: e, path: at, number: l.made, fd: fd}
	f.pending.Store(1)
	l.mu.Lock()
	l.open[f] = struct{}{}
	l.mu.Unlock()
	if e.size > 0 {
		err = retry0(func() error { return unix.Ftruncate(fd, e.size) })
	}
	if err == nil {
		err = l.planFile(ctx, f)
	}
	if damaged(err) {
		f.fail(err)
		err = nil
	}
	err = errors.Join(err, f.release())
	l.batch.files++
	if l.batch.files >= batchFiles {
		l.flush(ctx)
	}
	return err
}

// flush starts to load the batch. It waits while enough are being loaded.
func (l *loader) flush(ctx context.Context) {
	wants := l.batch.wants
	l.batch = batch{}
	if len(wants) > 0 {
		l.running.Go(func() error { return l.fetch(ctx, wants) })
	}
}

func (l *loader) planFile(ctx context.Context, f *outFile) error {
	e := &f.entry.file
	if e.form == formWhole {
		return l.planCells(ctx, f, 0, e.size, &spanList{extents: []extent{{0, e.size}}, cells: []cellDigest{{0, e.whole}}})
	}
	h := newFileHash(e.size)
	err := l.eachList(ctx, e, func(number int64, c *spanList) error {
		start, length := number*spanSize, spanLength(e.size, number)
		if e.form == formVariable {
			return l.planChunks(ctx, f, start, c)
		}
		if len(c.cells) > 0 {
			h.add(number, spanDigest(c.cells))
		}
		return l.planCells(ctx, f, start, length, c)
	})
	if err == nil && e.form == formFixed && h.sum() != e.digest {
		return fmt.Errorf("%w: cells do not make up the file", ErrDamaged)
	}
	return err
}

// planChunks wants the chunks of a span of a file of variable chunks.
func (l *loader) planChunks(ctx context.Context, f *outFile, start int64, c *spanList) error {
	return errors.New("not built yet")
}

// planCells wants the cells of a span that have a chunk, and writes the zeros of those that do not but are no hole.
func (l *loader) planCells(ctx context.Context, f *outFile, start, length int64, c *spanList) error {
	todo := c.cells
	for _, run := range touched(c.extents) {
		for number := uint32(run[0]); int64(number) < run[1]; number++ {
			at := int64(number) * cellSize
			w := cellWriter{f, start, at, cellLength(length, number), c.extents}
			if len(todo) == 0 || todo[0].number != number {
				if err := w.write(l.zeros[:w.length]); err != nil {
					return err
				}
				continue
			}
			f.pending.Add(1)
			l.batch.wants = append(l.batch.wants, want{todo[0].digest, w.use})
			todo = todo[1:]
			if len(l.batch.wants) >= batchChunks {
				l.flush(ctx)
			}
		}
	}
	if len(todo) > 0 {
		return fmt.Errorf("%w: a cell lies in a hole", ErrDamaged)
	}
	return nil
}

// cellWriter writes one cell of a file, but for the holes in it.
type cellWriter struct {
	f       *outFile
	start   int64 // of the span in the file
	at      int64 // of the cell in the span
	length  int64
	extents []extent
}

func (w cellWriter) use(chunk []byte, err error) error {
	if err == nil && int64(len(chunk)) != w.length {
		err = fmt.Errorf("%w: chunk of %d bytes for a cell of %d", ErrDamaged, len(chunk), w.length)
	}
	if err != nil {
		w.f.fail(err)
	} else if err := w.write(chunk); err != nil {
		return FileError{w.f.path, errors.Join(err, w.f.release())}
	}
	return w.f.release()
}

func (w cellWriter) write(chunk []byte) error {
	end := w.at + w.length
	i := sort.Search(len(w.extents), func(i int) bool { return w.extents[i].off+w.extents[i].length > w.at })
	for ; i < len(w.extents) && w.extents[i].off < end; i++ {
		from, to := max(w.at, w.extents[i].off), min(end, w.extents[i].off+w.extents[i].length)
		if err := writeFull(w.f.fd, chunk[from-w.at:to-w.at], w.start+from); err != nil {
			return err
		}
	}
	w.f.loader.progress.bytes.Add(w.length)
	return nil
}

// fdPath names an open file for system calls that take a path.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }

func (e *entry) times() []unix.Timespec {
	t := unix.Timespec{Sec: e.sec, Nsec: int64(e.nsec)}
	return []unix.Timespec{t, t}
}

func setTime(fd int, e *entry) error {
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(fd), e.times(), 0); err != nil {
		return fmt.Errorf("setting time: %w", err)
	}
	return nil
}

// setMeta sets all metadata. The owner comes first, because changing it drops capabilities and setuid; the mode comes after the
// attributes, which could not be set any more on a file without write permission; the time comes last.
func setMeta(fd int, e *entry) error {
	at := fdPath(fd)
	if err := unix.Chown(at, int(e.uid), int(e.gid)); err != nil {
		return fmt.Errorf("setting owner: %w", err)
	}
	for _, x := range e.xattrs {
		if err := unix.Setxattr(at, x.name, []byte(x.value), 0); err != nil {
			return fmt.Errorf("setting attribute %q: %w", x.name, err)
		}
	}
	if err := unix.Chmod(at, e.mode); err != nil {
		return fmt.Errorf("setting mode: %w", err)
	}
	return setTime(fd, e)
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
		if err := unix.Removexattr(fdPath(fd), x.name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("removing attribute %q: %w", x.name, err)
		}
	}
	return nil
}
