package backup

import (
	"fmt"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

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
