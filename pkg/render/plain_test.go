package render

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// fluxOf is a Kustomization with a spec.
func fluxOf(spec map[string]any) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": fluxKustomize + "/v1", "kind": "Kustomization", "metadata": map[string]any{"name": "app"}, "spec": spec,
	}}
}

// plainAndKustomized renders a directory both ways; plain is false if only kustomize may, which then is not asked unless both are wanted.
func plainAndKustomized(t *testing.T, files map[string]string, as As, both bool) (ours, theirs []desired.Object, plain bool, err error) {
	t.Helper()
	r, err := Discover(t.Context(), Commit{Root: tree(t, files)}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if ours, plain = r.plainly(t.Context(), as, nil); !plain && !both {
		return nil, nil, false, nil
	}
	theirs, gaps, err := r.kustomized(t.Context(), as, nil)
	if len(gaps) > 0 {
		err = fmt.Errorf("%v", gaps)
	}
	inOrder := func(a, b desired.Object) int {
		return strings.Compare(a.GetKind()+" "+a.GetNamespace()+" "+a.GetName(), b.GetKind()+" "+b.GetNamespace()+" "+b.GetName())
	}
	slices.SortStableFunc(ours, inOrder)
	slices.SortStableFunc(theirs, inOrder)
	return ours, theirs, plain, err
}

const kustomizationOfOne = "namespace: shop\nresources:\n- one.yaml\n"

func TestPlainIsWhatKustomizeBuilds(t *testing.T) {
	claim := "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata:\n  name: data\nspec:\n  accessModes: [ReadWriteOnce]\n"
	for name, c := range map[string]struct {
		files map[string]string
		spec  map[string]any
		// left says that it is left to kustomize.
		left bool
	}{
		"namespace":               {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": claim}},
		"no namespace":            {files: map[string]string{"app/kustomization.yaml": "resources: [./one.yaml]", "app/one.yaml": claim}},
		"target namespace":        {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": claim}, spec: map[string]any{"targetNamespace": "other"}},
		"directory":               {files: map[string]string{"app/one.yaml": claim}, spec: map[string]any{"targetNamespace": "other"}},
		"another namespace":       {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": claim + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: b, annotations: {a: \"1\"}}\n"}},
		"its own Namespace":       {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"}},
		"empty values":            {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a, creationTimestamp: null}\nspec: {replicas: 0, template: {spec: {containers: [], volumes: null}}}\nstatus: {}\n"}},
		"comments and separators": {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "# first\n---\n# second\n---   # third\n" + claim + "---\n---\n"}},
		"references":              {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": claim + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}\n"}},
		"numbers and dates":       {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: \"1\", b: 0x10, c: 1.50, d: 2001-01-01, e: yes, f: 012, g: 1e3}\n"}},
		"text":                    {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: |\n    ---\n    b & *c\n  d: >-\n    e\n\n    f\n---\n" + claim}},
		"name of a number":        {files: map[string]string{"app/kustomization.yaml": "namespace: \"1\"\nresources: [one.yaml]", "app/one.yaml": claim}},

		"Namespace of another": {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n"}, left: true},
		"of the cluster":       {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: a}\n"}, left: true},
		"pod security policy":  {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: policy/v1beta1\nkind: PodSecurityPolicy\nmetadata: {name: a}\n"}, left: true},
		"unknown kind":         {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: a.example/v1\nkind: A\nmetadata: {name: a}\n"}, left: true},
		"role binding": {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: a}\n" +
			"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: a}\nsubjects: [{kind: ServiceAccount, name: default}]\n"}, left: true},
		"list":              {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: a}}\n"}, left: true},
		"anchors":           {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: &n a}\ndata: {a: *n}\n"}, left: true},
		"local":             {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": claim + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: a, annotations: {config.kubernetes.io/local-config: \"true\"}}\n"}, left: true},
		"no annotations":    {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: a, annotations: {}}\n"}, left: true},
		"line ends":         {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": strings.ReplaceAll(claim, "\n", "\r\n")}, left: true},
		"labels":            {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne + "labels: [{pairs: {a: b}}]\n", "app/one.yaml": claim}, left: true},
		"generator":         {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne + "configMapGenerator: [{name: a, literals: [b=c]}]\n", "app/one.yaml": claim}, left: true},
		"base":              {files: map[string]string{"app/kustomization.yaml": "namespace: shop\nresources: [../base]", "base/kustomization.yaml": kustomizationOfOne, "base/one.yaml": claim}, left: true},
		"component":         {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": claim, "app/c/kustomization.yaml": "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\nnameSuffix: -c"}, spec: map[string]any{"components": []any{"c"}}, left: true},
		"patch":             {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": claim}, spec: map[string]any{"patches": []any{map[string]any{"patch": "[{op: add, path: /metadata/labels, value: {a: b}}]", "target": map[string]any{"kind": "PersistentVolumeClaim"}}}}, left: true},
		"variables":         {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": strings.ReplaceAll(claim, "data", "${v}")}, spec: map[string]any{"postBuild": map[string]any{"substitute": map[string]any{"v": "w"}}}, left: true},
		"metadata for all":  {files: map[string]string{"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": claim}, spec: map[string]any{"commonMetadata": map[string]any{"labels": map[string]any{"a": "b"}}}, left: true},
		"file with a colon": {files: map[string]string{"app/kustomization.yaml": "resources: [https://one.example/a.yaml, one.yaml]\n", "app/one.yaml": claim}, left: true},
	} {
		t.Run(name, func(t *testing.T) {
			as := As{Path: "app", Kustomization: fluxOf(map[string]any{"path": "./app", "prune": true})}
			for field, value := range c.spec {
				_ = unstructured.SetNestedField(as.Kustomization.Object, value, "spec", field)
			}
			ours, theirs, plain, err := plainAndKustomized(t, c.files, as, false)
			if plain == c.left {
				t.Fatalf("plain: %t", plain)
			}
			if c.left {
				return
			}
			if diff := cmp.Diff(theirs, ours); diff != "" || err != nil || len(ours) == 0 {
				t.Errorf("differs from kustomize (%v):\n%s", err, diff)
			}
		})
	}
}

// What kustomize refuses must not be taken for plain.
func TestPlainRefusesWhatKustomizeRefuses(t *testing.T) {
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n"
	for name, files := range map[string]map[string]string{
		"the same twice":          {"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": secret + "---\n" + secret},
		"the same in a namespace": {"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": secret + "---\n" + strings.ReplaceAll(secret, "name: a", "name: a, namespace: b")},
		"file twice":              {"app/kustomization.yaml": kustomizationOfOne + "- one.yaml\n", "app/one.yaml": secret},
		"no file":                 {"app/kustomization.yaml": kustomizationOfOne},
		"unknown field":           {"app/kustomization.yaml": kustomizationOfOne + "nonsense: true\n", "app/one.yaml": secret},
		"another version":         {"app/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v9\nkind: Kustomization\n" + kustomizationOfOne, "app/one.yaml": secret},
		"two kustomizations":      {"app/kustomization.yaml": kustomizationOfOne, "app/Kustomization": kustomizationOfOne, "app/one.yaml": secret},
		"no name":                 {"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {}\n"},
		"text after a separator":  {"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": "a: b\n--- c\n" + secret},
		"nothing":                 {"app/kustomization.yaml": "namespace: shop\n"},
		"out of the repository":   {"app/kustomization.yaml": "resources: [../../one.yaml]\n", "one.yaml": secret},
		"keys twice":              {"app/kustomization.yaml": kustomizationOfOne, "app/one.yaml": secret + "data: {a: b, a: c}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, plain, err := plainAndKustomized(t, files, As{Path: "app"}, true)
			if plain {
				t.Errorf("it is plain, and kustomize says %v", err)
			}
		})
	}
}

// Whatever files are made of, what is plain is what kustomize builds.
func TestPlainAtRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(usual string, of ...string) string { // what is usual half of the time
		if random.IntN(2) == 0 {
			return usual
		}
		return of[random.IntN(len(of))]
	}
	object := func() string {
		return "apiVersion: " + pick("v1", "apps/v1", "batch/v1", "policy/v1", fluxHelm+"/v2", "a.example/v1") +
			"\nkind: " + pick("ConfigMap", "Secret", "Service", "ServiceAccount", "PersistentVolumeClaim", "StatefulSet", "Deployment", "CronJob", "Namespace", "Pod") +
			"\nmetadata:" + pick("", "", "", " {}", " # here") + "\n  name: " + pick(fmt.Sprintf("n%d", random.IntN(9)), "a", "b", "c", "d", "shop", "\"1\"", "1", "null") +
			pick("", "", "\n  namespace: shop", "\n  namespace: b", "\n  namespace:", "\n  namespace: \"\"") +
			pick("", "", "\n  labels: {a: b}", "\n  labels: {a: 1}", "\n  labels: {}", "\n  annotations: {a: b}", "\n  annotations: {a: true}", "\n  annotations:", "\n  creationTimestamp: null") +
			pick("", "\ndata: {a: b}", "\ndata: {a: 1.0, b: ~}", "\ndata:\n  a: |\n    ---\n    b", "\nspec: {serviceName: a, template: {spec: {serviceAccountName: b, volumes: [{configMap: {name: a}}, {secret: {secretName: b}}, {persistentVolumeClaim: {claimName: c}}]}}}",
				"\nspec: {selector: {a: b}, ports: [{port: 80}]}", "\nspec: {volumes: null, containers: [{envFrom: [{secretRef: {name: a}}]}]}", "\nstatus: {}") + "\n"
	}
	plainOnes := 0
	for i := range 300 {
		files := map[string]string{}
		list := pick("namespace: shop\n", "", "namespace: b\n") + "resources:\n"
		for n := range 1 + random.IntN(3) {
			file := fmt.Sprintf("%d.yaml", n)
			list += "- " + pick("", "./") + file + "\n"
			for range 1 + random.IntN(2) {
				files["app/"+file] += pick("", "---\n", "# c\n---\n", "--- # c\n") + object()
				if random.IntN(2) == 0 {
					break
				}
				files["app/"+file] += "---\n"
			}
		}
		files["app/kustomization.yaml"] = list
		as := As{Path: "app", Kustomization: fluxOf(map[string]any{})}
		if random.IntN(4) == 0 {
			_ = unstructured.SetNestedField(as.Kustomization.Object, "other", "spec", "targetNamespace")
		}
		ours, theirs, plain, err := plainAndKustomized(t, files, as, false)
		if !plain {
			continue
		}
		plainOnes++
		// Of two of one kind and name in a file kustomize's is found by guessing.
		if diff := cmp.Diff(theirs, ours, cmpopts.IgnoreFields(desired.Origin{}, "Line")); diff != "" || err != nil {
			t.Fatalf("%d differs from kustomize (%v):\n%s\n%v", i, err, diff, files)
		}
	}
	if plainOnes < 40 {
		t.Errorf("only %d were plain", plainOnes)
	}
}
