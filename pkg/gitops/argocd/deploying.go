package argocd

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// Deploying says what the Application deploys that an object came from; nil if it came from none. Argo CD writes the revision of a
// sync into operationState.syncResult before it applies the first object of it. Its credentials are not among those that Lockstep
// reads.
func (a Argo) Deploying(ctx context.Context, o metav1.Object) (*gitops.Deploying, error) {
	if o.GetAnnotations()[annotationTracking] == "" && o.GetLabels()[labelInstance] == "" {
		return nil, nil
	}
	all, err := a.List(ctx, kindApplication)
	if err != nil {
		return nil, err
	}
	u := parentOf(o, all)
	if u == nil || !here(u) {
		return nil, nil // the label is Helm's, too
	}
	d := &gitops.Deploying{By: a.Key(engineObject(u, v1alpha1.RoleUnit))}
	synced(d, u)
	return d, nil
}

// synced fills in the revision of the sync that runs, or ran last.
func synced(d *gitops.Deploying, u *unstructured.Unstructured) {
	commits, _, _ := unstructured.NestedStringSlice(u.Object, "status", "operationState", "syncResult", "revisions")
	if len(commits) == 0 {
		commits = []string{gitops.Text(u, "status", "operationState", "syncResult", "revision")}
	}
	deploying := -1
	for i, s := range sourcesOf(u) {
		path, _ := s["path"].(string)
		if _, chart := s["chart"]; chart || path == "" {
			continue
		}
		if deploying >= 0 {
			d.Why = fmt.Sprintf("Application %s deploys several paths", gitops.NameOf(u))
			return
		}
		deploying = i
	}
	if deploying < 0 {
		d.Why = fmt.Sprintf("Application %s deploys no path of a Git repository", gitops.NameOf(u))
		return
	}
	if deploying >= len(commits) || !revision.IsCommit(commits[deploying]) {
		d.Why = fmt.Sprintf("Application %s has not synced a commit yet", gitops.NameOf(u))
		return
	}
	s := sourcesOf(u)[deploying]
	repository, _ := s["repoURL"].(string)
	path, _ := s["path"].(string)
	d.Revision = v1alpha1.Revision{
		Repository: revision.StripCredentials(repository), Commit: commits[deploying], Path: revision.CleanPath(path),
	}
	if target, _ := s["targetRevision"].(string); target != "HEAD" && !revision.IsCommit(target) {
		d.Revision.Ref = target
	}
}
