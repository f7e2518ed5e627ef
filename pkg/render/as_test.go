package render

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/kustomize"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"
)

func kustomization(t *testing.T, spec string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{}}
	text := "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: shop, namespace: flux-system}\nspec:\n" + spec
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// built does what kustomize-controller does with its own packages, up to the objects that it applies.
func built(ctx context.Context, c client.Client, root string, u *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	path, _, _ := unstructured.NestedString(u.Object, "spec", "path")
	dir := filepath.Join(root, path)
	if _, err := kustomize.NewGenerator(root, *u).WriteFile(dir); err != nil {
		return nil, err
	}
	m, err := kustomize.SecureBuild(root, dir, false)
	if err != nil {
		return nil, err
	}
	_, postBuild, _ := unstructured.NestedMap(u.Object, "spec", "postBuild")
	strategy, _, _ := unstructured.NestedString(u.Object, "spec", "postBuild", "substituteStrategy")
	for _, r := range m.Resources() {
		if !postBuild {
			break
		}
		replaced, err := kustomize.SubstituteVariables(ctx, c, *u, r, kustomize.SubstituteWithAlways(strategy == "Always"))
		if err != nil {
			return nil, err
		}
		if replaced != nil {
			if _, err := m.Replace(r); err != nil {
				return nil, err
			}
		}
	}
	text, err := m.AsYaml()
	if err != nil {
		return nil, err
	}
	objects, err := ssautil.ReadObjects(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	labels, _, _ := unstructured.NestedStringMap(u.Object, "spec", "commonMetadata", "labels")
	annotations, _, _ := unstructured.NestedStringMap(u.Object, "spec", "commonMetadata", "annotations")
	ssautil.SetCommonMetadata(objects, labels, annotations)
	return objects, nil
}

const stack = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers: [{name: db, image: "postgres:16", env: [{name: HOST, value: "${host:=localhost}"}, {name: ZONE, value: "${zone}"}]}]
      volumes: [{name: shared, persistentVolumeClaim: {claimName: shared}}]
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared, namespace: shop}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: "${size:=1Gi}"}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: script, namespace: shop, annotations: {kustomize.toolkit.fluxcd.io/substitute: disabled}}
data: {run: "echo ${host}"}
`

// TestBuild holds what is rendered to be the very bytes of what Flux's own packages make of the same Kustomization.
func TestBuild(t *testing.T) {
	variables := fake.NewClientBuilder().WithObjects(
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "flux-system", Name: "vars"}, Data: map[string]string{"zone": "eu\n", "size": "2Gi"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "flux-system", Name: "more"}, Data: map[string][]byte{"size": []byte("4Gi")}},
	).Build()
	tests := map[string]struct {
		spec, overlay string
		from          map[string]string
		// want are words that must be in the result, so that equal is not equally nothing.
		want []string
	}{
		"names, a namespace and metadata": {
			spec: "  path: ./app\n  targetNamespace: other\n  namePrefix: eu-\n  nameSuffix: -one\n  commonMetadata: {labels: {team: eu}, annotations: {owner: me}}\n",
			want: []string{"namespace: other", "name: eu-db-one", "claimName: eu-shared-one", "${host:=localhost}", "team: eu", "owner: me"},
		},
		"patches": {
			spec: "  path: ./app\n  patches:\n  - target: {kind: StatefulSet}\n    patch: |\n      - {op: replace, path: /spec/volumeClaimTemplates/0/metadata/name, value: pgdata}\n" +
				"  - patch: |\n      {apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: shared, namespace: shop}, spec: {storageClassName: fast}}\n",
			want: []string{"name: pgdata", "storageClassName: fast"},
		},
		"images and components over an overlay's": {
			spec:    "  path: app\n  images: [{name: postgres, newName: mirror/postgres}]\n  components: [../extra, ../none]\n  ignoreMissingComponents: true\n",
			overlay: "resources: [../base]\nimages: [{name: postgres, newTag: \"15\"}]\n", want: []string{"mirror/postgres:15", "name: db-more"},
		},
		"variables": {
			spec: "  path: app\n  postBuild: {substitute: {host: db.example.org}, substituteFrom: [{kind: ConfigMap, name: vars}, {kind: Secret, name: more}]}\n",
			from: map[string]string{"zone": "eu\n", "size": "4Gi"}, want: []string{"value: db.example.org", "value: eu", "storage: 4Gi", "echo ${host}"},
		},
		"variables of its own": {
			spec: "  path: app\n  postBuild: {substitute: {size: 8Gi}, substituteFrom: [{kind: Secret, name: more}, {kind: Secret, name: none, optional: true}]}\n",
			from: map[string]string{"size": "4Gi"}, want: []string{"storage: 8Gi", "value: localhost"},
		},
		"no variables":    {spec: "  path: app\n  postBuild: {}\n", want: []string{"${host:=localhost}"}},
		"defaults always": {spec: "  path: app\n  postBuild: {substituteStrategy: Always}\n", want: []string{"value: localhost", "storage: 1Gi"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{
				"base/stack.yaml": stack, "base/kustomization.yaml": "resources: [stack.yaml]\n",
				"extra/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnamespace: shop\n" +
					"replacements: []\npatches:\n- target: {kind: StatefulSet}\n  options: {allowNameChange: true}\n" +
					"  patch: |\n    - {op: replace, path: /metadata/name, value: db-more}\n",
			}
			if tt.overlay == "" {
				files["app/stack.yaml"] = stack
			} else {
				files["app/kustomization.yaml"] = tt.overlay
			}
			u := kustomization(t, tt.spec)
			path, _, _ := unstructured.NestedString(u.Object, "spec", "path")
			root := tree(t, files)
			before := everything(t, root)
			got, err := Build(t.Context(), root, As{Path: path, Kustomization: u, Variables: tt.from})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, everything(t, root)); diff != "" {
				t.Errorf("the commit was changed:\n%s", diff)
			}
			want, err := built(t.Context(), variables, tree(t, files), u)
			if err != nil {
				t.Fatal(err)
			}
			text := printed(t, got)
			if diff := cmp.Diff(printed(t, want), text); diff != "" {
				t.Errorf("not what Flux builds (-want +got):\n%s", diff)
			}
			for _, word := range tt.want {
				if !strings.Contains(text, word) {
					t.Errorf("%q is not in\n%s", word, text)
				}
			}
		})
	}
}

func printed(t *testing.T, objects []*unstructured.Unstructured) string {
	t.Helper()
	text, err := ssautil.ObjectsToYAML(objects)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// everything is the content of all files below a directory.
func everything(t *testing.T, root string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestBuildRefuses: what an engine's object adds is guarded as what the commit says itself, and no error holds a variable's value.
func TestBuildRefuses(t *testing.T) {
	root := tree(t, map[string]string{
		"app/a.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: \"s\", namespace: shop}\nstringData:\n  a: ${password}\n", "outside.yaml": configMap("o", "x"),
	})
	outside := filepath.Join(filepath.Dir(root), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		spec, says string
		is         error
	}{
		"component elsewhere":      {spec: "  path: app\n  components: [\"https://example.org/c\"]\n", says: "must be local"},
		"component of a host":      {spec: "  path: app\n  components: [\"git@example.org:x/y\"]\n", says: "local"},
		"component outside":        {spec: "  path: app\n  components: [../../outside]\n", is: ErrRemote},
		"path outside":             {spec: "  path: ../app\n", is: ErrRemote},
		"a value that breaks YAML": {spec: "  path: app\n  postBuild: {substituteFrom: [{kind: Secret, name: s}]}\n", says: "Secret s"},
	} {
		t.Run(name, func(t *testing.T) {
			u := kustomization(t, tt.spec)
			path, _, _ := unstructured.NestedString(u.Object, "spec", "path")
			_, err := Build(t.Context(), root, As{Path: path, Kustomization: u, Variables: map[string]string{"password": "hunter2: [&"}})
			if err == nil || tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error %v, want one that is %v and says %q", err, tt.is, tt.says)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), root)) {
				t.Errorf("the error says too much: %v", err)
			}
		})
	}
}

// TestBuildArtifact: what Flux's source leaves out is not waited for. Other engines have all files.
func TestBuildArtifact(t *testing.T) {
	root := tree(t, map[string]string{
		".sourceignore": "/app/drafts\n", "app/a.yaml": configMap("a", "x"), "app/drafts/b.yaml": configMap("b", "x"), "app/c.test.yaml": configMap("c", "x"),
	})
	if err := os.Symlink("a.yaml", filepath.Join(root, "app", "link.yaml")); err != nil {
		t.Fatal(err)
	}
	none, tests := "", "*.test.yaml"
	for name, tt := range map[string]struct {
		ignore *string
		want   []string
	}{
		"the files as they lie": {nil, nil}, // a is there twice
		".sourceignore":         {&none, []string{"ConfigMap/shop/a", "ConfigMap/shop/c"}},
		"and the source":        {&tests, []string{"ConfigMap/shop/a"}},
	} {
		got, err := Build(t.Context(), root, As{Path: "app", Kustomization: kustomization(t, "  path: app\n"), Ignore: tt.ignore})
		if (err != nil) != (tt.want == nil) {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tt.want, names(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestBuildFlat: Argo CD takes of a plain directory what lies in it, and nothing below, and puts what names no namespace into its own.
func TestBuildFlat(t *testing.T) {
	plain := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: plain}\n"
	root := tree(t, map[string]string{
		"app/a.yaml": configMap("a", "x"), "app/b.yaml": plain, "app/below/c.yaml": configMap("c", "x"),
		"app/other/kustomization.yaml": "resources: [d.yaml]\n", "app/other/d.yaml": configMap("d", "x"),
	})
	for flat, want := range map[bool][]string{
		true:  {"ConfigMap/shop/a", "ConfigMap/team/plain"},
		false: {"ConfigMap/shop/a", "ConfigMap/team/plain", "ConfigMap/shop/c", "ConfigMap/shop/d"},
	} {
		got, err := Build(t.Context(), root, As{Path: "app", Namespace: "team", Flat: flat})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, names(got)); diff != "" {
			t.Errorf("flat %t (-want +got):\n%s", flat, diff)
		}
	}
}

// What Flux's generator makes of a kustomization is made without it, or left to it.
func TestSettled(t *testing.T) {
	const file = "kustomization.yaml"
	for name, c := range map[string]struct {
		kustomization, spec string
		left                bool
	}{
		"plain":                {"resources: [a.yaml]\n", "  path: shop\n", false},
		"a namespace":          {"resources: [a.yaml]\n", "  targetNamespace: shop\n", false},
		"another namespace":    {"namespace: blog\nresources: [a.yaml]\n", "  targetNamespace: shop\n", false},
		"all that one says":    {"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nmetadata: {name: x}\nnamePrefix: a-\nlabels: [{pairs: {a: b}}]\nimages: [{name: a, newTag: \"1\"}]\nresources: [a.yaml, ../b]\nconfigMapGenerator: [{name: c, literals: [d=e]}]\npatches: [{path: p.yaml}]\n", "  targetNamespace: shop\n", false},
		"a component":          {"apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nresources: [a.yaml]\n", "  path: shop\n", false},
		"fields unknown to it": {"resources: [a.yaml]\nnone: such\nRESOURCES: [b.yaml]\n", "  path: shop\n", false},
		"what is filled in":    {"resources: [a.yaml]\n", "  postBuild: {substitute: {a: b}}\n  commonMetadata: {labels: {a: b}}\n", false},
		"the empty namespace":  {"namespace: blog\nresources: [a.yaml]\n", "  targetNamespace: \"\"\n", false},
		"no resources":         {"namespace: shop\n", "  path: shop\n", true},
		"patches":              {"resources: [a.yaml]\n", "  patches: [{patch: \"{}\"}]\n", true},
		"components":           {"resources: [a.yaml]\n", "  components: [../c]\n", true},
		"no YAML":              {"resources: [a.yaml\n", "  path: shop\n", true},
		"no kustomization":     {"- a.yaml\n", "  path: shop\n", true},
		"no namespace":         {"resources: [a.yaml]\n", "  targetNamespace: [shop]\n", true},
	} {
		root := tree(t, map[string]string{"shop/" + file: c.kustomization, "shop/a.yaml": "{}\n"})
		fs, dir, err := open(t.Context(), root, "shop")
		if err != nil {
			t.Fatal(err)
		}
		engine := kustomization(t, c.spec)
		data, at, err := fs.settled(fs.kustomizationsIn(dir), As{Kustomization: engine})
		if err != nil || (data == nil) != c.left {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		if data == nil {
			continue
		}
		want, wantAt, _, err := kustomize.NewGenerator(fs.root, *engine).GenerateManifest(dir)
		if err != nil || at != wantAt || !bytes.Equal(data, want) {
			t.Errorf("%s: in %s\n%s\nand Flux's in %s, %v\n%s", name, at, data, wantAt, err, want)
		}
	}
	root := tree(t, map[string]string{"shop/" + file: "resources: [a.yaml]\n", "shop/kustomization.yml": "resources: [a.yaml]\n"})
	fs, dir, err := open(t.Context(), root, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if data, _, err := fs.settled(fs.kustomizationsIn(dir), As{Kustomization: kustomization(t, "  path: shop\n")}); data != nil || err != nil {
		t.Errorf("of two: %q, %v", data, err)
	}
}
