package residual

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// thing makes an object of namespace shop; kind may have a group: "Deployment.apps".
func thing(kind, name string, change ...func(*Object)) Object {
	gk := schema.ParseGroupKind(kind)
	o := Object{Key: object.Key{Group: gk.Group, Kind: gk.Kind, Namespace: "shop", Name: name}, UID: types.UID(kind + "/" + name)}
	for _, f := range change {
		f(&o)
	}
	return o
}

func label(key, value string) func(*Object) {
	return func(o *Object) {
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[key] = value
	}
}

func annotation(key, value string) func(*Object) {
	return func(o *Object) { o.Annotations = map[string]string{key: value} }
}

func ownedBy(owner Object) func(*Object) {
	return func(o *Object) {
		o.Owners = append(o.Owners, metav1.OwnerReference{Kind: owner.Key.Kind, Name: owner.Key.Name, UID: owner.UID, Controller: new(true)})
	}
}

func deleting(o *Object) { o.Deleting = true }

func TestDecide(t *testing.T) {
	postgres := thing("Postgres.example.org", "db")
	replicas := thing("ReplicaSet.apps", "web-1", ownedBy(thing("Deployment.apps", "web")))
	byFlux := []func(*Object){label("kustomize.toolkit.fluxcd.io/name", "shop"), label("kustomize.toolkit.fluxcd.io/namespace", "flux-system")}
	applied := []func(*Object){label(v1alpha1.LabelApplicationName, "shop"), label(v1alpha1.LabelApplicationNamespace, "shop")}
	key := func(o Object) object.Key { return o.Key }
	tests := []struct {
		name   string
		object Object
		facts  Facts
		want   Verdict
		reason string
	}{
		{"made by hand", thing("Secret", "login"), Facts{}, In, "not in Git, and nobody makes it again"},
		{"a custom resource made by hand", postgres, Facts{}, In, "not in Git, and nobody makes it again"},
		{"needed by Git", thing("ConfigMap", "tuning"), Facts{Wanted: map[object.Key]Want{key(thing("ConfigMap", "tuning")): {"Deployment web", true}}},
			In, "not in Git, and nobody makes it again; Deployment web needs it"},
		{"of a derived kind", thing("Pod", "web-1"), Facts{}, Out, "made again by its workload"},
		{"a deed", thing("Job.batch", "migrate"), Facts{}, Out, "a deed: to replay it would be to do it again"},
		{"a claim", thing("PersistentVolumeClaim", "data"), Facts{}, Out, "a volume: its data is saved, and restored, as such"},
		{"Lockstep's own", thing("ProtectionPolicy.lockstep.dev", "shop"), Facts{}, Out, "Lockstep's own; its policies belong into Git"},
		{"on its way out", thing("Secret", "login", deleting), Facts{}, Out, "is being deleted"},
		{"excluded", thing("Secret", "login", annotation(v1alpha1.AnnotationExclude, "rotates daily")), Facts{}, Out, "excluded by annotation: rotates daily"},
		{"excluded without a reason", thing("Secret", "login", annotation(v1alpha1.AnnotationExclude, "")), Facts{}, Out, "excluded by annotation"},

		{"in the inventory", thing("Secret", "login", byFlux...),
			Facts{Git: map[object.Key]string{key(thing("Secret", "login")): "Kustomization flux-system/shop"}}, Out, "in Git: Kustomization flux-system/shop"},
		{"a label that was copied", thing("Secret", "login", byFlux...), Facts{}, In,
			"bears the label of Kustomization flux-system/shop, which does not bring it"},
		{"a label of Helm that was copied", thing("Secret", "login", label("helm.toolkit.fluxcd.io/name", "shop"), label("helm.toolkit.fluxcd.io/namespace", "apps")),
			Facts{}, In, "bears the label of HelmRelease apps/shop, which does not bring it"},
		{"applied by Lockstep", thing("Service", "web", applied...), Facts{}, Out, "in Git: Lockstep applied it for shop/shop"},
		{"applied by Lockstep once, and no longer in the commit", thing("Service", "web", applied...),
			Facts{Applications: map[string]bool{"shop/shop": true}}, In, "not in Git, and nobody makes it again"},
		{"a label of Lockstep that an operator copied", thing("Secret", "login", append(applied, ownedBy(postgres))...), Facts{Objects: []Object{postgres}}, In,
			"Postgres db owns it, and would make it again with other content"},
		{"tracked by Argo CD", thing("Secret", "login", annotation("argocd.argoproj.io/tracking-id", "store:/Secret:shop/login")), Facts{}, Out,
			"in Git: Argo CD Application store"},
		{"a tracking id that was copied", thing("Secret", "login", annotation("argocd.argoproj.io/tracking-id", "store:example.org/Postgres:shop/db")), Facts{}, In,
			"not in Git, and nobody makes it again"},

		{"the API server's own address", thing("Service", "kubernetes", func(o *Object) { o.Key.Namespace = "default" }), Facts{}, Out, "made by the API server itself"},
		{"a service of that name elsewhere", thing("Service", "kubernetes"), Facts{}, In, "not in Git, and nobody makes it again"},
		{"a role of the API server", thing("Role.rbac.authorization.k8s.io", "r", label("kubernetes.io/bootstrapping", "rbac-defaults")), Facts{}, Out, "made by the API server itself"},
		{"the default account", thing("ServiceAccount", "default"), Facts{}, Out, "comes with every namespace"},
		{"another account", thing("ServiceAccount", "web"), Facts{}, In, "not in Git, and nobody makes it again"},
		{"the cluster's CA", thing("ConfigMap", "kube-root-ca.crt"), Facts{}, Out, "put into every namespace by the control plane"},
		{"a trust bundle", thing("ConfigMap", "ca", label("trust.cert-manager.io/bundle", "ca")), Facts{}, Out, "put there by its trust bundle"},
		{"a lock", thing("ConfigMap", "lock", annotation("control-plane.alpha.kubernetes.io/leader", "{}")), Facts{}, Out, "a lock of a running process"},
		{"a token", thing("Secret", "t", annotation("kubernetes.io/service-account.name", "web")), Facts{}, Out,
			"a token of a ServiceAccount: the control plane makes it anew"},
		{"a token that Git names", thing("Secret", "t", annotation("kubernetes.io/service-account.name", "web")),
			Facts{Wanted: map[object.Key]Want{key(thing("Secret", "t")): {"Deployment web", true}}}, In, "not in Git, and nobody makes it again; Deployment web needs it"},
		{"a key that is being issued", thing("Secret", "t", label("cert-manager.io/next-private-key", "true")), Facts{}, Out,
			"a key of a certificate that is being issued"},
		{"a certificate", thing("Secret", "tls", annotation("cert-manager.io/certificate-name", "tls")), Facts{}, In, "an issued certificate with its key"},
		{"Helm's storage of Git's release", thing("Secret", "sh.helm.release.v1.web.v3", label("owner", "helm"), label("name", "web")),
			Facts{Releases: map[object.Name]string{{Namespace: "shop", Name: "web"}: "HelmRelease apps/web"}}, Out, "Helm's storage of HelmRelease apps/web, which makes it anew"},
		{"Helm's storage of a release by hand", thing("Secret", "sh.helm.release.v1.web.v3", label("owner", "helm"), label("name", "web")), Facts{}, In,
			"Helm's storage of a release that Git does not bring"},

		{"from outside", thing("Secret", "login", ownedBy(thing("ExternalSecret.external-secrets.io", "login"))), Facts{}, Out, "made again by ExternalSecret login"},
		{"from outside, not owned", thing("Secret", "login", label("reconcile.external-secrets.io/managed", "true")), Facts{}, Out, "made again by an ExternalSecret"},
		{"a copy", thing("Secret", "login", annotation("reflector.v1.k8s.emberstack.com/reflects", "vault/login")), Facts{}, Out,
			"a copy, which its replicator makes again"},

		{"an operator's password", thing("Secret", "login", ownedBy(postgres)), Facts{Objects: []Object{postgres}}, In,
			"Postgres db owns it, and would make it again with other content"},
		{"a password whose owner is gone", thing("Secret", "login", ownedBy(postgres)), Facts{Gone: map[types.UID]bool{postgres.UID: true}}, Out,
			"its owner Postgres db is gone: it will be deleted"},
		{"a password of an owner that cannot be looked at", thing("Secret", "login", ownedBy(postgres)), Facts{}, In,
			"Postgres db owns it, and would make it again with other content"},
		{"an operator's settings", thing("ConfigMap", "settings", ownedBy(postgres)), Facts{Objects: []Object{postgres}}, Out, "made again by Postgres db"},
		{"an operator's settings, by option", thing("ConfigMap", "settings", ownedBy(postgres)), Facts{Objects: []Object{postgres}, OwnedConfigMaps: true}, In,
			"Postgres db owns it, and would make it again with other content"},
		{"owned by what Git brings", thing("Service", "web", ownedBy(postgres)),
			Facts{Objects: []Object{postgres}, Git: map[object.Key]string{postgres.Key: "the commit renders it"}}, Out, "made again by Postgres db, which is in Git"},
		{"owned through others", thing("Endpoint.cilium.io", "web", ownedBy(replicas)), Facts{Owners: map[types.UID]Object{
			replicas.UID: replicas, "Deployment.apps/web": thing("Deployment.apps", "web", applied...)}}, Out, "made again by Deployment web, which is in Git"},
		{"owned through what cannot be looked at", thing("Service", "web", ownedBy(postgres)), Facts{}, Out, "made again by Postgres db, which owns it"},

		{"found endpoints", thing("Endpoints", "web"), Facts{Selecting: map[object.Name]bool{{Namespace: "shop", Name: "web"}: true}}, Out,
			"found again by its Service's selector"},
		{"endpoints by hand", thing("Endpoints", "web"), Facts{Selecting: map[object.Name]bool{{Namespace: "shop", Name: "web"}: false}}, In,
			"not in Git, and nobody makes it again"},
		{"endpoints of nothing", thing("Endpoints", "web"), Facts{}, Out, "belongs to no Service"},
		{"a found slice", thing("EndpointSlice.discovery.k8s.io", "web-1", label("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io")),
			Facts{}, Out, "found again by its Service"},
		{"a slice by hand", thing("EndpointSlice.discovery.k8s.io", "web-1"), Facts{}, In, "not in Git, and nobody makes it again"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.facts.Objects = append([]Object{tt.object}, tt.facts.Objects...)
			for _, d := range Decide(tt.facts) {
				if d.Key == tt.object.Key {
					if diff := cmp.Diff(Decision{tt.object.Key, tt.want, tt.reason}, d); diff != "" {
						t.Errorf("decision (-want +got):\n%s", diff)
					}
					return
				}
			}
			t.Error("no decision")
		})
	}
}

