package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/patch"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/lockstep-dr/lockstep/controller/internal/status"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// defaultTimeout bounds the wait for healthy workloads where the restore does not say.
const defaultTimeout = 10 * time.Minute

// writeStatus patches what changed and says it in events.
func (r *Reconciler) writeStatus(ctx context.Context, patcher *patch.SerialPatcher, before, restore *v1alpha1.Restore) error {
	restore.Status.LastHandledReconcileAt = restore.Annotations[v1alpha1.AnnotationReconcileAt]
	if err := status.Patch(ctx, patcher, restore); err != nil {
		return err
	}
	for _, e := range eventsBetween(before, restore) {
		r.Events.Event(restore, e.kind, e.reason, e.message)
	}
	return nil
}

// explain puts an answer of prepare into the conditions. Unknown is asked again, ever more rarely; what is final only when
// somebody asks.
func (r *Reconciler) explain(ctx context.Context, restore *v1alpha1.Restore, err error) (ctrl.Result, error) {
	var a *answer
	if !errors.As(err, &a) {
		return ctrl.Result{}, err
	}
	ctrl.LoggerFrom(ctx).Info("restore does not begin", "reason", a.reason, "final", a.final, "why", a.Error())
	if a.final {
		markStalled(restore, a.reason, a.Error())
		return ctrl.Result{}, nil
	}
	conditions.Delete(restore, v1alpha1.ConditionStalled)
	conditions.MarkReconciling(restore, a.reason, "%s", a.Error())
	conditions.MarkUnknown(restore, v1alpha1.ConditionReady, a.reason, "%s", a.Error())
	since := conditions.GetLastTransitionTime(restore, v1alpha1.ConditionReady)
	return ctrl.Result{RequeueAfter: askAgain(r.Now().Sub(since.Time))}, nil
}

// askAgain is how long to wait after not having known for a while.
func askAgain(unknownFor time.Duration) time.Duration {
	return min(max(unknownFor/2, 2*time.Second), 2*time.Minute)
}

func markStalled(restore *v1alpha1.Restore, reason, message string) {
	conditions.Delete(restore, v1alpha1.ConditionReconciling)
	conditions.MarkStalled(restore, reason, "%s", message)
	conditions.MarkFalse(restore, v1alpha1.ConditionReady, reason, "%s", message)
}

func markComplete(restore *v1alpha1.Restore, now time.Time) {
	measure(restore, now)
	conditions.Delete(restore, v1alpha1.ConditionReconciling)
	conditions.Delete(restore, v1alpha1.ConditionStalled)
	conditions.MarkTrue(restore, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "%s", outcome(restore.Status))
}

// outcome says in words what a complete restore has brought about.
func outcome(s v1alpha1.RestoreStatus) string {
	if s.Point == nil {
		return "the claims have volumes without data"
	}
	if s.Revision == nil {
		return fmt.Sprintf("the claims hold the data of point %s", s.Point.ID)
	}
	return fmt.Sprintf("commit %s runs with the data of point %s", s.Revision.Commit, s.Point.ID)
}

// complete says that every volume is with its claim and every workload healthy.
func complete(w *world) bool {
	return w.allApplied() && allDone(w) && len(w.decideResume()) == 0 && !slices.ContainsFunc(w.workloads, func(l workload) bool {
		return !l.released || l.status.Health != apply.Current
	})
}

func allDone(w *world) bool {
	return !slices.ContainsFunc(w.volumes, func(v volume) bool {
		at, _ := v.where(w.groupOf(v), w.uid)
		return at != stepDone
	})
}

// report projects the world into the status.
func (r *Reconciler) report(restore *v1alpha1.Restore, w *world, failure error) {
	s := &restore.Status
	if s.StartedAt == nil {
		s.StartedAt = restore.CreationTimestamp.DeepCopy()
	}
	now := metav1.Time{Time: w.now}
	s.Volumes = reportVolumes(s.Volumes, w, now)
	s.Workloads = reportWorkloads(s.Workloads, w, now)
	if s.ReservedAt == nil && !slices.ContainsFunc(s.Volumes, func(v v1alpha1.VolumeRestore) bool { return v.ReservedAt == nil }) {
		s.ReservedAt = &now
	}
	if s.BoundAt == nil && !slices.ContainsFunc(s.Volumes, func(v v1alpha1.VolumeRestore) bool { return v.BoundAt == nil }) {
		s.BoundAt = &now
	}
	s.Summary = summary(s)
	conclude(restore, w, failure)
}

func reportVolumes(before []v1alpha1.VolumeRestore, w *world, now metav1.Time) []v1alpha1.VolumeRestore {
	out := make([]v1alpha1.VolumeRestore, 0, len(w.volumes))
	for _, v := range w.volumes {
		reported := v1alpha1.VolumeRestore{Namespace: v.Name.Namespace, Claim: v.Name.Name}
		for _, b := range before {
			if b.Namespace == v.Name.Namespace && b.Claim == v.Name.Name {
				reported = b
			}
		}
		w.reportVolume(v, &reported, now)
		out = append(out, reported)
	}
	return out
}

