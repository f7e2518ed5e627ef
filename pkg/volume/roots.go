package volume

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"github.com/zeebo/blake3"
)

// Hash is a BLAKE3-256 digest; as text, 64 hexadecimal digits.
type Hash [32]byte

func (d Hash) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Hash) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Hash) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(d) {
		return fmt.Errorf("digest %q: want %d hexadecimal digits", text, 2*len(d))
	}
	copy(d[:], b)
	return nil
}

// Roots are the Merkle digests of a tree. They depend on the tree alone and not on any Vault or key, so that a tree on disk
// and a snapshot can be compared.
type Roots struct {
	Content Hash `json:"content"` // names, kinds, bytes of files, targets of links, numbers of devices
	Meta    Hash `json:"meta"`    // names, kinds, modes, owners, modification times, extended attributes
}

// What a digest is of; the first byte of what is hashed.
const (
	hashSpan    = 1
	hashFile    = 2
	hashContent = 3
	hashMeta    = 4
	hashDir     = 5
)

// cellDigest is one cell of a file with its number in the span.
type cellDigest struct {
	number uint32
	digest Hash
}

// spanDigest covers the cells of one span that are not all zero.
func spanDigest(cells []cellDigest) (d Hash) {
	h := blake3.New()
	h.Write([]byte{hashSpan})
	var number [4]byte
	for _, c := range cells {
		binary.BigEndian.PutUint32(number[:], c.number)
		h.Write(number[:])
		h.Write(c.digest[:])
	}
	h.Sum(d[:0])
	return d
}

// fileHash collects the spans of a file, in their order, that are not all zero.
type fileHash struct{ data []byte }

func newFileHash(size int64) *fileHash {
	return &fileHash{binary.BigEndian.AppendUint64([]byte{hashFile}, uint64(size))}
}

func (f *fileHash) add(number int64, d Hash) {
	f.data = append(binary.BigEndian.AppendUint64(f.data, uint64(number)), d[:]...)
}

// wholeDigest is the digest of a file of one cell.
func wholeDigest(size int64, cell Hash) Hash {
	h := newFileHash(size)
	h.add(0, spanDigest([]cellDigest{{0, cell}}))
	return h.sum()
}

func (f *fileHash) sum() Hash { return blake3.Sum256(f.data) }

// merkle computes roots from the records of a tree as they come.
type merkle struct {
	open  []*dirHash
	spare []*dirHash // hashers are large; those of directories that are done serve again
}

type dirHash struct {
	entry         *entry
	content, meta *blake3.Hasher
}

// add takes the next record. At the end of a directory it returns the directory's roots; of what is in none, as an image, its own.
func (m *merkle) add(e *entry) Roots {
	switch {
	case e.kind == kindDir:
		m.push(e)
	case e.kind == kindEnd:
		return m.pop()
	case len(m.open) == 0:
		return entryRoots(e, Roots{})
	default:
		m.child(e, Roots{})
	}
	return Roots{}
}

func (m *merkle) push(e *entry) {
	var d *dirHash
	if n := len(m.spare); n > 0 {
		d, m.spare = m.spare[n-1], m.spare[:n-1]
		d.content.Reset()
		d.meta.Reset()
	} else {
		d = &dirHash{content: blake3.New(), meta: blake3.New()}
	}
	d.entry = e
	d.content.Write([]byte{hashDir})
	d.meta.Write([]byte{hashDir})
	m.open = append(m.open, d)
}

// pop closes the innermost directory: its digests cover its children and then count as its own content.
func (m *merkle) pop() (roots Roots) {
	n := len(m.open)
	d := m.open[n-1]
	m.open, m.spare = m.open[:n-1], append(m.spare, d)
	var children Roots
	d.content.Sum(children.Content[:0])
	d.meta.Sum(children.Meta[:0])
	roots = entryRoots(d.entry, children)
	if len(m.open) > 0 {
		parent := m.open[len(m.open)-1]
		parent.content.Write(roots.Content[:])
		parent.meta.Write(roots.Meta[:])
	}
	return roots
}

func (m *merkle) child(e *entry, children Roots) {
	roots := entryRoots(e, children)
	parent := m.open[len(m.open)-1]
	parent.content.Write(roots.Content[:])
	parent.meta.Write(roots.Meta[:])
}

// entryRoots are the digests of one entry; children are those of a directory's.
func entryRoots(e *entry, children Roots) Roots {
	content := appendBytes([]byte{hashContent, byte(e.kind)}, e.name)
	switch e.kind {
	case kindDir:
		content = append(content, children.Content[:]...)
	case kindFile:
		content = append(content, e.digest[:]...)
	case kindLink, kindHard, kindError:
		content = append(content, e.target...)
	case kindChar, kindBlock:
		content = binary.BigEndian.AppendUint32(content, e.major)
		content = binary.BigEndian.AppendUint32(content, e.minor)
	}
	meta := appendBytes([]byte{hashMeta, byte(e.kind)}, e.name)
	if e.kind != kindHard && e.kind != kindError { // the one has the metadata of the entry it is a link to, the other none
		meta = e.appendMeta(meta)
	}
	if e.kind == kindDir {
		meta = append(meta, children.Meta[:]...)
	}
	return Roots{blake3.Sum256(content), blake3.Sum256(meta)}
}
