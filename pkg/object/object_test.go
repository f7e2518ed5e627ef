package object_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

func parse(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(manifest), &u.Object); err != nil {
		t.Fatalf("parsing the manifest: %v", err)
	}
	return u
}

const database = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db, namespace: shop}
spec:
  replicas: 2
  ordinals: {start: 3}
  selector: {matchLabels: {app: db}}
  template:
    spec:
      containers:
      - name: db
        env:
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}
        - {name: MODE, valueFrom: {configMapKeyRef: {name: tuning, key: mode, optional: true}}}
      volumes:
      - {name: data, persistentVolumeClaim: {claimName: hidden}}
      - {name: shared, persistentVolumeClaim: {claimName: shared}}
      - {name: scratch, ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce]}}}}
  volumeClaimTemplates:
  - metadata: {name: data, labels: {tier: gold, app: template}}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

const front = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    spec:
      imagePullSecrets: [{name: registry}]
      initContainers:
      - name: prepare
        envFrom: [{secretRef: {name: login, optional: true}}]
      containers:
      - name: web
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: login, key: password}}}]
        envFrom: [{configMapRef: {name: web}}]
      volumes:
      - {name: certificate, secret: {secretName: tls}}
      - name: all
        projected:
          sources:
          - {secret: {name: token, optional: true}}
          - {configMap: {name: ca}}
`

const nightly = `
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: shop}
spec:
  jobTemplate: {spec: {template: {spec: {volumes: [{name: out, persistentVolumeClaim: {claimName: reports}}]}}}}
`

func TestPods(t *testing.T) {
	name := func(s string) object.Name { return object.Name{Namespace: "shop", Name: s} }
	tests := []struct {
		name, manifest string
		want           []object.Pod
	}{
		{"each replica of a set has its own claims, and a template hides a volume of its name", database, []object.Pod{
			{Name: "db-3", Claims: []object.Name{name("data-db-3"), name("shared")}},
			{Name: "db-4", Claims: []object.Name{name("data-db-4"), name("shared")}},
		}},
		{"stateless", front, []object.Pod{{Name: "web"}}},
		{"cron job", nightly, []object.Pod{{Name: "nightly", Claims: []object.Name{name("reports")}}}},
		{"pod", `{apiVersion: v1, kind: Pod, metadata: {name: one, namespace: shop},
			spec: {volumes: [{name: a, persistentVolumeClaim: {claimName: b}}, {name: c, persistentVolumeClaim: {claimName: b}}]}}`,
			[]object.Pod{{Name: "one", Claims: []object.Name{name("b")}}}},
		{"set scaled to nothing", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: shop},
			spec: {replicas: 0, template: {spec: {}}, volumeClaimTemplates: [{metadata: {name: data}}]}}`, nil},
		{"a custom resource is no workload", `{apiVersion: example.org/v1, kind: StatefulSet, metadata: {name: db, namespace: shop}}`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := object.Pods(parse(t, tt.manifest))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("pods (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMalformedWorkload(t *testing.T) {
	for _, manifest := range []string{
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {}}`,
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {template: {spec: {volumes: 7}}}}`,
		`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: shop}, spec: {replicas: many, template: {spec: {}}}}`,
	} {
		if _, err := object.Pods(parse(t, manifest)); !errors.Is(err, object.ErrMalformed) {
			t.Errorf("%s: got error %v, want ErrMalformed", manifest, err)
		}
	}
}

func TestTemplateOf(t *testing.T) {
	set, err := object.StatefulSet(parse(t, database))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		claim object.Name
		pod   string
	}{
		{object.Name{Namespace: "shop", Name: "data-db-3"}, "db-3"},
		{object.Name{Namespace: "shop", Name: "data-db-17"}, "db-17"},
		{object.Name{Namespace: "shop", Name: "data-db-03"}, ""},
		{object.Name{Namespace: "shop", Name: "data-db--1"}, ""},
		{object.Name{Namespace: "shop", Name: "data-db-"}, ""},
		{object.Name{Namespace: "shop", Name: "data-dbx-1"}, ""},
		{object.Name{Namespace: "other", Name: "data-db-3"}, ""},
	}
	for _, tt := range tests {
		template, pod, ok := object.TemplateOf(set, tt.claim)
		if pod != tt.pod || ok != (tt.pod != "") || (template != nil) != ok {
			t.Errorf("%s: got pod %q, %v, want %q", tt.claim, pod, ok, tt.pod)
		}
	}
}

