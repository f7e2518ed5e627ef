package volume

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// forgery stores chunks for a snapshot that is made by hand.
type forgery struct {
	t     *testing.T
	vault *Vault
	up    *uploader
	saver *saver
	ctx   context.Context
}

func newForgery(t *testing.T, v *Vault) *forgery {
	p := &progress{}
	up, ctx := newUploader(t.Context(), v, p, nil)
	return &forgery{t, v, up, newSaver(v, &index{places: &table{}}, up, p, CompressS2), ctx}
}

func (f *forgery) chunk(b []byte) Hash {
	f.t.Helper()
	d := Hash(blake3.Sum256(b))
	var scratch []byte
	if err := f.saver.chunk(f.ctx, d, b, false, &scratch); err != nil {
		f.t.Fatal(err)
	}
	return d
}

// variable returns what a record says of a file of variable chunks with the given bytes and extents.
func (f *forgery) variable(content []byte, extents []extent) file {
	out := file{form: formVariable, size: int64(len(content))}
	h := newFileHash(out.size)
	r := rand.New(rand.NewPCG(1, 2))
	for number := range spanCount(out.size) {
		start, length := number*spanSize, spanLength(out.size, number)
		var l spanList
		var data []byte
		for _, x := range extents {
			from, to := max(x.off, start), min(x.off+x.length, start+length)
			if from < to {
				l.extents = append(l.extents, extent{from - start, to - from})
				data = append(data, content[from:to]...)
			}
		}
		for len(data) > 0 {
			n := min(len(data), 1+r.IntN(200<<10))
			l.chunks = append(l.chunks, sizedChunk{int64(n), f.chunk(data[:n])})
			data = data[n:]
		}
		if len(l.extents) == 0 {
			continue
		}
		out.spans = append(out.spans, span{number: number, inline: l.encode(formVariable)})
		if d, empty, err := digestSpan(f.t.Context(), reader0(f.t, content), out.size, number, &progress{}); err != nil {
			f.t.Fatal(err)
		} else if !empty {
			h.add(number, d)
		}
	}
	out.digest = h.sum()
	return out
}

// reader0 is a file with the given bytes.
func reader0(t *testing.T, content []byte) int {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(content); err != nil {
		t.Fatal(err)
	}
	return int(f.Fd())
}

// record stores a snapshot of the entries.
func (f *forgery) record(image bool, entries ...*entry) *record {
	f.t.Helper()
	defer f.saver.fresh.close()
	var m merkle
	var roots Roots
	for _, e := range entries {
		if image {
			roots = entryRoots(e, Roots{})
		} else if roots = m.add(e); e.kind == kindEnd {
			e.roots = roots
		}
		if err := f.saver.entry(f.ctx, e); err != nil {
			f.t.Fatal(err)
		}
	}
	table, err := f.saver.tree.finish(f.ctx)
	if err := errors.Join(err, f.saver.data.flush(f.ctx), f.saver.meta.flush(f.ctx), f.up.finish(f.t.Context(), nil)); err != nil {
		f.t.Fatal(err)
	}
	r := &record{Snapshot: Snapshot{ID: randomName(), Created: time.Now(), Roots: roots, Image: image}, Tree: table}
	if err := f.vault.putRecord(f.t.Context(), r); err != nil {
		f.t.Fatal(err)
	}
	return r
}

