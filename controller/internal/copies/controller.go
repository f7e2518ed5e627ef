// Package copies brings every Ready RestorePoint into the further vaults of its policy. A mover copies from vault to vault, reads back what
// it sent, and alone has the keys of both. Where a copy stands is derived from its mover, whose name follows from the point, the vault
// and the attempt.
package copies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/patch"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/points"
	"github.com/lockstep-dr/lockstep/controller/internal/status"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// +kubebuilder:rbac:groups=lockstep.dev,resources=restorepoints,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restorepoints/status,verbs=get;patch
// +kubebuilder:rbac:groups=lockstep.dev,resources=protectionpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=vaults,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",namespace=lockstep-system,resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=lockstep-system,resources=pods/log,verbs=get
// +kubebuilder:rbac:groups=batch,namespace=lockstep-system,resources=jobs,verbs=get;list;watch;create;delete;patch

// Reconciler reconciles the copies of RestorePoints.
type Reconciler struct {
	// Client reads from the cache; Reader never does.
	Client client.Client
	Reader client.Reader
	Kube   kubernetes.Interface
	Events record.EventRecorder
	Clock  clock.PassiveClock
	Vaults *vaults.Opener
	// Image is the movers' image, Movers where they run, shared with backups and restores.
	Image  string
	Movers *movers.Room
	Limits Limits
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("copies").
		For(&v1alpha1.RestorePoint{}, builder.WithPredicates(predicate.NewPredicateFuncs(concerned))).
		Watches(&batchv1.Job{}, handler.EnqueueRequestsFromMapFunc(r.ofJob)).
		Watches(&v1alpha1.ProtectionPolicy{}, handler.EnqueueRequestsFromMapFunc(r.ofPolicy), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(r)
}

// concerned says whether a point has, or may get, anything to do with copies. Its conditions are written before the rest of its status: only
// where the vault that it was saved to is named, it is known to hold it.
func concerned(o client.Object) bool {
	p, ok := o.(*v1alpha1.RestorePoint)
	return ok && (conditions.IsReady(p) && len(p.Status.Copies) > 0 || controllerutil.ContainsFinalizer(p, v1alpha1.FinalizerCopies))
}

// Reconcile takes each copy of one point a step further. Nearly all points of a cluster have their copies, which the cache tells: what it
// does not know yet is told later. The others are read live: what the status says about movers must not be older than they are.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (result ctrl.Result, err error) {
	if settled, err := r.settled(ctx, req); err != nil || settled {
		return ctrl.Result{}, err
	}
	p := &v1alpha1.RestorePoint{}
	if err := r.Reader.Get(ctx, req.NamespacedName, p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !concerned(p) {
		return ctrl.Result{}, nil
	}
	patcher := patch.NewSerialPatcher(p, r.Client)
	defer func() { err = errors.Join(err, status.Patch(ctx, patcher, p)) }()
	names, err := r.wanted(ctx, p)
	if err != nil {
		return ctrl.Result{}, err
	}
	from := reconcileCopies(p, names)
	if pending(p) && p.DeletionTimestamp.IsZero() && controllerutil.AddFinalizer(p, v1alpha1.FinalizerCopies) {
		return ctrl.Result{RequeueAfter: atOnce}, nil // the mover of an object that is gone would be nobody's
	}
	var again time.Duration
	for i := range p.Status.Copies {
		c := &p.Status.Copies[i]
		if !lacking(c) {
			continue
		}
		next, err := r.advance(ctx, p, from, c)
		if err != nil {
			return ctrl.Result{}, err
		}
		if next > 0 && (again == 0 || next < again) {
			again = next
		}
	}
	if !controllerutil.ContainsFinalizer(p, v1alpha1.FinalizerCopies) || again == atOnce {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	if err := r.clean(ctx, p); err != nil {
		return ctrl.Result{}, err
	}
	if !pending(p) {
		controllerutil.RemoveFinalizer(p, v1alpha1.FinalizerCopies)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// settled says whether, by the cache, nothing is to be done for a point.
func (r *Reconciler) settled(ctx context.Context, req ctrl.Request) (bool, error) {
	p := &v1alpha1.RestorePoint{}
	err := r.Client.Get(ctx, req.NamespacedName, p)
	if apierrors.IsNotFound(err) || err == nil && !concerned(p) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading restore point %q: %w", req.Name, err)
	}
	names, err := r.wanted(ctx, p)
	return err == nil && settled(p, names), err
}

// atOnce is when to look again once something is written down that must be before the next step.
const atOnce = time.Nanosecond

// clean removes the point's movers for which there is nothing left to do: whose result is in the status, or which nobody wants any more.
func (r *Reconciler) clean(ctx context.Context, p *v1alpha1.RestorePoint) error {
	wanted := map[string]bool{}
	for i := range p.Status.Copies {
		if c := &p.Status.Copies[i]; lacking(c) {
			wanted[jobName(p, c.Vault, c.Attempts)] = true
		}
	}
	var jobs batchv1.JobList
	err := r.Reader.List(ctx, &jobs, client.InNamespace(v1alpha1.SystemNamespace),
		client.MatchingLabels{v1alpha1.LabelRestorePoint: string(p.UID)}, client.HasLabels{v1alpha1.LabelCopy})
	if err != nil {
		return fmt.Errorf("listing movers: %w", err)
	}
	for i := range jobs.Items {
		if !wanted[jobs.Items[i].Name] {
			if err := r.remove(ctx, &jobs.Items[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// wanted are the vaults that the point's policy names. Without the policy nobody wants a copy.
func (r *Reconciler) wanted(ctx context.Context, p *v1alpha1.RestorePoint) ([]string, error) {
	pol := &v1alpha1.ProtectionPolicy{}
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.PolicyRef.Name}, pol)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading policy %q: %w", p.Spec.PolicyRef.Name, err)
	}
	return pol.Spec.Vaults, nil
}

// advance takes one copy a step further and says when to look again, 0 if there is no need to.
func (r *Reconciler) advance(ctx context.Context, p *v1alpha1.RestorePoint, from string, c *v1alpha1.PointCopy) (time.Duration, error) {
	w, err := r.observe(ctx, p, from, c)
	if err != nil {
		return 0, err
	}
	before := c.State
	d := decide(w, r.Limits, r.Clock.Now())
	c.State, c.Message = d.state, d.message
	switch d.step {
	case stepStart:
		attempts := c.Attempts
		if err := r.start(ctx, p, from, w); err != nil {
			return 0, err
		}
		if c.Attempts != attempts {
			return atOnce, nil // the mover that failed is removed once it is in the status that it was not the last
		}
		return d.again, nil
	case stepEnd:
		return d.again, r.Movers.Abandon(ctx, w.job, d.message)
	case stepNote:
		r.note(p, w)
		return atOnce, nil // its mover is removed once this is in the status
	case stepWait:
		for _, at := range w.mover.Progress {
			c.Bytes = max(c.Bytes, at.Bytes)
		}
	}
	if c.State == v1alpha1.CopyFailed && before != c.State {
		r.Events.Eventf(p, corev1.EventTypeWarning, "CopyFailed", "copying to vault %q: %s", c.Vault, c.Message)
	}
	return d.again, nil
}

func (r *Reconciler) observe(ctx context.Context, p *v1alpha1.RestorePoint, from string, c *v1alpha1.PointCopy) (*work, error) {
	w := &work{copy: c}
	if c.Attempts > 0 {
		job := &batchv1.Job{}
		err := r.Reader.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: jobName(p, c.Vault, c.Attempts)}, job)
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading mover: %w", err)
		}
		if err == nil {
			w.job = job
		}
	}
	var err error
	if w.job != nil {
		if w.mover, err = mover.Observe(ctx, r.Reader, r.Kube, w.job); err != nil {
			return nil, err
		}
	}
	if from == "" {
		w.unready = "no vault holds the point that it could be copied from"
		return w, nil
	}
	for _, name := range []string{from, c.Vault} {
		if w.unready, err = r.unready(ctx, name); err != nil || w.unready != "" {
			return w, err
		}
	}
	return w, nil
}

// unready says why a vault cannot be used now.
func (r *Reconciler) unready(ctx context.Context, name string) (string, error) {
	v := &v1alpha1.Vault{}
	err := r.Client.Get(ctx, client.ObjectKey{Name: name}, v)
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Sprintf("there is no Vault %q", name), nil
	case err != nil:
		return "", fmt.Errorf("reading vault %q: %w", name, err)
	case conditions.IsReady(v):
		return "", nil
	}
	return fmt.Sprintf("vault %q is not ready: %s", name, cmp.Or(conditions.GetMessage(v, v1alpha1.ConditionReady), "it was not opened yet")), nil
}

// start makes the next mover of the copy, if there is room. What was written by attempts that failed is read back with the rest.
func (r *Reconciler) start(ctx context.Context, p *v1alpha1.RestorePoint, from string, w *work) error {
	c := w.copy
	attempt := c.Attempts
	if w.job != nil || attempt == 0 {
		attempt++
	}
	wait, err := r.full(ctx, jobName(p, c.Vault, attempt))
	if err != nil || wait {
		c.State, c.Message = v1alpha1.CopyPending, "waiting for other copies to finish"
		return err
	}
	job, err := r.newMover(ctx, p, from, c.Vault, attempt)
	var vault *vaults.Error
	if errors.As(err, &vault) {
		c.State, c.Message = v1alpha1.CopyPending, err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	switch started, err := r.Movers.Start(ctx, job); {
	case err != nil && !apierrors.IsAlreadyExists(err):
		return err
	case err == nil && !started:
		c.State, c.Message = v1alpha1.CopyPending, "waiting for a mover to finish: as many run as may"
		return nil
	}
	c.Attempts, c.Bytes = attempt, 0
	return nil
}

// full says whether as many other movers copy as may.
func (r *Reconciler) full(ctx context.Context, except string) (bool, error) {
	var jobs batchv1.JobList
	if err := r.Reader.List(ctx, &jobs, client.InNamespace(v1alpha1.SystemNamespace), client.HasLabels{v1alpha1.LabelCopy}); err != nil {
		return false, fmt.Errorf("counting copies: %w", err)
	}
	running := slices.DeleteFunc(jobs.Items, func(j batchv1.Job) bool { return j.Name == except || !movers.Ended(&j).IsZero() })
	return len(running) >= r.Limits.Max, nil
}

func (r *Reconciler) newMover(ctx context.Context, p *v1alpha1.RestorePoint, from, to string, attempt int32) (*batchv1.Job, error) {
	source, err := r.Vaults.Access(ctx, from)
	if err != nil {
		return nil, err
	}
	target, err := r.Vaults.Access(ctx, to)
	if err != nil {
		return nil, err
	}
	return mover.NewCopyJob(mover.CopySpec{
		Name: jobName(p, to, attempt), Image: r.Image, From: source, To: target, Point: p.Status.ID, Recheck: attempt > 1, Deadline: r.Limits.Copy,
		Labels: map[string]string{
			v1alpha1.LabelManagedBy: v1alpha1.FieldManager, v1alpha1.LabelRestorePoint: string(p.UID), v1alpha1.LabelCopy: p.Status.ID,
		},
	})
}

// note keeps that a copy is verified, which is lost with its mover.
func (r *Reconciler) note(p *v1alpha1.RestorePoint, w *work) {
	c := w.copy
	c.VerifiedAt = &metav1.Time{Time: r.Clock.Now()}
	result, _ := w.mover.CopyResult()
	c.Bytes = result.Bytes
	if !result.LockedUntil.IsZero() {
		c.LockedUntil = &metav1.Time{Time: result.LockedUntil}
	}
	r.Events.Eventf(p, corev1.EventTypeNormal, "Copied", "vault %q holds the point, too", c.Vault)
}

func (r *Reconciler) remove(ctx context.Context, job *batchv1.Job) error {
	err := r.Client.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("deleting mover %q: %w", job.Name, err)
	}
	return nil
}

// jobName follows from the point, the vault and the attempt; names of Vaults may be longer than that of a Job.
func jobName(p *v1alpha1.RestorePoint, vault string, attempt int32) string {
	sum := fnv.New32a()
	sum.Write([]byte(vault))
	return fmt.Sprintf("ls-%s-c%08x-%d", p.UID, sum.Sum32(), attempt)
}

// ofJob finds the point that a mover copies.
func (r *Reconciler) ofJob(ctx context.Context, o client.Object) []ctrl.Request {
	if o.GetLabels()[v1alpha1.LabelCopy] == "" {
		return nil
	}
	return points.Of(ctx, r.Client, o)
}

// ofPolicy finds the points of a policy, which may name other vaults now.
func (r *Reconciler) ofPolicy(ctx context.Context, o client.Object) []ctrl.Request {
	var list v1alpha1.RestorePointList
	if err := r.Client.List(ctx, &list, client.InNamespace(o.GetNamespace())); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing restore points")
		return nil
	}
	var out []ctrl.Request
	for i := range list.Items {
		if p := &list.Items[i]; concerned(p) && p.Spec.PolicyRef.Name == o.GetName() {
			out = append(out, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
		}
	}
	return out
}
