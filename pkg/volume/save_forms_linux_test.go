package volume

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/fs"
	independent "github.com/lockstep-dr/lockstep/test/reader"
)

// checkedVault returns a Vault in a directory, and a function that has the independent reader check it.
func checkedVault(t *testing.T) (v *Vault, check func() independent.Report) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s, err := fs.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if v, err = Create(t.Context(), s, id.Recipient()); err != nil {
		t.Fatal(err)
	}
	return v, func() independent.Report {
		t.Helper()
		r := independent.CheckVault(t, dir, id)
		if r.Astray != 0 {
			t.Errorf("%d files and chunks are not divided as the format says", r.Astray)
		}
		return r
	}
}

func vaultIn(t *testing.T, s store.Store) *Vault {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := Create(t.Context(), s, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// packsOf returns the packs of a Vault.
func packsOf(t *testing.T, v *Vault) []packID {
	t.Helper()
	packs, err := v.listPacks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(maps.Keys(packs))
}

func mustSave(t *testing.T, v *Vault, path string, o SaveOptions) *Snapshot {
	t.Helper()
	s, err := v.Save(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mustLoad loads a snapshot, has it read back, and returns where it is.
func mustLoad(t *testing.T, v *Vault, id string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "loaded")
	if _, err := v.Load(t.Context(), id, dir, LoadOptions{Verify: VerifyReadback}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// sparseFile writes a file of the given size that has noise in the given extents only.
func sparseFile(t *testing.T, path string, size int64, extents ...extent) {
	t.Helper()
	writeFile(t, path, nil)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, x := range extents {
		if _, err := f.WriteAt(noise(uint64(x.off), int(x.length)), x.off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// Whatever the size of a file and wherever its holes are: it is divided as the format says, and comes back.
func TestFormsOfFiles(t *testing.T) {
	v, check := checkedVault(t)
	src := t.TempDir()
	at := func(name string) string { return filepath.Join(src, name) }
	for _, n := range []int{0, 1, 4095, 4096, cellSize - 1, cellSize, cellSize + 1, 2 * cellSize, maxCut, maxCut + 1, window, window + 1, window + maxCut + 7,
		2*window + 4096, spanSize + 1} {
		writeFile(t, at(fmt.Sprintf("noise %d", n)), noise(uint64(n), n))
		if n < spanSize {
			writeFile(t, at(fmt.Sprintf("zeros %d", n)), make([]byte, n))
		}
	}
	for _, odd := range []int64{0, 1} {
		name := func(s string) string { return at(fmt.Sprintf("sparse %s %d", s, odd)) }
		sparseFile(t, name("small"), 40960+odd, extent{4096, 4096})
		sparseFile(t, name("tail"), 1<<20+odd, extent{0, 100})
		sparseFile(t, name("head"), 1<<20+odd, extent{1 << 19, 1 << 19})
		sparseFile(t, name("windows"), 8<<20+odd, extent{4096, 8192}, extent{window - 4096, 8192}, extent{3 * window, maxCut + 4096}, extent{6 * window, 100})
		sparseFile(t, name("spans"), 3*spanSize+odd, extent{spanSize - 4096, 8192}, extent{2 * spanSize, 2 << 20})
		sparseFile(t, name("only"), spanSize+odd)
	}
	s := mustSave(t, v, src, SaveOptions{})
	dst := mustLoad(t, v, s.ID)
	names, err := os.ReadDir(src)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		a, errA := os.ReadFile(filepath.Join(src, name.Name()))
		b, errB := os.ReadFile(filepath.Join(dst, name.Name()))
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: %v, %v, equal %v", name.Name(), errA, errB, bytes.Equal(a, b))
		}
	}
	if r := check(); len(r.Snapshots) != 1 || r.Snapshots[0].Files != len(names) {
		t.Errorf("the independent reader says %+v", r.Snapshots)
	}
}

// What is inserted into a large file costs the chunks around it, and no more.
func TestInsertion(t *testing.T) {
	v, check := checkedVault(t)
	src := t.TempDir()
	var text bytes.Buffer
	for i := 0; text.Len() < 20<<20; i++ {
		fmt.Fprintf(&text, "%d: %x\n", i, noise(uint64(i), 20))
	}
	text.WriteByte('\n')
	data := text.Bytes()
	if len(data)%4096 == 0 {
		data = data[1:]
	}
	writeFile(t, filepath.Join(src, "log"), data)
	mustSave(t, v, src, SaveOptions{})
	middle := len(data) / 2
	writeFile(t, filepath.Join(src, "log"), bytes.Join([][]byte{data[:middle], []byte("one more line\n"), data[middle:]}, nil))
	s := mustSave(t, v, src, SaveOptions{})
	if s.Stats.New > 3*maxCut || s.Stats.New == 0 {
		t.Errorf("one line inserted into %d bytes stored %d bytes", len(data), s.Stats.New)
	}
	mustLoad(t, v, s.ID)
	check()
}

// A snapshot of one file is an image, and has no name.
func TestImageOfFile(t *testing.T) {
	for _, odd := range []int64{0, 1} {
		v, check := checkedVault(t)
		path := filepath.Join(t.TempDir(), "disk")
		sparseFile(t, path, 3*spanSize+odd, extent{4096, 8192}, extent{spanSize + 1<<20, 2 << 20}, extent{3*spanSize - 4096, 4096})
		first := mustSave(t, v, path, SaveOptions{})
		if !first.Image || first.Stats.Files != 1 || first.Stats.Bytes > 4<<20 {
			t.Errorf("snapshot %+v", first)
		}
		if roots, err := Digest(t.Context(), path); err != nil || roots != first.Roots {
			t.Errorf("digest %v, %v; want %v", roots, err, first.Roots)
		}
		dst := mustLoad(t, v, first.ID)
		if roots, err := Digest(t.Context(), dst); err != nil || roots != first.Roots {
			t.Errorf("digest of what was loaded %v, %v; want %v", roots, err, first.Roots)
		}
		again := mustSave(t, v, path, SaveOptions{Parent: aged(t, v, first.ID)})
		if again.Roots != first.Roots || again.Stats.Unchanged != 1 || again.Stats.Bytes != 0 || again.Stats.UnchangedBytes == 0 {
			t.Errorf("the same once more: %+v", again.Stats)
		}
		if again.Stats.New != 0 {
			t.Errorf("the same once more stored %d bytes", again.Stats.New)
		}
		if r := check(); r.Needless != 0 {
			t.Errorf("%d packs are needed by no snapshot", r.Needless)
		}
	}
}

// Of a device the zeros are holes, and nothing is known but its bytes.
func TestImageOfDevice(t *testing.T) {
	v, check := checkedVault(t)
	const size = spanSize + 4<<20 + 4096
	device := loopDevice(t, size)
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{512, 3 * cellSize, 4 * cellSize, spanSize - 10, size - 512} {
		if _, err := f.WriteAt(noise(uint64(off), 100), off); err != nil {
			t.Fatal(err)
		}
	}
	s := mustSave(t, v, device, SaveOptions{})
	if !s.Image || s.Stats.Size != size || s.Stats.New > 8*cellSize {
		t.Errorf("snapshot %+v", s)
	}
	dst := mustLoad(t, v, s.ID)
	want, err := os.ReadFile(device)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(dst)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the device does not come back: %v", err)
	}
	if n := holes(t, dst); len(n) != 4 {
		t.Errorf("loaded with the extents %v, want one for each run of cells that are not zero", n)
	}
	check()
}

// What is neither directory nor file nor block device is refused.
func TestOddSources(t *testing.T) {
	v := testVault(t)
	if _, err := v.Save(t.Context(), "/dev/null", SaveOptions{}); err == nil {
		t.Error("a character device was saved")
	}
	if _, err := v.Save(t.Context(), filepath.Join(t.TempDir(), "none"), SaveOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("saving what is not there: %v", err)
	}
}
