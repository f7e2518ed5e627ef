package reader

import (
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// The corpus are Vaults that were made by Lockstep as it was at some time. They are never changed: what is in them must be readable for ever.
func TestCorpus(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*/manifest.json")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	for _, dir := range dirs {
		dir = filepath.Dir(dir)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			keys, err := filepath.Glob(filepath.Join(dir, "key*"))
			if err != nil || len(keys) == 0 {
				t.Fatalf("no key: %v", err)
			}
			for _, key := range keys {
				checkCorpus(t, dir, readKey(t, key))
			}
		})
	}
}

func readKey(t *testing.T, name string) []age.Identity {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	identities, err := age.ParseIdentities(f)
	if err != nil {
		t.Fatal(err)
	}
	return identities
}

func checkCorpus(t *testing.T, dir string, identities []age.Identity) {
	t.Helper()
	vault := filepath.Join(dir, "vault")
	report := CheckVault(t, vault, identities...)
	if report.Astray != 0 {
		t.Errorf("%d files and chunks are divided otherwise than the page says", report.Astray)
	}
	if len(report.Unknown) != 0 {
		t.Errorf("objects that the page does not know: %q", report.Unknown)
	}
	want, err := ReadManifest(dir)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(os.DirFS(vault), identities...)
	if err != nil {
		t.Fatal(err)
	}
	var got Manifest
	for _, s := range want.Snapshots {
		snapshot, err := v.snapshot("snapshots/" + s.ID)
		if err != nil {
			t.Fatal(err)
		}
		d, err := v.Describe(snapshot)
		if err != nil {
			t.Fatal(err)
		}
		got.Snapshots = append(got.Snapshots, d)
	}
	if n := len(v.objects["snapshots"]); n != len(want.Snapshots) {
		t.Errorf("%d snapshots, want %d", n, len(want.Snapshots))
	}
	documents, err := v.Documents()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents {
		if d.Kind != "key" {
			got.Documents = append(got.Documents, ManifestDocument{d.Kind, d.Name, string(d.Data)})
		}
	}
	byName := cmpopts.SortSlices(func(a, b ManifestDocument) bool { return a.Kind+"/"+a.Name < b.Kind+"/"+b.Name })
	if diff := cmp.Diff(want, got, byName, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the vault differs from its manifest (-want +got):\n%s", diff)
	}
}
