package plan_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

func objectsOf(t *testing.T, text string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for _, document := range strings.Split(text, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// beside is a commit with all that is different where it runs beside itself.
const beside = `{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.0.0.9, ports: [{port: 80, nodePort: 30080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, ports: [{port: 5432}]}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: web, namespace: shop}, spec: {rules: [{host: shop.example.org}]}}
---
{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: shop, namespace: shop}, spec: {vaults: [primary]}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: shop-reader}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: shop-writer}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings, namespace: shop}, data: {database: "db.shop.svc:5432"}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: dashboard, namespace: monitoring}}`

func mappedInput(t *testing.T, m object.Mapping) plan.Input {
	t.Helper()
	in := input(t)
	in.Objects = objectsOf(t, beside)
	in.Mapped = plan.Map(m, in.Choice.Record, in.Objects)
	in.Choice.Record, in.Objects = in.Mapped.Record, in.Mapped.Objects
	in.Facts.Kinds = nil
	return in
}

func TestPlanMapped(t *testing.T) {
	in := mappedInput(t, object.Mapping{Namespaces: map[string]string{"shop": "shop-clone"}})
	var apart []string
	for _, u := range in.Mapped.Apart() {
		apart = append(apart, object.KeyOf(u).String())
	}
	slices.Sort(apart)
	if diff := cmp.Diff([]string{"ClusterRole shop-reader", "ClusterRole shop-writer", "ConfigMap monitoring/dashboard"}, apart); diff != "" {
		t.Errorf("looked for (-want +got):\n%s", diff)
	}
	in.Facts.Existing = map[object.Key]bool{}
	for _, u := range in.Mapped.Apart() {
		in.Facts.Existing[object.KeyOf(u)] = u.GetName() != "shop-writer"
	}
	in.Facts.Namespaces["monitoring"] = true
	p := mustPlan(t, in)
	if len(p.Refusals) > 0 || p.Application != "shop-clone/shop" {
		t.Errorf("application %s, refused for %q", p.Application, p.Refusals)
	}
	for _, c := range p.Claims {
		if c.Name.Namespace != "shop-clone" || c.Target.Namespace != "shop-clone" {
			t.Errorf("claim %s, made in %q", c.Name, c.Target.Namespace)
		}
	}
	var applied []string
	for _, o := range slices.Concat(p.Definitions, p.Base) {
		applied = append(applied, o.String())
		suspended, _, _ := unstructured.NestedBool(o.Manifest.Object, "spec", "suspend")
		if o.Kind == "ProtectionPolicy" != suspended {
			t.Errorf("%s is suspended: %v", o.Key, suspended)
		}
	}
	if got := strings.Join(applied, ", "); strings.Contains(got, "reader") || strings.Contains(got, "dashboard") || !strings.Contains(got, "shop-writer") ||
		!strings.Contains(got, "Namespace shop-clone") {
		t.Errorf("applied: %s", got)
	}
	golden(t, "clone.txt", p.Text())
}

func TestMapStorageClass(t *testing.T) {
	in := input(t)
	in.Mapped = plan.Map(object.Mapping{StorageClasses: map[string]string{"fast": "missing"}}, in.Choice.Record, in.Objects)
	in.Choice.Record, in.Objects = in.Mapped.Record, in.Mapped.Objects
	if p := mustPlan(t, in); !strings.Contains(strings.Join(p.Refusals, "; "), `needs storage class "missing"`) {
		t.Errorf("refused for %q", p.Refusals)
	}
	if len(in.Mapped.Apart()) > 0 {
		t.Error("objects are looked for, where no namespace is mapped")
	}
}

func TestRefuseMapping(t *testing.T) {
	names := func(pairs ...string) object.Mapping {
		m := object.Mapping{Namespaces: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			m.Namespaces[pairs[i]] = pairs[i+1]
		}
		return m
	}
	tests := []struct {
		name    string
		mapping object.Mapping
		home    string
		says    string
	}{
		{"a slip of the pen", names("shpo", "shop-clone"), "", "namespace shpo another name, and neither the commit nor the point has it; they have monitoring, shop"},
		{"two in one", names("shop", "one", "monitoring", "one"), "", "namespaces monitoring and shop would both become one"},
		{"into one that the commit has", names("shop", "monitoring"), "", "namespaces monitoring and shop would both become monitoring"},
		{"a class that nobody asks for", object.Mapping{StorageClasses: map[string]string{"gp9": "slow"}}, "", "storage class gp9 another name, and no claim"},
		{"another namespace's data into one's own", names("shop", "mine", "monitoring", "monitoring"), "mine", "only a Restore in lockstep-system may do that"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := mappedInput(t, tt.mapping)
			if tt.home != "" {
				in.Facts.RestoreNamespace = tt.home
			}
			if p := mustPlan(t, in); !strings.Contains(strings.Join(p.Refusals, "; "), tt.says) {
				t.Errorf("refused for %q, want it about %q", p.Refusals, tt.says)
			}
		})
	}
}

// TestNoMapping: without one nothing is different, and nothing is said.
func TestNoMapping(t *testing.T) {
	in := input(t)
	mapped := plan.Map(object.Mapping{}, in.Choice.Record, in.Objects)
	if diff := cmp.Diff(in.Objects, mapped.Objects); diff != "" || len(mapped.Refusals)+len(mapped.Notes)+len(mapped.Apart()) > 0 {
		t.Errorf("notes %v, refused for %q:\n%s", mapped.Notes, mapped.Refusals, diff)
	}
	in.Mapped = mapped
	if p := mustPlan(t, in); p.Mapping != nil {
		t.Error("the plan has a mapping")
	}
}
