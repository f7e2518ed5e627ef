package reader

import (
	"fmt"
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

// The corpus has all that the page knows.
func TestCorpusIsComplete(t *testing.T) {
	vaults, err := filepath.Glob("testdata/*/vault")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, vault := range vaults {
		v, err := Open(os.DirFS(vault), readKey(t, filepath.Join(filepath.Dir(vault), "key1"))...)
		if err != nil {
			t.Fatal(err)
		}
		inventory(t, v, found)
	}
	for _, what := range []string{"encoding 0", "encoding 1", "encoding 2", "kind b", "kind c", "kind d", "kind f", "kind h", "kind l", "kind p", "kind x",
		"form 0", "form 1", "form 2", "image", "list", "list in a chunk", "hole", "no bytes", "condemned"} {
		if !found[what] {
			t.Errorf("no vault has: %s", what)
		}
	}
}

// inventory notes what of the format a Vault has.
func inventory(t *testing.T, v *Vault, found map[string]bool) {
	t.Helper()
	v.readPacks(false)
	for _, at := range v.chunks {
		plain, err := v.openPiece(at.pack, roleContent, int64(at.offset), int64(at.piece))
		if err != nil {
			t.Fatal(err)
		}
		found[fmt.Sprint("encoding ", plain[0])] = true
	}
	for _, name := range v.objects["condemned"] {
		packs, err := v.condemned(name)
		if err != nil {
			t.Fatal(err)
		}
		found["condemned"] = found["condemned"] || len(packs) > 0
	}
	snapshots, err := v.Snapshots()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range snapshots {
		found["image"] = found["image"] || s.Image
		err := v.Walk(s, func(e *Entry) error {
			found["kind "+string(e.Kind)] = true
			if e.Kind != File {
				return nil
			}
			found[fmt.Sprint("form ", e.content.form)] = true
			found["no bytes"] = found["no bytes"] || e.Size == 0
			for _, s := range e.content.spans {
				found[map[bool]string{false: "list", true: "list in a chunk"}[s.inChunk]] = true
			}
			d, err := v.describe(e)
			found["hole"] = found["hole"] || d.Data != nil
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