func (w *world) reportVolume(v volume, out *v1alpha1.VolumeRestore, now metav1.Time) {
	g := w.groupOf(v)
	before := *out
	out.State, out.Message = w.stateOf(v, g)
	if w.quiet && out.State == before.State && strings.HasPrefix(before.Message, out.Message) {
		out.Message = before.Message
	}
	out.Snapshot, out.Bytes = v.Snapshot, v.Bytes
	once := func(at **metav1.Time, when bool) {
		if *at == nil && when {
			*at = &now
		}
	}
	once(&out.ReservedAt, v.reserved(w.uid))
	once(&out.HydratedAt, v.whole())
	once(&out.BoundAt, v.bound())
	if last := g.mover(); last != nil {
		out.Attempts = int32(last.attempt + 1)
		if p, ok := last.state.Progress[stagingName(w.uid, v.Index)]; ok {
			out.Progress = min(p.Bytes, v.Bytes)
			if p.Verifying && out.State == v1alpha1.HydrationHydrating {
				out.State = v1alpha1.HydrationVerifying
			}
		}
		out.Reread = max(out.Reread, last.state.Results[stagingName(w.uid, v.Index)].Reread)
	}
	if v.whole() {
		out.Progress = v.Bytes
	}
}

// stateOf says in words for people where a volume stands.
func (w *world) stateOf(v volume, g group) (v1alpha1.HydrationState, string) {
	at, why := v.where(g, w.uid)
	if failure := w.stopped(g); failure != "" && !v.hydrated() {
		return v1alpha1.HydrationFailed, failure
	}
	switch at {
	case stepStuck:
		return v1alpha1.HydrationFailed, why
	case stepStage, stepWait:
		return v1alpha1.HydrationPlanned, why
	case stepProvision:
		waits := fmt.Sprintf("waiting for a volume of class %s", v.StorageClass)
		if v.warning != "" {
			return v1alpha1.HydrationStaging, waits + ": " + v.warning
		}
		return v1alpha1.HydrationStaging, moverMessage(g, waits)
	case stepAdopt, stepReserve, stepForget:
		return v1alpha1.HydrationStaging, ""
	case stepFill:
		if g.mover() == nil {
			return v1alpha1.HydrationReserved, "waiting for a free mover"
		}
		return v1alpha1.HydrationHydrating, moverMessage(g, "")
	case stepDetach:
		return v1alpha1.HydrationDetaching, ""
	case stepVacate:
		return v1alpha1.HydrationReplacing, w.behind(v)
	case stepGiveBack, stepUnstage, stepDone:
		if v.bound() {
			return v1alpha1.HydrationBound, ""
		}
		return v1alpha1.HydrationStaging, ""
	}
	return v1alpha1.HydrationRebinding, ""
}

func moverMessage(g group, otherwise string) string {
	last := g.last()
	if g.shared != nil && g.shared.state.Phase == mover.PhasePending { // later, what it says may be of another volume
		last = &g.shared.job
	}
	if last != nil && last.state.Phase != mover.PhaseSucceeded && last.state.Message != "" {
		return last.state.Message
	}
	return otherwise
}

func reportWorkloads(before []v1alpha1.WorkloadRestore, w *world, now metav1.Time) []v1alpha1.WorkloadRestore {
	out := make([]v1alpha1.WorkloadRestore, 0, len(w.workloads))
	for _, l := range w.workloads {
		reported := v1alpha1.WorkloadRestore{Kind: l.Kind, Namespace: l.Namespace, Name: l.Name}
		for _, b := range before {
			if b.Kind == l.Kind && b.Namespace == l.Namespace && b.Name == l.Name {
				reported = b
			}
		}
		w.reportWorkload(l, &reported, now)
		out = append(out, reported)
	}
	return out
}

func (w *world) reportWorkload(l workload, out *v1alpha1.WorkloadRestore, now metav1.Time) {
	out.WaitsFor, out.Message = nil, ""
	for _, name := range l.WaitsFor {
		out.WaitsFor = append(out.WaitsFor, name.String())
	}
	for _, key := range slices.Concat(l.Needs, l.After) {
		if key.GroupKind() != object.Namespace {
			out.WaitsFor = append(out.WaitsFor, key.String())
		}
	}
	if w.replaceDue(l) {
		out.Replaces = string(l.live.uid)
	}
	switch {
	case !l.released:
		out.Message = w.waiting(l)
		// One that was healthy before the controller started anew stays so for people until it is looked at again.
		if out.State == "" {
			out.State = v1alpha1.WorkloadWaiting
		}
		return
	case l.status.Health == apply.Current:
		out.State = v1alpha1.WorkloadHealthy
		if out.HealthyAt == nil {
			out.HealthyAt = &now
		}
	default:
		out.State, out.Message = v1alpha1.WorkloadReleased, l.status.Message
	}
	if out.ReleasedAt == nil {
		out.ReleasedAt = &now
	}
}

