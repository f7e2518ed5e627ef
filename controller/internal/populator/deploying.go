package populator

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/controller/internal/backup"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// +kubebuilder:rbac:groups=source.toolkit.fluxcd.io,resources=gitrepositories,verbs=get
// +kubebuilder:rbac:groups=kustomize.toolkit.fluxcd.io,resources=kustomizations,verbs=get
// +kubebuilder:rbac:groups=helm.toolkit.fluxcd.io,resources=helmreleases,verbs=get
// +kubebuilder:rbac:groups=argoproj.io,resources=applications,verbs=list

// target is the revision that is being deployed. Its tree may be unknown; secret then holds the credentials to ask Git for it.
type target struct {
	v1alpha1.Revision
	secret object.Name
}

// unnamedError says that nobody names the commit, and what to do.
type unnamedError struct{ why string }

func (e *unnamedError) Error() string { return e.why }

// deploying is the revision that is being deployed: by a Restore, else by `lockstep apply`, else by the engine that the policy or
// the claim came from, else the one that runs.
func (r *Reconciler) deploying(
	ctx context.Context, claim *corev1.PersistentVolumeClaim, policy *v1alpha1.ProtectionPolicy, restored *v1alpha1.Revision,
) (target, error) {
	if restored != nil {
		return target{Revision: *restored}, nil
	}
	if text, ok := policy.Annotations[v1alpha1.AnnotationDeploying]; ok {
		var at v1alpha1.Revision
		if err := json.Unmarshal([]byte(text), &at); err != nil || at.Commit == "" || at.Repository == "" {
			return target{}, &unnamedError{fmt.Sprintf("annotation %s of policy %q does not say a revision", v1alpha1.AnnotationDeploying, policy.Name)}
		}
		return target{Revision: at}, nil
	}
	found, err := r.engine(ctx, policy, claim)
	if err != nil {
		return target{}, err
	}
	at, err := backup.Running(policy)
	switch {
	case found != nil && found.Revision.Commit != "" && (err != nil || found.Revision.Commit != at.Commit):
		return target{Revision: found.Revision, secret: found.Secret}, nil
	case err == nil:
		return target{Revision: at}, nil
	case found != nil:
		return target{}, &unnamedError{fmt.Sprintf("%s, and %v", found.Why, err)}
	}
	return target{}, &unnamedError{fmt.Sprintf("%v; neither Flux nor Argo CD has marked the policy or the claim as its own", err)}
}

// engine asks the GitOps engine that the policy came from; if none did, that of the claim.
func (r *Reconciler) engine(ctx context.Context, objects ...metav1.Object) (*gitops.Deploying, error) {
	for _, o := range objects {
		found, err := ruler.Deploying(ctx, gitops.Cluster{Client: r.Client, Reader: r.Reader}, o)
		if err != nil || found != nil {
			return found, err
		}
	}
	return nil, nil
}
