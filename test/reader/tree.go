package reader

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// The kinds of records.
const (
	Dir      = 'd'
	End      = 'e'
	File     = 'f'
	Symlink  = 'l'
	Hardlink = 'h'
	FIFO     = 'p'
	CharDev  = 'c'
	BlockDev = 'b'
	Unread   = 'x'
)

const maxPath = 65535

// An Entry is one entry of a tree.
type Entry struct {
	Kind byte
	Name string
	Path string // from the root, whose path is empty

	Mode, UID, GID uint32 // Mode is the low 12 bits
	Sec            int64  // modification time
	Nsec           uint32
	Xattrs         []Xattr

	Size         uint64 // of a file
	Changed      bool   // the file changed while it was read
	Target       string // of a symlink, or the path that a hard link names
	Major, Minor uint32
	Reason       string // why it could not be read

	content fileContent
	meta    []byte // metadata as in the record
	roots   roots  // of an End
}

// An Xattr is one extended attribute.
type Xattr struct {
	Name  string
	Value []byte
}

// decodeRecord decodes one record, without its length. Its path is left to the caller.
func decodeRecord(record []byte) (*Entry, error) {
	c := &cursor{rest: record}
	e := &Entry{Kind: c.byte(), Name: string(c.bytes())}
	switch e.Kind {
	case End:
		e.roots = roots{c.digest(), c.digest()}
	case Hardlink:
		e.Target = string(c.all())
		checkPath(c, e.Target)
	case Unread:
		e.Reason = string(c.all())
		if c.err == nil && (e.Reason == "" || len(e.Reason) > 1024 || !utf8.ValidString(e.Reason)) {
			c.fail("reason %q", e.Reason)
		}
	case Dir, File, Symlink, FIFO, CharDev, BlockDev:
		from := c.rest
		e.metadata(c)
		e.meta = from[:len(from)-len(c.rest)]
		e.rest(c)
	default:
		c.fail("kind %q is unknown", e.Kind)
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	return e, nil
}

// rest is what comes after the metadata.
func (e *Entry) rest(c *cursor) {
	switch e.Kind {
	case File:
		e.file(c)
	case Symlink:
		e.Target = string(c.all())
		if c.err == nil && (e.Target == "" || len(e.Target) > 4095 || strings.IndexByte(e.Target, 0) >= 0) {
			c.fail("symlink to %q", e.Target)
		}
	case CharDev, BlockDev:
		e.Major = uint32(c.upTo(1<<32-1, "major number"))
		e.Minor = uint32(c.upTo(1<<32-1, "minor number"))
	}
}

func (e *Entry) metadata(c *cursor) {
	e.Mode = uint32(c.upTo(0o7777, "mode"))
	e.UID = uint32(c.upTo(1<<32-1, "uid"))
	e.GID = uint32(c.upTo(1<<32-1, "gid"))
	e.Sec = c.varint()
	e.Nsec = uint32(c.upTo(1e9-1, "nanoseconds"))
	last := ""
	for n := c.uvarint(); n > 0 && c.err == nil; n-- {
		x := Xattr{string(c.bytes()), c.bytes()}
		switch {
		case c.err != nil:
			return
		case x.Name <= last:
			c.fail("attribute %q behind %q", x.Name, last)
		case !savedAttribute(x.Name) || len(x.Name) > 255 || strings.IndexByte(x.Name, 0) >= 0:
			c.fail("attribute %q", x.Name)
		case len(x.Value) > 65536:
			c.fail("attribute %q of %d bytes", x.Name, len(x.Value))
		}
		last = x.Name
		e.Xattrs = append(e.Xattrs, x)
	}
}

func savedAttribute(name string) bool {
	switch name {
	case "system.posix_acl_access", "system.posix_acl_default", "security.capability":
		return true
	}
	return strings.HasPrefix(name, "user.")
}

func validName(name string) bool {
	return name != "" && len(name) <= 255 && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

func checkPath(c *cursor, path string) {
	if c.err == nil && len(path) > maxPath {
		c.fail("path of %d bytes", len(path))
	}
	for name := range strings.SplitSeq(path, "/") {
		if c.err == nil && !validName(name) {
			c.fail("path %q has the part %q", path, name)
		}
	}
}

// A walker follows the records of a tree and computes its roots.
type walker struct {
	image bool
	visit func(*Entry) error
	open  []*openDir // the directories around the next record
	roots *roots     // of the tree, after its last record
}

// An openDir is a directory whose end is not reached.
type openDir struct {
	entry    *Entry
	last     string // the entry before the next
	children childRoots
}

// Walk calls visit for every entry of the tree, in its order, and checks order, names and roots.
func (v *Vault) Walk(s *Snapshot, visit func(*Entry) error) error {
	segments, err := v.segments(s)
	if err != nil {
		return err
	}
	w := &walker{image: s.Image, visit: visit}
	for _, segment := range segments {
		data, err := v.chunk(segment.chunk)
		if err != nil {
			return fmt.Errorf("the tree from %q on: %w", segment.path, err)
		}
		if err := w.segment(data, segment.path); err != nil {
			return fmt.Errorf("the tree from %q on: %w", segment.path, err)
		}
	}
	if w.roots == nil {
		return errors.New("the tree ends early")
	}
	if got := fmt.Sprintf("%x %x", w.roots.content, w.roots.meta); got != s.Content+" "+s.Meta {
		return fmt.Errorf("the tree has the roots %s, the snapshot %s %s", got, s.Content, s.Meta)
	}
	return nil
}

// segment takes the records of one segment, the first of which is at path.
func (w *walker) segment(data []byte, path string) error {
	c := cursor{rest: data}
	for first := true; first || len(c.rest) > 0; first = false {
		record := c.bytes()
		if c.err != nil {
			return c.err
		}
		e, err := decodeRecord(record)
		if err != nil {
			return fmt.Errorf("record behind %q: %w", w.path(), err)
		}
		if err := w.locate(e); err != nil {
			return err
		}
		if first && (e.Kind == End || e.Path != path) {
			return fmt.Errorf("it begins with %q of kind %q", e.Path, e.Kind)
		}
		if err := w.take(e); err != nil {
			return err
		}
	}
	return nil
}

// path is where the walker is.
func (w *walker) path() string {
	if len(w.open) == 0 {
		return ""
	}
	d := w.open[len(w.open)-1]
	return join(d.entry.Path, d.last)
}

// locate finds the path of a record, and whether it may stand there.
func (w *walker) locate(e *Entry) error {
	switch {
	case w.roots != nil:
		return errors.New("a record behind the end of the tree")
	case len(w.open) == 0:
		if want := map[bool]byte{false: Dir, true: File}[w.image]; e.Kind != want || e.Name != "" {
			return fmt.Errorf("the root is of kind %q and has the name %q", e.Kind, e.Name)
		}
		return nil
	case e.Kind == End:
		e.Path = w.open[len(w.open)-1].entry.Path
		if e.Name != "" {
			return fmt.Errorf("the end of %q has the name %q", e.Path, e.Name)
		}
		return nil
	}
	d := w.open[len(w.open)-1]
	e.Path = join(d.entry.Path, e.Name)
	switch {
	case !validName(e.Name):
		return fmt.Errorf("%q cannot be the name of anything", e.Path)
	case e.Name <= d.last:
		return fmt.Errorf("%q stands behind %q", e.Path, d.last)
	case len(e.Path) > maxPath:
		return fmt.Errorf("path of %d bytes", len(e.Path))
	case e.Kind == Hardlink && !before(e.Target, e.Path):
		return fmt.Errorf("%q is a hard link to %q, which comes later", e.Path, e.Target)
	}
	d.last = e.Name
	return nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func (w *walker) take(e *Entry) error {
	if e.Kind == End {
		return w.close(e)
	}
	if err := w.visit(e); err != nil {
		return err
	}
	if e.Kind == Dir {
		w.open = append(w.open, &openDir{entry: e})
		return nil
	}
	w.add(e, rootsOf(e, nil))
	return nil
}

// close ends the innermost directory.
func (w *walker) close(end *Entry) error {
	d := w.open[len(w.open)-1]
	r := rootsOf(d.entry, &d.children)
	if r != end.roots {
		return fmt.Errorf("the directory %q has the roots %x %x, its end says %x %x", d.entry.Path,
			r.content, r.meta, end.roots.content, end.roots.meta)
	}
	w.open = w.open[:len(w.open)-1]
	w.add(d.entry, r)
	return nil
}

func (w *walker) add(e *Entry, r roots) {
	if len(w.open) == 0 {
		w.roots = &r
		return
	}
	c := &w.open[len(w.open)-1].children
	c.content.add(r.content)
	c.meta.add(r.meta)
}

// String is kind and path, for messages.
func (e *Entry) String() string { return fmt.Sprintf("%c %q", e.Kind, e.Path) }
