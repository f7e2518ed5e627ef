package render

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// tree writes files into a new directory; a content that begins with "-> " makes a symbolic link.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			if err := os.Symlink(strings.TrimSpace(target), file); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func configMap(name, value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: shop}\ndata: {k: " + value + "}\n"
}

// names lists objects as <kind>/<namespace>/<name>.
func names(objects []*unstructured.Unstructured) []string {
	var out []string
	for _, u := range objects {
		out = append(out, u.GetKind()+"/"+u.GetNamespace()+"/"+u.GetName())
	}
	return out
}

func TestRenderPlainDirectory(t *testing.T) {
	files := map[string]string{
		"deploy/b.yaml":                 configMap("b1", "x") + "---\n" + configMap("b2", "x") + "---\n# nothing\n",
		"deploy/a/z.yml":                configMap("z", "x"),
		"deploy/list.yaml":              "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: l1}}\n- {apiVersion: v1, kind: Namespace, metadata: {name: l2}}\n",
		"deploy/README.md":              "# not: a manifest",
		"deploy/.github/ci.yaml":        "on: push\njobs: {}\n",
		"deploy/skip/x.yaml":            "not: [a manifest\n",
		"deploy/.sourceignore":          "skip/\n",
		"deploy/sub/kustomization.yaml": "namePrefix: p-\nresources: [c.yaml]\n",
		"deploy/sub/c.yaml":             configMap("c", "x"),
		"elsewhere/e.yaml":              configMap("e", "x"),
	}
	root := tree(t, files)
	before := read(t, root)
	got, err := Render(t.Context(), root, "deploy")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ConfigMap/shop/z", "ConfigMap/shop/b1", "ConfigMap/shop/b2", "Secret/default/l1", "Namespace//l2", "ConfigMap/shop/p-c",
	}
	if diff := cmp.Diff(want, names(got)); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, read(t, root)); diff != "" {
		t.Errorf("the directory was changed (-before +after):\n%s", diff)
	}
}

