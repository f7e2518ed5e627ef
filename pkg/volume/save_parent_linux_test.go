package volume

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

// aged records a snapshot once more, as if it had been made an hour later: long after all of its files changed last.
func aged(t *testing.T, v *Vault, id string) string {
	t.Helper()
	r, err := v.record(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	r.ID, r.Created = randomName(), r.Created.Add(time.Hour)
	if err := v.putRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return r.ID
}

// fillTree makes a tree of a few files of each form.
func fillTree(t *testing.T, dir string) {
	t.Helper()
	for i := range 60 {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("d%d/e%d/f%02d", i%4, i%3, i)), noise(uint64(i), 100+i*i*20))
	}
	writeFile(t, filepath.Join(dir, "d1/pages"), noise(100, 9<<20))
	writeFile(t, filepath.Join(dir, "d2/text"), noise(101, 9<<20+1))
	sparseFile(t, filepath.Join(dir, "d3/sparse"), 2*spanSize, extent{1 << 20, 1 << 20}, extent{spanSize, 1 << 20})
	for link, to := range map[string]string{"d0/hard": "d1/pages", "d3/hard": "d0/e0/f00"} {
		if err := os.Link(filepath.Join(dir, to), filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
}

// Nothing is read of a tree that did not change, and the record is the same to the byte.
func TestParentUnchanged(t *testing.T) {
	v, check := checkedVault(t)
	src := t.TempDir()
	fillTree(t, src)
	first := mustSave(t, v, src, SaveOptions{})
	again := mustSave(t, v, src, SaveOptions{Parent: aged(t, v, first.ID)})
	got, want := again.Stats, first.Stats
	if again.Roots != first.Roots || got.Bytes != 0 || got.New != 0 || got.Stored != 0 || got.Unchanged != want.Files || got.Files != want.Files {
		t.Errorf("saved again: %+v, roots equal %v; first %+v", got, again.Roots == first.Roots, want)
	}
	if diff := got.UnchangedBytes - want.Bytes; diff > 0 || diff < -cellSize {
		t.Errorf("%d bytes unchanged, %d were read at first", got.UnchangedBytes, want.Bytes)
	}
	mustLoad(t, v, again.ID)
	check()
}

// A file that changed less than two seconds before the parent was made is read: it may have changed once more since.
func TestParentRacy(t *testing.T) {
	v := testVault(t)
	src := t.TempDir()
	writeFile(t, filepath.Join(src, "file"), noise(1, 1000))
	first := mustSave(t, v, src, SaveOptions{})
	if again := mustSave(t, v, src, SaveOptions{Parent: first.ID}); again.Stats.Unchanged != 0 || again.Stats.Bytes != 1000 {
		t.Errorf("%+v", again.Stats)
	}
}

// edits are what may happen to a tree between two saves.
var edits = map[string]func(path string) error{
	"rewrite":   func(path string) error { return os.WriteFile(path, noise(uint64(len(path)), 5000), 0o600) },
	"append":    func(path string) error { return appendTo(path, "more") },
	"mode":      func(path string) error { return os.Chmod(path, 0o604) },
	"attribute": func(path string) error { return unix.Setxattr(path, "user.x", []byte("y"), 0) },
	"remove":    os.RemoveAll,
	"rename":    func(path string) error { return os.Rename(path, path+"x") },
	"replace": func(path string) error {
		return errors.Join(os.RemoveAll(path), os.Mkdir(path, 0o755), os.WriteFile(path+"/new", []byte("new"), 0o644))
	},
	"beside":  func(path string) error { return os.WriteFile(path+".new", []byte("n"), 0o644) },
	"in":      func(path string) error { return os.WriteFile(filepath.Dir(path)+"/0", []byte("n"), 0o644) },
	"symlink": func(path string) error { return errors.Join(os.RemoveAll(path), os.Symlink("x", path)) },
	"parent":  func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	"move":    func(path string) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+"~") },
	"same size": func(path string) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		return errors.Join(os.WriteFile(path, noise(999, int(st.Size())), 0o644), os.Chtimes(path, st.ModTime(), st.ModTime()))
	},
}

// Whatever happens to a tree, a save with a parent finds what one without finds.
func TestParentFindsAllChanges(t *testing.T) {
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 0))
		v := testVault(t)
		src := t.TempDir()
		fillTree(t, src)
		parent := mustSave(t, v, src, SaveOptions{})
		for range 4 {
			for name, edit := range edits {
				path := filepath.Join(src, fmt.Sprintf("d%d/e%d/f%02d", r.IntN(4), r.IntN(3), r.IntN(60)))
				if _, err := os.Lstat(path); err != nil || r.IntN(3) == 0 {
					continue
				}
				if err := edit(path); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			s := mustSave(t, v, src, SaveOptions{Parent: aged(t, v, parent.ID)})
			if want, err := Digest(t.Context(), src); err != nil || s.Roots != want {
				t.Fatalf("seed %d: roots %v, want %v, %v", seed, s.Roots, want, err)
			}
			if s.Stats.Unchanged == 0 {
				t.Errorf("seed %d: %d of %d files unchanged", seed, s.Stats.Unchanged, s.Stats.Files)
			}
			parent = s
		}
		mustLoad(t, v, parent.ID)
	}
}

