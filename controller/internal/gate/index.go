package gate

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Indices of the cache. Without them each of a thousand Kustomizations would look at each of a thousand policies.
const (
	// byDeployer has policies and claims by the Kustomization that their labels name, or under anyRelease.
	byDeployer = "lockstep.dev/deployer"
	// bySource has Kustomizations by their GitRepository.
	bySource = "lockstep.dev/source"
)

// anyRelease is the value for what a HelmRelease applied; which Kustomization that came from, only the HelmRelease says. No Kustomization
// is named so.
const anyRelease = "HelmRelease"

func indexDeployers(c client.FieldIndexer) error {
	for _, o := range []client.Object{&v1alpha1.ProtectionPolicy{}, &corev1.PersistentVolumeClaim{}} {
		if err := c.IndexField(context.Background(), o, byDeployer, deployersOf); err != nil {
			return fmt.Errorf("indexing %T by what deploys it: %w", o, err)
		}
	}
	return nil
}

func deployersOf(o client.Object) []string {
	switch kustomization, release := flux.AppliedByLabels(o); {
	case kustomization.Name != "":
		return []string{kustomization.String()}
	case release.Name != "":
		return []string{anyRelease}
	}
	return nil
}

func indexSources(ctx context.Context, c client.FieldIndexer) error {
	err := c.IndexField(ctx, of(flux.KindKustomization()), bySource, func(o client.Object) []string {
		u, ok := o.(*unstructured.Unstructured)
		if !ok || flux.SourceOf(u).Name == "" {
			return nil
		}
		return []string{flux.SourceOf(u).String()}
	})
	if err != nil {
		return fmt.Errorf("indexing Kustomizations by their sources: %w", err)
	}
	return nil
}

// candidates are the policies that a Kustomization may deploy, by their own labels or by those of claims beside them: all that it does
// deploy, and some others.
func (r *Reconciler) candidates(ctx context.Context, name object.Name) (map[object.Name]*v1alpha1.ProtectionPolicy, error) {
	found := map[object.Name]*v1alpha1.ProtectionPolicy{}
	add := func(o ...client.ListOption) error {
		var list v1alpha1.ProtectionPolicyList
		if err := r.Client.List(ctx, &list, o...); err != nil {
			return fmt.Errorf("listing policies: %w", err)
		}
		for i := range list.Items {
			found[nameOf(&list.Items[i])] = &list.Items[i]
		}
		return nil
	}
	namespaces := map[string]bool{}
	for _, by := range []string{name.String(), anyRelease} {
		if err := add(client.MatchingFields{byDeployer: by}); err != nil {
			return nil, err
		}
		var claims corev1.PersistentVolumeClaimList
		if err := r.Client.List(ctx, &claims, client.MatchingFields{byDeployer: by}); err != nil {
			return nil, fmt.Errorf("listing claims: %w", err)
		}
		for i := range claims.Items {
			if ns := claims.Items[i].Namespace; !namespaces[ns] {
				namespaces[ns] = true
				if err := add(client.InNamespace(ns)); err != nil {
					return nil, err
				}
			}
		}
	}
	return found, nil
}
