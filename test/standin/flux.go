package standin

import (
	"context"
	"errors"
	"fmt"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/ssa"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/sops"
)

// Flux stands in for source-controller and kustomize-controller.
type Flux struct {
	Client client.Client
	// Namespace is the only one whose objects it looks at.
	Namespace string
	Fetch     Fetch
	Applied   Applied
	// dirs are the fetched artifacts, by revision.
	dirs map[string]string
}

// Step reconciles every GitRepository and then every Kustomization once.
func (f *Flux) Step(ctx context.Context) error {
	var sources sourcev1.GitRepositoryList
	if err := f.Client.List(ctx, &sources, client.InNamespace(f.Namespace)); err != nil {
		return err
	}
	for i := range sources.Items {
		if err := f.fetch(ctx, &sources.Items[i]); err != nil {
			return err
		}
	}
	var kustomizations kustomizev1.KustomizationList
	if err := f.Client.List(ctx, &kustomizations, client.InNamespace(f.Namespace)); err != nil {
		return err
	}
	var refused error
	for i := range kustomizations.Items {
		err := f.reconcile(ctx, &kustomizations.Items[i])
		if err != nil && !IsRefused(err) {
			return err
		}
		refused = errors.Join(refused, err)
	}
	return refused
}

// IsRefused says that the API server did not let Flux begin to deploy a revision.
func IsRefused(err error) bool { return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) }

func (f *Flux) fetch(ctx context.Context, source *sourcev1.GitRepository) error {
	if source.Spec.Suspend {
		return nil
	}
	ref := sourcev1.GitRepositoryRef{Branch: "master"}
	if source.Spec.Reference != nil {
		ref = *source.Spec.Reference
	}
	commit, dir, err := f.Fetch(ctx, source.Spec.URL, ref.Branch, ref.Commit)
	before := source.DeepCopy()
	source.Status.ObservedGeneration = source.Generation
	if err != nil {
		setReady(&source.Status.Conditions, source.Generation, false, "GitOperationFailed", err.Error())
		return f.Client.Status().Patch(ctx, source, client.MergeFrom(before))
	}
	fetched := revision.Format(ref.Branch, commit)
	if f.dirs == nil {
		f.dirs = map[string]string{}
	}
	f.dirs[fetched] = dir
	if a := source.Status.Artifact; a == nil || a.Revision != fetched {
		source.Status.Artifact = &meta.Artifact{
			Revision: fetched, LastUpdateTime: metav1.Now(), URL: "http://source.test/" + commit + ".tar.gz",
			Path: commit + ".tar.gz", Digest: "sha256:" + strings.Repeat("0", 64),
		}
	}
	setReady(&source.Status.Conditions, source.Generation, true, "Succeeded", "stored artifact for revision "+fetched)
	return f.Client.Status().Patch(ctx, source, client.MergeFrom(before))
}

func (f *Flux) reconcile(ctx context.Context, k *kustomizev1.Kustomization) error {
	if k.Spec.Suspend {
		return nil
	}
	source := &sourcev1.GitRepository{}
	if err := f.Client.Get(ctx, client.ObjectKey{Namespace: k.Namespace, Name: k.Spec.SourceRef.Name}, source); err != nil {
		return err
	}
	if source.Status.Artifact == nil {
		return nil
	}
	revision := source.Status.Artifact.Revision
	before := k.DeepCopy()
	err := f.dependencies(ctx, k, revision)
	if err == nil {
		if refused := f.attempt(ctx, k, revision); refused != nil {
			return refused
		}
		before = k.DeepCopy()
		err = f.apply(ctx, k, revision)
	}
	k.Status.ObservedGeneration = k.Generation
	if err != nil {
		setReady(&k.Status.Conditions, k.Generation, false, "ReconciliationFailed", err.Error())
		return f.Client.Status().Patch(ctx, k, client.MergeFrom(before))
	}
	k.Status.LastAppliedRevision = revision
	setReady(&k.Status.Conditions, k.Generation, true, "ReconciliationSucceeded", "Applied revision: "+revision)
	return f.Client.Status().Patch(ctx, k, client.MergeFrom(before))
}

