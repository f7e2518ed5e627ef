package plan_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// TestEngine: the plan says who applies the commit and what is done to whose objects, and what speaks against that is refused.
func TestEngine(t *testing.T) {
	in := input(t)
	in.Facts.Engine = &plan.Engine{
		Name: v1alpha1.EngineFlux, Reason: "Kustomization flux-system/shop deploys the path",
		Objects:  []v1alpha1.EngineObject{{Kind: "GitRepository", Namespace: "flux-system", Name: "shop", Role: v1alpha1.RoleSource}},
		Refusals: []string{"it is held by another"},
	}
	p := mustPlan(t, in)
	for _, want := range []string{
		"applied by  Flux: Kustomization flux-system/shop deploys the path\n",
		"GitRepository flux-system/shop is pinned to the commit until the restore is released\n", "- it is held by another\n",
	} {
		if !strings.Contains(p.Text(), want) {
			t.Errorf("%q is not in\n%s", want, p.Text())
		}
	}
}

// TestEncrypted: what is encrypted with SOPS is never applied as it is. Flux opens it by itself.
func TestEncrypted(t *testing.T) {
	in := input(t)
	in.Objects = append(in.Objects, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "sealed", "namespace": "shop"},
		"data": map[string]any{"password": "ENC[AES256_GCM,data:x]"}, "sops": map[string]any{"mac": "ENC[]"},
	}})
	for engine, refused := range map[v1alpha1.Engine]bool{v1alpha1.EngineDirect: true, v1alpha1.EngineFlux: false} {
		in.Facts.Engine = &plan.Engine{Name: engine}
		text := strings.Join(mustPlan(t, in).Refusals, "\n")
		if strings.Contains(text, "Secret shop/sealed is encrypted with SOPS") != refused {
			t.Errorf("with %s: %q", engine, text)
		}
	}
}