func read(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.Walk(root, func(file string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		data, err := os.ReadFile(file)
		found[file] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// overlay uses what kustomizations are made of: a base elsewhere, a component, patches, generators, a transformer.
func overlay() map[string]string {
	return map[string]string{
		"base/kustomization.yaml": "resources: [web.yaml]\n",
		"base/web.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: web}]}
`,
		"component/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\npatches: [{path: replicas.yaml}]\n",
		"component/replicas.yaml":      "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 3}\n",
		"deploy/kustomization.yaml": `namespace: shop
resources: [../base, linked.yaml]
components: [../component]
images: [{name: web, newTag: v1.0.0}]
configMapGenerator: [{name: settings, files: [a=settings.txt], literals: [home=https://example.com]}]
secretGenerator: [{name: password, envs: [password.env]}]
transformers: [label.yaml]
patches:
- target: {kind: Deployment}
  patch: '[{"op": "add", "path": "/metadata/annotations", "value": {"docs": "https://example.com/docs"}}]'
`,
		"deploy/settings.txt": "x",
		"deploy/password.env": "p=q\n",
		"deploy/label.yaml":   "apiVersion: builtin\nkind: LabelTransformer\nmetadata: {name: l}\nlabels: {team: shop}\nfieldSpecs: [{path: metadata/labels, create: true}]\n",
		"deploy/linked.yaml":  "-> ../base/../shared.yaml",
		"shared.yaml":         configMap("shared", "x"),
	}
}

func TestRenderKustomization(t *testing.T) {
	root := tree(t, overlay())
	got, err := Render(t.Context(), root, "deploy")
	if err != nil {
		t.Fatal(err)
	}
	var web *unstructured.Unstructured
	for _, u := range got {
		if u.GetNamespace() != "shop" || u.GetLabels()["team"] != "shop" {
			t.Errorf("%s %q is in namespace %q with labels %v", u.GetKind(), u.GetName(), u.GetNamespace(), u.GetLabels())
		}
		if u.GetKind() == "Deployment" {
			web = u
		}
	}
	if len(got) != 4 || web == nil {
		t.Fatalf("got %v", names(got))
	}
	if n, _, _ := unstructured.NestedInt64(web.Object, "spec", "replicas"); n != 3 {
		t.Errorf("the component's patch gives %d replicas", n)
	}
	containers, _, _ := unstructured.NestedSlice(web.Object, "spec", "template", "spec", "containers")
	if image := containers[0].(map[string]any)["image"]; image != "web:v1.0.0" {
		t.Errorf("the image is %v", image)
	}
}

func TestRenderEqualsKustomize(t *testing.T) {
	root := tree(t, overlay())
	got, err := Render(t.Context(), root, "deploy")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(buildsKustomize(t, filepath.Join(root, "deploy")), got); diff != "" {
		t.Errorf("differs from kustomize (-want +got):\n%s", diff)
	}
}

// TestRenderForgetsSchemas: the schemas that a kustomization brings along say how its own patches merge, and nobody else's.
func TestRenderForgetsSchemas(t *testing.T) {
	const schema = `{"definitions": {"com.acme.v1.Widget": {
  "x-kubernetes-group-version-kind": [{"group": "acme.com", "kind": "Widget", "version": "v1"}],
  "properties": {"parts": {"type": "array", "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name",
    "items": {"properties": {"name": {"type": "string"}}}}}}}}`
	const deployment = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {containers: [{name: %s, image: i}]}}}\n"
	const kustomization = "resources: [widget.yaml, web.yaml]\npatches: [{path: widget-patch.yaml}, {path: web-patch.yaml}]\n"
	files := map[string]string{}
	for dir, openapi := range map[string]string{"with/": "openapi: {path: schema.json}\n", "version/": "openapi: {version: v1.21.2}\n", "without/": ""} {
		files[dir+"kustomization.yaml"] = openapi + kustomization
		files[dir+"schema.json"] = schema
		files[dir+"widget.yaml"] = "apiVersion: acme.com/v1\nkind: Widget\nmetadata: {name: w}\nparts: [{name: a}]\n"
		files[dir+"widget-patch.yaml"] = "apiVersion: acme.com/v1\nkind: Widget\nmetadata: {name: w}\nparts: [{name: b}]\n"
		files[dir+"web.yaml"] = fmt.Sprintf(deployment, "a")
		files[dir+"web-patch.yaml"] = fmt.Sprintf(deployment, "b")
	}
	files["broken/kustomization.yaml"] = "openapi: {path: schema.json}\n" + kustomization
	for _, name := range []string{"widget.yaml", "widget-patch.yaml", "web.yaml", "web-patch.yaml"} {
		files["broken/"+name] = files["with/"+name]
	}
	files["broken/schema.json"] = "[]"
	root := tree(t, files)
	for _, step := range []struct {
		dir   string
		parts int // 0: does not render
	}{{"without", 1}, {"with", 2}, {"without", 1}, {"version", 1}, {"without", 1}, {"broken", 0}, {"without", 1}, {"with", 2}} {
		got, err := Render(t.Context(), root, step.dir)
		if step.parts == 0 && err != nil {
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", step.dir, err)
		}
		for _, u := range got {
			path, want := []string{"parts"}, step.parts
			if u.GetKind() == "Deployment" {
				path, want = []string{"spec", "template", "spec", "containers"}, 2
			}
			if list, _, _ := unstructured.NestedSlice(u.Object, path...); len(list) != want {
				t.Errorf("%s: the %s has %v, want %d of them", step.dir, u.GetKind(), list, want)
			}
		}
	}
}

// TestRenderIsDeterministic renders at the same time a kustomization, and a plain directory with a kind that kustomize
// has to look up.
func TestRenderIsDeterministic(t *testing.T) {
	files := overlay()
	files["plain/x.yaml"] = "{apiVersion: acme.com/v1, kind: X, metadata: {name: x}}\n"
	root := tree(t, files)
	var wg sync.WaitGroup
	for _, path := range []string{"deploy", "plain"} {
		want, err := Render(t.Context(), root, path)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			wg.Go(func() {
				got, err := Render(t.Context(), root, path)
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Errorf("got %v (-want +got):\n%s", err, diff)
				}
			})
		}
	}
	wg.Wait()
}

func TestRenderNamespaces(t *testing.T) {
	root := tree(t, map[string]string{"all.yaml": `
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: as.x.io}, spec: {group: x.io, scope: Namespaced, names: {kind: A, plural: as}}}
---
{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: bs.x.io}, spec: {group: x.io, scope: Cluster, names: {kind: B, plural: bs}}}
---
{apiVersion: x.io/v1, kind: A, metadata: {name: o}}
---
{apiVersion: x.io/v1, kind: B, metadata: {name: o}}
---
{apiVersion: x.io/v1, kind: C, metadata: {name: o}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: o}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: o}}
---
{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: o}}
---
{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: o}}
---
{apiVersion: lockstep.dev/v1alpha1, kind: Vault, metadata: {name: o}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: o, namespace: db}}
`})
	got, err := Render(t.Context(), root, ".")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"CustomResourceDefinition//as.x.io", "CustomResourceDefinition//bs.x.io", "A/default/o", "B//o", "C//o", "ClusterRole//o",
		"Role/default/o", "StorageClass//o", "ProtectionPolicy/default/o", "Vault//o", "StatefulSet/db/o",
	}
	if diff := cmp.Diff(want, names(got)); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

// TestRenderStaysInside has every way out that kustomize knows. The server notices if anything is asked of it.
func TestRenderStaysInside(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = out.Write([]byte(configMap("remote", "x")))
	}))
	defer server.Close()
	url := server.URL + "/x.yaml"
	touched := filepath.Join(t.TempDir(), "touched")
	plugin := func(fields string) string {
		return "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: p}\n" + fields + "\n"
	}
	for name, c := range map[string]struct {
		files map[string]string
		is    error
		names string
	}{
		"remote file":         {map[string]string{"deploy/kustomization.yaml": "resources: ['" + url + "']"}, ErrRemote, "deploy/kustomization.yaml"},
		"remote base":         {map[string]string{"deploy/kustomization.yaml": "resources: ['" + server.URL + "/acme/shop//base?ref=v1']"}, ErrRemote, "deploy/kustomization.yaml"},
		"legacy bases":        {map[string]string{"deploy/kustomization.yaml": "bases: ['" + url + "']"}, ErrRemote, "deploy/kustomization.yaml"},
		"without a scheme":    {map[string]string{"deploy/kustomization.yaml": "resources: [GitHub.com/acme/shop]"}, ErrRemote, "GitHub.com/acme/shop"},
		"by SSH":              {map[string]string{"deploy/kustomization.yaml": "resources: ['git@example.com:acme/shop']"}, ErrRemote, "git@example.com:acme/shop"},
		"by SSH with slashes": {map[string]string{"deploy/kustomization.yaml": "resources: ['git@example.com/acme/shop']"}, ErrRemote, "git@example.com"},
		"getter":              {map[string]string{"deploy/kustomization.yaml": "resources: ['git::" + url + "']"}, ErrRemote, "git::"},
		"file URL":            {map[string]string{"deploy/kustomization.yaml": "resources: ['file:///etc/x']"}, ErrRemote, "file://"},
		"a directory that is named like a host": {map[string]string{
			"deploy/kustomization.yaml":                      "resources: [github.com/acme/shop]",
			"deploy/github.com/acme/shop/kustomization.yaml": "resources: [x.yaml]", "deploy/github.com/acme/shop/x.yaml": configMap("x", "x"),
		}, ErrRemote, "github.com/acme/shop"},
		"in a base": {map[string]string{
			"deploy/kustomization.yaml": "resources: [../base]", "base/kustomization.yml": "resources: ['" + url + "']",
		}, ErrRemote, "base/kustomization.yml"},
		"component": {map[string]string{"deploy/kustomization.yaml": "components: ['" + url + "']"}, ErrRemote, "deploy/kustomization.yaml"},
		"patch":     {map[string]string{"deploy/kustomization.yaml": "patches: [{path: '" + url + "'}]"}, ErrRemote, "deploy/kustomization.yaml"},
		"old patch": {map[string]string{"deploy/kustomization.yaml": "patchesStrategicMerge: ['" + url + "']"}, ErrRemote, "deploy/kustomization.yaml"},
		"JSON patch": {map[string]string{
			"deploy/kustomization.yaml": "patchesJson6902: [{path: '" + url + "', target: {version: v1, kind: Secret, name: x}}]",
		}, ErrRemote, "deploy/kustomization.yaml"},
		"CRD":             {map[string]string{"deploy/kustomization.yaml": "crds: ['" + url + "']"}, ErrRemote, "deploy/kustomization.yaml"},
		"configuration":   {map[string]string{"deploy/kustomization.yaml": "configurations: ['" + url + "']"}, ErrRemote, "deploy/kustomization.yaml"},
		"OpenAPI":         {map[string]string{"deploy/kustomization.yaml": "openapi: {path: '" + url + "'}"}, ErrRemote, "deploy/kustomization.yaml"},
		"replacement":     {map[string]string{"deploy/kustomization.yaml": "replacements: [{path: '" + url + "'}]"}, ErrRemote, "deploy/kustomization.yaml"},
		"config map file": {map[string]string{"deploy/kustomization.yaml": "configMapGenerator: [{name: a, files: ['k=" + url + "']}]"}, ErrRemote, "deploy/kustomization.yaml"},
		"secret env":      {map[string]string{"deploy/kustomization.yaml": "secretGenerator: [{name: a, envs: ['" + url + "']}]"}, ErrRemote, "deploy/kustomization.yaml"},
		"generator":       {map[string]string{"deploy/kustomization.yaml": "generators: ['" + url + "']"}, ErrRemote, "deploy/kustomization.yaml"},
		"generator's file": {map[string]string{
			"deploy/kustomization.yaml": "generators: [g.yaml]", "deploy/g.yaml": plugin("files: ['k=" + url + "']"),
		}, ErrRemote, "deploy/g.yaml"},
		"generator in a directory": {map[string]string{
			"deploy/kustomization.yaml": "generators: [g]", "deploy/g/kustomization.yaml": "resources: [g.yaml]",
			"deploy/g/g.yaml": plugin("files: ['" + url + "']"),
		}, ErrRemote, "deploy/g/g.yaml"},
		"generator written out": {map[string]string{
			"deploy/kustomization.yaml": "generators: ['{apiVersion: builtin, kind: ConfigMapGenerator, metadata: {name: p}, envs: [\"" + url + "\"]}']",
		}, ErrRemote, "deploy/kustomization.yaml"},
		"transformer's patch": {map[string]string{
			"deploy/kustomization.yaml": "resources: [x.yaml]\ntransformers: [t.yaml]", "deploy/x.yaml": configMap("x", "x"),
			"deploy/t.yaml": "apiVersion: builtin\nkind: PatchTransformer\nmetadata: {name: p}\npath: " + url + "\n",
		}, ErrRemote, "deploy/t.yaml"},
		"Helm": {map[string]string{
			"deploy/kustomization.yaml": "helmCharts: [{name: x, repo: '" + server.URL + "'}]",
		}, ErrUnsupported, "deploy/kustomization.yaml"},
		"program": {map[string]string{
			"deploy/kustomization.yaml": "transformers: [t.yaml]\nresources: [x.yaml]", "deploy/x.yaml": configMap("x", "x"),
			"deploy/t.yaml": "apiVersion: v1\nkind: T\nmetadata:\n  name: t\n  annotations:\n    config.kubernetes.io/function: |\n      exec: {path: ./t.sh}\n",
			"deploy/t.sh":   "#!/bin/sh\ntouch " + touched + "\n",
		}, nil, "deploy"},
		"plugin": {map[string]string{
			"deploy/kustomization.yaml": "generators: [g.yaml]", "deploy/g.yaml": "apiVersion: acme.com/v1\nkind: Maker\nmetadata: {name: m}\n",
		}, nil, "deploy"},
		"parent":       {map[string]string{"deploy/kustomization.yaml": "resources: [../../outside.yaml]", "../outside.yaml": configMap("o", "x")}, ErrRemote, "outside.yaml"},
		"linked file":  {map[string]string{"deploy/kustomization.yaml": "resources: [l.yaml]", "deploy/l.yaml": "-> ../../outside.yaml", "../outside.yaml": configMap("o", "x")}, ErrRemote, "deploy"},
		"linked base":  {map[string]string{"deploy/kustomization.yaml": "resources: [l]", "deploy/l": "-> ../../out", "../out/kustomization.yaml": "resources: [x.yaml]", "../out/x.yaml": configMap("o", "x")}, ErrRemote, "deploy"},
		"linked plain": {map[string]string{"deploy/l.yaml": "-> ../../outside.yaml", "../outside.yaml": configMap("o", "x")}, ErrRemote, "deploy"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Render(t.Context(), tree(t, c.files), "deploy")
			var where *Error
			if err == nil {
				t.Fatalf("rendered: %v", names(got))
			}
			if c.is != nil && !errors.Is(err, c.is) || !errors.As(err, &where) || !strings.Contains(err.Error(), c.names) {
				t.Errorf("got error %v, want %v that names %s", err, c.is, c.names)
			}
			if strings.Contains(err.Error(), os.TempDir()) {
				t.Errorf("the error shows where the commit is written: %v", err)
			}
			if asked > 0 {
				t.Errorf("the network was asked")
				asked = 0
			}
			if _, err := os.Stat(touched); err == nil {
				t.Fatal("the program has run")
			}
		})
	}
}

func TestRenderFails(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		path  string
		says  string
	}{
		"no directory":            {map[string]string{"x": ""}, "deploy", "deploy"},
		"a file":                  {map[string]string{"deploy": configMap("x", "x")}, "deploy", "is a file"},
		"outside":                 {map[string]string{"x": ""}, "../x", "outside the repository"},
		"absolute":                {map[string]string{"x": ""}, "/etc", "outside the repository"},
		"nothing":                 {map[string]string{"deploy/README.md": "x"}, "deploy", "gives no objects"},
		"empty kustomization":     {map[string]string{"deploy/kustomization.yaml": "resources: []"}, "deploy", "gives no objects"},
		"malformed":               {map[string]string{"deploy/db.yaml": "kind: [\n"}, "deploy", "deploy/db.yaml"},
		"malformed resource":      {map[string]string{"deploy/kustomization.yaml": "resources: [db.yaml]", "deploy/db.yaml": "kind: [\n"}, "deploy", "db.yaml"},
		"malformed kustomization": {map[string]string{"deploy/kustomization.yaml": "resource: [db.yaml]"}, "deploy", "deploy/kustomization.yaml"},
		"two kustomizations":      {map[string]string{"deploy/kustomization.yaml": "resources: [x.yaml]", "deploy/kustomization.yml": "resources: [x.yaml]", "deploy/x.yaml": configMap("x", "x")}, "deploy", "multiple kustomization files"},
		"missing resource":        {map[string]string{"deploy/kustomization.yaml": "resources: [db.yaml]"}, "deploy", "db.yaml"},
		"the same twice":          {map[string]string{"deploy/a.yaml": configMap("x", "1"), "deploy/b.yaml": configMap("x", "2")}, "deploy", "b.yaml"},
		"no name":                 {map[string]string{"deploy/a.yaml": "apiVersion: batch/v1\nkind: Job\nmetadata: {generateName: x-}\n"}, "deploy", "name"},
	} {
		t.Run(name, func(t *testing.T) {
			root := tree(t, c.files)
			got, err := Render(t.Context(), root, c.path)
			var where *Error
			if !errors.As(err, &where) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), root) {
				t.Errorf("got %v, error %v, want it to say %q and not %q", names(got), err, c.says, root)
			}
		})
	}
}
