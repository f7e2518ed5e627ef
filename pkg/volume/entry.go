package volume

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A file is divided into spans, and a span into cells. A cell is what is hashed at once, and in a file of fixed chunks what is
// stored at once; a span is what one worker reads and what one list of chunks describes.
const (
	cellSize = 64 << 10
	spanSize = 64 << 20
	// inlineList is the size up to which a span's list stands in the file's entry and not in a chunk of its own.
	inlineList = 4 << 10
	maxName    = 255
	maxMode    = 0o7777
	// maxVariable bounds a chunk of a file of variable chunks.
	maxVariable = 1 << 20
	maxXattr    = 64 << 10
	maxTarget   = 4095
	// maxPath bounds the path of an entry from the root.
	maxPath = 64<<10 - 1
	// maxReason bounds why an entry could not be read.
	maxReason = 1 << 10
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
	kindError kind = 'x' // an entry that could not be read
)

// form says how a file is divided into chunks.
type form byte

const (
	formWhole    form = 0 // one chunk, without holes
	formFixed    form = 1 // a chunk for each cell that is not all zero
	formVariable form = 2 // chunks of any size, which are the extents' bytes
)

// flagChanged says that the file changed while it was read.
const flagChanged = 1

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

	target       string // of a symlink; of a hard link, the path from the root; of an error, the reason
	major, minor uint32 // of a device
	roots        Roots  // at an end, the directory's
	file                // of a file
}

// file is what a record says about a regular file.
type file struct {
	stamp  stamp
	flags  uint64
	size   int64
	form   form
	digest Hash   // of the file's bytes
	whole  Hash   // form whole: the chunk
	spans  []span // other forms: those that are not one hole
}

// stamp is what tells, besides size and modification time, whether a file is the one that was saved.
type stamp struct {
	sec   int64 // change time
	nsec  uint32
	inode uint64
}

type xattr struct{ name, value string }

// span is one span of a file: its number, and its list of chunks, inline or as a chunk of its own.
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
	case kindHard, kindError:
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
		b = e.appendFile(b)
	}
	return b
}

func (f *file) appendFile(b []byte) []byte {
	b = binary.AppendVarint(b, f.stamp.sec)
	b = binary.AppendUvarint(b, uint64(f.stamp.nsec))
	b = binary.AppendUvarint(b, f.stamp.inode)
	b = binary.AppendUvarint(b, f.flags)
	b = binary.AppendUvarint(b, uint64(f.size))
	b = append(b, byte(f.form))
	if f.form == formWhole {
		return append(b, f.whole[:]...)
	}
	return appendSpans(append(b, f.digest[:]...), f.spans)
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
	if n <= 0 || v > limit || n > 1 && d.b[n-1] == 0 {
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
	case kindError:
		if e.target = d.rest(); e.target == "" || len(e.target) > maxReason || !utf8.ValidString(e.target) {
			d.fail("reason of an error")
		}
	default:
		d.meta(e)
		d.special(e)
	}
	// Only the root, which is known by its place, and ends have no name.
	nameless := e.kind == kindDir || e.kind == kindEnd || e.kind == kindFile
	if e.name == "" && !nameless || e.name != "" && (e.kind == kindEnd || !validName(e.name)) {
		d.fail("name")
	}
	return e
}

func (d *decoder) meta(e *entry) {
	e.mode = uint32(d.uint(maxMode, "mode"))
	e.uid = uint32(d.uint(1<<32-1, "uid"))
	e.gid = uint32(d.uint(1<<32-1, "gid"))
	e.sec, e.nsec = d.time()
	for range d.uint(uint64(len(d.b)), "number of attributes") {
		x := xattr{string(d.bytes(maxName, "attribute")), string(d.bytes(maxXattr, "attribute"))}
		if d.err != nil {
			return
		}
		if n := len(e.xattrs); !keepXattr(x.name) || n > 0 && x.name <= e.xattrs[n-1].name {
			d.fail("attribute")
			return
		}
		e.xattrs = append(e.xattrs, x)
	}
}

func (d *decoder) time() (sec int64, nsec uint32) {
	sec, n := binary.Varint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.fail("time")
		return 0, 0
	}
	d.b = d.b[n:]
	return sec, uint32(d.uint(1e9-1, "time"))
}

