package flux

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

var kindRelease = schema.GroupKind{Group: "helm.toolkit.fluxcd.io", Kind: "HelmRelease"}

// Labels that helm-controller puts on what it applies.
const (
	labelReleaseName      = "helm.toolkit.fluxcd.io/name"
	labelReleaseNamespace = "helm.toolkit.fluxcd.io/namespace"
)

// Deploying says what the Kustomization deploys that an object came from; nil if it came from none of Flux.
// kustomize-controller writes the revision into lastAttemptedRevision before it applies the first object of it.
func (f Flux) Deploying(ctx context.Context, o metav1.Object) (*gitops.Deploying, error) {
	by, err := f.AppliedBy(ctx, o)
	if err != nil || by.Name == "" {
		return nil, err
	}
	d := &gitops.Deploying{By: f.Key(v1alpha1.EngineObject{Kind: kindKustomization.Kind, Namespace: by.Namespace, Name: by.Name})}
	u, err := f.Get(ctx, kindKustomization, by)
	if err != nil {
		return nil, err
	}
	if u == nil {
		d.Why = fmt.Sprintf("Kustomization %s is gone", by)
		return d, nil
	}
	if kind := gitops.Text(u, "spec", "sourceRef", "kind"); kind != kindRepository.Kind {
		d.Why = fmt.Sprintf("the source of Kustomization %s is a %s, which is no Git repository", by, kind)
		return d, nil
	}
	source, err := f.Get(ctx, kindRepository, sourceOf(u))
	if err != nil {
		return nil, err
	}
	if source == nil {
		d.Why = fmt.Sprintf("GitRepository %s of Kustomization %s is gone", sourceOf(u), by)
		return d, nil
	}
	attempted(d, u, source)
	return d, nil
}

// attempted fills in the revision that a Kustomization applies, or applied last.
func attempted(d *gitops.Deploying, u, source *unstructured.Unstructured) {
	text := gitops.Text(u, "status", "lastAttemptedRevision")
	if text == "" {
		d.Why = fmt.Sprintf("Kustomization %s has not deployed anything yet", gitops.NameOf(u))
		return
	}
	ref, commit, err := revision.Parse(text)
	if err != nil {
		d.Why = fmt.Sprintf("Kustomization %s does not name the commit that it deploys: %v", gitops.NameOf(u), err)
		return
	}
	d.Revision = v1alpha1.Revision{
		Repository: revision.StripCredentials(gitops.Text(source, "spec", "url")), Ref: ref, Commit: commit,
		Path: revision.CleanPath(gitops.Text(u, "spec", "path")),
	}
	if name := gitops.Text(source, "spec", "secretRef", "name"); name != "" {
		d.Secret = object.Name{Namespace: source.GetNamespace(), Name: name}
	}
}

// AppliedBy is the Kustomization that applied an object, or the HelmRelease that did; empty if none did.
func (f Flux) AppliedBy(ctx context.Context, o metav1.Object) (object.Name, error) {
	labels := o.GetLabels()
	if labels[labelName] != "" {
		return object.Name{Namespace: labels[labelNamespace], Name: labels[labelName]}, nil
	}
	release := object.Name{Namespace: labels[labelReleaseNamespace], Name: labels[labelReleaseName]}
	if release.Name == "" {
		return object.Name{}, nil
	}
	u, err := f.Get(ctx, kindRelease, release)
	if err != nil || u == nil {
		return object.Name{}, err
	}
	return parentOf(u), nil
}
