package reader

import (
	"bytes"
	"crypto/aes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

func dir(children ...node) node { return node{kind: 'd', children: children} }

func small(name string) node { return node{kind: 'f', name: name, data: []byte("small " + name)} }

func metaOf(attributes ...string) []byte {
	b := slices.Concat(uv(0o644), uv(0), uv(0), sv(0), uv(0), uv(len(attributes)/2))
	for _, a := range attributes {
		b = append(b, by(a)...)
	}
	return b
}

// Trees that are sealed as they should be, but are not what the page allows.
func TestRefusedTrees(t *testing.T) {
	page := bytes.Repeat([]byte("page"), cellSize/2)
	digest := h([]byte("any"))
	file := func(data []byte, form byte, parts ...[]byte) node {
		return node{kind: 'f', name: "a", data: data, chunks: append([]byte{form}, slices.Concat(parts...)...)}
	}
	spans := func(data []byte, form byte, list ...[]byte) node {
		return file(data, form, fileDigest(data), uv(1), uv(0), []byte{0}, by(string(slices.Concat(list...))))
	}
	for name, c := range map[string]struct {
		root node
		want string
	}{
		"names descend":            {dir(small("b"), small("a")), `stands behind`},
		"a name twice":             {dir(small("a"), small("a")), `stands behind`},
		"dot":                      {dir(node{kind: 'd', name: ".."}), `cannot be the name`},
		"slash":                    {dir(small("a/b")), `cannot be the name`},
		"zero":                     {dir(small("a\x00")), `cannot be the name`},
		"no name":                  {dir(small("")), `cannot be the name`},
		"long name":                {dir(small(strings.Repeat("n", 256))), `cannot be the name`},
		"the root is a symlink":    {node{kind: 'l', target: "x"}, `the root is of kind`},
		"the root has a name":      {node{kind: 'd', name: "root"}, `the root is of kind`},
		"kind":                     {dir(node{kind: 's', name: "a"}), `kind 's' is unknown`},
		"link to nothing":          {dir(node{kind: 'h', name: "b", target: "a"}), `no entry that has other names`},
		"link to a directory":      {dir(node{kind: 'd', name: "a"}, node{kind: 'h', name: "b", target: "a"}), `no entry that has other names`},
		"link to a link":           {dir(small("a"), node{kind: 'h', name: "b", target: "a"}, node{kind: 'h', name: "c", target: "b"}), `no entry that has`},
		"link ahead":               {dir(node{kind: 'h', name: "a", target: "b"}, small("b")), `comes later`},
		"link outside":             {dir(node{kind: 'h', name: "a", target: "../b"}), `has the part ".."`},
		"link to /":                {dir(node{kind: 'h', name: "a", target: "/b"}), `has the part ""`},
		"no reason":                {dir(node{kind: 'x', name: "a"}), `reason ""`},
		"long reason":              {dir(node{kind: 'x', name: "a", target: strings.Repeat("r", 1025)}), `reason`},
		"symlink to nothing":       {dir(node{kind: 'l', name: "a"}), `symlink to`},
		"long symlink":             {dir(node{kind: 'l', name: "a", target: strings.Repeat("t", 4096)}), `symlink to`},
		"mode":                     {dir(node{kind: 'p', name: "a", meta: slices.Concat(uv(0o10000), make([]byte, 5))}), `mode of 4096`},
		"nanoseconds":              {dir(node{kind: 'p', name: "a", meta: slices.Concat(make([]byte, 4), uv(1e9), uv(0))}), `nanoseconds of`},
		"long number":              {dir(node{kind: 'p', name: "a", meta: slices.Concat([]byte{0x80, 0}, make([]byte, 5))}), `longer than need be`},
		"something follows":        {dir(node{kind: 'p', name: "a", meta: make([]byte, 7)}), `1 bytes too many`},
		"attributes descend":       {dir(node{kind: 'p', name: "a", meta: metaOf("user.b", "", "user.a", "")}), `attribute "user.a" behind`},
		"attribute":                {dir(node{kind: 'p', name: "a", meta: metaOf("trusted.a", "")}), `attribute "trusted.a"`},
		"long attribute":           {dir(node{kind: 'p', name: "a", meta: metaOf("user.a", strings.Repeat("v", 65537))}), `of 65537 bytes`},
		"device":                   {dir(node{kind: 'c', name: "a", major: 1 << 32}), `major number`},
		"flags":                    {dir(node{kind: 'f', name: "a", data: []byte("a"), flags: 2}), `flags of 2`},
		"form":                     {dir(file(page, 3)), `form 3 is unknown`},
		"one empty chunk":          {dir(file(nil, 0, digest)), `one chunk of 0 bytes`},
		"one big chunk":            {dir(node{kind: 'f', name: "a", data: page}), `one chunk of 131072 bytes`},
		"one chunk of zeros":       {dir(node{kind: 'f', name: "a", data: make([]byte, 100)}), `is all zero`},
		"chunk of another length":  {dir(file([]byte("much more"), 0, h([]byte("hello")))), `5 bytes where 9 belong`},
		"file digest":              {dir(node{kind: 'f', name: "a", data: page, chunks: slices.Concat([]byte{2}, digest, uv(1), []byte{0, 0}, by(string(slices.Concat([]byte{1, 0}, uv(5), uv(5), h([]byte("hello"))))))}), `roots`},
		"span behind the end":      {dir(file(page, 1, digest, uv(1), uv(1), []byte{0, 1, 0})), `span 1 of a file`},
		"span huge":                {dir(file(page, 1, digest, uv(1), slices.Concat(bytes.Repeat([]byte{0xff}, 9), []byte{1}), []byte{0, 1, 0})), `distance of`},
		"list of another sort":     {dir(file(page, 1, digest, uv(1), uv(0), []byte{2})), `a list of sort 2`},
		"long list":                {dir(file(page, 1, digest, uv(1), uv(0), []byte{1}, digest, uv(maxChunk+1))), `length of a list`},
		"list of another length":   {dir(file(page, 1, fileDigest(page), uv(1), uv(0), []byte{1}, h([]byte("hello")), uv(6))), `list has 5 bytes where 6`},
		"list is missing":          {dir(file(page, 1, fileDigest(page), uv(1), uv(0), []byte{1}, digest, uv(6))), `its list: chunk`},
		"no extents":               {dir(spans(page, 1, uv(0))), `span without extents`},
		"empty extent":             {dir(spans(page, 1, uv(1), uv(0), uv(0))), `an extent that is empty`},
		"extents touch":            {dir(spans(page, 1, uv(2), uv(0), uv(5), uv(0), uv(5))), `an extent that is empty or touches`},
		"extent behind the end":    {dir(spans(page, 1, uv(1), uv(0), uv(len(page)+1))), `length of an extent`},
		"run of nothing":           {dir(spans(page, 1, uv(1), uv(0), uv(5), uv(0), uv(0))), `a run that is empty`},
		"runs touch":               {dir(spans(page, 1, uv(1), uv(0), uv(5), uv(0), uv(1), digest, uv(0), uv(1), digest)), `touches the one before`},
		"run behind the end":       {dir(spans(page, 1, uv(1), uv(0), uv(5), uv(1), uv(2), digest, digest)), `number of cells`},
		"cell is missing":          {dir(spans(page, 1, uv(1), uv(0), uv(5), uv(0), uv(1), digest)), `is missing`},
		"chunks too short":         {dir(spans(page, 2, uv(1), uv(0), uv(10), uv(5), digest)), `chunks of 5 bytes in extents of 10`},
		"chunks too long":          {dir(spans(page, 2, uv(1), uv(0), uv(10), uv(11), digest)), `length of a chunk`},
		"no chunk":                 {dir(spans(page, 2, uv(1), uv(0), uv(10), uv(0), digest)), `an empty chunk`},
		"another length of chunks": {dir(spans(page, 2, uv(1), uv(0), uv(10), uv(10), h([]byte("hello")))), `5 bytes where 10 belong`},
		"bytes in a hole":          {dir(node{kind: 'f', name: "a", form: 1, data: page, extents: []extent{{0, 100}}}), `the hole at 100 has bytes`},
		"bytes in a hole, later":   {dir(node{kind: 'f', name: "a", form: 1, data: page, extents: []extent{{0, 3}, {4, 131072}}}), `the hole at 3 has bytes`},
		"cell of zeros":            {dir(spans(make([]byte, cellSize+1), 1, uv(1), uv(0), uv(cellSize+1), uv(0), uv(1), h(make([]byte, cellSize)))), `is all zero`},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMaker(t)
			m.chunk(0, []byte("hello"))
			m.chunk(0, make([]byte, cellSize))
			m.snapshot(c.root)
			if c.want == "roots" { // what a record says of its file is in the roots, and does not decode
				c.want = "the directory \"\" has the roots"
			}
			if _, err := m.check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}

// A file digest that record and roots agree on, but that the bytes do not have.
func TestRefusedFileDigest(t *testing.T) {
	m := newMaker(t)
	m.snapshot(dir(node{kind: 'f', name: "a", data: []byte("hellO"),
		chunks: slices.Concat([]byte{2}, fileDigest([]byte("hellO")), uv(1), []byte{0, 0}, by(string(slices.Concat([]byte{1, 0, 5, 5}, m.chunk(0, []byte("hello"))))))}))
	if _, err := m.check(); err == nil || !strings.Contains(err.Error(), "the file digest is another") {
		t.Errorf("got %v", err)
	}
}

// Snapshots whose tree or table is not what it should be.
func TestRefusedSnapshots(t *testing.T) {
	empty, end := by("d\x00"+string(plainMeta)), func(content, meta []byte) []byte { return by("e\x00" + string(content) + string(meta)) }
	content := h([]byte{3, 'd', 0}, h([]byte{5}))
	meta := h([]byte{4, 'd', 0}, plainMeta, h([]byte{5}))
	whole := slices.Concat(empty, end(content, meta))
	row := func(m *maker, path string, segment []byte) []byte { return append(m.chunk(0, segment), by(path)...) }
	for name, c := range map[string]struct {
		table func(m *maker) []byte
		root  []byte
		want  string
	}{
		"good":             {func(m *maker) []byte { return row(m, "", whole) }, content, ""},
		"roots":            {func(m *maker) []byte { return row(m, "", whole) }, meta, "the tree has the roots"},
		"roots of the end": {func(m *maker) []byte { return row(m, "", append(empty, end(content, content)...)) }, content, "its end says"},
		"no end":           {func(m *maker) []byte { return row(m, "", empty) }, content, "the tree ends early"},
		"too long":         {func(m *maker) []byte { return row(m, "", append(whole, empty...)) }, content, "behind the end of the tree"},
		"cut":              {func(m *maker) []byte { return row(m, "", whole[:len(whole)-1]) }, content, "ends early"},
		"end first":        {func(m *maker) []byte { return append(row(m, "", empty), row(m, "a", end(content, meta))...) }, content, "begins with"},
		"wrong path": {func(m *maker) []byte {
			return append(row(m, "", empty), row(m, "b", by("p\x01a"+string(plainMeta)))...)
		}, content, "begins with"},
		"not from the root":  {func(m *maker) []byte { return row(m, "a", whole) }, content, "not at the root"},
		"paths do not climb": {func(m *maker) []byte { return append(row(m, "", empty), row(m, "", whole)...) }, content, "does not come behind"},
		"table cut":          {func(m *maker) []byte { return row(m, "", whole)[:20] }, content, "ends early"},
		"segment missing":    {func(*maker) []byte { return append(h([]byte("any")), 0) }, content, "is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMaker(t)
			m.record(map[string]any{"created": "2026-01-02T03:04:05Z", "tree": []string{hex.EncodeToString(m.chunk(0, c.table(m)))},
				"roots": map[string]string{"content": hex.EncodeToString(c.root), "meta": hex.EncodeToString(meta)}, "new": 1}, false)
			_, err := m.check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}

func TestRefusedJSON(t *testing.T) {
	root := strings.Repeat("0", 64)
	good := fmt.Sprintf(`{"id":"x","created":"2026-01-02T03:04:05Z","roots":{"content":%q,"meta":%q},"tree":[%q],"labels":{"a":"b"},"other":[]}`, root, root, root)
	if _, err := decodeSnapshot([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{
		`"id":`: `"ID":`, `"labels"`: `"id":"x","labels"`, `"2026-01-02T03:04:05Z"`: `"yesterday"`, `"tree":["`: `"tree":["0`, `["` + root + `"]`: `[]`,
		`"b"}`: `2}`, `"other"`: `"image":false,"other"`, `[]}`: `[]}{}`, `"meta"`: `"Meta"`, `"x"`: "\"\xff\"", `"other":[]`: `"stats":[]`,
	} {
		bad := strings.Replace(good, from, to, 1)
		if _, err := decodeSnapshot([]byte(bad)); err == nil || bad == good {
			t.Errorf("taken: %s", bad)
		}
	}
}

// Objects that are sealed as they should be, with contents that the page does not allow.
func TestRefusedObjects(t *testing.T) {
	name := strings.Repeat("1", 32)
	for what, c := range map[string]struct {
		make func(m *maker)
		want string
	}{
		"padding": {func(m *maker) { m.put("condemned/"+name, m.seal(header(5), "condemned/"+name, 0, make([]byte, 72))) }, "padded to 72"},
		"padding with bytes": {func(m *maker) {
			m.put("condemned/"+name, m.seal(header(5), "condemned/"+name, 0, append(make([]byte, 63), 1)))
		}, "not zero"},
		"content too long": {func(m *maker) {
			m.put("condemned/"+name, m.seal(header(5), "condemned/"+name, 0, append([]byte{0, 0, 0, 61}, make([]byte, 60)...)))
		}, "ends early"},
		"condemned":          {func(m *maker) { m.object("condemned/"+name, 5, random(15)) }, "no names of packs"},
		"type":               {func(m *maker) { m.object("condemned/"+name, 4, random(16)) }, "type 4 where 5 belongs"},
		"another name":       {func(m *maker) { m.fs["condemned/"+name] = m.fs[m.object("condemned/"+name[1:]+"2", 5, nil)] }, "not authentic"},
		"document's kind":    {func(m *maker) { m.rename("documents/a", m.document("b", "n", "")) }, "another name"},
		"document's no name": {func(m *maker) { m.document("a", "", "") }, `the name ""`},
		"document of no key": {func(m *maker) { m.document("key", name, "{}") }, "is no key object"},
		"document of another key": {func(m *maker) {
			key := m.key(m.id, m.master, m.identity.Recipient())
			other := m.key(m.id, m.master, m.identity.Recipient())
			m.document("key", key[5:], m.keyDocument(other))
		}, "is not the key object that it was"},
		"document of a key": {func(m *maker) {
			m.document("key", m.key(m.id, m.master, m.identity.Recipient())[5:], "{}")
		}, "is missing"},
		"index": {func(m *maker) { m.index = m.index[:len(m.index)-1]; m.writeIndex() }, "ends early"},
		"index of another": {func(m *maker) {
			m.index[len(m.index)-9]++ // in the id of the last chunk
			m.writeIndex()
		}, "otherwise than its footer"},
		"snapshot's id": {func(m *maker) {
			data, _ := json.Marshal(map[string]any{"id": name, "created": "2026-01-02T03:04:05Z", "tree": []string{strings.Repeat("0", 64)},
				"roots": map[string]string{"content": strings.Repeat("0", 64), "meta": strings.Repeat("0", 64)}})
			m.object("snapshots/"+name[1:]+"2", 3, data)
		}, "has the id"},
		"config's version": {func(m *maker) {
			m.config(fmt.Sprintf(`{"format":"lockstep-vault","version":2,"id":%q,"created":"2026-01-02T03:04:05Z"}`, m.id))
		}, "version 2 is unknown"},
		"key":       {func(m *maker) { m.key(m.id, random(31), m.identity.Recipient()) }, "not a vault key"},
		"empty key": {func(m *maker) { m.put("keys/"+name, nil) }, "opening keys/"},
	} {
		t.Run(what, func(t *testing.T) {
			m := newMaker(t)
			m.snapshot(dir(small("a")))
			c.make(m)
			if _, err := m.check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}

// rename gives a document another kind.
func (m *maker) rename(kind, name string) {
	content := m.opened(name)
	to := kind + name[strings.LastIndex(name, "/"):]
	delete(m.fs, name)
	m.object(to, 4, content)
}

func (m *maker) opened(name string) []byte {
	v, err := Open(m.fs, m.identity)
	if err != nil {
		m.t.Fatal(err)
	}
	content, err := v.openObject(name, typeDocument)
	if err != nil {
		m.t.Fatal(err)
	}
	return content
}

// Packs that are sealed as they should be, and wrong.
func TestRefusedPacks(t *testing.T) {
	data := bytes.Repeat([]byte("data"), 100)
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	frame := w.EncodeAll(data, nil)
	skip := append([]byte{0x50, 0x2a, 0x4d, 0x18}, 4, 0, 0, 0, 1, 2, 3, 4)
	for name, c := range map[string]struct {
		plain  []byte
		length int
		want   string
	}{
		"other bytes":        {append([]byte{0}, bytes.Repeat([]byte("tata"), 100)...), 400, "not those that its id names"},
		"encoding":           {append([]byte{3}, data...), 400, "encoding 3 is unknown"},
		"longer":             {append([]byte{0}, data...), 401, "400 bytes where 401 belong"},
		"empty":              {[]byte{0}, 0, "chunk of 0 bytes"},
		"no encoding":        {nil, 400, "piece of 16 bytes"},
		"too big":            {append([]byte{0}, data...), maxChunk + 1, "chunk of 16777217 bytes"},
		"grown":              {append([]byte{2}, bytes.Repeat([]byte{1}, 401)...), 400, "piece of 418 bytes for a chunk of 400"},
		"s2":                 {append([]byte{1}, data[:40]...), 400, "where 400 belong"},
		"s2 of other length": {append([]byte{1}, s2.Encode(nil, data)...), 401, "where 401 belong"},
		"zstd":               {append([]byte{2}, data...), 400, "zstd:"},
		"two frames":         {append([]byte{2}, slices.Concat(frame, frame)...), 800, "bytes too many"},
		"frame cut":          {append([]byte{2}, frame[:len(frame)-5]...), 400, "ends early"},
		"frame to skip":      {append([]byte{2}, slices.Concat(skip, frame)...), 400, "a frame to skip"},
		"frame is bigger":    {append([]byte{2}, frame...), 399, "zstd:"},
		"frame is smaller":   {append([]byte{2}, frame...), 401, "400 bytes where 401 belong"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMaker(t)
			m.indexed = false
			m.pack = []made{{m.keyed("chunk id", h(data)), c.plain, c.length}}
			m.flush()
			if _, err := m.check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}

// A chunk cannot pass for a footer or a trailer, when the pack is cut behind it.
func TestRoles(t *testing.T) {
	m := newMaker(t)
	fake := slices.Concat(random(32), be32(0), be32(0))
	fake[0] = 0 // as it is
	m.chunk(0, fake[1:])
	m.chunk(0, be32(len(fake) + aes.BlockSize)[1:])
	name := m.flushOf(random(100))
	pack := m.fs[name].Data
	m.put(name, pack[:headerSize+len(fake)+tagSize+trailerSize])
	if _, err := m.check(); err == nil || !strings.Contains(err.Error(), "trailer: the piece at") {
		t.Errorf("got %v", err)
	}
}

// A pack has nothing but its chunks, footer and trailer.
func TestRefusedGap(t *testing.T) {
	m := newMaker(t)
	name := "packs/11/" + strings.Repeat("1", 32)
	data := []byte("data")
	id := m.keyed("chunk id", h(data))
	pack := m.seal(header(1), name, 0, append([]byte{0}, data...))
	pack = append(pack, "gap"...)
	pack = m.seal(pack, name, 1, slices.Concat(id[:], be32(21), be32(4)))
	m.put(name, m.seal(pack, name, 2, be32(entrySize+tagSize)))
	if _, err := m.check(); err == nil || !strings.Contains(err.Error(), "its chunks make a pack of") {
		t.Errorf("got %v", err)
	}
}
