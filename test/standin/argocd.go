package standin

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Argo stands in for the application controller of Argo CD, and for that of ApplicationSets.
type Argo struct {
	Client client.Client
	// Namespace is the only one whose Applications it looks at.
	Namespace string
	Fetch     Fetch
	Applied   Applied
}

// Step makes the Applications of every ApplicationSet, and looks at every Application once: it carries an operation on, or asks for one
// where auto-sync is on and Git has moved on.
func (a *Argo) Step(ctx context.Context) error {
	if err := a.generate(ctx); err != nil {
		return err
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "argoproj.io", Version: "v1alpha1", Kind: "ApplicationList"})
	if err := a.Client.List(ctx, list, client.InNamespace(a.Namespace)); err != nil {
		return err
	}
	for i := range list.Items {
		if err := a.reconcile(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

// source is one of an Application's, where it stands now.
type source struct {
	url, path, chart, commit, dir string
}

func (a *Argo) reconcile(ctx context.Context, u *unstructured.Unstructured) error {
	if u.GetAnnotations()["argocd.argoproj.io/skip-reconcile"] == "true" {
		return nil
	}
	list, several, _ := unstructured.NestedSlice(u.Object, "spec", "sources")
	if !several {
		single, _, _ := unstructured.NestedMap(u.Object, "spec", "source")
		list = []any{single}
	}
	operation, asked, _ := unstructured.NestedMap(u.Object, "operation")
	sources, err := a.sources(ctx, list, revisionsOf(operation, len(list)))
	if err != nil {
		return err
	}
	_, automated, _ := unstructured.NestedMap(u.Object, "spec", "syncPolicy", "automated")
	was, _, _ := unstructured.NestedMap(u.Object, "status", "operationState", "syncResult")
	delete(was, "resources")
	now := revisions(sources, several)
	if asked {
		return a.operate(ctx, u, operation, sources, now)
	}
	before := u.DeepCopy()
	if automated && !reflect.DeepEqual(was, now) { // a revision that failed is not tried again
		u.Object["operation"] = map[string]any{"sync": now}
	} else {
		synced := map[string]any{"status": "OutOfSync"}
		if phase, _, _ := unstructured.NestedString(u.Object, "status", "operationState", "phase"); phase == succeeded && reflect.DeepEqual(was, now) {
			synced["status"] = "Synced"
		}
		maps.Copy(synced, now)
		if err := unstructured.SetNestedMap(u.Object, synced, "status", "sync"); err != nil {
			return err
		}
	}
	return a.patch(ctx, u, before)
}

func (a *Argo) patch(ctx context.Context, u, before *unstructured.Unstructured) error {
	return a.Client.Patch(ctx, u, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
}

// revisionsOf are those that an operation names, one for each source; an empty one stands for what the source names.
func revisionsOf(operation map[string]any, n int) []string {
	out := make([]string, n)
	if list, several, _ := unstructured.NestedStringSlice(operation, "sync", "revisions"); several && len(list) == n {
		return list
	}
	out[0], _, _ = unstructured.NestedString(operation, "sync", "revision")
	return out
}

// revisions are in the words of a status and of an operation.
func revisions(sources []source, several bool) map[string]any {
	if !several {
		return map[string]any{"revision": sources[0].commit}
	}
	var list []any
	for _, s := range sources {
		list = append(list, s.commit)
	}
	return map[string]any{"revision": "", "revisions": list}
}

// sources fetches what is in Git.
func (a *Argo) sources(ctx context.Context, list []any, asked []string) ([]source, error) {
	var out []source
	for i, item := range list {
		text := func(field string) string { s, _ := item.(map[string]any)[field].(string); return s }
		s := source{url: text("repoURL"), path: text("path"), chart: text("chart"), commit: cmp.Or(asked[i], text("targetRevision"))}
		if s.chart == "" {
			var err error
			if s.commit, s.dir, err = a.checkout(ctx, s.url, s.commit); err != nil {
				return nil, err
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// checkout takes 40 digits for a commit, everything else for a branch.
func (a *Argo) checkout(ctx context.Context, url, target string) (commit, dir string, err error) {
	if len(target) == 40 {
		return a.Fetch(ctx, url, "", target)
	}
	return a.Fetch(ctx, url, target, "")
}

// render builds what is in the paths, each object with Argo CD's mark. Charts are not rendered.
func (a *Argo) render(ctx context.Context, u *unstructured.Unstructured, sources []source) ([]*unstructured.Unstructured, error) {
	var all []*unstructured.Unstructured
	for _, s := range sources {
		if s.path == "" {
			continue
		}
		objects, err := build(ctx, a.Client, s.dir, s.path, unstructured.Unstructured{Object: map[string]any{}})
		if err != nil {
			return nil, err
		}
		for _, o := range objects {
			annotations := o.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			gvk := o.GroupVersionKind()
			annotations["argocd.argoproj.io/tracking-id"] = fmt.Sprintf("%s:%s/%s:%s/%s", u.GetName(), gvk.Group, gvk.Kind, o.GetNamespace(), o.GetName())
			o.SetAnnotations(annotations)
		}
		all = append(all, objects...)
	}
	return all, nil
}
