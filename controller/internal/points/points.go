// Package points finds the RestorePoint that a temporary object serves.
package points

import (
	"context"
	"fmt"

	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// served is the index of the cache by UID. Without it each event of each Job would go through all points of the cluster.
const served = "lockstep.dev/served"

// Index makes the cache find points. It must be called once, before the manager starts.
func Index(c client.FieldIndexer) error {
	if err := c.IndexField(context.Background(), &v1alpha1.RestorePoint{}, served, uidOf); err != nil {
		return fmt.Errorf("indexing restore points: %w", err)
	}
	return nil
}

// uidOf leaves out points without a finalizer, which are nearly all: nothing temporary is left of them.
func uidOf(o client.Object) []string {
	if len(o.GetFinalizers()) == 0 {
		return nil
	}
	return []string{string(o.GetUID())}
}

// Of asks to reconcile the point that a temporary object in lockstep-system serves, by its label.
func Of(ctx context.Context, c client.Reader, o client.Object) []ctrl.Request {
	uid := o.GetLabels()[v1alpha1.LabelRestorePoint]
	if uid == "" || o.GetNamespace() != v1alpha1.SystemNamespace {
		return nil
	}
	var list v1alpha1.RestorePointList
	if err := c.List(ctx, &list, client.MatchingFields{served: uid}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing restore points")
		return nil // they are looked at every few seconds anyway
	}
	var out []ctrl.Request
	for i := range list.Items {
		out = append(out, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}
