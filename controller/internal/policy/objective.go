package policy

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// judgeObjective holds the newest good point against the RPO. Times are not told, or the condition would never rest.
func (v *verdict) judgeObjective(p *v1alpha1.ProtectionPolicy, now time.Time) {
	if p.Spec.Objectives == nil || p.Spec.Objectives.RPO == nil {
		return
	}
	last := v.lastPoint
	if old := p.Status.LastPoint; last == nil && old != nil && !old.Taken.After(now.Add(skew)) {
		last = old
	}
	rpo := p.Spec.Objectives.RPO.Duration
	since := p.CreationTimestamp.Time
	if last != nil {
		since = last.Taken.Time
	}
	v.objective = &metav1.Condition{Type: v1alpha1.ConditionObjectiveMet}
	say := func(status metav1.ConditionStatus, reason, message string) {
		v.objective.Status, v.objective.Reason, v.objective.Message = status, reason, message
	}
	switch age := now.Sub(since); {
	case v.ahead > 0 && (last == nil || age > rpo):
		say(metav1.ConditionUnknown, v1alpha1.ReasonClockWrong, "within the RPO of "+rpo.String()+" there is no good point but "+count(v.ahead, "point")+" of a time to come, whose age nobody knows: a clock is wrong, or was")
	case last == nil && age > rpo:
		say(metav1.ConditionFalse, v1alpha1.ReasonObjectiveMissed, "there is no good point, and the RPO of "+rpo.String()+" has passed since the policy was made")
	case last == nil:
		say(metav1.ConditionUnknown, v1alpha1.ReasonNoPointYet, "there is no good point yet, and the RPO of "+rpo.String()+" has not passed since the policy was made")
		v.turns = since.Add(rpo)
	case age > rpo:
		say(metav1.ConditionFalse, v1alpha1.ReasonObjectiveMissed, "the newest good point is older than the RPO of "+rpo.String())
	default:
		say(metav1.ConditionTrue, v1alpha1.ReasonWithinObjective, "the newest good point is no older than the RPO of "+rpo.String())
		if v.ahead > 0 {
			v.objective.Message += "; of a time to come, and not counted: " + count(v.ahead, "point")
		}
		v.turns = since.Add(rpo)
	}
}

// showObjective writes the condition, and tells once when the promise is broken.
func (r *Reconciler) showObjective(p *v1alpha1.ProtectionPolicy, v *verdict) {
	if v.objective == nil {
		conditions.Delete(p, v1alpha1.ConditionObjectiveMet)
		return
	}
	if v.objective.Status == metav1.ConditionFalse && !conditions.IsFalse(p, v1alpha1.ConditionObjectiveMet) {
		r.Events.Event(p, corev1.EventTypeWarning, v.objective.Reason, v.objective.Message)
	}
	conditions.Set(p, v.objective)
}
