package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// Nodes go to the readers and to the collector in groups: so many, with so many bytes to read, at most.
	groupNodes = 64
	groupBytes = window
	// ahead is how many entries the walk may be ahead of the slowest file before them.
	ahead = 16 * groupNodes
)

// scanner reads a tree: one goroutine walks it, several read files, and one takes the entries in the order of the walk.
type scanner struct {
	sink      sink // nil: only digests are wanted
	budget    *budget
	gear      *gear // nil: only digests are wanted
	progress  *progress
	parent    *parent // nil: all is read
	readback  bool    // the tree was just loaded: pass over the marker, and read from the disk
	keepGoing bool    // record what cannot be read as such
	live      bool    // of that, tolerate only what changed, and leave out what vanished

	links   map[inode]string
	group   *group // that the walk is filling
	ordered chan *group
	tasks   chan task
	failed  failures
	// abort ends the scan for a reason that is not a file's.
	abort context.CancelCauseFunc
}

type inode struct{ dev, ino uint64 }

// node is one record on its way to the sink.
type node struct {
	entry *entry
	dir   *directory // that the entry is in, or that it ends; nil for the root
	file  *inFile    // to be read; nil if there is nothing to read
	err   error
}

func (n *node) path() string {
	switch {
	case n.dir == nil:
		return "."
	case n.entry.kind == kindEnd:
		if n.dir.path == "" {
			return "."
		}
		return n.dir.path
	}
	return n.dir.join(n.entry.name)
}

// fault is what kept the node from being read.
func (n *node) fault() error {
	if n.file != nil {
		return n.file.err
	}
	return n.err
}

// group is some nodes that follow one another.
type group struct {
	nodes   []node
	small   []*inFile    // read one after the other; larger files have tasks of their own
	bytes   int64        // of small
	pending atomic.Int32 // files whose tasks are not done, and the small ones
	done    chan struct{}
}

func newGroup() *group {
	g := &group{nodes: make([]node, 0, groupNodes), done: make(chan struct{})}
	g.pending.Store(1)
	return g
}

// release drops one claim on the group; the last one completes it.
func (g *group) release() {
	if g.pending.Add(-1) == 0 {
		close(g.done)
	}
}

// directory is an open directory. It stays open until all of its files were read.
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
	if d != nil && d.refs.Add(-1) == 0 {
		unix.Close(d.fd)
	}
}

// task is one span of a file to read, or the small files of a group.
type task struct {
	group *group
	file  *inFile // nil: the small files
	span  int64
}

