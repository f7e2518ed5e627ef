package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/test/shop"
)

// TestShopComesBack is the main job: two releases with different schemas, a point of each, and the older one back on a
// cluster that has nothing but what the one command installs.
func TestShopComesBack(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	prod, dr := shared.prod, shared.dr
	repo, err := shop.Publish(ctx, shared.lab, fmt.Sprintf("shop-%d", time.Now().UnixNano()), t.TempDir())
	must(t, err)
	must(t, shop.CreateSecret(ctx, prod))
	held := map[string]shop.Fingerprint{}
	for _, release := range []string{shop.V1, shop.V2} {
		if release == shop.V2 {
			must(t, repo.ReleaseV2(ctx))
		}
		lockstep(ctx, t, prod, "apply", "--repo", repo.URL, "--path", ".", "--tag", release)
		must(t, shop.Sell(ctx, prod, release, 20_000))
		held[release], err = shop.TakeFingerprint(ctx, prod)
		must(t, err)
		lockstep(ctx, t, prod, "backup", shop.Policy, "-n", shop.Namespace)
	}
	if held[shop.V1].Schema == held[shop.V2].Schema {
		t.Fatal("both releases have one schema: the test would prove nothing")
	}

	lockstep(ctx, t, dr, "restore", "--tag", shop.V1, "--repo", repo.URL, "--path", ".", "--vault", shared.vault, "--key-file", shared.key,
		"--image", shared.lab.Image())
	got, err := shop.TakeFingerprint(ctx, dr)
	must(t, err)
	if got != held[shop.V1] {
		t.Errorf("v1.0.0 did not come back as it was:\nwant %+v\n got %+v", held[shop.V1], got)
	}
	if _, _, err := shop.FrontBeforeData(ctx, dr); err != nil {
		t.Error(err)
	}
	nothingLeft(ctx, t, dr, shop.Namespace)
	// What came back has no point of its own yet: status says so, and that it is early.
	if out := lockstep(ctx, t, dr, "status"); !strings.Contains(out, "none; the first is due in") {
		t.Errorf("status:\n%s", out)
	}

	t.Run("a bound claim is never overwritten", func(t *testing.T) {
		refused(ctx, t, dr, 5, "data-database-0", "restore", "--tag", shop.V2, "--repo", repo.URL, "--path", ".", "--vault", "primary")
		again, err := shop.TakeFingerprint(ctx, dr)
		must(t, err)
		if again != got {
			t.Errorf("the refused restore changed the data: %+v", again)
		}
	})
	t.Run("a tag without a point is proven absent", func(t *testing.T) {
		must(t, repo.Commit(ctx, "Next", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "index.html"), []byte("v3"), 0o644)
		}))
		must(t, repo.Tag(ctx, "v3.0.0"))
		refused(ctx, t, dr, 4, shop.V2, "restore", "--tag", "v3.0.0", "--repo", repo.URL, "--path", ".", "--vault", "primary", "--dry-run")
	})
	forget(ctx, t, dr, shop.Namespace)
	forget(ctx, t, prod, shop.Namespace)
}
