// Package policy keeps the status of ProtectionPolicies true and asks for RestorePoints when their schedules say so.
package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/controller"
	"github.com/fluxcd/pkg/runtime/patch"

	"github.com/lockstep-dr/lockstep/controller/internal/status"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// +kubebuilder:rbac:groups=lockstep.dev,resources=protectionpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=protectionpolicies/status,verbs=get;patch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restorepoints,verbs=get;list;watch;create
// +kubebuilder:rbac:groups=lockstep.dev,resources=vaults,verbs=get;list;watch

// Reconciler reconciles ProtectionPolicies.
type Reconciler struct {
	Client  client.Client
	Events  record.EventRecorder
	Metrics controller.Metrics
	Clock   clock.PassiveClock
}

// recheck bounds how old a status may grow when nothing that is watched changes.
const recheck = 10 * time.Minute

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("policy").
		For(&v1alpha1.ProtectionPolicy{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(r.ofNamespace)).
		Watches(&v1alpha1.RestorePoint{}, handler.EnqueueRequestsFromMapFunc(ofPoint)).
		Watches(&v1alpha1.Vault{}, handler.EnqueueRequestsFromMapFunc(r.ofVault), builder.WithPredicates(readinessChanged())).
		Complete(r)
}

// Reconcile observes one policy, says what it protects, and asks for a point when one is due.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, err error) {
	p := &v1alpha1.ProtectionPolicy{}
	if err := r.Client.Get(ctx, req.NamespacedName, p); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	start := r.Clock.Now()
	patcher := patch.NewSerialPatcher(p, r.Client)
	defer func() {
		r.Metrics.RecordReadiness(ctx, p)
		r.Metrics.RecordDuration(ctx, p, start)
		err = errors.Join(err, status.Patch(ctx, patcher, p))
	}()
	if !p.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	o, err := r.observe(ctx, p)
	if err != nil {
		return ctrl.Result{}, err
	}
	v := decide(p, o, r.Clock.Now())
	v.show(p)
	r.showObjective(p, &v)
	r.showCopies(p, &v)
	if !v.due.IsZero() {
		if err := r.request(ctx, p, v.due); err != nil {
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{RequeueAfter: v.wait(r.Clock.Now())}, nil
}

// observation is what decide needs to know of the cluster.
type observation struct {
	claims  []corev1.PersistentVolumeClaim
	invalid error             // of the selector
	busy    map[string]string // claims that a Restore fills, and its name
	vault   *v1alpha1.Vault   // nil if there is none
	points  []v1alpha1.RestorePoint
}

func (r *Reconciler) observe(ctx context.Context, p *v1alpha1.ProtectionPolicy) (observation, error) {
	var o observation
	var err error
	if o.claims, err = Claims(ctx, r.Client, p); err != nil {
		if invalid := (*InvalidError)(nil); !errors.As(err, &invalid) {
			return o, err
		}
		o.invalid = err
	}
	if o.busy, err = Restoring(ctx, r.Client, o.claims); err != nil {
		return o, err
	}
	vault := &v1alpha1.Vault{}
	switch err := r.Client.Get(ctx, client.ObjectKey{Name: p.Spec.Vaults[0]}, vault); {
	case err == nil:
		o.vault = vault
	case !apierrors.IsNotFound(err):
		return o, fmt.Errorf("reading vault %q: %w", p.Spec.Vaults[0], err)
	}
	var points v1alpha1.RestorePointList
	if err := r.Client.List(ctx, &points, client.InNamespace(p.Namespace)); err != nil {
		return o, fmt.Errorf("listing restore points: %w", err)
	}
	o.points = slices.DeleteFunc(points.Items, func(point v1alpha1.RestorePoint) bool { return point.Spec.PolicyRef.Name != p.Name })
	return o, nil
}

// request makes the RestorePoint of a scheduled moment. Its name is the moment, so that a controller that dies here finds it
// again instead of making a second.
func (r *Reconciler) request(ctx context.Context, p *v1alpha1.ProtectionPolicy, due time.Time) error {
	point := &v1alpha1.RestorePoint{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.Namespace, Name: p.Name + "-" + due.UTC().Format("20060102-150405"),
			Labels: map[string]string{v1alpha1.LabelPolicy: p.Name, v1alpha1.LabelManagedBy: "lockstep"},
		},
		Spec: v1alpha1.RestorePointSpec{
			PolicyRef: v1alpha1.PolicyReference{Name: p.Name}, Trigger: v1alpha1.TriggerSchedule,
		},
	}
	switch err := r.Client.Create(ctx, point); {
	case err == nil:
		r.Events.Eventf(p, corev1.EventTypeNormal, "PointRequested", "the schedule asks for restore point %q", point.Name)
	case !apierrors.IsAlreadyExists(err):
		return fmt.Errorf("creating restore point %q: %w", point.Name, err)
	}
	p.Status.LastRun = &metav1.Time{Time: due}
	return nil
}

func (r *Reconciler) ofNamespace(ctx context.Context, o client.Object) []ctrl.Request {
	var list v1alpha1.ProtectionPolicyList
	if err := r.Client.List(ctx, &list, client.InNamespace(o.GetNamespace())); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing policies")
		return nil
	}
	return requests(list.Items, func(*v1alpha1.ProtectionPolicy) bool { return true })
}

func (r *Reconciler) ofVault(ctx context.Context, o client.Object) []ctrl.Request {
	var list v1alpha1.ProtectionPolicyList
	if err := r.Client.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing policies")
		return nil
	}
	return requests(list.Items, func(p *v1alpha1.ProtectionPolicy) bool { return slices.Contains(p.Spec.Vaults, o.GetName()) })
}

// readinessChanged lets through what a policy says of its vault. That the vault was looked at once more is no news to every policy of
// the cluster.
func readinessChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*v1alpha1.Vault)
		after, also := e.ObjectNew.(*v1alpha1.Vault)
		if !ok || !also {
			return true
		}
		old, ready := conditions.Get(before, v1alpha1.ConditionReady), conditions.Get(after, v1alpha1.ConditionReady)
		return old == nil || ready == nil || old.Status != ready.Status || old.Message != ready.Message
	}}
}

func ofPoint(_ context.Context, o client.Object) []ctrl.Request {
	point, ok := o.(*v1alpha1.RestorePoint)
	if !ok {
		return nil
	}
	return []ctrl.Request{{NamespacedName: types.NamespacedName{Namespace: point.Namespace, Name: point.Spec.PolicyRef.Name}}}
}

func requests(policies []v1alpha1.ProtectionPolicy, want func(*v1alpha1.ProtectionPolicy) bool) []ctrl.Request {
	var out []ctrl.Request
	for i := range policies {
		if want(&policies[i]) {
			out = append(out, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&policies[i])})
		}
	}
	return out
}
