// Package backup carries out RestorePoints: it snapshots every expected claim at one moment, saves the snapshots into the vault by
// movers, captures what Git does not hold, and writes the record last of all.
//
// Where the work stands is derived from the cluster each time. The names of all temporary objects follow from the UID of the
// RestorePoint, so that a controller that dies anywhere finds them again; what cannot be derived (the expected claims, the
// revision, the results of movers that are gone) is in the status before anything depends on it.
package backup

import (
	"context"
	"errors"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	ctrlruntime "sigs.k8s.io/controller-runtime/pkg/controller"

	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/controller"
	"github.com/fluxcd/pkg/runtime/patch"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/points"
	"github.com/lockstep-dr/lockstep/controller/internal/status"
	"github.com/lockstep-dr/lockstep/controller/internal/trees"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

// +kubebuilder:rbac:groups=lockstep.dev,resources=restorepoints,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restorepoints/status,verbs=get;patch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restorepoints/finalizers,verbs=update
// +kubebuilder:rbac:groups=lockstep.dev,resources=protectionpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=snapshot.storage.k8s.io,resources=volumesnapshots,verbs=get;create;delete
// +kubebuilder:rbac:groups=snapshot.storage.k8s.io,resources=volumesnapshotcontents,verbs=get;list;create;patch;delete
// +kubebuilder:rbac:groups=snapshot.storage.k8s.io,resources=volumesnapshotclasses,verbs=get;list
// +kubebuilder:rbac:groups=storage.k8s.io,resources=storageclasses,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=persistentvolumes,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",namespace=lockstep-system,resources=persistentvolumeclaims,verbs=create;delete
// +kubebuilder:rbac:groups="",namespace=lockstep-system,resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=lockstep-system,resources=pods/log,verbs=get
// +kubebuilder:rbac:groups=batch,namespace=lockstep-system,resources=jobs,verbs=get;list;watch;create;delete

// Limits bound the work on one point.
type Limits struct {
	// Begin is how long a point waits for what it needs before it fails: its policy, a revision, bound claims.
	Begin time.Duration
	// Deploy is that for a point after a deploy, which may be asked for while the deploy is still ending.
	Deploy time.Duration
	// Cut is how long the storage may take until the moment of each snapshot is fixed.
	Cut time.Duration
	// Point bounds everything, and every mover.
	Point time.Duration
	// Retries is how often a mover is started anew after a failure that may pass; RetryAfter is the first wait, which triples.
	Retries    int32
	RetryAfter time.Duration
	// Poll is how often the cluster is looked at while work is under way, Soon how soon after something was done to it.
	Poll, Soon time.Duration
}

// DefaultLimits suit real clusters.
func DefaultLimits() Limits {
	return Limits{
		Begin: time.Minute, Deploy: 15 * time.Minute, Cut: 10 * time.Minute, Point: 24 * time.Hour,
		Retries: 3, RetryAfter: 10 * time.Second, Poll: time.Second, Soon: 100 * time.Millisecond,
	}
}

// Reconciler reconciles RestorePoints.
type Reconciler struct {
	// Client reads from the cache, except Secrets and snapshots; Reader never does.
	Client client.Client
	Reader client.Reader
	Kube   kubernetes.Interface
	// Discovery says which kinds the cluster serves.
	Discovery residual.Discovery
	Events    record.EventRecorder
	Metrics   controller.Metrics
	Clock     clock.PassiveClock
	Vaults    *vaults.Opener
	// Exec runs the policies' hooks.
	Exec Executor
	// Image is the movers' image, Movers where they run, shared with restores.
	Image  string
	Movers *movers.Room
	Limits Limits
	Trees  *trees.Trees
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	temporary := handler.EnqueueRequestsFromMapFunc(r.ofTemporary)
	return ctrl.NewControllerManagedBy(mgr).
		Named("backup").
		WithOptions(ctrlruntime.Options{MaxConcurrentReconciles: 4}).
		For(&v1alpha1.RestorePoint{}, builder.WithPredicates(predicate.NewPredicateFuncs(undone), predicate.Or(
			predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&batchv1.Job{}, temporary).
		Watches(&corev1.PersistentVolumeClaim{}, temporary).
		Complete(r)
}

// Reconcile takes one point a step further. It reads the point itself live: what the status says about work already begun
// must not be older than the work.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (result ctrl.Result, err error) {
	p := &v1alpha1.RestorePoint{}
	if err := r.Reader.Get(ctx, req.NamespacedName, p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	patcher := patch.NewSerialPatcher(p, r.Client)
	defer func() {
		r.measure(ctx, p)
		err = errors.Join(err, status.Patch(ctx, patcher, p))
	}()
	switch {
	case !p.DeletionTimestamp.IsZero() || finished(p):
		return r.clean(ctx, p)
	case p.Status.StartedAt == nil:
		return r.begin(ctx, p)
	}
	return r.advance(ctx, p)
}

// advance observes what there is of a point that has begun, and does what is next.
func (r *Reconciler) advance(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	if len(p.Status.Copies) > 0 {
		return r.done(p)
	}
	if r.Clock.Since(p.Status.StartedAt.Time) > r.Limits.Point {
		return r.fail(p, v1alpha1.ReasonSaveFailed, "not done within "+r.Limits.Point.String())
	}
	volumes, err := r.observe(ctx, p)
	if err != nil {
		return ctrl.Result{}, err
	}
	if p.Status.Taken == nil {
		return r.cut(ctx, p, volumes)
	}
	if p.Status.Residual == nil {
		return r.captureResidual(ctx, p)
	}
	if p.Status.CompletedAt == nil {
		return r.move(ctx, p, volumes)
	}
	return r.record(ctx, p)
}

// finished reports whether a point is done for good, one way or the other.
func finished(p *v1alpha1.RestorePoint) bool { return conditions.IsReady(p) || conditions.IsStalled(p) }

// undone reports whether anything may be left to do for a point. Nearly all points of a cluster are good and cleaned up: to look at each
// of them live whenever the controller starts would keep the API server busy for nothing.
func undone(o client.Object) bool {
	p, ok := o.(*v1alpha1.RestorePoint)
	return !ok || !conditions.IsReady(p) || !p.DeletionTimestamp.IsZero() || controllerutil.ContainsFinalizer(p, v1alpha1.Finalizer)
}

// measure keeps the metrics of points that are under way or failed. Those of all good points would be most of the controller's memory.
func (r *Reconciler) measure(ctx context.Context, p *v1alpha1.RestorePoint) {
	if undone(p) {
		r.Metrics.RecordReadiness(ctx, p)
		return
	}
	r.Metrics.DeleteCondition(ctx, p, v1alpha1.ConditionReady)
}

// progress says what is being done, and when to look again.
func (r *Reconciler) progress(p *v1alpha1.RestorePoint, message string, again time.Duration) (ctrl.Result, error) {
	conditions.MarkReconciling(p, v1alpha1.ReasonProgressing, "%s", message)
	conditions.MarkUnknown(p, v1alpha1.ConditionReady, v1alpha1.ReasonProgressing, "%s", message)
	return ctrl.Result{RequeueAfter: again}, nil
}

// atOnce is when to look again after something went into the status that was not in the world.
const atOnce = time.Nanosecond

// fail ends the point. Its temporary objects are removed by the reconciliations that follow.
func (r *Reconciler) fail(p *v1alpha1.RestorePoint, reason, message string) (ctrl.Result, error) {
	conditions.MarkStalled(p, reason, "%s", message)
	conditions.MarkFalse(p, v1alpha1.ConditionReady, reason, "%s", message)
	r.Events.Event(p, corev1.EventTypeWarning, reason, message)
	if !controllerutil.ContainsFinalizer(p, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	if due(p) || away(p.Status.ScaleToZero) {
		return ctrl.Result{RequeueAfter: atOnce}, nil // the application must not be held still or away for nothing
	}
	return ctrl.Result{RequeueAfter: r.Limits.Poll}, nil
}

// vaultWait is the time between two tries to reach a vault.
const vaultWait = 15 * time.Second

// refuse fails a point that has begun for what it now lacks, and keeps it waiting for its vault; other errors are tried again.
func (r *Reconciler) refuse(p *v1alpha1.RestorePoint, err error) (ctrl.Result, error) {
	var lack *notReady
	var vault *vaults.Error
	switch {
	case errors.As(err, &lack):
		return r.fail(p, lack.reason, lack.Error())
	case errors.As(err, &vault):
		return r.vaultError(p, err)
	}
	return ctrl.Result{}, err
}

// vaultError keeps a point waiting while its vault cannot be used. What is in the vault already is not lost, and trying
// again costs little.
func (r *Reconciler) vaultError(p *v1alpha1.RestorePoint, err error) (ctrl.Result, error) {
	var v *vaults.Error
	if errors.As(err, &v) && !v.Unknown() {
		conditions.MarkReconciling(p, v1alpha1.ReasonVaultNotReady, "%s", err)
		conditions.MarkFalse(p, v1alpha1.ConditionReady, v1alpha1.ReasonVaultNotReady, "%s", err)
	} else {
		conditions.MarkReconciling(p, v1alpha1.ReasonUnreachable, "%s", err)
		conditions.MarkUnknown(p, v1alpha1.ConditionReady, v1alpha1.ReasonUnreachable, "%s", err)
	}
	return ctrl.Result{RequeueAfter: vaultWait}, nil
}

// ofTemporary finds the point that a Job or a claim of lockstep-system serves.
func (r *Reconciler) ofTemporary(ctx context.Context, o client.Object) []ctrl.Request {
	return points.Of(ctx, r.Client, o)
}
