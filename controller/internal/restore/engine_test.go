package restore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/test/standin"
)

// headID is where the branch stands, beyond the commit that is restored.
const headID = "ffffffffffffffffffffffffffffffffffffffff"

// gitServer stands in for a repository with the bench's commit and a branch that has moved on. Beside the application both hold another
// directory.
type gitServer struct {
	t *testing.T
	b *bench
}

func (g gitServer) fetch(ctx context.Context, _, _, commit string) (string, string, error) {
	if commit == "" {
		commit = headID
	}
	dir := filepath.Join(g.t.TempDir(), commit)
	if err := g.b.commit.Materialise(ctx, v1alpha1.Revision{}, dir); err != nil {
		return "", "", err
	}
	note := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s-%s, namespace: default}\ndata: {commit: %s}\n"
	for _, at := range []string{"deploy", "other", "base"} {
		if err := os.MkdirAll(filepath.Join(dir, at), 0o755); err != nil {
			return "", "", err
		}
		text := fmt.Sprintf(note, g.b.commit.namespace, at, commit)
		if err := os.WriteFile(filepath.Join(dir, at, "note.yaml"), []byte(text), 0o644); err != nil {
			return "", "", err
		}
	}
	return commit, dir, nil
}

// watch keeps who applied what, and that no application was let in before its claims were reserved.
type watch struct {
	b       *bench
	applied []string
}

func (w *watch) saw(ctx context.Context, by, commit string) {
	line := by + " " + commit
	if !slices.Contains(w.applied, line) {
		w.applied = append(w.applied, line)
	}
	if !strings.HasSuffix(by, "/shop") {
		return
	}
	for _, name := range []string{"cache", "data-db-0", "wal-db-0"} {
		claim := &corev1.PersistentVolumeClaim{}
		if err := w.b.Get(ctx, types.NamespacedName{Namespace: w.b.commit.namespace, Name: name}, claim); err != nil || claim.Spec.VolumeName == "" {
			w.b.t.Errorf("%s applied %s while claim %s was not reserved: %v", by, commit, name, err)
		}
	}
}

// TestEngines restores through Flux and through Argo CD on a real API server. Flux's kinds are the real ones; Argo CD's hold the fields
// that are used, and keep all others as they are. Stand-ins do to them what the controllers do.
func TestEngines(t *testing.T) {
	scheme := newScheme(t)
	for _, add := range []func() error{
		func() error { return kustomizev1.AddToScheme(scheme) }, func() error { return sourcev1.AddToScheme(scheme) },
	} {
		if err := add(); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("NOT RUN: KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver; `make test` builds them and sets it")
	}
	definitions := t.TempDir()
	if err := standin.WriteDefinitions(t.Context(), definitions); err != nil {
		t.Fatal(err)
	}
	config, _ := testenv.Start(t, scheme, definitions)
	inner, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("flux", func(t *testing.T) { replayByFlux(t, newCluster(t, inner), "byflux", false) })
	t.Run("flux deaths", func(t *testing.T) { replayByFlux(t, newCluster(t, inner), "fluxdies", true) })
	t.Run("flux given up", func(t *testing.T) { giveUpFlux(t, newCluster(t, inner)) })
	t.Run("argo", func(t *testing.T) { replayByArgo(t, newCluster(t, inner), "byargo", false, false) })
	t.Run("argo deaths", func(t *testing.T) { replayByArgo(t, newCluster(t, inner), "argodies", false, true) })
	t.Run("argo with several sources", func(t *testing.T) { replayByArgo(t, newCluster(t, inner), "argoseveral", true, false) })
	t.Run("sealed by Lockstep", func(t *testing.T) { openBySelf(t, newCluster(t, inner)) })
	t.Run("sealed by flux", func(t *testing.T) { openByFlux(t, newCluster(t, inner)) })
	t.Run("choice", func(t *testing.T) { testChoice(t, newCluster(t, inner)) })
}

