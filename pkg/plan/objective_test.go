package plan_test

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

func TestObjectiveIsThatOfTheApplicationsPolicyInTheCommit(t *testing.T) {
	policy := func(namespace, name string, rto any) plan.Object {
		u := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "lockstep.dev/v1alpha1", "kind": "ProtectionPolicy", "spec": map[string]any{"objectives": map[string]any{"rto": rto}},
		}}
		u.SetNamespace(namespace)
		u.SetName(name)
		return plan.Object{Key: object.KeyOf(u), Manifest: u}
	}
	for _, test := range []struct {
		name string
		base []plan.Object
		want time.Duration
	}{
		{"none", nil, 0},
		{"its own", []plan.Object{policy("other", "shop", "1m"), policy("shop", "shop", "10m"), policy("shop", "cache", "5m")}, 10 * time.Minute},
		{"in a mapped namespace", []plan.Object{policy("drill", "shop", "7m")}, 7 * time.Minute},
		{"another's", []plan.Object{policy("shop", "cache", "5m")}, 0},
		{"not a duration", []plan.Object{policy("shop", "shop", "soon")}, 0},
		{"not a text", []plan.Object{policy("shop", "shop", int64(5))}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := plan.Plan{Application: "shop/shop", Base: test.base}
			if got := p.Objective(); got != test.want {
				t.Errorf("objective %s, want %s", got, test.want)
			}
		})
	}
}