// An owner that owns itself in the end must not keep the walk going.
func TestOwnersInACircle(t *testing.T) {
	a, b := thing("A.example.org", "a"), thing("B.example.org", "b")
	ownedBy(b)(&a)
	ownedBy(a)(&b)
	for _, d := range Decide(Facts{Objects: []Object{a, b}}) {
		if d.Verdict != Out {
			t.Errorf("%+v", d)
		}
	}
}

func TestMissingIsSaid(t *testing.T) {
	login := thing("Secret", "login")
	want := Want{By: "Deployment web", Required: true}
	missing := []Decision{{login.Key, Missing, "Deployment web needs it, and neither Git nor the cluster holds it"}}
	tests := []struct {
		name  string
		facts Facts
		want  []Decision
	}{
		{"nowhere", Facts{Wanted: map[object.Key]Want{login.Key: want}}, missing},
		{"being deleted", Facts{Wanted: map[object.Key]Want{login.Key: want}, Objects: []Object{thing("Secret", "login", deleting)}}, missing},
		{"optional", Facts{Wanted: map[object.Key]Want{login.Key: {By: want.By}}}, []Decision{}},
		{"in Git, and not yet in the cluster", Facts{Wanted: map[object.Key]Want{login.Key: want}, Git: map[object.Key]string{login.Key: "x"}}, []Decision{}},
		{"excluded", Facts{Wanted: map[object.Key]Want{login.Key: want}, Objects: []Object{thing("Secret", "login", annotation(v1alpha1.AnnotationExclude, "no"))}},
			[]Decision{{login.Key, Out, "excluded by annotation: no"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Decide(tt.facts)); diff != "" {
				t.Errorf("decisions (-want +got):\n%s", diff)
			}
		})
	}
}