// drive reconciles until the condition holds, the engine taking its turns, with a controller that dies after ever more writes.
func drive(ctx context.Context, b *bench, step func(context.Context) error, deaths bool, until func() bool) {
	b.t.Helper()
	for life := 0; life < 80; life++ {
		m := &testenv.Mortal{At: 3 + life}
		b.start()
		if deaths {
			b.startWith(m.Client(b.Client.(client.WithWatch)))
		}
		for range 200 {
			result, err := b.reconciler.Reconcile(ctx, b.request)
			if m.Dead() {
				break
			}
			b.must(err)
			if until() {
				return
			}
			b.settle(ctx)
			b.must(step(ctx))
			b.now = b.now.Add(max(result.RequeueAfter, soon))
		}
		if !m.Dead() {
			break
		}
		b.settle(ctx)
		b.must(step(ctx))
	}
	b.t.Fatalf("the restore does not get there: %+v", b.restore(ctx).Status)
}

func (b *bench) object(ctx context.Context, kind schema.GroupVersionKind, name string) *unstructured.Unstructured {
	b.t.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(kind)
	b.must(b.Get(ctx, client.ObjectKey{Namespace: b.commit.namespace, Name: name}, u))
	return u
}

func (b *bench) annotate(ctx context.Context, key string) {
	b.t.Helper()
	r := b.restore(ctx)
	before := r.DeepCopy()
	metav1.SetMetaDataAnnotation(&r.ObjectMeta, key, "now")
	b.must(b.Patch(ctx, r, client.MergeFrom(before)))
}

// unmarked proves that nothing of a restore is left on an object.
func (b *bench) unmarked(u *unstructured.Unstructured) {
	b.t.Helper()
	if u.GetLabels()[v1alpha1.LabelRestore] != "" || u.GetAnnotations()[v1alpha1.AnnotationHeld] != "" || u.GetAnnotations()[v1alpha1.AnnotationHeldBy] != "" {
		b.t.Errorf("%s %s still carries the restore's mark", u.GetKind(), u.GetName())
	}
}

var (
	kustomizations = kustomizev1.GroupVersion.WithKind("Kustomization")
	repositories   = sourcev1.GroupVersion.WithKind("GitRepository")
	applications   = schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"}
)

// fluxBench is a cluster where Flux knows the application, suspended as the runbook says, what it depends on, and another
// application of the same repository, which runs.
func fluxBench(ctx context.Context, t *testing.T, c *cluster, namespace string) (*bench, *watch, *standin.Flux) {
	t.Helper()
	b := newBench(ctx, t, c, namespace)
	b.save(ctx)
	b.must(b.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	b.must(b.Create(ctx, &sourcev1.GitRepository{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "source"},
		Spec:       sourcev1.GitRepositorySpec{URL: b.commit.URL(), Reference: &sourcev1.GitRepositoryRef{Branch: "main"}},
	}))
	for name, path := range map[string]string{"shop": "./deploy", "other": "./other", "base": "./base"} {
		k := &kustomizev1.Kustomization{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
			Spec: kustomizev1.KustomizationSpec{
				Path: path, Suspend: name == "shop", SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "source"},
			},
		}
		if name == "shop" {
			k.Spec.DependsOn = []kustomizev1.DependencyReference{{Name: "base"}}
		}
		b.must(b.Create(ctx, k))
	}
	w := &watch{b: b}
	f := &standin.Flux{Client: b.Client, Namespace: namespace, Fetch: gitServer{t, b}.fetch, Applied: w.saw}
	b.must(f.Step(ctx))
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	return b, w, f
}

