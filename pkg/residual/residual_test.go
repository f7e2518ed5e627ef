package residual_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

func parse(t *testing.T, manifests string) []client.Object {
	t.Helper()
	var out []client.Object
	for _, doc := range strings.Split(manifests, "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatal(err)
		}
		out = append(out, u)
	}
	return out
}

// kinds are those of the clusters of these tests.
var kinds = []schema.GroupVersionKind{
	{Version: "v1", Kind: "ConfigMap"}, {Version: "v1", Kind: "Endpoints"}, {Version: "v1", Kind: "Secret"},
	{Version: "v1", Kind: "Service"}, {Version: "v1", Kind: "ServiceAccount"},
	{Group: "apps", Version: "v1", Kind: "Deployment"}, {Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"},
	{Group: "example.org", Version: "v1", Kind: "Postgres"},
	{Group: "helm.toolkit.fluxcd.io", Version: "v2", Kind: "HelmRelease"},
	{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Kind: "Kustomization"},
	{Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "GitRepository"},
	{Group: "bitnami.com", Version: "v1alpha1", Kind: "SealedSecret"},
}

func cluster(t *testing.T, manifests string, more ...client.Object) client.WithWatch {
	t.Helper()
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, gvk := range kinds {
		mapper.Add(gvk, meta.RESTScopeNamespace)
	}
	for _, kind := range []string{"ReplicaSet", "StatefulSet", "DaemonSet"} {
		mapper.Add(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: kind}, meta.RESTScopeNamespace)
	}
	for _, kind := range []string{"Job", "CronJob"} {
		mapper.Add(schema.GroupVersionKind{Group: "batch", Version: "v1", Kind: kind}, meta.RESTScopeNamespace)
	}
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, meta.RESTScopeRoot)
	mapper.Add(schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"}, meta.RESTScopeNamespace)
	mapper.Add(schema.GroupVersionKind{Group: "example.org", Version: "v1", Kind: "Fleet"}, meta.RESTScopeRoot)
	own := runtime.NewScheme()
	if err := scheme.AddToScheme(own); err != nil {
		t.Fatal(err)
	}
	b := fake.NewClientBuilder().WithScheme(own).WithRESTMapper(mapper).WithObjects(more...)
	if manifests != "" {
		b = b.WithObjects(parse(t, manifests)...)
	}
	return interceptor.NewClient(b.Build(), interceptor.Funcs{List: listMetadata})
}

// listMetadata lists metadata of any kind: the fake client can do so only of kinds that are compiled in.
func listMetadata(ctx context.Context, c client.WithWatch, o client.ObjectList, opts ...client.ListOption) error {
	partial, ok := o.(*metav1.PartialObjectMetadataList)
	if !ok {
		return c.List(ctx, o, opts...)
	}
	all := &unstructured.UnstructuredList{}
	all.SetGroupVersionKind(partial.GroupVersionKind())
	if err := c.List(ctx, all, opts...); err != nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(all.UnstructuredContent(), partial)
}

func full() residual.Scope { return residual.Scope{Namespaces: []string{"shop"}, Kinds: kinds} }

// verdicts are the decisions as text, without those that go without saying.
func verdicts(t *testing.T, c client.Reader, scope residual.Scope) []string {
	t.Helper()
	facts, err := residual.Survey(t.Context(), c, scope)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range residual.Decide(facts) {
		out = append(out, fmt.Sprintf("%s %s: %s", d.Verdict, d.Key, d.Reason))
	}
	return out
}

