package planner

import (
	"context"
	"errors"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// TestPlanVolumes: the vault alone answers for volumes, also of a commit.
func TestPlanVolumes(t *testing.T) {
	before := metav1.NewTime(taken.Add(1))
	tests := []struct {
		name  string
		from  v1alpha1.RestoreFrom
		match string
	}{
		{"point", v1alpha1.RestoreFrom{RestorePoint: "20260301"}, match.Named},
		{"commit", v1alpha1.RestoreFrom{Commit: commitID}, match.Exact},
		{"commit of an application", v1alpha1.RestoreFrom{Commit: commitID, Application: "shop/shop"}, match.Exact},
		{"moment", v1alpha1.RestoreFrom{Before: &before, Application: "shop/shop"}, match.Before},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			s.Repository = nil
			s.Facts = func(_ context.Context, c match.Choice, objects []*unstructured.Unstructured) (plan.Facts, error) {
				s.steps = append(s.steps, "facts of "+c.Record.Volumes[0].Key())
				return plan.Facts{RestoreNamespace: "shop"}, nil
			}
			q := Request{From: tt.from, Volumes: []v1alpha1.VolumeRequest{{Claim: "shop/data", As: "shop/look"}}}
			replay, err := s.Plan(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			p := replay.Plan
			if p.Point.ID != pointID || p.Point.Match != tt.match || p.ReplaysCommit() || len(p.Claims) != 1 || len(p.Refusals) > 0 ||
				len(replay.Residual.Secrets) > 0 {
				t.Errorf("plan %+v with residual %v", p, replay.Residual)
			}
			if want := []string{"remember", "facts of shop/look"}; !slices.Equal(s.steps, want) {
				t.Errorf("did %q, want %q", s.steps, want)
			}
			// What was chosen once is not chosen again.
			s.steps, q.From = nil, v1alpha1.RestoreFrom{RestorePoint: "2027"}
			q.Point = &v1alpha1.ChosenPoint{ID: pointID, Match: tt.match}
			if replay, err = s.Plan(t.Context(), q); err != nil || replay.Plan.Point.Match != tt.match || slices.Contains(s.steps, "remember") {
				t.Errorf("again: %v, %q", err, s.steps)
			}
		})
	}
	s := newScene(t)
	_, err := s.Plan(t.Context(), Request{From: v1alpha1.RestoreFrom{RestorePoint: "2027"}, Volumes: []v1alpha1.VolumeRequest{{Claim: "shop/data"}}})
	if absent := (*match.AbsentError)(nil); !errors.As(err, &absent) {
		t.Errorf("of a point that is not there: %v", err)
	}
}
