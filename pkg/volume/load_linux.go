package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// A batch is what is planned together: so many entries, of so many bytes, that keep so many files and directories open.
	batchEntries = 4096
	batchBytes   = 256 << 20
	batchHandles = 256
	// batches is how many are loaded at once.
	batches = 4
	// batchFetch is how many chunks of a batch are fetched together, and batchFetches how many times that at once.
	batchFetch   = 4096
	batchFetches = 3
)

// loader writes a tree. One goroutine reads the tree, makes its directories and puts everything else into batches; each batch
// makes its files and fills them, several at once.
type loader struct {
	*fetcher
	record   *record
	options  LoadOptions
	progress *progress

	target target
	mirror bool      // what was found and the snapshot does not have is removed
	dirs   []*outDir // those that are open in the tree
	links  linker
	made   merkle // what was made
	result LoadResult
	number int // of the entry in the tree

	batch   *batch
	running *errgroup.Group

	mu     sync.Mutex
	failed []failedFile
}

// target is where a load goes.
type target interface {
	// sync has all that was written reach the disk.
	sync() error
	// verify reads it back.
	verify(ctx context.Context, want Roots, p *progress) error
	// complete removes the mark of an unfinished load.
	complete() error
	close()
}

type failedFile struct {
	number int
	FileError
}

// loadTree writes a snapshot, or a part of it, to target. There is a result if the load came to its end.
func loadTree(ctx context.Context, target string, r *record, f *fetcher, o LoadOptions, p *progress) (*LoadResult, error) {
	l := &loader{fetcher: f, record: r, options: o, progress: p, links: linker{fetcher: f, record: r, base: o.Path}}
	err := l.load(ctx, target)
	if l.target != nil {
		defer l.target.close()
	}
	if err != nil {
		return nil, err
	}
	failed := l.fileErrors()
	if damaged(failed) {
		return &l.result, failed
	}
	if err := l.target.sync(); err != nil {
		return nil, fmt.Errorf("syncing: %w", err)
	}
	if o.Verify == VerifyReadback {
		again := &progress{}
		p.again.Store(again)
		if err := l.target.verify(ctx, l.result.Roots, again); err != nil {
			return nil, err
		}
	}
	if err := l.target.complete(); err != nil {
		return nil, fmt.Errorf("completing the load: %w", err)
	}
	return &l.result, failed
}

// load makes all of the tree.
func (l *loader) load(ctx context.Context, target string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var runCtx context.Context
	l.running, runCtx = errgroup.WithContext(ctx)
	l.running.SetLimit(batches)
	l.batch = newBatch(l, nil)
	err := l.subtree(runCtx, l.record, l.options.Path, func(e *entry) error { return l.take(runCtx, target, e) })
	if err != nil {
		cancel()
	}
	l.flush(runCtx)
	err = firstError(err, l.running.Wait())
	for _, d := range l.dirs { // of a load that failed
		err = errors.Join(err, d.release())
	}
	return err
}

// fileErrors names what could not be loaded.
func (l *loader) fileErrors() error {
	if len(l.failed) == 0 {
		return nil
	}
	slices.SortFunc(l.failed, func(a, b failedFile) int { return cmp.Compare(a.number, b.number) })
	errs := &FileErrors{}
	for _, f := range l.failed {
		errs.Files = append(errs.Files, f.FileError)
	}
	return errs
}

func (l *loader) fail(it item, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, failedFile{it.number, FileError{it.path(), err}})
}

