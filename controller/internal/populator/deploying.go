package populator

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/backup"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// +kubebuilder:rbac:groups="",resources=secrets,verbs=get
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

// Repository answers questions about a Git repository; *git.Repository does.
type Repository interface {
	Resolve(ctx context.Context, ref git.Ref, path string) (v1alpha1.Revision, error)
	Close() error
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

// treeOf asks Git for the tree of what is deployed, by which a point of another commit may fit.
func (r *Reconciler) treeOf(ctx context.Context, at target) (string, error) {
	if tree, ok := r.trees.get(at.Revision); ok {
		return tree, nil
	}
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	var options git.Options
	if at.secret.Name != "" {
		secret := &corev1.Secret{}
		if err := r.Reader.Get(ctx, client.ObjectKey(at.secret), secret); err != nil {
			return "", fmt.Errorf("reading the secret of repository %s: %w", at.Repository, err)
		}
		options.Auth = planner.Auth(secret.Data)
	}
	repository, err := r.openRepository(at.Repository, options)
	if err != nil {
		return "", err
	}
	found, err := repository.Resolve(ctx, git.Ref{Commit: at.Commit}, at.Path)
	if closed := repository.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return "", err
	}
	r.trees.put(at.Revision, found.Tree)
	return found.Tree, nil
}

func (r *Reconciler) openRepository(url string, o git.Options) (Repository, error) {
	if r.OpenRepository != nil {
		return r.OpenRepository(url, o)
	}
	return git.Open(url, o)
}

// gitTimeout bounds one question to Git.
const gitTimeout = time.Minute

// trees remembers the trees of the last commits that Git was asked for: they never change, and claims ask again and again.
type trees struct {
	mu    sync.Mutex
	known map[string]string
}

// maxTrees bounds what is remembered.
const maxTrees = 1000

func treeKey(at v1alpha1.Revision) string {
	return revision.NormalizeURL(at.Repository) + "\x00" + at.Commit + "\x00" + at.Path
}

func (t *trees) get(at v1alpha1.Revision) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tree, ok := t.known[treeKey(at)]
	return tree, ok
}

func (t *trees) put(at v1alpha1.Revision, tree string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || len(t.known) >= maxTrees {
		t.known = map[string]string{}
	}
	t.known[treeKey(at)] = tree
}
