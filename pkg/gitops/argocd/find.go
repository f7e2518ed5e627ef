package argocd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

var (
	kindApplication = schema.GroupKind{Group: "argoproj.io", Kind: "Application"}
	kindSet         = schema.GroupKind{Group: "argoproj.io", Kind: "ApplicationSet"}
)

const (
	// annotationTracking on an object that Argo CD applied names its Application first, up to a colon.
	annotationTracking = "argocd.argoproj.io/tracking-id"
	// labelInstance does, where Argo CD tracks by label.
	labelInstance = "app.kubernetes.io/instance"
	// inCluster is how Argo CD calls the cluster that it runs in.
	inCluster = "https://kubernetes.default.svc"
)

// Kinds are those whose objects a restore may hold.
func Kinds() []schema.GroupKind { return []schema.GroupKind{kindApplication} }

// Argo drives the Argo CD of one cluster.
type Argo struct {
	gitops.Cluster
}

// Find looks for the Application that deploys the target to this cluster; nil if there is none.
func (a Argo) Find(ctx context.Context, target gitops.Target) (*gitops.Ruling, error) {
	all, err := a.List(ctx, kindApplication)
	if err != nil {
		return nil, err
	}
	brings := func(source map[string]any) bool { return deploys(source, target.Repository, target.Path) }
	var found []*unstructured.Unstructured
	for i := range all {
		if u := &all[i]; here(u) && u.GetDeletionTimestamp() == nil && slices.ContainsFunc(append(sourcesOf(u), drySources(u)...), brings) {
			found = append(found, u)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return a.ruling(ctx, found[0], all, target)
	}
	names := make([]string, len(found))
	for i, u := range found {
		names[i] = gitops.NameOf(u).String()
	}
	return &gitops.Ruling{Engine: v1alpha1.EngineArgoCD, Active: slices.ContainsFunc(found, active), Refusals: []string{fmt.Sprintf(
		"Applications %s all deploy path %s of %s: which of them the data belongs to cannot be told; turn their auto-sync off and "+
			"restore with engine Direct", strings.Join(names, ", "), target.Path, target.Repository)}}, nil
}

// ruling gives the Application, and those above it that would revert what is changed on it, their roles.
func (a Argo) ruling(ctx context.Context, root *unstructured.Unstructured, all []unstructured.Unstructured, target gitops.Target) (*gitops.Ruling, error) {
	r := &gitops.Ruling{
		Engine:  v1alpha1.EngineArgoCD,
		Active:  active(root),
		Message: fmt.Sprintf("Application %s deploys the path", gitops.NameOf(root)),
		Objects: []v1alpha1.EngineObject{engineObject(root, v1alpha1.RoleUnit)},
	}
	if len(drySources(root)) > 0 {
		r.Refusals = append(r.Refusals, fmt.Sprintf("Application %s deploys what Argo CD's source hydrator makes of the path, not the path: "+
			"turn its auto-sync off and restore with engine Direct", gitops.NameOf(root)))
	}
	concerned := []*unstructured.Unstructured{root}
	for u := parentOf(root, all); u != nil && len(concerned) <= len(all); u = parentOf(u, all) {
		r.Objects = append(r.Objects, engineObject(u, v1alpha1.RoleBystander))
		concerned = append(concerned, u)
	}
	for _, u := range concerned {
		if taken := gitops.Taken(u, target.UID); taken != "" {
			r.Refusals = append(r.Refusals, taken)
		}
		reverted, err := a.reverted(ctx, u)
		if err != nil {
			return nil, err
		}
		if reverted != "" {
			r.Refusals = append(r.Refusals, reverted)
		}
	}
	return r, nil
}

// reverted says in words that an ApplicationSet would take back whatever is changed on an Application. Only a policy that has it
// create Applications without updating them keeps it from that; the annotation skip-reconcile is for Applications, and the set
// would take it back, too.
func (a Argo) reverted(ctx context.Context, u *unstructured.Unstructured) (string, error) {
	owner := metav1.GetControllerOf(u)
	if owner == nil || owner.Kind != kindSet.Kind {
		return "", nil
	}
	set, err := a.Get(ctx, kindSet, object.Name{Namespace: u.GetNamespace(), Name: owner.Name})
	if err != nil || set == nil {
		return "", err
	}
	switch gitops.Text(set, "spec", "syncPolicy", "applicationsSync") {
	case "create-only", "create-delete":
		return "", nil
	}
	return fmt.Sprintf("Application %s is made by ApplicationSet %s, which reverts every change to it: set "+
		"spec.syncPolicy.applicationsSync of the set to create-only for the time of the restore, and ask again", gitops.NameOf(u), gitops.NameOf(set)), nil
}

// parentOf is the Application that applies an object, as another one; nil if there is none.
func parentOf(u metav1.Object, all []unstructured.Unstructured) *unstructured.Unstructured {
	name, _, _ := strings.Cut(u.GetAnnotations()[annotationTracking], ":")
	if name == "" {
		name = u.GetLabels()[labelInstance]
	}
	// An Application outside Argo CD's own namespace is tracked as "<namespace>_<name>".
	namespace, rest, qualified := strings.Cut(name, "_")
	for i := range all {
		p := &all[i]
		if p.GetUID() != "" && p.GetUID() == u.GetUID() {
			continue // it applies itself
		}
		if p.GetName() == name || qualified && p.GetNamespace() == namespace && p.GetName() == rest {
			return p
		}
	}
	return nil
}

// active says that an Application syncs by itself.
func active(u *unstructured.Unstructured) bool {
	how := automated(u)
	return how != nil && how["enabled"] != false
}

// here says that an Application deploys to the cluster that it is in.
func here(u *unstructured.Unstructured) bool {
	return gitops.Text(u, "spec", "destination", "server") == inCluster || gitops.Text(u, "spec", "destination", "name") == "in-cluster"
}

// deploys says that a source is what is in the path.
func deploys(source map[string]any, repository, path string) bool {
	return field(source, "path") != "" && field(source, "chart") == "" && revision.SameRepository(field(source, "repoURL"), repository) &&
		revision.CleanPath(field(source, "path")) == revision.CleanPath(path)
}

func field(source map[string]any, name string) string {
	value, _ := source[name].(string)
	return value
}

// sourcesOf are the sources of an Application, whether it has one or several. They are the object's own.
func sourcesOf(u *unstructured.Unstructured) []map[string]any {
	spec, _ := u.Object["spec"].(map[string]any)
	return sourcesIn(spec)
}

// sourcesIn are the sources that a part of an Application names.
func sourcesIn(part map[string]any) []map[string]any {
	var out []map[string]any
	several, _ := part["sources"].([]any)
	for _, item := range several {
		if s, ok := item.(map[string]any); ok {
			out = append(out, s)
		}
	}
	if len(out) > 0 {
		return out
	}
	if s, ok := part["source"].(map[string]any); ok {
		return []map[string]any{s}
	}
	return nil
}

// drySources are what a source hydrator renders for an Application.
func drySources(u *unstructured.Unstructured) []map[string]any {
	if dry, found, _ := unstructured.NestedMap(u.Object, "spec", "sourceHydrator", "drySource"); found {
		return []map[string]any{dry}
	}
	return nil
}

func engineObject(u *unstructured.Unstructured, role v1alpha1.EngineRole) v1alpha1.EngineObject {
	return v1alpha1.EngineObject{Kind: kindApplication.Kind, Namespace: u.GetNamespace(), Name: u.GetName(), Role: role}
}
