package gate

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
)

// TestSavedBefore asks whether what mends a deploy that has not ended has a way back.
func TestSavedBefore(t *testing.T) {
	of := func(letter string) string { return strings.Repeat(letter, 40) }
	revision := func(letter string) string { return "main@sha1:" + of(letter) }
	hour := 0
	point := func(runs, before string) v1alpha1.RestorePoint {
		hour++
		p := v1alpha1.RestorePoint{Spec: v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "shop"}}}
		if before != "" {
			p.Spec.Before = of(before)
		}
		p.Status.Revision = &v1alpha1.Revision{Commit: of(runs)}
		p.Status.Taken = &metav1.Time{Time: time.Date(2026, 11, 22, hour, 0, 0, 0, time.UTC)}
		conditions.MarkTrue(&p, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "done")
		return p
	}
	failed := func(p v1alpha1.RestorePoint) v1alpha1.RestorePoint {
		conditions.MarkFalse(&p, v1alpha1.ConditionReady, v1alpha1.ReasonSaveFailed, "no")
		return p
	}
	policy := &v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	tests := map[string]struct {
		attempted, approved string
		allow               bool
		points              []v1alpha1.RestorePoint
		want                bool
	}{
		"no point":            {"b", "b", false, nil, false},
		"the point before it": {"b", "b", false, []v1alpha1.RestorePoint{point("a", "b")}, true},
		"that failed":         {"b", "b", false, []v1alpha1.RestorePoint{failed(point("a", "b"))}, false},
		"the same, and the gate was opened by hand":       {"b", "", false, []v1alpha1.RestorePoint{point("a", "b")}, true},
		"a scheduled one after it":                        {"b", "b", false, []v1alpha1.RestorePoint{point("a", "b"), point("a", "")}, true},
		"only a scheduled one":                            {"b", "", false, []v1alpha1.RestorePoint{point("a", "")}, false},
		"it was to mend another":                          {"c", "c", false, []v1alpha1.RestorePoint{point("a", "b")}, true},
		"the same, and the gate was opened by hand for c": {"c", "", false, []v1alpha1.RestorePoint{point("a", "b")}, false},
		"the same, and the gate lets deploys go without":  {"c", "c", true, []v1alpha1.RestorePoint{point("a", "b")}, false},
		"another was deployed since, as a point tells":    {"c", "c", false, []v1alpha1.RestorePoint{point("a", "b"), point("b", "")}, false},
		"it was deployed before, another since":           {"b", "", false, []v1alpha1.RestorePoint{point("a", "b"), point("b", "c")}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			g := flux.Gate{Attempted: revision(tt.attempted), Allow: tt.allow}
			if tt.approved != "" {
				g.Approved = revision(tt.approved)
			}
			if got := savedBefore(g, []protection{{policy, tt.points}}); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