type served struct {
	lists []*metav1.APIResourceList
	err   error
}

func (s served) ServerPreferredNamespacedResources() ([]*metav1.APIResourceList, error) {
	return s.lists, s.err
}

func TestKinds(t *testing.T) {
	verbs := metav1.Verbs{"create", "get", "list"}
	lists := []*metav1.APIResourceList{
		{GroupVersion: "v1", APIResources: []metav1.APIResource{
			{Name: "secrets", Kind: "Secret", Verbs: verbs}, {Name: "pods", Kind: "Pod", Verbs: verbs},
			{Name: "bindings", Kind: "Binding", Verbs: metav1.Verbs{"create"}}, {Name: "services/status", Kind: "Service", Verbs: verbs},
		}},
		{GroupVersion: "example.org/v2", APIResources: []metav1.APIResource{{Name: "postgreses", Kind: "Postgres", Verbs: verbs}, {Name: "seen", Kind: "Seen", Verbs: metav1.Verbs{"list"}}}},
		{GroupVersion: "lockstep.dev/v1alpha1", APIResources: []metav1.APIResource{{Name: "restores", Kind: "Restore", Verbs: verbs}}},
	}
	failed := func(group string) error {
		return &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: group, Version: "v1"}: errors.New("503")}}
	}
	want := []schema.GroupVersionKind{{Version: "v1", Kind: "Secret"}, {Group: "example.org", Version: "v2", Kind: "Postgres"}}
	for _, err := range []error{nil, failed("metrics.k8s.io")} {
		got, err := Kinds(served{lists, err})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("kinds (-want +got):\n%s", diff)
		}
	}
	for _, err := range []error{errors.New("timeout"), failed("example.org")} {
		if got, err := Kinds(served{lists, err}); err == nil {
			t.Errorf("an answer that is cut short gave %v", got)
		}
	}
}

func TestInventoryIDs(t *testing.T) {
	tests := []struct {
		id   string
		want object.Key
		ok   bool
	}{
		{"shop_login__Secret", object.Key{Kind: "Secret", Namespace: "shop", Name: "login"}, true},
		{"shop_web_apps_Deployment", object.Key{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "web"}, true},
		{"_system__node_rbac.authorization.k8s.io_ClusterRole", object.Key{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "system:node"}, true},
		{"shop_login", object.Key{}, false},
		{"", object.Key{}, false},
		{"shop___Secret", object.Key{}, false},
	}
	for _, tt := range tests {
		got, ok := parseInventory(tt.id)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("%q: got %+v, %v", tt.id, got, ok)
		}
	}
}
