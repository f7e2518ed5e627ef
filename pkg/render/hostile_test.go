package render

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// bomb is YAML of a few lines that its aliases make huge.
func bomb() string {
	out := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\nx:\n  a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 20; i++ {
		out += fmt.Sprintf("  a%d: &a%d [%s]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10))
	}
	return out
}

// packedChart is a chart's archive, small as it lies there and large when it is unpacked.
func packedChart(t *testing.T, bytes int64) string {
	t.Helper()
	var out strings.Builder
	squeezed := gzip.NewWriter(&out)
	packed := tar.NewWriter(squeezed)
	for name, size := range map[string]int64{"d/Chart.yaml": 0, "d/templates/a.yaml": bytes} {
		err := packed.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size})
		for zeros := make([]byte, 1<<20); err == nil && size > 0; size -= int64(len(zeros)) {
			_, err = packed.Write(zeros)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(packed.Close(), squeezed.Close()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestHostileRepositories ends each in a gap that names what is wrong, within the bounds, and renders what is beside it.
func TestHostileRepositories(t *testing.T) {
	doubling := map[string]string{"deploy/kustomization.yaml": "resources: [../b0]"}
	for i := range 40 {
		doubling[fmt.Sprintf("b%d/kustomization.yaml", i)] = fmt.Sprintf("resources: [../c%d, ../d%d]", i, i)
		doubling[fmt.Sprintf("c%d/kustomization.yaml", i)] = fmt.Sprintf("namePrefix: c\nresources: [../b%d]", i+1)
		doubling[fmt.Sprintf("d%d/kustomization.yaml", i)] = fmt.Sprintf("namePrefix: d\nresources: [../b%d]", i+1)
	}
	doubling["b40/kustomization.yaml"], doubling["b40/a.yaml"] = "resources: [a.yaml]", configMap("a", "x")
	kustomized := func(more map[string]string) map[string]string {
		files := map[string]string{"deploy/kustomization.yaml": "resources: [a.yaml]"}
		for name, content := range more {
			files[name] = content
		}
		return files
	}
	const deploysChart = "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: app, namespace: argocd}\n" +
		"spec: {source: {repoURL: https://git.example.com/r.git, path: chart}, destination: {namespace: x}}\n"
	deployed := func(more map[string]string) map[string]string {
		files := map[string]string{
			"app.yaml": deploysChart, "chart/Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0}", "chart/templates/a.yaml": configMap("a", "x"),
			"beside.yaml": strings.NewReplacer("name: app", "name: beside", "path: chart", "path: beside").Replace(deploysChart),
		}
		maps.Copy(files, more)
		return files
	}
	many := "{list: {elements: [" + strings.Repeat("{a: b}, ", 100) + "]}}"
	set := func(generator, options string) string {
		return "apiVersion: argoproj.io/v1alpha1\nkind: ApplicationSet\nmetadata: {name: set, namespace: argocd}\nspec:\n  goTemplate: true\n  " + options + "\n  generators: [" + generator + "]\n" +
			"  template: {metadata: {name: '{{ .a }}'}, spec: {source: {repoURL: https://git.example.com/r.git, path: beside}}}\n"
	}
	for name, c := range map[string]struct {
		files map[string]string
		says  string
	}{
		"an alias bomb":                  {kustomized(map[string]string{"deploy/a.yaml": bomb()}), "aliases"},
		"an alias bomb in a manifest":    {map[string]string{"deploy/a.yaml": bomb()}, "aliases"},
		"an alias bomb in kustomization": {map[string]string{"deploy/kustomization.yaml": bomb()}, "aliases"},
		"an alias to itself":             {kustomized(map[string]string{"deploy/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: &m {name: a, x: *m}\n"}), "deploy"},
		"100 MB":                         {kustomized(map[string]string{"deploy/a.yaml": configMap("a", strings.Repeat("x", 100<<20))}), "bytes"},
		"100 MB in a plain directory":    {map[string]string{"deploy/a.yaml": configMap("a", strings.Repeat("x", 100<<20))}, "bytes"},
		"a kustomization of itself":      {kustomized(map[string]string{"deploy/kustomization.yaml": "resources: [../deploy]"}), "deploy"},
		"kustomizations in a circle": {kustomized(map[string]string{
			"deploy/kustomization.yaml": "resources: [../a]", "a/kustomization.yaml": "resources: [../b]", "b/kustomization.yaml": "resources: [../a]",
		}), "cycle"},
		"bases that double":                        {doubling, "more files are read"},
		"a link in a circle":                       {kustomized(map[string]string{"deploy/kustomization.yaml": "resources: [loop]", "deploy/loop": "-> loop"}), "deploy"},
		"a link outside":                           {kustomized(map[string]string{"deploy/a.yaml": "-> /etc/passwd"}), "outside"},
		"a path outside":                           {kustomized(map[string]string{"deploy/kustomization.yaml": "resources: [../../../etc/passwd]"}), "outside"},
		"a deep nesting":                           {kustomized(map[string]string{"deploy/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nx: " + strings.Repeat("[", 1<<20)}), "depth"},
		"a deep nesting of JSON":                   {kustomized(map[string]string{"deploy/kustomization.yaml": "resources: [a.json]", "deploy/a.json": `{"apiVersion": "v1", "kind": "List", "items": ` + strings.Repeat("[", 1<<20)}), "depth"},
		"an archive bomb":                          {deployed(map[string]string{"chart/charts/d.tgz": packedChart(t, 128<<20)}), "larger than the maximum"},
		"no archive":                               {deployed(map[string]string{"chart/charts/d.tgz": "x"}), "error unpacking subchart"},
		"an alias bomb in values":                  {deployed(map[string]string{"chart/values.yaml": bomb()}), "aliases"},
		"an alias bomb in an Application's values": {deployed(map[string]string{"app.yaml": strings.Replace(deploysChart, "path: chart", fmt.Sprintf("path: chart, helm: {values: %q}", bomb()), 1)}), "aliases"},
		"a link out of a chart":                    {deployed(map[string]string{"chart/templates/a.yaml": "-> /etc/passwd"}), "outside"},
		"a chart in a circle":                      {deployed(map[string]string{"chart/Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0, dependencies: [{name: d, repository: \"file://../chart\"}]}"}), "circle"},
		"a values file outside":                    {deployed(map[string]string{"app.yaml": strings.Replace(deploysChart, "path: chart", "path: chart, helm: {valueFiles: [../../../../etc/passwd]}", 1)}), "cannot be read"},
		"a path of an Application outside":         {deployed(map[string]string{"app.yaml": strings.Replace(deploysChart, "path: chart", "path: ../../etc", 1)}), "outside"},
		"many Applications of a set":               {deployed(map[string]string{"app.yaml": set("{matrix: {generators: ["+many+", "+many+"]}}", "")}), "more than 5000 Applications"},
		"options that are none":                    {deployed(map[string]string{"app.yaml": set(many, "goTemplateOptions: [x=y]")}), "unrecognized option"},
		"much text of a set":                       {deployed(map[string]string{"app.yaml": strings.Replace(set(many, ""), "{{ .a }}", `{{ range 1000 }}{{ repeat 100000 "x" }}{{ end }}`, 1)}), "bytes"},
		"much substitution": {map[string]string{
			"clusters/a/flux-system/gotk-sync.yaml": "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: flux-system, namespace: flux-system}\nspec:\n  path: ./clusters/a\n" +
				"  sourceRef: {kind: GitRepository, name: flux-system}\n  postBuild: {substitute: {x: " + strings.Repeat("y", 100_000) + "}}\n",
			"clusters/a/a.yaml": configMap("a", `"`+strings.Repeat("${x}", 10_000)+`"`),
		}, "bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			c.files["beside/kustomization.yaml"], c.files["beside/a.yaml"] = "resources: [a.yaml]", configMap("beside", "x")
			root := tree(t, c.files)
			state := repository(t, root, Options{URLs: []string{"https://git.example.com/r.git"}})
			found := false
			for _, g := range state.Gaps {
				found = found || strings.Contains(g.File+" "+g.What+" "+g.Why, c.says)
				if strings.Contains(g.Why, root) {
					t.Errorf("the gap shows where the commit is: %s", g.Why)
				}
			}
			if !found {
				t.Errorf("no gap says %q:\n%s", c.says, lines(state))
			}
			for _, o := range state.Objects {
				if strings.Contains(o.GetName(), "passwd") {
					t.Error("it left the repository")
				}
			}
			beside := "Directory beside"
			if c.files["beside.yaml"] != "" {
				beside = "Application argocd/beside"
			}
			if _, flux := c.files["clusters/a/a.yaml"]; !flux && len(objectsOf(state, beside)) != 1 {
				t.Error("what is beside it is not rendered")
			}
		})
	}
}

// TestCircles has owners that deploy one another, and themselves.
func TestCircles(t *testing.T) {
	kustomization := func(name, path string) string {
		return "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: " + name + ", namespace: flux-system}\n" +
			"spec: {path: ./" + path + ", sourceRef: {kind: GitRepository, name: flux-system}}\n"
	}
	state := repository(t, tree(t, map[string]string{"a/b.yaml": kustomization("b", "b"), "b/a.yaml": kustomization("a", "a")}), Options{})
	if len(state.Owners) != 2 || len(state.Objects) != 2 {
		t.Errorf("a circle of two gives:\n%s", lines(state))
	}
}

// outside fails if something of a state lies outside the repository.
func outside(t *testing.T, state *desired.State) {
	for _, o := range state.Objects {
		if o.File != "" && !filepath.IsLocal(filepath.FromSlash(o.File)) {
			t.Fatalf("an object of %q", o.File)
		}
		if data, err := json.Marshal(o.Object); err != nil || bytes.Contains(data, []byte("outside-of-it")) {
			t.Fatalf("a file outside was read: %v", err)
		}
	}
}

// FuzzRepository renders repositories of strangers: no crash, nothing of outside, and an end.
func FuzzRepository(f *testing.F) {
	fixtures, err := filepath.Glob("testdata/repositories/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, fixture := range fixtures {
		data, err := os.ReadFile(fixture)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("-- kustomization.yaml --\nresources: [../secret.yaml, ../../secret.yaml]\n"))
	f.Add([]byte("-- kustomization.yaml --\nresources: [link.yaml, dir]\ncomponents: [part]\nconfigMapGenerator:\n- {name: c, files: [link.yaml]}\n" +
		"-- link.yaml --\n-> ../secret.yaml\n-- dir --\n-> part/../part\n-- loop --\n-> loop\n-- part/kustomization.yaml --\nkind: Component\nresources: [../link.yaml]\n"))
	f.Add([]byte("-- app.yaml --\napiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: a, namespace: argocd}\nspec: {source: {repoURL: https://x/r.git, path: c, " +
		"helm: {valueFiles: [../v.yaml, /v.yaml], fileParameters: [{name: a.b, path: ../../secret.yaml}]}}, destination: {namespace: x}}\n" +
		"-- v.yaml --\n-> ../secret.yaml\n-- c/Chart.yaml --\n{apiVersion: v2, name: c, version: 1.0.0, dependencies: [{name: d, repository: \"file://../../d\"}]}\n-- c/.helmignore --\n*.md\n" +
		"-- c/templates/a.yaml --\n{{ define \"a\" }}{{ . }}{{ end }}apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {{ tpl (.Files.Get \"f\") . | indent 2 }}{{ include \"a\" .Values.a }}\n-- c/f --\n-> ../../secret.yaml\n" +
		"-- c/crds/a.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: crd}\n"))
	f.Add([]byte("-- kustomization.yaml --\nresources: [a.yaml]\ntransformers: [t.yaml]\nopenapi: {path: schema.json}\nvalidators:\n- |-\n  apiVersion: builtin\n  kind: PatchTransformer\n  metadata: {name: v}\n  path: https://example.org/p.yaml\n" +
		"-- t.yaml --\napiVersion: builtin\nkind: PrefixSuffixTransformer\nmetadata: {name: t}\nprefix: p-\nfieldSpecs: [{path: metadata/name}]\n-- schema.json --\n{\"definitions\": {}}\n-- a.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"))
	f.Add([]byte("-- set.yaml --\napiVersion: argoproj.io/v1alpha1\nkind: ApplicationSet\nmetadata: {name: s, namespace: argocd}\nspec:\n  generators:\n  - list: {elements: [{a: {b: [c, {d: e}]}}]}\n" +
		"  template: {metadata: {name: 'x-{{a.b.0}}'}, spec: {source: {repoURL: https://x/r.git, path: p}, destination: {namespace: 'n-{{a.b.1.d}}'}}}\n-- p/a.yaml --\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 1<<16 {
			return
		}
		above := t.TempDir()
		if err := os.WriteFile(filepath.Join(above, "secret.yaml"), []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: outside-of-it}\nx: outside-of-it\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(above, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, file := range txtar.Parse(data).Files {
			name := filepath.FromSlash(file.Name)
			if !filepath.IsLocal(name) || bytes.IndexByte([]byte(name), 0) >= 0 {
				continue
			}
			if os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755) == nil {
				if target, ok := bytes.CutPrefix(file.Data, []byte("-> ")); ok {
					_ = os.Symlink(strings.TrimSpace(string(target)), filepath.Join(root, name))
					continue
				}
				_ = os.WriteFile(filepath.Join(root, name), file.Data, fs.FileMode(0o600))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		r, err := Discover(ctx, Commit{Root: root}, Options{})
		if err != nil {
			if ctx.Err() != nil {
				t.Fatal("it does not end")
			}
			return
		}
		state, err := r.Render(ctx, nil)
		if ctx.Err() != nil {
			t.Fatal("it does not end")
		}
		if err == nil {
			outside(t, state)
		}
	})
}

// FuzzYAML reads files of strangers.
func FuzzYAML(f *testing.F) {
	for _, seed := range []string{bomb(), stack, configMap("a", "x"), "--- \n---\n{}", "a: &a [*a]", "---\n# x\n---\nkind: List\nitems: []", "\xff\xfe-\x00-\x00-\x00\n\x00a\x00", "\xfe\xff\x00a\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		if checkAliases(data, 10_000) == nil {
			joined := bytes.Join(splitDocuments(data), nil)
			if !bytes.Equal(joined, decoded(data)) {
				panic("documents are lost")
			}
			documentsOf(data)
		}
	})
}
