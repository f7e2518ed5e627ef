package flux

import (
	"errors"
	"fmt"
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
	source = `apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: source, namespace: flux-system}
spec: {url: https://git.example.org/shop.git, ref: {branch: main}}
`
)

// kustomization is one of the source, with more of its spec and labels.
func kustomization(name, path, spec, labels string) string {
	return fmt.Sprintf(`apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %s, namespace: flux-system, labels: {%s}}
spec: {path: %s, sourceRef: {kind: GitRepository, name: source}, %s}
`, name, labels, path, spec)
}

func by(name string) string {
	return labelName + ": " + name + ", " + labelNamespace + ": flux-system"
}

func newFlux(t *testing.T, manifests ...string) (*gitopstest.Cluster, Flux) {
	t.Helper()
	c := gitopstest.New(t, []schema.GroupVersionKind{
		{Group: kindRepository.Group, Version: "v1", Kind: kindRepository.Kind}, {Group: kindKustomization.Group, Version: "v1", Kind: kindKustomization.Kind},
	}, strings.Join(manifests, "---\n"))
	return c, Flux{Cluster: c.Cluster}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	shop := kustomization("shop", "./deploy", "", "")
	for name, c := range map[string]struct {
		manifests []string
		objects   []string // role and name of each, and what it comes after
		active    bool
		refusal   string // "" for none
	}{
		"nothing":                  {},
		"a source of nobody":       {manifests: []string{source}},
		"one":                      {manifests: []string{source, shop}, objects: []string{"Source source", "Unit shop"}, active: true},
		"a suspended one":          {manifests: []string{source, kustomization("shop", "deploy/", "suspend: true", "")}, objects: []string{"Source source", "Unit shop"}},
		"another path":             {manifests: []string{source, kustomization("shop", "./deploy/more", "", "")}},
		"another repository":       {manifests: []string{strings.ReplaceAll(source, "shop.git", "other.git"), shop}},
		"another cluster":          {manifests: []string{source, kustomization("shop", "./deploy", "kubeConfig: {secretRef: {name: far}}", "")}},
		"a bucket of the name":     {manifests: []string{source, strings.ReplaceAll(shop, "kind: GitRepository", "kind: Bucket")}},
		"a source elsewhere":       {manifests: []string{source, strings.ReplaceAll(shop, "name: source}", "name: source, namespace: other}")}},
		"one that is going":        {manifests: []string{source, strings.ReplaceAll(shop, "labels: {}", "deletionTimestamp: 2026-01-01T00:00:00Z, finalizers: [a/b]")}},
		"a path that it is beside": {manifests: []string{source, shop, kustomization("other", "./other", "", "")}, objects: []string{"Source source", "Unit shop", "Bystander other"}, active: true},
		"what it depends on": {
			manifests: []string{
				source, kustomization("shop", "./deploy", "dependsOn: [{name: database}, {name: elsewhere}]", ""),
				kustomization("database", "./database", "dependsOn: [{name: base, namespace: flux-system}]", ""), kustomization("base", "./base", "", ""),
			},
			objects: []string{"Source source", "Unit base", "Unit database after flux-system/base", "Unit shop after flux-system/database"}, active: true,
		},
		"what it brings": {
			manifests: []string{source, shop, kustomization("part", "./part", "dependsOn: [{name: base}]", by("shop")), kustomization("piece", "./piece", "", by("part")),
				kustomization("base", "./base", "", ""), kustomization("up", "./clusters", "", by("up"))},
			objects: []string{"Source source", "Unit shop", "Unit base", "Unit part after flux-system/base", "Unit piece", "Bystander up"}, active: true,
		},
		"what brings it": {
			manifests: []string{source, kustomization("shop", "./deploy", "", by("up")), kustomization("up", "./clusters", "", "")},
			objects:   []string{"Source source", "Unit shop", "Bystander up"}, active: true,
		},
		"a circle": {
			manifests: []string{source, kustomization("shop", "./deploy", "dependsOn: [{name: base}]", by("base")), kustomization("base", "./base", "dependsOn: [{name: shop}]", by("shop"))},
			objects:   []string{"Source source", "Unit base after flux-system/shop", "Unit shop after flux-system/base"}, active: true,
		},
		"two": {
			manifests: []string{source, shop, kustomization("twin", "deploy", "", "")}, active: true, refusal: "flux-system/shop, flux-system/twin all deploy path deploy",
		},
		"held by another": {
			manifests: []string{source, strings.ReplaceAll(shop, "labels: {}", "labels: {lockstep.dev/restore-uid: x}, annotations: {lockstep.dev/held-by: a/b}")},
			objects:   []string{"Source source", "Unit shop"}, active: true, refusal: "held by restore a/b: run lockstep restore release b -n a first",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, f := newFlux(t, c.manifests...)
			r, err := f.Find(t.Context(), gitops.Target{Repository: url, Path: "deploy"})
			must(t, err)
			if r == nil {
				r = &gitops.Ruling{}
			}
			var objects []string
			for _, o := range r.Objects {
				objects = append(objects, strings.TrimSuffix(fmt.Sprintf("%s %s after %s", o.Role, o.Name, strings.Join(o.After, " ")), " after "))
			}
			if diff := cmp.Diff(c.objects, objects); diff != "" || r.Active != c.active {
				t.Errorf("active %v, objects:\n%s", r.Active, diff)
			}
			if all := strings.Join(r.Refusals, "\n"); !strings.Contains(all, c.refusal) || c.refusal == "" && all != "" {
				t.Errorf("refusals %q, not about %q", r.Refusals, c.refusal)
			}
		})
	}
}

