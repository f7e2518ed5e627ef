package policy

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/schedule"
)

// verdict is what a policy is told, and whether a point is due.
type verdict struct {
	status  metav1.ConditionStatus
	reason  string
	message string
	// stalled says that a person must act, waiting that what is missing may come by itself.
	stalled, waiting bool

	claims    []string
	lastPoint *v1alpha1.PointReference
	ahead     int // good points of a time to come, which count for nothing
	// due is the scheduled moment to ask a point for now, zero for none; next is when the next run begins; last is the scheduled
	// moment from which on others count.
	due, next, last time.Time
	// objective says whether the RPO is kept, nil without one; turns is when that changes if no point is made, zero if it does not.
	objective *metav1.Condition
	copies    *metav1.Condition // of further vaults, nil without any
	turns     time.Time
}

// decide judges a policy by what was observed.
func decide(p *v1alpha1.ProtectionPolicy, o observation, now time.Time) verdict {
	v := verdict{}
	v.lastPoint, v.ahead = newest(o.points, now)
	v.judgeObjective(p, now)
	v.judgeCopies(p, o.points, now)
	for i := range o.claims {
		v.claims = append(v.claims, o.claims[i].Name)
	}
	s, err := scheduleOf(p)
	if err == nil {
		err = o.invalid
	}
	if err != nil {
		v.status, v.reason, v.message, v.stalled = metav1.ConditionFalse, v1alpha1.ReasonInvalidSpec, err.Error(), true
		return v
	}
	v.judge(p, o, now)
	if s == nil || p.Spec.Suspend {
		return v
	}
	a := s.Next(schedule.State{
		Now: now, Last: lastRun(p), Busy: v.status != metav1.ConditionTrue || len(o.busy) > 0 || unfinished(o.points),
	})
	v.due, v.next, v.last = a.Due, a.Begins, a.Last
	return v
}

// judge sets the Ready condition of a policy that says something possible. A deploy and a restore bring a policy before its claims:
// only if none has come by the next look is it a matter for people.
func (v *verdict) judge(p *v1alpha1.ProtectionPolicy, o observation, now time.Time) {
	if len(v.claims) == 0 {
		v.status, v.reason = metav1.ConditionFalse, v1alpha1.ReasonNoVolumes
		v.message = fmt.Sprintf("no claim in namespace %q is selected: nothing would be saved", p.Namespace)
		v.stalled = now.Sub(since(p, v.reason, now)) >= recheck
		v.waiting = !v.stalled
		return
	}
	if status, message := vaultStatus(p.Spec.Vaults[0], o.vault); status != metav1.ConditionTrue {
		v.status, v.reason, v.message = status, v1alpha1.ReasonVaultNotReady, message
		return
	}
	v.status, v.reason, v.message = metav1.ConditionTrue, v1alpha1.ReasonProtecting, fmt.Sprintf("protects %s", count(len(v.claims), "claim"))
	if p.Spec.Suspend {
		v.reason, v.message = v1alpha1.ReasonSuspended, "the schedule is suspended; points made by hand still work"
	}
}

func vaultStatus(name string, vault *v1alpha1.Vault) (metav1.ConditionStatus, string) {
	if vault == nil {
		return metav1.ConditionFalse, fmt.Sprintf("there is no Vault %q", name)
	}
	ready := conditions.Get(vault, v1alpha1.ConditionReady)
	if ready == nil {
		return metav1.ConditionUnknown, fmt.Sprintf("vault %q was not opened yet", name)
	}
	return ready.Status, fmt.Sprintf("vault %q is not ready: %s", name, ready.Message)
}

// show writes the verdict into the status.
func (v *verdict) show(p *v1alpha1.ProtectionPolicy) {
	p.Status.Claims, p.Status.NextRun = v.claims, nil
	if v.lastPoint != nil { // else keep what is known: points may be deleted, their records are not
		p.Status.LastPoint = v.lastPoint
	}
	if !v.next.IsZero() {
		p.Status.NextRun = &metav1.Time{Time: v.next}
	}
	if !v.last.IsZero() && !v.last.Equal(lastRun(p)) {
		p.Status.LastRun = &metav1.Time{Time: v.last}
	}
	conditions.Delete(p, v1alpha1.ConditionReconciling)
	conditions.Delete(p, v1alpha1.ConditionStalled)
	switch {
	case v.stalled:
		conditions.MarkStalled(p, v.reason, "%s", v.message)
	case v.waiting:
		conditions.MarkReconciling(p, v.reason, "%s", v.message)
	}
	conditions.Set(p, &metav1.Condition{Type: v1alpha1.ConditionReady, Status: v.status, Reason: v.reason, Message: v.message})
}

// since is when the policy began to be not Ready for this reason; now, if it was not.
func since(p *v1alpha1.ProtectionPolicy, reason string, now time.Time) time.Time {
	if ready := conditions.Get(p, v1alpha1.ConditionReady); ready != nil && ready.Reason == reason {
		return ready.LastTransitionTime.Time
	}
	return now
}

// wait is how long nothing is to be done unless something changes.
func (v *verdict) wait(now time.Time) time.Duration {
	wait := recheck
	for _, t := range []time.Time{v.next, v.turns} {
		if !t.IsZero() {
			wait = min(wait, max(t.Sub(now), time.Second))
		}
	}
	return wait
}

func scheduleOf(p *v1alpha1.ProtectionPolicy) (*schedule.Schedule, error) {
	if p.Spec.Schedule == "" {
		return nil, nil
	}
	o := schedule.Options{Cron: p.Spec.Schedule, Zone: p.Spec.TimeZone, Seed: string(p.UID)}
	if p.Spec.Jitter != nil {
		o.Jitter = &p.Spec.Jitter.Duration
	}
	if p.Spec.StartingDeadline != nil {
		o.Deadline = p.Spec.StartingDeadline.Duration
	}
	return schedule.Parse(o)
}

// lastRun is the moment after which runs count.
func lastRun(p *v1alpha1.ProtectionPolicy) time.Time {
	if p.Status.LastRun != nil {
		return p.Status.LastRun.Time
	}
	return p.CreationTimestamp.Time
}

func unfinished(points []v1alpha1.RestorePoint) bool {
	for i := range points {
		if p := &points[i]; p.DeletionTimestamp.IsZero() && !conditions.IsReady(p) && !conditions.IsStalled(p) {
			return true
		}
	}
	return false
}

// skew is by how much the clocks of the API server, the storage and the controller may differ.
const skew = time.Minute

// newest is the Ready point with the newest data. Those of a time to come are only counted: a clock was wrong when they were taken, so
// nobody knows how old they are.
func newest(points []v1alpha1.RestorePoint, now time.Time) (found *v1alpha1.PointReference, ahead int) {
	for i := range points {
		p := &points[i]
		switch {
		case !conditions.IsReady(p) || p.Status.Taken == nil:
			continue
		case p.Status.Taken.After(now.Add(skew)):
			ahead++
			continue
		case found != nil && !p.Status.Taken.After(found.Taken.Time):
			continue
		}
		found = &v1alpha1.PointReference{Name: p.Name, Taken: *p.Status.Taken}
		if p.Status.Revision != nil {
			found.Commit = p.Status.Revision.Commit
		}
	}
	return found, ahead
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
