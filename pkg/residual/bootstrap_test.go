package residual_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

const namespaces = `
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: flux-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: argocd}
---
apiVersion: v1
kind: Namespace
metadata: {name: kube-system, annotations: {lockstep.dev/exclude: kept in a safe}}
---
`

// engines: one Kustomization deploys the shop, another one something else, and the shop has an object that bears the label of the other.
const engines = namespaces + `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: shop, namespace: flux-system, uid: k}
spec:
  sourceRef: {kind: GitRepository, name: fleet}
  decryption: {provider: sops, secretRef: {name: sops-age}}
  postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}, {kind: Secret, name: in-git}, {kind: Secret, name: none}]}
status: {inventory: {entries: [{id: shop_settings__ConfigMap, v: v1}]}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: other, namespace: flux-system, uid: o}
spec: {sourceRef: {kind: GitRepository, name: others}, decryption: {secretRef: {name: other-age}}}
status: {inventory: {entries: [{id: elsewhere_x__ConfigMap, v: v1}, {id: flux-system_in-git__Secret, v: v1}]}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: fleet, namespace: flux-system, uid: g}
spec: {url: "https://git.example.org/fleet", secretRef: {name: fleet-auth}, proxySecretRef: {name: proxy}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop, uid: s, labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: flux-system}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: copied, namespace: shop, uid: c, labels: {kustomize.toolkit.fluxcd.io/name: other, kustomize.toolkit.fluxcd.io/namespace: flux-system}}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: store, namespace: argocd, uid: a}
spec:
  source: {repoURL: "https://git.example.org/store.git", path: x}
  destination: {server: "https://kubernetes.default.svc"}
status: {resources: [{kind: Service, namespace: shop, name: web}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, uid: w, annotations: {argocd.argoproj.io/tracking-id: "store:/Service:shop/web"}}
---
apiVersion: bitnami.com/v1alpha1
kind: SealedSecret
metadata: {name: sealed, namespace: shop, uid: ss, annotations: {argocd.argoproj.io/tracking-id: "store:bitnami.com/SealedSecret:shop/sealed"}}
`

func engineSecrets() []client.Object {
	secret := func(namespace, name string, labels map[string]string, url string) client.Object {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
			Data:       map[string][]byte{"value": []byte("hunter2"), "url": []byte(url)},
		}
	}
	argo := func(kind string) map[string]string { return map[string]string{"argocd.argoproj.io/secret-type": kind} }
	all := []client.Object{
		secret("flux-system", "fleet-auth", nil, ""), secret("flux-system", "sops-age", nil, ""), secret("flux-system", "other-age", nil, ""),
		secret("flux-system", "in-git", map[string]string{"kustomize.toolkit.fluxcd.io/name": "other", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}, ""),
		secret("flux-system", "unrelated", nil, ""),
		secret("flux-system", "proxy", nil, ""),
		secret("argocd", "store", argo("repository"), "https://git.example.org/store"),
		secret("argocd", "creds", argo("repo-creds"), "https://git.example.org"),
		secret("argocd", "foreign", argo("repository"), "https://git.example.org/foreign"),
		secret("argocd", "cluster", argo("cluster"), ""),
		secret("kube-system", "sealed-key", map[string]string{"sealedsecrets.bitnami.com/sealed-secrets-key": "active"}, ""),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "flux-system", Name: "vars"}, Data: map[string]string{"zone": "eu"}},
	}
	all[5].SetAnnotations(map[string]string{v1alpha1.AnnotationExclude: "made by hand each time"})
	return all
}

// TestBootstrap: what the engines need to deploy this application again is kept with it, each with its reason, and nothing that is
// another application's.
func TestBootstrap(t *testing.T) {
	c := cluster(t, engines, engineSecrets()...)
	var got []string
	for _, line := range verdicts(t, c, full()) {
		if !strings.Contains(line, " shop/") {
			got = append(got, line)
		}
	}
	const fresh = "not in Git, and nobody makes it again; "
	want := []string{
		"in ConfigMap flux-system/vars: " + fresh + "Kustomization flux-system/shop needs it",
		"in Secret argocd/creds: " + fresh + "Application argocd/store needs it",
		"in Secret argocd/store: " + fresh + "Application argocd/store needs it",
		"in Secret flux-system/fleet-auth: " + fresh + "GitRepository flux-system/fleet needs it",
		"out Secret flux-system/in-git: in Git: Kustomization flux-system/other",
		"out Secret flux-system/proxy: excluded by annotation: made by hand each time",
		"in Secret flux-system/sops-age: " + fresh + "Kustomization flux-system/shop needs it",
		"out Secret kube-system/sealed-key: excluded by annotation: its namespace is excluded: kept in a safe",
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBootstrapReturns: the engines' Secrets come first, where their namespace is, and hold nothing up where it is not.
func TestBootstrapReturns(t *testing.T) {
	set, err := residual.Capture(t.Context(), cluster(t, engines, engineSecrets()...), full())
	if err != nil {
		t.Fatal(err)
	}
	data, err := residual.Encode(set)
	if err != nil {
		t.Fatal(err)
	}
	if set, err = residual.Decode(data); err != nil {
		t.Fatal(err)
	}
	own := set.WithoutBootstrap().Keys()
	if len(own) == 0 || slices.ContainsFunc(own, func(k object.Key) bool { return k.Namespace != "shop" }) {
		t.Errorf("without the bootstrap set there is %v", own)
	}
	fresh := cluster(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: flux-system}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
	there := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "flux-system", Name: "sops-age"}, Data: map[string][]byte{"value": []byte("newer")}}
	if err := fresh.Create(t.Context(), there); err != nil {
		t.Fatal(err)
	}
	steps, err := residual.Replay(t.Context(), fresh, fresh, set, "point")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range steps {
		got = append(got, string(s.Action)+" "+s.Key.String())
	}
	want := []string{
		"leave Secret argocd/creds", "leave Secret argocd/store", "create Secret flux-system/fleet-auth", "leave Secret flux-system/sops-age",
		"create ConfigMap flux-system/vars", "create ConfigMap shop/copied",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	auth := &corev1.Secret{}
	if err := fresh.Get(t.Context(), client.ObjectKey{Namespace: "flux-system", Name: "fleet-auth"}, auth); err != nil {
		t.Fatal(err)
	}
	if string(auth.Data["value"]) != "hunter2" || auth.Annotations[v1alpha1.AnnotationBootstrap] != "GitRepository flux-system/fleet" {
		t.Errorf("came back as %v", auth.Annotations)
	}
	if err := fresh.Get(t.Context(), client.ObjectKey{Namespace: "flux-system", Name: "sops-age"}, auth); err != nil || string(auth.Data["value"]) != "newer" {
		t.Errorf("what was there was replaced, or is gone: %v", err)
	}
}