// For trees that are copied between saves change times and inodes do not count, but attributes are looked at.
func TestDetect(t *testing.T) {
	v := testVault(t)
	src, copied := t.TempDir(), filepath.Join(t.TempDir(), "copy")
	fillTree(t, src)
	first := mustSave(t, v, src, SaveOptions{})
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", src, copied).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := unix.Setxattr(filepath.Join(copied, "d2/text"), "user.x", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
	id := aged(t, v, first.ID)
	for detect, want := range map[Detect]int64{DetectStrict: 0, DetectMtime: first.Stats.Files, DetectNone: 0} {
		s := mustSave(t, v, copied, SaveOptions{Parent: id, Detect: detect})
		if s.Stats.Unchanged != want || s.Stats.New > 1<<20 {
			t.Errorf("%v: %+v, want %d files unchanged", detect, s.Stats, want)
		}
		if roots, err := Digest(t.Context(), copied); err != nil || s.Roots != roots || roots.Meta == first.Roots.Meta {
			t.Errorf("%v: %v, %v; want %v", detect, s.Roots, err, roots)
		}
	}
}

// A file that looks unchanged is read if a chunk of it, or of a list of its chunks, is not in a pack that stays.
func TestParentWithLostPacks(t *testing.T) {
	for _, how := range []string{"deleted", "condemned"} {
		s := storetest.NewMemory()
		v := vaultIn(t, s)
		src := t.TempDir()
		fillTree(t, src)
		first := mustSave(t, v, src, SaveOptions{})
		for _, id := range packsOf(t, v) {
			parent := aged(t, v, mustSave(t, v, src, SaveOptions{}).ID)
			if how == "deleted" {
				if err := s.Delete(t.Context(), id.object()); err != nil {
					t.Fatal(err)
				}
			} else if _, err := v.condemn(t.Context(), []packID{id}); err != nil {
				t.Fatal(err)
			}
			again := mustSave(t, v, src, SaveOptions{Parent: parent})
			if again.Roots != first.Roots || again.Stats.New == 0 {
				t.Errorf("%s: %+v", how, again.Stats)
			}
			if how == "condemned" { // the other snapshots do without it now, or they do not load
				if err := s.Delete(t.Context(), id.object()); err != nil {
					t.Fatal(err)
				}
			}
			mustLoad(t, v, again.ID)
		}
	}
}

// A parent whose tree is damaged only costs time; one that does not exist, or cannot be asked for, is an error.
func TestBadParent(t *testing.T) {
	s := storetest.NewMemory()
	v := vaultIn(t, s)
	src := t.TempDir()
	fillTree(t, src)
	want := mustSave(t, v, src, SaveOptions{})
	id := forge(t, v, []*entry{dirEntry(""), emptyFile("a"), emptyFile("a"), {kind: kindEnd}}, func(r *record) { r.Created = time.Now().Add(time.Hour) })
	if again := mustSave(t, v, src, SaveOptions{Parent: id}); again.Roots != want.Roots || again.Stats.Unchanged != 0 {
		t.Errorf("%+v", again.Stats)
	}
	if _, err := v.Save(t.Context(), src, SaveOptions{Parent: randomName()}); !errors.Is(err, ErrSnapshotNotFound) {
		t.Errorf("parent that does not exist: %v", err)
	}
	if _, err := v.Save(t.Context(), src, SaveOptions{Parent: want.ID, Blind: true}); err == nil {
		t.Error("a blind save has a parent")
	}
}

// Chunks of a save with a parent are compressed harder than those of the first.
func TestCompressAuto(t *testing.T) {
	v := testVault(t)
	src := t.TempDir()
	text := make([]byte, 0, 1<<20)
	for i := 0; len(text) < 1<<20; i++ {
		text = fmt.Appendf(text, "%d %d\n", i, i*i)
	}
	writeFile(t, filepath.Join(src, "a"), text)
	first := mustSave(t, v, src, SaveOptions{})
	writeFile(t, filepath.Join(src, "a"), append([]byte("x"), text[:len(text)-1]...))
	other := testVault(t)
	parent := mustSave(t, other, t.TempDir(), SaveOptions{})
	if s := mustSave(t, other, src, SaveOptions{Parent: parent.ID}); s.Stats.Stored >= first.Stats.Stored {
		t.Errorf("stored %d bytes with a parent, %d without", s.Stats.Stored, first.Stats.Stored)
	}
}

// The parent is read with the walk and no further: a save that ends early leaves nothing behind, wherever the parent's reading is.
func TestParentIsReadNoFurther(t *testing.T) {
	v := testVault(t)
	src := t.TempDir()
	for i := range 3 * parentBatch * parentBatches {
		writeFile(t, filepath.Join(src, fmt.Sprint(i)), nil)
	}
	first := mustSave(t, v, src, SaveOptions{})
	empty := t.TempDir()
	if s := mustSave(t, v, empty, SaveOptions{Parent: first.ID}); s.Stats.Files != 0 {
		t.Errorf("%+v", s.Stats)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Save(ctx, src, SaveOptions{Parent: first.ID}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// In the place of a directory there is a file, whose parent's tree would still come.
	file := filepath.Join(t.TempDir(), "file")
	writeFile(t, file, []byte("x"))
	if s := mustSave(t, v, file, SaveOptions{Parent: first.ID}); !s.Image || s.Stats.Unchanged != 0 {
		t.Errorf("%+v", s.Stats)
	}
}
