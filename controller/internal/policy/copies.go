package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// copyGrace is how long a copy may take before it counts as behind although nothing has failed.
const copyGrace = time.Hour

// judgeCopies says which further vaults lack Ready points. A copy that is under way, or about to be, is no news.
func (v *verdict) judgeCopies(p *v1alpha1.ProtectionPolicy, points []v1alpha1.RestorePoint, now time.Time) {
	if len(p.Spec.Vaults) < 2 {
		return
	}
	var behind []string
	for _, vault := range p.Spec.Vaults[1:] {
		if missing := lackedBy(vault, points, now); len(missing) > 0 {
			oldest := slices.MinFunc(missing, func(a, b *v1alpha1.RestorePoint) int { return a.Status.Taken.Compare(b.Status.Taken.Time) })
			behind = append(behind, fmt.Sprintf("vault %q lacks %s, the oldest %s, taken %s", vault, count(len(missing), "point"), oldest.Name,
				oldest.Status.Taken.UTC().Format(time.RFC3339)))
		}
	}
	v.copies = &metav1.Condition{
		Type: v1alpha1.ConditionCopiesBehind, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonCopiesCurrent,
		Message: "every further vault holds all points, or is about to",
	}
	if len(behind) > 0 {
		v.copies.Status, v.copies.Reason, v.copies.Message = metav1.ConditionTrue, v1alpha1.ReasonCopiesMissing, strings.Join(behind, "; ")
	}
}

// lackedBy returns the Ready points that a vault lacks, unless none of them has failed, is held up, or takes long: then it returns none.
func lackedBy(vault string, points []v1alpha1.RestorePoint, now time.Time) (missing []*v1alpha1.RestorePoint) {
	late := false
	for i := range points {
		p := &points[i]
		if !conditions.IsReady(p) || p.Status.Taken == nil {
			continue
		}
		c := v1alpha1.PointCopy{State: v1alpha1.CopyPending}
		if at := slices.IndexFunc(p.Status.Copies, func(c v1alpha1.PointCopy) bool { return c.Vault == vault }); at >= 0 {
			c = p.Status.Copies[at]
		}
		if c.VerifiedAt != nil || c.State == v1alpha1.CopyRemoved {
			continue
		}
		missing = append(missing, p)
		since := p.Status.Taken.Time
		if p.Status.CompletedAt != nil {
			since = p.Status.CompletedAt.Time
		}
		late = late || c.State == v1alpha1.CopyFailed || c.Attempts > 1 || c.State == v1alpha1.CopyPending && c.Message != "" || now.Sub(since) > copyGrace
	}
	if !late {
		return nil
	}
	return missing
}

// showCopies writes the condition, and tells once when copies fall behind.
func (r *Reconciler) showCopies(p *v1alpha1.ProtectionPolicy, v *verdict) {
	if v.copies == nil {
		conditions.Delete(p, v1alpha1.ConditionCopiesBehind)
		return
	}
	if v.copies.Status == metav1.ConditionTrue && !conditions.IsTrue(p, v1alpha1.ConditionCopiesBehind) {
		r.Events.Event(p, corev1.EventTypeWarning, v.copies.Reason, v.copies.Message)
	}
	conditions.Set(p, v.copies)
}
