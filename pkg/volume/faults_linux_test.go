package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func save(t testing.TB, v *volume.Vault, dir string) *volume.Snapshot {
	t.Helper()
	s, err := v.Save(t.Context(), dir, volume.SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// smallTree has a few files, some of several cells.
func smallTree(t *testing.T) string {
	t.Helper()
	dir := openDir(t)
	for i := range 20 {
		write(t, filepath.Join(dir, fmt.Sprintf("d%d", i%4), fmt.Sprintf("file%02d", i)), randomBytes(uint64(i), 1000+i*9000))
	}
	return dir
}

func TestSaveIsDeduplicated(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	dir := t.TempDir()
	for i := range 300 {
		write(t, filepath.Join(dir, fmt.Sprintf("small/%03d", i)), randomBytes(uint64(i), 2000))
	}
	write(t, filepath.Join(dir, "big"), randomBytes(1000, 8<<20))
	write(t, filepath.Join(dir, "copy"), randomBytes(1000, 8<<20))
	first := save(t, v, dir)
	if n := first.Stats.Stored; n < 8<<20 || n > 9<<20 {
		t.Errorf("first save stored %d bytes", n)
	}
	if n := len(objects(s, "packs/")); n > 3 {
		t.Errorf("300 small files made %d packs", n)
	}
	if again := save(t, v, dir); again.Stats.New != 0 || again.Stats.Stored != 0 || again.Roots != first.Roots {
		t.Errorf("saving the same again: %+v, roots equal %v", again.Stats, again.Roots == first.Roots)
	}
	f, err := os.OpenFile(filepath.Join(dir, "big"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("changed"), 3<<20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if changed := save(t, v, dir); changed.Stats.New > 400<<10 || changed.Stats.New < 64<<10 || changed.Roots.Content == first.Roots.Content {
		t.Errorf("saving a change of one cell: %+v", changed.Stats)
	}
	all, err := v.Snapshots(t.Context())
	if err != nil || len(all) != 3 || all[0].ID != first.ID {
		t.Errorf("Snapshots: %d, %v", len(all), err)
	}
	got, err := v.Snapshot(t.Context(), first.ID)
	if err != nil || got.Roots != first.Roots || got.Stats != first.Stats || !got.Created.Equal(first.Created) {
		t.Errorf("Snapshot = %+v, %v; want %+v", got, err, first)
	}
}

// Many packs and index objects, several saves at once: all of them load.
func TestConcurrentSaves(t *testing.T) {
	v := newVault(t, storetest.NewMemory())
	var wg sync.WaitGroup
	for i := range 4 {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "shared"), randomBytes(1, 20<<20))
		write(t, filepath.Join(dir, "own"), randomBytes(uint64(i+10), 5<<20))
		wg.Go(func() {
			s, err := v.Save(t.Context(), dir, volume.SaveOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := v.Load(t.Context(), s.ID, filepath.Join(dir, "out"), volume.LoadOptions{Verify: volume.VerifyReadback}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestProgress(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	var last volume.Progress
	calls := 0
	tell := func(p volume.Progress) { last = p; calls++ }
	s.SetFaults(storetest.On("", "", storetest.Fault{Delay: 200 * time.Millisecond}))
	dir := smallTree(t)
	snapshot, err := v.Save(t.Context(), dir, volume.SaveOptions{Progress: tell})
	if err != nil {
		t.Fatal(err)
	}
	if calls < 2 || last.Files != 20 || last.Bytes != snapshot.Stats.Bytes || last.Stored != snapshot.Stats.Stored {
		t.Errorf("%d calls, last %+v; want %+v", calls, last, snapshot.Stats)
	}
	calls = 0
	r, err := v.Load(t.Context(), snapshot.ID, filepath.Join(openDir(t), "x"), volume.LoadOptions{Progress: tell, Verify: volume.VerifyReadback})
	if err != nil {
		t.Fatal(err)
	}
	want := volume.Progress{Files: 20, TotalFiles: 20, Bytes: snapshot.Stats.Bytes, TotalBytes: snapshot.Stats.Bytes, Stored: r.Stats.Stored, Verifying: true}
	if calls < 2 || last != want {
		t.Errorf("%d calls, last %+v; want %+v", calls, last, want)
	}
}

// openDir is a temporary directory that every user may enter and write, in memory where that is possible: a load syncs
// the whole filesystem, and these tests load often.
func openDir(t *testing.T) string {
	t.Helper()
	parent := "/dev/shm"
	if _, err := os.Stat(parent); err != nil {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "lockstep")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// unprivileged runs f as a user who may not read everything.
func unprivileged(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() == 0 {
		if err := syscall.Seteuid(65534); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := syscall.Seteuid(0); err != nil {
				t.Fatal(err)
			}
		}()
	}
	f()
}

// Every file and directory that cannot be read is named, and there is no snapshot then.
func TestUnreadableFiles(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	dir := smallTree(t)
	for name, mode := range map[string]os.FileMode{"d0/file04": 0, "d1/file09": 0o200, "d3": 0} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	unprivileged(t, func() { _, err = v.Save(t.Context(), dir, volume.SaveOptions{}) })
	if chmodErr := os.Chmod(filepath.Join(dir, "d3"), 0o755); chmodErr != nil {
		t.Fatal(chmodErr)
	}
	var failed *volume.FileErrors
	if !errors.As(err, &failed) || !errors.Is(err, os.ErrPermission) {
		t.Fatalf("error %v, want *FileErrors", err)
	}
	var paths []string
	for _, f := range failed.Files {
		paths = append(paths, f.Path)
	}
	if want := []string{"d0/file04", "d1/file09", "d3"}; !slices.Equal(paths, want) {
		t.Errorf("failed %q, want %q", paths, want)
	}
	if all, err := v.Snapshots(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%d snapshots, %v", len(all), err)
	}
	if _, err := v.Save(t.Context(), filepath.Join(dir, "none"), volume.SaveOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("saving what does not exist: %v", err)
	}
}

// An ordinary user gets back their own files, whatever the modes.
func TestUnprivileged(t *testing.T) {
	v := newVault(t, storetest.NewMemory())
	base := openDir(t)
	unprivileged(t, func() {
		src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
		write(t, filepath.Join(src, "d/readonly"), randomBytes(1, 100000))
		write(t, filepath.Join(src, "d/e/other"), []byte("x"))
		for name, mode := range map[string]os.FileMode{"d/readonly": 0o400, "d/e": 0o500, "d": 0o555} {
			if err := os.Chmod(filepath.Join(src, name), mode); err != nil {
				t.Fatal(err)
			}
		}
		s := save(t, v, src)
		if _, err := v.Load(t.Context(), s.ID, dst, volume.LoadOptions{Verify: volume.VerifyReadback}); err != nil {
			t.Error(err)
		}
	})
}

func TestTargetMustBeEmpty(t *testing.T) {
	v := newVault(t, storetest.NewMemory())
	s := save(t, v, smallTree(t))
	for name, make := range map[string]func(dir string) error{
		"file":               func(dir string) error { return os.WriteFile(dir+"/x", nil, 0o600) },
		"directory":          func(dir string) error { return os.Mkdir(dir+"/x", 0o700) },
		"link to lost+found": func(dir string) error { return os.Symlink("/", dir+"/lost+found") },
	} {
		dir := t.TempDir()
		if err := make(dir); err != nil {
			t.Fatal(err)
		}
		_, err := v.Load(t.Context(), s.ID, dir, volume.LoadOptions{})
		wantErr(t, name, err, volume.ErrNotEmpty)
		if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
			t.Errorf("%s: the refused load left %v, %v", name, left, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, []byte("x"))
	if _, err := v.Load(t.Context(), s.ID, file, volume.LoadOptions{}); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("loading into a file: %v", err)
	}
}

// For each operation on the store that a save makes: if it and all behind it fail, so does the save, as unavailable; nothing is recorded,
// unless all that was left to do was to look for deletions once more, and then it is whole; and the next save stores only what is missing.
func TestSaveInterrupted(t *testing.T) {
	dir := smallTree(t)
	write(t, filepath.Join(dir, "more"), randomBytes(99, 20<<20))
	for n := 1; ; n++ {
		s := storetest.NewMemory()
		v := newVault(t, s)
		var recording atomic.Bool
		s.SetFaults(func(c storetest.Call) storetest.Fault {
			if c.N >= n {
				return storetest.Fault{Err: store.ErrUnavailable}
			}
			if strings.HasPrefix(c.Name, "snapshots/") {
				recording.Store(true)
			}
			return storetest.Fault{}
		})
		_, err := v.Save(t.Context(), dir, volume.SaveOptions{})
		s.SetFaults(nil)
		if err == nil {
			if n < 8 {
				t.Errorf("a save made only %d operations", n)
			}
			return
		}
		unknown(t, fmt.Sprintf("operation %d fails", n), err)
		wantErr(t, fmt.Sprintf("operation %d fails", n), err, store.ErrUnavailable)
		if failed := (*volume.FileErrors)(nil); errors.As(err, &failed) {
			t.Errorf("operation %d: the store's failure is laid to files: %v", n, err)
		}
		all, err := v.Snapshots(t.Context())
		if err != nil || len(all) > 0 && !recording.Load() {
			t.Fatalf("operation %d: %d snapshots, %v", n, len(all), err)
		}
		for _, left := range all {
			if _, err := v.Load(t.Context(), left.ID, filepath.Join(openDir(t), "x"), volume.LoadOptions{Verify: volume.VerifyReadback}); err != nil {
				t.Errorf("operation %d: %v", n, err)
			}
		}
		durable := int64(0)
		for _, name := range objects(s, "packs/") {
			durable += int64(len(object(t, s, name)))
		}
		again := save(t, v, dir)
		if again.Stats.New > again.Stats.Bytes-durable+1<<20 {
			t.Errorf("operation %d: with %d bytes durable, %d of %d were stored again", n, durable, again.Stats.New, again.Stats.Bytes)
		}
		if _, err := v.Load(t.Context(), again.ID, filepath.Join(openDir(t), "x"), volume.LoadOptions{Verify: volume.VerifyReadback}); err != nil {
			t.Errorf("operation %d: %v", n, err)
		}
	}
}

// For each operation on the store that a load makes: if it fails, the load fails as unavailable, leaves its mark, is not
// mistaken for data, and can be started over.
func TestLoadInterrupted(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := smallTree(t)
	snapshot := save(t, v, src)
	for n := 1; ; n++ {
		s.SetFaults(func(c storetest.Call) storetest.Fault {
			if c.N >= n {
				return storetest.Fault{Err: store.ErrUnavailable}
			}
			return storetest.Fault{}
		})
		dst := filepath.Join(openDir(t), "x")
		_, err := v.Load(t.Context(), snapshot.ID, dst, volume.LoadOptions{})
		s.SetFaults(nil)
		if err == nil {
			if n < 5 {
				t.Errorf("a load made only %d operations", n)
			}
			return
		}
		unknown(t, fmt.Sprintf("operation %d fails", n), err)
		wantErr(t, fmt.Sprintf("operation %d fails", n), err, store.ErrUnavailable)
		if _, err := os.Stat(dst); err == nil {
			_, err := v.Save(t.Context(), dst, volume.SaveOptions{})
			wantErr(t, "saving half a load", err, volume.ErrIncomplete)
		}
		if _, err := v.Load(t.Context(), snapshot.ID, dst, volume.LoadOptions{Verify: volume.VerifyReadback}); err != nil {
			t.Errorf("loading again after operation %d failed: %v", n, err)
		}
		if roots, err := volume.Digest(t.Context(), dst); err != nil || roots != snapshot.Roots {
			t.Errorf("loading again after operation %d failed: %v, %v", n, roots, err)
		}
	}
}

func TestSnapshotNotFound(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	id := strings.Repeat("0", 32)
	_, err := v.Snapshot(t.Context(), id)
	wantErr(t, "Snapshot", err, volume.ErrSnapshotNotFound)
	dir := filepath.Join(openDir(t), "x")
	_, err = v.Load(t.Context(), id, dir, volume.LoadOptions{})
	wantErr(t, "Load", err, volume.ErrSnapshotNotFound)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the refused load made its target: %v", err)
	}
	for _, bad := range []string{"", "x", "../config", strings.Repeat("A", 32)} {
		_, err := v.Snapshot(t.Context(), bad)
		unknown(t, bad, err)
	}
	s.SetFaults(failing(storetest.Get, "snapshots/", store.ErrUnavailable))
	_, err = v.Snapshot(t.Context(), id)
	unknown(t, "unavailable", err)
}

// Whatever is altered, cut or swapped in the store: a load either fails or delivers the saved tree.
func TestTampering(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := t.TempDir()
	for i := range 5 {
		write(t, filepath.Join(src, fmt.Sprintf("f%d", i)), bytes.Repeat([]byte(fmt.Sprint("text", i)), 30))
	}
	first := save(t, v, src)
	write(t, filepath.Join(src, "later"), randomBytes(1, 500))
	second := save(t, v, src)
	base, n := openDir(t), 0
	// check loads, and returns what a load that succeeded found damaged.
	check := func(what string, mustFail bool) (found []string, loaded bool) {
		t.Helper()
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		r, err := v.Load(t.Context(), second.ID, dir, volume.LoadOptions{})
		if err != nil {
			wantErr(t, what, err, volume.ErrDamaged)
			return nil, false
		}
		if mustFail {
			t.Errorf("%s went unnoticed", what)
		}
		if roots, err := volume.Digest(t.Context(), dir); err != nil || roots != second.Roots {
			t.Errorf("%s: loaded %v, %v", what, roots, err)
		}
		return r.Damaged, true
	}
	for _, prefix := range []string{"snapshots/" + second.ID, "index/", "packs/"} {
		for _, name := range objects(s, prefix) {
			whole := object(t, s, name)
			for i := 0; i < len(whole); i += 3 {
				s.Overwrite(name, flipped(whole, i))
				check(fmt.Sprintf("%s: flip of byte %d", name, i), prefix[0] == 's')
			}
			for i := 0; i <= len(whole)+1; i += 13 {
				changed := append(bytes.Clone(whole), 0, 0)[:i]
				if i == len(whole) {
					continue
				}
				s.Overwrite(name, changed)
				found, loaded := check(fmt.Sprintf("%s: %d bytes instead of %d", name, i, len(whole)), prefix[0] == 's')
				if loaded && len(found) > 0 && !slices.Equal(found, []string{name}) {
					t.Errorf("%s: %d bytes instead of %d: found %q damaged", name, i, len(whole), found)
				}
			}
			s.Overwrite(name, whole)
		}
	}
	swap := func(a, b string) {
		dataA, dataB := object(t, s, a), object(t, s, b)
		s.Overwrite(a, dataB)
		s.Overwrite(b, dataA)
	}
	packs, indexes := objects(s, "packs/"), objects(s, "index/")
	swap(packs[0], packs[1])
	check("swapped packs", true)
	swap(packs[0], packs[1])
	swap(indexes[0], indexes[1])
	check("swapped indexes", false)
	swap(indexes[0], indexes[1])
	swap("snapshots/"+first.ID, "snapshots/"+second.ID)
	check("swapped snapshots", true)
	_, err := v.Snapshots(t.Context())
	wantErr(t, "listing swapped snapshots", err, volume.ErrDamaged)
	swap("snapshots/"+first.ID, "snapshots/"+second.ID)
	check("nothing", false)
}

// Without any index a load reads the packs' own footers, and says what it found damaged.
func TestIndexIsOnlyACache(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := smallTree(t)
	snapshot := save(t, v, src)
	index := objects(s, "index/")[0]
	s.Overwrite(index, []byte("garbage"))
	r, err := v.Load(t.Context(), snapshot.ID, filepath.Join(openDir(t), "x"), volume.LoadOptions{Verify: volume.VerifyReadback})
	if err != nil || !slices.Equal(r.Damaged, []string{index}) {
		t.Errorf("with a damaged index: %+v, %v", r, err)
	}
	if err := s.Delete(t.Context(), index); err != nil {
		t.Fatal(err)
	}
	r, err = v.Load(t.Context(), snapshot.ID, filepath.Join(openDir(t), "x"), volume.LoadOptions{Verify: volume.VerifyReadback})
	if err != nil || len(r.Damaged) != 0 {
		t.Errorf("without an index: %+v, %v", r, err)
	}
	if again := save(t, v, src); again.Stats.New != 0 || len(objects(s, "index/")) != 1 {
		t.Errorf("saving again stored %d bytes and made indexes %q", again.Stats.New, objects(s, "index/"))
	}
}

// A lost pack hurts exactly the files that need it, which are named; saving the same data again heals the old snapshot too.
func TestLostPack(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := t.TempDir()
	write(t, filepath.Join(src, "a"), randomBytes(1, 200000))
	write(t, filepath.Join(src, "z"), randomBytes(2, 10))
	save(t, v, src)
	before := objects(s, "packs/")
	write(t, filepath.Join(src, "b/hurt"), randomBytes(3, 300000))
	write(t, filepath.Join(src, "c-hurt"), append(randomBytes(1, 65536), randomBytes(4, 100)...))
	snapshot := save(t, v, src)
	var lost string
	for _, name := range objects(s, "packs/") {
		if !slices.Contains(before, name) && len(object(t, s, name)) > 300000 {
			lost = name
		}
	}
	if err := s.Delete(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(openDir(t), "x")
	_, err := v.Load(t.Context(), snapshot.ID, dst, volume.LoadOptions{})
	var failed *volume.FileErrors
	if !errors.As(err, &failed) || len(failed.Files) != 2 || failed.Files[0].Path != "b/hurt" || failed.Files[1].Path != "c-hurt" {
		t.Fatalf("error %v, want the two hurt files", err)
	}
	wantErr(t, "hurt files", err, volume.ErrDamaged)
	if got, err := os.ReadFile(filepath.Join(dst, "a")); err != nil || !bytes.Equal(got, randomBytes(1, 200000)) {
		t.Errorf("a file that is not hurt: %d bytes, %v", len(got), err)
	}
	save(t, v, src)
	r, err := v.Load(t.Context(), snapshot.ID, dst, volume.LoadOptions{Verify: volume.VerifyReadback})
	if err != nil || len(r.Damaged) > 0 && !slices.Equal(r.Damaged, []string{lost}) {
		t.Errorf("after saving again: %+v, %v; want it to name at most %q as damaged", r, err, lost)
	}
}

// A store that acknowledges a pack and loses it is found out before anything is recorded.
func TestLostWrites(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := smallTree(t)
	s.SetFaults(storetest.On(storetest.Put, "packs/", storetest.Fault{Lose: true}))
	_, err := v.Save(t.Context(), src, volume.SaveOptions{})
	wantErr(t, "save", err, volume.ErrOvertaken)
	s.SetFaults(nil)
	if all, err := v.Snapshots(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("%d snapshots, %v", len(all), err)
	}
}

// A store that does a request twice and refuses the second time has done what was asked. One that has other bytes there has not.
func TestWritesDoneTwice(t *testing.T) {
	for _, prefix := range []string{"packs/", "index/", "snapshots/", "condemned/"} {
		for _, same := range []bool{true, false} {
			s := storetest.NewMemory()
			v := newVault(t, s)
			var twice atomic.Bool
			s.SetFaults(func(c storetest.Call) storetest.Fault {
				if c.Op == storetest.Put && strings.HasPrefix(c.Name, prefix) && twice.CompareAndSwap(false, true) {
					data := slices.Clone(c.Data)
					if !same {
						data[len(data)-1]++
					}
					if err := s.Put(t.Context(), c.Name, data); err != nil {
						t.Error(err)
					}
				}
				return storetest.Fault{}
			})
			snapshot, err := v.Save(t.Context(), smallTree(t), volume.SaveOptions{})
			if err == nil {
				_, err = v.Load(t.Context(), snapshot.ID, filepath.Join(openDir(t), "x"), volume.LoadOptions{Verify: volume.VerifyReadback})
			}
			if err == nil {
				err = v.Forget(t.Context(), snapshot.ID)
			}
			if err == nil {
				_, err = v.Prune(t.Context(), volume.PruneOptions{})
			}
			switch {
			case !twice.Load():
				t.Errorf("%s: no write was done twice", prefix)
			case !same:
				wantErr(t, prefix+" with other bytes", err, store.ErrExists)
			case err != nil:
				t.Errorf("%s: %v", prefix, err)
			}
		}
	}
}

// A cancelled save or load ends at once, whatever the store is doing.
func TestCancel(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := smallTree(t)
	write(t, filepath.Join(src, "large"), randomBytes(1, 20<<20))
	snapshot := save(t, v, src)
	for _, prefix := range []string{"packs/", "index/", "config", "snapshots/"} {
		for name, act := range map[string]func(context.Context) error{
			"save": func(ctx context.Context) error {
				write(t, filepath.Join(src, "new"), randomBytes(uint64(time.Now().UnixNano()), 100))
				_, err := v.Save(ctx, src, volume.SaveOptions{})
				return err
			},
			"load": func(ctx context.Context) error {
				_, err := v.Load(ctx, snapshot.ID, filepath.Join(openDir(t), "x"), volume.LoadOptions{})
				return err
			},
		} {
			if name == "load" && prefix == "config" {
				continue // a load that misses nothing does not ask whether the vault is still there
			}
			ctx, cancel := context.WithCancel(t.Context())
			s.SetFaults(func(c storetest.Call) storetest.Fault {
				if c.Op != storetest.List && strings.HasPrefix(c.Name, prefix) {
					cancel()
					return storetest.Fault{Delay: time.Hour}
				}
				return storetest.Fault{}
			})
			err := act(ctx)
			s.SetFaults(nil)
			cancel()
			wantErr(t, name+" at "+prefix, err, context.Canceled)
			unknown(t, name+" at "+prefix, err)
		}
	}
}

// Nothing of names and contents can be seen in the store, and nobody can test a guess.
func TestConfidentiality(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := t.TempDir()
	content := append([]byte("TOP SECRET CONTENT "), randomBytes(1, 3000)...)
	write(t, filepath.Join(src, "SECRETNAME"), content)
	if err := os.Symlink("SECRETTARGET", filepath.Join(src, "x")); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Save(t.Context(), src, volume.SaveOptions{Labels: map[string]string{"SECRETLABEL": "SECRETVALUE"}}); err != nil {
		t.Fatal(err)
	}
	sum := blake3.Sum256(content)
	for _, name := range s.Names() {
		data := object(t, s, name)
		for _, secret := range [][]byte{[]byte("SECRET"), content[100:120], sum[:]} {
			if bytes.Contains(data, secret) {
				t.Errorf("object %q contains %q", name, secret)
			}
		}
	}
}
