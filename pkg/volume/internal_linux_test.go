package volume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/zeebo/blake3"

	"github.com/lockstep-dr/lockstep/pkg/store/mem"
)

// hookSink runs a hook at the first cell and at the first entry of a scan.
type hookSink struct {
	atChunk, atEntry sync.Once
	onChunk, onEntry func()
}

func (h *hookSink) chunk(context.Context, Hash, []byte, bool, *[]byte) error {
	h.atChunk.Do(h.onChunk)
	return nil
}

func (h *hookSink) entry(context.Context, *entry) error {
	h.atEntry.Do(h.onEntry)
	return nil
}

func scanWith(t *testing.T, dir string, h *hookSink) []FileError {
	t.Helper()
	for _, hook := range []*func(){&h.onChunk, &h.onEntry} {
		if *hook == nil {
			*hook = func() {}
		}
	}
	s := &scanner{sink: h, budget: &budget{}, gear: testGear(), progress: &progress{}}
	_, _, err := s.run(t.Context(), dir)
	var failed *FileErrors
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if failed == nil {
		return nil
	}
	return failed.Files
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Files that change under the scan in whatever way are named.
func TestChangedWhileRead(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"appended":   func(path string) error { return appendTo(path, "x") },
		"truncated":  func(path string) error { return os.Truncate(path, 10) },
		"touched":    func(path string) error { return os.Chmod(path, 0o600) },
		"overwriten": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("b"), 5<<20), 0o644) },
	} {
		for _, size := range []int{5 << 20, spanSize + 5<<20} {
			dir := t.TempDir()
			path := filepath.Join(dir, "file")
			writeFile(t, path, bytes.Repeat([]byte("a"), size))
			failed := scanWith(t, dir, &hookSink{onChunk: func() {
				if err := change(path); err != nil {
					t.Error(err)
				}
			}})
			if len(failed) != 1 || failed[0].Path != "file" || !errors.Is(failed[0].Err, ErrChanged) {
				t.Errorf("%s file of %d bytes: %v", name, size, failed)
			}
		}
	}
}

func appendTo(path, data string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(data)
	return errors.Join(err, f.Close())
}

// A file that goes between the listing of its directory and its turn is named, and so is the directory, which changed.
func TestVanished(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 * ahead {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("%06d", i)), nil)
	}
	last := fmt.Sprintf("%06d", 2*ahead-1)
	failed := scanWith(t, dir, &hookSink{onEntry: func() {
		if err := os.Remove(filepath.Join(dir, last)); err != nil {
			t.Error(err)
		}
	}})
	if len(failed) != 2 || failed[0].Path != last || !errors.Is(failed[0].Err, ErrChanged) || !errors.Is(failed[0].Err, os.ErrNotExist) ||
		failed[1].Path != "." || !errors.Is(failed[1].Err, ErrChanged) {
		t.Errorf("failed: %v", failed)
	}
}

