package volume

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
)

// Entry is one entry of a snapshot's tree.
type Entry struct {
	// Path is where it is, from the root, in the bytes of the file system. That of the root, and of an image, is empty.
	Path string `json:"path"`
	// Kind is "directory", "file", "symlink", "hardlink" (a further name of an entry before), "fifo", "char", "block" or "unreadable".
	Kind    string    `json:"kind"`
	Mode    uint32    `json:"mode"` // permissions with setuid, setgid and sticky
	UID     uint32    `json:"uid"`
	GID     uint32    `json:"gid"`
	Size    int64     `json:"size"` // of a file, in bytes, with holes
	ModTime time.Time `json:"modTime"`
	Target  string    `json:"target,omitempty"`  // of a symlink; of a hard link, the path of the entry before
	Changed bool      `json:"changed,omitempty"` // a file that changed while it was saved
	Reason  string    `json:"reason,omitempty"`  // why an entry could not be read
	// Content and Meta are the digests of the entry that the roots of the tree are made of. A directory has none here.
	Content Hash `json:"content"`
	Meta    Hash `json:"meta"`
}

// name returns what people call the kind.
func (k kind) name() string {
	switch k {
	case kindDir:
		return "directory"
	case kindFile:
		return "file"
	case kindLink:
		return "symlink"
	case kindHard:
		return "hardlink"
	case kindFIFO:
		return "fifo"
	case kindChar:
		return "char"
	case kindBlock:
		return "block"
	}
	return "unreadable"
}

func (e *entry) describe(path string) Entry {
	d := Entry{
		Path: path, Kind: e.kind.name(), Mode: e.mode, UID: e.uid, GID: e.gid, Size: e.size, ModTime: time.Unix(e.sec, int64(e.nsec)).UTC(),
		Changed: e.flags&flagChanged != 0,
	}
	switch e.kind {
	case kindLink, kindHard:
		d.Target = e.target
	case kindError:
		d.Reason = e.target
	}
	if e.kind != kindDir {
		roots := entryRoots(e, Roots{})
		d.Content, d.Meta = roots.Content, roots.Meta
	}
	return d
}

// Entries yields what is in a directory of a snapshot, and if recursive all below it, in the order of the tree: entry by
// entry, sorted by the bytes of their names, a directory before what is in it. If path is not a directory's it yields that one
// entry. An error is the last; it is ErrPathNotFound if the snapshot proves not to have the path.
func (v *Vault) Entries(ctx context.Context, id, path string, recursive bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		stopped, err := v.eachEntry(ctx, id, path, recursive, func(e Entry) bool { return yield(e, nil) })
		if err != nil && !stopped {
			yield(Entry{}, fmt.Errorf("listing snapshot %q: %w", id, err))
		}
	}
}

func (v *Vault) eachEntry(ctx context.Context, id, path string, recursive bool, yield func(Entry) bool) (stopped bool, err error) {
	f, r, table, err := v.openTree(ctx, id)
	if err != nil {
		return false, err
	}
	defer f.close()
	if path, err = cleanPath(path); err != nil {
		return false, err
	}
	part := within(table, path)
	if !recursive {
		part = shallow(part, path)
	}
	found := false
	for at, err := range f.entries(ctx, r, part) {
		if err != nil {
			return false, err
		}
		if at.kind == kindEnd {
			continue
		}
		name := at.path()
		switch {
		case name == path && at.kind == kindDir:
			found = true
			continue
		case name == path:
			found = true
		case !below(name, path) || !recursive && strings.Contains(strings.TrimPrefix(name[len(path):], "/"), "/"):
			continue
		}
		if !yield(at.describe(name)) {
			return true, nil
		}
	}
	if !found {
		return false, fmt.Errorf("%w: %q", ErrPathNotFound, path)
	}
	return false, nil
}

