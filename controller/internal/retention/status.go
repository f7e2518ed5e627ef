package retention

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	rules "github.com/lockstep-dr/lockstep/pkg/retention"
)

// statusOf is what the status says of a vault.
func statusOf(p *v1alpha1.ProtectionPolicy, vault string) v1alpha1.VaultRetention {
	for _, s := range p.Status.Retention {
		if s.Vault == vault {
			return s
		}
	}
	return v1alpha1.VaultRetention{Vault: vault}
}

const thousandths = 1000

// marksOf are the marks that the status holds.
func marksOf(s v1alpha1.VaultRetention) rules.Marks {
	var m rules.Marks
	if s.CheckedAt == nil {
		return m
	}
	m.At, m.Level = s.CheckedAt.Time, float64(s.Level)/thousandths
	for _, mark := range s.Marks {
		m.Points = append(m.Points, rules.Mark{ID: mark.ID, Since: mark.Since.Time, Waited: mark.Waited.Duration})
	}
	return m
}

// show writes what was decided into the status. Where something is not known, what was known stays.
func show(p *v1alpha1.ProtectionPolicy, steps []*step) {
	var all []v1alpha1.VaultRetention
	var refused, unknown []string
	for _, s := range steps {
		old := statusOf(p, s.name)
		if s.unknown != nil {
			old.Unknown = s.unknown.Error()
			unknown = append(unknown, fmt.Sprintf("vault %q: %v", s.name, s.unknown))
			all = append(all, old)
			continue
		}
		fresh := s.status(p)
		if r := s.pass.Refused; r != nil {
			refused = append(refused, fmt.Sprintf("vault %q: %v; see and allow it: lockstep retention approve %s/%s", s.name, r, p.Namespace, p.Name))
		}
		all = append(all, fresh)
	}
	slices.SortFunc(all, func(a, b v1alpha1.VaultRetention) int { return cmp.Compare(a.Vault, b.Vault) })
	p.Status.Retention = all
	c := &metav1.Condition{
		Type: v1alpha1.ConditionRetentionRefused, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonWithinLimits, Message: "points are kept and removed as the retention says",
	}
	switch {
	case len(refused) > 0:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonTooManyAtOnce, strings.Join(refused, "; ")
	case len(unknown) > 0:
		c.Status, c.Reason = metav1.ConditionUnknown, v1alpha1.ReasonFactsUnknown
		c.Message = "nothing is removed: " + strings.Join(unknown, "; ")
	}
	conditions.Set(p, c)
}

// status is what a step leaves.
func (s *step) status(p *v1alpha1.ProtectionPolicy) v1alpha1.VaultRetention {
	m := s.pass.Marks
	v := v1alpha1.VaultRetention{
		Vault: s.name, CheckedAt: &metav1.Time{Time: m.At}, Generation: p.Generation,
		Kept: int32(s.kept), Level: int64(math.Ceil(m.Level * thousandths)),
	}
	grace := rules.LimitsOf(p.Spec.Retention).Grace
	left := time.Duration(-1)
	for _, mark := range m.Points[:min(len(m.Points), maxMarks)] { // the oldest; the others begin later
		v.Marks = append(v.Marks, v1alpha1.RetentionMark{
			ID: mark.ID, Since: metav1.Time{Time: mark.Since}, Waited: metav1.Duration{Duration: mark.Waited},
		})
		if wait := max(grace-mark.Waited, 0); left < 0 || wait < left {
			left = wait
		}
	}
	v.Leaving = int32(len(m.Points))
	if left >= 0 {
		v.Next = &metav1.Time{Time: m.At.Add(left)}
	}
	if r := s.pass.Refused; r != nil {
		v.Refused = &v1alpha1.RetentionRefusal{
			Digest: r.Digest(), Count: int32(len(r.Points)), Points: r.Points[:min(len(r.Points), maxRefused)],
		}
	}
	return v
}
