package argocd

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// Deploying says what the Application deploys that an object came from; nil if it came from none. Argo CD writes the revision of a
// sync into operationState.syncResult before it applies the first object of it.
func (a Argo) Deploying(ctx context.Context, o metav1.Object) (*gitops.Deploying, error) {
	u, err := a.applicationOf(ctx, o)
	if err != nil || u == nil {
		return nil, err
	}
	d := a.deploying(u)
	d.name(u, sourcesOf(u), commitsIn(u.Object, "status", "operationState", "syncResult"))
	return d.Deploying, a.credentials(ctx, u, d)
}

// Running says what runs of the Application that an object came from; nil if it came from none. That is the last entry of its history:
// Argo CD adds one when a sync of the whole Application has succeeded, and not when only a part was synced. What status.sync names
// is only what Git was compared with. As soon as a sync has applied something and has not succeeded, what runs is of no one commit.
// Hooks that run before the sync do not count as applied: the point before a deploy is taken in one.
func (a Argo) Running(ctx context.Context, o metav1.Object) (*gitops.Deploying, error) {
	u, err := a.applicationOf(ctx, o)
	if err != nil || u == nil {
		return nil, err
	}
	d := a.deploying(u)
	if d.Why = halfSynced(u); d.Why != "" {
		d.Mixed = true
		return d.Deploying, nil
	}
	history, _, _ := unstructured.NestedSlice(u.Object, "status", "history")
	if len(history) == 0 {
		d.Why = fmt.Sprintf("Application %s has not synced a commit yet", gitops.NameOf(u))
		return d.Deploying, nil
	}
	last, _ := history[len(history)-1].(map[string]any)
	sources := sourcesIn(last)
	if len(sources) == 0 {
		sources = sourcesOf(u)
	}
	d.name(u, sources, commitsIn(last))
	return d.Deploying, a.credentials(ctx, u, d)
}

// applicationOf is the Application that an object came from; nil if it came from none that deploys to this cluster.
func (a Argo) applicationOf(ctx context.Context, o metav1.Object) (*unstructured.Unstructured, error) {
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
	return u, nil
}

// named is a Deploying that is being filled in, with the URL as the Application has it.
type named struct {
	*gitops.Deploying
	url string
}

func (a Argo) deploying(u *unstructured.Unstructured) *named {
	return &named{Deploying: &gitops.Deploying{By: a.Key(engineObject(u, v1alpha1.RoleUnit))}}
}

// name fills in the commit of the one source that is a path.
func (d *named) name(u *unstructured.Unstructured, sources []map[string]any, commits []string) {
	deploying := -1
	for i, s := range sources {
		if field(s, "chart") != "" || field(s, "path") == "" {
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
	s := sources[deploying]
	d.url = field(s, "repoURL")
	d.Revision = v1alpha1.Revision{
		Repository: revision.StripCredentials(d.url), Commit: commits[deploying], Path: revision.CleanPath(field(s, "path")),
	}
	if target := field(s, "targetRevision"); target != "HEAD" && !revision.IsCommit(target) {
		d.Revision.Ref = target
	}
}

// commitsIn are the revisions of all sources that a part of an Application names, whether there is one or several.
func commitsIn(part map[string]any, fields ...string) []string {
	several, _, _ := unstructured.NestedStringSlice(part, append(slices.Clone(fields), "revisions")...)
	if len(several) > 0 {
		return several
	}
	one, _, _ := unstructured.NestedString(part, append(slices.Clone(fields), "revision")...)
	return []string{one}
}

// halfSynced says in words that a sync has applied something and has not succeeded; empty if none has.
func halfSynced(u *unstructured.Unstructured) string {
	phase := gitops.Text(u, "status", "operationState", "phase")
	if phase == "" || phase == "Succeeded" {
		return ""
	}
	resources, _, _ := unstructured.NestedSlice(u.Object, "status", "operationState", "syncResult", "resources")
	for _, item := range resources {
		r, _ := item.(map[string]any)
		if field(r, "syncPhase") == "PreSync" || field(r, "hookPhase") == "" && field(r, "status") != "Synced" && field(r, "status") != "Pruned" {
			continue
		}
		commits := commitsIn(u.Object, "status", "operationState", "syncResult")
		for i, c := range commits {
			commits[i] = revision.Short(c)
		}
		return fmt.Sprintf("a sync of Application %s to commit %s is %s and has applied something already: what runs is of no one commit until a sync succeeds",
			gitops.NameOf(u), strings.Join(commits, ", "), phase)
	}
	return ""
}

// Argo CD keeps the credentials of repositories in Secrets of its own namespace, under keys that are Flux's where they are for HTTP.
const (
	labelSecretType = "argocd.argoproj.io/secret-type"
	typeRepository  = "repository"
	typeTemplate    = "repo-creds"
)

// credentials names the Secret with the credentials of the repository, as Argo CD finds it: the repository's own, else the template with
// the longest URL that the repository's begins with. Only those for HTTP can be used: an SSH key stands under another name.
func (a Argo) credentials(ctx context.Context, u *unstructured.Unstructured, d *named) error {
	if !strings.HasPrefix(d.url, "http://") && !strings.HasPrefix(d.url, "https://") {
		return nil
	}
	best := ""
	for _, kind := range []string{typeTemplate, typeRepository} {
		secrets, err := a.List(ctx, schema.GroupKind{Kind: "Secret"}, client.InNamespace(u.GetNamespace()), client.MatchingLabels{labelSecretType: kind})
		if err != nil {
			return fmt.Errorf("looking for the credentials of repository %s: %w", d.Revision.Repository, err)
		}
		for i := range secrets {
			url := secretText(&secrets[i], "url")
			fits := kind == typeRepository && revision.SameRepository(url, d.url) || kind == typeTemplate && url != "" && strings.HasPrefix(d.url, url) && len(url) > len(best)
			if fits && (secretText(&secrets[i], "password") != "" || secretText(&secrets[i], "bearerToken") != "") {
				best, d.Secret = url, object.Name{Namespace: secrets[i].GetNamespace(), Name: secrets[i].GetName()}
			}
		}
	}
	return nil
}

// secretText is a value of a Secret; empty if there is none.
func secretText(u *unstructured.Unstructured, key string) string {
	data, err := base64.StdEncoding.DecodeString(gitops.Text(u, "data", key))
	if err != nil {
		return ""
	}
	return string(data)
}