// scan reads the tree at path, a directory, file or block device, and returns its roots. Files that could not be read are in
// s.failed; unless the scan keeps going the roots are worth nothing then.
func (s *scanner) scan(ctx context.Context, path string) (roots Roots, err error) {
	s.links = map[inode]string{}
	s.group = newGroup()
	s.ordered = make(chan *group, ahead/groupNodes)
	s.tasks = make(chan task, 2*readers())
	ctx, s.abort = context.WithCancelCause(ctx)
	defer s.abort(nil)
	g, ctx := errgroup.WithContext(ctx)
	if s.parent != nil {
		g.Go(func() error { return s.parent.read(ctx) })
	}
	g.Go(func() error {
		defer close(s.ordered)
		defer close(s.tasks)
		defer s.parent.stop()
		return s.walkRoot(ctx, path)
	})
	for range readers() {
		g.Go(func() error {
			s.work(ctx)
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
	return roots, nil
}

// work does tasks, each when it is its turn. When ctx ends it only settles them.
func (s *scanner) work(ctx context.Context) {
	for t := range s.tasks {
		b := s.budget.read(ctx)
		r := reader{scanner: s, buffers: b}
		r.do(ctx, t)
		if b != nil {
			s.budget.doneReading(b)
		}
	}
}

// collect hands the entries over in order. After a file failed it only looks for further failures, unless the scan keeps going.
func (s *scanner) collect(ctx context.Context) (roots Roots, err error) {
	var m merkle
	for g := range s.ordered {
		<-g.done // closed even when ctx ends
		if err := ctx.Err(); err != nil {
			return Roots{}, err
		}
		for i := range g.nodes {
			n := &g.nodes[i]
			if s.live && s.failed.vanished(n) {
				continue
			}
			s.failed.note(n, s.keepGoing, s.live)
			if s.failed.fatal {
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
	}
	return roots, ctx.Err()
}

// add appends a node to the walk.
func (s *scanner) add(ctx context.Context, n node) error {
	s.group.nodes = append(s.group.nodes, n)
	if len(s.group.nodes) < groupNodes && s.group.bytes < groupBytes {
		return nil
	}
	return s.flush(ctx)
}

// flush hands on the group that the walk is filling.
func (s *scanner) flush(ctx context.Context) error {
	g := s.group
	s.group = newGroup()
	if len(g.small) == 0 {
		g.release()
	} else if err := s.assign(ctx, task{group: g}); err != nil {
		return err
	}
	select {
	case s.ordered <- g:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// assign hands a task to the readers. When the scan ends first, it settles the task itself.
func (s *scanner) assign(ctx context.Context, t task) error {
	select {
	case s.tasks <- t:
		return nil
	case <-ctx.Done():
		r := reader{scanner: s}
		r.do(ctx, t)
		return ctx.Err()
	}
}

// walkRoot walks what is at path.
func (s *scanner) walkRoot(ctx context.Context, path string) error {
	defer func() {
		for _, f := range s.group.small { // there are some if the walk was cut short
			f.close()
		}
	}()
	fd, st, err := openSource(path)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		root := &directory{fd: fd}
		root.refs.Store(1)
		err = s.walk(ctx, root, nil, "")
	} else {
		err = s.image(ctx, fd, &st)
	}
	if err != nil {
		return err
	}
	return s.flush(ctx)
}

// openSource opens what is to be saved. It may be named by a symlink.
func openSource(path string) (fd int, st unix.Stat_t, err error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	fd, err = retry(func() (int, error) { return unix.Open(path, flags|unix.O_NOATIME, 0) })
	if errors.Is(err, unix.EPERM) {
		fd, err = retry(func() (int, error) { return unix.Open(path, flags, 0) })
	}
	if err != nil {
		return -1, st, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if err = fstat(fd, &st); err == nil {
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR, unix.S_IFREG, unix.S_IFBLK:
			return fd, st, nil
		}
		err = errors.New("neither a directory nor a regular file nor a block device")
	}
	unix.Close(fd)
	return -1, st, err
}

// walk adds an open directory, named name in parent, and all below it. It releases d.
func (s *scanner) walk(ctx context.Context, d, parent *directory, name string) error {
	defer d.release()
	var before, after unix.Stat_t
	open := node{entry: &entry{kind: kindDir, name: name}, dir: parent}
	if open.err = fstat(d.fd, &before); open.err == nil {
		open.entry.setMeta(&before)
		open.entry.xattrs, open.err = fdXattrs(d.fd)
	}
	var names []string
	if open.err == nil {
		names, open.err = readNames(d.fd)
	}
	if err := s.add(ctx, open); err != nil || open.err != nil {
		return err
	}
	s.parent.enter(name)
	defer s.parent.leave()
	for _, child := range names {
		if err := s.child(ctx, d, child); err != nil {
			return err
		}
	}
	end := node{entry: &entry{kind: kindEnd}, dir: d}
	if end.err = fstat(d.fd, &after); end.err == nil && changed(&before, &after) {
		end.err = ErrChanged
	}
	return s.add(ctx, end)
}

// child adds one entry of a directory, and what is below it.
func (s *scanner) child(ctx context.Context, d *directory, name string) error {
	n := node{entry: &entry{name: name}, dir: d}
	if d.path == "" && name == marker {
		if s.readback {
			return nil
		}
		n.err = ErrIncomplete
		return s.add(ctx, n)
	}
	var st unix.Stat_t
	if n.err = fstatat(d.fd, name, &st); n.err != nil {
		return s.add(ctx, n)
	}
	format := st.Mode & unix.S_IFMT
	switch {
	case format == unix.S_IFSOCK:
		s.progress.sockets.Add(1)
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
			return s.add(ctx, n)
		}
		s.links[key] = n.path()
	}
	n.entry.setMeta(&st)
	if format == unix.S_IFREG {
		return s.file(ctx, n, &st)
	}
	n.err = n.entry.setSpecial(d.fd, &st)
	return s.add(ctx, n)
}

func (s *scanner) subdirectory(ctx context.Context, parent *directory, n node, st *unix.Stat_t) error {
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
		return s.add(ctx, n)
	}
	d := &directory{fd: fd, path: n.path()}
	d.refs.Store(1)
	return s.walk(ctx, d, parent, n.entry.name)
}

// file adds a file and has it read, or compared with the parent's.
func (s *scanner) file(ctx context.Context, n node, st *unix.Stat_t) error {
	n.entry.kind = kindFile
	n.file = &inFile{entry: n.entry, dir: n.dir, stat: *st, fd: -1, old: s.parent.unchanged(n.entry.name, st)}
	n.dir.refs.Add(1)
	return s.addFile(ctx, n)
}

// image adds what the tree is a single file of: an open file or block device.
func (s *scanner) image(ctx context.Context, fd int, st *unix.Stat_t) error {
	n := node{entry: &entry{kind: kindFile}}
	n.file = &inFile{entry: n.entry, stat: *st, fd: fd}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		size, err := unix.Seek(fd, 0, unix.SEEK_END)
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("asking for the size of the device: %w", err)
		}
		n.file.device, n.file.stat.Size = true, size
	} else {
		n.entry.setMeta(st)
		n.file.old = s.parent.unchanged("", st)
	}
	return s.addFile(ctx, n)
}

// addFile adds a file: to the small ones of its group, or with a task for each span that is not a hole.
func (s *scanner) addFile(ctx context.Context, n node) error {
	f, g := n.file, s.group
	f.group = g
	var spans []int64
	if f.old == nil && f.stat.Size > spanSize {
		spans = f.dataSpans(s.readback)
	}
	if len(spans) < 2 {
		g.small = append(g.small, f)
		if f.old == nil {
			g.bytes += f.stat.Size
		}
		return s.add(ctx, n)
	}
	g.pending.Add(1)
	f.pending.Store(int32(len(spans)))
	err := s.add(ctx, n)
	for _, span := range spans {
		err = errors.Join(err, s.assign(ctx, task{file: f, span: span})) // each is to be settled, come what may
	}
	return err
}

// failures are the files that could not be read.
type failures struct {
	files []FileError
	fatal bool
	links map[string]error // those of them that may have other names
}

// note looks whether a node could be read. If the scan keeps going, it turns one that could not into a record that says so.
func (f *failures) note(n *node, keepGoing, live bool) {
	err := n.fault()
	if n.entry.kind == kindHard {
		err = f.links[n.entry.target]
	}
	if err == nil {
		return
	}
	path := n.path()
	f.files = append(f.files, FileError{path, err})
	// A directory that changed while it was read is recorded as it was found, and so is a file that has the flag.
	asFound := n.entry.kind == kindEnd || n.entry.flags&flagChanged != 0
	switch {
	case !keepGoing || (n.dir == nil || live) && !asFound || errors.Is(err, ErrIncomplete):
		f.fatal = true
	case !asFound:
		f.link(path, err)
		n.entry = &entry{kind: kindError, name: n.entry.name, target: reason(err)}
	}
}

// vanished reports whether an entry was gone when it was its turn, so that it is not in the tree any more. Other names that it has name the
// first, which is not there: they fail.
func (f *failures) vanished(n *node) bool {
	err := n.fault()
	if n.dir == nil || n.entry.kind == kindEnd || !errors.Is(err, unix.ENOENT) {
		return false
	}
	f.link(n.path(), err)
	return true
}

// link notes an error for the other names that a file may have.
func (f *failures) link(path string, err error) {
	if f.links == nil {
		f.links = map[string]error{}
	}
	f.links[path] = err
}

// reason is what is recorded of an error: why, but not where.
func reason(err error) string {
	errno := unix.Errno(0)
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, ErrChanged):
		return ErrChanged.Error()
	}
	return "could not be read"
}