// openTree opens a snapshot and the table of its tree. The fetcher must be closed.
func (v *Vault) openTree(ctx context.Context, id string) (*fetcher, *record, []segment, error) {
	r, err := v.record(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	f, err := v.openFetcher(ctx, &progress{})
	if err != nil {
		return nil, nil, nil, err
	}
	table, err := f.table(ctx, r)
	if err != nil {
		f.close()
		return nil, nil, nil, err
	}
	return f, r, table, nil
}

// shallow leaves out segments that hold nothing that is in the directory dir itself: those of which the first record, and
// the first of the next, lie in the same directory in it.
func shallow(table []segment, dir string) []segment {
	var kept []segment
	for i, s := range table {
		if i+1 < len(table) && below(s.path, dir) {
			child := s.path[:len(dir)+len(firstName(s.path[len(dir):]))]
			if below(s.path, child) && below(table[i+1].path, child) {
				continue
			}
		}
		kept = append(kept, s)
	}
	return kept
}

// firstName returns the first name of a path, with a slash before it if there is one.
func firstName(path string) string {
	if i := strings.IndexByte(path[1:], '/'); i >= 0 {
		return path[:i+1]
	}
	return path
}

// Change is a difference between two snapshots at one path.
type Change struct {
	Path string `json:"path"`
	// What is "added", "removed", "kind" (something else is there), "content" (and maybe metadata), or "metadata".
	What string `json:"what"`
	// Kind is that of the entry, as in Entry; of one that was removed, what it was.
	Kind string `json:"kind"`
	// OldSize and NewSize are the bytes of a file, with holes; 0 for all else.
	OldSize int64 `json:"oldSize"`
	NewSize int64 `json:"newSize"`
}

// Diff yields what is different in snapshot b from snapshot a, in the order of trees. What is added or removed with its
// directory is yielded, too. An error is the last. What both have in common is, for the most part, not even fetched.
func (v *Vault) Diff(ctx context.Context, a, b string) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		stopped, err := v.diff(ctx, a, b, func(c Change) bool { return yield(c, nil) })
		if err != nil && !stopped {
			yield(Change{}, fmt.Errorf("comparing snapshots %q and %q: %w", a, b, err))
		}
	}
}

func (v *Vault) diff(ctx context.Context, a, b string, yield func(Change) bool) (stopped bool, err error) {
	f, recordA, tableA, err := v.openTree(ctx, a)
	if err != nil {
		return false, err
	}
	defer f.close()
	recordB, err := v.record(ctx, b)
	if err != nil {
		return false, err
	}
	tableB, err := f.table(ctx, recordB)
	if err != nil {
		return false, err
	}
	tableA, tableB = withoutEqual(tableA, tableB)
	left, right := f.cursor(ctx, recordA, tableA), f.cursor(ctx, recordB, tableB)
	defer left.stop()
	defer right.stop()
	if err := errors.Join(left.next(), right.next()); err != nil {
		return false, err
	}
	for left.entry != nil || right.entry != nil {
		c, different, err := merge(left, right)
		if err != nil {
			return false, err
		}
		if different && !yield(c) {
			return true, nil
		}
	}
	return false, nil
}

// cursor goes through the entries of a tree, without the ends of directories.
type cursor struct {
	pull func() (located, error, bool)
	stop func()

	path   string
	*entry // nil behind the last
}

func (f *fetcher) cursor(ctx context.Context, r *record, table []segment) *cursor {
	pull, stop := iter.Pull2(f.entries(ctx, r, table))
	return &cursor{pull: pull, stop: stop}
}

func (c *cursor) next() error {
	for {
		at, err, more := c.pull()
		switch {
		case err != nil:
			return err
		case !more:
			c.entry = nil
			return nil
		case at.kind != kindEnd:
			c.path, c.entry = at.path(), at.entry
			return nil
		}
	}
}

// merge compares two trees at the path that comes first, and goes on.
func merge(a, b *cursor) (c Change, different bool, err error) {
	switch order := compareCursors(a, b); {
	case order < 0:
		c = Change{Path: a.path, What: "removed", Kind: a.kind.name(), OldSize: a.size}
		return c, true, a.next()
	case order > 0:
		c = Change{Path: b.path, What: "added", Kind: b.kind.name(), NewSize: b.size}
		return c, true, b.next()
	}
	c = Change{Path: b.path, Kind: b.kind.name(), OldSize: a.size, NewSize: b.size}
	was, is := entryRoots(a.entry, Roots{}), entryRoots(b.entry, Roots{})
	switch {
	case a.kind != b.kind:
		c.What = "kind"
	case was.Content != is.Content:
		c.What = "content"
	case was.Meta != is.Meta:
		c.What = "metadata"
	}
	return c, c.What != "", errors.Join(a.next(), b.next())
}

func compareCursors(a, b *cursor) int {
	switch {
	case a.entry == nil:
		return 1
	case b.entry == nil:
		return -1
	}
	return comparePaths(a.path, b.path)
}

// withoutEqual leaves out segments that two trees have in common at the same place.
func withoutEqual(a, b []segment) (restA, restB []segment) {
	for len(a) > 0 && len(b) > 0 {
		switch c := comparePaths(a[0].path, b[0].path); {
		case c < 0:
			restA, a = append(restA, a[0]), a[1:]
		case c > 0:
			restB, b = append(restB, b[0]), b[1:]
		case a[0].digest == b[0].digest:
			a, b = a[1:], b[1:]
		default:
			restA, restB, a, b = append(restA, a[0]), append(restB, b[0]), a[1:], b[1:]
		}
	}
	return append(restA, a...), append(restB, b...)
}
