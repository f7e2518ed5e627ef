// Package helm holds charts that Lockstep renders against Helm itself. It is apart as Helm's own action is large.
package helm

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	release "helm.sh/helm/v4/pkg/release/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/render"
)

// helmTemplate does what `helm template` does, with its hooks.
func helmTemplate(t *testing.T, dir, name, namespace string, values map[string]any, crds bool) []*unstructured.Unstructured {
	t.Helper()
	c, err := loader.LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	install := action.NewInstall(action.NewConfiguration())
	install.DryRunStrategy, install.ReleaseName, install.Namespace, install.IncludeCRDs, install.Replace = action.DryRunClient, name, namespace, crds, true
	got, err := install.RunWithContext(t.Context(), c, values)
	if err != nil {
		t.Fatal(err)
	}
	rel := got.(*release.Release)
	all := rel.Manifest
	for _, h := range rel.Hooks {
		if slices.ContainsFunc(h.Events, func(e release.HookEvent) bool { return e != release.HookTest }) {
			all += "\n---\n" + h.Manifest
		}
	}
	var objects []*unstructured.Unstructured
	reader := yaml.NewYAMLReader(yamlReader(all))
	for {
		text, err := reader.Read()
		if err != nil {
			break
		}
		u := &unstructured.Unstructured{}
		if err := sigsyaml.Unmarshal(text, &u.Object); err != nil {
			t.Fatal(err)
		}
		if len(u.Object) > 0 {
			objects = append(objects, u)
		}
	}
	for _, u := range objects {
		if u.GetNamespace() == "" && u.GetKind() != "CustomResourceDefinition" {
			u.SetNamespace(namespace) // as whoever applies it does
		}
	}
	return objects
}

// TestChartsAreWhatHelmMakes renders the charts of a repository as Helm's own action does.
func TestChartsAreWhatHelmMakes(t *testing.T) {
	archive, err := txtar.ParseFile("../../pkg/render/testdata/repositories/flux-helm.txtar")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := render.Discover(t.Context(), render.Commit{Root: root}, render.Options{})
	if err != nil {
		t.Fatal(err)
	}
	state, err := found.Render(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for owner, c := range map[string]struct {
		chart, name, namespace, values string
		crds                           bool
	}{
		"HelmRelease shop/db (clusters/prod)":   {"charts/db", "db", "shop", "{size: 5Gi, replicas: 3, tier: gold, sub: {enabled: true, greeting: hello}}", true},
		"HelmRelease shop/tiny (clusters/prod)": {"charts/db", "tiny-release", "tiny", "{size: 7Gi, sub: {enabled: false}}", false},
	} {
		values := map[string]any{}
		if err := sigsyaml.Unmarshal([]byte(c.values), &values); err != nil {
			t.Fatal(err)
		}
		want := helmTemplate(t, filepath.Join(root, c.chart), c.name, c.namespace, values, c.crds)
		var got []*unstructured.Unstructured
		for _, o := range state.Objects {
			if o.Owner == owner {
				got = append(got, o.Unstructured)
			}
		}
		if diff := cmp.Diff(text(t, want), text(t, got)); diff != "" || len(got) < 3 {
			t.Errorf("%s (-helm +lockstep):\n%s", owner, diff)
		}
	}
}

func yamlReader(s string) *bufio.Reader { return bufio.NewReader(bytes.NewBufferString(s)) }

// text is all objects in the order of their kinds and names.
func text(t *testing.T, objects []*unstructured.Unstructured) string {
	t.Helper()
	var all []string
	for _, u := range objects {
		data, err := sigsyaml.Marshal(u.Object)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, u.GetKind()+" "+u.GetName()+"\n"+string(data))
	}
	slices.Sort(all)
	return strings.Join(all, "---\n")
}