func TestClaimFromTemplate(t *testing.T) {
	set, err := object.StatefulSet(parse(t, database))
	if err != nil {
		t.Fatal(err)
	}
	claim := object.ClaimFromTemplate(set, &set.Spec.VolumeClaimTemplates[0], object.TemplateClaim(set, "data", 3))
	want := map[string]string{"tier": "gold", "app": "db"}
	if diff := cmp.Diff(want, claim.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if claim.Namespace != "shop" || claim.Name != "data-db-3" || claim.Spec.Resources.Requests.Storage().String() != "1Gi" {
		t.Errorf("got claim %s/%s of %s", claim.Namespace, claim.Name, claim.Spec.Resources.Requests.Storage())
	}
	if claim.Labels["app"] = "changed"; set.Spec.Selector.MatchLabels["app"] != "db" || set.Spec.VolumeClaimTemplates[0].Labels["app"] != "template" {
		t.Error("the claim shares its labels with the set")
	}
}

func TestReferences(t *testing.T) {
	ref := func(kind, name string, optional bool) object.Reference {
		return object.Reference{Kind: kind, Name: object.Name{Namespace: "shop", Name: name}, Optional: optional}
	}
	tests := []struct {
		name, manifest string
		want           []object.Reference
	}{
		{"set", database, []object.Reference{ref("ConfigMap", "tuning", true), ref("Secret", "login", false)}},
		{"required once is required", front, []object.Reference{
			ref("ConfigMap", "ca", false), ref("ConfigMap", "web", false),
			ref("Secret", "login", false), ref("Secret", "registry", true), ref("Secret", "tls", false), ref("Secret", "token", true),
		}},
		{"service account", `{apiVersion: v1, kind: ServiceAccount, metadata: {name: a, namespace: shop}, imagePullSecrets: [{name: registry}]}`,
			[]object.Reference{ref("Secret", "registry", true)}},
		{"ingress", `{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a, namespace: shop},
			spec: {tls: [{secretName: tls}, {hosts: [a]}]}}`, []object.Reference{ref("Secret", "tls", true)}},
		{"anything else", `{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}}`, []object.Reference{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := object.References(parse(t, tt.manifest))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("references (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	set := parse(t, database)
	if got := object.KeyOf(set).String(); got != "StatefulSet shop/db" {
		t.Errorf("got %q", got)
	}
	custom := object.Key{Group: "cert-manager.io", Kind: "Certificate", Namespace: "shop", Name: "tls"}
	if got := custom.String(); got != "Certificate.cert-manager.io shop/tls" {
		t.Errorf("got %q", got)
	}
	if _, err := object.NewSet([]*unstructured.Unstructured{set, set.DeepCopy()}); err == nil {
		t.Error("an object that stands twice was accepted")
	}
	objects, err := object.NewSet([]*unstructured.Unstructured{parse(t, `{apiVersion: v1, kind: Secret, metadata: {name: login, namespace: shop}}`)})
	if err != nil {
		t.Fatal(err)
	}
	if !objects.Has(object.Secret, object.Name{Namespace: "shop", Name: "login"}) || objects.Has(object.Secret, object.Name{Namespace: "x", Name: "login"}) {
		t.Error("the set does not know what it holds")
	}
}

func TestNameIsText(t *testing.T) {
	in := map[object.Name]object.Name{{Namespace: "a", Name: "b"}: {Namespace: "c", Name: "d"}}
	data, err := json.Marshal(in)
	if err != nil || string(data) != `{"a/b":"c/d"}` {
		t.Fatalf("got %s, %v", data, err)
	}
	var out map[object.Name]object.Name
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "a", "/a", "a/", "a/b/c"} {
		if _, err := object.ParseName(bad); err == nil {
			t.Errorf("%q was read as a name", bad)
		}
	}
}