// TestNotServed: a cluster without Flux has nothing of it.
func TestNotServed(t *testing.T) {
	f := Flux{Cluster: gitopstest.New(t, nil, "").Cluster}
	if r, err := f.Find(t.Context(), gitops.Target{Repository: url, Path: "deploy"}); r != nil || err != nil {
		t.Errorf("%+v, %v", r, err)
	}
	if waits, err := f.Undo(t.Context(), "uid", time.Now()); waits != "" || err != nil {
		t.Errorf("%q, %v", waits, err)
	}
}

// journey is a source with an application, one that it depends on, a running one and a suspended one, and a restore on its way.
type journey struct {
	*gitopstest.Cluster
	f    Flux
	t    *testing.T
	task gitops.Task
}

var journeySpecs = map[string]string{"shop": "suspend: true, dependsOn: [{name: base}]", "base": "", "other": "suspend: false", "idle": "suspend: true"}

func newJourney(t *testing.T) *journey {
	manifests := []string{source}
	for name, spec := range journeySpecs {
		manifests = append(manifests, kustomization(name, "./"+strings.ReplaceAll(name, "shop", "deploy"), spec, ""))
	}
	c, f := newFlux(t, manifests...)
	r, err := f.Find(t.Context(), gitops.Target{Repository: url, Path: "deploy"})
	must(t, err)
	return &journey{Cluster: c, f: f, t: t, task: gitops.Task{
		Owner: gitops.Owner{Name: object.Name{Namespace: "lockstep-system", Name: "r"}, UID: "uid"}, Objects: r.Objects,
		Revision: v1alpha1.Revision{Repository: url, Path: "deploy", Commit: commit}, Now: time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC),
	}}
}

func keyOf(name string) object.Key {
	kind := kindKustomization
	if name == "source" {
		kind = kindRepository
	}
	return object.Key{Group: kind.Group, Kind: kind.Kind, Namespace: "flux-system", Name: name}
}

func (j *journey) specs() map[string]any {
	j.t.Helper()
	out := map[string]any{}
	for _, name := range []string{"source", "shop", "base", "other", "idle"} {
		out[name] = j.Object(keyOf(name)).Object["spec"]
	}
	return out
}

func (j *journey) state() gitops.State {
	j.t.Helper()
	s, err := j.f.Observe(j.t.Context(), j.task)
	must(j.t, err)
	return s
}

