package flux

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// Builds are the Kustomizations among the objects up to the one of the path, which comes last.
func (f Flux) Builds(ctx context.Context, objects []v1alpha1.EngineObject, target gitops.Target) ([]gitops.Build, error) {
	var builds []gitops.Build
	for _, o := range objects {
		if o.Role != v1alpha1.RoleUnit {
			continue
		}
		u, err := f.Get(ctx, kindKustomization, gitops.Name(o))
		if err != nil {
			return nil, err
		}
		if u == nil {
			return nil, fmt.Errorf("%s %s is gone: %w", o.Kind, gitops.Name(o), gitops.ErrLost)
		}
		source, err := f.Get(ctx, kindRepository, sourceOf(u))
		if err != nil {
			return nil, err
		}
		ignore := ""
		if source != nil {
			ignore = gitops.Text(source, "spec", "ignore")
		}
		builds = append(builds, build(u, &ignore))
		if deploysPath(u, target.Path) {
			return builds, nil
		}
	}
	return nil, nil
}

func build(u *unstructured.Unstructured, ignore *string) gitops.Build {
	return gitops.Build{By: kindKustomization.Kind + " " + gitops.NameOf(u).String(), Kustomization: u, Ignore: ignore}
}

func deploysPath(u *unstructured.Unstructured, path string) bool {
	return revision.CleanPath(gitops.Text(u, "spec", "path")) == revision.CleanPath(path)
}

// Nested are the Kustomizations among what a build gives that deploy a part of the same commit to the same cluster: Flux follows them.
// The build itself may be among them.
func Nested(by gitops.Build, objects []*unstructured.Unstructured) []gitops.Build {
	if by.Kustomization.GroupVersionKind().GroupKind() != kindKustomization {
		return nil
	}
	var nested []gitops.Build
	for _, u := range objects {
		if u.GroupVersionKind().GroupKind() != kindKustomization {
			continue
		}
		_, elsewhere, _ := unstructured.NestedMap(u.Object, "spec", "kubeConfig")
		same := gitops.Text(u, "spec", "sourceRef", "kind") == kindRepository.Kind && sourceOf(u) == sourceOf(by.Kustomization)
		if same && !elsewhere {
			nested = append(nested, build(u, by.Ignore))
		}
	}
	return nested
}

// Suspended says that Flux does not deploy a build.
func Suspended(b gitops.Build) bool { return suspended(b.Kustomization) }

// Values names a ConfigMap or Secret whose entries are variables of a build.
type Values struct {
	Key      object.Key
	Optional bool
}

// ValuesOf are those of a build; later ones win.
func ValuesOf(b gitops.Build) ([]Values, error) {
	list, _, err := unstructured.NestedSlice(b.Kustomization.Object, "spec", "postBuild", "substituteFrom")
	if err != nil {
		return nil, fmt.Errorf("reading the substituteFrom of %s: %w", b.By, err)
	}
	var values []Values
	for _, item := range list {
		ref, _ := item.(map[string]any)
		kind, _ := ref["kind"].(string)
		name, _ := ref["name"].(string)
		optional, _ := ref["optional"].(bool)
		if kind != object.ConfigMap.Kind && kind != object.Secret.Kind || name == "" {
			return nil, fmt.Errorf("reading the substituteFrom of %s: it names neither a ConfigMap nor a Secret", b.By)
		}
		values = append(values, Values{object.Key{Kind: kind, Namespace: b.Kustomization.GetNamespace(), Name: name}, optional})
	}
	return values, nil
}