// conclude sets the conditions.
func conclude(restore *v1alpha1.Restore, w *world, failure error) {
	failed, working := w.outcome()
	unhealthy, held := unhealthyWorkloads(restore), w.held()
	switch {
	case len(failed) > 0 && !working:
		markStalled(restore, v1alpha1.ReasonHydrateFailed, strings.Join(failed, "; "))
	case failure != nil:
		conditions.Delete(restore, v1alpha1.ConditionStalled)
		conditions.MarkReconciling(restore, v1alpha1.ReasonApplyFailed, "%s", failure.Error())
		conditions.MarkFalse(restore, v1alpha1.ConditionReady, v1alpha1.ReasonApplyFailed, "%s", failure.Error())
	case len(unhealthy) > 0 && late(restore, w.now):
		markStalled(restore, v1alpha1.ReasonUnhealthy, "not healthy in time: "+strings.Join(unhealthy, "; "))
	case held != "" && len(unhealthy) == 0 && allDone(w) && late(restore, w.now):
		markStalled(restore, v1alpha1.ReasonResidualHeld, held)
	default:
		message := progress(restore)
		if held != "" {
			message += "; " + held
		}
		if waits := w.engine.Waits(); waits != "" {
			message = waits + "; " + message
		}
		conditions.Delete(restore, v1alpha1.ConditionStalled)
		conditions.MarkReconciling(restore, v1alpha1.ReasonProgressing, "%s", message)
		conditions.MarkUnknown(restore, v1alpha1.ConditionReady, v1alpha1.ReasonProgressing, "%s", message)
	}
}

// outcome names what people should look after, and says whether anything else is still under way. The volumes of a group that
// has stopped are not: its pod needs all of them.
func (w *world) outcome() (failed []string, working bool) {
	for _, g := range w.groups {
		reasons := w.blocked(g)
		failed = append(failed, reasons...)
		for _, v := range w.members(g) {
			at, _ := v.where(g, w.uid)
			working = working || len(reasons) == 0 && at != stepDone
		}
	}
	return failed, working
}

// blocked says in words why a group will not get all of its data.
func (w *world) blocked(g group) []string {
	var reasons []string
	if failure := w.stopped(g); failure != "" {
		reasons = append(reasons, failure)
	}
	for _, v := range w.members(g) {
		if at, why := v.where(g, w.uid); at == stepStuck {
			reasons = append(reasons, why)
		}
	}
	return reasons
}

// unhealthyWorkloads names those that were released and are not healthy.
func unhealthyWorkloads(restore *v1alpha1.Restore) []string {
	var out []string
	for _, l := range restore.Status.Workloads {
		key := object.Key{Kind: l.Kind, Namespace: l.Namespace, Name: l.Name}
		switch l.State {
		case v1alpha1.WorkloadReleased:
			text := key.String()
			if l.Message != "" {
				text += " (" + l.Message + ")"
			}
			out = append(out, text)
		}
	}
	return out
}

// late says that the workloads have had all they need for longer than the timeout.
func late(restore *v1alpha1.Restore, now time.Time) bool {
	if restore.Status.BoundAt == nil {
		return false
	}
	since := restore.Status.BoundAt.Time
	for _, l := range restore.Status.Workloads {
		if l.ReleasedAt != nil && l.ReleasedAt.After(since) {
			since = l.ReleasedAt.Time
		}
	}
	timeout := defaultTimeout
	if restore.Spec.Timeout != nil {
		timeout = restore.Spec.Timeout.Duration
	}
	return now.Sub(since) > timeout
}

// progress says what is waited for.
func progress(restore *v1alpha1.Restore) string {
	waiting := map[v1alpha1.HydrationState][]string{}
	for _, v := range restore.Status.Volumes {
		waiting[v.State] = append(waiting[v.State], v.Namespace+"/"+v.Claim)
	}
	var parts []string
	for _, state := range []v1alpha1.HydrationState{
		v1alpha1.HydrationPlanned, v1alpha1.HydrationStaging, v1alpha1.HydrationReserved, v1alpha1.HydrationHydrating,
		v1alpha1.HydrationVerifying,
		v1alpha1.HydrationDetaching, v1alpha1.HydrationReplacing, v1alpha1.HydrationRebinding, v1alpha1.HydrationFailed,
	} {
		if claims := waiting[state]; len(claims) > 0 {
			parts = append(parts, strings.ToLower(string(state))+" "+strings.Join(claims, ", "))
		}
	}
	if unhealthy := unhealthyWorkloads(restore); len(parts) == 0 && len(unhealthy) > 0 {
		parts = append(parts, "waiting for "+strings.Join(unhealthy, "; "))
	}
	if len(parts) == 0 {
		return "applying the commit"
	}
	return strings.Join(parts, "; ")
}
