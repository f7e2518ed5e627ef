// The API server of these tests does not build on Windows.

//go:build !windows

package cmd

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// incoming is the commit that is about to be deployed.
const incoming = "9876543210987654321098765432109876543210"

// application makes an Application that was synced before, unless first is set.
func (c *testCluster) application(t *testing.T, name string, first bool) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
		"spec": map[string]any{
			"project": "default", "destination": map[string]any{"server": "https://kubernetes.default.svc"},
			"source": map[string]any{"repoURL": "https://git.example.com/shop.git", "path": "deploy", "targetRevision": "main"},
		},
		"status": map[string]any{},
	}}
	if !first {
		u.Object["status"].(map[string]any)["history"] = []any{map[string]any{"id": int64(0), "deployedAt": "2026-01-01T00:00:00Z", "revision": commit}}
	}
	u.SetNamespace("argocd")
	u.SetName(name)
	c.create(t, u)
	return u
}

// argocd changes the status of an Application as Argo CD does.
func (c *testCluster) argocd(ctx context.Context, name string, edit func(status map[string]any)) error {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"})
	if err := c.Get(ctx, client.ObjectKey{Namespace: "argocd", Name: name}, u); err != nil {
		return err
	}
	edit(u.Object["status"].(map[string]any))
	return c.Update(ctx, u)
}

func syncing(started, revision string) func(map[string]any) {
	return func(status map[string]any) {
		status["operationState"] = map[string]any{
			"phase": "Running", "startedAt": started, "operation": map[string]any{"sync": map[string]any{}}, "syncResult": map[string]any{"revision": revision},
		}
	}
}

