package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

// meddler is a saver that does something each time it gets a chunk of a file.
type meddler struct {
	*saver
	meddle func()
}

func (m *meddler) chunk(ctx context.Context, d Hash, raw []byte, isMeta bool, scratch *[]byte) error {
	if !isMeta {
		m.meddle()
	}
	return m.saver.chunk(ctx, d, raw, isMeta, scratch)
}

// saveMeddled saves dir, past failures, while something meddles with it. It returns the snapshot's id and what failed.
func saveMeddled(t *testing.T, v *Vault, dir string, meddle func()) (string, []FileError) {
	t.Helper()
	var once sync.Mutex
	p := &progress{}
	up, ctx := newUploader(t.Context(), v, p, nil)
	s := newSaver(v, &index{places: &table{}}, up, p, CompressS2)
	scan := &scanner{budget: &v.budget, gear: v.keys.gear, progress: p, keepGoing: true}
	scan.sink = &meddler{s, func() {
		once.Lock()
		defer once.Unlock()
		meddle()
	}}
	roots, failed, err := scan.run(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	table, err := s.tree.finish(ctx)
	if err := errors.Join(err, s.data.flush(ctx), s.meta.flush(ctx), up.finish(t.Context(), nil)); err != nil {
		t.Fatal(err)
	}
	r := &record{Snapshot{ID: randomName(), Roots: roots, Stats: p.stats(), Image: s.image}, table}
	if err := v.putRecord(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if failed == nil {
		return r.ID, nil
	}
	return r.ID, failed.Files
}

// entriesOf returns the records of a snapshot by path.
func entriesOf(t *testing.T, v *Vault, id string) map[string]*entry {
	t.Helper()
	r, err := v.record(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	f, err := v.openFetcher(t.Context(), &progress{})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	entries := map[string]*entry{}
	var open []string
	err = f.tree(t.Context(), r, func(e *entry) error {
		switch e.kind {
		case kindEnd:
			open = open[:len(open)-1]
			return nil
		case kindDir:
			open = append(open, e.name)
			entries[strings.Join(open, "/")] = e
			return nil
		}
		entries[strings.Join(append(slices.Clone(open), e.name), "/")] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// A file that changes while it is read is read again, and is as it is then; one that never stops is recorded with a flag, in some
// state that loads.
func TestKeepGoingWithChanges(t *testing.T) {
	changes := map[string]func(path string, n int) error{
		"appended":  func(path string, n int) error { return appendTo(path, "x") },
		"truncated": func(path string, n int) error { return os.Truncate(path, 3<<20-int64(n)*4099) },
		"emptied":   func(path string, n int) error { return os.Truncate(path, 0) },
		"touched":   func(path string, n int) error { return os.Chmod(path, 0o600+os.FileMode(n%2)) },
		"rewritten": func(path string, n int) error { return os.WriteFile(path, noise(uint64(n), 2<<20+n), 0o644) },
		"replaced": func(path string, n int) error {
			return errors.Join(os.WriteFile(path+"~", noise(uint64(n), 2<<20+n), 0o644), os.Rename(path+"~", path))
		},
	}
	for name, change := range changes {
		for _, size := range []int{3 << 20, spanSize + 3<<20} {
			for _, times := range []int{1, 1 << 30} {
				if size > spanSize && name != "truncated" && name != "replaced" {
					continue // several readers are the same to the others
				}
				v, check := checkedVault(t)
				base := t.TempDir()
				dir := filepath.Join(base, "dir")
				path := filepath.Join(dir, "file")
				writeFile(t, path, noise(1, size))
				must := func(err error) {
					if err != nil {
						t.Error(err)
					}
				}
				n, chunks := 0, 0
				id, failed := saveMeddled(t, v, dir, func() {
					if chunks++; n < times && chunks%8 == 1 {
						n++
						must(change(path, n))
					}
				})
				failed = slices.DeleteFunc(failed, func(f FileError) bool { return f.Path == "." }) // renaming changes it, too
				e := entriesOf(t, v, id)["/file"]
				switch never := times > 1 && name != "emptied"; { // nothing happens while nothing is read
				case never && (len(failed) != 1 || !errors.Is(failed[0].Err, ErrChanged) || e.kind != kindFile || e.flags != flagChanged):
					t.Errorf("%s all the time: %v, %c, flags %d", name, failed, e.kind, e.flags)
				case !never && (len(failed) != 0 || e.flags != 0):
					t.Errorf("%s %d times: %v, flags %d", name, n, failed, e.flags)
				}
				dst := filepath.Join(base, "loaded")
				if _, err := v.Load(t.Context(), id, dst, LoadOptions{Verify: VerifyReadback}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if times == 1 {
					a, errA := os.ReadFile(path)
					b, errB := os.ReadFile(filepath.Join(dst, "file"))
					if errA != nil || errB != nil || !slices.Equal(a, b) {
						t.Errorf("%s once: %d bytes loaded, %d are there, %v, %v", name, len(b), len(a), errA, errB)
					}
				}
				if size < spanSize {
					check()
				}
			}
		}
	}
}

// A file that has the flag is read by every save with a parent.
func TestChangedFilesAreReadAgain(t *testing.T) {
	v := testVault(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	writeFile(t, path, noise(1, 1<<20))
	id, failed := saveMeddled(t, v, dir, func() { _ = appendTo(path, "x") })
	if len(failed) != 1 {
		t.Fatalf("failed: %v", failed)
	}
	if s := mustSave(t, v, dir, SaveOptions{Parent: aged(t, v, id)}); s.Stats.Unchanged != 0 {
		t.Errorf("%+v", s.Stats)
	}
}

// vanisher is a sink that removes a file when it gets the first record, and keeps the records that say what could not be read.
type vanisher struct {
	t      *testing.T
	path   string
	once   sync.Once
	failed []*entry
}

func (v *vanisher) chunk(context.Context, Hash, []byte, bool, *[]byte) error { return nil }

func (v *vanisher) entry(_ context.Context, e *entry) error {
	v.once.Do(func() {
		if err := os.Remove(v.path); err != nil {
			v.t.Error(err)
		}
	})
	if e.kind == kindError {
		v.failed = append(v.failed, e)
	}
	return nil
}

// A file that vanishes before it is its turn is named, and recorded as missing, and its other names are, too.
func TestKeepGoingPastVanished(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 * ahead {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("%06d", i)), nil)
	}
	name := fmt.Sprintf("%06d", 2*ahead-1)
	sink := &vanisher{t: t, path: filepath.Join(dir, name)}
	s := &scanner{sink: sink, budget: &budget{}, gear: testGear(), progress: &progress{}, keepGoing: true}
	roots, failed, err := s.run(t.Context(), dir)
	if err != nil || roots == (Roots{}) || failed == nil {
		t.Fatalf("%v, %v, %v", roots, failed, err)
	}
	if f := failed.Files; len(f) != 2 || f[0].Path != name || !errors.Is(f[0].Err, ErrChanged) || f[1].Path != "." || !errors.Is(f[1].Err, ErrChanged) {
		t.Errorf("failed: %v", f)
	}
	if len(sink.failed) != 1 || sink.failed[0].name != name || sink.failed[0].target != unix.ENOENT.Error() || s.progress.failed.Load() != 2 {
		t.Errorf("recorded as unreadable: %v", sink.failed)
	}
}

// A deletion that takes what a save relies on, or what it stored, fails the save, whenever it comes; nothing stays recorded.
func TestOvertaken(t *testing.T) {
	for _, how := range []string{"deleted", "condemned"} {
		for _, which := range []string{"relied on", "stored"} {
			for _, when := range []string{indexPrefix, snapshotPrefix} {
				s := storetest.NewMemory()
				v := vaultIn(t, s)
				dir := t.TempDir()
				writeFile(t, filepath.Join(dir, "old"), noise(1, 1<<20))
				before := mustSave(t, v, dir, SaveOptions{})
				writeFile(t, filepath.Join(dir, "new"), noise(2, 1<<20))
				old := packsOf(t, v)
				strike := func() {
					for _, id := range packsOf(t, v) {
						if slices.Contains(old, id) != (which == "relied on") {
							continue
						}
						if how == "deleted" {
							if err := s.Delete(t.Context(), id.object()); err != nil {
								t.Error(err)
							}
						} else if _, err := v.condemn(t.Context(), []packID{id}); err != nil {
							t.Error(err)
						}
					}
				}
				var once sync.Once
				s.SetFaults(func(c storetest.Call) storetest.Fault {
					if c.Op == storetest.Put && strings.HasPrefix(c.Name, when) {
						return storetest.Fault{After: func() { once.Do(strike) }}
					}
					return storetest.Fault{}
				})
				_, err := v.Save(t.Context(), dir, SaveOptions{})
				s.SetFaults(nil)
				if !errors.Is(err, ErrOvertaken) {
					t.Errorf("%s what it %s after %s: %v", how, which, when, err)
				}
				all, err := v.Snapshots(t.Context())
				if err != nil || len(all) != 1 || all[0].ID != before.ID {
					t.Errorf("%s what it %s after %s: %d snapshots, %v", how, which, when, len(all), err)
				}
				mustLoad(t, v, mustSave(t, v, dir, SaveOptions{}).ID)
			}
		}
	}
}

// A listing that does not show yet what was stored is no deletion.
func TestLateListing(t *testing.T) {
	s := storetest.NewMemory()
	v := vaultIn(t, s)
	dir := t.TempDir()
	fillTree(t, dir)
	s.SetLag(3)
	saved := mustSave(t, v, dir, SaveOptions{})
	s.SetLag(0)
	mustLoad(t, v, saved.ID)
}

// With credentials that may only write, a save works, deletes and overwrites nothing, and others can load it.
func TestBlind(t *testing.T) {
	s := storetest.NewMemory()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := Create(t.Context(), s, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	fillTree(t, dir)
	first := mustSave(t, v, dir, SaveOptions{})
	boot, err := v.Bootstrap(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := contents(t, s)
	blind, err := OpenBootstrap(storetest.Only(s, storetest.Put), boot, id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blind.Save(t.Context(), dir, SaveOptions{}); !errors.Is(err, store.ErrDenied) {
		t.Errorf("a save that is not blind: %v", err)
	}
	saved := mustSave(t, blind, dir, SaveOptions{Blind: true})
	if saved.Roots != first.Roots || saved.Stats.New < first.Stats.New {
		t.Errorf("%+v", saved.Stats)
	}
	after := contents(t, s)
	for name, data := range before {
		if after[name] != data {
			t.Errorf("%q is not what it was", name)
		}
	}
	if len(after) <= len(before) {
		t.Errorf("%d objects, %d before", len(after), len(before))
	}
	mustLoad(t, v, saved.ID)
}

func contents(t *testing.T, s *storetest.Memory) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range s.Names() {
		data, err := s.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = string(data)
	}
	return all
}

// Whenever a save dies, the next one uploads only what was not durable.
func TestResume(t *testing.T) {
	dir := t.TempDir()
	const size = 2*packTarget + packTarget/2
	writeFile(t, filepath.Join(dir, "file"), noise(1, size))
	for n := 1; ; n++ {
		s := storetest.NewMemory()
		v := vaultIn(t, s)
		s.SetFaults(storetest.CrashAfter(n))
		_, err := v.Save(t.Context(), dir, SaveOptions{})
		durable := int64(0)
		s.SetFaults(nil)
		for info, err := range s.List(t.Context(), packPrefix) {
			if err != nil {
				t.Fatal(err)
			}
			durable += info.Size
		}
		uploaded := int64(0)
		var mu sync.Mutex
		s.SetFaults(func(c storetest.Call) storetest.Fault {
			if c.Op == storetest.Put {
				mu.Lock()
				uploaded += int64(len(c.Data))
				mu.Unlock()
			}
			return storetest.Fault{}
		})
		again := mustSave(t, v, dir, SaveOptions{})
		s.SetFaults(nil)
		if total := durable + uploaded; total > size+1<<20 {
			t.Errorf("died after operation %d with %d bytes durable, then uploaded %d of %d", n, durable, uploaded, size)
		}
		mustLoad(t, v, again.ID)
		if err == nil {
			if n < 8 {
				t.Errorf("a save made only %d operations", n)
			}
			return
		}
	}
}

// Many saves at once, however many, end, and take the buffers of one and the pack that each of them fills.
func TestBudget(t *testing.T) {
	v := testVault(t)
	const saves = 12
	var wg sync.WaitGroup
	for i := range saves {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "own"), noise(uint64(i), packTarget+packTarget/2))
		for n := range 50 {
			writeFile(t, filepath.Join(dir, fmt.Sprint(n)), noise(uint64(n), 10000))
		}
		v.budget.enter() // keeps the count until all are done
		wg.Go(func() {
			if _, err := v.Save(t.Context(), dir, SaveOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b := &v.budget
	if b.buffers.made > readers() || b.packs.made > uploads+2*saves {
		t.Errorf("%d saves at once made %d buffers and %d packs", saves, b.buffers.made, b.packs.made)
	}
	if len(b.reading) != 0 || len(b.storing) != 0 || len(b.buffers.free) != b.buffers.made || len(b.packs.free) != b.packs.made {
		t.Errorf("not all was given back: %d of %d buffers, %d of %d packs", len(b.buffers.free), b.buffers.made, len(b.packs.free), b.packs.made)
	}
	for range saves {
		b.leave()
	}
	if b.buffers.free != nil || b.packs.free != nil {
		t.Error("buffers are kept though nobody saves")
	}
}
