package argocd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// Namespace is where Argo CD and its Applications are, unless somebody says otherwise.
const Namespace = "argocd"

// Sync is what an Application syncs.
type Sync struct {
	Application object.Name
	// Running says that a sync runs and that Argo CD has written what to. Waits says in words what is missing, otherwise.
	Running bool
	Waits   string
	// ID tells this sync from others of the Application.
	ID string
	// Revisions are those of all sources, in their order; a chart has a version.
	Revisions []string
	// Commit is that of the only source which is a path; empty if there are several, or none.
	Commit string
	// First says that the Application has never been synced as a whole: nothing of it runs.
	First bool
	// Restore is the Restore whose sync it is, "<namespace>/<name>"; empty if it is anybody else's.
	Restore string
}

// Applied names the Application that applied an object, by the object's own mark; empty if it has none.
func Applied(o metav1.Object) object.Name {
	name, _, _ := strings.Cut(o.GetAnnotations()[annotationTracking], ":")
	if name == "" {
		return object.Name{}
	}
	if namespace, rest, qualified := strings.Cut(name, "_"); qualified {
		return object.Name{Namespace: namespace, Name: rest}
	}
	return object.Name{Namespace: Namespace, Name: name}
}

// Syncing says what the Application syncs now; nil if there is no such Application.
func (a Argo) Syncing(ctx context.Context, name object.Name) (*Sync, error) {
	u, err := a.Get(ctx, kindApplication, name)
	if err != nil || u == nil {
		return nil, err
	}
	s := &Sync{Application: name, Revisions: commitsIn(u.Object, "status", "operationState", "syncResult")}
	history, _ := u.Object["status"].(map[string]any)
	entries, _ := history["history"].([]any)
	s.First = len(entries) == 0
	s.ID = string(u.GetUID()) + " " + gitops.Text(u, "status", "operationState", "startedAt") + " " + strings.Join(s.Revisions, ",")
	// A name alone would do for anybody who is called so.
	if gitops.Text(u, "status", "operationState", "operation", "initiatedBy", "username") == v1alpha1.FieldManager {
		s.Restore = u.GetAnnotations()[v1alpha1.AnnotationHeldBy]
	}
	d := a.deploying(u)
	d.name(u, sourcesOf(u), s.Revisions)
	s.Commit = d.Revision.Commit
	switch phase := gitops.Text(u, "status", "operationState", "phase"); {
	case phase != "Running":
		s.Waits = fmt.Sprintf("Application %s does not sync: its last operation is %q", name, phase)
	case !slices.ContainsFunc(s.Revisions, revision.IsCommit):
		s.Waits = fmt.Sprintf("Application %s does not say yet which commit it syncs", name)
	default:
		s.Running = true
	}
	return s, nil
}

// Approve lets the Application sync the revisions, one for each source.
func (a Argo) Approve(ctx context.Context, name object.Name, revisions []string) error {
	u, err := a.Get(ctx, kindApplication, name)
	if err != nil {
		return err
	}
	if u == nil {
		return fmt.Errorf("the Application %s is gone: %w", name, gitops.ErrLost)
	}
	after := u.DeepCopy()
	annotations := after.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[v1alpha1.AnnotationApprovedRevision] = strings.Join(revisions, ",")
	after.SetAnnotations(annotations)
	return a.Change(ctx, u, after)
}

// Compared is what Argo CD has compared the cluster with last, which is what its next sync is to; nil if there is no such Application,
// or it names no commit.
func (a Argo) Compared(ctx context.Context, name object.Name) (*Sync, error) {
	u, err := a.Get(ctx, kindApplication, name)
	if err != nil || u == nil {
		return nil, err
	}
	s := &Sync{Application: name, Revisions: commitsIn(u.Object, "status", "sync")}
	if !slices.ContainsFunc(s.Revisions, revision.IsCommit) {
		return nil, nil
	}
	d := a.deploying(u)
	d.name(u, sourcesOf(u), s.Revisions)
	s.Commit = d.Revision.Commit
	return s, nil
}
