package volume_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// sizes returns the sizes of the objects of each kind, as the store shows them.
func (w *world) sizes(t *testing.T) map[string][]int {
	t.Helper()
	all := map[string][]int{}
	for _, name := range w.Names() {
		kind, _, _ := strings.Cut(name, "/")
		all[kind] = append(all[kind], len(object(t, w, name)))
	}
	for _, s := range all {
		slices.Sort(s)
	}
	return all
}

// filesOf makes a vault with a snapshot of files with these names and sizes, whose bytes cannot be compressed.
func filesOf(t *testing.T, sizes map[string]int) *world {
	t.Helper()
	w, src, seed := newWorld(t), t.TempDir(), uint64(0)
	for name, size := range sizes {
		seed++
		write(t, filepath.Join(src, name), randomBytes(seed, size))
	}
	if _, err := w.vault.Save(t.Context(), src, volume.SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	return w
}

// What the sizes of objects tell: with the same total and number of files, whatever their names and single sizes, there are the same
// objects, each of the same size, but for the pack that has the tree, which is compressed: that differs by a few bytes.
// More files of the same total show in packs as 57 bytes a chunk, and some 100 a file in the tree; nothing says which it was.
func TestSizesTellTotals(t *testing.T) {
	plain := filesOf(t, map[string]int{"aaaa": 20_000, "bbbb": 20_000, "cccc": 20_000}).sizes(t)
	for what, files := range map[string]map[string]int{
		"other names":   {"salary": 20_000, "x": 20_000, "merger": 20_000},
		"other sizes":   {"aaaa": 1, "bbbb": 50_000, "cccc": 9_999},
		"a directory":   {"aaaa": 20_000, "d/bbbb": 20_000, "d/cccc": 20_000},
		"all different": {"q/longer-name-than-those": 16_000, "z": 40_000, "y": 4_000},
	} {
		other := filesOf(t, files).sizes(t)
		for kind, want := range plain {
			got := other[kind]
			if len(got) != len(want) {
				t.Errorf("%s: %d objects of kind %q, want %d", what, len(got), kind, len(want))
				continue
			}
			for i := range want {
				if d := got[i] - want[i]; d != 0 && (kind != "packs" || want[i] > 10_000 || d < -150 || d > 150) {
					t.Errorf("%s: an object of kind %q has %d bytes instead of %d", what, kind, got[i], want[i])
				}
			}
		}
	}
	one := filesOf(t, map[string]int{"aaaa": 60_000}).sizes(t)
	if data, want := one["packs"][len(one["packs"])-1], plain["packs"][len(plain["packs"])-1]; want-data != 2*57 {
		t.Errorf("two chunks fewer make a pack %d bytes smaller", want-data)
	}
}

// Packs look random, wherever chunks begin in them: of the same data, no 12 bytes appear twice in one vault or two, but for headers.
func TestPacksLookRandom(t *testing.T) {
	seen := map[[12]byte]string{}
	for round := range 2 {
		w, src := newWorld(t), t.TempDir()
		for i := range 20 {
			write(t, filepath.Join(src, fmt.Sprint(i)), bytes.Repeat([]byte{byte(i)}, 3000))
			write(t, filepath.Join(src, fmt.Sprint("r", i)), randomBytes(uint64(i), 3000))
		}
		save(t, w.vault, src)
		for _, name := range objects(w.Memory, "packs/") {
			data := object(t, w, name)[8:] // behind what all headers have
			for i := 0; i+12 <= len(data); i++ {
				key := [12]byte(data[i:])
				if before, again := seen[key]; again {
					t.Fatalf("round %d: bytes at %d of %s are those of %s", round, i, name, before)
				}
				seen[key] = fmt.Sprintf("%s at %d", name, i)
			}
		}
	}
}
