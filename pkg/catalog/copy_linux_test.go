package catalog_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// copyVault is a vault whose store can be made to fail.
func copyVault(t *testing.T) (*storetest.Memory, *volume.Vault) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := storetest.NewMemory()
	v, err := volume.Create(t.Context(), s, id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

func TestCopy(t *testing.T) {
	_, from := copyVault(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "rows"), []byte("rows of the database"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := from.Save(t.Context(), dir, volume.SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := record("20260102-000000-bbbbbbbb", 1)
	r.Residual = &point.Residual{Document: r.ID, Secrets: 1}
	r.Volumes = []point.Volume{{
		Namespace: "shop", Claim: "db", Snapshot: s.ID, ContentRoot: s.Roots.Content.String(), MetaRoot: s.Roots.Meta.String(), Taken: r.Taken,
	}}
	if err := catalog.PutResidual(t.Context(), from, r.ID, []byte("what git does not hold")); err != nil {
		t.Fatal(err)
	}
	if err := catalog.Put(t.Context(), from, r); err != nil {
		t.Fatal(err)
	}

	// Whatever the other store refuses, there is no record of a point that is not whole.
	for n := 1; ; n++ {
		s, to := copyVault(t)
		s.SetFaults(func(c storetest.Call) storetest.Fault {
			if c.Op == storetest.Put && c.N >= n {
				return storetest.Fault{Err: store.ErrUnavailable}
			}
			return storetest.Fault{}
		})
		_, err := catalog.Copy(t.Context(), from, to, r.ID, volume.CopyOptions{})
		s.SetFaults(nil)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
		if _, err := catalog.Get(t.Context(), to, r.ID); !errors.Is(err, catalog.ErrPointNotFound) {
			t.Fatalf("operation %d: a record is there: %v", n, err)
		}
		if _, err := catalog.Copy(t.Context(), from, to, r.ID, volume.CopyOptions{}); err != nil {
			t.Fatalf("operation %d: %v", n, err)
		}
		expectCopy(t, to, r)
	}

	_, to := copyVault(t)
	if _, err := catalog.Copy(t.Context(), from, to, r.ID, volume.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, recheck := range []bool{false, true} {
		if again, err := catalog.Copy(t.Context(), from, to, r.ID, volume.CopyOptions{Recheck: recheck}); err != nil || !again.Present || again.Bytes != 0 || recheck != (again.Packs > 0) {
			t.Errorf("recheck %v: %+v, %v", recheck, again, err)
		}
	}
	if _, err := catalog.Copy(t.Context(), from, to, "20260102-000000-cccccccc", volume.CopyOptions{}); !errors.Is(err, catalog.ErrPointNotFound) {
		t.Errorf("a point that is not there: %v", err)
	}
	_, other := copyVault(t)
	if err := catalog.Put(t.Context(), other, record(r.ID, 2)); err != nil {
		t.Fatal(err)
	}
	if _, err := catalog.Copy(t.Context(), from, other, r.ID, volume.CopyOptions{}); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("another point of its id: %v", err)
	}
}

// expectCopy proves that a vault by itself holds a point: it is found, and its data and residual come back.
func expectCopy(t *testing.T, v *volume.Vault, r point.Record) {
	t.Helper()
	got, err := catalog.Find(t.Context(), v, match.Query{Revision: r.Revision}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got.Record); diff != "" {
		t.Error(diff)
	}
	if data, err := catalog.Residual(t.Context(), v, r); err != nil || string(data) != "what git does not hold" {
		t.Errorf("residual %q, %v", data, err)
	}
	dir := t.TempDir()
	if _, err := v.Load(t.Context(), r.Volumes[0].Snapshot, dir, volume.LoadOptions{Verify: volume.VerifyReadback}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "rows")); err != nil || string(data) != "rows of the database" {
		t.Errorf("data %q, %v", data, err)
	}
}