const fluxShop = `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: shop, namespace: flux-system, uid: k}
spec: {postBuild: {substituteFrom: [{kind: Secret, name: substitutes}]}}
status: {inventory: {entries: [{id: shop_web_apps_Deployment, v: v1}, {id: shop_settings__ConfigMap, v: v1}, {id: shop_db_example.org_Postgres, v: v1}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, uid: web, labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: flux-system}}
spec: {template: {spec: {containers: [{name: web, envFrom: [{secretRef: {name: login}}, {configMapRef: {name: settings}}]}]}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop, uid: settings, labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: flux-system}}
---
apiVersion: example.org/v1
kind: Postgres
metadata: {name: db, namespace: shop, uid: db, labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: flux-system}}
---
apiVersion: v1
kind: Secret
metadata: {name: login, namespace: shop, uid: login, labels: {kustomize.toolkit.fluxcd.io/name: shop, kustomize.toolkit.fluxcd.io/namespace: flux-system},
  ownerReferences: [{apiVersion: example.org/v1, kind: Postgres, name: db, uid: db}]}
data: {password: c2VjcmV0}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop, uid: dbservice, ownerReferences: [{apiVersion: example.org/v1, kind: Postgres, name: db, uid: db}]}
spec: {selector: {app: db}}
---
apiVersion: v1
kind: Endpoints
metadata: {name: db, namespace: shop, uid: endpoints}
---
apiVersion: v1
kind: Secret
metadata: {name: fleet, namespace: shop, uid: fleet, ownerReferences: [{apiVersion: example.org/v1, kind: Fleet, name: all, uid: fleet-of-before}]}
---
apiVersion: example.org/v1
kind: Fleet
metadata: {name: all, uid: fleet-of-now}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: by-hand, namespace: shop, uid: hand}
data: {a: b}
---
apiVersion: v1
kind: Secret
metadata: {name: elsewhere, namespace: other, uid: elsewhere}`

func TestSurveyWithFlux(t *testing.T) {
	want := []string{
		"in ConfigMap shop/by-hand: not in Git, and nobody makes it again",
		"out ConfigMap shop/settings: in Git: Kustomization flux-system/shop",
		"out Deployment shop/web: in Git: Kustomization flux-system/shop",
		"out Endpoints shop/db: found again by its Service's selector",
		"out Postgres.example.org shop/db: in Git: Kustomization flux-system/shop",
		"out Secret shop/fleet: its owner Fleet all is gone: it will be deleted",
		"in Secret shop/login: Postgres db owns it, and would make it again with other content; Deployment web needs it",
		"out Service shop/db: made again by Postgres db, which is in Git",
	}
	if diff := cmp.Diff(want, verdicts(t, cluster(t, fluxShop), full())); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
}

// storage is a Helm release as Helm stores it.
func storage(t *testing.T, manifest string) *corev1.Secret {
	t.Helper()
	data, err := json.Marshal(map[string]any{"namespace": "shop", "manifest": manifest, "hooks": []any{
		map[string]any{"manifest": "{apiVersion: v1, kind: ConfigMap, metadata: {name: hook}}"}}})
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(data); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "sh.helm.release.v1.web.v3", UID: "s", Labels: map[string]string{"owner": "helm", "name": "web"}},
		Data:       map[string][]byte{"release": []byte(base64.StdEncoding.EncodeToString(packed.Bytes()))},
	}
}

const helmShop = `
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: web, namespace: shop, uid: h}
spec: {valuesFrom: [{kind: Secret, name: values}]}
status: {storageNamespace: shop, history: [{name: web, namespace: shop, version: 3}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, uid: web, labels: {helm.toolkit.fluxcd.io/name: web, helm.toolkit.fluxcd.io/namespace: shop}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: hook, namespace: shop, uid: hook}
---
apiVersion: v1
kind: Secret
metadata: {name: made, namespace: shop, uid: made, labels: {helm.toolkit.fluxcd.io/name: web, helm.toolkit.fluxcd.io/namespace: shop}}
---
apiVersion: v1
kind: Secret
metadata: {name: values, namespace: shop, uid: values}`

