package backup

import (
	"context"
	"fmt"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// +kubebuilder:rbac:groups=source.toolkit.fluxcd.io,resources=gitrepositories,verbs=get
// +kubebuilder:rbac:groups=kustomize.toolkit.fluxcd.io,resources=kustomizations,verbs=get
// +kubebuilder:rbac:groups=helm.toolkit.fluxcd.io,resources=helmreleases,verbs=get
// +kubebuilder:rbac:groups=argoproj.io,resources=applications,verbs=list

// running is the revision that runs: what the engine says that the policy came from, else what the policy's annotations say. Known
// is what it was before, nil if it was not asked for yet: Git is not asked for a tree that is known.
func (r *Reconciler) running(ctx context.Context, p *v1alpha1.ProtectionPolicy, known *v1alpha1.Revision) (v1alpha1.Revision, error) {
	found, err := ruler.Running(ctx, gitops.Cluster{Client: r.Client, Reader: r.Reader}, p)
	if err != nil {
		return v1alpha1.Revision{}, err
	}
	noted, err := Running(p)
	switch {
	case found != nil && found.Mixed:
		return v1alpha1.Revision{}, lacks(v1alpha1.ReasonRevisionUnknown, "%s", found.Why)
	case (found == nil || found.Revision.Commit == "") && err == nil:
		return noted, nil
	case found == nil:
		return v1alpha1.Revision{}, lacks(v1alpha1.ReasonRevisionUnknown, "%w", err)
	case found.Revision.Commit == "":
		return v1alpha1.Revision{}, lacks(v1alpha1.ReasonRevisionUnknown, "%s, and %w", found.Why, err)
	}
	at := found.Revision
	for _, same := range []*v1alpha1.Revision{known, &noted} {
		if same != nil && same.Tree != "" && sameDeploy(*same, at) {
			at.Tree = same.Tree
			return at, nil
		}
	}
	if at.Tree, err = r.Trees.Of(ctx, at, found.Secret); err != nil {
		return v1alpha1.Revision{}, lacks(v1alpha1.ReasonRevisionUnknown, "%s runs commit %s, and which tree it has at path %q only Git can tell: %w. "+
			"Where Lockstep cannot read the repository, let the pipeline write what is deployed onto policy %q, with the annotations %s, %s, %s and %s",
			found.By, revision.Short(at.Commit), at.Path, err, p.Name,
			v1alpha1.AnnotationRepository, v1alpha1.AnnotationPath, v1alpha1.AnnotationRevision, v1alpha1.AnnotationTree)
	}
	return at, nil
}

// sameDeploy says that two revisions are the same commit of the same path, by whatever name it was found.
func sameDeploy(a, b v1alpha1.Revision) bool {
	return a.Commit == b.Commit && a.Path == b.Path && revision.SameRepository(a.Repository, b.Repository)
}

// Running reads the revision that runs from the annotations of its policy.
func Running(p *v1alpha1.ProtectionPolicy) (v1alpha1.Revision, error) {
	for _, name := range []string{
		v1alpha1.AnnotationRepository, v1alpha1.AnnotationPath, v1alpha1.AnnotationRevision, v1alpha1.AnnotationTree,
	} {
		if p.Annotations[name] == "" {
			return v1alpha1.Revision{}, fmt.Errorf("nothing says which commit is running: policy %q has no annotation %s. "+
				"Deploy with `lockstep apply`, or let the pipeline write it after each deploy", p.Name, name)
		}
	}
	ref, commit, err := revision.Parse(p.Annotations[v1alpha1.AnnotationRevision])
	if err != nil {
		return v1alpha1.Revision{}, fmt.Errorf("annotation %s of policy %q: %w", v1alpha1.AnnotationRevision, p.Name, err)
	}
	return v1alpha1.Revision{
		Repository: revision.StripCredentials(p.Annotations[v1alpha1.AnnotationRepository]),
		Ref:        ref, Commit: commit,
		Path: p.Annotations[v1alpha1.AnnotationPath], Tree: p.Annotations[v1alpha1.AnnotationTree],
	}, nil
}
