package argocd

import (
	cmpor "cmp"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/gitopstest"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

const (
	url    = "https://git.example.org/shop"
	commit = "0123456789abcdef0123456789abcdef01234567"
)

// several5 is an Application of five sources: the path, values from the same branch of the same repository, the same repository at another
// branch, another repository, and a chart.
const several5 = `apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: app, namespace: argocd}
spec:
  project: default
  destination: {server: https://kubernetes.default.svc}
  sources:
    - {repoURL: https://charts.example.org, chart: redis, targetRevision: 1.2.*}
    - {repoURL: https://git.example.org/shop.git, path: ./deploy/, targetRevision: main}
    - {repoURL: https://git.example.org/shop, ref: values, targetRevision: main}
    - {repoURL: https://git.example.org/shop, path: tools, targetRevision: tools}
    - {repoURL: https://git.example.org/other, path: deploy}
  syncPolicy:
    automated: {prune: true, selfHeal: true}
    syncOptions: [CreateNamespace=true]
`

const single = `apiVersion: argoproj.io/v1alpha1
kind: Application
metadata: {name: app, namespace: argocd}
spec:
  project: default
  destination: {name: in-cluster}
  source: {repoURL: https://git.example.org/shop, path: deploy}
`

var app = object.Key{Group: "argoproj.io", Kind: "Application", Namespace: "argocd", Name: "app"}

func newArgo(t *testing.T, manifests ...string) (*gitopstest.Cluster, Argo) {
	t.Helper()
	v := schema.GroupVersion{Group: "argoproj.io", Version: "v1alpha1"}
	c := gitopstest.New(t, []schema.GroupVersionKind{v.WithKind("Application"), v.WithKind("ApplicationSet")}, strings.Join(manifests, "---\n"))
	return c, Argo{Cluster: c.Cluster}
}

func task(name string) gitops.Task {
	return gitops.Task{
		Owner:    gitops.Owner{Name: object.Name{Namespace: "lockstep-system", Name: name}, UID: "uid-of-" + name},
		Objects:  []v1alpha1.EngineObject{{Kind: "Application", Namespace: "argocd", Name: "app", Role: v1alpha1.RoleUnit}},
		Revision: v1alpha1.Revision{Repository: url, Path: "deploy", Commit: commit}, Now: time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC),
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	const (
		set   = "apiVersion: argoproj.io/v1alpha1\nkind: ApplicationSet\nmetadata: {name: set, namespace: argocd}\nspec: {syncPolicy: {applicationsSync: POLICY}}\n"
		made  = "{name: app, namespace: argocd, ownerReferences: [{apiVersion: argoproj.io/v1alpha1, kind: ApplicationSet, name: set, uid: s, controller: true}]}"
		plain = "{name: app, namespace: argocd}"
	)
	with := func(manifest string, replacements ...string) string {
		return strings.NewReplacer(replacements...).Replace(manifest)
	}
	for name, c := range map[string]struct {
		manifests []string
		objects   []string // role and name of each
		active    bool
		refusal   string // "" for none
	}{
		"nothing":                     {},
		"one source":                  {manifests: []string{single}, objects: []string{"Unit argocd/app"}},
		"several sources":             {manifests: []string{several5}, objects: []string{"Unit argocd/app"}, active: true},
		"auto-sync that is disabled":  {manifests: []string{with(several5, "{prune: true,", "{enabled: false,")}, objects: []string{"Unit argocd/app"}},
		"another path":                {manifests: []string{with(single, "path: deploy", "path: deploy/more")}},
		"another repository":          {manifests: []string{with(single, "/shop", "/shop2")}},
		"another cluster":             {manifests: []string{with(single, "name: in-cluster", "name: far")}},
		"values alone are no path":    {manifests: []string{with(single, "path: deploy", "ref: values")}},
		"a chart":                     {manifests: []string{with(single, "path: deploy", "chart: shop")}},
		"an Application that is gone": {manifests: []string{with(single, plain, "{name: app, namespace: argocd, deletionTimestamp: 2026-01-01T00:00:00Z, finalizers: [a/b]}")}},
		"two Applications": {
			manifests: []string{single, with(single, "name: app", "name: twin")}, refusal: "argocd/app, argocd/twin all deploy path deploy",
		},
		"a source hydrator": {
			manifests: []string{with(single, "source: {", "sourceHydrator: {syncSource: {path: rendered, targetBranch: env}, drySource: {", "deploy}", "deploy}}")},
			objects:   []string{"Unit argocd/app"}, refusal: "source hydrator",
		},
		"apps of apps": {
			manifests: []string{
				with(single, plain, `{name: app, namespace: argocd, annotations: {argocd.argoproj.io/tracking-id: "up:argoproj.io/Application:argocd/app"}}`),
				with(single, plain, `{name: up, namespace: argocd, labels: {app.kubernetes.io/instance: argocd_top}}`, "path: deploy", "path: apps"),
				with(single, "name: app", "name: top", "path: deploy", "path: top"),
			},
			objects: []string{"Unit argocd/app", "Bystander argocd/up", "Bystander argocd/top"},
		},
		"an ApplicationSet": {
			manifests: []string{with(single, plain, made), with(set, "POLICY", "sync")}, objects: []string{"Unit argocd/app"},
			refusal: "Application argocd/app is made by ApplicationSet argocd/set, which reverts every change to it",
		},
		"an ApplicationSet that only creates": {
			manifests: []string{with(single, plain, made), with(set, "POLICY", "create-only")}, objects: []string{"Unit argocd/app"},
		},
		"an ApplicationSet that creates and deletes": {
			manifests: []string{with(single, plain, made), with(set, "POLICY", "create-delete")}, objects: []string{"Unit argocd/app"},
		},
		"an ApplicationSet that is gone": {manifests: []string{with(single, plain, made)}, objects: []string{"Unit argocd/app"}},
		"held by another": {
			manifests: []string{with(single, plain, "{name: app, namespace: argocd, labels: {lockstep.dev/restore-uid: x}, annotations: {lockstep.dev/held-by: a/b}}")},
			objects:   []string{"Unit argocd/app"}, refusal: "held by restore a/b: run lockstep restore release b -n a first",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, a := newArgo(t, c.manifests...)
			r, err := a.Find(t.Context(), gitops.Target{Repository: url, Path: "deploy"})
			must(t, err)
			if r == nil {
				r = &gitops.Ruling{}
			}
			var objects []string
			for _, o := range r.Objects {
				objects = append(objects, string(o.Role)+" "+gitops.Name(o).String())
			}
			if !cmp.Equal(objects, c.objects) || r.Active != c.active {
				t.Errorf("objects %q, active %v", objects, r.Active)
			}
			if all := strings.Join(r.Refusals, "\n"); !strings.Contains(all, c.refusal) || c.refusal == "" && all != "" {
				t.Errorf("refusals %q, not about %q", r.Refusals, c.refusal)
			}
		})
	}
}

