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
	watched "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// SetupWithManager makes the manager reconcile Restores, and again whenever one of their claims, volumes or movers
// changes.
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
		Watches(&corev1.Pod{}, toRestore, marked, builder.WithPredicates(moverEnds())).
		Watches(&v1alpha1.Restore{}, handler.EnqueueRequestsFromMapFunc(r.waitingFor)).
		Complete(r)
}

// moverEnds lets through what a restore waits for of a mover's pod: that a container has ended, and that the pod is gone. Its
// start is seen soon enough.
func moverEnds() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc: func(watched.CreateEvent) bool { return false },
		UpdateFunc: func(e watched.UpdateEvent) bool { return endedContainers(e.ObjectOld) != endedContainers(e.ObjectNew) },
		DeleteFunc: func(watched.DeleteEvent) bool { return true },
	}
}

func endedContainers(o client.Object) int {
	pod, ok := o.(*corev1.Pod)
	if !ok {
		return 0
	}
	n := 0
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Terminated != nil {
			n++
		}
	}
	return n
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
