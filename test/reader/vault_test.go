package reader

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"filippo.io/age"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
)

// A maker makes Vaults by hand, in memory, so that the reader is tested without any writer. It computes everything once
// more from the page, in the most direct way.
type maker struct {
	t        testing.TB
	fs       fstest.MapFS
	id       string
	master   []byte
	identity *age.X25519Identity

	have    map[[32]byte]bool // chunks, by id
	pack    []made            // chunks that are in no pack yet
	index   []byte
	indexed bool // false: packs go without index
}

type made struct {
	id     [32]byte
	plain  []byte // with the byte of encoding
	length int
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

func newMaker(t testing.TB) *maker {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	m := &maker{t: t, fs: fstest.MapFS{}, id: hex.EncodeToString(random(16)), master: random(32), identity: identity, indexed: true,
		have: map[[32]byte]bool{}}
	m.config(fmt.Sprintf(`{"format":"lockstep-vault","version":1,"id":%q,"created":"2026-01-02T03:04:05Z"}`, m.id))
	m.key(m.id, m.master, identity.Recipient())
	return m
}

func (m *maker) put(name string, data []byte) string {
	m.fs[name] = &fstest.MapFile{Data: data}
	return name
}

func (m *maker) config(line string) {
	mac := hmac.New(sha256.New, m.derive(nil, "config"))
	mac.Write([]byte(line))
	m.put("config", fmt.Appendf(nil, "%s\n%x\n", line, mac.Sum(nil)))
}

func (m *maker) key(id string, master []byte, to age.Recipient) string {
	var b bytes.Buffer
	w, err := age.Encrypt(&b, to)
	if err != nil {
		m.t.Fatal(err)
	}
	fmt.Fprintf(w, "lockstep vault key 1\n%s%s", id, master)
	if err := w.Close(); err != nil {
		m.t.Fatal(err)
	}
	return m.put(fmt.Sprintf("keys/%x", random(16)), b.Bytes())
}

func (m *maker) derive(salt []byte, purpose string) []byte {
	key, err := hkdf.Key(sha256.New, m.master, salt, "lockstep vault v1 "+purpose, 32)
	if err != nil {
		m.t.Fatal(err)
	}
	return key
}

func header(typ byte) []byte { return append([]byte{'L', 'K', 'S', 'T', 1, typ, 0, 0}, random(32)...) }

// seal appends a piece to an object.
func (m *maker) seal(object []byte, name string, role uint32, plain []byte) []byte {
	block, err := aes.NewCipher(m.derive(object[8:40], "object"))
	if err != nil {
		m.t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		m.t.Fatal(err)
	}
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint32(nonce, role)
	binary.BigEndian.PutUint64(nonce[4:], uint64(len(object)))
	return gcm.Seal(object, nonce, plain, slices.Concat(object[:40], []byte(name)))
}

// padded is the plaintext of an object of one piece.
func padded(content []byte) []byte {
	plain := append(be32(len(content)), content...)
	n, e, s := len(plain), 0, 0
	for 2<<e <= n {
		e++
	}
	for 2<<s <= e {
		s++
	}
	for n < 64 || n%(1<<(e-s-1)) != 0 {
		n++
	}
	return append(plain, make([]byte, n-len(plain))...)
}

func (m *maker) object(name string, typ byte, content []byte) string {
	return m.put(name, m.seal(header(typ), name, 0, padded(content)))
}

func be32(n int) []byte    { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
func be64(n int) []byte    { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
func uv(n int) []byte      { return binary.AppendUvarint(nil, uint64(n)) }
func sv(n int) []byte      { return binary.AppendVarint(nil, int64(n)) }
func by(s string) []byte   { return append(uv(len(s)), s...) }
func h(b ...[]byte) []byte { d := blake3.Sum256(slices.Concat(b...)); return d[:] }

func (m *maker) keyed(purpose string, data ...[]byte) [32]byte {
	k, err := blake3.NewKeyed(m.derive(nil, purpose))
	if err != nil {
		m.t.Fatal(err)
	}
	k.Write(slices.Concat(data...))
	return [32]byte(k.Sum(nil))
}

// chunk stores a chunk with that encoding and returns its digest.
func (m *maker) chunk(encoding byte, data []byte) []byte {
	d := h(data)
	id := m.keyed("chunk id", d)
	if m.have[id] {
		return d
	}
	m.have[id] = true
	plain := append([]byte{0}, data...)
	var small []byte
	switch encoding {
	case 1:
		small = s2.Encode(nil, data)
	case 2:
		w, err := zstd.NewWriter(nil)
		if err != nil {
			m.t.Fatal(err)
		}
		small = w.EncodeAll(data, nil)
	}
	if small != nil && len(small) <= len(data) {
		plain = append([]byte{encoding}, small...)
	}
	m.pack = append(m.pack, made{id, plain, len(data)})
	return d
}

// flush makes a pack of the chunks so far.
func (m *maker) flush() string {
	id := random(16)
	name := fmt.Sprintf("packs/%x/%x", id[:1], id)
	pack := header(1)
	var footer []byte
	for _, c := range m.pack {
		footer = slices.Concat(footer, c.id[:], be32(len(c.plain)+16), be32(c.length))
		pack = m.seal(pack, name, 0, c.plain)
	}
	pack = m.seal(pack, name, 1, footer)
	pack = m.seal(pack, name, 2, be32(len(footer)+16))
	if m.indexed {
		m.index = slices.Concat(m.index, id, pack[:40], be32(len(pack)), be32(len(m.pack)), footer)
	}
	m.pack = nil
	return m.put(name, pack)
}

func (m *maker) writeIndex() string {
	return m.object(fmt.Sprintf("index/%x", random(16)), 2, m.index)
}

// A node is an entry of a tree to be made.
type node struct {
	kind     byte
	name     string
	meta     []byte // default: a plain one
	target   string
	major    int
	minor    int
	data     []byte
	form     byte     // of a file
	extents  []extent // of a file of form 1 or 2; default: all of it
	inChunk  bool     // lists are in chunks
	encoding byte     // of its chunks
	flags    int
	chunks   []byte // of a file, in place of those that the maker makes
	children []node
}

var plainMeta = slices.Concat(uv(0o644), uv(1000), uv(100), sv(1700000000), uv(5), uv(0))

// A tree is what a maker made of nodes.
type tree struct {
	records [][]byte
	paths   []string // of each record; "" and nil for an end
	ends    []bool
}

// add makes the records of a node and returns its two digests.
func (m *maker) add(t *tree, n node, path string) (content, meta []byte) {
	if n.meta == nil {
		n.meta = plainMeta
	}
	head := append([]byte{n.kind}, by(n.name)...)
	var rest, of []byte
	own := n.meta
	switch n.kind {
	case 'd':
		var contents, metas []byte
		t.record(slices.Concat(head, n.meta), path, false)
		for _, child := range n.children {
			c, m := m.add(t, child, strings.TrimPrefix(path+"/"+child.name, "/"))
			contents, metas = append(contents, c...), append(metas, m...)
		}
		content = h([]byte{3}, head, h([]byte{5}, contents))
		meta = h([]byte{4}, head, own, h([]byte{5}, metas))
		t.record(slices.Concat([]byte{'e', 0}, content, meta), path, true)
		return content, meta
	case 'f':
		rest = slices.Concat(sv(1700000001), uv(6), uv(77), uv(n.flags), uv(len(n.data)), m.file(n))
		of = fileDigest(n.data)
	case 'l':
		rest, of = []byte(n.target), []byte(n.target)
	case 'h', 'x':
		own, rest, of = nil, []byte(n.target), []byte(n.target)
	case 'c', 'b':
		rest = slices.Concat(uv(n.major), uv(n.minor))
		of = slices.Concat(be32(n.major), be32(n.minor))
	}
	t.record(slices.Concat(head, own, rest), path, false)
	return h([]byte{3}, head, of), h([]byte{4}, head, own)
}

func (t *tree) record(record []byte, path string, end bool) {
	t.records = append(t.records, by(string(record)))
	t.paths = append(t.paths, path)
	t.ends = append(t.ends, end)
}

// fileDigest is the page's, over the whole file in memory.
func fileDigest(data []byte) []byte {
	file := slices.Concat([]byte{2}, be64(len(data)))
	for number, s := range slices.Collect(slices.Chunk(data, spanSize)) {
		span := []byte{1}
		for i, cell := range slices.Collect(slices.Chunk(s, cellSize)) {
			if len(bytes.Trim(cell, "\x00")) > 0 {
				span = slices.Concat(span, be32(i), h(cell))
			}
		}
		if len(span) > 1 {
			file = slices.Concat(file, be64(number), h(span))
		}
	}
	return h(file)
}

func (m *maker) file(n node) []byte {
	if n.chunks != nil {
		return n.chunks
	}
	if n.form == 0 {
		return append([]byte{0}, m.chunk(n.encoding, n.data)...)
	}
	if n.extents == nil && len(n.data) > 0 {
		n.extents = []extent{{0, uint64(len(n.data))}}
	}
	var spans []byte
	count, last := 0, -1
	for number, s := range slices.Collect(slices.Chunk(n.data, spanSize)) {
		list := m.list(n, s, uint64(number)*spanSize)
		if list == nil {
			continue
		}
		spans = append(spans, uv(number-last-1)...)
		if n.inChunk {
			spans = slices.Concat(spans, []byte{1}, m.chunk(0, list), uv(len(list)))
		} else {
			spans = slices.Concat(spans, []byte{0}, by(string(list)))
		}
		count, last = count+1, number
	}
	return slices.Concat([]byte{n.form}, fileDigest(n.data), uv(count), spans)
}

// list makes the list of the span s, which begins there.
func (m *maker) list(n node, s []byte, start uint64) []byte {
	var extents, bytesOf []byte
	count, at := 0, uint64(0)
	for _, e := range n.extents {
		from, to := max(e.start, start), min(e.end, start+uint64(len(s)))
		if from >= to {
			continue
		}
		from, to = from-start, to-start
		extents = slices.Concat(extents, uv(int(from-at)), uv(int(to-from)))
		bytesOf = append(bytesOf, s[from:to]...)
		count, at = count+1, to
	}
	if count == 0 {
		return nil
	}
	list := append(uv(count), extents...)
	if n.form == 2 {
		for c := range slices.Chunk(bytesOf, 100_000) {
			list = slices.Concat(list, uv(len(c)), m.chunk(n.encoding, c))
		}
		return list
	}
	var run []byte
	length, after := 0, 0
	end := func(next int) {
		if length > 0 {
			list = slices.Concat(list, uv(next-length-after), uv(length), run)
			run, length, after = nil, 0, next
		}
	}
	cells := slices.Collect(slices.Chunk(s, cellSize))
	for i, cell := range cells {
		if len(bytes.Trim(cell, "\x00")) == 0 {
			end(i)
			continue
		}
		run, length = append(run, m.chunk(n.encoding, cell)...), length+1
	}
	end(len(cells))
	return list
}

// snapshot makes a tree, in segments of a few records, its packs and its snapshot; it returns the snapshot's name.
func (m *maker) snapshot(root node) string {
	var t tree
	content, meta := m.add(&t, root, "")
	var table, segment []byte
	path := ""
	close := func() {
		table = slices.Concat(table, m.chunk(1, segment), by(path))
		segment = nil
	}
	for i, record := range t.records {
		if i > 0 && i%3 == 0 && !t.ends[i] {
			close()
			path = t.paths[i]
		}
		segment = append(segment, record...)
	}
	close()
	half := len(table) / 2
	return m.record(map[string]any{
		"created": "2026-01-02T03:04:05.6Z", "labels": map[string]string{"app": "shop"}, "stats": map[string]any{"files": 3},
		"roots": map[string]string{"content": hex.EncodeToString(content), "meta": hex.EncodeToString(meta)},
		"tree":  []string{hex.EncodeToString(m.chunk(2, table[:half])), hex.EncodeToString(m.chunk(0, table[half:]))},
	}, root.kind == 'f')
}

// record makes packs, index and the snapshot object.
func (m *maker) record(s map[string]any, image bool) string {
	id := hex.EncodeToString(random(16))
	s["id"] = id
	if image {
		s["image"] = true
	}
	m.flush()
	m.writeIndex()
	data, err := json.Marshal(s)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.object("snapshots/"+id, 3, data)
}

func (m *maker) document(kind, name, data string) string {
	d := m.keyed("document name", []byte(kind), []byte{0}, []byte(name))
	return m.object(fmt.Sprintf("documents/%s/%x", kind, d), 4, append(by(name), data...))
}