// scanTree gives all of the tree at path to a saver. It returns what could not be read, too.
func scanTree(ctx context.Context, path string, to *saver) (Roots, *FileErrors, error) {
	v := to.vault
	s := &scanner{sink: to, budget: &v.budget, gear: v.keys.gear, progress: to.progress, keepGoing: to.keepGoing, live: to.live}
	if to.parent != nil && to.detect != DetectNone {
		s.parent = newParent(to)
	}
	return s.run(ctx, path)
}

// digestTree computes the roots of a tree.
func digestTree(ctx context.Context, path string) (Roots, error) {
	s := &scanner{budget: &budget{}, progress: &progress{}}
	return s.digest(ctx, path)
}

// readBack computes the roots of a tree that was just loaded, but for its marker, from the disk where that can be had.
func readBack(ctx context.Context, path string, p *progress) (Roots, error) {
	s := &scanner{budget: &budget{}, progress: p, readback: true}
	return s.digest(ctx, path)
}

func (s *scanner) digest(ctx context.Context, path string) (Roots, error) {
	roots, _, err := s.run(ctx, path)
	return roots, err
}

// run scans the tree at path. What could not be read is the error unless the scan keeps going.
func (s *scanner) run(ctx context.Context, path string) (Roots, *FileErrors, error) {
	roots, err := s.scan(ctx, path)
	if err != nil || len(s.failed.files) == 0 {
		return roots, nil, err
	}
	s.progress.failed.Store(int64(len(s.failed.files)))
	failed := &FileErrors{s.failed.files}
	if s.failed.fatal {
		return Roots{}, nil, failed
	}
	return roots, failed, nil
}
