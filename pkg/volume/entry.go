package volume

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A file is divided into spans, and a span into cells. A cell is what is read, hashed and stored at once; a span is what one
// worker reads and what one list of cells describes.
const (
	cellSize = 64 << 10
	spanSize = 64 << 20
	// inlineList is the size up to which a span's list stands in the file's entry and not in a chunk of its own.
	inlineList = 4 << 10
	maxName    = 255
	maxMode    = 0o7777
)

// kind is the kind of a record in a tree.
type kind byte

const (
	kindDir   kind = 'd' // opens a directory; the records up to its end are its children
	kindEnd   kind = 'e' // ends a directory
	kindFile  kind = 'f'
	kindLink  kind = 'l'
	kindHard  kind = 'h' // another name of an entry before
	kindFIFO  kind = 'p'
	kindChar  kind = 'c'
	kindBlock kind = 'b'
)

// entry is one record of a tree.
type entry struct {
	kind   kind
	name   string // empty for the root and for ends
	mode   uint32 // permissions with setuid, setgid and sticky
	uid    uint32
	gid    uint32
	sec    int64 // modification time
	nsec   uint32
	xattrs []xattr // sorted by name

	target       string // of a symlink; of a hard link, the path from the root
	major, minor uint32 // of a device
	size         int64  // of a file
	digest       Hash   // of a file's bytes
	spans        []span // of a file, those that are not one hole
	roots        Roots  // at an end, the directory's
}

type xattr struct{ name, value string }

// span is one span of a file: its number, and its list of cells, inline or as a chunk.
type span struct {
	number int64
	inline []byte // nil: the list is a chunk
	list   Hash
	length int // of the list
}

func appendBytes[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendMeta appends owner, mode, time and attributes.
func (e *entry) appendMeta(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(e.mode))
	b = binary.AppendUvarint(b, uint64(e.uid))
	b = binary.AppendUvarint(b, uint64(e.gid))
	b = binary.AppendVarint(b, e.sec)
	b = binary.AppendUvarint(b, uint64(e.nsec))
	b = binary.AppendUvarint(b, uint64(len(e.xattrs)))
	for _, x := range e.xattrs {
		b = appendBytes(appendBytes(b, x.name), x.value)
	}
	return b
}

// appendEntry appends a record, preceded by its length.
func appendEntry(b []byte, e *entry) []byte {
	return appendBytes(b, e.body())
}

func (e *entry) body() []byte {
	b := appendBytes([]byte{byte(e.kind)}, e.name)
	switch e.kind {
	case kindEnd:
		return append(append(b, e.roots.Content[:]...), e.roots.Meta[:]...)
	case kindHard:
		return append(b, e.target...)
	}
	b = e.appendMeta(b)
	switch e.kind {
	case kindLink:
		b = append(b, e.target...)
	case kindChar, kindBlock:
		b = binary.AppendUvarint(b, uint64(e.major))
		b = binary.AppendUvarint(b, uint64(e.minor))
	case kindFile:
		b = binary.AppendUvarint(b, uint64(e.size))
		b = append(b, e.digest[:]...)
		b = appendSpans(b, e.spans)
	}
	return b
}

func appendSpans(b []byte, spans []span) []byte {
	b = binary.AppendUvarint(b, uint64(len(spans)))
	next := int64(0)
	for _, s := range spans {
		b = binary.AppendUvarint(b, uint64(s.number-next))
		next = s.number + 1
		if s.inline != nil {
			b = appendBytes(append(b, 0), s.inline)
			continue
		}
		b = append(append(b, 1), s.list[:]...)
		b = binary.AppendUvarint(b, uint64(s.length))
	}
	return b
}

// decoder reads what the append functions wrote. After the first mistake it yields zeros, and err tells.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: bad %s", ErrDamaged, what)
	}
	d.b = nil
}

func (d *decoder) uint(limit uint64, what string) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.fail(what)
		return 0
	}
	d.b = d.b[n:]
	return v
}

// take returns the next n bytes, which stay part of the input.
func (d *decoder) take(n uint64, what string) []byte {
	if n > uint64(len(d.b)) {
		d.fail(what)
		return nil
	}
	taken := d.b[:n]
	d.b = d.b[n:]
	return taken
}

func (d *decoder) bytes(limit uint64, what string) []byte { return d.take(d.uint(limit, what), what) }

func (d *decoder) digest(what string) (digest Hash) {
	copy(digest[:], d.take(uint64(len(digest)), what))
	return digest
}

func (d *decoder) rest() string {
	s := string(d.b)
	d.b = nil
	return s
}

// nextEntry cuts the first record off a segment of a tree. Lists of cells stay part of segment.
func nextEntry(segment []byte) (e *entry, rest []byte, err error) {
	d := decoder{b: segment}
	body := decoder{b: d.bytes(maxChunk, "length of record")}
	if d.err != nil {
		return nil, nil, d.err
	}
	e = body.entry()
	if body.err == nil && len(body.b) > 0 {
		body.fail("end of record")
	}
	return e, d.b, body.err
}

func (d *decoder) entry() *entry {
	e := &entry{}
	if first := d.take(1, "kind of record"); len(first) == 1 {
		e.kind = kind(first[0])
	}
	e.name = string(d.bytes(maxName, "name"))
	switch e.kind {
	case kindEnd:
		e.roots.Content = d.digest("roots")
		e.roots.Meta = d.digest("roots")
	case kindHard:
		e.target = d.rest()
		if !validPath(e.target) {
			d.fail("target of hard link")
		}
	default:
		d.meta(e)
		d.special(e)
	}
	// Only the root, which Load knows by its place, and ends have no name.
	if e.name == "" && e.kind != kindDir && e.kind != kindEnd || e.name != "" && (e.kind == kindEnd || !validName(e.name)) {
		d.fail("name")
	}
	return e
}

