// The API server of these tests does not build on Windows.

//go:build !windows

package cmd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/cli/internal/doctor"
	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/test/standin"
)

const (
	oldRevision = "main@sha1:0123456789abcdef0123456789abcdef01234567"
	newRevision = "main@sha1:89abcdef0123456789abcdef0123456789abcdef"
)

// TestUninstall: what waits behind the gate goes on, what holds data stays, and nothing of Lockstep runs any more.
func TestUninstall(t *testing.T) {
	h := &hospital{testCluster: startCluster(t, true), t: t, now: time.Now}
	ctx := context.Background()
	h.examine("gates", doctor.OK, "no Kustomization deploys only after a restore point")
	dir := t.TempDir()
	if err := standin.WriteDefinitions(ctx, dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kustomize.toolkit.fluxcd.io_kustomizations.yaml", "source.toolkit.fluxcd.io_gitrepositories.yaml"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(data, &u.Object); err != nil {
			t.Fatal(err)
		}
		h.create(t, u)
		h.served(u)
	}
	k := thing("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "default", "shop", map[string]any{
		"path": "./shop", "prune": true, "interval": "1m", "sourceRef": map[string]any{"kind": "GitRepository", "name": "shop"}})
	k.SetAnnotations(map[string]string{v1alpha1.AnnotationPreDeploy: v1alpha1.PreDeployRequired})
	h.create(t, k)
	k.Object["status"] = map[string]any{"lastAppliedRevision": oldRevision, "lastAttemptedRevision": oldRevision}
	h.setStatus(t, k)
	s := thing("source.toolkit.fluxcd.io/v1", "GitRepository", "default", "shop", map[string]any{"url": "https://git.example/shop", "interval": "1m"})
	h.create(t, s)
	s.Object["status"] = map[string]any{"artifact": map[string]any{"revision": newRevision, "lastUpdateTime": "2026-01-01T00:00:00Z", "url": "http://source.test/a",
		"path": "a", "digest": "sha256:" + strings.Repeat("0", 64)}}
	h.setStatus(t, s)
	h.examine("gates", doctor.Error, "nothing makes it wait")

	objects, err := manifests.Objects("image")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if kind := o.GetKind(); kind != "Namespace" && kind != "CustomResourceDefinition" {
			h.create(t, o)
		}
	}
	attempt := func() error {
		if err := h.Get(ctx, client.ObjectKeyFromObject(k), k); err != nil {
			t.Fatal(err)
		}
		before := k.DeepCopy()
		_ = unstructured.SetNestedField(k.Object, newRevision, "status", "lastAttemptedRevision")
		return h.Status().Patch(ctx, k, client.MergeFrom(before), client.DryRunAll)
	}
	for range 400 { // the API server reads a policy a moment after it was made
		if attempt() != nil {
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	if err := attempt(); err == nil {
		t.Fatal("the gate is open")
	}
	h.examine("gates", doctor.Error, "Kustomization default/shop deploys nothing new", "lockstep uninstall")
	h.run(t, "status").want(t, fault.Failed, "Deploys that wait", "kustomization/shop -n default does not deploy main@89abcde")

	h.run(t, "uninstall", "--dry-run").want(t, fault.Done, "would remove ValidatingAdmissionPolicyBinding", "would remove Deployment",
		"would let Kustomization default/shop deploy "+newRevision)
	if attempt() == nil {
		t.Fatal("a dry run has opened the gate")
	}
	r := aRestore("unfinished")
	h.create(t, r)
	h.run(t, "uninstall").want(t, fault.Refused, "unfinished: restore lockstep-system/unfinished")
	h.remove(r)
	h.run(t, "uninstall").want(t, fault.Done, "Lockstep is removed", "is kept")
	if err := attempt(); err != nil {
		t.Errorf("after the removal: %v", err)
	}
	if k.GetAnnotations()["reconcile.fluxcd.io/requestedAt"] == "" {
		t.Error("Flux was not asked to go on")
	}
	if err := h.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: "lockstep-controller"}, &appsv1.Deployment{}); client.IgnoreNotFound(err) != nil || err == nil {
		t.Errorf("the controller is still there: %v", err)
	}
	if err := h.List(ctx, &v1alpha1.RestorePointList{}); err != nil {
		t.Errorf("the kinds are gone: %v", err)
	}
	h.run(t, "uninstall").want(t, fault.Done, "Lockstep is removed") // again
}

// TestDeploysThatWait needs no cluster.
func TestDeploysThatWait(t *testing.T) {
	closed := flux.Gate{Name: object.Name{Namespace: "flux-system", Name: "shop"}, Required: true, Applied: oldRevision, Attempted: oldRevision, Incoming: newRevision}
	says := func(reason, to string) flux.Gate {
		g := closed
		g.Waiting = &flux.Waiting{To: to, Reason: reason, Message: "m", Points: []string{"shop/p"}}
		return g
	}
	open := closed
	open.Approved = newRevision
	for name, c := range map[string]struct {
		gate      flux.Gate
		namespace string
		listed    int
		problems  int
	}{
		"open":             {open, "", 0, 0},
		"being taken":      {says(v1alpha1.ReasonTakingPoint, newRevision), "", 1, 0},
		"blocked":          {says(v1alpha1.ReasonBackupFailed, newRevision), "", 1, 1},
		"nobody explains":  {closed, "", 1, 1},
		"said of another":  {says(v1alpha1.ReasonTakingPoint, oldRevision), "", 1, 1},
		"by its point":     {says(v1alpha1.ReasonTakingPoint, newRevision), "shop", 1, 0},
		"of another place": {says(v1alpha1.ReasonBackupFailed, newRevision), "other", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var r statusReport
			r.deploys([]flux.Gate{c.gate}, c.namespace)
			if len(r.Deploys) != c.listed || len(r.Problems) != c.problems || r.Well != (c.problems == 0) {
				t.Errorf("%+v", r)
			}
		})
	}
}