// attempt writes down what is about to be deployed, before anything of it is built. If that is refused, nothing is deployed; the real
// controller tries again later, with growing waits, as this one does at its next step.
func (f *Flux) attempt(ctx context.Context, k *kustomizev1.Kustomization, revision string) error {
	if k.Status.LastAttemptedRevision == revision {
		return nil
	}
	before := k.DeepCopy()
	k.Status.LastAttemptedRevision = revision
	return f.Client.Status().Patch(ctx, k, client.MergeFrom(before))
}

// dependencies must be ready, and at the same revision.
func (f *Flux) dependencies(ctx context.Context, k *kustomizev1.Kustomization, revision string) error {
	for _, d := range k.Spec.DependsOn {
		needed := &kustomizev1.Kustomization{}
		if err := f.Client.Get(ctx, client.ObjectKey{Namespace: k.Namespace, Name: d.Name}, needed); err != nil {
			return err
		}
		if !apimeta.IsStatusConditionTrue(needed.Status.Conditions, meta.ReadyCondition) ||
			needed.Status.ObservedGeneration != needed.Generation || needed.Status.LastAppliedRevision != revision {
			return fmt.Errorf("dependency '%s/%s' is not ready", k.Namespace, d.Name)
		}
	}
	return nil
}

func (f *Flux) apply(ctx context.Context, k *kustomizev1.Kustomization, applied string) error {
	plain, err := runtime.DefaultUnstructuredConverter.ToUnstructured(k)
	if err != nil {
		return err
	}
	objects, err := build(ctx, f.Client, f.dirs[applied], k.Spec.Path, unstructured.Unstructured{Object: plain})
	if err != nil {
		return err
	}
	for i, o := range objects {
		if o, err = f.open(ctx, k, o); err != nil {
			return err
		}
		objects[i] = o
		labels := o.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels["kustomize.toolkit.fluxcd.io/name"], labels["kustomize.toolkit.fluxcd.io/namespace"] = k.Name, k.Namespace
		o.SetLabels(labels)
	}
	if f.Applied != nil {
		_, commit, err := revision.Parse(applied)
		if err != nil {
			return err
		}
		f.Applied(ctx, k.Namespace+"/"+k.Name, commit)
	}
	return applyAll(ctx, f.Client, ssa.Owner{Field: "kustomize-controller", Group: "kustomize.toolkit.fluxcd.io"}, objects)
}

// open decrypts an object; one that is encrypted is not applied by a Kustomization that cannot.
func (f *Flux) open(ctx context.Context, k *kustomizev1.Kustomization, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if !object.IsEncrypted(o) {
		return o, nil
	}
	if k.Spec.Decryption == nil || k.Spec.Decryption.SecretRef == nil {
		return nil, fmt.Errorf("%s is SOPS encrypted, configuring decryption is required for this secret to be reconciled", o.GetName())
	}
	secret := &corev1.Secret{}
	if err := f.Client.Get(ctx, client.ObjectKey{Namespace: k.Namespace, Name: k.Spec.Decryption.SecretRef.Name}, secret); err != nil {
		return nil, err
	}
	keys, err := sops.ParseKeys(secret.Data)
	if err != nil {
		return nil, err
	}
	return keys.Decrypt(o)
}

func setReady(conditions *[]metav1.Condition, generation int64, ready bool, reason, message string) {
	status := metav1.ConditionFalse
	if ready {
		status = metav1.ConditionTrue
	}
	apimeta.SetStatusCondition(conditions, metav1.Condition{
		Type: meta.ReadyCondition, Status: status, Reason: reason, Message: message, ObservedGeneration: generation,
	})
}
