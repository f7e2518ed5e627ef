package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
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
	s := sourceOf(u, "spec", "sourceRef")
	err := r.isHere(o, s)
	if s.kind == "ExternalArtifact" {
		var prefix string
		prefix, err = r.composed(o, s)
		o.Path = strings.Trim(path.Join("/", prefix, o.Path), "/")
	}
	if err != nil {
		o.gaps, o.Path = append(o.gaps, o.gap(err)), ""
		return
	}
	if o.sight, err = r.sightOf(o, s); err != nil {
		o.gaps, o.Path = append(o.gaps, o.gap(err)), ""
		return
	}
	o.gaps = append(o.gaps, r.included(o, s)...)
	components, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "components")
	start := []string{o.dir()}
	for _, c := range components {
		start = append(start, path.Join(o.dir(), c))
	}
	o.reads = r.readsOf(start...)
	if o.sight != nil && o.sight.unsure {
		o.reads = &reads{paths: o.reads.paths, unsure: true}
	}
	o.Target = cmp.Or(o.Target, r.namespaceOf(o.dir()))
	o.values = substitutes(o)
	o.recipe = func(ctx context.Context) ([]desired.Object, []desired.Gap, error) {
		as := As{Path: o.dir(), Kustomization: u, Variables: o.values.known, unknown: o.values.unknown()}
		objects, gaps, err := r.build(ctx, as, o.sight)
		return objects, slices.Concat(gaps, r.missed(o), o.values.gaps(o)), err
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
	for _, w := range r.index.byName[s.kind+"/"+s.name] {
		if w.GroupVersionKind().Group != fluxSource ||
			w.GetNamespace() != "" && w.GetNamespace() != s.namespace {
			continue
		}
		declared = true
		if !r.urls[normalURL(text(w.Unstructured, "spec", "url"))] {
			continue
		}
		if r.own[w.Unstructured] {
			return nil
		}
		name, isBranch := strings.CutPrefix(text(w.Unstructured, "spec", "ref", "name"), "refs/heads/")
		if !isBranch && name == "" {
			name = text(w.Unstructured, "spec", "ref", "branch")
		}
		fixed := cmp.Or(text(w.Unstructured, "spec", "ref", "commit"), text(w.Unstructured, "spec", "ref", "tag"))
		if text(w.Unstructured, "spec", "ref", "semver") != "" {
			fixed = ""
		}
		switch {
		case slices.Contains(r.options.Revisions, cmp.Or(fixed, name)):
		case fixed != "":
			return fmt.Errorf("its %s stays at %s, whatever is merged", s, fixed)
		case !r.isBranch(name):
			return otherRevision(s.String(), "another branch", name)
		}
		return nil
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

// included names what a source takes in of others, where it lies in what the owner deploys.
func (r *Repository) included(o *owner, s source) []desired.Gap {
	var gaps []desired.Gap
	w := r.sourceFor(o, s)
	if w.Unstructured == nil {
		return nil
	}
	list, _, _ := unstructured.NestedSlice(w.Object, "spec", "include")
	for _, entry := range list {
		from := &unstructured.Unstructured{}
		from.Object, _ = entry.(map[string]any)
		name := text(from, "repository", "name")
		to := strings.Trim(path.Join("/", cmp.Or(text(from, "toPath"), name)), "/")
		if within(to, o.dir()) || within(o.dir(), to) {
			gaps = append(gaps, desired.Gap{Owner: o.ID, Origin: w.Origin, What: "GitRepository " + name, Why: "its source takes it in, at " + cmp.Or(to, ".") + ", and it is not in the repository"})
		}
	}
	return gaps
}

// sourceFor is the source that an owner refers to as it is written, that of its cluster before others; the zero Object if there is none.
func (r *Repository) sourceFor(o *owner, s source) desired.Object {
	var found desired.Object
	for _, w := range r.index.byName[s.kind+"/"+s.name] {
		if w.GroupVersionKind().Group == fluxSource && (w.GetNamespace() == "" || w.GetNamespace() == s.namespace) &&
			(found.Unstructured == nil || o.instance != "" && within(w.File, o.instance)) {
			found = w
		}
	}
	return found
}

// isBranch says whether a branch may be the one at hand: that of the clusters' own sources, else what most call theirs.
func (r *Repository) isBranch(name string) bool {
	if len(r.branches) > 0 {
		return name == "" || r.branches[name]
	}
	return name == "" || name == "main" || name == "master"
}

// composed is the directory of the repository that an artifact is a part of, where all that is copied into it lies as it does there.
func (r *Repository) composed(o *owner, s source) (string, error) {
	artifact, generator := r.artifact(o, s)
	if artifact == nil {
		return "", fmt.Errorf("its %s is not in the repository, so what is in it is not known", s)
	}
	here := map[string]bool{}
	sources, _, _ := unstructured.NestedSlice(generator.Object, "spec", "sources")
	for _, entry := range sources {
		from := &unstructured.Unstructured{}
		from.Object, _ = entry.(map[string]any)
		if r.isHere(o, source{text(from, "kind"), cmp.Or(text(from, "namespace"), s.namespace), text(from, "name")}) == nil {
			here[text(from, "alias")] = true
		}
	}
	prefixes := map[string]bool{}
	copies, _, _ := unstructured.NestedSlice(artifact, "copy")
	for _, entry := range copies {
		c := &unstructured.Unstructured{}
		c.Object, _ = entry.(map[string]any)
		alias, from, _ := strings.Cut(strings.TrimPrefix(text(c, "from"), "@"), "/")
		prefix, same := strings.CutSuffix(strings.TrimSuffix(from, "**"), strings.TrimPrefix(text(c, "to"), "@artifact/"))
		if !here[alias] || !same || strings.Contains(prefix, "*") {
			return "", fmt.Errorf("its %s is put together from other places", s)
		}
		prefixes[prefix] = true
	}
	if len(prefixes) != 1 {
		return "", fmt.Errorf("its %s is put together from several places", s)
	}
	for prefix := range prefixes {
		return prefix, nil
	}
	return "", nil
}

// artifact is what an ArtifactGenerator says of one, that of the owner's cluster before others.
func (r *Repository) artifact(o *owner, s source) (artifact map[string]any, generator *unstructured.Unstructured) {
	for _, w := range r.index.written {
		if w.GetKind() != "ArtifactGenerator" || w.GroupVersionKind().Group != fluxExtensions || w.GetNamespace() != "" && w.GetNamespace() != s.namespace {
			continue
		}
		artifacts, _, _ := unstructured.NestedSlice(w.Object, "spec", "artifacts")
		for _, entry := range artifacts {
			a, _ := entry.(map[string]any)
			if a["name"] == s.name && (artifact == nil || o.instance != "" && within(w.File, o.instance)) {
				artifact, generator = a, w.Unstructured
			}
		}
	}
	return artifact, generator
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
