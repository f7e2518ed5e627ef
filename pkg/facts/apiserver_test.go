package facts_test

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// TestOnAPIServer asks a real API server: about permissions only it can answer.
func TestOnAPIServer(t *testing.T) {
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("NOT TESTED: no API server: KUBEBUILDER_ASSETS is not set; `make test` builds one and sets it")
	}
	env := &envtest.Environment{}
	config, err := env.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
	})
	connect := func(c *rest.Config) client.Client {
		connected, err := client.New(c, client.Options{Scheme: newScheme(t)})
		if err != nil {
			t.Fatal(err)
		}
		return connected
	}
	admin := connect(config)
	account := "system:serviceaccount:" + v1alpha1.SystemNamespace + ":" + facts.ControllerAccount
	as := rest.CopyConfig(config)
	as.Impersonate = rest.ImpersonationConfig{UserName: account, Groups: []string{"system:serviceaccounts", "system:authenticated"}}
	prepareServer(t, admin, account)

	// Lockstep's kinds are not installed here.
	live, err := facts.Live(t.Context(), admin)
	if err != nil || len(live.Missing) > 0 || len(live.Policies) > 0 || live.Mounted == nil {
		t.Errorf("of a cluster without Lockstep: %+v, %v", live, err)
	}
	nobody := rest.CopyConfig(config)
	nobody.Impersonate = rest.ImpersonationConfig{UserName: "nobody", Groups: []string{"system:authenticated"}}
	live, err = facts.Live(t.Context(), connect(nobody))
	if err != nil || !slices.Equal(live.Missing, []string{"PersistentVolumeClaims", "PersistentVolumes", "StorageClasses"}) || len(live.Claims) > 0 {
		t.Errorf("for who may see nothing: %+v, %v", live, err)
	}

	self := facts.Inspector{Reader: admin, Mapper: admin.RESTMapper(), Allowed: facts.Self(connect(as))}
	other := facts.Inspector{Reader: admin, Mapper: admin.RESTMapper(), Allowed: facts.Controller(admin)}
	for name, i := range map[string]facts.Inspector{"asks itself": self, "is asked about": other} {
		known, err := i.Preflight(t.Context(), planned(t), nil, "")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var denied []string
		for _, a := range known.Denied {
			denied = append(denied, strings.TrimSpace(a.Verb+" "+a.Kind.Kind+" "+a.Namespace))
		}
		for _, want := range []string{"create PersistentVolumeClaim shop", "create Namespace", "patch PersistentVolume", "create Job lockstep-system"} {
			if !slices.Contains(denied, want) {
				t.Errorf("%s: %q is not denied, only %q", name, want, denied)
			}
		}
		for _, not := range []string{"get PersistentVolumeClaim shop", "create PersistentVolumeClaim lockstep-system"} {
			if slices.Contains(denied, not) {
				t.Errorf("%s: %q is denied", name, not)
			}
		}
		if len(known.Quotas) != 1 || known.Quotas[0].Name.Name != "limits" || known.Capacity["fast"].Total != 1<<30 || len(known.NotChecked) > 0 {
			t.Errorf("%s: quotas %+v, capacity %+v, not checked %q", name, known.Quotas, known.Capacity, known.NotChecked)
		}
	}

	blind := facts.Inspector{Reader: connect(as), Mapper: admin.RESTMapper(), Allowed: facts.Controller(connect(as))}
	known, err := blind.Preflight(t.Context(), planned(t), nil, "")
	if err != nil || len(known.NotChecked) != 3 {
		t.Errorf("who may not ask: not checked %q, %v", known.NotChecked, err)
	}
	testFixed(t, admin, connect(as))
}

// testFixed: what exists and cannot become the commit's is found out without a change, and named without what is in it.
func testFixed(t *testing.T, admin, other client.Client) {
	commit := func(image string, size int) []*unstructured.Unstructured {
		return parse(t, strings.NewReplacer("IMAGE", image, "SIZE", strconv.Itoa(size)).Replace(`
{apiVersion: batch/v1, kind: Job, metadata: {name: migrate, namespace: shop}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: IMAGE}]}}}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {selector: {matchLabels: {a: b}},
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: a, image: IMAGE}]}}}}
---
{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: db, namespace: shop}, spec: {serviceName: db, selector: {matchLabels: {a: c}},
  template: {metadata: {labels: {a: c}}, spec: {containers: [{name: a, image: IMAGE}]}},
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: SIZEGi}}}}]}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: absent, namespace: shop}, spec: {template: {spec: {restartPolicy: Sometimes}}}}
`))
	}
	for _, o := range commit("one", 1)[:3] {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	p, err := plan.New(plan.Input{Objects: commit("two", 2)})
	if err != nil {
		t.Fatal(err)
	}
	known, err := facts.Inspector{Reader: admin, Mapper: admin.RESTMapper(), Try: facts.Trial(admin)}.Preflight(t.Context(), p, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	known.Quotas, known.NotChecked = nil, nil
	if err := p.Check(known); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"Job shop/migrate exists, and its spec.template cannot be changed to what the commit says; delete it",
		"StatefulSet shop/db exists, and its spec cannot be changed to what the commit says; delete it with --cascade=orphan and then its pods, so that its claims stay",
	}
	if got := p.Refusals; len(got) < 2 || !slices.Equal(got[len(got)-2:], want) {
		t.Errorf("refused for %q", got)
	}
	job := &batchv1.Job{}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "migrate"}, job); err != nil || job.Spec.Template.Spec.Containers[0].Image != "one" {
		t.Errorf("the Job now: %+v, %v", job.Spec.Template, err)
	}
	known, err = facts.Inspector{Reader: admin, Mapper: admin.RESTMapper(), Try: facts.Trial(other)}.Preflight(t.Context(), p, nil, "")
	if err != nil || len(known.Fixed) > 0 || !slices.ContainsFunc(known.NotChecked, func(s string) bool { return strings.HasPrefix(s, "whether the workloads") }) {
		t.Errorf("who may not try: %+v, not checked %q, %v", known.Fixed, known.NotChecked, err)
	}
}

func parse(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var out []*unstructured.Unstructured
	for _, m := range strings.Split(manifests, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(m), &u.Object); err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// prepareServer lets the account get claims everywhere and do anything with those of lockstep-system.
func prepareServer(t *testing.T, admin client.Client, account string) {
	t.Helper()
	size, yes := resource.MustParse("1Gi"), true
	role := func(namespace, name string, verbs ...string) []client.Object {
		rules := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"persistentvolumeclaims"}, Verbs: verbs}}
		subjects := []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: account}}
		meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
		if namespace == "" {
			return []client.Object{
				&rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules},
				&rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}},
			}
		}
		return []client.Object{
			&rbacv1.Role{ObjectMeta: meta, Rules: rules},
			&rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}},
		}
	}
	for _, o := range slices.Concat(
		[]client.Object{
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SystemNamespace}}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
			&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "limits"}, Spec: corev1.ResourceQuotaSpec{Hard: storage("10Gi")}},
			&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: "csi.example.org"},
			&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "csi.example.org"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}},
			&storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}, StorageClassName: "fast", Capacity: &size, NodeTopology: &metav1.LabelSelector{}},
		},
		role("", "look", "get"), role(v1alpha1.SystemNamespace, "work", "*"),
	) {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}
