package restore

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// SetupWithManager makes the manager reconcile Restores, and again whenever one of their claims, volumes or movers changes.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	marked := builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
		return o.GetLabels()[v1alpha1.LabelRestore] != ""
	}))
	toRestore := handler.EnqueueRequestsFromMapFunc(r.restoreOf)
	return ctrl.NewControllerManagedBy(mgr).
		Named("restore").
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		For(&v1alpha1.Restore{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		Watches(&corev1.PersistentVolumeClaim{}, toRestore, marked).
		WatchesMetadata(&corev1.PersistentVolume{}, toRestore, marked).
		Watches(&batchv1.Job{}, toRestore, marked).
		Complete(r)
}

// restoreOf finds the restore whose UID an object is marked with.
func (r *Reconciler) restoreOf(ctx context.Context, o client.Object) []reconcile.Request {
	uid := types.UID(o.GetLabels()[v1alpha1.LabelRestore])
	var restores v1alpha1.RestoreList
	if err := r.Client.List(ctx, &restores); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing restores")
		return nil // what is under way is looked at every second anyway
	}
	for i := range restores.Items {
		if restores.Items[i].UID == uid {
			return []reconcile.Request{{NamespacedName: client.ObjectKeyFromObject(&restores.Items[i])}}
		}
	}
	return nil
}
