package reader

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

const (
	cellSize = 64 << 10
	spanSize = 64 << 20
)

// roots are the content and the metadata digest of an entry.
type roots struct{ content, meta digest }

// childRoots are those of the entries of a directory.
type childRoots struct{ content, meta digestList }

// A digestList hashes digests. It holds few of them in memory, as there is one for each directory that is open.
type digestList struct {
	few  []byte
	many *blake3.Hasher
}

func (l *digestList) add(d digest) {
	if l.few = append(l.few, d[:]...); len(l.few) >= 16<<10 {
		l.flush()
	}
}

func (l *digestList) flush() {
	if l.many == nil {
		l.many = blake3.New()
		l.many.Write([]byte{5})
	}
	l.many.Write(l.few)
	l.few = l.few[:0]
}

func (l *digestList) sum() digest {
	if l.many == nil {
		return hash(append([]byte{5}, l.few...))
	}
	l.flush()
	return sum(l.many)
}

func sum(h *blake3.Hasher) (d digest) {
	h.Sum(d[:0])
	return d
}

// rootsOf are the roots of an entry; children are those of a directory.
func rootsOf(e *Entry, children *childRoots) roots {
	name := append(binary.AppendUvarint([]byte{e.Kind}, uint64(len(e.Name))), e.Name...)
	content := append([]byte{3}, name...)
	meta := append(append([]byte{4}, name...), e.meta...)
	switch e.Kind {
	case Dir:
		c, m := children.content.sum(), children.meta.sum()
		content, meta = append(content, c[:]...), append(meta, m[:]...)
	case File:
		d := e.content.digest
		content = append(content, d[:]...)
	case Symlink, Hardlink:
		content = append(content, e.Target...)
	case CharDev, BlockDev:
		content = binary.BigEndian.AppendUint32(content, e.Major)
		content = binary.BigEndian.AppendUint32(content, e.Minor)
	case Unread:
		content = append(content, e.Reason...)
	}
	return roots{hash(content), hash(meta)}
}

// smallFile is the file digest of a file whose only cell has that digest.
func smallFile(size uint64, cell digest) digest {
	f := newFileHasher(size)
	f.cell(0, cell)
	return f.sum()
}

// A fileHasher computes the file digest from the digests of the cells that are not all zero, in ascending order.
type fileHasher struct {
	file, span *blake3.Hasher
	number     uint64 // of the span
}

func newFileHasher(size uint64) *fileHasher {
	f := &fileHasher{file: blake3.New()}
	f.file.Write(binary.BigEndian.AppendUint64([]byte{2}, size))
	return f
}

// cell takes the number of the cell in the file.
func (f *fileHasher) cell(number uint64, d digest) {
	const cells = spanSize / cellSize
	if f.span == nil || number/cells != f.number {
		f.endSpan()
		f.number, f.span = number/cells, blake3.New()
		f.span.Write([]byte{1})
	}
	f.span.Write(binary.BigEndian.AppendUint32(nil, uint32(number%cells)))
	f.span.Write(d[:])
}

func (f *fileHasher) endSpan() {
	if f.span != nil {
		d := sum(f.span)
		f.file.Write(append(binary.BigEndian.AppendUint64(nil, f.number), d[:]...))
	}
}

func (f *fileHasher) sum() digest {
	f.endSpan()
	return sum(f.file)
}

// A contentHasher computes the file digest from bytes written at ascending offsets; what is not written is zero.
type contentHasher struct {
	size   uint64
	file   *fileHasher
	buf    []byte // of the cell
	number uint64
}

func newContentHasher(size uint64) *contentHasher {
	return &contentHasher{size: size, file: newFileHasher(size), buf: make([]byte, cellSize)}
}

func (c *contentHasher) write(offset uint64, data []byte) error {
	for len(data) > 0 {
		if offset/cellSize != c.number {
			c.endCell()
			c.number = offset / cellSize
		}
		n := copy(c.buf[offset%cellSize:], data)
		offset, data = offset+uint64(n), data[n:]
	}
	return nil
}

func (c *contentHasher) endCell() {
	length := min(cellSize, c.size-min(c.size, c.number*cellSize))
	if cell := c.buf[:length]; !zeros(cell) {
		c.file.cell(c.number, hash(cell))
		clear(cell)
	}
}

func (c *contentHasher) sum() digest {
	c.endCell()
	return c.file.sum()
}
