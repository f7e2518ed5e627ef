// Package retention keeps the retention of ProtectionPolicies: it judges the points of each application in each of its vaults,
// marks those that nothing keeps, and removes them when their grace time is over. A prune then deletes what no point needs.
//
// What is not known now is never taken for an answer: where a vault, Git or a Restore does not say what decides, nothing is marked and
// nothing removed. Marks are in the status of the policy before anything is removed, so that a controller that dies anywhere goes on.
package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	rules "github.com/lockstep-dr/lockstep/pkg/retention"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// +kubebuilder:rbac:groups=lockstep.dev,resources=protectionpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=protectionpolicies/status,verbs=get;patch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restorepoints,verbs=get;list;watch;delete
// +kubebuilder:rbac:groups=lockstep.dev,resources=restores,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch

// How often points are judged: often enough that a grace time passes in believable steps, and seldom enough to cost nothing.
const (
	stepsInGrace = 4
	longestStep  = 6 * time.Hour
	retryUnknown = time.Minute
)

// Bounds of the status.
const (
	maxMarks   = 1000
	maxRefused = 20
)

// Reconciler keeps the retention of policies.
type Reconciler struct {
	Client client.Client
	// Reader must not be a cache: an older status would give older marks.
	Reader client.Reader
	Events record.EventRecorder
	Clock  clock.PassiveClock
	Vaults *vaults.Opener
	// OpenRepository is git.Open if nil.
	OpenRepository func(url string, o git.Options) (Repository, error)

	locks locks
	holds holds
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("retention").
		For(&v1alpha1.ProtectionPolicy{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Complete(r)
}

// Reconcile takes the retention of one policy a step further in each vault.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.ProtectionPolicy{}
	if err := r.Reader.Get(ctx, req.NamespacedName, p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !p.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	before := p.DeepCopy()
	if p.Spec.Retention == nil {
		p.Status.Retention = nil
		conditions.Delete(p, v1alpha1.ConditionRetentionRefused)
		return ctrl.Result{}, r.write(ctx, before, p)
	}
	if wait := r.rests(p); wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	steps, err := r.judge(ctx, p)
	if err != nil {
		return ctrl.Result{}, err
	}
	show(p, steps)
	switch err := r.write(ctx, before, p); {
	case apierrors.IsConflict(err):
		return ctrl.Result{RequeueAfter: time.Second}, nil
	case err != nil:
		return ctrl.Result{}, err
	}
	r.tell(before, p)
	if err := r.remove(ctx, p, steps); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: pause(p, steps)}, nil
}

// interval is the time from one step to the next.
func interval(p *v1alpha1.ProtectionPolicy) time.Duration {
	return min(max(rules.LimitsOf(p.Spec.Retention).Grace/stepsInGrace, time.Second), longestStep)
}

// rests is how long nothing is to be done, because all was judged a moment ago and nobody has said anything since.
func (r *Reconciler) rests(p *v1alpha1.ProtectionPolicy) time.Duration {
	shortest := longestStep
	for _, name := range p.Spec.Vaults {
		old := statusOf(p, name)
		if old.CheckedAt == nil || old.Generation != p.Generation || old.Unknown != "" || old.Refused != nil && approved(p, old.Refused.Digest) {
			return 0
		}
		passed := r.Clock.Now().Sub(old.CheckedAt.Time)
		if passed < 0 || passed >= interval(p) {
			return 0
		}
		shortest = min(shortest, interval(p)-passed)
	}
	return shortest
}

func pause(p *v1alpha1.ProtectionPolicy, steps []*step) time.Duration {
	if slices.ContainsFunc(steps, func(s *step) bool { return s.unknown != nil }) {
		return min(retryUnknown, interval(p))
	}
	return interval(p)
}

// step is one step in one vault.
type step struct {
	name  string
	vault *volume.Vault
	facts facts
	kept  int
	pass  rules.Pass
	// unknown, unless nil, is what keeps the step from being taken.
	unknown error
}

// judge observes, and decides on a step in each vault. An error is the API server's.
func (r *Reconciler) judge(ctx context.Context, p *v1alpha1.ProtectionPolicy) ([]*step, error) {
	uses, err := r.observeUses(ctx, p)
	if err != nil {
		return nil, err
	}
	var steps []*step
	for _, name := range p.Spec.Vaults {
		s := &step{name: name}
		steps = append(steps, s)
		if s.vault, s.unknown = r.Vaults.Open(ctx, name); s.unknown == nil {
			s.facts, s.unknown = r.observe(ctx, p, name, s.vault, uses)
		}
		if s.unknown == nil {
			s.unknown = r.decide(ctx, p, s)
		}
	}
	return steps, nil
}

// decide takes the step that follows from the facts. The store is asked for its locks last, for it is only asked for points that would go.
func (r *Reconciler) decide(ctx context.Context, p *v1alpha1.ProtectionPolicy, s *step) error {
	now := r.Clock.Now()
	verdicts, err := s.verdicts(p, now)
	if err != nil {
		return err
	}
	locked, err := r.observeLocks(ctx, s, verdicts)
	if err == nil && locked {
		verdicts, err = s.verdicts(p, now)
	}
	if err != nil {
		return err
	}
	s.proceed(p, verdicts, now)
	return nil
}

func (s *step) verdicts(p *v1alpha1.ProtectionPolicy, now time.Time) ([]rules.Verdict, error) {
	zone, err := time.LoadLocation(p.Spec.TimeZone)
	if err != nil {
		return nil, fmt.Errorf("time zone %q is not one of the IANA database", p.Spec.TimeZone)
	}
	return rules.Decide(rules.Input{
		Rules: rules.RulesOf(p.Spec.Retention), Points: s.facts.points, Tags: s.facts.tags, Now: now, Zone: zone,
	})
}

// proceed is the step from the marks that there are to the verdicts.
func (s *step) proceed(p *v1alpha1.ProtectionPolicy, verdicts []rules.Verdict, now time.Time) {
	for _, v := range verdicts {
		if v.Keep {
			s.kept++
		}
	}
	limits, marks := rules.LimitsOf(p.Spec.Retention), marksOf(statusOf(p, s.name))
	s.pass = rules.Next(verdicts, marks, limits, "", now)
	if refused := s.pass.Refused; refused != nil && approved(p, refused.Digest()) {
		s.pass = rules.Next(verdicts, marks, limits, refused.Digest(), now)
	}
}

// approved says whether somebody allowed exactly this set of points to go.
func approved(p *v1alpha1.ProtectionPolicy, digest string) bool {
	return slices.ContainsFunc(strings.Split(p.Annotations[v1alpha1.AnnotationApprovedRemoval], ","), func(word string) bool {
		return strings.TrimSpace(word) == digest
	})
}

// write writes the status, unless somebody else wrote the policy since it was read.
func (r *Reconciler) write(ctx context.Context, before, p *v1alpha1.ProtectionPolicy) error {
	if equality.Semantic.DeepEqual(before.Status, p.Status) {
		return nil
	}
	err := r.Client.Status().Patch(ctx, p, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}),
		client.FieldOwner(v1alpha1.FieldManager))
	if err != nil && !apierrors.IsConflict(err) {
		return fmt.Errorf("writing the retention of policy %q: %w", p.Name, client.IgnoreNotFound(err))
	}
	return err
}

