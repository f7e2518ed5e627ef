package retention

import (
	"context"
	"errors"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/schedule"
)

// +kubebuilder:rbac:groups=lockstep.dev,resources=vaults,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=vaults/status,verbs=get;patch
// +kubebuilder:rbac:groups="",namespace=lockstep-system,resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups=batch,namespace=lockstep-system,resources=jobs,verbs=get;list;watch;create;delete

const (
	// pruneDeadline bounds one prune; what it has done by then stays done.
	pruneDeadline = 24 * time.Hour
	// pruneRecheck is how soon a vault is looked at again while it is pruned, or waits for room to be.
	pruneRecheck = 30 * time.Second
	// pruneRest bounds how long it is not looked at.
	pruneRest = 6 * time.Hour
	// annotationDue on a prune's Job is the scheduled time that it acts upon.
	annotationDue = "lockstep.dev/due"
)

// Pruner has each vault pruned when its schedule says so, by one Job at a time. Backups and restores go on meanwhile: there is no lock.
type Pruner struct {
	Client client.Client
	// Reader must not be a cache: it would not know the Job that was made last.
	Reader client.Reader
	Events record.EventRecorder
	Clock  clock.PassiveClock
	Vaults *vaults.Opener
	// Image is the movers' image, Movers where they run, shared with backups and restores.
	Image  string
	Movers *movers.Room
}

// SetupWithManager registers the reconciler.
func (r *Pruner) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("prune").
		For(&v1alpha1.Vault{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&batchv1.Job{}, handler.EnqueueRequestsFromMapFunc(r.ofJob)).
		Complete(r)
}

// Reconcile begins a prune that is due, or writes down what came of one.
func (r *Pruner) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	v := &v1alpha1.Vault{}
	if err := r.Reader.Get(ctx, req.NamespacedName, v); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !v.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	before := v.DeepCopy()
	if v.Status.Prune == nil {
		v.Status.Prune = &v1alpha1.VaultPrune{}
	}
	job := &batchv1.Job{}
	err := r.Reader.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: jobName(v)}, job)
	var wait time.Duration
	switch {
	case apierrors.IsNotFound(err):
		wait, err = r.begin(ctx, v)
	case err == nil:
		wait, err = r.follow(ctx, before, v, job)
	default:
		err = fmt.Errorf("reading job %q: %w", jobName(v), err)
	}
	if err == nil {
		err = r.write(ctx, before, v)
	}
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: time.Second}, nil
	}
	return ctrl.Result{RequeueAfter: wait}, err
}

// jobName follows from the vault, so that there is one Job at a time, whoever makes it.
func jobName(v *v1alpha1.Vault) string { return "prune-" + string(v.UID) }

// begin makes the Job if a prune is due.
func (r *Pruner) begin(ctx context.Context, v *v1alpha1.Vault) (time.Duration, error) {
	s, at := v.Status.Prune, r.Clock.Now()
	s.Running, s.NextRun = "", nil
	if v.Spec.SuspendPrune {
		return pruneRest, nil
	}
	planned, err := schedule.Parse(schedule.Options{Cron: v.Spec.PruneSchedule, Seed: string(v.UID)})
	if err != nil {
		s.Error = err.Error()
		return pruneRest, nil
	}
	last := v.CreationTimestamp.Time
	if s.LastRun != nil {
		last = s.LastRun.Time
	}
	next := planned.Next(schedule.State{Now: at, Last: last, Busy: !conditions.IsReady(v)})
	if !next.Begins.IsZero() {
		s.NextRun = &metav1.Time{Time: next.Begins}
	}
	if next.Due.IsZero() {
		if !next.Last.Equal(last) {
			s.LastRun = &metav1.Time{Time: next.Last}
		}
		return rest(next.Begins.Sub(at), !conditions.IsReady(v)), nil
	}
	access, err := r.Vaults.Access(ctx, v.Name)
	if why := (*vaults.Error)(nil); errors.As(err, &why) {
		s.Error = err.Error()
		return pruneRecheck, nil
	}
	if err != nil {
		return 0, err
	}
	job, err := mover.NewPruneJob(mover.JobSpec{
		Name: jobName(v), Image: r.Image, Vault: access, Deadline: pruneDeadline,
		Labels:      map[string]string{v1alpha1.LabelManagedBy: v1alpha1.FieldManager, v1alpha1.LabelVault: string(v.UID)},
		Annotations: map[string]string{annotationDue: next.Due.UTC().Format(time.RFC3339)},
	})
	if err != nil {
		return 0, err
	}
	started, err := r.Movers.Start(ctx, job)
	if apierrors.IsAlreadyExists(err) || err == nil && !started {
		return pruneRecheck, nil
	}
	if err != nil {
		return 0, err
	}
	s.Running, s.LastRun = job.Name, &metav1.Time{Time: next.Due}
	return pruneRecheck, nil
}