func TestSurveyWithHelm(t *testing.T) {
	want := []string{
		"out ConfigMap shop/hook: in Git: HelmRelease shop/web",
		"in HelmRelease.helm.toolkit.fluxcd.io shop/web: not in Git, and nobody makes it again",
		"in Secret shop/made: bears the label of HelmRelease shop/web, which does not bring it",
		"out Secret shop/sh.helm.release.v1.web.v3: Helm's storage of HelmRelease shop/web, which makes it anew",
		"in Secret shop/values: not in Git, and nobody makes it again; HelmRelease shop/web needs it",
		"out Service shop/web: in Git: HelmRelease shop/web",
	}
	store := storage(t, "# Source: web\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\n---\n\n")
	for _, shop := range []string{
		helmShop, strings.Replace(helmShop, "storageNamespace: shop, ", "", 1),
		strings.NewReplacer("storageNamespace: shop, ", "", "spec: {", "spec: {storageNamespace: shop, ").Replace(helmShop),
	} {
		if diff := cmp.Diff(want, verdicts(t, cluster(t, shop, store), full())); diff != "" {
			t.Errorf("decisions (-want +got):\n%s", diff)
		}
	}
	if got := verdicts(t, cluster(t, helmShop), full()); !slices.Contains(got, "in Service shop/web: bears the label of HelmRelease shop/web, which does not bring it") {
		t.Errorf("a release without storage brings something: %s", got)
	}
	store.Data["release"] = []byte("SECRET")
	_, err := residual.Survey(t.Context(), cluster(t, helmShop, store), full())
	if err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("storage that cannot be read gave %v", err)
	}
}

func TestSurveyWithArgo(t *testing.T) {
	c := cluster(t, `
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: store, namespace: argocd, uid: a}
spec: {destination: {server: "https://kubernetes.default.svc"}}
status: {resources: [{kind: Service, namespace: shop, name: web}, {kind: Service, namespace: shop, name: old, requiresPruning: true}]}
---
apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: remote, namespace: argocd, uid: r}
spec: {destination: {server: "https://elsewhere.example.com"}}
status: {resources: [{kind: Service, namespace: shop, name: ours}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, uid: web, labels: {app.kubernetes.io/instance: store}}
---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: shop, uid: old, labels: {app.kubernetes.io/instance: store}}
---
apiVersion: v1
kind: Service
metadata: {name: ours, namespace: shop, uid: ours, labels: {app.kubernetes.io/instance: remote}}`)
	want := []string{
		"in Service shop/old: not in Git, and nobody makes it again",
		"in Service shop/ours: not in Git, and nobody makes it again",
		"out Service shop/web: in Git: Argo CD Application store",
	}
	if diff := cmp.Diff(want, verdicts(t, c, full())); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
}

func TestSurveyWithACommit(t *testing.T) {
	scope := full()
	scope.Rendered = []object.Key{{Kind: "Service", Namespace: "shop", Name: "web"}}
	scope.Applications = []string{"shop/shop"}
	c := cluster(t, `
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop, uid: web}}
---
{apiVersion: v1, kind: Service, metadata: {name: old, namespace: shop, uid: old, labels: {lockstep.dev/name: shop, lockstep.dev/namespace: shop}}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop, uid: other, labels: {lockstep.dev/name: other, lockstep.dev/namespace: shop}}}`)
	want := []string{
		"in Service shop/old: not in Git, and nobody makes it again",
		"out Service shop/other: in Git: Lockstep applied it for shop/other",
		"out Service shop/web: in Git: the commit renders it",
	}
	if diff := cmp.Diff(want, verdicts(t, c, scope)); diff != "" {
		t.Errorf("decisions (-want +got):\n%s", diff)
	}
}

func TestMissing(t *testing.T) {
	const git = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, uid: web, labels: {lockstep.dev/name: shop, lockstep.dev/namespace: shop}}
