package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// kustomization fills in what a Kustomization of Flux says.
func (r *Repository) kustomization(o *owner) {
	u := o.Object
	o.Path, o.Target = fluxPath(u), text(u, "spec", "targetNamespace")
	o.Prune, o.Force, o.Suspended = flag(u, "spec", "prune"), flag(u, "spec", "force"), flag(u, "spec", "suspend")
	o.DependsOn = dependencies(o, "spec", "dependsOn")
	if remote := cmp.Or(text(u, "spec", "kubeConfig", "secretRef", "name"), text(u, "spec", "kubeConfig", "configMapRef", "name")); remote != "" {
		o.Cluster = remoteCluster(o.Cluster, remote)
	}
	if err := r.isHere(o, sourceOf(u, "spec", "sourceRef")); err != nil {
		o.gaps, o.Path = append(o.gaps, o.gap(err)), ""
		return
	}
	components, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "components")
	start := []string{o.dir()}
	for _, c := range components {
		start = append(start, path.Join(o.dir(), c))
	}
	o.reads = r.readsOf(start...)
	o.values = substitutes(o)
	o.recipe = func(ctx context.Context) ([]desired.Object, []desired.Gap, error) {
		as := As{Path: o.dir(), Kustomization: u, Variables: o.values.known, unknown: o.values.unknown()}
		objects, gaps, err := r.build(ctx, as)
		return objects, append(gaps, o.values.gaps(o)...), err
	}
}

// remoteCluster names a cluster that another one deploys to.
func remoteCluster(from, name string) string {
	return strings.TrimSpace(from + " → " + name)
}

// dir is the path, "." for the root.
func (o *owner) dir() string { return cmp.Or(o.Path, ".") }

// fluxPath is relative to the repository; empty for its root. Flux joins it in such a way that it cannot leave.
func fluxPath(u *unstructured.Unstructured) string {
	return strings.Trim(path.Join("/", text(u, "spec", "path")), "/")
}

func dependencies(o *owner, fields ...string) []string {
	list, _, _ := unstructured.NestedSlice(o.Object.Object, fields...)
	var ids []string
	for _, entry := range list {
		if m, ok := entry.(map[string]any); ok {
			name, _ := m["name"].(string)
			namespace, _ := m["namespace"].(string)
			ids = append(ids, id(o.Kind, cmp.Or(namespace, o.Namespace), name, o.instance))
		}
	}
	return ids
}

// source is what an owner refers to as where its files are.
type source struct{ kind, namespace, name string }

func sourceOf(u *unstructured.Unstructured, fields ...string) source {
	m, _, _ := unstructured.NestedStringMap(u.Object, fields...)
	return source{m["kind"], cmp.Or(m["namespace"], u.GetNamespace()), m["name"]}
}

func (s source) String() string { return fmt.Sprintf("%s %s/%s", s.kind, s.namespace, s.name) }

// systemName is what Flux's own bootstrap calls the source and the Kustomization of a cluster.
const systemName = "flux-system"

// isHere is nil if the source of an owner is the repository itself.
func (r *Repository) isHere(o *owner, s source) error {
	if s.name == "" {
		return errors.New("it names no source")
	}
	declared := false
	for _, w := range r.index.written {
		if w.GroupVersionKind().Group != fluxSource || w.GetKind() != s.kind || w.GetName() != s.name ||
			w.GetNamespace() != "" && w.GetNamespace() != s.namespace {
			continue
		}
		declared = true
		if r.urls[normalURL(text(w.Unstructured, "spec", "url"))] {
			return nil
		}
	}
	switch {
	case s.name == systemName && (!declared || s.kind != "GitRepository" || len(r.urls) == 0):
		return nil
	case declared:
		return fmt.Errorf("its %s is another repository, or not known to be this one", s)
	default:
		return fmt.Errorf("its %s is not in the repository, so what is in it is not known", s)
	}
}

// normalURL is equal for the spellings of one repository's URL.
func normalURL(url string) string {
	url = strings.ToLower(strings.TrimSpace(url))
	scheme, rest, ok := strings.Cut(url, "://")
	if !ok {
		rest = url
		if host, p, ok := strings.Cut(url, ":"); ok && !strings.Contains(host, "/") { // git@host:path
			rest = host + "/" + p
		}
	} else if scheme == "file" {
		rest = "/" + strings.TrimLeft(rest, "/")
	}
	if at := strings.Index(rest, "@"); at >= 0 && at < strings.Index(rest+"/", "/") {
		rest = rest[at+1:]
	}
	host, p, _ := strings.Cut(rest, "/")
	for _, port := range []string{":22", ":443", ":80"} {
		host = strings.TrimSuffix(host, port)
	}
	return strings.TrimSuffix(strings.TrimSuffix(host+"/"+p, "/"), ".git")
}
