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
	d, u, source, err := f.deployed(ctx, o)
	if u != nil {
		name(d, u, source, gitops.Text(u, "status", "lastAttemptedRevision"))
	}
	return d, err
}

// Running says what runs of the Kustomization that an object came from; nil if it came from none of Flux. That is what it applied last
// and found healthy; but once all of a later revision has been applied, well or not, the data is that revision's. In between it is of no
// one commit.
func (f Flux) Running(ctx context.Context, o metav1.Object) (*gitops.Deploying, error) {
	d, u, source, err := f.deployed(ctx, o)
	if u == nil {
		return d, err
	}
	runs, mixed := running(u)
	name(d, u, source, runs)
	if mixed {
		d.Mixed = true
		d.Why = fmt.Sprintf("Kustomization %s has begun to deploy %s and has not ended: what runs is of no one commit until it does",
			gitops.NameOf(u), gitops.Text(u, "status", "lastAttemptedRevision"))
	}
	return d, nil
}

// running is the revision whose data the application has; mixed says that it may have that of a later one, too.
func running(u *unstructured.Unstructured) (revision string, mixed bool) {
	attempted, applied := gitops.Text(u, "status", "lastAttemptedRevision"), gitops.Text(u, "status", "lastAppliedRevision")
	if attempted == applied || attempted == "" {
		return applied, false
	}
	switch _, reason, _ := gitops.Condition(u, "Ready"); reason {
	case "ArtifactFailed", "BuildFailed", "DependencyNotReady": // nothing was applied
		return applied, false
	case "PruneFailed", "HealthCheckFailed": // everything was
		return attempted, false
	}
	return applied, true
}

// deployed finds the Kustomization that an object came from, and its source. Without both, what is deployed has no name and says why.
func (f Flux) deployed(ctx context.Context, o metav1.Object) (d *gitops.Deploying, u, source *unstructured.Unstructured, err error) {
	by, err := f.AppliedBy(ctx, o)
	if err != nil || by.Name == "" {
		return nil, nil, nil, err
	}
	d = &gitops.Deploying{By: f.Key(v1alpha1.EngineObject{Kind: kindKustomization.Kind, Namespace: by.Namespace, Name: by.Name})}
	if u, err = f.Get(ctx, kindKustomization, by); err != nil {
		return nil, nil, nil, err
	}
	if u == nil {
		d.Why = fmt.Sprintf("Kustomization %s is gone", by)
		return d, nil, nil, nil
	}
	if kind := gitops.Text(u, "spec", "sourceRef", "kind"); kind != kindRepository.Kind {
		d.Why = fmt.Sprintf("the source of Kustomization %s is a %s, which is no Git repository", by, kind)
		return d, nil, nil, nil
	}
	if source, err = f.Get(ctx, kindRepository, sourceOf(u)); err != nil {
		return nil, nil, nil, err
	}
	if source == nil {
		d.Why = fmt.Sprintf("GitRepository %s of Kustomization %s is gone", sourceOf(u), by)
		return d, nil, nil, nil
	}
	return d, u, source, nil
}

// name fills in the revision that a Kustomization has written into its status.
func name(d *gitops.Deploying, u, source *unstructured.Unstructured, text string) {
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
	by, release := AppliedByLabels(o)
	if release.Name == "" {
		return by, nil
	}
	u, err := f.Get(ctx, kindRelease, release)
	if err != nil || u == nil {
		return object.Name{}, err
	}
	return parentOf(u), nil
}

// AppliedByLabels is what the labels of an object say of who applied it: a Kustomization, a HelmRelease, or neither, and never both.
func AppliedByLabels(o metav1.Object) (kustomization, release object.Name) {
	labels := o.GetLabels()
	switch {
	case labels[labelName] != "":
		kustomization = object.Name{Namespace: labels[labelNamespace], Name: labels[labelName]}
	case labels[labelReleaseName] != "":
		release = object.Name{Namespace: labels[labelReleaseNamespace], Name: labels[labelReleaseName]}
	}
	return kustomization, release
}