spec: {template: {spec: {containers: [{name: web, envFrom: [{configMapRef: {name: gone, optional: true}}, {secretRef: {name: login}}]}]}}}`
	_, err := residual.Capture(t.Context(), cluster(t, git), full())
	var missing *residual.MissingError
	if !errors.As(err, &missing) || missing.Error() != `Deployment web needs secret "shop/login", which is not in the cluster: without it this commit cannot be replayed` {
		t.Errorf("got %v", err)
	}
	if _, err := residual.Capture(t.Context(), cluster(t, strings.ReplaceAll(git, "lockstep.dev/name:", "foreign:")), full()); err != nil {
		t.Errorf("an object that is not of Git fails the point: %v", err)
	}
	_, err = residual.Capture(t.Context(), cluster(t, strings.ReplaceAll(git, ", optional: true", "")), full())
	if !errors.As(err, &missing) || missing.Kind != "configmap" {
		t.Errorf("got %v", err)
	}
}

func TestUnansweredIsNoAbsence(t *testing.T) {
	for _, kind := range []string{"Secret", "Service", "Deployment", "Kustomization", "Fleet"} {
		timeout := func(o interface{ GetObjectKind() schema.ObjectKind }) error {
			if strings.HasPrefix(o.GetObjectKind().GroupVersionKind().Kind, kind) {
				return errors.New("timeout")
			}
			return nil
		}
		c := interceptor.NewClient(cluster(t, fluxShop), interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, k client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if err := timeout(o); err != nil {
					return err
				}
				return c.Get(ctx, k, o, opts...)
			},
			List: func(ctx context.Context, c client.WithWatch, o client.ObjectList, opts ...client.ListOption) error {
				if err := timeout(o); err != nil {
					return err
				}
				return c.List(ctx, o, opts...)
			},
		})
		if set, err := residual.Capture(t.Context(), c, full()); err == nil {
			t.Errorf("%s unanswered: got %+v", kind, set)
		}
	}
}

func TestTooLarge(t *testing.T) {
	big := func(name string, n int) client.Object {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
			Data: map[string]string{"k": strings.Repeat("x", n)}}
	}
	a, b := big("a", 1), big("b", residual.MaxDocument)
	_, err := residual.Capture(t.Context(), cluster(t, "", a, b), full())
	var size *residual.SizeError
	if !errors.As(err, &size) || size.Largest.Name != "b" {
		t.Errorf("got %v", err)
	}
}

func TestCaptureAndReplay(t *testing.T) {
	source := cluster(t, fluxShop+`