// take takes the next record of the tree.
func (l *loader) take(ctx context.Context, target string, e *entry) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	l.number++
	if l.target == nil {
		return l.begin(ctx, target, e)
	}
	d := l.dirs[len(l.dirs)-1]
	if e.kind == kindEnd {
		return l.endDir(ctx, d)
	}
	it := item{dir: d, entry: e, number: l.number}
	if e.kind == kindError {
		l.fail(it, fmt.Errorf("%w: %s", ErrUnreadable, e.target))
		return nil
	}
	if len(l.dirs) == 1 && e.name == marker {
		return FileError{marker, errors.New("it has the name of the mark of an unfinished load")}
	}
	if e.kind == kindHard {
		if it.entry, err = l.links.resolve(ctx, e, it.path()); err != nil {
			return err
		}
	}
	l.made.add(it.entry)
	err = d.removeStale(e.name)
	if err == nil && e.kind == kindDir {
		err = l.makeDir(it)
	}
	if err != nil {
		return FileError{it.path(), err}
	}
	if e.kind != kindDir {
		l.enqueue(ctx, it)
	}
	return nil
}

// begin opens the target for the first record.
func (l *loader) begin(ctx context.Context, target string, e *entry) error {
	if e.kind == kindHard {
		var err error
		if e, err = l.links.find(ctx, e.target); err != nil {
			return err
		}
	}
	root := *e
	root.name = ""
	switch e.kind {
	case kindDir:
		t, err := openDirTarget(target, l.record.ID, &root, l.options.Existing)
		if err != nil {
			return err
		}
		l.target, l.mirror = t, t.mirror
		l.dirs = append(l.dirs, t.dir)
		l.made.add(&root)
		l.progress.count(&root)
	case kindFile:
		l.result.Roots = entryRoots(&root, Roots{})
		t, err := openFileTarget(target, &root, l.options.Existing)
		if err != nil {
			return err
		}
		l.target = t
		l.enqueue(ctx, item{dir: t.dir, entry: &root, number: l.number, opened: t.file})
	case kindError:
		return FileError{cmp.Or(l.options.Path, "."), fmt.Errorf("%w: %s", ErrUnreadable, e.target)}
	default:
		return FileError{l.options.Path, errors.New("only a directory or a file can be loaded alone")}
	}
	return nil
}

// outDir is an open directory that a load fills.
type outDir struct {
	fd     int
	path   string
	entry  *entry
	fresh  bool     // it was empty: nothing is in it but what this load put there
	stale  []string // what was found in it, sorted, that is to go unless the snapshot has it
	isRoot bool     // it is the target's, which completes and closes it

	refs  atomic.Int32 // the last to release it completes it
	ended atomic.Bool  // all that is in it was made
}

// release drops one claim on the directory.
func (d *outDir) release() error {
	if d.refs.Add(-1) > 0 || d.isRoot {
		return nil
	}
	err := error(nil)
	if d.ended.Load() {
		err = d.setMeta()
	}
	if err = errors.Join(err, unix.Close(d.fd)); err != nil {
		return FileError{cmp.Or(d.path, "."), err}
	}
	return nil
}

func (d *outDir) setMeta() error {
	if !d.fresh {
		if err := removeXattrs(d.fd, d.entry); err != nil {
			return err
		}
	}
	if err := setMeta(d.fd, d.entry); err != nil {
		return err
	}
	return setTime(d.fd, ".", d.entry)
}

// removeStale removes what was found before name; everything if that is empty.
func (d *outDir) removeStale(name string) error {
	for len(d.stale) > 0 && (name == "" || d.stale[0] <= name) {
		if d.stale[0] != name {
			if err := remove(d.fd, d.stale[0]); err != nil {
				return fmt.Errorf("removing %q: %w", d.stale[0], err)
			}
		}
		d.stale = d.stale[1:]
	}
	return nil
}

// makeDir makes a directory, or takes one that is there, and makes it the innermost one.
func (l *loader) makeDir(it item) error {
	parent, name := it.dir.fd, it.entry.name
	fresh, err := ensureDir(parent, name)
	if err != nil {
		return err
	}
	d := &outDir{path: it.path(), entry: it.entry, fresh: fresh}
	if d.fd, err = openNoAtime(parent, name, unix.O_DIRECTORY); err != nil {
		return err
	}
	d.refs.Store(1)
	l.dirs = append(l.dirs, d)
	l.progress.count(it.entry)
	if fresh {
		return nil
	}
	if err := removeDefaultACL(d.fd); err != nil {
		return err
	}
	if l.mirror {
		d.stale, err = readNames(d.fd)
	}
	return err
}

