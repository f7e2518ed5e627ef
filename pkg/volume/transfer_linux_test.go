package volume_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// loads proves that a vault by itself gives back a snapshot, with the roots of its source.
func loads(t *testing.T, v *volume.Vault, want *volume.Snapshot) {
	t.Helper()
	r, err := v.Load(t.Context(), want.ID, filepath.Join(openDir(t), "x"), volume.LoadOptions{Verify: volume.VerifyReadback})
	if err != nil {
		t.Fatal(err)
	}
	if r.Roots != want.Roots || !r.Snapshot.Created.Equal(want.Created) || r.Snapshot.Labels["claim"] != want.Labels["claim"] {
		t.Errorf("got %+v, want %+v", r.Snapshot, want)
	}
}

func TestCopyTo(t *testing.T) {
	src, dst := storetest.NewMemory(), storetest.NewMemory()
	from, to := newVault(t, src), newVault(t, dst)
	dir := smallTree(t)
	write(t, filepath.Join(dir, "big"), randomBytes(77, 9<<20))
	first, err := from.Save(t.Context(), dir, volume.SaveOptions{Labels: map[string]string{"claim": "db"}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := from.CopyTo(t.Context(), to, []string{first.ID}, volume.CopyOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Copied != 1 || r.Present != 0 || r.Bytes < first.Stats.New || r.Stored < 9<<20 || r.Packs != len(objects(dst, "packs/")) {
		t.Errorf("first copy: %+v of %+v", r, first.Stats)
	}
	loads(t, to, first)

	write(t, filepath.Join(dir, "d1/new"), randomBytes(78, 50_000))
	second := save(t, from, dir)
	if r, err = from.CopyTo(t.Context(), to, []string{first.ID, second.ID}, volume.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if r.Copied != 1 || r.Present != 1 || r.Bytes > 500_000 {
		t.Errorf("copy of a change: %+v", r)
	}
	loads(t, to, second)

	src.SetFaults(storetest.On(storetest.Get, "packs/", storetest.Fault{Err: store.ErrUnavailable}))
	if r, err = from.CopyTo(t.Context(), to, []string{second.ID}, volume.CopyOptions{}); err != nil || r.Present != 1 || r.Stored != 0 {
		t.Errorf("copying again what is there: %+v, %v", r, err)
	}
	src.SetFaults(nil)
	if r, err = from.CopyTo(t.Context(), to, []string{first.ID}, volume.CopyOptions{Recheck: true}); err != nil || r.Present != 1 || r.Bytes != 0 || r.Packs == 0 {
		t.Errorf("checking again what is there: %+v, %v", r, err)
	}
	if _, err = from.CopyTo(t.Context(), from, []string{first.ID}, volume.CopyOptions{}); err == nil {
		t.Error("a vault was copied into itself")
	}
	_, err = from.CopyTo(t.Context(), to, []string{"00000000000000000000000000000000"}, volume.CopyOptions{})
	wantErr(t, "copying what is not there", err, volume.ErrSnapshotNotFound)
}

// For each operation on the target that a copy makes: if it and all later ones fail, there is no snapshot or a whole one, and the
// next copy sends nothing of what is durable again.
func TestCopyToInterrupted(t *testing.T) {
	src := storetest.NewMemory()
	from := newVault(t, src)
	dir := smallTree(t)
	write(t, filepath.Join(dir, "more"), randomBytes(99, 20<<20))
	s := save(t, from, dir)
	for n := 1; ; n++ {
		dst := storetest.NewMemory()
		to := newVault(t, dst)
		dst.SetFaults(func(c storetest.Call) storetest.Fault {
			if c.N >= n {
				return storetest.Fault{Err: store.ErrUnavailable}
			}
			return storetest.Fault{}
		})
		_, err := from.CopyTo(t.Context(), to, []string{s.ID}, volume.CopyOptions{})
		dst.SetFaults(nil)
		if err == nil {
			if n < 8 {
				t.Errorf("a copy made only %d operations", n)
			}
			return
		}
		wantErr(t, fmt.Sprintf("operation %d fails", n), err, store.ErrUnavailable)
		durable := int64(0)
		for _, name := range objects(dst, "packs/") {
			durable += int64(len(object(t, dst, name)))
		}
		r, err := from.CopyTo(t.Context(), to, []string{s.ID}, volume.CopyOptions{Recheck: true})
		if err != nil {
			t.Fatalf("operation %d: %v", n, err)
		}
		if r.Bytes > s.Stats.New-durable+1<<20 {
			t.Errorf("operation %d: with %d bytes durable, %d were copied again", n, durable, r.Bytes)
		}
		loads(t, to, s)
	}
}

// What is altered on its way into the target, or is not there when it is read back, is no copy.
func TestCopyToReadsBack(t *testing.T) {
	from := newVault(t, storetest.NewMemory())
	s := save(t, from, smallTree(t))
	for name, fault := range map[string]storetest.Fault{
		"a pack that is altered": {Corrupt: func(b []byte) []byte { return flipped(b, len(b)/2) }},
		"a pack that is lost":    {Lose: true},
	} {
		dst := storetest.NewMemory()
		to := newVault(t, dst)
		dst.SetFaults(storetest.On(storetest.Put, "packs/", fault))
		if _, err := from.CopyTo(t.Context(), to, []string{s.ID}, volume.CopyOptions{}); err == nil {
			t.Errorf("%s: no error", name)
		}
		dst.SetFaults(nil)
		if left := objects(dst, "snapshots/"); len(left) > 0 {
			t.Errorf("%s: a snapshot was recorded", name)
		}
	}
}

func TestCopyToOfDamage(t *testing.T) {
	src, dst := storetest.NewMemory(), storetest.NewMemory()
	from, to := newVault(t, src), newVault(t, dst)
	s := save(t, from, smallTree(t))
	for _, name := range objects(src, "packs/") {
		src.Overwrite(name, flipped(object(t, src, name), 500))
	}
	_, err := from.CopyTo(t.Context(), to, []string{s.ID}, volume.CopyOptions{})
	wantErr(t, "copying what is damaged", err, volume.ErrDamaged)
	if left := objects(dst, "snapshots/"); len(left) > 0 {
		t.Error("a snapshot was recorded")
	}
}
