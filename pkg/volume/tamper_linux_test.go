package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// everyKind is a small vault that has objects of every kind.
func everyKind(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	src := t.TempDir()
	for i := range 3 {
		write(t, filepath.Join(src, fmt.Sprintf("f%d", i)), randomBytes(uint64(i), 50+i))
	}
	first := save(t, w.vault, src)
	must(t, w.vault.Forget(t.Context(), first.ID))
	must(t, os.Remove(filepath.Join(src, "f0")))
	save(t, w.vault, src)
	write(t, filepath.Join(src, "later"), randomBytes(9, 60))
	save(t, w.vault, src)
	must(t, w.vault.PutDocument(t.Context(), "point", "a", []byte("data")))
	w.clock.pass(25 * time.Hour)
	if r := w.prune(t, volume.PruneOptions{MinLive: -1}); r.Condemned.Objects == 0 {
		t.Fatalf("nothing was condemned: %+v", r)
	}
	for _, kind := range []string{"config", "keys/", "packs/", "index/", "snapshots/", "documents/point/", "documents/key/", "condemned/"} {
		if len(objects(w.Memory, kind)) == 0 {
			t.Fatalf("no %s", kind)
		}
	}
	return w
}

// named tells whether verification finds exactly this object damaged: that of the data if it is a pack, else of the records, which is a
// part of the other.
func (w *world) named(t *testing.T, name string) error {
	t.Helper()
	o := volume.VerifyOptions{Level: volume.VerifyRecords}
	if strings.HasPrefix(name, "packs/") {
		o.Level = volume.VerifyData
	}
	r, err := w.vault.Verify(t.Context(), o)
	if err != nil {
		if strings.Contains(err.Error(), name) && errors.Is(err, volume.ErrDamaged) {
			return nil
		}
		return fmt.Errorf("verify: %w", err)
	}
	if !errors.Is(r.Err(), volume.ErrDamaged) || len(r.Damaged) != 1 || r.Damaged[0].Object != name {
		return fmt.Errorf("verify found %+v", r)
	}
	return nil
}

// Every flip of a bit in any object, and every cut, is found, and the object named: every bit of small ones, and of others a bit of
// every byte; every cut near the beginning and the end, and every fourth between.
func TestEveryBitCounts(t *testing.T) {
	t.Parallel()
	w := everyKind(t)
	for _, name := range w.Names() {
		whole := object(t, w, name)
		for i := range whole {
			bits := []int{i % 8}
			if len(whole) <= 256 {
				bits = []int{0, 1, 2, 3, 4, 5, 6, 7}
			}
			for _, bit := range bits {
				flipped := bytes.Clone(whole)
				flipped[i] ^= 1 << bit
				w.Overwrite(name, flipped)
				if err := w.named(t, name); err != nil {
					t.Fatalf("%s: flip of bit %d of byte %d: %v", name, bit, i, err)
				}
			}
			if i%4 != 0 && i > 64 && i < len(whole)-32 {
				continue
			}
			w.Overwrite(name, whole[:i])
			if err := w.named(t, name); err != nil {
				t.Fatalf("%s cut at %d: %v", name, i, err)
			}
		}
		w.Overwrite(name, append(bytes.Clone(whole), 0))
		if err := w.named(t, name); err != nil {
			t.Errorf("%s with a byte more: %v", name, err)
		}
		w.Overwrite(name, whole)
	}
	w.check(t, "mended")
}

// An object put in the place of another, of its own kind or not, is refused.
func TestSwappedObjects(t *testing.T) {
	w := everyKind(t)
	names := w.Names()
	for _, to := range names {
		whole := object(t, w, to)
		for _, from := range names {
			if from == to {
				continue
			}
			w.Overwrite(to, object(t, w, from))
			if err := w.named(t, to); err != nil {
				t.Errorf("%s in the place of %s: %v", from, to, err)
			}
		}
		w.Overwrite(to, whole)
	}
	// An object of the same name from another vault.
	other := everyKind(t)
	for _, prefix := range []string{"packs/", "index/", "snapshots/", "condemned/"} {
		to := objects(w.Memory, prefix)[0]
		whole := object(t, w, to)
		w.Overwrite(to, object(t, other, objects(other.Memory, prefix)[0]))
		if err := w.named(t, to); err != nil {
			t.Errorf("%s of another vault: %v", to, err)
		}
		w.Overwrite(to, whole)
	}
}

