package backup

import (
	"context"
	"fmt"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// clean removes everything temporary of a point that is finished or being deleted, and then the finalizer: whoever sees a point
// without one knows that nothing of it is left in the cluster. The vault is never touched.
func (r *Reconciler) clean(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(p, v1alpha1.Finalizer) {
		return ctrl.Result{}, nil
	}
	all := r.release(ctx, p)
	all = r.restoreReplicas(ctx, p) && all
	for i := range p.Status.Volumes {
		done, err := r.cleanVolume(ctx, p, i)
		if err != nil {
			return ctrl.Result{}, err
		}
		all = all && done
	}
	if all { // what was made from its members is gone
		gone, err := r.cleanGroup(ctx, p)
		if err != nil {
			return ctrl.Result{}, err
		}
		all = gone
	}
	if !all {
		return ctrl.Result{RequeueAfter: r.Limits.Poll}, nil
	}
	controllerutil.RemoveFinalizer(p, v1alpha1.Finalizer)
	return ctrl.Result{}, nil
}

// cleanVolume goes backwards: mover, temporary claim and volume, snapshot. Each must be gone before the next is touched, since
// drivers may refuse to delete a snapshot that a volume was made from. The status says which one is waited for.
func (r *Reconciler) cleanVolume(ctx context.Context, p *v1alpha1.RestorePoint, index int) (done bool, err error) {
	for _, stage := range []struct {
		what  string
		clean func(context.Context, *v1alpha1.RestorePoint, int) (bool, error)
	}{
		{"mover", r.cleanMovers},
		{"temporary volume", r.cleanClaim},
		{"second name of the volume", r.cleanAlias},
		{"snapshot in " + p.Namespace, r.cleanOriginal},
		{"snapshot in " + v1alpha1.SystemNamespace, r.cleanExposed},
	} {
		if gone, err := stage.clean(ctx, p, index); err != nil || !gone {
			p.Status.Volumes[index].Cleanup = "removing the " + stage.what
			return false, err
		}
	}
	p.Status.Volumes[index].Cleanup = ""
	return true, nil
}

// cleanMovers also looks for a mover that was made and not counted.
func (r *Reconciler) cleanMovers(ctx context.Context, p *v1alpha1.RestorePoint, index int) (bool, error) {
	gone := true
	for attempt := int32(1); attempt <= p.Status.Volumes[index].Attempts+1; attempt++ {
		job, err := get(ctx, r.Reader, &batchv1.Job{}, v1alpha1.SystemNamespace, jobName(p, index, attempt))
		if err != nil {
			return false, err
		}
		if job != nil {
			gone = false
			if err := r.remove(ctx, job); err != nil {
				return false, err
			}
		}
		var pods corev1.PodList
		if err := r.Reader.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace),
			client.MatchingLabels{batchv1.JobNameLabel: jobName(p, index, attempt)}); err != nil {
			return false, fmt.Errorf("listing movers: %w", err)
		}
		gone = gone && len(pods.Items) == 0
	}
	return gone, nil
}

// cleanClaim deletes the temporary claim with its volume, also where the StorageClass would keep volumes. A volume that is no CSI driver's
// was not made from a snapshot: it leads to the application's own data, and whatever somebody made of its policy, they stay.
func (r *Reconciler) cleanClaim(ctx context.Context, p *v1alpha1.RestorePoint, index int) (bool, error) {
	name := objectName(p, index)
	var list corev1.PersistentVolumeList
	if err := r.Client.List(ctx, &list); err != nil {
		return false, fmt.Errorf("listing volumes: %w", err)
	}
	gone := true
	for i := range list.Items {
		pv := &list.Items[i]
		if ref := pv.Spec.ClaimRef; ref == nil || ref.Namespace != v1alpha1.SystemNamespace || ref.Name != name {
			continue
		}
		policy := corev1.PersistentVolumeReclaimRetain
		if pv.Spec.CSI != nil {
			policy, gone = corev1.PersistentVolumeReclaimDelete, false
		}
		if err := r.setReclaimPolicy(ctx, pv, policy); err != nil {
			return false, err
		}
	}
	claim, err := get(ctx, r.Reader, &corev1.PersistentVolumeClaim{}, v1alpha1.SystemNamespace, name)
	if err != nil {
		return false, err
	}
	if claim != nil {
		return false, r.remove(ctx, claim)
	}
	return gone, nil
}

func (r *Reconciler) cleanOriginal(ctx context.Context, p *v1alpha1.RestorePoint, index int) (bool, error) {
	if p.Status.Group != nil {
		return true, nil // it goes with its group
	}
	v := &work{index: index}
	if err := r.observeSnapshots(ctx, p, v); err != nil {
		return false, err
	}
	return r.removeOriginal(ctx, v.snapshot, v.content, v.exposed)
}

// removeOriginal deletes a snapshot and its content in the application's namespace. The storage's snapshot stays if it is
// exposed, and goes with them if it is not.
func (r *Reconciler) removeOriginal(ctx context.Context, s *snapshotv1.VolumeSnapshot, content, exposed *snapshotv1.VolumeSnapshotContent) (bool, error) {
	if content != nil && content.DeletionTimestamp == nil {
		policy := snapshotv1.VolumeSnapshotContentDelete
		if exposed != nil {
			policy = snapshotv1.VolumeSnapshotContentRetain
		}
		if content.Spec.DeletionPolicy != policy {
			changed := content.DeepCopy()
			changed.Spec.DeletionPolicy = policy
			if err := r.Client.Patch(ctx, changed, client.MergeFrom(content)); client.IgnoreNotFound(err) != nil {
				return false, fmt.Errorf("changing the deletion policy of snapshot content %q: %w", content.Name, err)
			}
		}
	}
	switch {
	case s != nil && s.DeletionTimestamp == nil:
		return false, r.remove(ctx, s)
	case s != nil:
		return false, nil
	case content != nil && content.DeletionTimestamp == nil:
		return false, r.remove(ctx, content)
	}
	return content == nil, nil
}

// cleanExposed deletes the snapshot in lockstep-system, and with it the storage's.
func (r *Reconciler) cleanExposed(ctx context.Context, p *v1alpha1.RestorePoint, index int) (bool, error) {
	name := exposedName(p, index)
	s, err := get(ctx, r.Reader, &snapshotv1.VolumeSnapshot{}, v1alpha1.SystemNamespace, name)
	if err != nil {
		return false, err
	}
	if s != nil {
		return false, r.remove(ctx, s)
	}
	content, err := get(ctx, r.Reader, &snapshotv1.VolumeSnapshotContent{}, "", name)
	if err != nil {
		return false, err
	}
	if content != nil && content.DeletionTimestamp == nil {
		return false, r.remove(ctx, content)
	}
	return content == nil, nil
}