// ensureDir makes a directory unless there is one, which is made accessible to its owner.
func ensureDir(parent int, name string) (fresh bool, err error) {
	err = unix.Mkdirat(parent, name, 0o700)
	if !errors.Is(err, unix.EEXIST) {
		return err == nil, err
	}
	fd, err := unix.Openat(parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		if err = remove(parent, name); err == nil {
			err = unix.Mkdirat(parent, name, 0o700)
		}
		return err == nil, err
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := fstat(fd, &st); err != nil || st.Mode&0o700 == 0o700 {
		return false, err
	}
	return false, unix.Chmod(fdPath(fd), 0o700)
}

// endDir ends the innermost directory. Files of it may still be on their way.
func (l *loader) endDir(ctx context.Context, d *outDir) error {
	if err := d.removeStale(""); err != nil {
		return FileError{cmp.Or(d.path, "."), err}
	}
	l.result.Roots = l.made.add(&entry{kind: kindEnd})
	l.dirs = l.dirs[:len(l.dirs)-1]
	d.ended.Store(true)
	return d.release()
}

// item is an entry to be made.
type item struct {
	dir    *outDir
	entry  *entry
	number int
	opened *outFile // a file that is open already
}

func (it item) path() string { return path.Join(it.dir.path, it.entry.name) }

// enqueue puts an entry into the batch.
func (l *loader) enqueue(ctx context.Context, it item) {
	b := l.batch
	if n := len(b.items); n == 0 || b.items[n-1].dir != it.dir {
		b.handles++
	}
	if it.entry.kind == kindFile {
		b.bytes += it.entry.size
		if it.entry.form != formWhole {
			b.handles++
		}
		if it.entry.flags&flagChanged != 0 {
			l.result.Changed = append(l.result.Changed, cmp.Or(it.path(), "."))
		}
	}
	it.dir.refs.Add(1)
	b.items = append(b.items, it)
	if len(b.items) >= batchEntries || b.bytes >= batchBytes || b.handles >= batchHandles {
		l.flush(ctx)
	}
}

// flush starts to load the batch. It waits while enough are being loaded.
func (l *loader) flush(ctx context.Context) {
	b := l.batch
	if len(b.items) == 0 {
		return
	}
	l.batch = newBatch(l, b.turn)
	l.running.Go(func() error { return b.run(ctx) })
}

// batch is a number of entries that are made together.
type batch struct {
	*loader
	items   []item
	bytes   int64
	handles int

	files    []*outFile // opened so far
	compares *errgroup.Group
	fetches  *errgroup.Group
	fetchCtx context.Context // ends with the first error of fetches
	turn     *turn

	wanted sync.Mutex
	wants  []want
}

func newBatch(l *loader, before *turn) *batch {
	return &batch{loader: l, turn: &turn{done: make(chan struct{}), before: before}}
}

// turn is the place of a batch in their order.
type turn struct {
	done   chan struct{} // closed when the batch is done
	before *turn         // nil when all before are done
}

// wait waits until all batches before are done.
func (t *turn) wait(ctx context.Context) error {
	for ; t.before != nil; t.before = t.before.before {
		select {
		case <-t.before.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// end says that the batch is done, and forgets those before that are.
func (t *turn) end() {
	for t.before != nil {
		select {
		case <-t.before.done:
			t.before = t.before.before
			continue
		default:
		}
		break
	}
	close(t.done)
}

// run makes the entries of a batch.
func (b *batch) run(ctx context.Context) (err error) {
	defer b.turn.end()
	defer func() {
		for _, it := range b.items {
			err = errors.Join(err, it.dir.release())
		}
	}()
	err = b.fill(ctx)
	for _, f := range b.files {
		f.abandon()
	}
	if err != nil {
		return err
	}
	return b.link(ctx)
}

// fill makes all but hard links, and fetches what is to be in it.
func (b *batch) fill(ctx context.Context) error {
	b.fetches, b.fetchCtx = errgroup.WithContext(ctx)
	b.fetches.SetLimit(batchFetches)
	b.compares, ctx = errgroup.WithContext(b.fetchCtx)
	b.compares.SetLimit(runtime.GOMAXPROCS(0))
	err := b.make(ctx)
	err = firstError(err, b.compares.Wait())
	if err == nil {
		b.fetchWanted()
	}
	return firstError(err, b.fetches.Wait())
}

// firstError returns the error of one side of a group, unless it only says that the other failed.
func firstError(err, other error) error {
	if other != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return other
	}
	return err
}

// make makes all but hard links, and plans what is to be in it.
func (b *batch) make(ctx context.Context) error {
	for _, it := range b.items {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := error(nil)
		switch {
		case it.entry.kind == kindHard:
			continue
		case it.entry.kind != kindFile:
			err = it.makeSpecial()
			b.progress.count(it.entry)
		case it.opened == nil && it.entry.form == formWhole:
			err = b.makeSmall(it)
		default:
			err = b.makeFile(ctx, it)
		}
		if err != nil && ctx.Err() == nil {
			return asFileError(it, err)
		}
	}
	return nil
}

func asFileError(it item, err error) error {
	if file := (FileError{}); errors.As(err, &file) {
		return err
	}
	return FileError{cmp.Or(it.path(), "."), err}
}

// want has chunks fetched, sooner or later: the more at once, the fewer requests it takes.
func (b *batch) want(wants ...want) {
	b.wanted.Lock()
	b.wants = append(b.wants, wants...)
	enough := len(b.wants) >= batchFetch
	b.wanted.Unlock()
	if enough {
		b.fetchWanted()
	}
}

func (b *batch) fetchWanted() {
	b.wanted.Lock()
	wants := b.wants
	b.wants = nil
	b.wanted.Unlock()
	if len(wants) > 0 {
		b.fetches.Go(func() error { return b.fetch(b.fetchCtx, wants) })
	}
}

// link makes the hard links of a batch, once all that comes before them is there.
func (b *batch) link(ctx context.Context) error {
	for _, it := range b.items {
		if it.entry.kind != kindHard {
			continue
		}
		if err := b.turn.wait(ctx); err != nil {
			return err
		}
		if err := b.makeHard(it); err != nil {
			return FileError{it.path(), fmt.Errorf("linking to %q: %w", it.entry.target, err)}
		}
		b.progress.count(it.entry)
	}
	return nil
}

// makeHard links to an entry that was made before. No part of the way to it may be a symlink.
func (b *batch) makeHard(it item) error {
	root := b.target.(*dirTarget).dir.fd
	parts := strings.Split(it.entry.target, "/")
	at := root
	for _, part := range parts[:len(parts)-1] {
		next, err := unix.Openat(at, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if at != root {
			unix.Close(at)
		}
		if err != nil {
			return err
		}
		at = next
	}
	err := it.clear()
	if err == nil {
		err = unix.Linkat(at, parts[len(parts)-1], it.dir.fd, it.entry.name, 0)
	}
	if at != root {
		unix.Close(at)
	}
	return err
}

// clear removes what has the name of an entry that is to be made.
func (it item) clear() error {
	if it.dir.fresh {
		return nil
	}
	return remove(it.dir.fd, it.entry.name)
}

// makeSpecial makes what is neither directory nor file.
func (it item) makeSpecial() error {
	if err := it.clear(); err != nil {
		return err
	}
	dir, e := it.dir.fd, it.entry
	if e.kind == kindLink {
		return makeLink(dir, e)
	}
	return makeNode(dir, e)
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
	return setTime(dir, e.name, e)
}

// makeNode makes a FIFO or a device.
func makeNode(dir int, e *entry) error {
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
	err = errors.Join(setMetaOf(fdPath(fd), e), unix.Close(fd))
	if err != nil {
		return err
	}
	return setTime(dir, e.name, e)
}