// ready has a controller of Flux say that an object is well at a revision.
func (j *journey) ready(name, revision string) {
	j.t.Helper()
	j.Set(keyOf(name), map[string]any{
		"artifact": map[string]any{"revision": revision}, "lastAppliedRevision": revision,
		"conditions": []any{map[string]any{"type": "Ready", "status": "True", "message": "m"}},
	}, "status")
}

func (j *journey) held() {
	j.t.Helper()
	must(j.t, j.f.Hold(j.t.Context(), j.task))
	j.task.Now = j.task.Now.Add(time.Minute)
}

func (j *journey) unit(name string) v1alpha1.EngineObject {
	return v1alpha1.EngineObject{Kind: kindKustomization.Kind, Namespace: "flux-system", Name: name, Role: v1alpha1.RoleUnit}
}

// TestJourney goes the whole way; everything may be repeated, and in the end all is as it was, but that what was restored is no longer
// suspended.
func TestJourney(t *testing.T) {
	ctx := t.Context()
	j := newJourney(t)
	before := j.specs()
	for range 2 {
		must(t, j.f.Hold(ctx, j.task))
	}
	for _, name := range []string{"shop", "base", "other", "idle"} {
		if !suspended(j.Object(keyOf(name))) {
			t.Errorf("%s is not held", name)
		}
	}
	if s := j.state(); s.HoldDue || !strings.Contains(s.Unquiet, "Kustomization flux-system/base to end what it is doing") || strings.Contains(s.Unquiet, "shop") {
		t.Errorf("just held: %+v", s)
	}
	j.task.Now = j.task.Now.Add(time.Minute)
	if s := j.state(); !s.Held() || !s.PinDue {
		t.Errorf("held: %+v", s)
	}
	for range 2 {
		must(t, j.f.Pin(ctx, j.task))
	}
	if s := j.state(); s.PinDue || s.Pinned() || !strings.Contains(s.Unfetched, "waiting for GitRepository flux-system/source to fetch the commit") {
		t.Errorf("not fetched: %+v", s)
	}
	j.ready("source", "main@sha1:"+commit)
	if s := j.state(); !s.Pinned() || s.Units[keyOf("shop")].Released {
		t.Errorf("pinned: %+v", s)
	}
	for _, name := range []string{"base", "shop"} {
		for range 2 {
			must(t, j.f.Release(ctx, j.task, j.unit(name)))
		}
		if u := j.state().Units[keyOf(name)]; !u.Released || u.Ready {
			t.Errorf("%s is %+v", name, u)
		}
		j.ready(name, "main@sha1:"+commit)
		if u := j.state().Units[keyOf(name)]; !u.Ready {
			t.Errorf("%s is %+v", name, u)
		}
	}
	if !suspended(j.Object(keyOf("other"))) {
		t.Error("what is not restored was resumed")
	}
	j.Set(keyOf("source"), []any{}, "status", "conditions") // it looks for the branch
	waits, err := j.f.Undo(ctx, "uid", j.task.Now)
	must(t, err)
	if !strings.Contains(waits, "Kustomization flux-system/other stays suspended until GitRepository flux-system/source has left the pinned commit") ||
		!suspended(j.Object(keyOf("other"))) {
		t.Errorf("before the source has left the commit it waits for %q", waits)
	}
	j.ready("source", "main@sha1:head")
	waits, err = j.f.Undo(ctx, "uid", j.task.Now)
	must(t, err)
	unstructured.RemoveNestedField(before["shop"].(map[string]any), "suspend")
	if diff := cmp.Diff(before, j.specs()); diff != "" || waits != "" {
		t.Errorf("waits for %q, left:\n%s", waits, diff)
	}
	for name := range before {
		if by := j.Object(keyOf(name)).GetLabels()[v1alpha1.LabelRestore]; by != "" {
			t.Errorf("%s is still marked", name)
		}
	}
}

// TestGivenUp: before anything was released, all is given back as it was, and what was suspended stays so.
func TestGivenUp(t *testing.T) {
	j := newJourney(t)
	before := j.specs()
	j.held()
	must(t, j.f.Pin(t.Context(), j.task))
	j.ready("source", "main@sha1:head")
	waits, err := j.f.Undo(t.Context(), "uid", j.task.Now)
	must(t, err)
	if diff := cmp.Diff(before, j.specs()); diff != "" || waits != "" {
		t.Errorf("waits for %q, left:\n%s", waits, diff)
	}
}