// tell says once that a person is needed.
func (r *Reconciler) tell(before, p *v1alpha1.ProtectionPolicy) {
	now := conditions.Get(p, v1alpha1.ConditionRetentionRefused)
	if now.Status == metav1.ConditionTrue && conditions.GetMessage(before, v1alpha1.ConditionRetentionRefused) != now.Message {
		r.Events.Event(p, corev1.EventTypeWarning, v1alpha1.ConditionRetentionRefused, now.Message)
	}
}

// remove removes what has waited for its grace time, and the objects that stand for points which are in no vault any more.
func (r *Reconciler) remove(ctx context.Context, p *v1alpha1.ProtectionPolicy, steps []*step) error {
	gone := map[string]bool{}
	for _, s := range steps {
		o := catalog.RemoveOptions{Why: string(rules.Needless), Grace: rules.LimitsOf(p.Spec.Retention).Grace, Now: r.Clock.Now()}
		for _, id := range s.pass.Remove {
			err := catalog.Remove(ctx, s.vault, id, o)
			switch {
			case err == nil:
				gone[id] = true
				r.Events.Eventf(p, corev1.EventTypeNormal, "PointRemoved", "restore point %s was removed from vault %q: %s", id, s.name, o.Why)
			case errors.Is(err, catalog.ErrHeld), errors.Is(err, store.ErrLocked), errors.Is(err, store.ErrDenied):
				ctrl.LoggerFrom(ctx).Info("a restore point stays", "point", id, "vault", s.name, "why", err.Error())
			default:
				return vaults.NewError(s.name, err)
			}
		}
	}
	return r.deleteObjects(ctx, p, steps, gone)
}

// deleteObjects deletes the RestorePoints of points that every vault has removed: they are projections of records.
func (r *Reconciler) deleteObjects(ctx context.Context, p *v1alpha1.ProtectionPolicy, steps []*step, gone map[string]bool) error {
	present := map[string]bool{}
	for _, s := range steps {
		if s.unknown != nil {
			return nil
		}
		for _, point := range s.facts.points {
			present[point.ID] = present[point.ID] || !gone[point.ID]
		}
	}
	var list v1alpha1.RestorePointList
	if err := r.Client.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil {
		return fmt.Errorf("listing restore points: %w", err)
	}
	for i := range list.Items {
		o := &list.Items[i]
		if o.Spec.PolicyRef.Name != p.Name || !conditions.IsReady(o) || o.Status.ID == "" || present[o.Status.ID] {
			continue
		}
		if _, err := catalog.Get(ctx, steps[0].vault, o.Status.ID); !errors.Is(err, catalog.ErrRemoved) {
			continue // nobody knows here why it is not there
		}
		if err := r.Client.Delete(ctx, o, client.Preconditions{UID: &o.UID}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting restore point %q: %w", o.Name, err)
		}
	}
	return nil
}
