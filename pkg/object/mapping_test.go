package object_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

func read(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

var drill = object.Mapping{Namespaces: map[string]string{"shop": "drill", "pay": "pay-drill"}, StorageClasses: map[string]string{"gp3": "standard"}}

func TestMappingObject(t *testing.T) {
	tests := []struct{ name, object, want string }{
		{"in its namespace", `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}}`, `{apiVersion: v1, kind: Service, metadata: {name: web, namespace: drill}}`},
		{"in another one", `{apiVersion: v1, kind: Service, metadata: {name: shop, namespace: other}}`, `{apiVersion: v1, kind: Service, metadata: {name: shop, namespace: other}}`},
		{"a namespace", `{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {kubernetes.io/metadata.name: shop, team: shop}}}`,
			`{apiVersion: v1, kind: Namespace, metadata: {name: drill, labels: {kubernetes.io/metadata.name: drill, team: shop}}}`},
		{"subjects", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: shop}, subjects: [
			{kind: ServiceAccount, name: web, namespace: shop}, {kind: User, name: "system:serviceaccount:shop:web"}, {kind: User, name: shop},
			{kind: Group, name: "system:serviceaccounts:shop"}, {kind: ServiceAccount, name: web, namespace: other}]}`,
			`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: shop}, subjects: [
			{kind: ServiceAccount, name: web, namespace: drill}, {kind: User, name: "system:serviceaccount:drill:web"}, {kind: User, name: shop},
			{kind: Group, name: "system:serviceaccounts:drill"}, {kind: ServiceAccount, name: web, namespace: other}]}`},
		{"a webhook", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration,
			metadata: {name: w, annotations: {cert-manager.io/inject-ca-from: shop/cert}},
			webhooks: [{clientConfig: {service: {name: web, namespace: shop}}, namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [shop, other]}]}}]}`,
			`{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration,
			metadata: {name: w, annotations: {cert-manager.io/inject-ca-from: drill/cert}},
			webhooks: [{clientConfig: {service: {name: web, namespace: drill}}, namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [drill, other]}]}}]}`},
		{"an API", `{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.x}, spec: {service: {name: x, namespace: pay}}}`,
			`{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.x}, spec: {service: {name: x, namespace: pay-drill}}}`},
		{"a network policy", `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: n, namespace: shop}, spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: pay}}}]}]}}`,
			`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: n, namespace: drill}, spec: {ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: pay-drill}}}]}]}}`},
		{"what a definition describes is no reference", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: x},
			spec: {conversion: {webhook: {clientConfig: {service: {namespace: shop}}}}, versions: [{schema: {openAPIV3Schema: {properties: {namespace: shop}}}}]}}`,
			`{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: x},
			spec: {conversion: {webhook: {clientConfig: {service: {namespace: drill}}}}, versions: [{schema: {openAPIV3Schema: {properties: {namespace: shop}}}}]}}`},
		{"text is text", `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: shop}, data: {namespace: shop, url: "http://web.shop"}}`,
			`{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: drill}, data: {namespace: shop, url: "http://web.shop"}}`},
		{"classes", `{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: shop}, spec: {volumeClaimTemplates: [{spec: {storageClassName: gp3}}, {spec: {storageClassName: fast}},
			{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: gp3}}}]}}`,
			`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: drill}, spec: {volumeClaimTemplates: [{spec: {storageClassName: standard}}, {spec: {storageClassName: fast}},
			{metadata: {annotations: {volume.beta.kubernetes.io/storage-class: standard}}}]}}`},
		{"affinity and others' kinds", `{apiVersion: example.org/v1, kind: X, metadata: {name: x, namespace: pay}, spec: {namespaces: [shop, other], sourceRef: {kind: GitRepository, name: shop, namespace: shop}}}`,
			`{apiVersion: example.org/v1, kind: X, metadata: {name: x, namespace: pay-drill}, spec: {namespaces: [drill, other], sourceRef: {kind: GitRepository, name: shop, namespace: drill}}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := read(t, tt.object)
			if diff := cmp.Diff(read(t, tt.want).Object, drill.Object(u).Object); diff != "" {
				t.Errorf("object (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(read(t, tt.object).Object, u.Object); diff != "" {
				t.Errorf("the object given was changed:\n%s", diff)
			}
			if key := object.KeyOf(u); drill.Key(key) != object.KeyOf(drill.Object(u)) {
				t.Errorf("the key of %s becomes %s", key, drill.Key(key))
			}
			if diff := cmp.Diff(u.Object, (object.Mapping{}).Object(u).Object); diff != "" {
				t.Errorf("without a mapping:\n%s", diff)
			}
		})
	}
}

func TestLeftovers(t *testing.T) {
	u := read(t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: drill}, spec: {template: {spec: {containers: [{
		env: [{name: A, value: "redis://cache.shop:6379"}, {name: B, value: database.shop.svc.cluster.local}, {name: POD_NAMESPACE, value: shop},
			{name: C, value: shop}, {name: D, value: www.shop.example.com}, {name: E, value: cache.shopping}],
		args: [--namespace=shop, --namespace=shopping, -v, "db.pay.svc"]}]}}}}`)
	const container = "spec.template.spec.containers[0]."
	want := []object.Leftover{
		{Field: container + "args[0]", Namespace: "shop"}, {Field: container + "args[3]", Namespace: "pay"}, {Field: container + "env[0].value", Namespace: "shop"},
		{Field: container + "env[1].value", Namespace: "shop"}, {Field: container + "env[2].value", Namespace: "shop"},
	}
	if diff := cmp.Diff(want, drill.Leftovers(u)); diff != "" {
		t.Errorf("deployment (-want +got):\n%s", diff)
	}
	secret := read(t, `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: drill}, data: {dsn: cG9zdGdyZXM6Ly91OnB3QGRiLnNob3A6NTQzMi94}, stringData: {a: "x.shop"}}`)
	if diff := cmp.Diff([]object.Leftover{{Field: "data.dsn", Namespace: "shop"}, {Field: "stringData.a", Namespace: "shop"}}, drill.Leftovers(secret)); diff != "" {
		t.Errorf("secret (-want +got):\n%s", diff)
	}
}