func (d *decoder) meta(e *entry) {
	e.mode = uint32(d.uint(maxMode, "mode"))
	e.uid = uint32(d.uint(1<<32-1, "uid"))
	e.gid = uint32(d.uint(1<<32-1, "gid"))
	sec, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("time")
		return
	}
	e.sec, d.b = sec, d.b[n:]
	e.nsec = uint32(d.uint(1e9-1, "time"))
	for range d.uint(uint64(len(d.b)), "number of attributes") {
		x := xattr{string(d.bytes(maxName, "attribute")), string(d.bytes(maxChunk, "attribute"))}
		if d.err != nil {
			return
		}
		if !keepXattr(x.name) {
			d.fail("attribute")
			return
		}
		e.xattrs = append(e.xattrs, x)
	}
}

// special reads what only some kinds have.
func (d *decoder) special(e *entry) {
	switch e.kind {
	case kindDir, kindFIFO:
	case kindLink:
		e.target = d.rest()
		if e.target == "" || strings.ContainsRune(e.target, 0) {
			d.fail("target of symlink")
		}
	case kindChar, kindBlock:
		e.major = uint32(d.uint(1<<32-1, "device"))
		e.minor = uint32(d.uint(1<<32-1, "device"))
	case kindFile:
		e.size = int64(d.uint(1<<63-1, "size"))
		e.digest = d.digest("digest")
		d.spans(e)
	default:
		d.fail("kind of record")
	}
}

func (d *decoder) spans(e *entry) {
	next, limit := int64(0), uint64(spanCount(e.size))
	for range d.uint(min(limit, uint64(len(d.b))), "number of spans") {
		s := span{number: next + int64(d.uint(limit, "number of span"))}
		if d.err == nil && uint64(s.number) >= limit {
			d.fail("number of span")
		}
		switch form := d.take(1, "form of list"); {
		case len(form) == 0:
			return
		case form[0] == 0:
			s.inline = d.bytes(maxChunk, "list")
			s.length = len(s.inline)
		case form[0] == 1:
			s.list = d.digest("list")
			s.length = int(d.uint(maxChunk, "list"))
		default:
			d.fail("form of list")
		}
		if d.err != nil {
			return
		}
		e.spans = append(e.spans, s)
		next = s.number + 1
	}
}

// spanCount is the number of spans of a file.
func spanCount(size int64) int64 {
	n := size / spanSize
	if size%spanSize != 0 {
		n++
	}
	return n
}

// validName tells whether name can be that of an entry in a directory, and of nothing outside it.
func validName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= maxName && !strings.ContainsAny(name, "/\x00")
}

func validPath(path string) bool {
	for part := range strings.SplitSeq(path, "/") {
		if !validName(part) {
			return false
		}
	}
	return true
}

// keepXattr tells whether an extended attribute is data, and not the business of the system it is on.
func keepXattr(name string) bool {
	switch name {
	case "system.posix_acl_access", "system.posix_acl_default", "security.capability":
		return true
	}
	return strings.HasPrefix(name, "user.") && len(name) > len("user.")
}

// extent is a part of a span that is not a hole: its offset in the span and its length.
type extent struct{ off, length int64 }

// cells describes the bytes of one span: where it has any, and the cells that are not all zero.
type cells struct {
	extents []extent
	cells   []cellDigest
}

func (c *cells) encode() []byte {
	b := binary.AppendUvarint(nil, uint64(len(c.extents)))
	end := int64(0)
	for _, x := range c.extents {
		b = binary.AppendUvarint(b, uint64(x.off-end))
		b = binary.AppendUvarint(b, uint64(x.length))
		end = x.off + x.length
	}
	next := uint32(0)
	for i := 0; i < len(c.cells); {
		run := i + 1
		for run < len(c.cells) && c.cells[run].number == c.cells[run-1].number+1 {
			run++
		}
		b = binary.AppendUvarint(b, uint64(c.cells[i].number-next))
		b = binary.AppendUvarint(b, uint64(run-i))
		next = c.cells[run-1].number + 1
		for ; i < run; i++ {
			b = append(b, c.cells[i].digest[:]...)
		}
	}
	return b
}

// decodeCells reads the list of a span that is length bytes long.
func decodeCells(b []byte, length int64) (cells, error) {
	d := decoder{b: b}
	var c cells
	end := int64(0)
	for range d.uint(uint64(len(b)), "number of extents") {
		off := end + int64(d.uint(spanSize, "extent"))
		n := int64(d.uint(spanSize, "extent"))
		if n == 0 || off+n > length {
			d.fail("extent")
		}
		if d.err != nil {
			return c, d.err
		}
		c.extents = append(c.extents, extent{off, n})
		end = off + n
	}
	next, limit := uint64(0), uint64((length+cellSize-1)/cellSize)
	for len(d.b) > 0 {
		next += d.uint(limit, "cell")
		count := d.uint(limit, "cells")
		if count == 0 || next+count > limit {
			d.fail("cells")
		}
		for range count {
			digest := d.digest("cell")
			if d.err != nil {
				return c, d.err
			}
			c.cells = append(c.cells, cellDigest{uint32(next), digest})
			next++
		}
		if d.err != nil {
			return c, d.err
		}
	}
	return c, d.err
}

// spanLength is the length of span number of a file.
func spanLength(size, number int64) int64 { return min(spanSize, size-number*spanSize) }

// cellLength is the length of a cell in a span.
func cellLength(spanLength int64, number uint32) int64 {
	return min(cellSize, spanLength-int64(number)*cellSize)
}
