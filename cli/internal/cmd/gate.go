package cmd

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// isGate says that an object is one of those that hold deploys.
func isGate(u *unstructured.Unstructured) bool {
	return u.GetLabels()["app.kubernetes.io/component"] == "gate"
}

// gatePossible reports whether the API server can hold deploys, and says so if it cannot.
func (p *Program) gatePossible(c *kube.Cluster, o setupOptions) (bool, error) {
	if o.withoutGate {
		return false, nil
	}
	objects, err := manifests.Gate()
	if err != nil {
		return false, err
	}
	for _, u := range objects {
		kind := u.GroupVersionKind()
		_, err := c.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
		if meta.IsNoMatchError(err) {
			p.note("note: this API server knows no %s (Kubernetes 1.30 does): no deploy waits for its restore point", kind.Kind)
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("asking whether the API server knows %s: %w", kind.Kind, err)
		}
	}
	return true, nil
}

// removeGate removes what holds deploys; the bindings first, since a policy without one does nothing.
func (p *Program) removeGate(ctx context.Context, c client.Client) error {
	objects, err := manifests.Gate()
	if err != nil {
		return err
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return bindingFirst(a) - bindingFirst(b) })
	for _, u := range objects {
		if err := p.remove(ctx, c, u); err != nil {
			return err
		}
	}
	return nil
}

func bindingFirst(u *unstructured.Unstructured) int {
	if u.GetKind() == "ValidatingAdmissionPolicyBinding" {
		return 0
	}
	return 1
}

// remove deletes an object that may be gone already.
func (p *Program) remove(ctx context.Context, c client.Client, u *unstructured.Unstructured) error {
	err := c.Delete(ctx, u, client.PropagationPolicy("Background"))
	switch {
	case apierrors.IsNotFound(err) || meta.IsNoMatchError(err):
		return nil
	case err != nil:
		return fmt.Errorf("removing %s: %w", object.KeyOf(u), err)
	}
	p.note("  %s removed", object.KeyOf(u))
	return nil
}

// gates are the Kustomizations of a cluster that deploy only after a restore point.
func gates(ctx context.Context, c client.Client) ([]flux.Gate, error) {
	return flux.Flux{Cluster: gitops.Cluster{Client: c, Reader: c}}.Gates(ctx)
}