// special reads what only some kinds have.
func (d *decoder) special(e *entry) {
	switch e.kind {
	case kindDir, kindFIFO:
	case kindLink:
		e.target = d.rest()
		if e.target == "" || len(e.target) > maxTarget || strings.ContainsRune(e.target, 0) {
			d.fail("target of symlink")
		}
	case kindChar, kindBlock:
		e.major = uint32(d.uint(1<<32-1, "device"))
		e.minor = uint32(d.uint(1<<32-1, "device"))
	case kindFile:
		d.file(&e.file)
	default:
		d.fail("kind of record")
	}
}

func (d *decoder) file(f *file) {
	f.stamp.sec, f.stamp.nsec = d.time()
	f.stamp.inode = d.uint(1<<64-1, "inode")
	f.flags = d.uint(flagChanged, "flags")
	f.size = int64(d.uint(1<<63-1, "size"))
	if b := d.take(1, "form"); len(b) == 1 {
		f.form = form(b[0])
	}
	switch {
	case f.form == formWhole && (f.size < 1 || f.size > cellSize), f.form > formVariable:
		d.fail("form")
	case f.form == formWhole:
		f.whole = d.digest("digest")
		f.digest = wholeDigest(f.size, f.whole)
	default:
		f.digest = d.digest("digest")
		d.spans(f)
	}
}

func (d *decoder) spans(e *file) {
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
	if len(path) > maxPath {
		return false
	}
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
	return strings.HasPrefix(name, "user.") && len(name) > len("user.") && !strings.ContainsRune(name, 0)
}

// extent is a part of a span that is not a hole: its offset in the span and its length.
type extent struct{ off, length int64 }

// spanList describes the bytes of one span: where it has any, and the chunks that they are in.
type spanList struct {
	extents []extent
	cells   []cellDigest // form fixed: the cells that are not all zero
	chunks  []sizedChunk // form variable
}

// sizedChunk is a chunk of a file of variable chunks.
type sizedChunk struct {
	length int64
	digest Hash
}

// encode returns the list for a file of the given form.
func (c *spanList) encode(f form) []byte {
	b := binary.AppendUvarint(nil, uint64(len(c.extents)))
	end := int64(0)
	for _, x := range c.extents {
		b = binary.AppendUvarint(b, uint64(x.off-end))
		b = binary.AppendUvarint(b, uint64(x.length))
		end = x.off + x.length
	}
	if f == formVariable {
		for _, k := range c.chunks {
			b = append(binary.AppendUvarint(b, uint64(k.length)), k.digest[:]...)
		}
		return b
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

// decodeList reads the list of a span that is length bytes long, of a file of the given form.
func decodeList(b []byte, f form, length int64) (spanList, error) {
	d := decoder{b: b}
	var c spanList
	end := int64(0)
	for i := range d.uint(uint64(len(b)), "number of extents") {
		off := end + int64(d.uint(spanSize, "extent"))
		n := int64(d.uint(spanSize, "extent"))
		if n == 0 || off+n > length || i > 0 && off == end {
			d.fail("extent")
		}
		if d.err != nil {
			return c, d.err
		}
		c.extents = append(c.extents, extent{off, n})
		end = off + n
	}
	if f == formVariable {
		d.chunks(&c)
	} else {
		d.cells(&c, length)
	}
	return c, d.err
}

func (d *decoder) chunks(c *spanList) {
	left := int64(0)
	for _, x := range c.extents {
		left += x.length
	}
	for len(d.b) > 0 {
		k := sizedChunk{int64(d.uint(maxVariable, "chunk")), d.digest("chunk")}
		if left -= k.length; k.length == 0 || left < 0 {
			d.fail("chunk")
		}
		if d.err != nil {
			return
		}
		c.chunks = append(c.chunks, k)
	}
	if left != 0 {
		d.fail("chunks")
	}
}

func (d *decoder) cells(c *spanList, length int64) {
	next, limit := uint64(0), uint64((length+cellSize-1)/cellSize)
	for len(d.b) > 0 {
		gap := d.uint(limit, "cell")
		count := d.uint(limit, "cells")
		next += gap
		if count == 0 || next+count > limit || gap == 0 && len(c.cells) > 0 {
			d.fail("cells")
		}
		for range count {
			digest := d.digest("cell")
			if d.err != nil {
				return
			}
			c.cells = append(c.cells, cellDigest{uint32(next), digest})
			next++
		}
		if d.err != nil {
			return
		}
	}
}

// spanLength is the length of span number of a file.
func spanLength(size, number int64) int64 { return min(spanSize, size-number*spanSize) }

// cellLength is the length of a cell in a span.
func cellLength(spanLength int64, number uint32) int64 {
	return min(cellSize, spanLength-int64(number)*cellSize)
}
