package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/runtime/conditions"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// awaitOthers holds a restore that has not begun until those that it depends on are Ready. One that has chosen its point
// goes on, whatever becomes of the others.
func (r *Reconciler) awaitOthers(ctx context.Context, restore *v1alpha1.Restore) error {
	if len(restore.Spec.DependsOn) == 0 || restore.Status.Point != nil {
		return nil
	}
	var list v1alpha1.RestoreList
	if err := r.Reader.List(ctx, &list, client.InNamespace(restore.Namespace)); err != nil {
		return fmt.Errorf("listing the restores that this one waits for: %w", err)
	}
	others := map[string]*v1alpha1.Restore{}
	for i := range list.Items {
		others[list.Items[i].Name] = &list.Items[i]
	}
	return heldBy(restore, others)
}

// heldBy says as an *answer what a restore waits for, or nil if it may begin. That others are under way is progress; one that is
// missing or has stopped needs a person, and may then mend itself; a circle never does.
func heldBy(restore *v1alpha1.Restore, others map[string]*v1alpha1.Restore) error {
	if circle := circleOf(others, []string{restore.Name}, map[string]bool{}); circle != nil {
		return final(v1alpha1.ReasonInvalidSpec, fmt.Errorf("this restore waits for itself: %s; make one of them anew without it",
			strings.Join(circle, " waits for ")))
	}
	var waits, stuck []string
	for _, d := range restore.Spec.DependsOn {
		other := others[d.Name]
		switch {
		case other == nil:
			stuck = append(stuck, fmt.Sprintf("waits for Restore %q, which does not exist", d.Name))
		case conditions.IsReady(other):
		case conditions.IsStalled(other):
			stuck = append(stuck, fmt.Sprintf("waits for Restore %q, which has stopped: %s", d.Name, conditions.GetReason(other, v1alpha1.ConditionStalled)))
		default:
			waits = append(waits, fmt.Sprintf("waits for Restore %q", d.Name))
		}
	}
	switch {
	case len(stuck) > 0:
		return unknown(v1alpha1.ReasonDependencyNotReady, fmt.Errorf("%s", strings.Join(stuck, "; ")))
	case len(waits) > 0:
		return unknown(v1alpha1.ReasonProgressing, fmt.Errorf("%s", strings.Join(waits, "; ")))
	}
	return nil
}

// circleOf follows the dependencies of the last name on the way, and returns the way back to the first if there is one. From
// the names that were seen there is none; a circle of others they say themselves.
func circleOf(all map[string]*v1alpha1.Restore, way []string, seen map[string]bool) []string {
	last := all[way[len(way)-1]]
	if last == nil {
		return nil
	}
	for _, d := range last.Spec.DependsOn {
		if d.Name == way[0] {
			return append(way, d.Name)
		}
		if seen[d.Name] {
			continue
		}
		seen[d.Name] = true
		if found := circleOf(all, append(slices.Clone(way), d.Name), seen); found != nil {
			return found
		}
	}
	return nil
}

// waitingFor finds the restores that wait for one that has come to its end.
func (r *Reconciler) waitingFor(ctx context.Context, o client.Object) []reconcile.Request {
	ended, ok := o.(*v1alpha1.Restore)
	if !ok || !conditions.IsReady(ended) && !conditions.IsStalled(ended) {
		return nil
	}
	var list v1alpha1.RestoreList
	if err := r.Client.List(ctx, &list, client.InNamespace(o.GetNamespace())); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing restores")
		return nil // those that wait look again by themselves
	}
	var out []reconcile.Request
	for i := range list.Items {
		names := func(d v1alpha1.RestoreReference) bool { return d.Name == o.GetName() }
		if waiting := &list.Items[i]; waiting.Status.Point == nil && slices.ContainsFunc(waiting.Spec.DependsOn, names) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(waiting)})
		}
	}
	return out
}
