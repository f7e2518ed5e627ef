package flux

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// TestBuilds: what the source leaves out is known to every build of it, also to one that comes of another.
func TestBuilds(t *testing.T) {
	objects := []v1alpha1.EngineObject{
		engineObject(kindRepository.Kind, object.Name{Namespace: "flux-system", Name: "source"}, v1alpha1.RoleSource),
		engineObject(kindKustomization.Kind, object.Name{Namespace: "flux-system", Name: "base"}, v1alpha1.RoleUnit),
		engineObject(kindKustomization.Kind, object.Name{Namespace: "flux-system", Name: "shop"}, v1alpha1.RoleUnit),
	}
	manifests := []string{strings.ReplaceAll(source, "spec: {", "spec: {ignore: drafts, "), kustomization("base", "./base", "", ""), kustomization("shop", "./deploy", "", "")}
	_, f := newFlux(t, manifests...)
	builds, err := f.Builds(t.Context(), objects, gitops.Target{Repository: url, Path: "deploy"})
	must(t, err)
	if len(builds) != 2 || builds[1].By != "Kustomization flux-system/shop" {
		t.Fatalf("got %+v", builds)
	}
	builds = append(builds, Nested(builds[1], []*unstructured.Unstructured{builds[0].Kustomization})...)
	if len(builds) != 3 {
		t.Fatalf("nothing is nested: %+v", builds)
	}
	for _, b := range builds {
		if b.Ignore == nil || *b.Ignore != "drafts" {
			t.Errorf("%s does not know what the source leaves out", b.By)
		}
	}
	_, f = newFlux(t, manifests[0], manifests[2])
	if _, err := f.Builds(t.Context(), objects, gitops.Target{Repository: url, Path: "deploy"}); !errors.Is(err, gitops.ErrLost) {
		t.Errorf("a Kustomization that is gone: %v", err)
	}
}