// holey has data in the given extents and zeros elsewhere.
func holey(size int64, extents ...extent) []byte {
	b := make([]byte, size)
	r := rand.New(rand.NewPCG(7, uint64(size)))
	for _, x := range extents {
		for i := x.off; i < x.off+x.length; i++ {
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

func regular(name string, f file) *entry {
	return &entry{kind: kindFile, name: name, mode: 0o640, sec: 1e9, nsec: 5, file: f}
}

// holes returns where the data of a file are.
func holes(t *testing.T, path string) (extents []extent) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for off := int64(0); ; {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return extents
		}
		hole, err2 := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		extents, off = append(extents, extent{data, hole - data}), hole
	}
}

// A file of variable chunks is loaded into its extents, in place of whatever was there, and only what differs is fetched.
func TestLoadVariable(t *testing.T) {
	v := testVault(t)
	extents := []extent{{4096, 8192}, {1 << 20, 3 << 20}, {spanSize - 4096, 1 << 20}, {spanSize + 5<<20, 4096*3 + 7}}
	content := holey(spanSize+5<<20+4096*3+7, extents...)
	clear(content[2<<20 : 2<<20+200<<10]) // zeros that are no hole
	f := newForgery(t, v)
	r := f.record(false, dirEntry(""), regular("f", f.variable(content, extents)), &entry{kind: kindEnd})
	dir := t.TempDir()
	at := filepath.Join(dir, "x")
	check := func(what string, o LoadOptions, most int64) {
		t.Helper()
		result, err := v.Load(t.Context(), r.ID, at, o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got, err := os.ReadFile(filepath.Join(at, "f")); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: content differs: %v", what, err)
		}
		if result.Stats.Stored > most {
			t.Errorf("%s: fetched %d bytes", what, result.Stats.Stored)
		}
		if got := holes(t, filepath.Join(at, "f")); len(got) != len(extents) {
			t.Errorf("%s: data in %v, want %v", what, got, extents)
		}
	}
	check("fresh", LoadOptions{Verify: VerifyReadback}, 8<<20)
	edit := func(name string, b []byte, off int64) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(at, "f")
	mirror := LoadOptions{Existing: ExistingMirror, Verify: VerifyReadback}
	check("again", mirror, 4<<10)
	edit(name, []byte("x"), 1<<20+100)
	check("a byte", mirror, 300<<10)
	edit(name, []byte("in a hole"), 30<<20)
	edit(name, []byte("behind"), int64(len(content))+5)
	check("a hole filled", mirror, 4<<10)
	if err := os.Truncate(name, 5<<20); err != nil {
		t.Fatal(err)
	}
	check("truncated", mirror, 2<<20)
	if err := os.Link(name, filepath.Join(dir, "other")); err != nil {
		t.Fatal(err)
	}
	edit(name, []byte("in both"), 3<<20)
	check("another name", mirror, 300<<10)
	if got, err := os.ReadFile(filepath.Join(dir, "other")); err != nil || !bytes.HasPrefix(got[3<<20:], []byte("in both")) {
		t.Errorf("the other name's file was written to: %v", err)
	}
	if err := errors.Join(os.Remove(name), os.Symlink(filepath.Join(dir, "other"), name)); err != nil {
		t.Fatal(err)
	}
	check("a symlink in its place", mirror, 8<<20)
	if got, err := os.ReadFile(filepath.Join(dir, "other")); err != nil || !bytes.HasPrefix(got[3<<20:], []byte("in both")) {
		t.Errorf("a symlink was followed: %v", err)
	}
}

// An image is loaded into a file or a device, and taken up when that was interrupted.
func TestLoadImage(t *testing.T) {
	v := testVault(t)
	extents := []extent{{0, 128 << 10}, {1 << 20, 1 << 20}, {15 << 20, 1 << 20}}
	content := holey(16<<20, extents...)
	f := newForgery(t, v)
	r := f.record(true, &entry{kind: kindFile, file: f.variable(content, extents)})
	dir := t.TempDir()
	check := func(what, at string) {
		t.Helper()
		if got, err := os.ReadFile(at); err != nil || !bytes.Equal(got[:len(content)], content) {
			t.Errorf("%s: content differs: %v", what, err)
		}
	}
	load := func(at string, o LoadOptions) error {
		t.Helper()
		o.Verify = VerifyReadback
		if o.Existing == ExistingOverwrite {
			o.Verify = VerifyWrite
		}
		result, err := v.Load(t.Context(), r.ID, at, o)
		if err == nil && result.Roots != r.Roots {
			t.Errorf("roots %v, want %v", result.Roots, r.Roots)
		}
		return err
	}
	t.Run("stream", func(t *testing.T) {
		var got bytes.Buffer
		if err := v.Cat(t.Context(), r.ID, "", &got); err != nil || !bytes.Equal(got.Bytes(), content) {
			t.Errorf("%d bytes, %v", got.Len(), err)
		}
		if err := v.Tar(t.Context(), r.ID, "", io.Discard); err == nil {
			t.Error("an image was archived")
		}
		for e, err := range v.Entries(t.Context(), r.ID, "", false) {
			if err != nil || e.Path != "" || e.Size != int64(len(content)) || e.Content != r.Roots.Content {
				t.Errorf("%+v, %v", e, err)
			}
		}
		for c, err := range v.Diff(t.Context(), r.ID, r.ID) {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("file", func(t *testing.T) {
		at := filepath.Join(dir, "disk.img")
		if err := load(at, LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		check("fresh", at)
		if got := holes(t, at); len(got) != len(extents) {
			t.Errorf("data in %v, want %v", got, extents)
		}
		if err := load(at, LoadOptions{}); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("again: %v", err)
		}
		if err := os.WriteFile(at, bytes.Repeat([]byte("x"), 20<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := load(at, LoadOptions{Existing: ExistingOverwrite}); err != nil {
			t.Fatal(err)
		}
		check("overwritten", at)
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("left %v, %v", left, err)
		}
		if err := os.Rename(at, at+marker); err != nil {
			t.Fatal(err)
		}
		result, err := v.Load(t.Context(), r.ID, at, LoadOptions{})
		if err != nil || result.Stats.Stored > 4<<10 {
			t.Errorf("taking up fetched %d bytes, %v", result.Stats.Stored, err)
		}
		check("taken up", at)
	})
	t.Run("device", func(t *testing.T) {
		device := loopDevice(t, 17<<20)
		if err := load(device, LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		check("fresh", device)
		if err := load(device, LoadOptions{}); !errors.Is(err, ErrNotEmpty) {
			t.Errorf("again: %v", err)
		}
		d, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt(bytes.Repeat([]byte("x"), 14<<20), 100<<10); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.Sync(), d.Close()); err != nil {
			t.Fatal(err)
		}
		if err := load(device, LoadOptions{Existing: ExistingOverwrite}); err != nil {
			t.Fatal(err)
		}
		check("overwritten", device)
		// What a device held before, or an interrupted load has left, is nowhere to be found: in no hole, and not behind the image.
		if err := os.WriteFile(device, bytes.Repeat([]byte("old"), 17<<20/3), 0); err != nil {
			t.Fatal(err)
		}
		if err := load(device, LoadOptions{Existing: ExistingMirror}); err != nil {
			t.Fatal(err)
		}
		check("mirrored", device)
		if got, err := os.ReadFile(device); err != nil || len(got) != 17<<20 || !allZero(got[len(content):]) {
			t.Errorf("there is something behind the image of %d bytes; %v", len(content), err)
		}
		if err := load(loopDevice(t, 15<<20), LoadOptions{}); err == nil || !strings.Contains(err.Error(), "the device has") {
			t.Errorf("a device that is too small: %v", err)
		}
		held, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(held)
		if err := load(device, LoadOptions{Existing: ExistingMirror}); !errors.Is(err, unix.EBUSY) {
			t.Errorf("a device in use: %v", err)
		}
	})
}

// loopDevice returns a block device of the given size, that is all zero.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	backing := filepath.Join(t.TempDir(), "backing")
	writeFile(t, backing, nil)
	if err := os.Truncate(backing, size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", backing).Output()
	if err != nil {
		t.Skipf("needs a loop device: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", device).Run(); err != nil {
			t.Error(err)
		}
	})
	return device
}

// A stream has the bytes of holes and of chunks that span them.
func TestCatForms(t *testing.T) {
	v := testVault(t)
	extents := []extent{{4096, 8192}, {1 << 20, 40 << 20}, {spanSize - 4096, 1 << 20}}
	content := holey(spanSize+3<<20, extents...)
	f := newForgery(t, v)
	small := file{form: formWhole, size: 5, whole: f.chunk([]byte("small"))}
	small.digest = wholeDigest(5, small.whole)
	r := f.record(false, dirEntry(""), regular("f", f.variable(content, extents)), &entry{kind: kindHard, name: "g", target: "f"},
		regular("small", small), &entry{kind: kindError, name: "x", target: "input/output error"}, &entry{kind: kindEnd})
	for path, want := range map[string][]byte{"f": content, "/g": content, "./small": []byte("small")} {
		var got bytes.Buffer
		if err := v.Cat(t.Context(), r.ID, path, &got); err != nil || !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %d bytes, %v", path, got.Len(), err)
		}
	}
	for path, want := range map[string]error{"none": ErrPathNotFound, "x": ErrUnreadable, "f/x": ErrPathNotFound} {
		if err := v.Cat(t.Context(), r.ID, path, io.Discard); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if err := v.Cat(t.Context(), r.ID, "", io.Discard); err == nil {
		t.Error("a directory can be read")
	}
}

// What could not be read when it was saved is named; all else is loaded, and the target is complete.
func TestLoadUnreadable(t *testing.T) {
	v := testVault(t)
	changed := emptyFile("changed")
	changed.flags = flagChanged
	r := newForgery(t, v).record(false, dirEntry(""), dirEntry("d"), changed, &entry{kind: kindError, name: "lost", target: "input/output error"},
		emptyFile("z"), &entry{kind: kindEnd}, &entry{kind: kindError, name: "x", target: "permission denied"}, &entry{kind: kindEnd})
	dir := filepath.Join(t.TempDir(), "x")
	result, err := v.Load(t.Context(), r.ID, dir, LoadOptions{Verify: VerifyReadback})
	var failed *FileErrors
	if !errors.As(err, &failed) || !errors.Is(err, ErrUnreadable) || len(failed.Files) != 2 || failed.Files[0].Path != "d/lost" ||
		failed.Files[1].Path != "x" || !strings.Contains(err.Error(), "permission denied") {
		t.Fatalf("error %v", err)
	}
	if result == nil || len(result.Changed) != 1 || result.Changed[0] != "d/changed" {
		t.Errorf("result %+v", result)
	}
	if roots, err := Digest(t.Context(), dir); err != nil || roots != result.Roots {
		t.Errorf("loaded %v, %v; want %v", roots, err, result.Roots)
	}
	if _, err := os.Lstat(filepath.Join(dir, marker)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mark: %v", err)
	}
}

func FuzzACL(f *testing.F) {
	f.Add("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x05\x00\x00\x00")
	f.Fuzz(func(t *testing.T, value string) {
		text, err := aclText(value)
		if err != nil && !errors.Is(err, ErrDamaged) || err == nil && strings.Count(text, "\n") != len(value)/8 {
			t.Errorf("%q of %d bytes, %v", text, len(value), err)
		}
	})
}
