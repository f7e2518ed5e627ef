// Package facts asks a cluster what a plan must know of it.
package facts

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

const annotationDefaultClass = "storageclass.kubernetes.io/is-default-class"

// Read gathers the facts for the objects of a commit and the volumes of the chosen point. The reader must not be a stale cache;
// of whose Restore the facts are, the caller knows.
func Read(ctx context.Context, c client.Reader, mapper meta.RESTMapper, choice match.Choice, objects []*unstructured.Unstructured) (plan.Facts, error) {
	found := plan.Facts{
		Claims: map[object.Name]plan.ClaimFact{}, StorageClasses: map[string]plan.ClassFact{},
		Namespaces: map[string]bool{}, Kinds: map[schema.GroupKind]plan.KindFact{},
	}
	names := map[object.Name]bool{}
	for _, v := range choice.Record.Volumes {
		names[object.Name{Namespace: v.Namespace, Name: v.Claim}] = true
	}
	for _, u := range objects {
		if gk := u.GroupVersionKind().GroupKind(); gk == object.Claim {
			names[object.KeyOf(u).NamespacedName()] = true
		}
		if err := kindFact(mapper, u.GroupVersionKind(), found.Kinds); err != nil {
			return found, err
		}
	}
	for name := range names {
		if err := claimFact(ctx, c, name, found); err != nil {
			return found, err
		}
	}
	if err := restoreFacts(ctx, c, found.Claims); err != nil {
		return found, err
	}
	return found, classFacts(ctx, c, found.StorageClasses)
}

// restoreFacts finds the Restores that have reserved claims.
func restoreFacts(ctx context.Context, c client.Reader, claims map[object.Name]plan.ClaimFact) error {
	reserved := func(fact plan.ClaimFact) bool { return fact.RestoreUID != "" }
	if !slices.ContainsFunc(slices.Collect(maps.Values(claims)), reserved) {
		return nil
	}
	var restores v1alpha1.RestoreList
	if err := c.List(ctx, &restores); err != nil && !meta.IsNoMatchError(err) {
		return fmt.Errorf("listing restores: %w", err)
	}
	for name, fact := range claims {
		for _, r := range restores.Items {
			if reserved(fact) && string(r.UID) == fact.RestoreUID {
				fact.Restore = object.Name{Namespace: r.Namespace, Name: r.Name}
				claims[name] = fact
			}
		}
	}
	return nil
}

func kindFact(mapper meta.RESTMapper, gvk schema.GroupVersionKind, kinds map[schema.GroupKind]plan.KindFact) error {
	if _, known := kinds[gvk.GroupKind()]; known {
		return nil
	}
	mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking whether the cluster serves %s: %w", gvk.GroupKind(), err)
	}
	kinds[gvk.GroupKind()] = plan.KindFact{Namespaced: mapping.Scope.Name() == meta.RESTScopeNameNamespace}
	return nil
}

func claimFact(ctx context.Context, c client.Reader, name object.Name, found plan.Facts) error {
	if _, known := found.Namespaces[name.Namespace]; !known {
		live := &corev1.Namespace{}
		err := c.Get(ctx, client.ObjectKey{Name: name.Namespace}, live)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading namespace %q: %w", name.Namespace, err)
		}
		found.Namespaces[name.Namespace] = err == nil && live.DeletionTimestamp == nil
	}
	claim := &corev1.PersistentVolumeClaim{}
	err := c.Get(ctx, client.ObjectKey(name), claim)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading claim %q: %w", name, err)
	}
	found.Claims[name] = plan.ClaimFact{
		UID: claim.UID, Phase: claim.Status.Phase, Deleting: claim.DeletionTimestamp != nil, RestoreUID: claim.Labels[v1alpha1.LabelRestore], Spec: claim.Spec,
	}
	return nil
}

// Existing says which of the objects exist. The reader must not be a cache.
func Existing(ctx context.Context, c client.Reader, objects []*unstructured.Unstructured) (map[object.Key]bool, error) {
	found := map[object.Key]bool{}
	for _, u := range objects {
		live := &metav1.PartialObjectMetadata{}
		live.SetGroupVersionKind(u.GroupVersionKind())
		err := c.Get(ctx, client.ObjectKeyFromObject(u), live)
		switch {
		case err == nil:
			found[object.KeyOf(u)] = true
		case !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err):
			return nil, fmt.Errorf("looking for %s: %w", object.KeyOf(u), err)
		}
	}
	return found, nil
}

func classFacts(ctx context.Context, c client.Reader, classes map[string]plan.ClassFact) error {
	list := &storagev1.StorageClassList{}
	if err := c.List(ctx, list); err != nil {
		return fmt.Errorf("listing storage classes: %w", err)
	}
	for _, class := range list.Items {
		classes[class.Name] = plan.ClassFact{
			Provisioner:          class.Provisioner,
			WaitForFirstConsumer: class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer,
			Default:              class.Annotations[annotationDefaultClass] == "true",
		}
	}
	return nil
}