---
{apiVersion: example.org/v1, kind: Postgres, metadata: {name: by-hand, namespace: shop, uid: by-hand-db, finalizers: [x/y], generation: 7}, spec: {size: 3}, status: {ready: true}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: zed, namespace: shop, uid: zed}, secrets: [{name: old-token}]}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: default, namespace: shop, uid: default}}`)
	set, err := residual.Capture(t.Context(), source, full())
	if err != nil {
		t.Fatal(err)
	}
	data, err := residual.Encode(set)
	if err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{"old-token", "resourceVersion", `"uid"`, "x/y", "generation", `"ready"`, "ownerReferences"} {
		if strings.Contains(string(data), gone) {
			t.Errorf("%q is in the document: %s", gone, data)
		}
	}
	if set, err = residual.Decode(data); err != nil {
		t.Fatal(err)
	}
	var kept []string
	for _, key := range set.Keys() {
		kept = append(kept, key.String())
	}
	want := []string{"ConfigMap shop/by-hand", "Postgres.example.org shop/by-hand", "Secret shop/login", "ServiceAccount shop/zed"}
	if diff := cmp.Diff(want, kept); diff != "" || set.Empty() {
		t.Errorf("kept (-want +got):\n%s", diff)
	}

	target := cluster(t, `
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: by-hand, namespace: shop, uid: new}, data: {a: newer}}`)
	var created []string
	watched := interceptor.NewClient(target, interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			created = append(created, o.GetObjectKind().GroupVersionKind().Kind+" "+o.GetName())
			return c.Create(ctx, o, opts...)
		},
	})
	steps, err := residual.Replay(t.Context(), watched, watched, set, "the-point")
	if err != nil {
		t.Fatal(err)
	}
	key := func(kind, name string) object.Key { return object.Key{Kind: kind, Namespace: "shop", Name: name} }
	plan := []residual.Step{
		{Key: key("ServiceAccount", "zed"), Action: residual.Create},
		{Key: key("Secret", "login"), Action: residual.Create},
		{Key: key("ConfigMap", "by-hand"), Action: residual.Leave, Reason: "it is there"},
	}
	if diff := cmp.Diff(plan, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if _, err := residual.ReplayWorkloads(t.Context(), watched, watched, set, "the-point"); err != nil {
		t.Fatal(err)
	}
	if _, err := residual.Replay(t.Context(), watched, watched, set, "the-point"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ServiceAccount zed", "Secret login", "Postgres by-hand"}, created); diff != "" {
		t.Errorf("created (-want +got):\n%s", diff)
	}
	login, settings := &corev1.Secret{}, &corev1.ConfigMap{}
	if err := target.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "login"}, login); err != nil {
		t.Fatal(err)
	}
	if login.Annotations[v1alpha1.AnnotationOwners] != "Postgres/db" || login.Annotations[v1alpha1.AnnotationRestoredFrom] != "the-point" || string(login.Data["password"]) != "secret" {
		t.Errorf("secret %+v", login)
	}
	if err := target.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "by-hand"}, settings); err != nil || settings.Data["a"] != "newer" {
		t.Errorf("an object that was there was replaced: %v", err)
	}
}

func TestReplayHolds(t *testing.T) {
	custom := unstructured.Unstructured{Object: map[string]any{"apiVersion": "unknown.example.org/v1", "kind": "Thing",
		"metadata": map[string]any{"namespace": "shop", "name": "a"}}}
	set := residual.Set{Objects: []unstructured.Unstructured{custom},
		Secrets: []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Namespace: "nowhere", Name: "b"}}, {ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "c"}}}}
	c := cluster(t, `{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`)
	_, err := residual.Replay(t.Context(), c, c, set, "p")
	var held *residual.HeldError
	if !errors.As(err, &held) || held.Error() != `1 object that Git does not hold waits: there is no namespace "nowhere"` {
		t.Errorf("got %v", err)
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "c"}, &corev1.Secret{}); err != nil {
		t.Errorf("one that waits held another up: %v", err)
	}
	if _, err = residual.ReplayWorkloads(t.Context(), c, c, set, "p"); !errors.As(err, &held) || !strings.Contains(held.Error(), "does not serve Thing of unknown.example.org/v1") {
		t.Errorf("got %v", err)
	}
}

// TestReplayWaitsForWhatGoes: what is there and is being deleted, or is in a namespace that is, will be absent.
func TestReplayWaitsForWhatGoes(t *testing.T) {
	now := metav1.Now()
	c := cluster(t, `{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ending", DeletionTimestamp: &now, Finalizers: []string{"kubernetes"}}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ending", Name: "a"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b", DeletionTimestamp: &now, Finalizers: []string{"example.org/x"}}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "c"}})
	set := residual.Set{Secrets: []corev1.Secret{
		{ObjectMeta: metav1.ObjectMeta{Namespace: "ending", Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b"}},
		{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "c"}},
	}}
	steps, err := residual.Replay(t.Context(), c, c, set, "p")
	var held *residual.HeldError
	if !errors.As(err, &held) || len(held.Steps) != 2 || !strings.Contains(held.Error(), "still being deleted") {
		t.Fatalf("got %v, %+v", err, steps)
	}
	going := &corev1.Secret{}
	for key, take := range map[client.ObjectKey]client.Object{{Namespace: "shop", Name: "b"}: going, {Name: "ending"}: &corev1.Namespace{}} {
		if err := c.Get(t.Context(), key, take); err != nil {
			t.Fatal(err)
		}
		take.SetFinalizers(nil)
		if err := c.Update(t.Context(), take); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = residual.Replay(t.Context(), c, c, set, "p"); err != nil {
		t.Fatal(err)
	}
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "b"}, going); err != nil || going.Annotations[v1alpha1.AnnotationRestoredFrom] != "p" {
		t.Errorf("it did not come back: %v", err)
	}
}

func TestReplayHidesValues(t *testing.T) {
	c := interceptor.NewClient(cluster(t, `{apiVersion: v1, kind: Namespace, metadata: {name: shop}}`), interceptor.Funcs{
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			return apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, "a", nil)
		},
	})
	_, err := residual.Replay(t.Context(), c, c, residual.Set{Secrets: []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}}}}, "p")
	if err == nil || !apierrors.IsInvalid(err) || strings.Contains(err.Error(), "[]") {
		t.Errorf("got %v", err)
	}
}

