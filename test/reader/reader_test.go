package reader

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"
)

// sparse is 3 cells, of which the middle one is a hole but for its last bytes, with a tail of allocated zeros.
func sparse() ([]byte, []extent) {
	data := make([]byte, 3*cellSize+4096)
	copy(data, "first")
	copy(data[2*cellSize-10:], "0123456789")
	return data, []extent{{0, 4096}, {2*cellSize - 4096, 2 * cellSize}, {3 * cellSize, 3*cellSize + 4096}}
}

// everything is a tree with all that the page knows.
func everything() node {
	data, extents := sparse()
	text := bytes.Repeat([]byte("all work and no play "), 20_000)
	return node{kind: 'd', children: []node{
		{kind: 'd', name: "a", children: []node{
			{kind: 'f', name: "b", data: []byte("small"), meta: slices.Concat(uv(0o4755), uv(0), uv(0), sv(-5), uv(999), uv(2),
				by("security.capability"), by("\x01\x02"), by("user.x"), by(""))},
			{kind: 'd', name: "deep", children: []node{{kind: 'd', name: "er", children: []node{{kind: 'f', name: "f", data: []byte{1}}}}}},
		}},
		{kind: 'd', name: "a-b"},
		{kind: 'b', name: "block", major: 8, minor: 1 << 20},
		{kind: 'c', name: "char", major: 1, minor: 3},
		{kind: 'f', name: "empty", form: 1},
		{kind: 'f', name: "empty2", form: 2},
		{kind: 'p', name: "fifo"},
		{kind: 'f', name: "fixed", form: 1, data: text[:6*cellSize], encoding: 2, inChunk: true},
		{kind: 'h', name: "link", target: "a/b"},
		{kind: 'h', name: "link2", target: "fifo"},
		{kind: 'x', name: "secret", target: "permission denied"},
		{kind: 'f', name: "sparse", form: 1, data: data, extents: extents, encoding: 1},
		{kind: 'f', name: "sparse2", form: 2, data: data, extents: extents, flags: 1},
		{kind: 'l', name: "sym", target: "../out of here"},
		{kind: 'f', name: "text", form: 2, data: text, encoding: 1},
		{kind: 'f', name: "\xff\xfe", data: bytes.Repeat([]byte{7}, cellSize), encoding: 2},
	}}
}

func (m *maker) check() (Report, error) { return CheckFS(m.fs, m.identity) }

