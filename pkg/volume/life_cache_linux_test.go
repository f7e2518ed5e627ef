package volume_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/store/cached"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// With a cache the small objects are read once, whatever becomes of its directory everything works, and nothing that others
// delete or damage is hidden by it.
func TestCachedVault(t *testing.T) {
	w, dir := newWorld(t), filepath.Join(t.TempDir(), "cache")
	c := cached.New(w, dir, 1<<20, "index/", "snapshots/", "documents/")
	v, err := volume.Open(t.Context(), c, w.id)
	must(t, err)
	src := tree(t, 1, 2, 3)
	first := save(t, v, src)
	must(t, v.PutDocument(t.Context(), "point", "a", []byte("x")))
	small := func() int64 {
		var n atomic.Int64
		w.SetFaults(func(c storetest.Call) storetest.Fault {
			if c.Op == storetest.Get && !strings.HasPrefix(c.Name, "packs/") && c.Name != "config" {
				n.Add(1)
			}
			return storetest.Fault{}
		})
		defer w.SetFaults(nil)
		save(t, v, src)
		_, err := v.Snapshots(t.Context())
		must(t, err)
		_, err = v.Documents(t.Context(), "point", "")
		must(t, err)
		return n.Load()
	}
	small()
	if n := small(); n > 1 { // the snapshot that was just made
		t.Errorf("with a warm cache %d small objects were read", n)
	}
	must(t, os.RemoveAll(dir))
	if n := small(); n < 3 {
		t.Errorf("without its directory %d small objects were read", n)
	}
	must(t, w.Delete(t.Context(), "snapshots/"+first.ID))
	_, err = v.Snapshot(t.Context(), first.ID)
	wantErr(t, "a snapshot that another forgot", err, volume.ErrSnapshotNotFound)
	must(t, w.Delete(t.Context(), documentsOf(w.Memory)[0]))
	_, err = v.Document(t.Context(), "point", "a")
	wantErr(t, "a document that another deleted", err, volume.ErrDocumentNotFound)

	index := objects(w.Memory, "index/")[0]
	w.spoil(t, index)
	r, err := v.Verify(t.Context(), volume.VerifyOptions{})
	must(t, err)
	if len(r.Damaged) != 1 || r.Damaged[0].Object != index {
		t.Errorf("verify is content with the cache: %+v", r)
	}
}
