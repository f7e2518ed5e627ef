package apply

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// revisionManager owns the annotations with the revision, so that applying the policy from Git leaves them alone.
const revisionManager = v1alpha1.FieldManager + "-revision"

// policyKind is a function because a GroupVersionKind cannot be a constant.
func policyKind() schema.GroupVersionKind {
	return v1alpha1.GroupVersion.WithKind("ProtectionPolicy")
}

// deployingManager owns the annotation with the revision that is being deployed.
const deployingManager = v1alpha1.FieldManager + "-deploying"

// StampDeploying records on the ProtectionPolicy which revision is about to be deployed, for whom a claim of that revision waits.
// A policy that does not exist yet is left for later.
func (a *Applier) StampDeploying(ctx context.Context, policy types.NamespacedName, rev v1alpha1.Revision) error {
	text, err := json.Marshal(rev)
	if err != nil {
		return fmt.Errorf("recording on policy %q what is being deployed: %w", policy, err)
	}
	return a.stampDeploying(ctx, policy, map[string]string{v1alpha1.AnnotationDeploying: string(text)})
}

func (a *Applier) stampDeploying(ctx context.Context, policy types.NamespacedName, annotations map[string]string) error {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(policyKind())
	switch err := a.client.Get(ctx, policy, live); {
	case apierrors.IsNotFound(err) || meta.IsNoMatchError(err):
		return nil
	case err != nil:
		return fmt.Errorf("recording on policy %q what is being deployed: %w", policy, err)
	}
	stamp := &unstructured.Unstructured{}
	stamp.SetGroupVersionKind(policyKind())
	stamp.SetNamespace(policy.Namespace)
	stamp.SetName(policy.Name)
	stamp.SetUID(live.GetUID())
	stamp.SetAnnotations(annotations)
	if err := a.apply(ctx, stamp, deployingManager); err != nil {
		return fmt.Errorf("recording on policy %q what is being deployed: %w", policy, err)
	}
	return nil
}

// StampRevision records on the ProtectionPolicy which revision is running. It is the last step of a deploy.
func (a *Applier) StampRevision(ctx context.Context, policy types.NamespacedName, rev v1alpha1.Revision) error {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(policyKind())
	if err := a.client.Get(ctx, policy, live); err != nil {
		return fmt.Errorf("recording the revision on policy %q: %w", policy, err)
	}
	stamp := &unstructured.Unstructured{}
	stamp.SetGroupVersionKind(policyKind())
	stamp.SetNamespace(policy.Namespace)
	stamp.SetName(policy.Name)
	stamp.SetUID(live.GetUID()) // never create it, nor stamp another of the same name
	stamp.SetAnnotations(map[string]string{
		v1alpha1.AnnotationRepository: rev.Repository,
		v1alpha1.AnnotationPath:       rev.Path,
		v1alpha1.AnnotationRevision:   revision.Format(rev.Ref, rev.Commit),
		v1alpha1.AnnotationTree:       rev.Tree,
	})
	if err := a.apply(ctx, stamp, revisionManager); err != nil {
		return fmt.Errorf("recording the revision on policy %q: %w", policy, err)
	}
	return a.stampDeploying(ctx, policy, nil)
}

// ForgetRevision takes off a ProtectionPolicy what StampRevision recorded, because something else decides now what is running. What
// others wrote there stays.
func ForgetRevision(ctx context.Context, c client.Client, policy types.NamespacedName) error {
	nothing := &unstructured.Unstructured{}
	nothing.SetGroupVersionKind(policyKind())
	nothing.SetNamespace(policy.Namespace)
	nothing.SetName(policy.Name)
	err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(nothing), client.FieldOwner(revisionManager), client.ForceOwnership)
	if err != nil {
		return fmt.Errorf("forgetting the revision on policy %q: %w", policy, err)
	}
	return nil
}

// Policies are the ProtectionPolicies among the objects, sorted.
func Policies(objects []*unstructured.Unstructured) []types.NamespacedName {
	var found []types.NamespacedName
	for _, o := range objects {
		if o.GroupVersionKind().GroupKind() == policyKind().GroupKind() {
			found = append(found, types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()})
		}
	}
	slices.SortFunc(found, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
	return found
}
