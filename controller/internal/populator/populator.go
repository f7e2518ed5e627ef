// Package populator begins claims whose dataSourceRef names a ProtectionPolicy: with the data of the revision that is being
// deployed, without any where the vault proves that there is none, and not at all while that is not known.
package populator

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/lockstep-dr/lockstep/controller/internal/trees"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups="",resources=persistentvolumes,verbs=get
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=storage.k8s.io,resources=storageclasses,verbs=get
// +kubebuilder:rbac:groups=lockstep.dev,resources=protectionpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restores,verbs=get;list;watch;create
// +kubebuilder:rbac:groups=lockstep.dev,resources=vaults,verbs=get;list;watch

// Vaults opens vaults by the names of their Vault objects; *vaults.Opener does.
type Vaults interface {
	Open(ctx context.Context, name string) (*volume.Vault, error)
}

// Reconciler reconciles claims with such a dataSourceRef.
type Reconciler struct {
	Client client.Client
	// Reader reads from the API server itself.
	Reader client.Reader
	Events record.EventRecorder
	Vaults Vaults
	Now    func() time.Time
	Trees  *trees.Trees
}

const (
	// patience is how long a claim of a class that waits for its first consumer may wait for one, before its volume is filled
	// wherever there is room: claims of CronJobs may wait for days.
	patience = time.Minute
	// again is how soon to ask again what was not known, or to look after what somebody else does.
	again = 15 * time.Second
	// atOnce is how many claims are asked for at the same time: a vault or a repository may be slow to answer for some of them.
	atOnce = 8

	annotationSelectedNode = "volume.kubernetes.io/selected-node"
)

// SetupWithManager makes the manager reconcile such claims, and again whenever their Restore, policy or vault changes.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	ours := builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
		claim, ok := o.(*corev1.PersistentVolumeClaim)
		return ok && policyOf(claim) != ""
	}))
	owner := handler.EnqueueRequestForOwner(mgr.GetScheme(), mgr.GetRESTMapper(), &corev1.PersistentVolumeClaim{})
	return ctrl.NewControllerManagedBy(mgr).
		Named("populator").
		For(&corev1.PersistentVolumeClaim{}, ours).
		Watches(&v1alpha1.Restore{}, owner).
		Watches(&v1alpha1.ProtectionPolicy{}, handler.EnqueueRequestsFromMapFunc(r.ofPolicy)).
		Watches(&v1alpha1.Vault{}, handler.EnqueueRequestsFromMapFunc(r.waiting), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: atOnce}).
		Complete(r)
}

// policyOf is the policy that a claim gets its data from; empty for the claims of others.
func policyOf(claim *corev1.PersistentVolumeClaim) string {
	ref := claim.Spec.DataSourceRef
	if ref == nil || ref.APIGroup == nil || *ref.APIGroup != v1alpha1.GroupVersion.Group || ref.Kind != "ProtectionPolicy" {
		return ""
	}
	return ref.Name
}

func (r *Reconciler) ofPolicy(ctx context.Context, policy client.Object) []ctrl.Request {
	return r.claims(ctx, func(claim *corev1.PersistentVolumeClaim) bool { return policyOf(claim) == policy.GetName() }, client.InNamespace(policy.GetNamespace()))
}

// waiting are the claims that a vault may know something of.
func (r *Reconciler) waiting(ctx context.Context, _ client.Object) []ctrl.Request {
	return r.claims(ctx, func(claim *corev1.PersistentVolumeClaim) bool {
		return policyOf(claim) != "" && claim.Status.Phase != corev1.ClaimBound
	})
}

func (r *Reconciler) claims(ctx context.Context, which func(*corev1.PersistentVolumeClaim) bool, o ...client.ListOption) []ctrl.Request {
	var claims corev1.PersistentVolumeClaimList
	if err := r.Client.List(ctx, &claims, o...); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing claims")
		return nil // they are looked at every few seconds anyway
	}
	var out []ctrl.Request
	for i := range claims.Items {
		if which(&claims.Items[i]) {
			out = append(out, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&claims.Items[i])})
		}
	}
	return out
}

// Reconcile observes one claim, decides what it is to begin with, and has a Restore do it.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	claim := &corev1.PersistentVolumeClaim{}
	if err := r.Reader.Get(ctx, request.NamespacedName, claim); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if policyOf(claim) == "" || claim.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	v, err := r.judge(ctx, claim)
	if err != nil {
		return ctrl.Result{}, err
	}
	if v.restore != nil {
		if err := r.Client.Create(ctx, v.restore, client.FieldOwner(v1alpha1.FieldManager)); err != nil && !apierrors.IsAlreadyExists(err) {
			return ctrl.Result{}, fmt.Errorf("making the Restore of claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return ctrl.Result{RequeueAfter: v.after}, r.tell(ctx, claim, v)
}

// tell writes onto the claim where it stands, and says it in an event, if that is new.
func (r *Reconciler) tell(ctx context.Context, claim *corev1.PersistentVolumeClaim, v verdict) error {
	text := v.reason + ": " + v.message
	if v.reason == "" || claim.Annotations[v1alpha1.AnnotationPopulation] == text {
		return nil
	}
	changed := claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, v1alpha1.AnnotationPopulation, text)
	if err := r.Client.Patch(ctx, changed, client.MergeFrom(claim), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return client.IgnoreNotFound(err)
	}
	kind := corev1.EventTypeNormal
	if Troubled(text) {
		kind = corev1.EventTypeWarning
	}
	r.Events.Event(claim, kind, v.reason, v.message)
	return nil
}

// waitsForConsumer says that the claim's volume is not to be made before a pod has a place.
func (r *Reconciler) waitsForConsumer(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	if claim.Spec.StorageClassName == nil || *claim.Spec.StorageClassName == "" || claim.Annotations[annotationSelectedNode] != "" {
		return false, nil // what has no class is refused by the Restore
	}
	class := &storagev1.StorageClass{}
	if err := r.Reader.Get(ctx, client.ObjectKey{Name: *claim.Spec.StorageClassName}, class); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer, nil
}