// TestUnderWay: what began before the hold is waited for, but no longer than it may take.
func TestUnderWay(t *testing.T) {
	j := newJourney(t)
	j.Set(keyOf("base"), "3m", "spec", "timeout")
	j.held()
	j.Set(keyOf("base"), []any{map[string]any{"type": "Reconciling", "status": "True", "reason": "Progressing"}}, "status", "conditions")
	if s := j.state(); !strings.Contains(s.Unquiet, "flux-system/base") {
		t.Errorf("while it applies: %+v", s)
	}
	j.task.Now = j.task.Now.Add(3 * time.Minute)
	if s := j.state(); !s.Held() {
		t.Errorf("when its controller died: %+v", s)
	}
}

// TestPutBack: who resumes what is held, or unpins the source, is found out.
func TestPutBack(t *testing.T) {
	ctx := t.Context()
	j := newJourney(t)
	j.held()
	must(t, j.f.Pin(ctx, j.task))
	j.Set(keyOf("other"), false, "spec", "suspend")
	j.Set(keyOf("source"), "else", "spec", "ref", "commit")
	if s := j.state(); !s.HoldDue || !s.PinDue {
		t.Errorf("it is not found out: %+v", s)
	}
	must(t, j.f.Hold(ctx, j.task))
	must(t, j.f.Pin(ctx, j.task))
	if !suspended(j.Object(keyOf("other"))) || pinnedTo(j.Object(keyOf("source"))) != commit {
		t.Errorf("it is not put back: %v", j.specs())
	}
}

// TestUnit says how a released Kustomization fares.
func TestUnit(t *testing.T) {
	for name, c := range map[string]struct {
		act  func(j *journey)
		want gitops.Unit
	}{
		"nothing yet":     {func(*journey) {}, gitops.Unit{Released: true, Message: "it has said nothing yet"}},
		"another commit":  {func(j *journey) { j.ready("base", "main@sha1:else") }, gitops.Unit{Released: true, Message: "it has not applied the commit yet: m"}},
		"suspended again": {func(j *journey) { j.Set(keyOf("base"), true, "spec", "suspend") }, gitops.Unit{Released: true, Message: "it was suspended again, by hand or because Git declares it"}},
		"an old status": {func(j *journey) {
			j.ready("base", "main@sha1:"+commit)
			j.Set(keyOf("base"), int64(7), "status", "observedGeneration")
		}, gitops.Unit{Released: true, Message: "m"}},
		"no branch": {func(j *journey) { j.ready("base", "sha1:"+commit) }, gitops.Unit{Released: true, Ready: true}},
	} {
		t.Run(name, func(t *testing.T) {
			j := newJourney(t)
			j.held()
			must(t, j.f.Release(t.Context(), j.task, j.unit("base")))
			c.act(j)
			if diff := cmp.Diff(c.want, j.state().Units[keyOf("base")]); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSuspendedSource(t *testing.T) {
	j := newJourney(t)
	j.held()
	j.Set(keyOf("source"), true, "spec", "suspend")
	if s := j.state(); !strings.Contains(s.Unfetched, "it is suspended; resume it") {
		t.Errorf("%+v", s)
	}
}

func TestLost(t *testing.T) {
	ctx := t.Context()
	j := newJourney(t)
	j.held()
	second := j.task
	second.Owner.UID = "second"
	if err := j.f.Hold(ctx, second); !errors.Is(err, gitops.ErrLost) || !strings.Contains(err.Error(), "lockstep restore release r") {
		t.Errorf("what another restore holds: %v", err)
	}
	j.Remove(keyOf("base"))
	if _, err := j.f.Observe(ctx, j.task); !errors.Is(err, gitops.ErrLost) || !strings.Contains(err.Error(), "Kustomization flux-system/base is gone") {
		t.Errorf("what is gone: %v", err)
	}
}
