package policy

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// TestPointsOfATimeToCome: points that were taken when a clock was ahead count for nothing, and are told.
func TestPointsOfATimeToCome(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		ages   []time.Duration // of the good points
		old    time.Duration   // of the one in the status, none if 0
		status metav1.ConditionStatus
		reason string
		says   string
		last   time.Duration
	}{
		"a little ahead is how clocks are": {ages: []time.Duration{-30 * time.Second}, status: metav1.ConditionTrue, reason: v1alpha1.ReasonWithinObjective, last: -30 * time.Second},
		"ahead for less than the RPO":      {ages: []time.Duration{-time.Hour}, status: metav1.ConditionUnknown, reason: v1alpha1.ReasonClockWrong, says: "1 point of a time to come"},
		"ahead for years": {ages: []time.Duration{-9000 * time.Hour, -time.Hour}, status: metav1.ConditionUnknown, reason: v1alpha1.ReasonClockWrong,
			says: "2 points of a time to come"},
		"beside an old one": {ages: []time.Duration{-time.Hour, 3 * time.Hour}, status: metav1.ConditionUnknown, reason: v1alpha1.ReasonClockWrong,
			says: "1 point of a time to come", last: 3 * time.Hour},
		"beside a good one": {ages: []time.Duration{-time.Hour, time.Hour}, status: metav1.ConditionTrue, reason: v1alpha1.ReasonWithinObjective,
			says: "not counted: 1 point", last: time.Hour},
		"in the status alone": {old: -time.Hour, status: metav1.ConditionFalse, reason: v1alpha1.ReasonObjectiveMissed, says: "no good point"},
		"none":                {ages: []time.Duration{3 * time.Hour}, status: metav1.ConditionFalse, reason: v1alpha1.ReasonObjectiveMissed, last: 3 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			p := &v1alpha1.ProtectionPolicy{
				ObjectMeta: metav1.ObjectMeta{Name: "shop", CreationTimestamp: metav1.NewTime(now.AddDate(0, -1, 0))},
				Spec:       v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary"}, Objectives: &v1alpha1.Objectives{RPO: &metav1.Duration{Duration: 2 * time.Hour}}},
			}
			if tt.old != 0 {
				p.Status.LastPoint = &v1alpha1.PointReference{Name: "old", Taken: metav1.NewTime(now.Add(-tt.old))}
			}
			var o observation
			for _, age := range tt.ages {
				point := v1alpha1.RestorePoint{Status: v1alpha1.RestorePointStatus{Taken: &metav1.Time{Time: now.Add(-age)}}}
				conditions.MarkTrue(&point, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "done")
				o.points = append(o.points, point)
			}
			v := decide(p, o, now)
			if v.objective.Status != tt.status || v.objective.Reason != tt.reason || !strings.Contains(v.objective.Message, tt.says) {
				t.Errorf("%+v", v.objective)
			}
			if (v.lastPoint != nil) != (tt.last != 0) || v.lastPoint != nil && now.Sub(v.lastPoint.Taken.Time) != tt.last {
				t.Errorf("the last point is %+v", v.lastPoint)
			}
		})
	}
}