func TestPlanOrder(t *testing.T) {
	var set residual.Set
	target := residual.Target{Served: map[schema.GroupVersionKind]bool{}, Namespaces: map[string]bool{"shop": true}}
	for _, kind := range []string{"apps/v1 Deployment", "v1 ResourceQuota", "example.org/v1 Postgres", "v1 Endpoints", "v1 Service",
		"rbac.authorization.k8s.io/v1 RoleBinding", "rbac.authorization.k8s.io/v1 Role", "v1 ConfigMap", "v1 ServiceAccount", "networking.k8s.io/v1 NetworkPolicy"} {
		version, kind, _ := strings.Cut(kind, " ")
		u := unstructured.Unstructured{}
		u.SetAPIVersion(version)
		u.SetKind(kind)
		u.SetNamespace("shop")
		u.SetName("a")
		target.Served[u.GroupVersionKind()] = true
		set.Objects = append(set.Objects, u)
	}
	set.Secrets = []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}}}
	target.Served[corev1.SchemeGroupVersion.WithKind("Secret")] = true
	var got []string
	for _, step := range residual.Plan(set, target) {
		got = append(got, step.Key.Kind)
	}
	want := []string{"ServiceAccount", "Secret", "ConfigMap", "Role", "RoleBinding", "NetworkPolicy", "Service", "Endpoints", "ResourceQuota", "Postgres", "Deployment"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestSanitise(t *testing.T) {
	tests := []struct{ name, live, want string }{
		{"a service", `{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b, uid: u}, status: {loadBalancer: {}},
			spec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], healthCheckNodePort: 30000, ports: [{port: 80, nodePort: 31000}]}}`,
			`{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}, spec: {ports: [{port: 80}]}}`},
		{"a headless service", `{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}, spec: {clusterIP: None, clusterIPs: [None]}}`,
			`{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b}, spec: {clusterIP: None, clusterIPs: [None]}}`},
		{"a token", `{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token, data: {token: YQ==},
			metadata: {name: a, namespace: b, annotations: {kubernetes.io/service-account.name: web, kubernetes.io/service-account.uid: u}}}`,
			`{apiVersion: v1, kind: Secret, type: kubernetes.io/service-account-token,
			metadata: {name: a, namespace: b, annotations: {kubernetes.io/service-account.name: web}}}`},
		{"endpoints", `{apiVersion: v1, kind: Endpoints, metadata: {name: a, namespace: b}, subsets: [{addresses: [{ip: 10.0.0.9, nodeName: n, targetRef: {kind: Pod}}]}]}`,
			`{apiVersion: v1, kind: Endpoints, metadata: {name: a, namespace: b}, subsets: [{addresses: [{ip: 10.0.0.9}]}]}`},
		{"history", `{apiVersion: x.io/v1, kind: X, metadata: {name: a, namespace: b, generateName: a-, labels: {l: m}, finalizers: [f], creationTimestamp: "2026-01-01T00:00:00Z",
			annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}", lockstep.dev/restored-from: p, keep: me},
			managedFields: [{manager: m}], ownerReferences: [{kind: Z, name: z, uid: u, apiVersion: z/v1}]}, spec: {a: 1}, status: {b: 2}}`,
			`{apiVersion: x.io/v1, kind: X, metadata: {name: a, namespace: b, labels: {l: m}, annotations: {keep: me, lockstep.dev/owners: Z/z}}, spec: {a: 1}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			live, want := &unstructured.Unstructured{}, &unstructured.Unstructured{}
			if err := errors.Join(yaml.Unmarshal([]byte(tt.live), &live.Object), yaml.Unmarshal([]byte(tt.want), &want.Object)); err != nil {
				t.Fatal(err)
			}
			before := live.DeepCopy()
			if diff := cmp.Diff(want.Object, residual.Sanitise(live).Object); diff != "" {
				t.Errorf("object (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, live); diff != "" {
				t.Errorf("the live object was changed:\n%s", diff)
			}
		})
	}
}

// TestLeftovers: what may still lead into the old namespace is named by object and field, and no value with it.
func TestLeftovers(t *testing.T) {
	m := object.Mapping{Namespaces: map[string]string{"shop": "clone"}}
	set := residual.Set{
		Secrets: []corev1.Secret{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "url"}, Data: map[string][]byte{"dsn": []byte("postgres://database.shop.svc/orders"), "user": []byte("shop")}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "plain"}, Data: map[string][]byte{"password": []byte("shop")}},
		},
		Objects: []unstructured.Unstructured{{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": "shop", "name": "hosts"}, "data": map[string]any{"cache": "cache.shop"},
		}}},
	}
	got, err := set.Map(m).Leftovers(m)
	if err != nil {
		t.Fatal(err)
	}
	want := map[object.Key][]object.Leftover{
		{Kind: "Secret", Namespace: "clone", Name: "url"}:      {{Field: "data.dsn", Namespace: "shop"}},
		{Kind: "ConfigMap", Namespace: "clone", Name: "hosts"}: {{Field: "data.cache", Namespace: "shop"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWithout(t *testing.T) {
	set := residual.Set{Secrets: []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "a"}}, {ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b"}}}}
	less := set.Without(func(key object.Key) bool { return key == object.Key{Kind: "Secret", Namespace: "shop", Name: "a"} })
	if len(less.Secrets) != 1 || less.Secrets[0].Name != "b" || len(set.Secrets) != 2 {
		t.Errorf("got %+v of %+v", less, set)
	}
}

// older is a document as the first version wrote it.
const older = `{"version":1,"secrets":[{"kind":"Secret","apiVersion":"v1","metadata":{"name":"login","namespace":"shop","annotations":{"lockstep.dev/owners":"Postgres/db"}},"data":{"k":"dg=="},"type":"Opaque"}]}`

func TestDecodeReadsOlder(t *testing.T) {
	set, err := residual.Decode([]byte(older))
	if err != nil || len(set.Secrets) != 1 || string(set.Secrets[0].Data["k"]) != "v" {
		t.Fatalf("got %+v, %v", set, err)
	}
	if data, err := residual.Encode(set); err != nil || !strings.HasPrefix(string(data), `{"version":2,`) {
		t.Errorf("written again: %s, %v", data, err)
	}
}

// bad are documents that Decode refuses.
var bad = []string{
	``, `{}`, `null`, `[]`, `{"version":0}`, `{"version":3,"secrets":[]}`, `{"version":1,"other":1}`, `{"version":1,"secrets":[]} x`,
	`{"version":1,"secrets":[{}]}`, `{"version":1,"secrets":[{"metadata":{"name":"a"},"data":{"k":"!SECRET"}}]}`,
	`{"version":1,"secrets":[],"objects":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"b"}}]}`,
	`{"version":2,"secrets":[],"objects":[{"apiVersion":"v1","metadata":{"name":"a","namespace":"b"}}]}`,
	`{"version":2,"secrets":[],"objects":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}]}`,
	`{"version":2,"secrets":[],"objects":[{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":"b"}}]}`,
	`{"version":2,"secrets":[],"objects":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"b"}}]}`,
	`{"version":2,"secrets":[],"objects":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"b","uid":"u"}}]}`,
	`{"version":2,"secrets":[],"objects":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"b"},"status":{}}]}`,
	`{"version":2,"secrets":[{"metadata":{"name":"a","namespace":"b"}},{"metadata":{"name":"a","namespace":"b"}}]}`,
	`{"version":2,"secrets":[{"metadata":{"name":"a","namespace":"b","ownerReferences":[{"kind":"x"}]}}]}`,
}

func TestDecodeRefuses(t *testing.T) {
	for _, document := range append(bad, strings.Repeat(" ", residual.MaxDocument+1)) {
		_, err := residual.Decode([]byte(document))
		if !errors.Is(err, residual.ErrInvalid) {
			t.Errorf("%.200s: got %v", document, err)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Error("a value is in the error")
		}
	}
}

// What Decode takes can be planned, written and read again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(older))
	f.Add([]byte(`{"version":2,"secrets":[],"objects":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"b"},"data":{"k":"v"}}]}`))
	for _, document := range bad {
		f.Add([]byte(document))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := residual.Decode(data)
		if err != nil {
			if !errors.Is(err, residual.ErrInvalid) {
				t.Errorf("got %v", err)
			}
			return
		}
		if steps := residual.Plan(set, residual.Target{}); len(steps) != len(set.Secrets)+len(set.Objects) {
			t.Errorf("%d steps", len(steps))
		}
		again, err := residual.Encode(set)
		if err != nil {
			t.Skip(err) // escaped, it may be longer than a document
		}
		other, err := residual.Decode(again)
		if err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
		third, err := residual.Encode(other)
		if err != nil || !bytes.Equal(again, third) {
			t.Errorf("written twice, it differs: %v", err)
		}
	})
}