// rest is how long a vault is not looked at, sooner if it is not ready.
func rest(next time.Duration, waiting bool) time.Duration {
	if waiting {
		return time.Minute
	}
	return min(max(next, time.Second), pruneRest)
}

// follow looks at a prune that was begun. What came of it is written down before its Job is deleted.
func (r *Pruner) follow(ctx context.Context, before, v *v1alpha1.Vault, job *batchv1.Job) (time.Duration, error) {
	s := v.Status.Prune
	s.Running = job.Name
	if due, err := time.Parse(time.RFC3339, job.Annotations[annotationDue]); err == nil {
		s.LastRun = &metav1.Time{Time: due}
	}
	if over, _ := mover.Finished(job); !over {
		why, err := mover.PruneHopeless(ctx, r.Reader, job, r.Clock.Now())
		if err == nil && why != "" {
			err = r.Movers.Abandon(ctx, job, why)
		}
		return pruneRecheck, err
	}
	if !job.DeletionTimestamp.IsZero() {
		return time.Second, nil
	}
	result, err := mover.PruneResult(ctx, r.Reader, job)
	if err != nil {
		return 0, err
	}
	s.Running = ""
	r.conclude(v, result)
	if err := r.write(ctx, before, v); err != nil {
		return 0, err
	}
	*before = *v.DeepCopy()
	err = r.Client.Delete(ctx, job, client.Preconditions{UID: &job.UID}, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("deleting job %q: %w", job.Name, err)
	}
	return time.Second, nil
}

func (r *Pruner) conclude(v *v1alpha1.Vault, result mover.Result) {
	s := v.Status.Prune
	if result.Error != "" || result.Pruned == nil {
		s.Error = result.Error
		r.Events.Event(v, corev1.EventTypeWarning, "PruneFailed", result.Error)
		return
	}
	s.Error, s.PrunedAt = "", &metav1.Time{Time: r.Clock.Now()}
	s.FreedBytes, s.WaitingBytes, s.LockedBytes = result.Pruned.Deleted, result.Pruned.Waiting, result.Pruned.Kept
	r.Events.Eventf(v, corev1.EventTypeNormal, "Pruned", "gave up the data of %d removed points, deleted %d bytes, %d more wait for their grace time",
		result.Pruned.Swept, s.FreedBytes, s.WaitingBytes)
}

func (r *Pruner) write(ctx context.Context, before, v *v1alpha1.Vault) error {
	if equality.Semantic.DeepEqual(before.Status, v.Status) {
		return nil
	}
	err := r.Client.Status().Patch(ctx, v, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}),
		client.FieldOwner(v1alpha1.FieldManager))
	if apierrors.IsConflict(err) {
		return err
	}
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("writing what came of pruning vault %q: %w", v.Name, err)
	}
	return nil
}

// ofJob finds the vault that a Job prunes.
func (r *Pruner) ofJob(ctx context.Context, o client.Object) []ctrl.Request {
	uid := o.GetLabels()[v1alpha1.LabelVault]
	if uid == "" {
		return nil
	}
	var list v1alpha1.VaultList
	if err := r.Client.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing vaults")
		return nil
	}
	for i := range list.Items {
		if string(list.Items[i].UID) == uid {
			return []ctrl.Request{{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])}}
		}
	}
	return nil
}