func TestCheck(t *testing.T) {
	m := newMaker(t)
	m.snapshot(everything())
	m.snapshot(node{kind: 'f', form: 1, data: random(2*cellSize + 512), meta: make([]byte, 6)})
	m.snapshot(node{kind: 'd'})
	m.document("point", "shop/1", "{}")
	old := m.flushOf([]byte("nobody needs me"))
	m.object("condemned/"+strings.Repeat("1", 32), 5, append(unhexed(t, old[9:]), random(16)...))
	m.key(strings.Repeat("ab", 16), random(32), m.identity.Recipient())
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	theirs := m.key(m.id, m.master, other.Recipient())
	m.document("key", theirs[5:], m.keyDocument(theirs))
	m.put("packs/00/.tmp-1", nil)
	m.put("lost/and/found", nil)
	m.put("packs/00/"+strings.Repeat("1", 32), nil)

	got, err := m.check()
	if err != nil {
		t.Fatal(err)
	}
	found := map[int][]uint64{} // by number of entries
	for _, s := range got.Snapshots {
		if !s.Whole {
			t.Errorf("%s is not whole", s.ID)
		}
		found[s.Entries] = append(found[s.Entries], uint64(s.Files), s.Bytes, uint64(s.Changed), uint64(s.Unread))
	}
	slices.Sort(found[1])
	text, sparse := 21*20_000, 3*cellSize+4096
	want := map[int][]uint64{
		21: {9, uint64(5 + 1 + 6*cellSize + 2*sparse + text + cellSize), 1, 1},
		1:  {0, 0, 0, 0, 0, 0, 1, 2*cellSize + 512}, // the empty directory and the image
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
	got.Snapshots, got.Chunks, got.PackBytes = nil, 0, 0
	if got.Astray == 0 {
		t.Error("the maker does not divide as writers should, and that is not seen")
	}
	got.Astray = 0
	unknown := []string{"lost/and/found", "packs/00/.tmp-1", "packs/00/" + strings.Repeat("1", 32)}
	if diff := cmp.Diff(Report{Vault: m.id, Created: "2026-01-02T03:04:05Z", Keys: 1, SealedKeys: 1, ForeignKeys: 1, Packs: 4, Condemned: 1,
		NoIndex: 1, Indexes: 3, Documents: 2, Needless: 1, Unknown: unknown}, got); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
}

// flushOf makes a pack of one chunk that no index describes.
func (m *maker) flushOf(data []byte) string {
	m.indexed = false
	defer func() { m.indexed = true }()
	m.chunk(0, data)
	return m.flush()
}

func unhexed(t testing.TB, s string) []byte {
	t.Helper()
	b, err := unhex(s, len(s)/2)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReadWhatWasMade(t *testing.T) {
	m := newMaker(t)
	m.snapshot(everything())
	v, err := Open(m.fs, m.identity)
	if err != nil {
		t.Fatal(err)
	}
	snapshots, err := v.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	listed(want, everything(), "")
	got := map[string]string{}
	err = v.Walk(snapshots[0], func(e *Entry) error {
		what := fmt.Sprintf("%c %s%s %d:%d", e.Kind, e.Target, e.Reason, e.Major, e.Minor)
		if e.Kind == File {
			data, err := v.ReadFile(e, 1<<20)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %x", h(data))
		}
		got[e.Path] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
}

func listed(to map[string]string, n node, path string) {
	to[path] = fmt.Sprintf("%c %s %d:%d", n.kind, n.target, n.major, n.minor)
	if n.kind == 'f' {
		to[path] += fmt.Sprintf(" %x", h(n.data))
	}
	for _, child := range n.children {
		listed(to, child, strings.TrimPrefix(path+"/"+child.name, "/"))
	}
}

func TestExtract(t *testing.T) {
	m := newMaker(t)
	root := everything()
	root.children = slices.DeleteFunc(root.children, func(n node) bool { return strings.ContainsRune("bcpx", rune(n.kind)) || n.target == "fifo" })
	m.snapshot(root)
	v, err := Open(m.fs, m.identity)
	if err != nil {
		t.Fatal(err)
	}
	snapshots, err := v.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := v.Extract(snapshots[0], dir); err != nil {
		t.Fatal(err)
	}
	for _, n := range root.children {
		if n.kind != 'f' {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, n.name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, n.data) {
			t.Errorf("%q has other bytes", n.name)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "link"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != 0o755|fs.ModeSetuid {
		t.Errorf("mode of a/b: %v", got)
	}
	if got := info.ModTime(); got.Unix() != -5 || got.Nanosecond() != 999 {
		t.Errorf("time of a/b: %v", got)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink != 2 {
		t.Errorf("a/b has %d names", stat.Nlink)
	}
	if target, err := os.Readlink(filepath.Join(dir, "sym")); err != nil || target != "../out of here" {
		t.Errorf("symlink to %q: %v", target, err)
	}
	if err := v.Extract(snapshots[0], dir); err == nil {
		t.Error("a directory that is not empty is extracted to")
	}
}

func TestPadme(t *testing.T) {
	for n, want := range map[int]int{4: 64, 64: 64, 65: 72, 100: 104, 1000: 1024, 1024: 1024, 1025: 1088, 1 << 20: 1 << 20, 1<<20 + 1: 1<<20 + 1<<15} {
		if got := padme(n); got != want {
			t.Errorf("padme(%d) = %d, want %d", n, got, want)
		}
	}
}

// Every change of a bit, every truncation and every swap of any object is an error.
func TestTampering(t *testing.T) {
	m := newMaker(t)
	m.snapshot(node{kind: 'd', children: []node{{kind: 'f', name: "a", data: []byte("hello")}, {kind: 'f', name: "b", form: 2, data: []byte("xyz")}}})
	m.snapshot(node{kind: 'd', children: []node{{kind: 'f', name: "a", data: []byte("other")}}})
	m.document("point", "a", "data")
	m.object("condemned/"+strings.Repeat("1", 32), 5, random(16))
	if _, err := m.check(); err != nil {
		t.Fatal(err)
	}
	good := maps.Clone(m.fs)
	refused := func(what, name string, data []byte) {
		t.Helper()
		bad := maps.Clone(good)
		bad[name] = &fstest.MapFile{Data: data}
		if _, err := CheckFS(bad, m.identity); err == nil {
			t.Errorf("%s of %s is not seen", what, name)
		}
	}
	for name, file := range good {
		for i := range file.Data {
			refused("truncation", name, file.Data[:i])
			flipped := bytes.Clone(file.Data)
			flipped[i] ^= 1 << (i % 8)
			refused(fmt.Sprintf("bit %d of byte %d", i%8, i), name, flipped)
		}
		refused("growth", name, append(bytes.Clone(file.Data), 0))
		for other := range good {
			if other != name {
				refused("the bytes of "+other+" in the place", name, good[other].Data)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	m := newMaker(t)
	m.snapshot(node{kind: 'd'})
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := CheckFS(m.fs, stranger); err == nil || !strings.Contains(err.Error(), "no identity opens") {
		t.Errorf("with a stranger's key: %v", err)
	}
	m.key(m.id, random(32), m.identity.Recipient())
	if _, err := m.check(); err == nil || !strings.Contains(err.Error(), "another master key") {
		t.Errorf("with two master keys: %v", err)
	}
}

// A pack that is gone hurts exactly the files that need it.
func TestLostPack(t *testing.T) {
	m := newMaker(t)
	lost := bytes.Repeat([]byte("lost"), 100)
	m.chunk(0, lost)
	gone := m.flush()
	root := node{kind: 'd', children: []node{{kind: 'f', name: "a", data: []byte("hello")}, {kind: 'f', name: "b", data: lost},
		{kind: 'd', name: "c", children: []node{{kind: 'f', name: "d", data: lost}, {kind: 'f', name: "e", data: []byte("there")}}}}}
	m.snapshot(root)
	report, err := m.check()
	if err != nil {
		t.Fatal(err)
	}
	if report.Snapshots[0].Files != 4 {
		t.Errorf("%d files", report.Snapshots[0].Files)
	}
	delete(m.fs, gone)
	report, err = m.check()
	if err == nil {
		t.Fatal("nothing is missing")
	}
	if diff := cmp.Diff([]string{"b", "c/d"}, report.Snapshots[0].Hurt); diff != "" {
		t.Errorf("hurt (-want +got):\n%s", diff)
	}
	if report.Snapshots[0].Files != 2 || report.Lost != 1 || report.NoPack != 1 {
		t.Errorf("report: %+v", report)
	}
}

// A file of more than one span, and one divided as the page wants it.
func TestDivided(t *testing.T) {
	m := newMaker(t)
	big := make([]byte, 2*spanSize+1)
	copy(big[spanSize-5:], "ten bytes.")
	big[2*spanSize] = 1
	text := random(600_000)
	var list []byte
	for rest := text; len(rest) > 0; {
		n := m.divide(rest)
		list = slices.Concat(list, uv(n), m.chunk(0, rest[:n]))
		rest = rest[n:]
	}
	m.snapshot(node{kind: 'd', children: []node{
		{kind: 'f', name: "big", form: 1, data: big[:2*spanSize], extents: []extent{{spanSize - 8192, spanSize + 4096}}},
		{kind: 'f', name: "big2", form: 2, data: big, extents: []extent{{spanSize - 5, spanSize + 5}, {2 * spanSize, 2*spanSize + 1}}, inChunk: true},
		{kind: 'f', name: "text", data: text, chunks: slices.Concat([]byte{2}, fileDigest(text), uv(1), []byte{0, 0},
			by(string(slices.Concat(uv(1), uv(0), uv(len(text)), list))))},
	}})
	report, err := m.check()
	if err != nil {
		t.Fatal(err)
	}
	if got := report.Snapshots[0]; got.Files != 3 || report.Astray != 0 {
		t.Errorf("%d files, %d divided otherwise", got.Files, report.Astray)
	}
}

// divide ends a chunk where the page says, by the sum that the hash is.
func (m *maker) divide(data []byte) int {
	k, err := blake3.NewKeyed(m.derive(nil, "chunker"))
	if err != nil {
		m.t.Fatal(err)
	}
	table := make([]byte, 2048)
	if _, err := k.Digest().Read(table); err != nil {
		m.t.Fatal(err)
	}
	for n := 16384 + 1; n <= min(len(data), 262144); n++ {
		var hash uint64
		for i := max(16384, n-64); i < n; i++ {
			hash += binary.BigEndian.Uint64(table[8*int(data[i]):]) << (n - 1 - i)
		}
		if bits := bits.LeadingZeros64(hash); bits >= 18 || bits >= 14 && n > 65536 {
			return n
		}
	}
	return min(len(data), 262144)
}

func (m *maker) keyDocument(key string) string {
	return fmt.Sprintf(`{"recipient":"age1","comment":"theirs","created":"2026-01-02T03:04:05Z","sha256":"%x"}`, sha256.Sum256(m.fs[key].Data))
}
