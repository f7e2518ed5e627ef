package restore

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// leftover is a volume of a restore that is being deleted. It is found by its marks alone: neither the vault nor Git is
// needed to clear up.
type leftover struct {
	volume
	// busy says that a mover of the restore still exists.
	busy bool
	// made says that the restore made the target, used that a workload or a pod counts on it.
	made, used bool
}

// Verbs that only clearing up has.
const (
	doLeave verb = "leave" // leave a target that a workload counts on, and say so
	doWait  verb = "wait"  // for something that goes by itself
)

// clearUp decides what to do with a leftover, one thing at a time; nothing is left to do when it says "".
// A volume that was handed over already is finished: its data is whole. Any other is given its reclaim policy back and goes
// with its staging claim.
func clearUp(l leftover) verb {
	kept := l.pv != nil && l.pv.Annotations[v1alpha1.AnnotationReclaimPolicy] != ""
	switch {
	case l.busy:
		return doWait
	case l.handedOver() && (l.target.Status.Phase != corev1.ClaimBound ||
		kept && l.staging != nil && l.staging.Status.Phase != corev1.ClaimLost):
		return doTouch
	case kept:
		return doGiveBack
	case l.staging != nil:
		return doUnstage
	case l.target == nil || l.target.DeletionTimestamp != nil || l.target.Status.Phase != corev1.ClaimPending:
		return ""
	case l.made && !l.used:
		return doForget
	}
	return doLeave
}

// finalize clears up step by step and then lets the restore go.
func (r *Reconciler) finalize(ctx context.Context, restore *v1alpha1.Restore) (ctrl.Result, error) {
	r.replays.drop(restore.UID)
	if !controllerutil.ContainsFinalizer(restore, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	made, err := r.observeTemporary(ctx, restore)
	if err != nil {
		return ctrl.Result{}, err
	}
	leftovers, err := r.observeLeftovers(ctx, restore, made)
	if err != nil {
		return ctrl.Result{}, err
	}
	for _, j := range made.jobs {
		if err := r.deleteJob(ctx, j.Name); err != nil {
			return ctrl.Result{}, fmt.Errorf("deleting mover %q: %w", j.Name, err)
		}
	}
	pending := len(made.jobs) > 0 || len(made.pods) > 0
	for _, l := range leftovers {
		goesOn, err := r.clearUp(ctx, restore, l)
		if err != nil {
			return ctrl.Result{}, err
		}
		pending = pending || goesOn
	}
	if pending {
		return ctrl.Result{RequeueAfter: busy}, nil
	}
	if err := r.wayBack(ctx, restore); err != nil {
		return ctrl.Result{}, err
	}
	// Last of all: what follows Git's branch again must not meet what is half cleared up.
	if waits, err := r.letGo(ctx, restore); err != nil || waits != "" {
		ctrl.LoggerFrom(ctx).Info("restore is not removed yet", "why", waits)
		return ctrl.Result{RequeueAfter: 5 * busy}, err
	}
	before := restore.DeepCopy()
	controllerutil.RemoveFinalizer(restore, v1alpha1.Finalizer)
	err = r.Client.Patch(ctx, restore, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	return ctrl.Result{}, client.IgnoreNotFound(err)
}

// clearUp does the next thing for a leftover and says whether to look again.
func (r *Reconciler) clearUp(ctx context.Context, restore *v1alpha1.Restore, l leftover) (goesOn bool, err error) {
	s := scope{Reconciler: r, restore: restore, world: &world{now: r.Now(), uid: string(restore.UID)}}
	do := clearUp(l)
	switch do {
	case "":
		return false, nil
	case doLeave:
		e := claimLeft(l.Name)
		r.Events.Event(restore, e.kind, e.reason, e.message)
		return false, nil
	case doWait:
		return true, nil
	case doTouch:
		err = s.touch(ctx, l.volume)
	case doGiveBack:
		err = r.giveBack(ctx, l.volume)
	case doUnstage:
		err = r.unstage(ctx, l.volume)
	case doForget:
		err = r.forget(ctx, l.volume)
	}
	if apierrors.IsConflict(err) {
		return true, nil
	}
	if err != nil {
		return true, fmt.Errorf("clearing up: %s %s: %w", do, l.Name, err)
	}
	return true, nil
}

// observeLeftovers gathers claims and volumes by the restore's marks.
func (r *Reconciler) observeLeftovers(ctx context.Context, restore *v1alpha1.Restore, made temporaries) ([]leftover, error) {
	var targets corev1.PersistentVolumeClaimList
	if err := r.Reader.List(ctx, &targets, client.MatchingLabels{v1alpha1.LabelRestore: string(restore.UID)}); err != nil {
		return nil, fmt.Errorf("listing reserved claims: %w", err)
	}
	byName := map[object.Name]*leftover{}
	at := func(name object.Name) *leftover {
		if byName[name] == nil {
			byName[name] = &leftover{busy: len(made.jobs) > 0 || len(made.pods) > 0}
			byName[name].Name = name
		}
		return byName[name]
	}
	for _, claim := range made.staging {
		if name, err := object.ParseName(claim.Annotations[v1alpha1.AnnotationTarget]); err == nil {
			at(name).staging = claim
		}
	}
	for target := range made.volumes {
		if name, err := object.ParseName(target); err == nil {
			at(name)
		}
	}
	for _, claim := range targets.Items {
		if claim.Namespace != v1alpha1.SystemNamespace {
			at(object.Name{Namespace: claim.Namespace, Name: claim.Name})
		}
	}
	var out []leftover
	for _, l := range byName {
		if err := r.observeVolume(ctx, string(restore.UID), made, &l.volume); err != nil {
			return nil, err
		}
		if err := r.observeUse(ctx, restore, l); err != nil {
			return nil, err
		}
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b leftover) int { return a.Name.Compare(b.Name) })
	return out, nil
}

// observeUse finds out who made the target and whether a workload, or a pod of whatever kind, counts on it.
func (r *Reconciler) observeUse(ctx context.Context, restore *v1alpha1.Restore, l *leftover) error {
	if l.target == nil || l.target.Labels[v1alpha1.LabelRestore] != string(restore.UID) {
		l.target = nil // of somebody else
		return nil
	}
	l.made = l.target.Annotations[annotationMade] == string(restore.UID)
	for _, w := range restore.Status.Workloads {
		l.used = l.used || w.ReleasedAt != nil && slices.Contains(w.WaitsFor, l.Name.String())
	}
	var pods corev1.PodList
	if err := r.Reader.List(ctx, &pods, client.InNamespace(l.Name.Namespace)); err != nil {
		return fmt.Errorf("listing pods of namespace %q: %w", l.Name.Namespace, err)
	}
	for _, p := range pods.Items {
		for _, v := range p.Spec.Volumes {
			l.used = l.used || v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == l.Name.Name
		}
	}
	return nil
}
