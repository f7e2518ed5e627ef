package engines

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
)

// gate holds Flux to what the gate relies on: that it writes lastAttemptedRevision before it applies a revision, and gives up if it may
// not. A second Kustomization of the same source, which has no gate, tells when Flux has seen the revision.
func gate(t *testing.T, c client.Client, name string, r repository) {
	t.Helper()
	ctx := t.Context()
	objects, err := manifests.Gate()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects {
		if o.GetName() != "lockstep-gate" {
			continue // who may approve is another matter: here it is the test
		}
		if err := c.Create(ctx, o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Delete(context.WithoutCancel(ctx), o) })
	}
	create(t, c, "source.toolkit.fluxcd.io/v1", "GitRepository", "flux-system", name,
		map[string]any{"url": r.url, "interval": "10s", "ref": map[string]any{"commit": r.before}})
	deploys := func(namespace, suffix string) {
		create(t, c, "kustomize.toolkit.fluxcd.io/v1", "Kustomization", "flux-system", name+suffix, map[string]any{
			"path": "./app", "interval": "10s", "prune": true, "targetNamespace": namespace, "sourceRef": map[string]any{"kind": "GitRepository", "name": name},
		})
	}
	deploys("default", "")
	deploys("kube-public", "-free")
	says(t, c, name, "before")
	edit(t, c, flux.KindKustomization().Kind, name, func(u *unstructured.Unstructured) error {
		u.SetAnnotations(map[string]string{v1alpha1.AnnotationPreDeploy: v1alpha1.PreDeployRequired})
		return nil
	})
	edit(t, c, flux.KindRepository().Kind, name, func(u *unstructured.Unstructured) error {
		return unstructured.SetNestedField(u.Object, map[string]any{"branch": "main"}, "spec", "ref")
	})
	until(t, "the Kustomization without a gate says head", func(ctx context.Context) (bool, error) {
		note := &corev1.ConfigMap{}
		err := c.Get(ctx, client.ObjectKey{Namespace: "kube-public", Name: name}, note)
		return err == nil && note.Data["says"] == "head", client.IgnoreNotFound(err)
	})
	says(t, c, name, "before")
	var incoming string
	edit(t, c, flux.KindKustomization().Kind, name, func(u *unstructured.Unstructured) error {
		all, err := flux.Flux{Cluster: gitops.Cluster{Client: c, Reader: c}}.Gates(ctx)
		for _, g := range all {
			if g.Name.Name == name {
				if incoming = g.Incoming; !g.Closed() {
					t.Errorf("the gate is not closed: %+v", g)
				}
			}
		}
		flux.Approve(u, incoming, time.Now())
		return err
	})
	says(t, c, name, "head")
}

// edit changes an object of Flux, again if somebody else did so in between.
func edit(t *testing.T, c client.Client, kind, name string, change func(u *unstructured.Unstructured) error) {
	t.Helper()
	until(t, "changing "+kind+" "+name, func(ctx context.Context) (bool, error) {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(flux.KindKustomization())
		if kind == flux.KindRepository().Kind {
			u.SetGroupVersionKind(flux.KindRepository())
		}
		if err := c.Get(ctx, client.ObjectKey{Namespace: "flux-system", Name: name}, u); err != nil {
			return false, err
		}
		if err := change(u); err != nil {
			return false, err
		}
		return true, c.Update(ctx, u)
	})
}
