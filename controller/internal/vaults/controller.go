package vaults

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/controller"
	"github.com/fluxcd/pkg/runtime/patch"

	"github.com/lockstep-dr/lockstep/controller/internal/status"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
)

// +kubebuilder:rbac:groups=lockstep.dev,resources=vaults,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restorepoints;protectionpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=vaults/status,verbs=get;patch
// +kubebuilder:rbac:groups="",namespace=lockstep-system,resources=secrets,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=lockstep-system,resources=pods,verbs=get
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch

// How often a vault is opened to see whether it still opens, and how soon it is tried again if it did not.
const (
	checkEvery = 5 * time.Minute
	retryEvery = 30 * time.Second
	// checkTimeout bounds one look at a store that accepts a connection and says nothing.
	checkTimeout = time.Minute
)

// Reconciler reconciles Vaults. It never makes a vault: `lockstep vault init` does.
type Reconciler struct {
	Client  client.Client
	Events  record.EventRecorder
	Metrics controller.Metrics
	Clock   clock.PassiveClock
	Vaults  *Opener
}

// SetupWithManager registers the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).
		Named("vaults").
		For(&v1alpha1.Vault{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&v1alpha1.RestorePoint{}, handler.EnqueueRequestsFromMapFunc(r.ofPoint)).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.ofSecret)).
		Complete(r)
}

// Reconcile opens the vault and says what came of it.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (_ ctrl.Result, err error) {
	v := &v1alpha1.Vault{}
	if err := r.Client.Get(ctx, req.NamespacedName, v); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !v.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	start := r.Clock.Now()
	patcher := patch.NewSerialPatcher(v, r.Client)
	defer func() {
		r.Metrics.RecordReadiness(ctx, v)
		r.Metrics.RecordDuration(ctx, v, start)
		err = errors.Join(err, status.Patch(ctx, patcher, v))
	}()
	looked, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return r.conclude(v, r.check(looked, v))
}

// check opens the vault, has it show that it locks what it is to lock, and counts its points.
func (r *Reconciler) check(ctx context.Context, v *v1alpha1.Vault) error {
	opened, err := r.Vaults.open(ctx, v)
	if err != nil {
		return err
	}
	if v.Spec.Immutability != nil {
		if err := opened.CheckLocks(ctx); err != nil {
			return NewError(v.Name, err)
		}
	}
	points, err := catalog.Count(ctx, opened)
	if err != nil {
		return NewError(v.Name, err)
	}
	v.Status.ID, v.Status.Points = opened.ID(), int32(points)
	return nil
}

func (r *Reconciler) conclude(v *v1alpha1.Vault, err error) (ctrl.Result, error) {
	var why *Error
	if err != nil && !errors.As(err, &why) {
		return ctrl.Result{}, err // the API server's: nothing is known about the vault
	}
	conditions.Delete(v, v1alpha1.ConditionReconciling)
	conditions.Delete(v, v1alpha1.ConditionStalled)
	v.Status.CheckedAt = &metav1.Time{Time: r.Clock.Now()}
	before := conditions.GetReason(v, v1alpha1.ConditionReady)
	if why == nil {
		v.Status.DownSince = nil
	} else if v.Status.DownSince == nil {
		v.Status.DownSince = v.Status.CheckedAt
	}
	wait := retryEvery
	switch {
	case why == nil:
		conditions.MarkTrue(v, v1alpha1.ConditionReady, v1alpha1.ReasonOpened, "the store answers and the key opens the vault")
		wait = checkEvery
	case why.Unknown():
		conditions.MarkUnknown(v, v1alpha1.ConditionReady, why.Reason, "%s", why.Err)
		conditions.MarkReconciling(v, why.Reason, "trying again")
	default:
		conditions.MarkFalse(v, v1alpha1.ConditionReady, why.Reason, "%s", why.Err)
		conditions.MarkStalled(v, why.Reason, "%s", why.Err)
	}
	if now := conditions.Get(v, v1alpha1.ConditionReady); now.Reason != before {
		kind := corev1.EventTypeNormal
		if why != nil {
			kind = corev1.EventTypeWarning
		}
		r.Events.Event(v, kind, now.Reason, now.Message)
	}
	return ctrl.Result{RequeueAfter: wait}, nil
}

// ofPoint has a vault that a point could not use looked at now, and not only at the next check.
func (r *Reconciler) ofPoint(ctx context.Context, o client.Object) []ctrl.Request {
	p, ok := o.(*v1alpha1.RestorePoint)
	if !ok || conditions.GetReason(p, v1alpha1.ConditionReady) != v1alpha1.ReasonUnreachable {
		return nil
	}
	pol := &v1alpha1.ProtectionPolicy{}
	if err := r.Client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.PolicyRef.Name}, pol); err != nil {
		return nil // then it will be looked at when it is due
	}
	return []ctrl.Request{{NamespacedName: client.ObjectKey{Name: pol.Spec.Vaults[0]}}}
}

func (r *Reconciler) ofSecret(ctx context.Context, o client.Object) []ctrl.Request {
	if o.GetNamespace() != v1alpha1.SystemNamespace {
		return nil
	}
	var list v1alpha1.VaultList
	if err := r.Client.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing vaults")
		return nil
	}
	var out []ctrl.Request
	for i := range list.Items {
		spec := &list.Items[i].Spec
		if spec.KeySecretRef.Name == o.GetName() ||
			spec.S3 != nil && spec.S3.CredentialsSecretRef != nil && spec.S3.CredentialsSecretRef.Name == o.GetName() {
			out = append(out, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}