func replayByFlux(t *testing.T, c *cluster, namespace string, deaths bool) {
	ctx := ctrl.LoggerInto(t.Context(), logr.Discard())
	b, w, f := fluxBench(ctx, t, c, namespace)
	drive(ctx, b, f.Step, deaths, func() bool { return isReady(b.restore(ctx)) })
	chosen := b.restore(ctx).Status.Engine
	want := []v1alpha1.EngineObject{
		{Kind: "GitRepository", Namespace: namespace, Name: "source", Role: v1alpha1.RoleSource},
		{Kind: "Kustomization", Namespace: namespace, Name: "base", Role: v1alpha1.RoleUnit},
		{Kind: "Kustomization", Namespace: namespace, Name: "shop", Role: v1alpha1.RoleUnit, After: []string{namespace + "/base"}},
		{Kind: "Kustomization", Namespace: namespace, Name: "other", Role: v1alpha1.RoleBystander},
	}
	if chosen == nil || chosen.Name != v1alpha1.EngineFlux || !cmp.Equal(chosen.Objects, want) {
		t.Errorf("the engine is %+v", chosen)
	}
	if source := b.object(ctx, repositories, "source"); gitops.Text(source, "spec", "ref", "commit") != commitID {
		t.Error("the source is pinned no more once the restore is complete")
	}
	if slices.Contains(w.applied, namespace+"/other "+commitID) {
		t.Error("an application that is not restored was taken to the commit, too")
	}
	b.annotate(ctx, v1alpha1.AnnotationRelease)
	drive(ctx, b, f.Step, deaths, func() bool { return b.restore(ctx).Status.Engine.ReleasedAt != nil })
	b.must(f.Step(ctx))
	b.freeOfFlux(ctx)
	applied := []string{
		namespace + "/base " + headID, namespace + "/other " + headID, namespace + "/base " + commitID, namespace + "/shop " + commitID, namespace + "/shop " + headID,
	}
	slices.Sort(applied)
	slices.Sort(w.applied)
	if diff := cmp.Diff(applied, w.applied); diff != "" {
		t.Errorf("who applied what:\n%s", diff)
	}
	policy := &v1alpha1.ProtectionPolicy{}
	b.must(b.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "shop"}, policy))
	if deaths {
		return // the stand-in for pkg/apply does not own what it stamped
	}
}

func (b *bench) freeOfFlux(ctx context.Context) {
	b.t.Helper()
	source := b.object(ctx, repositories, "source")
	b.unmarked(source)
	if commit := gitops.Text(source, "spec", "ref", "commit"); commit != "" || gitops.Text(source, "spec", "ref", "branch") != "main" {
		b.t.Errorf("the source is left at commit %q", commit)
	}
	for _, name := range []string{"shop", "other", "base"} {
		u := b.object(ctx, kustomizations, name)
		b.unmarked(u)
		if suspended, _, _ := unstructured.NestedBool(u.Object, "spec", "suspend"); suspended {
			b.t.Errorf("Kustomization %s is left suspended", name)
		}
	}
}

// giveUpFlux deletes a restore half way: everything is as it was, and what was suspended before stays so.
func giveUpFlux(t *testing.T, c *cluster) {
	ctx := ctrl.LoggerInto(t.Context(), logr.Discard())
	b, w, f := fluxBench(ctx, t, c, "givenup")
	drive(ctx, b, f.Step, false, func() bool {
		return gitops.Text(b.object(ctx, repositories, "source"), "spec", "ref", "commit") == commitID
	})
	holdings, err := ruler.Holdings(ctx, gitops.Cluster{Client: b.Client, Reader: b.Client})
	b.must(err)
	if len(holdings) != 4 || holdings[0].Gone || holdings[0].Restore.Name != "restore-givenup" {
		t.Errorf("it holds %v", holdings)
	}
	b.must(b.Delete(ctx, b.restore(ctx)))
	drive(ctx, b, f.Step, false, func() bool {
		return client.IgnoreNotFound(b.Get(ctx, b.request.NamespacedName, &v1alpha1.Restore{})) == nil &&
			b.Get(ctx, b.request.NamespacedName, &v1alpha1.Restore{}) != nil
	})
	b.must(f.Step(ctx))
	b.unmarked(b.object(ctx, repositories, "source"))
	shop := b.object(ctx, kustomizations, "shop")
	b.unmarked(shop)
	if suspended, _, _ := unstructured.NestedBool(shop.Object, "spec", "suspend"); !suspended {
		t.Error("an application that was suspended before the restore was resumed by giving it up")
	}
	for _, line := range w.applied {
		if strings.HasSuffix(line, commitID) {
			t.Errorf("applied: %s", line)
		}
	}
}

