// The API server of these tests does not build on Windows.

//go:build !windows

package cmd

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

func testRelease(t *testing.T, c *testCluster) {
	release := func(args ...string) outcome { return c.run(t, append([]string{"restore", "release"}, args...)...) }
	c.engineRestore(t, "by-flux", v1alpha1.EngineFlux, true)
	c.engineRestore(t, "under-way", v1alpha1.EngineArgoCD, false)
	c.engineRestore(t, "by-itself", v1alpha1.EngineDirect, true)
	c.engineRestore(t, "waiting", v1alpha1.EngineFlux, true)
	c.engineRestore(t, "chosen-not-yet", "", false)
	c.standIn(t, func(ctx context.Context) error { return c.letGo(ctx, "by-flux", "waiting") })

	release("by-flux").want(t, fault.Done, "Flux or Argo CD follow Git's branch again")
	release("by-flux").want(t, fault.Done, "restore/by-flux holds nothing of Flux or Argo CD") // it may be repeated
	release("by-itself").want(t, fault.Done, "restore/by-itself holds nothing of Flux or Argo CD")
	release("chosen-not-yet").want(t, fault.Done, "restore/chosen-not-yet holds nothing of Flux or Argo CD")
	release("under-way").want(t, fault.Refused, `restore "under-way" is not complete`, "kubectl -n lockstep-system delete restore under-way")
	if _, asked := c.restoreNamed(t, "under-way").Annotations[v1alpha1.AnnotationRelease]; asked {
		t.Error("what is refused was asked for")
	}
	release("waiting", "--timeout", "3s").want(t, fault.Failed, "not released within 3s", "other stays suspended")
	c.runUntil(t, "other stays suspended", "restore", "release", "waiting").want(t, fault.Interrupted, "interrupted")
	release("nobody").want(t, fault.Absent, `there is no restore "lockstep-system/nobody", and nothing is held in its name`)
	release("by-flux", "-n", "default").want(t, fault.Absent, `there is no restore "default/by-flux"`)
	release().want(t, fault.Usage)
	testReleaseOrphans(t, c)
}

// testReleaseOrphans: what a Restore holds that was removed by force is given back without it.
func testReleaseOrphans(t *testing.T, c *testCluster) {
	_, err := envtest.InstallCRDs(c.Config, envtest.CRDInstallOptions{
		Paths: []string{filepath.Join("..", "..", "..", "test", "standin", "crd")}, ErrorIfPathMissing: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	app := func(name, restore, uid string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": map[string]any{"namespace": "default", "name": name},
			"spec": map[string]any{
				"project": "default", "destination": map[string]any{},
				"source": map[string]any{"repoURL": "https://git.example.com/shop", "path": "deploy", "targetRevision": commit},
			},
		}}
		was := map[string]any{
			"automated": map[string]any{"prune": true},
			"pinned":    []any{map[string]any{"repository": "https://git.example.com/shop", "path": "deploy", "revision": "main"}},
		}
		owner := gitops.Owner{Name: object.Name{Namespace: v1alpha1.SystemNamespace, Name: restore}, UID: uid}
		if err := gitops.MarkWith(u, owner, gitops.Held{}, was); err != nil {
			t.Fatal(err)
		}
		c.create(t, u)
		return u
	}
	target := func(u *unstructured.Unstructured) string {
		t.Helper()
		if err := c.Get(context.Background(), client.ObjectKeyFromObject(u), u); err != nil {
			t.Fatal(err)
		}
		return gitops.Text(u, "spec", "source", "targetRevision")
	}
	lost, twice := app("lost", "gone", "uid-1"), app("twice", "gone", "uid-2")
	other, alive := app("other", "gone-too", "uid-3"), app("alive", "under-way", string(c.restoreNamed(t, "under-way").UID))

	c.run(t, "restore", "release", "gone").want(t, fault.Done, "Flux or Argo CD follow Git's branch again")
	for _, u := range []*unstructured.Unstructured{lost, twice} {
		if got := target(u); got != "main" || u.GetLabels()[v1alpha1.LabelRestore] != "" {
			t.Errorf("%s is left at %q with labels %v", u.GetName(), got, u.GetLabels())
		}
		if automated, _, _ := unstructured.NestedBool(u.Object, "spec", "syncPolicy", "automated", "prune"); !automated {
			t.Errorf("auto-sync of %s is not given back", u.GetName())
		}
	}
	for _, u := range []*unstructured.Unstructured{other, alive} {
		if got := target(u); got != commit {
			t.Errorf("%s of another restore was let go to %q", u.GetName(), got)
		}
	}
	c.run(t, "restore", "release", "gone").want(t, fault.Absent, `there is no restore "lockstep-system/gone"`)
}

// engineRestore makes a Restore that the engine carries out, or has carried out.
func (c *testCluster) engineRestore(t *testing.T, name string, engine v1alpha1.Engine, complete bool) {
	t.Helper()
	r := &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name},
		Spec: v1alpha1.RestoreSpec{
			From:   v1alpha1.RestoreFrom{Vault: "primary", Tag: "engine"},
			Source: v1alpha1.GitSource{URL: "https://git.example.com/" + name + ".git", Path: "deploy"},
		},
	}
	c.create(t, r)
	if engine != "" {
		r.Status.Engine = &v1alpha1.EngineStatus{Name: engine}
	}
	if complete {
		now := metav1.Now()
		r.Status.CompletedAt = &now
	}
	r.Status.Conditions = isReady(v1alpha1.ReasonSucceeded)
	c.setStatus(t, r)
}

func (c *testCluster) restoreNamed(t *testing.T, name string) *v1alpha1.Restore {
	t.Helper()
	r := &v1alpha1.Restore{}
	if err := c.Get(context.Background(), client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: name}, r); err != nil {
		t.Fatal(err)
	}
	return r
}

// letGo plays the controller, which does what is asked for. What begins with "waiting" waits for ever.
func (c *testCluster) letGo(ctx context.Context, names ...string) error {
	for _, name := range names {
		r := &v1alpha1.Restore{}
		if err := c.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: name}, r); err != nil {
			return err
		}
		if _, asked := r.Annotations[v1alpha1.AnnotationRelease]; !asked || r.Status.Engine.ReleasedAt != nil {
			continue
		}
		before := r.DeepCopy()
		if strings.HasPrefix(name, "waiting") {
			r.Status.Engine.Message = "Kustomization flux-system/other stays suspended"
		} else {
			now := metav1.Now()
			r.Status.Engine.ReleasedAt = &now
		}
		if err := c.Status().Patch(ctx, r, client.MergeFrom(before)); err != nil {
			return err
		}
	}
	return nil
}
