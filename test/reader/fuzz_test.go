package reader

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"filippo.io/age"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"format":"lockstep-vault","version":1,"id":"` + strings.Repeat("0", 32) + `","created":"2026-01-02T03:04:05Z"}` + "\n" + strings.Repeat("a", 64) + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v Vault
		line, mac, err := decodeConfig(data, &v)
		if err == nil && (len(mac) != 32 || len(v.ID) != 32 || len(line)+66 != len(data)) {
			t.Errorf("config of %q: line %q, code %x, id %q", data, line, mac, v.ID)
		}
	})
}

func FuzzKey(f *testing.F) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	m := maker{t: f, fs: fstest.MapFS{}}
	f.Add(m.fs[m.key(strings.Repeat("0", 32), random(32), identity.Recipient())].Data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if id, master, err := openKey(data, []age.Identity{identity}); err == nil && (len(id) != 32 || len(master) != 32) {
			t.Errorf("id %q and a key of %d bytes", id, len(master))
		}
	})
}

func FuzzUnpad(f *testing.F) {
	f.Add(padded([]byte("content")))
	f.Add(padded(make([]byte, 1000)))
	f.Fuzz(func(t *testing.T, plain []byte) {
		if content, err := unpad(plain); err == nil && !bytes.Equal(padded(content), plain) {
			t.Errorf("%x is taken for the padding of %x", plain, content)
		}
	})
}

func FuzzEntries(f *testing.F) {
	f.Add(slices.Concat(make([]byte, 32), be32(27), be32(10)), uint32(143))
	f.Fuzz(func(t *testing.T, footer []byte, size uint32) {
		entries, err := decodeEntries(footer, size)
		if err != nil {
			return
		}
		p := pack{header: make([]byte, headerSize), size: size, entries: entries}
		if got := p.description()[headerSize+8:]; !bytes.Equal(got, footer) {
			t.Errorf("%x comes back as %x", footer, got)
		}
	})
}

func FuzzIndex(f *testing.F) {
	m := newMaker(f)
	m.snapshot(everything())
	f.Add(m.index)
	f.Fuzz(func(t *testing.T, data []byte) {
		size := 0
		err := decodeIndex(data, func(name string, description []byte) error {
			if kindOf(name) != "packs" {
				t.Errorf("pack %q", name)
			}
			size += 16 + len(description)
			return nil
		})
		if err == nil && size != len(data) {
			t.Errorf("%d bytes of %d", size, len(data))
		}
	})
}

func FuzzChunk(f *testing.F) {
	data := bytes.Repeat([]byte("data"), 100)
	w, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{0}, data...), uint32(400))
	f.Add(append([]byte{1}, s2.Encode(nil, data)...), uint32(400))
	f.Add(append([]byte{2}, w.EncodeAll(data, nil)...), uint32(400))
	d := newZstd()
	f.Fuzz(func(t *testing.T, plain []byte, length uint32) {
		if data, err := decodeChunk(d, plain, length%(1<<20)); err == nil && len(data) != int(length%(1<<20)) {
			t.Errorf("%d bytes where %d belong", len(data), length)
		}
	})
}

func FuzzSnapshot(f *testing.F) {
	root := strings.Repeat("0", 64)
	f.Add([]byte(`{"id":"x","created":"2026-01-02T03:04:05Z","roots":{"content":"` + root + `","meta":"` + root + `"},"tree":["` + root + `"],"labels":{"a":"b"},"image":true,"stats":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := decodeSnapshot(data); err == nil && (len(s.table) == 0 || len(s.table)*64 > len(data)) {
			t.Errorf("a table of %d chunks in %d bytes", len(s.table), len(data))
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add(slices.Concat(make([]byte, 33), make([]byte, 32), by("a/b"), make([]byte, 32), by("a-b")))
	f.Fuzz(func(t *testing.T, table []byte) {
		all, err := decodeTable(table)
		var again []byte
		for _, s := range all {
			again = slices.Concat(again, s.chunk[:], by(s.path))
		}
		if err == nil && !bytes.Equal(again, table) {
			t.Errorf("%x comes back as %x", table, again)
		}
	})
}

// What a record decodes to is in proportion to it.
func FuzzRecord(f *testing.F) {
	var t tree
	newMaker(f).add(&t, everything(), "")
	for _, record := range t.records {
		c := cursor{rest: record}
		f.Add(c.bytes())
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		e, err := decodeRecord(record)
		if err != nil {
			return
		}
		if n := 3*len(e.content.spans) + 2*len(e.Xattrs) + len(e.Name) + len(e.Target) + len(e.Reason); n > len(record) {
			t.Errorf("%d bytes out of %d", n, len(record))
		}
		if e.content.form == 0 && e.Kind == File && (e.Size == 0 || e.Size > cellSize) {
			t.Errorf("one chunk of %d bytes", e.Size)
		}
	})
}

// Extents and pieces of a list ascend and lie in the span.
func FuzzList(f *testing.F) {
	m := newMaker(f)
	data, extents := sparse()
	f.Add(byte(1), m.list(node{form: 1, extents: extents}, data, 0), uint32(len(data)))
	f.Add(byte(2), m.list(node{form: 2, extents: extents}, data, 0), uint32(len(data)))
	f.Fuzz(func(t *testing.T, form byte, data []byte, length uint32) {
		span := uint64(length)%spanSize + 1
		l, err := decodeList(form%2+1, data, span)
		if err != nil {
			return
		}
		at, total := uint64(0), uint64(0)
		for i, e := range l.extents {
			if e.start < at || i > 0 && e.start == at || e.end <= e.start || e.end > span {
				t.Errorf("extent %v behind %d in a span of %d", e, at, span)
			}
			at, total = e.end, total+e.end-e.start
		}
		at = 0
		for _, p := range l.pieces {
			if p.start < at || p.length == 0 || p.start+p.length > span {
				t.Errorf("piece at %d of %d bytes behind %d in a span of %d", p.start, p.length, at, span)
			}
			at = p.start + p.length
		}
		if form%2+1 == 2 && at != total {
			t.Errorf("chunks of %d bytes in extents of %d", at, total)
		}
		if n := len(l.extents)*2 + len(l.pieces)*32; n > len(data) {
			t.Errorf("%d bytes out of %d", n, len(data))
		}
	})
}

// Records in any order neither crash the walker nor take it out of the tree.
func FuzzSegment(f *testing.F) {
	var t tree
	newMaker(f).add(&t, everything(), "")
	f.Add(bytes.Join(t.records, nil), false)
	f.Add(by(string(slices.Concat([]byte("f\x00"), plainMeta, make([]byte, 4), []byte{1, 0}, make([]byte, 32)))), true)
	f.Fuzz(func(t *testing.T, data []byte, image bool) {
		last := ""
		w := &walker{image: image, visit: func(e *Entry) error {
			if last != "" && !before(last, e.Path) {
				t.Errorf("%q behind %q", e.Path, last)
			}
			if e.Path != "" && slices.ContainsFunc(strings.Split(e.Path, "/"), func(name string) bool { return !validName(name) }) {
				t.Errorf("path %q", e.Path)
			}
			last = e.Path
			return nil
		}}
		if err := w.segment(data, ""); err == nil && w.roots == nil && len(w.open) == 0 {
			t.Error("neither in the tree nor at its end")
		}
		if len(w.open)*8 > len(data) {
			t.Errorf("%d directories out of %d bytes", len(w.open), len(data))
		}
	})
}
