package cmd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// fileVault makes a vault in a directory, and returns its flags: URL and key file.
func fileVault(t *testing.T) (v *volume.Vault, url, key string) {
	t.Helper()
	dir := t.TempDir()
	identity, err := age.GenerateX25519Identity()
	must(t, err)
	url, key = "file://"+filepath.Join(dir, "vault"), filepath.Join(dir, "key")
	must(t, os.WriteFile(key, []byte(identity.String()), 0o600))
	s, err := backend.Create(t.Context(), url, backend.Credentials{})
	must(t, err)
	v, err = volume.Create(t.Context(), s, identity.Recipient())
	must(t, err)
	return v, url, key
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestVaultCopy(t *testing.T) {
	from, fromURL, fromKey := fileVault(t)
	to, toURL, toKey := fileVault(t)
	data := t.TempDir()
	must(t, os.WriteFile(filepath.Join(data, "rows"), []byte("rows"), 0o600))
	s, err := from.Save(t.Context(), data, volume.SaveOptions{})
	must(t, err)
	var ids []string
	for _, day := range []int{1, 2} {
		at := time.Date(2026, 1, day, 3, 4, 5, 0, time.UTC)
		r := point.Record{
			Version: point.Version, ID: point.NewID(at, "1a2b3c4d"), Application: "shop/shop", Trigger: v1alpha1.TriggerManual, Taken: at, Completed: at,
			Revision: v1alpha1.Revision{Repository: "https://git.example.com/shop.git", Commit: "c0ffee", Path: ".", Tree: "7ee"},
			Volumes: []point.Volume{{
				Namespace: "shop", Claim: "db", Taken: at, Snapshot: s.ID, ContentRoot: s.Roots.Content.String(), MetaRoot: s.Roots.Meta.String(),
			}},
		}
		must(t, catalog.Put(t.Context(), from, r))
		ids = append(ids, r.ID)
	}
	c := &testCluster{kubeconfig: "/does/not/exist"}
	run := func(args ...string) outcome {
		return c.run(t, append([]string{
			"vault", "copy", "--from", fromURL, "--from-key-file", fromKey, "--to", toURL, "--to-key-file", toKey}, args...)...)
	}
	run("--dry-run").want(t, fault.Done, ids[0]+"   lacking", "nothing was copied")
	if n, err := catalog.Count(t.Context(), to); n != 0 || err != nil {
		t.Fatalf("a dry run copied %d points, %v", n, err)
	}
	run(ids[0]).want(t, fault.Done, ids[0]+"   copied")
	run().want(t, fault.Done, ids[0]+"   there already", ids[1]+"   copied")
	run("--recheck", "-o", "json").want(t, fault.Done, `"present": true`, `"packs": 2`)
	must(t, os.RemoveAll(fromURL[len("file://"):]))
	for _, id := range ids {
		r, err := catalog.Get(t.Context(), to, id)
		must(t, err)
		dir := t.TempDir()
		_, err = to.Load(t.Context(), r.Volumes[0].Snapshot, dir, volume.LoadOptions{Verify: volume.VerifyReadback})
		must(t, err)
		if got, err := os.ReadFile(filepath.Join(dir, "rows")); err != nil || string(got) != "rows" {
			t.Errorf("%q, %v", got, err)
		}
	}
}