// TestNotServed: a cluster without Argo CD has nothing of it.
func TestNotServed(t *testing.T) {
	c := gitopstest.New(t, nil, "")
	a := Argo{Cluster: c.Cluster}
	if r, err := a.Find(t.Context(), gitops.Target{Repository: url, Path: "deploy"}); r != nil || err != nil {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := a.Undo(t.Context(), "uid", time.Now()); err != nil {
		t.Error(err)
	}
}

// TestSeveralSources takes an Application of several sources through a restore. At each step the whole spec is what it should be.
func TestSeveralSources(t *testing.T) {
	ctx := t.Context()
	c, a := newArgo(t, several5)
	k := task("r")
	spec := func() map[string]any { return c.Object(app).Object["spec"].(map[string]any) }
	before := spec()
	expect := func(what string, edit func(spec map[string]any)) {
		t.Helper()
		want := (&unstructured.Unstructured{Object: before}).DeepCopy().Object
		edit(want)
		if diff := cmp.Diff(want, spec()); diff != "" {
			t.Errorf("%s:\n%s", what, diff)
		}
	}
	noAuto := func(spec map[string]any) { delete(spec["syncPolicy"].(map[string]any), "automated") }
	at := func(revision string) func(map[string]any) {
		return func(spec map[string]any) {
			for _, i := range []int{1, 2} { // the path and the values beside it
				spec["sources"].([]any)[i].(map[string]any)["targetRevision"] = revision
			}
		}
	}
	state := func() gitops.State {
		t.Helper()
		s, err := a.Observe(ctx, k)
		must(t, err)
		return s
	}

	must(t, a.Pin(ctx, k))
	expect("pinned before it is held", func(map[string]any) {})
	for range 2 { // everything may be repeated
		must(t, a.Hold(ctx, k))
		expect("held", noAuto)
	}
	if s := state(); s.HoldDue || !strings.Contains(s.Unquiet, "stop syncing by itself") {
		t.Errorf("just held: %+v", s)
	}
	k.Now = k.Now.Add(time.Minute)
	c.Set(app, "Running", "status", "operationState", "phase")
	if s := state(); !strings.Contains(s.Unquiet, "that is under way") {
		t.Errorf("while a sync runs: %+v", s)
	}
	c.Set(app, "Succeeded", "status", "operationState", "phase")
	if s := state(); !s.Held() || s.Pinned() {
		t.Errorf("held: %+v", s)
	}
	for range 2 {
		must(t, a.Pin(ctx, k))
		expect("pinned", func(spec map[string]any) { noAuto(spec); at(commit)(spec) })
	}
	if s := state(); !s.Pinned() || s.Units[app].Released {
		t.Errorf("pinned: %+v", s)
	}
	must(t, a.Release(ctx, k, k.Objects[0]))
	expect("released", at(commit))
	wantOperation := map[string]any{
		"initiatedBy": map[string]any{"username": "lockstep"}, "retry": map[string]any{"limit": int64(5)},
		"sync": map[string]any{
			"syncStrategy": map[string]any{"hook": map[string]any{}}, "prune": true, "syncOptions": []any{"CreateNamespace=true"},
			"revisions": []any{"1.2.*", commit, commit, "tools", ""},
		},
	}
	if diff := cmp.Diff(wantOperation, c.Object(app).Object["operation"]); diff != "" {
		t.Errorf("the operation:\n%s", diff)
	}
	if _, err := a.Undo(ctx, k.Owner.UID, k.Now); err != nil {
		t.Error(err)
	}
	expect("given back", func(map[string]any) {})
	if u := c.Object(app); len(u.GetLabels()) > 0 || len(u.GetAnnotations()) > 0 {
		t.Errorf("marks are left: %v %v", u.GetLabels(), u.GetAnnotations())
	}
}

// TestSourcesChange: what was pinned is given back to the source that it was of, wherever that stands now.
func TestSourcesChange(t *testing.T) {
	ctx := t.Context()
	c, a := newArgo(t, several5)
	k := task("r")
	must(t, a.Hold(ctx, k))
	must(t, a.Pin(ctx, k))
	c.Edit(app, func(u *unstructured.Unstructured) {
		spec := u.Object["spec"].(map[string]any)
		spec["sources"] = spec["sources"].([]any)[1:] // the chart is gone
	})
	if _, err := a.Undo(ctx, k.Owner.UID, k.Now); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sourcesOf(c.Object(app)) {
		got = append(got, field(s, "targetRevision"))
	}
	if diff := cmp.Diff([]string{"main", "main", "tools", ""}, got); diff != "" {
		t.Error(diff)
	}
	if automated(c.Object(app)) == nil {
		t.Error("auto-sync of what was never released is off")
	}
}

// TestUnit says how a released Application fares.
func TestUnit(t *testing.T) {
	status := func(phase, syncResult, compared, health string) map[string]any {
		return map[string]any{
			"operationState": map[string]any{"phase": phase, "message": "m", "syncResult": map[string]any{"revisions": []any{"1.2.3", syncResult}}},
			"sync":           map[string]any{"revisions": []any{"1.2.3", compared}}, "health": map[string]any{"status": health},
		}
	}
	for name, c := range map[string]struct {
		status map[string]any
		want   gitops.Unit
	}{
		"nothing yet":  {nil, gitops.Unit{Released: true, Message: "its sync of the commit has not begun"}},
		"another sync": {status("Succeeded", "other", commit, "Healthy"), gitops.Unit{Released: true, Message: "its sync of the commit has not begun"}},
		"running":      {status("Running", commit, "", ""), gitops.Unit{Released: true, Message: "its sync is Running: m"}},
		"failed":       {status("Failed", commit, commit, "Healthy"), gitops.Unit{Released: true, Message: "its sync is Failed: m"}},
		"not compared": {status("Succeeded", commit, "other", "Healthy"), gitops.Unit{Released: true, Message: "it has not compared the commit yet"}},
		"not healthy":  {status("Succeeded", commit, commit, "Progressing"), gitops.Unit{Released: true, Message: "its health is Progressing"}},
		"ready":        {status("Succeeded", commit, commit, "Healthy"), gitops.Unit{Released: true, Ready: true}},
	} {
		t.Run(name, func(t *testing.T) {
			k := task("r")
			clusterOf, a := newArgo(t, single)
			must(t, a.Hold(t.Context(), k))
			must(t, a.Pin(t.Context(), k))
			must(t, a.Release(t.Context(), k, k.Objects[0]))
			if c.status != nil {
				clusterOf.Set(app, c.status, "status")
			}
			s, err := a.Observe(t.Context(), k)
			must(t, err)
			if diff := cmp.Diff(c.want, s.Units[app]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestPutBack: who undoes the hold or the pin is found out, and what is given back in the end is what was there first.
func TestPutBack(t *testing.T) {
	ctx := t.Context()
	c, a := newArgo(t, single)
	k := task("r")
	must(t, a.Hold(ctx, k))
	must(t, a.Pin(ctx, k))
	c.Set(app, map[string]any{"prune": false}, "spec", "syncPolicy", "automated")
	c.Set(app, "elsewhere", "spec", "source", "targetRevision")
	s, err := a.Observe(ctx, k)
	must(t, err)
	if !s.HoldDue || !s.PinDue {
		t.Errorf("it is not found out: %+v", s)
	}
	must(t, a.Hold(ctx, k))
	must(t, a.Pin(ctx, k))
	if u := c.Object(app); automated(u) != nil || gitops.Text(u, "spec", "source", "targetRevision") != commit {
		t.Errorf("it is not put back: %v", u.Object["spec"])
	}
	if _, err := a.Undo(ctx, k.Owner.UID, k.Now); err != nil {
		t.Fatal(err)
	}
	if _, found, _ := unstructured.NestedString(c.Object(app).Object, "spec", "source", "targetRevision"); found || automated(c.Object(app)) != nil {
		t.Errorf("it is left as %v", c.Object(app).Object["spec"])
	}
}

func TestLost(t *testing.T) {
	ctx := t.Context()
	c, a := newArgo(t, single)
	must(t, a.Hold(ctx, task("first")))
	if err := a.Hold(ctx, task("second")); !errors.Is(err, gitops.ErrLost) || !strings.Contains(err.Error(), "lockstep restore release first") {
		t.Errorf("what another restore holds: %v", err)
	}
	c.Remove(app)
	if _, err := a.Observe(ctx, task("first")); !errors.Is(err, gitops.ErrLost) || !strings.Contains(err.Error(), "Application argocd/app is gone") {
		t.Errorf("what is gone: %v", err)
	}
}

// TestRunning: what runs is the last entry of the history, until a sync has applied something and has not succeeded.
func TestRunning(t *testing.T) {
	const next, tracked = "9876543210987654321098765432109876543210", "app:lockstep.dev/ProtectionPolicy:shop/shop"
	history := func(entries ...any) map[string]any { return map[string]any{"history": entries} }
	with := func(status map[string]any, phase string, resources ...any) map[string]any {
		status["operationState"] = map[string]any{"phase": phase, "syncResult": map[string]any{"revision": next, "resources": resources}}
		return status
	}
	resource := func(fields ...string) map[string]any {
		r := map[string]any{"kind": "Service"}
		for i := 0; i < len(fields); i += 2 {
			r[fields[i]] = fields[i+1]
		}
		return r
	}
	ran := func() map[string]any {
		return history(map[string]any{"revision": "1111111111111111111111111111111111111111"}, map[string]any{"revision": commit})
	}
	for name, c := range map[string]struct {
		app    string // single by default
		status map[string]any
		commit string
		path   string // deploy by default
		why    string
		mixed  bool
	}{
		"the last of the history": {status: ran(), commit: commit},
		"a sync that only checks": {status: with(ran(), "Running"), commit: commit},
		"a sync at its hooks":     {status: with(ran(), "Running", resource("syncPhase", "PreSync", "hookPhase", "Running", "hookType", "PreSync")), commit: commit},
		"a sync whose hook failed": {
			status: with(ran(), "Failed", resource("syncPhase", "PreSync", "hookPhase", "Failed"), resource("syncPhase", "Sync", "status", "SyncFailed")), commit: commit},
		"a sync that has applied": {
			status: with(ran(), "Running", resource("syncPhase", "Sync", "status", "Synced")), mixed: true, why: "to commit 9876543 is Running and has applied something"},
		"a sync that has failed half way": {status: with(ran(), "Failed", resource("status", "Pruned")), mixed: true, why: "is Failed and has applied something"},
		"a hook beside the sync":          {status: with(ran(), "Error", resource("syncPhase", "Sync", "hookPhase", "Failed")), mixed: true, why: "is Error and has applied"},
		"a sync that has succeeded":       {status: with(ran(), "Succeeded", resource("syncPhase", "Sync", "status", "Synced")), commit: commit},
		"nothing yet":                     {why: "Application argocd/app has not synced a commit yet"},
		"compared only":                   {status: map[string]any{"sync": map[string]any{"status": "OutOfSync", "revision": commit}}, why: "has not synced a commit yet"},
		"several sources": {app: several5, commit: commit,
			status: history(map[string]any{"revisions": []any{"1.2.3", commit, next, next, next}, "sources": []any{
				map[string]any{"repoURL": "https://charts.example.org", "chart": "redis"}, map[string]any{"repoURL": url, "path": "old", "targetRevision": "main"}}}),
			path: "old"},
		"several paths": {app: several5, status: history(map[string]any{"revisions": []any{"1.2.3", commit, commit, commit, commit}}), why: "deploys several paths"},
		"a chart": {app: strings.Replace(single, "path: deploy", "chart: shop", 1), status: history(map[string]any{"revision": "1.2.3"}),
			why: "deploys no path of a Git repository"},
	} {
		t.Run(name, func(t *testing.T) {
			clusterOf, a := newArgo(t, cmpor.Or(c.app, single))
			if c.status != nil {
				clusterOf.Set(app, c.status, "status")
			}
			o := &unstructured.Unstructured{}
			o.SetAnnotations(map[string]string{annotationTracking: tracked})
			got, err := a.Running(t.Context(), o)
			must(t, err)
			if got == nil || got.Revision.Commit != c.commit || got.Mixed != c.mixed || !strings.Contains(got.Why, c.why) || c.why == "" && got.Why != "" {
				t.Fatalf("%+v", got)
			}
			if c.commit != "" && got.Revision.Path != cmpor.Or(c.path, "deploy") {
				t.Errorf("path %q", got.Revision.Path)
			}
		})
	}
	_, a := newArgo(t, single)
	for _, o := range []*unstructured.Unstructured{{}, {Object: map[string]any{"metadata": map[string]any{"labels": map[string]any{labelInstance: "chart"}}}}} {
		if got, err := a.Running(t.Context(), o); got != nil || err != nil {
			t.Errorf("of what is none of Argo CD's: %+v, %v", got, err)
		}
	}
}

// TestCredentials: Lockstep asks Git with what Argo CD does, where that is for HTTP.
func TestCredentials(t *testing.T) {
	secret := func(name, kind, url, key string) string {
		encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
		return "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + ", namespace: argocd, labels: {argocd.argoproj.io/secret-type: " + kind + "}}\n" +
			"data: {url: " + encode(url) + ", " + key + ": " + encode("x") + "}\n"
	}
	for name, c := range map[string]struct {
		secrets []string
		want    string
	}{
		"none":                   {},
		"the repository's":       {[]string{secret("own", "repository", url+".git", "password"), secret("all", "repo-creds", "https://git.example.org", "password")}, "own"},
		"a template":             {[]string{secret("all", "repo-creds", "https://git.example.org", "bearerToken"), secret("other", "repository", "https://git.example.org/o", "password")}, "all"},
		"the longest template":   {[]string{secret("long", "repo-creds", "https://git.example.org/sh", "password"), secret("all", "repo-creds", "https://git", "password")}, "long"},
		"an SSH key is no help":  {[]string{secret("ssh", "repository", url, "sshPrivateKey")}, ""},
		"another kind of Secret": {[]string{secret("cluster", "cluster", url, "password")}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			app := strings.Replace(single, "spec:", "status: {history: [{revision: "+commit+"}]}\nspec:", 1)
			kinds := []schema.GroupVersionKind{{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"}, {Version: "v1", Kind: "Secret"}}
			a := Argo{Cluster: gitopstest.New(t, kinds, strings.Join(append(c.secrets, app), "---\n")).Cluster}
			o := &unstructured.Unstructured{}
			o.SetAnnotations(map[string]string{annotationTracking: "app:"})
			got, err := a.Running(t.Context(), o)
			must(t, err)
			if got.Revision.Commit != commit || got.Secret.Name != c.want {
				t.Errorf("%+v", got)
			}
		})
	}
}
