package checker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
)

// TestHostileCommits judges commits of strangers, and the same files in a work tree: what cannot be rendered is named, and what lies
// beside it is judged.
func TestHostileCommits(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret.yaml")
	if err := os.WriteFile(secret, []byte(strings.Replace(claim("data"), "name: data", "name: outside-of-it", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files, links map[string]string
		says         string
	}{
		"a large file":       {map[string]string{"big/a.yaml": claim("data") + "# " + strings.Repeat("x", 20<<20)}, nil, "bytes"},
		"links in a circle":  {map[string]string{"big/kustomization.yaml": "resources: [a]"}, map[string]string{"big/a": "b", "big/b": "a"}, "big"},
		"a link outside":     {map[string]string{"big/kustomization.yaml": "resources: [a.yaml]"}, map[string]string{"big/a.yaml": secret}, "big"},
		"a link to upwards":  {map[string]string{"big/kustomization.yaml": "resources: [a]"}, map[string]string{"big/a": "../../.."}, "big"},
		"an endless circle":  {map[string]string{"big/kustomization.yaml": "resources: [a]"}, map[string]string{"big/a": "../big"}, "big"},
		"a link to the disk": {map[string]string{"big/kustomization.yaml": "resources: [a]"}, map[string]string{"big/a": "/dev/zero"}, "big"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t, map[string]string{"beside/a.yaml": claim("data")})
			r.write(c.files)
			for link, target := range c.links {
				if err := os.Symlink(target, filepath.Join(r.dir, link)); err != nil {
					t.Fatal(err)
				}
			}
			r.commit()
			for _, head := range []string{"", "HEAD"} {
				result, err := Check(t.Context(), Request{Path: r.dir, Head: head, Now: time.Now()})
				if err != nil {
					t.Fatalf("head %q: %v", head, err)
				}
				named := false
				for _, g := range result.Document.NotRendered {
					named = named || strings.Contains(g.File+" "+g.What+" "+g.Why, c.says)
					if strings.Contains(g.Why, os.TempDir()) {
						t.Errorf("head %q: the gap shows where the files are: %s", head, g.Why)
					}
				}
				rows := result.Document.Coverage
				if !named || len(rows) != 1 || rows[0].Volume != "data" || rows[0].Answer == coverage.Protected {
					t.Errorf("head %q: not rendered %+v, coverage %+v", head, result.Document.NotRendered, rows)
				}
			}
		})
	}
}
