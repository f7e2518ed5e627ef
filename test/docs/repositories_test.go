package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing/object"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/checker"
	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/coverage/report"
	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/render"
)

// repository is a directory of examples that is a whole repository for somebody's application.
type repository struct {
	// url is how its own manifests name it.
	url string
	// volumes are all that it deploys.
	volumes []string
	changes map[string]change
}

// change is one that a pull request could make: in file, old becomes now; without them the file goes.
type change struct {
	file, old, now string
	// want are the errors, and what becomes of data, sorted.
	want string
}

var repositories = map[string]repository{
	"flux-monorepo": {
		"https://git.example.com/acme/fleet.git",
		[]string{
			"production shop/data-database-0 1Gi 15m", "production shop/uploads 10Gi 15m",
			"staging shop/data-database-0 1Gi 24h", "staging shop/uploads 512Mi 24h",
		},
		map[string]change{
			"the policy leaves staging":    {"apps/shop/staging/kustomization.yaml", "[../base]", "[../base]\n" + withoutPolicy("shop, namespace: shop"), "LS107 LS107 LS304"},
			"the database is renamed":      {"apps/shop/base/database.yaml", "StatefulSet\nmetadata:\n  name: database", "StatefulSet\nmetadata:\n  name: postgres", "LS103 LS103 left-behind left-behind"},
			"the uploads leave production": {"apps/shop/production/uploads.yaml", "spec:", "$patch: delete\nspec:", "left-behind"},
			"production moves":             {"apps/shop/production/kustomization.yaml", "resources", "namespace: store\nresources", "LS104 LS104 left-behind left-behind"},
			"the uploads grow":             {"apps/shop/production/uploads.yaml", "10Gi", "20Gi", ""},
		},
	},
	"argocd-app-of-apps": {
		"https://git.example.com/acme/fleet.git",
		[]string{
			"orders-production/data-orders-0 1Gi 15m", "orders-production/log-orders-0 1Gi 15m",
			"orders-staging/data-orders-0 1Gi 24h", "orders-staging/log-orders-0 1Gi 24h",
		},
		map[string]change{
			"the policy leaves staging":         {"orders/staging/kustomization.yaml", "[../base]", "[../base]\n" + withoutPolicy("orders"), "LS107 LS107 LS304"},
			"a template is renamed":             {"orders/base/database.yaml", "name: log\n", "name: binlog\n", "LS103 LS103 left-behind left-behind"},
			"the ApplicationSet leaves":         {"apps/orders.yaml", "", "", "left-behind left-behind left-behind left-behind"},
			"it no longer looks for production": {"apps/orders.yaml", "path: orders/*", "path: orders/staging", "left-behind left-behind"},
			"production is saved less often":    {"orders/production/policy.yaml", "*/15", "0", "LS003"},
		},
	},
	"helm": {
		"https://git.example.com/acme/queue.git",
		[]string{"queue/data-queue-0 2Gi 15m"},
		map[string]change{
			"the policy leaves":      {"clusters/production/queue.yaml", "protection:", "protection:\n      enabled: false", "LS107"},
			"the release is renamed": {"clusters/production/queue.yaml", "HelmRelease\nmetadata:\n  name: queue", "HelmRelease\nmetadata:\n  name: jobs", "LS103 left-behind"},
			"a template is renamed":  {"charts/queue/templates/redis.yaml", "name: data\n      spec", "name: redis\n      spec", "LS103 left-behind"},
			"it is saved less often": {"clusters/production/queue.yaml", "*/15 * * * *", "0 * * * *", "LS003"},
		},
	},
	"kustomize": {
		"https://git.example.com/acme/notes.git",
		[]string{"notes/notes 1Gi 1h"},
		map[string]change{
			"the policy leaves": {"base/kustomization.yaml", ", policy.yaml", "", "LS107"},
			"the claim shrinks": {"production/kustomization.yaml", "storage: 1Gi", "storage: 100Mi", "LS105"},
			"all get a prefix":  {"production/kustomization.yaml", "[../base]", "[../base]\nnamePrefix: my-", "LS102 left-behind"},
			"all get a label":   {"production/kustomization.yaml", "[../base]", "[../base]\nlabels: [{pairs: {team: notes}}]", ""},
		},
	},
}

// withoutPolicy is a patch that takes a policy away.
func withoutPolicy(name string) string {
	return `patches: [{patch: "{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: ` + name + `}, $patch: delete}"}]`
}