func testVault(t *testing.T) *Vault {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := Create(t.Context(), mem.New(), id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// forge stores a snapshot with any records, as one who has the key could.
func forge(t *testing.T, v *Vault, entries []*entry, edit func(*record)) string {
	t.Helper()
	ctx := t.Context()
	p := &progress{}
	up, upCtx := newUploader(ctx, v, p, nil)
	s := newSaver(v, &index{places: &table{}}, up, p, CompressAuto)
	defer s.fresh.close()
	var m merkle
	var roots Roots
	for _, e := range entries {
		if e.kind == kindEnd && len(m.open) > 0 || e.kind != kindEnd && (e.kind == kindDir || len(m.open) > 0) {
			if roots = m.add(e); e.kind == kindEnd && e.roots == (Roots{}) {
				e.roots = roots
			}
		}
		if err := s.entry(upCtx, e); err != nil {
			t.Fatal(err)
		}
	}
	table, err := s.tree.finish(upCtx)
	if err := errors.Join(err, s.meta.flush(upCtx), up.finish(ctx, nil)); err != nil {
		t.Fatal(err)
	}
	r := &record{Snapshot: Snapshot{ID: randomName(), Roots: roots}, Tree: table}
	if edit != nil {
		edit(r)
	}
	if err := v.putRecord(ctx, r); err != nil {
		t.Fatal(err)
	}
	return r.ID
}

func dirEntry(name string) *entry { return &entry{kind: kindDir, name: name, mode: 0o755} }

func emptyFile(name string) *entry {
	return &entry{kind: kindFile, name: name, mode: 0o644, file: file{form: formFixed, digest: newFileHash(0).sum()}}
}

// A tree that leads out of its directory, or does not fit together, is refused, even by one who has the key.
func TestHostileTree(t *testing.T) {
	v := testVault(t)
	end := func() *entry { return &entry{kind: kindEnd} }
	link := func(name, target string) *entry { return &entry{kind: kindLink, name: name, target: target} }
	hard := func(name, target string) *entry { return &entry{kind: kindHard, name: name, target: target} }
	outside := t.TempDir()
	for name, c := range map[string]struct {
		entries []*entry
		edit    func(*record)
		refused bool
	}{
		"good":                     {[]*entry{dirEntry(""), emptyFile("a"), hard("b", "a"), end()}, nil, false},
		"dot dot":                  {[]*entry{dirEntry(""), emptyFile(".."), end()}, nil, true},
		"dot dot directory":        {[]*entry{dirEntry(""), dirEntry(".."), emptyFile("x"), end(), end()}, nil, true},
		"dot":                      {[]*entry{dirEntry(""), emptyFile("."), end()}, nil, true},
		"slash":                    {[]*entry{dirEntry(""), emptyFile("/x"), end()}, nil, true},
		"path":                     {[]*entry{dirEntry(""), emptyFile("../x"), end()}, nil, true},
		"zero byte":                {[]*entry{dirEntry(""), emptyFile("x\x00y"), end()}, nil, true},
		"long name":                {[]*entry{dirEntry(""), emptyFile(strings.Repeat("x", 256)), end()}, nil, true},
		"no name":                  {[]*entry{dirEntry(""), emptyFile(""), end()}, nil, true},
		"directory without a name": {[]*entry{dirEntry(""), dirEntry(""), end(), end()}, nil, true},
		"named root":               {[]*entry{dirEntry("x"), end()}, nil, true},
		"file as root":             {[]*entry{emptyFile("x")}, nil, true},
		"nothing":                  {nil, nil, true},
		"no end":                   {[]*entry{dirEntry(""), emptyFile("a")}, nil, true},
		"two ends":                 {[]*entry{dirEntry(""), end(), end()}, nil, true},
		"two roots":                {[]*entry{dirEntry(""), end(), dirEntry(""), end()}, nil, true},
		"same name twice":          {[]*entry{dirEntry(""), emptyFile("a"), emptyFile("a"), end()}, nil, true},
		"link, then below it": {[]*entry{dirEntry(""), link("a", outside), dirEntry("a"), emptyFile("x"), end(), end()},
			nil, true},
		"not sorted":               {[]*entry{dirEntry(""), emptyFile("b"), emptyFile("a"), end()}, nil, true},
		"hard link out":            {[]*entry{dirEntry(""), hard("a", "../x"), end()}, nil, true},
		"hard link to root":        {[]*entry{dirEntry(""), hard("a", "/etc/passwd"), end()}, nil, true},
		"hard link to nothing":     {[]*entry{dirEntry(""), hard("a", "none"), end()}, nil, true},
		"hard link through a link": {[]*entry{dirEntry(""), link("a", outside), hard("b", "a/victim"), end()}, nil, true},
		"the mark":                 {[]*entry{dirEntry(""), emptyFile(marker), end()}, nil, true},
		"foreign attribute": {[]*entry{{kind: kindDir, mode: 0o755, xattrs: []xattr{{"trusted.x", "y"}}}, end()},
			nil, true},
		"mode": {[]*entry{{kind: kindDir, mode: 0o10755}, end()}, nil, true},
		"wrong digest": {[]*entry{dirEntry(""), {kind: kindFile, name: "a", mode: 0o644, file: file{form: formFixed}}, end()},
			nil, true},
		"wrong roots at end": {[]*entry{dirEntry(""), {kind: kindEnd, roots: Roots{Content: Hash{1}}}}, nil, true},
		"wrong roots in record": {[]*entry{dirEntry(""), end()},
			func(r *record) { r.Roots.Meta = Hash{1} }, true},
		"missing segment": {[]*entry{dirEntry(""), end()}, func(r *record) { r.Tree = append(r.Tree, Hash{1}) }, true},
		"segment twice":   {[]*entry{dirEntry(""), end()}, func(r *record) { r.Tree = append(r.Tree, r.Tree[0]) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			writeFile(t, filepath.Join(outside, "victim"), []byte("safe"))
			dir := filepath.Join(t.TempDir(), "target")
			_, err := v.Load(t.Context(), forge(t, v, c.entries, c.edit), dir, LoadOptions{})
			if !c.refused && err != nil || c.refused && err == nil {
				t.Errorf("error %v, want one: %v", err, c.refused)
			}
			left, err := os.ReadDir(outside)
			if err != nil || len(left) != 1 {
				t.Errorf("outside are now %v, %v", left, err)
			}
			if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) > 1 {
				t.Errorf("beside the target are now %v, %v", left, err)
			}
		})
	}
}

func TestEntryRoundTrip(t *testing.T) {
	entries := []*entry{
		dirEntry(""),
		{kind: kindDir, name: "d", mode: 0o7777, uid: math.MaxUint32, gid: 1, sec: math.MinInt64, nsec: 999999999},
		{kind: kindLink, name: "l\n\xff", target: "../../\xfe", sec: math.MaxInt64},
		{kind: kindHard, name: "h", target: "a/b"},
		{kind: kindFIFO, name: "p"},
		{kind: kindChar, name: "c", major: math.MaxUint32, minor: 3},
		{kind: kindBlock, name: "b", xattrs: []xattr{{"security.capability", ""}, {"user.x", "\x00\xff"}}},
		{kind: kindFile, name: "f", file: file{form: formFixed, size: math.MaxInt64, digest: Hash{1}, spans: []span{
			{number: 0, inline: []byte("abc"), length: 3}, {number: 7, list: Hash{2}, length: 70000}, {number: math.MaxInt64 / spanSize, inline: []byte{}},
		}}},
		{kind: kindFile, name: "v", file: file{form: formVariable, stamp: stamp{-1, 5, math.MaxUint64}, flags: flagChanged, size: 9}},
		{kind: kindFile, name: "w", file: file{form: formWhole, size: 9, whole: Hash{7}, digest: wholeDigest(9, Hash{7})}},
		{kind: kindError, name: "x", target: "permission denied"},
		{kind: kindEnd, roots: Roots{Hash{3}, Hash{4}}},
	}
	var b []byte
	for _, e := range entries {
		b = appendEntry(b, e)
	}
	for _, want := range entries {
		var got *entry
		var err error
		if got, b, err = nextEntry(b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(entry{}, file{}, stamp{}, span{}, xattr{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if len(b) != 0 {
		t.Errorf("%d bytes are left", len(b))
	}
}

func TestListRoundTrip(t *testing.T) {
	want := spanList{
		extents: []extent{{0, 100}, {4096, 200000}, {1 << 20, spanSize - 1<<20}},
		cells:   []cellDigest{{0, Hash{1}}, {1, Hash{2}}, {16, Hash{3}}, {1023, Hash{4}}},
	}
	got, err := decodeList(want.encode(formFixed), formFixed, spanSize)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(spanList{}, extent{}, cellDigest{}, sizedChunk{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	want = spanList{extents: []extent{{0, 100}, {4096, 200}}, chunks: []sizedChunk{{250, Hash{1}}, {50, Hash{2}}}}
	got, err = decodeList(want.encode(formVariable), formVariable, spanSize)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(spanList{}, extent{}, cellDigest{}, sizedChunk{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for name, bad := range map[string]struct {
		form form
		list spanList
	}{
		"extent past the end":    {formFixed, spanList{extents: []extent{{0, spanSize + 1}}}},
		"empty extent":           {formFixed, spanList{extents: []extent{{5, 0}}}},
		"cell past the end":      {formFixed, spanList{cells: []cellDigest{{1024, Hash{}}}}},
		"chunks past extents":    {formVariable, spanList{extents: []extent{{0, 5}}, chunks: []sizedChunk{{6, Hash{}}}}},
		"chunks short of extent": {formVariable, spanList{extents: []extent{{0, 5}}, chunks: []sizedChunk{{4, Hash{}}}}},
		"empty chunk":            {formVariable, spanList{extents: []extent{{0, 5}}, chunks: []sizedChunk{{5, Hash{}}, {0, Hash{}}}}},
	} {
		if _, err := decodeList(bad.list.encode(bad.form), bad.form, spanSize); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// smallText has few repeats, which a compressor must find in letters that are more frequent than others.
const smallText = `Each node of the cluster keeps a copy of what it was told, and asks its neighbours for whatever they heard in the
meantime. When a message is lost nobody waits: later ones carry the same facts, so that only their order is in doubt. A quorum decides
which of two orders holds, and those who saw another one forget it. That is all; everything else follows from counting.`

func TestChunkEncoding(t *testing.T) {
	random := make([]byte, cellSize)
	seed := blake3.New()
	if _, err := seed.Digest().Read(random); err != nil {
		t.Fatal(err)
	}
	k := newCodec()
	for name, c := range map[string]struct {
		raw      []byte
		compress Compression
		form     byte
		max      int
	}{
		"text":           {bytes.Repeat([]byte("abc "), cellSize/4), CompressS2, encodedS2, cellSize / 10},
		"text, zstd":     {bytes.Repeat([]byte("abc "), cellSize/4), CompressZstd, encodedZstd, cellSize / 10},
		"small, zstd":    {[]byte(smallText), CompressZstd, encodedZstd, len(smallText) * 2 / 3},
		"random":         {random, CompressS2, encodedRaw, cellSize + 1},
		"random, zstd":   {random, CompressZstd, encodedRaw, cellSize + 1},
		"one":            {[]byte("x"), CompressZstd, encodedRaw, 2},
		"largest, zeros": {make([]byte, maxChunk), CompressZstd, encodedZstd, maxChunk / 1000},
	} {
		encoded := k.encode([]byte("before"), c.raw, c.compress)
		encoded, ok := bytes.CutPrefix(encoded, []byte("before"))
		if !ok || encoded[0] != c.form || len(encoded) > c.max {
			t.Errorf("%s: form %d, %d bytes; want form %d, at most %d", name, encoded[0], len(encoded), c.form, c.max)
		}
		got, err := k.decode(nil, encoded, len(c.raw))
		if err != nil || !bytes.Equal(got, c.raw) {
			t.Errorf("%s: decoded %d bytes, %v", name, len(got), err)
		}
		for _, wrong := range []int{len(c.raw) - 1, len(c.raw) + 1} {
			if wrong < 0 {
				continue
			}
			if _, err := k.decode(nil, encoded, wrong); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: wrong length %d: %v", name, wrong, err)
			}
		}
	}
}

func TestCoalesce(t *testing.T) {
	at := func(pack, off, stored uint32) planned {
		return planned{at: slot{place: place{pack: pack, off: off, stored: stored}}}
	}
	for name, c := range map[string]struct {
		plan []planned
		want int
	}{
		"one":        {[]planned{at(0, 40, 10)}, 1},
		"adjacent":   {[]planned{at(0, 40, 10), at(0, 50, 10)}, 2},
		"small gap":  {[]planned{at(0, 40, 10), at(0, 50+maxGap, 10)}, 2},
		"large gap":  {[]planned{at(0, 40, 10), at(0, 51+maxGap, 10)}, 1},
		"other pack": {[]planned{at(0, 40, 10), at(1, 50, 10)}, 1},
		"same chunk": {[]planned{at(0, 40, 10), at(0, 40, 10)}, 2},
		"too much":   {[]planned{at(0, 40, maxFetch), at(0, 40+maxFetch, 10)}, 1},
	} {
		if got := coalesce(c.plan); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestIndexRoundTrip(t *testing.T) {
	want := []described{
		{packID{1}, [headerSize]byte{9}, headerSize + 17 + 900 + 2*entrySize + tagSize + trailerSize, []packed{{chunkID{1}, 17, 5}, {chunkID{2}, 900, maxChunk}}},
		{packID{2}, [headerSize]byte{8}, headerSize + tagSize + trailerSize, []packed{}},
	}
	b := encodeIndex(want)
	got, err := decodeIndex(b)
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(described{}, packed{})); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for i := range len(b) {
		if packs, err := decodeIndex(b[:i]); err == nil && (len(packs) == 2 || i != 0 && i != len(b)-indexHeaderSize) {
			t.Errorf("cut at %d: %d packs", i, len(packs))
		}
	}
}

// decoders must neither panic nor take more memory than their input accounts for; what they accept, they write the same.
func FuzzEntry(f *testing.F) {
	f.Add(appendEntry(nil, emptyFile("a")))
	f.Add(appendEntry(nil, &entry{kind: kindFile, name: "f", file: file{form: formFixed, size: 1 << 40,
		spans: []span{{number: 3, inline: []byte("x"), length: 1}, {number: 4, length: 9}}}}))
	f.Add(appendEntry(nil, &entry{kind: kindFile, name: "f", file: file{form: formWhole, size: 5}}))
	f.Add(appendEntry(nil, &entry{kind: kindError, name: "x", target: "no"}))
	f.Add(appendEntry(nil, &entry{kind: kindDir, name: "d", xattrs: []xattr{{"user.a", "b"}}}))
	f.Add(appendEntry(nil, &entry{kind: kindChar, name: "c", major: 1}))
	f.Add(appendEntry(nil, &entry{kind: kindHard, name: "h", target: "a/b"}))
	f.Add(appendEntry(nil, &entry{kind: kindEnd}))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, _, err := nextEntry(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			return
		}
		again, rest, err := nextEntry(appendEntry(nil, e))
		if diff := cmp.Diff(e, again, cmp.AllowUnexported(entry{}, file{}, stamp{}, span{}, xattr{})); err != nil || len(rest) > 0 || diff != "" {
			t.Errorf("%v, %d bytes left, (-first +again):\n%s", err, len(rest), diff)
		}
		if e.name != "" && (strings.Contains(e.name, "/") || e.name == "..") {
			t.Errorf("accepted the name %q", e.name)
		}
	})
}

func FuzzList(f *testing.F) {
	c := spanList{extents: []extent{{0, 100}, {4096, 70000}}, cells: []cellDigest{{0, Hash{1}}, {1, Hash{2}}}}
	f.Add(c.encode(formFixed), false, int64(spanSize))
	c = spanList{extents: []extent{{0, 100}, {4096, 70000}}, chunks: []sizedChunk{{50, Hash{1}}, {70050, Hash{2}}}}
	f.Add(c.encode(formVariable), true, int64(spanSize))
	f.Add([]byte{0, 1, 255, 255, 3}, false, int64(5))
	f.Fuzz(func(t *testing.T, b []byte, variable bool, length int64) {
		if length < 0 || length > spanSize {
			return
		}
		form := formFixed
		if variable {
			form = formVariable
		}
		c, err := decodeList(b, form, length)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Error(err)
			}
			return
		}
		for _, x := range c.extents {
			if x.off < 0 || x.length <= 0 || x.off+x.length > length {
				t.Errorf("accepted extent %+v of %d", x, length)
			}
		}
		again, err := decodeList(c.encode(form), form, length)
		if err != nil || !slices.Equal(again.cells, c.cells) || !slices.Equal(again.extents, c.extents) || !slices.Equal(again.chunks, c.chunks) {
			t.Errorf("%v: %+v, again %+v", err, c, again)
		}
	})
}

func FuzzTable(f *testing.F) {
	f.Add(appendBytes(append(appendBytes(make([]byte, 32), ""), make([]byte, 32)...), "a/b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		table, err := decodeTable(b)
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
		for i, s := range table {
			if i > 0 && (comparePaths(table[i-1].path, s.path) >= 0 || comparePaths(s.path, table[i-1].path) <= 0) {
				t.Errorf("%q does not come behind %q", s.path, table[i-1].path)
			}
		}
	})
}

func FuzzPadding(f *testing.F) {
	f.Add(make([]byte, minPadded))
	f.Fuzz(func(t *testing.T, b []byte) {
		content, err := unpad(b)
		if err != nil && !errors.Is(err, ErrDamaged) || len(content) > len(b) {
			t.Errorf("%d bytes of %d, %v", len(content), len(b), err)
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add(encodeIndex([]described{{id: packID{1}, size: headerSize + 17 + entrySize + tagSize + trailerSize, chunks: []packed{{chunkID{1}, 17, 5}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		packs, err := decodeIndex(b)
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Error(err)
		}
		if err == nil && !bytes.Equal(encodeIndex(packs), b) {
			t.Error("what was accepted is written differently")
		}
	})
}

func FuzzChunk(f *testing.F) {
	k := newCodec()
	f.Add(k.encode(nil, bytes.Repeat([]byte("a"), 1000), CompressS2), 1000)
	f.Add(k.encode(nil, bytes.Repeat([]byte("a"), 1000), CompressZstd), 1000)
	f.Add([]byte{encodedRaw, 1, 2}, 2)
	f.Fuzz(func(t *testing.T, b []byte, raw int) {
		if raw < 0 {
			return
		}
		chunk, err := k.decode(nil, b, raw)
		if err == nil && len(chunk) != raw || err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes, %v; want %d", len(chunk), err, raw)
		}
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte("\x04namedata"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, data, err := decodeDocument(b)
		if err == nil && (name == "" || len(name)+len(data) >= len(b)) || err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%q, %d bytes, %v", name, len(data), err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"id":"0123456789abcdef0123456789abcdef","created":"2026-01-02T03:04:05Z","labels":{"a":"b"},"tree":["` + strings.Repeat("0", 64) + `"]}`))
	b, err := json.Marshal(&record{Snapshot{ID: randomName(), Labels: map[string]string{"a": "b"}}, []Hash{{1}, {2}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, again := &record{}, &record{}
		if json.Unmarshal(b, r) != nil {
			return
		}
		b, err := json.Marshal(r)
		if err == nil {
			err = json.Unmarshal(b, again)
		}
		if diff := cmp.Diff(r, again, cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("%v, (-first +again):\n%s", err, diff)
		}
	})
}

func FuzzCondemned(f *testing.F) {
	f.Add(encodeCondemned([]packID{{1}, {2}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ids, err := decodeCondemned("condemned/x", b)
		if err != nil && !errors.Is(err, ErrDamaged) || err == nil && !bytes.Equal(encodeCondemned(ids), b) {
			t.Errorf("%d packs, %v", len(ids), err)
		}
	})
}

// FuzzObjects opens objects of every kind that were not made with the key.
func FuzzObjects(f *testing.F) {
	k := newKeys(make([]byte, masterSize))
	v := &Vault{keys: k, id: strings.Repeat("0", 32)}
	f.Add(k.sealObject(typeIndex, "index/x", nil), byte(typeIndex))
	f.Add(k.sealObject(typeSnapshot, "snapshots/x", []byte("{}")), byte(typeSnapshot))
	config, err := v.newConfig()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(config, byte(0))
	f.Fuzz(func(t *testing.T, b []byte, kind byte) {
		if _, err := v.keys.openObject(objectType(kind), "index/y", bytes.Clone(b)); !errors.Is(err, ErrDamaged) {
			t.Errorf("opened an object of another name: %v", err)
		}
		if c, err := decodeConfig(b); err == nil && !validID(c.ID) {
			t.Errorf("accepted the config %+v", c)
		}
		if key, err := unwrapKey(b, v.id, nil); key != nil {
			t.Errorf("unwrapped a key: %v", err)
		}
	})
}