func replayByArgo(t *testing.T, c *cluster, namespace string, several, deaths bool) {
	ctx := ctrl.LoggerInto(t.Context(), logr.Discard())
	b := newBench(ctx, t, c, namespace)
	b.save(ctx)
	b.must(b.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	automated := map[string]any{"prune": true, "selfHeal": true}
	before := []source{{b.commit.URL(), "path", "deploy", "main"}}
	if several {
		before = append([]source{{"https://charts.example.org", "chart", "redis", "1.2.*"}}, before...)
		before = append(before, source{b.commit.URL(), "ref", "values", "main"}, source{b.commit.URL(), "path", "other", "tools"})
	}
	b.must(b.Create(ctx, applicationOf(namespace, "shop", before, nil)))
	parent := application(namespace, "parent", b.commit.URL(), "other", automated)
	b.must(b.Create(ctx, parent))
	shop := b.object(ctx, applications, "shop")
	shop.SetAnnotations(map[string]string{"argocd.argoproj.io/tracking-id": "parent:argoproj.io/Application:" + namespace + "/shop"})
	b.must(b.Update(ctx, shop))
	w := &watch{b: b}
	a := &standin.Argo{Client: b.Client, Namespace: namespace, Fetch: gitServer{t, b}.fetch, Applied: w.saw}
	b.must(a.Step(ctx))
	b.must(a.Step(ctx))
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	drive(ctx, b, a.Step, deaths, func() bool { return isReady(b.restore(ctx)) })
	if s := b.restore(ctx).Status.Engine; s == nil || s.Name != v1alpha1.EngineArgoCD || len(s.Objects) != 2 || s.Objects[1].Role != v1alpha1.RoleBystander {
		t.Errorf("the engine is %+v", s)
	}
	at := slices.Clone(before)
	for i := range at {
		if at[i].revision == "main" {
			at[i].revision = commitID
		}
	}
	want := applicationOf(namespace, "shop", at, nil).Object["spec"]
	if diff := cmp.Diff(want, b.object(ctx, applications, "shop").Object["spec"]); diff != "" {
		t.Errorf("once the restore is complete the Application is:\n%s", diff)
	}
	b.annotate(ctx, v1alpha1.AnnotationRelease)
	drive(ctx, b, a.Step, deaths, func() bool { return b.restore(ctx).Status.Engine.ReleasedAt != nil })
	for name, was := range map[string]*unstructured.Unstructured{"shop": applicationOf(namespace, "shop", before, nil), "parent": parent} {
		u := b.object(ctx, applications, name)
		b.unmarked(u)
		if diff := cmp.Diff(was.Object["spec"], u.Object["spec"]); diff != "" {
			t.Errorf("%s is left as:\n%s", name, diff)
		}
	}
	applied := []string{namespace + "/parent " + headID, namespace + "/shop " + commitID}
	if several {
		applied = append(applied, namespace+"/shop "+headID) // the source of another branch
	}
	if diff := cmp.Diff(applied, w.applied); diff != "" {
		t.Errorf("who applied what:\n%s", diff)
	}
}

// source is one of an Application's: its repository, what it takes of it (a path, a ref or a chart) and at which revision.
type source struct{ url, kind, name, revision string }

func application(namespace, name, url, path string, automated map[string]any) *unstructured.Unstructured {
	return applicationOf(namespace, name, []source{{url, "path", path, "main"}}, automated)
}

func applicationOf(namespace, name string, sources []source, automated map[string]any) *unstructured.Unstructured {
	spec := map[string]any{"project": "default", "destination": map[string]any{"server": "https://kubernetes.default.svc"}}
	var list []any
	for _, s := range sources {
		list = append(list, map[string]any{"repoURL": s.url, s.kind: s.name, "targetRevision": s.revision})
	}
	if len(list) > 1 {
		spec["sources"] = list
	} else {
		spec["source"] = list[0]
	}
	if automated != nil {
		spec["syncPolicy"] = map[string]any{"automated": automated}
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetGroupVersionKind(applications)
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

// testChoice asks which engine rules, in every constellation that is refused.
func testChoice(t *testing.T, c *cluster) {
	ctx := t.Context()
	c.must(c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "choice"}}))
	const url = "https://git.example.org/choice"
	engines := gitops.Cluster{Client: c.Client, Reader: c.Client}
	choose := func(wanted v1alpha1.Engine, path string) gitops.Ruling {
		t.Helper()
		r, err := ruler.Choose(ctx, engines, wanted, gitops.Target{Repository: url + ".git", Path: path})
		c.must(err)
		return r
	}
	refused := func(r gitops.Ruling, words string) {
		t.Helper()
		if len(r.Refusals) != 1 || !strings.Contains(r.Refusals[0], words) {
			t.Errorf("refusals are %q, not about %q", r.Refusals, words)
		}
	}
	if r := choose(v1alpha1.EngineAuto, "deploy"); r.Engine != v1alpha1.EngineDirect || len(r.Refusals) > 0 {
		t.Errorf("nothing rules, and it is %+v", r)
	}
	refused(choose(v1alpha1.EngineFlux, "deploy"), "nothing of it deploys path deploy")

	c.must(c.Create(ctx, application("choice", "app", url, "./deploy/", map[string]any{})))
	if r := choose(v1alpha1.EngineAuto, "deploy"); r.Engine != v1alpha1.EngineArgoCD || len(r.Refusals) > 0 {
		t.Errorf("an Application rules, and it is %+v", r)
	}
	refused(choose(v1alpha1.EngineDirect, "deploy"), "ArgoCD deploys the path (Application choice/app")
	c.must(c.Create(ctx, application("choice", "twin", url, "deploy", nil)))
	refused(choose(v1alpha1.EngineAuto, "deploy"), "choice/app, choice/twin all deploy")

	set := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"generators": []any{}, "template": map[string]any{}}}}
	set.SetGroupVersionKind(applications.GroupVersion().WithKind("ApplicationSet"))
	set.SetNamespace("choice")
	set.SetName("set")
	c.must(c.Create(ctx, set))
	made := application("choice", "made", url, "generated", nil)
	made.SetOwnerReferences([]metav1.OwnerReference{*metav1.NewControllerRef(set, set.GroupVersionKind())})
	c.must(c.Create(ctx, made))
	refused(choose(v1alpha1.EngineAuto, "generated"), "spec.syncPolicy.applicationsSync")
	c.must(unstructured.SetNestedField(set.Object, "create-only", "spec", "syncPolicy", "applicationsSync"))
	c.must(c.Update(ctx, set))
	if r := choose(v1alpha1.EngineAuto, "generated"); len(r.Refusals) > 0 {
		t.Errorf("a set that lets its Applications be is refused: %q", r.Refusals)
	}

	c.must(c.Create(ctx, &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Namespace: "choice", Name: "source"}, Spec: sourcev1.GitRepositorySpec{URL: url}}))
	k := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "choice", Name: "k"}, Spec: kustomizev1.KustomizationSpec{
		Path: "generated", SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "source"},
	}}
	c.must(c.Create(ctx, k))
	refused(choose(v1alpha1.EngineAuto, "generated"), "both Flux and Argo CD deploy path generated")
	before := k.DeepCopy()
	k.Labels = map[string]string{v1alpha1.LabelRestore: "another"}
	k.Annotations = map[string]string{v1alpha1.AnnotationHeldBy: "lockstep-system/other", v1alpha1.AnnotationHeld: "{}"}
	c.must(c.Patch(ctx, k, client.MergeFrom(before)))
	refused(choose(v1alpha1.EngineFlux, "generated"), "lockstep restore release other -n lockstep-system")
}
