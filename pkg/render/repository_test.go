package render

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// repository renders all of a tree.
func repository(t *testing.T, root string, o Options) *desired.State {
	t.Helper()
	r, err := Discover(t.Context(), Commit{Root: root}, o)
	if err != nil {
		t.Fatal(err)
	}
	state, err := r.Render(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// lines says what a state has, in the words of the fixtures.
func lines(state *desired.State) string {
	var out strings.Builder
	for _, o := range state.Owners {
		fmt.Fprintf(&out, "owner %s", o.ID)
		for _, f := range []struct {
			name  string
			value any
			zero  any
		}{
			{"path", o.Path, ""}, {"cluster", o.Cluster, ""}, {"parent", o.Parent, ""}, {"target", o.Target, ""}, {"prune", o.Prune, false},
			{"force", o.Force, false}, {"suspended", o.Suspended, false}, {"after", strings.Join(o.DependsOn, " and "), ""},
		} {
			if f.value != f.zero {
				fmt.Fprintf(&out, " | %s %v", f.name, f.value)
			}
		}
		fmt.Fprintf(&out, " | %s:%d\n", o.File, o.Line)
		for _, u := range state.Objects {
			if u.Owner == o.ID {
				fmt.Fprintf(&out, "  %s %s | %s:%d", u.GetKind(), strings.TrimPrefix(u.GetNamespace()+"/"+u.GetName(), "/"), u.File, u.Line)
				if len(u.Unknown) > 0 {
					fmt.Fprintf(&out, " | without %s", strings.Join(u.Unknown, ", "))
				}
				fmt.Fprintln(&out)
			}
		}
	}
	for _, g := range state.Gaps {
		fmt.Fprintf(&out, "gap %s:%d | %s | %s: %s\n", g.File, g.Line, g.Owner, g.What, g.Why)
	}
	return out.String()
}

// TestRepository renders the repositories in testdata and compares what they deploy with the last file of each. UPDATE=1 writes it.
func TestRepository(t *testing.T) {
	fixtures, err := filepath.Glob("testdata/repositories/*.txtar")
	if err != nil || len(fixtures) == 0 {
		t.Fatalf("fixtures: %v, %v", fixtures, err)
	}
	for _, fixture := range fixtures {
		t.Run(strings.TrimSuffix(filepath.Base(fixture), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(fixture)
			if err != nil {
				t.Fatal(err)
			}
			files, want := map[string]string{}, ""
			for _, f := range archive.Files {
				if f.Name == "WANT" {
					want = string(f.Data)
					continue
				}
				files[f.Name] = string(f.Data)
			}
			var o Options
			for line := range strings.Lines(string(archive.Comment)) {
				if url, ok := strings.CutPrefix(line, "url: "); ok {
					o.URLs = append(o.URLs, strings.TrimSpace(url))
				}
				if revision, ok := strings.CutPrefix(line, "revision: "); ok {
					o.Revisions = append(o.Revisions, strings.TrimSpace(revision))
				}
			}
			got := lines(repository(t, tree(t, files), o))
			if os.Getenv("UPDATE") != "" {
				archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool { return f.Name == "WANT" })
				archive.Files = append(archive.Files, txtar.File{Name: "WANT", Data: []byte(got)})
				if err := os.WriteFile(fixture, txtar.Format(archive), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("deployed (-want +got):\n%s", diff)
			}
		})
	}
}

// asYAML is all that an owner deploys, in the order of Objects.
func asYAML(t *testing.T, objects []*unstructured.Unstructured) string {
	t.Helper()
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int {
		return strings.Compare(a.GetKind()+"\x00"+a.GetNamespace()+"\x00"+a.GetName(), b.GetKind()+"\x00"+b.GetNamespace()+"\x00"+b.GetName())
	})
	var out strings.Builder
	for _, u := range objects {
		data, err := yaml.Marshal(u.Object)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n" + string(data))
	}
	return out.String()
}

func objectsOf(state *desired.State, owner string) []*unstructured.Unstructured {
	var objects []*unstructured.Unstructured
	for _, o := range state.Objects {
		if o.Owner == owner {
			objects = append(objects, o.Unstructured)
		}
	}
	return objects
}

// TestRepositoryIsWhatFluxBuilds renders each Kustomization of the fixtures as Flux's own packages do.
func TestRepositoryIsWhatFluxBuilds(t *testing.T) {
	compared := 0
	for _, fixture := range []string{"flux-monorepo", "flux-clusters"} {
		archive, err := txtar.ParseFile("testdata/repositories/" + fixture + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		for _, f := range archive.Files {
			files[f.Name] = string(f.Data)
		}
		state := repository(t, tree(t, files), Options{})
		var cluster []*unstructured.Unstructured
		for _, o := range state.Objects {
			if o.GetKind() == "ConfigMap" || o.GetKind() == "Secret" {
				cluster = append(cluster, o.Unstructured)
			}
		}
		for _, o := range state.Owners {
			if o.Kind != desired.Kustomization || o.Path == "" || slices.ContainsFunc(state.Gaps, func(g desired.Gap) bool { return g.Owner == o.ID }) {
				continue
			}
			c := fake.NewClientBuilder()
			for _, u := range cluster {
				c = c.WithObjects(u.DeepCopy())
			}
			want, err := built(t.Context(), c.Build(), tree(t, files), o.Object)
			if err != nil {
				t.Fatalf("%s: %v", o.ID, err)
			}
			setNamespaces(want, defaultNamespace)
			if diff := cmp.Diff(asYAML(t, want), asYAML(t, objectsOf(state, o.ID))); diff != "" {
				t.Errorf("%s: %s (-flux +lockstep):\n%s", fixture, o.ID, diff)
			}
			compared++
		}
	}
	if compared < 5 {
		t.Errorf("only %d Kustomizations were compared", compared)
	}
}

// TestRepositoryIsWhatKustomizeBuilds does so for plain directories, with kustomize's own build and with kubectl's.
func TestRepositoryIsWhatKustomizeBuilds(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/repositories/plain-kustomize.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	for _, root := range []string{tree(t, files), "../../examples/kustomize"} {
		state := repository(t, root, Options{})
		if len(state.Owners) == 0 {
			t.Errorf("nothing was found in %s", root)
		}
		for name, build := range map[string]func(*testing.T, string) []*unstructured.Unstructured{"kustomize": buildsKustomize, "kubectl": buildsKubectl} {
			for _, o := range state.Owners {
				t.Run(name+" "+filepath.Base(root)+" "+o.ID, func(t *testing.T) {
					want := build(t, filepath.Join(root, o.Path))
					setNamespaces(want, defaultNamespace)
					if diff := cmp.Diff(asYAML(t, want), asYAML(t, objectsOf(state, o.ID))); diff != "" || len(want) == 0 {
						t.Errorf("(-%s +lockstep):\n%s", name, diff)
					}
				})
			}
		}
	}
}

func buildsKustomize(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = types.LoadRestrictionsNone
	m, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	objects, err := convert(m)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

func buildsKubectl(t *testing.T, dir string) []*unstructured.Unstructured {
	t.Helper()
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		t.Skip("NOT RUN: KUBEBUILDER_ASSETS names no directory with kubectl; `make test` builds it and sets it")
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(assets, "kubectl"), "kustomize", "--load-restrictor=LoadRestrictionsNone", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	var objects []*unstructured.Unstructured
	for _, text := range splitDocuments(out) {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &u.Object); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, u)
	}
	return objects
}

// compare renders what two commits do not have in common, as one who compares them does.
func compare(ctx context.Context, base, head Commit) (*desired.State, *desired.State, error) {
	o := Options{Blobs: contents()}
	var b, h *Repository
	group, discovering := errgroup.WithContext(ctx)
	for to, commit := range map[**Repository]Commit{&b: base, &h: head} {
		group.Go(func() (err error) {
			*to, err = Discover(discovering, commit, o)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	same := Same(b, h)
	skip := func(o desired.Owner) bool { return same[o.ID] }
	before, err := b.Render(ctx, skip)
	if err != nil {
		return nil, nil, err
	}
	after, err := h.Render(ctx, skip)
	return before, after, err
}

// TestSame changes one of two applications.
func TestSame(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/repositories/flux-monorepo.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	base := tree(t, files)
	skipped := func(change map[string]string) []string {
		t.Helper()
		changed := map[string]string{}
		for name, content := range files {
			changed[name] = content
		}
		for name, content := range change {
			changed[name] = content
		}
		before, after, err := compare(t.Context(), Commit{Root: base}, Commit{Root: tree(t, changed)})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for i, o := range after.Owners {
			if before.Owners[i].Skipped != o.Skipped {
				t.Errorf("%s is skipped in one commit only", o.ID)
			}
			if o.Skipped {
				ids = append(ids, o.Name)
			}
		}
		return ids
	}
	// What deploys more was rendered to find it, so that it is skipped only where nothing changed.
	for name, c := range map[string]struct {
		change map[string]string
		want   []string
	}{
		"nothing":                 {nil, []string{"elsewhere", "flux-system", "secrets", "shop", "web"}},
		"a file of one":           {map[string]string{"apps/web/web.yaml": configMap("web", "new")}, []string{"elsewhere", "shop"}},
		"a base of one":           {map[string]string{"apps/base/shop/db.yaml": configMap("db", "new")}, []string{"elsewhere", "web"}},
		"a variable of one":       {map[string]string{"clusters/prod/vars.yaml": configMap("vars", "new")}, []string{"elsewhere", "web"}},
		"a component of one":      {map[string]string{"components/labels/kustomization.yaml": strings.ReplaceAll(files["components/labels/kustomization.yaml"], "team", "group")}, []string{"elsewhere", "web"}},
		"nothing that is applied": {map[string]string{"README.md": "new"}, []string{"elsewhere", "flux-system", "secrets", "shop", "web"}},
	} {
		got := skipped(c.change)
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: skipped (-want +got):\n%s", name, diff)
		}
	}
}

func TestDiscoverEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Discover(ctx, Commit{Root: tree(t, map[string]string{"a.yaml": "x"})}, Options{}); err == nil {
		t.Error("a context that is over was not noticed")
	}
}