// TestRepositoriesAreProtected wants of every example that is a whole repository: all is rendered, nothing is wrong, and all volumes are saved.
func TestRepositoriesAreProtected(t *testing.T) {
	for name, r := range repositories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, _ := r.commit(t, name)
			d := check(t, checker.Request{Path: dir})
			for _, f := range d.Findings {
				if f.Severity == coverage.Error {
					t.Errorf("%s:%d: %s %s", f.File, f.Line, f.Rule, f.Message)
				}
			}
			for _, g := range d.NotRendered {
				t.Errorf("%s is not rendered: %s", g.What, g.Why)
			}
			var volumes []string
			for _, row := range d.Coverage {
				if row.Answer != coverage.Protected {
					t.Errorf("%s/%s is %s: %s", row.Namespace, row.Volume, row.Answer, row.Why)
				}
				volume := fmt.Sprintf("%s/%s %s %s", row.Namespace, row.Volume, row.Size, row.RPO)
				if _, cluster, ok := strings.Cut(row.Application, "(clusters/"); ok && name == "flux-monorepo" {
					volume = strings.TrimSuffix(cluster, ")") + " " + volume
				}
				volumes = append(volumes, volume)
			}
			slices.Sort(volumes)
			if !slices.Equal(volumes, r.volumes) {
				t.Errorf("it has %q", volumes)
			}
			tells(t, name, d)
		})
	}
}

// tells wants the table of volumes of the report in the page of the example.
func tells(t *testing.T, name string, d *report.Document) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "examples", name, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := report.Write(&out, report.Text, d, report.Options{}); err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(out.String(), "\nVolumes\n")
	table, _, _ = strings.Cut(table, "\n\n")
	if !strings.Contains(string(page), "Volumes\n"+table+"\n```\n") {
		t.Errorf("README.md does not show\n%s", table)
	}
}

// TestRepositoriesAreWatched makes changes to the examples that lose data, and some that do not, each as a commit.
func TestRepositoriesAreWatched(t *testing.T) {
	for name, r := range repositories {
		for change, c := range r.changes {
			t.Run(name+", "+change, func(t *testing.T) {
				t.Parallel()
				dir, g := r.commit(t, name)
				base, err := g.Head()
				if err != nil {
					t.Fatal(err)
				}
				c.in(t, dir)
				record(t, g)
				d := check(t, checker.Request{Path: dir, Head: "HEAD", Base: base.Hash().String()})
				var rules, effects []string
				for _, f := range d.Findings {
					if f.Severity == coverage.Error {
						rules = append(rules, f.Rule)
					}
				}
				for _, i := range d.Impact {
					effects = append(effects, string(i.Effect))
				}
				slices.Sort(rules)
				slices.Sort(effects)
				if got := strings.Join(append(rules, effects...), " "); got != c.want {
					t.Errorf("found %q, want %q", got, c.want)
				}
				for _, g := range d.NotRendered {
					t.Errorf("%s is not rendered: %s", g.What, g.Why)
				}
			})
		}
	}
}

func check(t *testing.T, q checker.Request) *report.Document {
	t.Helper()
	q.Now = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	r, err := checker.Check(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return r.Document
}

// commit makes a Git repository of an example.
func (r repository) commit(t *testing.T, name string) (string, *gogit.Repository) {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(root, "examples", name))); err != nil {
		t.Fatal(err)
	}
	g, err := gogit.PlainInit(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.CreateRemote(&config.RemoteConfig{Name: "origin", URLs: []string{r.url}}); err != nil {
		t.Fatal(err)
	}
	record(t, g)
	return dir, g
}

func record(t *testing.T, g *gogit.Repository) {
	t.Helper()
	w, err := g.Worktree()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.AddWithOptions(&gogit.AddOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit("a change", &gogit.CommitOptions{Author: &object.Signature{Name: "a", Email: "a@example.com", When: time.Unix(0, 0)}}); err != nil {
		t.Fatal(err)
	}
}

func (c change) in(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(c.file))
	if c.old == "" {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(data), c.old) != 1 {
		t.Fatalf("%s has %q %d times", c.file, c.old, strings.Count(string(data), c.old))
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), c.old, c.now, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// deployed is everything that the examples deploy, rendered, save what is of Flux or Argo CD.
func deployed(t *testing.T) []example {
	t.Helper()
	var out []example
	for name, r := range repositories {
		found, err := render.Discover(t.Context(), render.Commit{Root: filepath.Join(root, "examples", name)}, render.Options{URLs: []string{r.url}})
		if err != nil {
			t.Fatal(err)
		}
		state, err := found.Render(t.Context(), func(desired.Owner) bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range state.Objects {
			group := o.GroupVersionKind().Group
			if strings.HasSuffix(group, ".toolkit.fluxcd.io") || group == "argoproj.io" {
				continue
			}
			text, err := yaml.Marshal(o.Object)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, example{"examples/" + name + "/" + o.File, o.GetKind(), text})
		}
	}
	return out
}