// A key object that the store took away is missed, as the Vault knows of it.
func TestMissingKeyIsNamed(t *testing.T) {
	w := newWorld(t)
	key := objects(w.Memory, "keys/")[0]
	must(t, w.Delete(t.Context(), key))
	if err := w.named(t, key); err != nil {
		t.Error(err)
	}
}

// scattered is a vault whose files lie in many packs.
func scattered(t *testing.T) (w *world, last *volume.Snapshot) {
	t.Helper()
	w = newWorld(t)
	src := t.TempDir()
	for i := range 12 {
		for j := range 3 {
			data := append(randomBytes(uint64(i), 5000), randomBytes(uint64(100*i+j), 80_000)...)
			write(t, filepath.Join(src, fmt.Sprintf("d%d/f%d-%d", j, i, j)), data)
		}
		last = save(t, w.vault, src)
	}
	return w, last
}

// Whichever pack the store loses, or spoils, exactly the files that need it are named; everything else loads.
func TestRandomLostPack(t *testing.T) {
	t.Parallel()
	base, last := scattered(t)
	packs := objects(base.Memory, "packs/")
	rand.Shuffle(len(packs), func(i, j int) { packs[i], packs[j] = packs[j], packs[i] })
	hurtOnce := false
	for _, pack := range packs {
		for _, what := range []string{"lost", "spoilt"} {
			w := base.copy(t)
			if what == "lost" {
				must(t, w.Delete(t.Context(), pack))
			} else {
				w.spoil(t, pack)
			}
			r, err := w.vault.Verify(t.Context(), volume.VerifyOptions{Level: volume.VerifyData})
			must(t, err)
			hurt := map[string]bool{}
			for _, h := range r.Hurt {
				for _, f := range h.Files {
					if h.ID == last.ID {
						hurt[f.Path] = true
					}
				}
			}
			_, err = w.vault.Load(t.Context(), last.ID, filepath.Join(fastDir(t), "x"), volume.LoadOptions{})
			failed := map[string]bool{}
			var errs *volume.FileErrors
			if errors.As(err, &errs) {
				for _, f := range errs.Files {
					failed[f.Path] = true
				}
				hurtOnce = true
				if !maps.Equal(hurt, failed) {
					t.Errorf("%s %s: verify names %v, load %v", pack, what, slices.Sorted(maps.Keys(hurt)), slices.Sorted(maps.Keys(failed)))
				}
			} else if (err != nil) != (len(hurt) > 0) {
				t.Errorf("%s %s: verify names %v, load says %v", pack, what, slices.Sorted(maps.Keys(hurt)), err)
			}
		}
	}
	if !hurtOnce {
		t.Error("no file was hurt by any pack")
	}
}

// A lost part of a tree is named by where it begins and ends, and the rest is verified.
func TestLostTree(t *testing.T) {
	w := newWorld(t)
	src := t.TempDir()
	for i := range 3000 {
		write(t, filepath.Join(src, fmt.Sprintf("d%02d/%04d-%s", i/100, i, strings.Repeat("x", 100))), nil)
	}
	s := save(t, w.vault, src)
	write(t, filepath.Join(src, "d15/1550"), []byte("x"))
	before := objects(w.Memory, "packs/")
	changed := save(t, w.vault, src)
	for _, name := range objects(w.Memory, "packs/") {
		if !slices.Contains(before, name) {
			must(t, w.Delete(t.Context(), name))
		}
	}
	r, err := w.vault.Verify(t.Context(), volume.VerifyOptions{Level: volume.VerifyChunks})
	must(t, err)
	if len(r.Hurt) != 1 || r.Hurt[0].ID != changed.ID || r.Hurt[0].Count == 0 {
		t.Errorf("hurt: %+v; want %s and not %s", r.Hurt, changed.ID, s.ID)
	}
}
