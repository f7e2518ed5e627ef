package flux

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

var (
	kindRepository    = schema.GroupKind{Group: "source.toolkit.fluxcd.io", Kind: "GitRepository"}
	kindKustomization = schema.GroupKind{Group: "kustomize.toolkit.fluxcd.io", Kind: "Kustomization"}
)

// Labels that kustomize-controller puts on what it applies.
const (
	labelName      = "kustomize.toolkit.fluxcd.io/name"
	labelNamespace = "kustomize.toolkit.fluxcd.io/namespace"
)

// Kinds are those whose objects a restore may hold.
func Kinds() []schema.GroupKind { return []schema.GroupKind{kindRepository, kindKustomization} }

// Flux drives the Flux of one cluster.
type Flux struct {
	gitops.Cluster
}

// Find looks for the Kustomization that deploys the target to this cluster; nil if there is none.
func (f Flux) Find(ctx context.Context, target gitops.Target) (*gitops.Ruling, error) {
	repositories, err := f.repositories(ctx, target)
	if err != nil || len(repositories) == 0 {
		return nil, err
	}
	all, err := f.List(ctx, kindKustomization)
	if err != nil {
		return nil, err
	}
	m := members{all: map[object.Name]*unstructured.Unstructured{}}
	for i := range all {
		u := &all[i]
		if _, elsewhere, _ := unstructured.NestedMap(u.Object, "spec", "kubeConfig"); elsewhere || u.GetDeletionTimestamp() != nil {
			continue
		}
		if _, same := repositories[sourceOf(u)]; same && gitops.Text(u, "spec", "sourceRef", "kind") == kindRepository.Kind {
			m.all[gitops.NameOf(u)] = u
		}
	}
	roots := m.deploying(target.Path)
	switch len(roots) {
	case 0:
		return nil, nil
	case 1:
		return m.ruling(roots[0], repositories[sourceOf(roots[0])], target), nil
	}
	names := make([]string, len(roots))
	for i, u := range roots {
		names[i] = gitops.NameOf(u).String()
	}
	active := slices.ContainsFunc(roots, func(u *unstructured.Unstructured) bool { return !suspended(u) })
	return &gitops.Ruling{Engine: v1alpha1.EngineFlux, Active: active, Refusals: []string{fmt.Sprintf(
		"Kustomizations %s all deploy path %s of %s: which of them the data belongs to cannot be told; suspend all of them and restore "+
			"with engine Direct", strings.Join(names, ", "), target.Path, target.Repository)}}, nil
}

// repositories are the sources of the target's repository.
func (f Flux) repositories(ctx context.Context, target gitops.Target) (map[object.Name]*unstructured.Unstructured, error) {
	all, err := f.List(ctx, kindRepository)
	if err != nil {
		return nil, err
	}
	found := map[object.Name]*unstructured.Unstructured{}
	for i := range all {
		if u := &all[i]; revision.SameRepository(gitops.Text(u, "spec", "url"), target.Repository) {
			found[gitops.NameOf(u)] = u
		}
	}
	return found, nil
}

// members are the Kustomizations of this cluster that read the target's repository.
type members struct {
	all map[object.Name]*unstructured.Unstructured
}

func (m members) deploying(path string) []*unstructured.Unstructured {
	var found []*unstructured.Unstructured
	for _, name := range m.names() {
		if deploysPath(m.all[name], path) {
			found = append(found, m.all[name])
		}
	}
	return found
}

func (m members) names() []object.Name {
	var names []object.Name
	for name := range m.all {
		names = append(names, name)
	}
	slices.SortFunc(names, object.Name.Compare)
	return names
}

// ruling gives each Kustomization of the root's source its role: what the root needs, the root and what the root brings deploy
// the commit, in that order; all others would follow the pin without being restored.
func (m members) ruling(root, source *unstructured.Unstructured, target gitops.Target) *gitops.Ruling {
	units := m.units(root)
	r := &gitops.Ruling{
		Engine:  v1alpha1.EngineFlux,
		Active:  !suspended(root),
		Message: fmt.Sprintf("Kustomization %s deploys the path from GitRepository %s", gitops.NameOf(root), gitops.NameOf(source)),
		Objects: []v1alpha1.EngineObject{engineObject(kindRepository.Kind, gitops.NameOf(source), v1alpha1.RoleSource)},
	}
	concerned := []*unstructured.Unstructured{source}
	for _, name := range units {
		o := engineObject(kindKustomization.Kind, name, v1alpha1.RoleUnit)
		for _, needed := range dependencies(m.all[name]) {
			if slices.Contains(units, needed) {
				o.After = append(o.After, needed.String())
			}
		}
		r.Objects = append(r.Objects, o)
		concerned = append(concerned, m.all[name])
	}
	for _, name := range m.names() {
		if sourceOf(m.all[name]) == gitops.NameOf(source) && !slices.Contains(units, name) {
			r.Objects = append(r.Objects, engineObject(kindKustomization.Kind, name, v1alpha1.RoleBystander))
			concerned = append(concerned, m.all[name])
		}
	}
	for _, u := range concerned {
		if taken := gitops.Taken(u, target.UID); taken != "" {
			r.Refusals = append(r.Refusals, taken)
		}
	}
	return r
}

// units are the root, what it needs of the same source, before it, and what it brings of the same source, after it.
func (m members) units(root *unstructured.Unstructured) []object.Name {
	var order []object.Name
	seen := map[object.Name]bool{}
	var add func(name object.Name)
	add = func(name object.Name) {
		u := m.all[name]
		if u == nil || seen[name] || sourceOf(u) != sourceOf(root) {
			return
		}
		seen[name] = true
		for _, needed := range dependencies(u) {
			add(needed)
		}
		order = append(order, name)
		for _, brought := range m.names() {
			if parentOf(m.all[brought]) == name && isBelow(m, root, brought) {
				add(brought)
			}
		}
	}
	add(gitops.NameOf(root))
	return order
}

// isBelow says that the root applies a Kustomization, or one that applies it.
func isBelow(m members, root *unstructured.Unstructured, name object.Name) bool {
	for range m.all { // a chain is no longer than that, and may be a circle
		parent := parentOf(m.all[name])
		if parent == gitops.NameOf(root) {
			return name != gitops.NameOf(root)
		}
		if m.all[parent] == nil || parent == name {
			return false
		}
		name = parent
	}
	return false
}

func engineObject(kind string, name object.Name, role v1alpha1.EngineRole) v1alpha1.EngineObject {
	return v1alpha1.EngineObject{Kind: kind, Namespace: name.Namespace, Name: name.Name, Role: role}
}

func sourceOf(u *unstructured.Unstructured) object.Name {
	return within(u, gitops.Text(u, "spec", "sourceRef", "namespace"), gitops.Text(u, "spec", "sourceRef", "name"))
}

func parentOf(u *unstructured.Unstructured) object.Name {
	return object.Name{Namespace: u.GetLabels()[labelNamespace], Name: u.GetLabels()[labelName]}
}

func dependencies(u *unstructured.Unstructured) []object.Name {
	list, _, _ := unstructured.NestedSlice(u.Object, "spec", "dependsOn")
	var names []object.Name
	for _, item := range list {
		d, _ := item.(map[string]any)
		namespace, _ := d["namespace"].(string)
		name, _ := d["name"].(string)
		names = append(names, within(u, namespace, name))
	}
	return names
}

// within completes a reference that names no namespace.
func within(u *unstructured.Unstructured, namespace, name string) object.Name {
	if namespace == "" {
		namespace = u.GetNamespace()
	}
	return object.Name{Namespace: namespace, Name: name}
}