func testArgoCD(t *testing.T, c *testCluster) {
	ctx := t.Context()
	ns := c.namespace(t, "argo-shop")
	c.namespace(t, "argocd")
	c.application(t, "new", true)
	c.application(t, "shop", false)
	c.application(t, "broken", false)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	hook := func(policy, application string, more ...string) outcome {
		return c.run(t, append([]string{"backup", policy, "-n", ns, "--argocd-presync", "--argocd-application", application}, more...)...)
	}

	// Before there is a policy.
	must(c.argocd(ctx, "new", syncing("2026-01-02T00:00:00Z", incoming)))
	must(c.argocd(ctx, "shop", syncing("2026-01-02T00:00:00Z", incoming)))
	hook("shop", "new").want(t, fault.Done, "the first sync of Application argocd/new: there is nothing to save yet")
	hook("shop", "argocd/shop").want(t, fault.Absent, `namespace argo-shop has no ProtectionPolicy "shop": what runs would not be saved`)
	hook("shop", "").want(t, fault.Usage, "nothing says which Application syncs")
	hook("shop", "elsewhere/shop").want(t, fault.Absent, "there is no Application elsewhere/shop")
	c.run(t, "backup", "shop", "-n", ns, "--argocd-presync", "--before", commit).want(t, fault.Usage, "Argo CD says which commit")
	c.run(t, "backup", "shop", "-n", ns, "--argocd-application", "shop").want(t, fault.Usage, "--argocd-application is for")

	for _, name := range []string{"shop", "broken"} {
		p := policy(ns, name)
		p.Annotations = map[string]string{"argocd.argoproj.io/tracking-id": name + ":lockstep.dev/ProtectionPolicy:" + ns + "/" + name}
		c.create(t, p)
	}
	hook("shop", "new").want(t, fault.Done, "no sync of Application argocd/new has succeeded yet")
	if got := c.points(t, ns); len(got) != 0 {
		t.Fatalf("points %v", got)
	}
	c.standIn(t, func(ctx context.Context) error {
		var points v1alpha1.RestorePointList
		if err := c.List(ctx, &points, client.InNamespace(ns)); err != nil {
			return err
		}
		for i := range points.Items {
			if err := c.finishPoint(ctx, &points.Items[i]); err != nil {
				return err
			}
		}
		return nil
	})

	// The hook starts before Argo CD has written which commit it syncs.
	must(c.argocd(ctx, "shop", syncing("2026-01-03T00:00:00Z", "")))
	hook("shop", "", "--timeout", "1s").want(t, fault.Unknown, "Application argocd/shop does not say yet which commit it syncs")
	written := make(chan error, 1)
	go func() { written <- c.argocd(ctx, "shop", syncing("2026-01-03T00:00:00Z", incoming)) }()
	hook("shop", "").want(t, fault.Done, "made RestorePoint argo-shop/shop-predeploy-", "point 20260102-030405-aaaaaaaa of commit 0123456")
	must(<-written)
	made := c.points(t, ns)
	if len(made) != 1 || made[0].Spec.Trigger != v1alpha1.TriggerPreDeploy || made[0].Spec.Before != incoming {
		t.Fatalf("points %+v", made)
	}
	hook("shop", "").want(t, fault.Done, "found RestorePoint argo-shop/"+made[0].Name+" of the same sync")
	must(c.argocd(ctx, "shop", syncing("2026-01-04T00:00:00Z", incoming)))
	hook("shop", "", "--wait=false").want(t, fault.Done, "made RestorePoint", "of commit 0123456") // a hook that does not wait gates nothing
	if got := c.points(t, ns); len(got) != 2 {
		t.Errorf("another sync of the same commit: %d points", len(got))
	}
	must(c.argocd(ctx, "shop", func(status map[string]any) { status["operationState"].(map[string]any)["phase"] = "Succeeded" }))
	hook("shop", "", "--timeout", "1s").want(t, fault.Unknown, `Application argocd/shop does not sync: its last operation is "Succeeded"`)

	// A point that fails keeps the sync from going on; the next attempt takes another.
	must(c.argocd(ctx, "broken", syncing("2026-01-03T00:00:00Z", incoming)))
	hook("broken", "").want(t, fault.Failed, "the point failed: SaveFailed")
	second := hook("broken", "")
	second.want(t, fault.Failed, "the point failed: SaveFailed")
	if !strings.Contains(second.err, "made RestorePoint argo-shop/broken-predeploy-") || !strings.Contains(second.err, "-2") {
		t.Errorf("the second attempt:\n%s", second.err)
	}

	// A restore's sync brings what is saved already. Somebody who only has the name of its controller does not.
	byLockstep := func(status map[string]any) {
		syncing("2026-01-04T12:00:00Z", incoming)(status)
		status["operationState"].(map[string]any)["operation"].(map[string]any)["initiatedBy"] = map[string]any{"username": "lockstep"}
	}
	saved := len(c.points(t, ns))
	must(c.argocd(ctx, "shop", byLockstep))
	hook("shop", "").want(t, fault.Done, "made RestorePoint")
	c.held(t, "shop", "lockstep-system/back")
	hook("shop", "").want(t, fault.Done, "is a part of restore lockstep-system/back, whose data is in the vault")
	c.held(t, "shop", "")
	if got := len(c.points(t, ns)) - saved; got != 1 {
		t.Errorf("%d points were made", got)
	}

	// After the sync.
	must(c.argocd(ctx, "shop", syncing("2026-01-05T00:00:00Z", incoming)))
	c.run(t, "backup", "shop", "-n", ns, "--argocd-postsync").want(t, fault.Done, "point/shop-postdeploy-")
	found := false
	for _, point := range c.points(t, ns) {
		found = found || point.Spec.Trigger == v1alpha1.TriggerPostDeploy && point.Spec.Before == ""
	}
	if !found {
		t.Error("no point after the sync")
	}

	// Strict mode: the approval comes after the point, and not without it.
	compared := func(revision string) func(map[string]any) {
		return func(status map[string]any) {
			status["sync"] = map[string]any{"status": "OutOfSync", "revision": revision}
		}
	}
	approve := func(policy string, more ...string) outcome {
		return c.run(t, append([]string{"backup", policy, "-n", ns, "--argocd-approve"}, more...)...)
	}
	approve("shop").want(t, fault.Absent, "no Application argocd/shop says which commit it is to sync")
	must(c.argocd(ctx, "shop", compared(incoming)))
	must(c.argocd(ctx, "broken", compared(incoming)))
	approve("shop", "--before", commit).want(t, fault.Refused, "Application argocd/shop is to sync 9876543, not commit 0123456")
	approve("broken").want(t, fault.Failed, "the point failed")
	if got := c.approved(t, "shop") + c.approved(t, "broken"); got != "" {
		t.Errorf("approved without a point: %s", got)
	}
	approve("shop", "--before", incoming).want(t, fault.Done, "Application argocd/shop may sync 9876543")
	if got := c.approved(t, "shop"); got != incoming {
		t.Errorf("approved: %q", got)
	}
}

// held lets an Application be held by a restore, or by none.
func (c *testCluster) held(t *testing.T, name, restore string) {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"})
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "argocd", Name: name}, u); err != nil {
		t.Fatal(err)
	}
	u.SetAnnotations(map[string]string{v1alpha1.AnnotationHeldBy: restore})
	if err := c.Update(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}

func (c *testCluster) approved(t *testing.T, name string) string {
	t.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"})
	if err := c.Get(t.Context(), client.ObjectKey{Namespace: "argocd", Name: name}, u); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return u.GetAnnotations()[v1alpha1.AnnotationApprovedRevision]
}

func (c *testCluster) points(t *testing.T, namespace string) []v1alpha1.RestorePoint {
	t.Helper()
	var list v1alpha1.RestorePointList
	if err := c.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	return list.Items
}
