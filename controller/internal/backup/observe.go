package backup

import (
	"context"
	"fmt"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// work is what there is of one expected claim. Fields of later stages make those of earlier ones unnecessary: they are
// then not read and nil.
type work struct {
	index   int
	capture *v1alpha1.VolumeCapture // in the status of the point

	job   *batchv1.Job // of the last attempt
	mover mover.State
	claim *corev1.PersistentVolumeClaim // the temporary one

	exposed         *snapshotv1.VolumeSnapshotContent // the static one, and its snapshot in lockstep-system
	exposedSnapshot *snapshotv1.VolumeSnapshot
	snapshot        *snapshotv1.VolumeSnapshot // the one in the application's namespace, and the content that was made for it
	content         *snapshotv1.VolumeSnapshotContent
	grouped         bool // the snapshot is a member of the group, which several volumes share
	group           *groupv1.VolumeGroupSnapshot
}

// objectName is the name of every temporary object of a volume, except Jobs, which have one for each attempt.
func objectName(p *v1alpha1.RestorePoint, index int) string {
	return fmt.Sprintf("ls-%s-%d", p.UID, index)
}

// exposedName differs from objectName: an application may be in lockstep-system itself.
func exposedName(p *v1alpha1.RestorePoint, index int) string { return objectName(p, index) + "-x" }

func jobName(p *v1alpha1.RestorePoint, index int, attempt int32) string {
	return fmt.Sprintf("%s-%d", objectName(p, index), attempt)
}

func (r *Reconciler) observe(ctx context.Context, p *v1alpha1.RestorePoint) ([]*work, error) {
	volumes := make([]*work, len(p.Status.Volumes))
	group, err := r.observeGroup(ctx, p)
	if err != nil {
		return nil, err
	}
	for i := range p.Status.Volumes {
		volumes[i] = &work{index: i, capture: &p.Status.Volumes[i], grouped: p.Status.Group != nil, group: group}
	}
	if p.Status.Taken == nil {
		return volumes, together(len(volumes), func(i int) error { return r.observeCut(ctx, p, volumes[i]) })
	}
	for _, v := range volumes {
		if err := r.observeVolume(ctx, p, v); err != nil {
			return nil, err
		}
	}
	return volumes, nil
}

// observeCut looks at all that there may be of a volume before the point's moment is fixed: its snapshot. An application may be held still
// until it is cut.
func (r *Reconciler) observeCut(ctx context.Context, p *v1alpha1.RestorePoint, v *work) (err error) {
	if inPlace(v.capture) || v.grouped {
		return nil
	}
	v.snapshot, err = get(ctx, r.Reader, &snapshotv1.VolumeSnapshot{}, p.Namespace, objectName(p, v.index))
	return err
}

func (r *Reconciler) observeVolume(ctx context.Context, p *v1alpha1.RestorePoint, v *work) (err error) {
	if v.capture.Snapshot != "" {
		return nil
	}
	if v.capture.Attempts > 0 {
		v.job, err = get(ctx, r.Client, &batchv1.Job{}, v1alpha1.SystemNamespace, jobName(p, v.index, v.capture.Attempts))
		if err != nil {
			return err
		}
		if v.job != nil {
			v.mover, err = mover.Observe(ctx, r.Reader, r.Kube, v.job)
			return err
		}
	}
	v.claim, err = get(ctx, r.Client, &corev1.PersistentVolumeClaim{}, v1alpha1.SystemNamespace, objectName(p, v.index))
	if err != nil || v.claim != nil || inPlace(v.capture) {
		return err
	}
	return r.observeSnapshots(ctx, p, v)
}

func (r *Reconciler) observeSnapshots(ctx context.Context, p *v1alpha1.RestorePoint, v *work) (err error) {
	v.exposed, err = get(ctx, r.Reader, &snapshotv1.VolumeSnapshotContent{}, "", exposedName(p, v.index))
	if err != nil {
		return err
	}
	if v.exposed != nil {
		v.exposedSnapshot, err = get(ctx, r.Reader, &snapshotv1.VolumeSnapshot{}, v1alpha1.SystemNamespace, exposedName(p, v.index))
		if err != nil {
			return err
		}
	}
	if v.grouped {
		v.snapshot, err = r.member(ctx, p, v.capture.Claim)
	} else {
		v.snapshot, err = get(ctx, r.Reader, &snapshotv1.VolumeSnapshot{}, p.Namespace, objectName(p, v.index))
	}
	if err != nil || v.grouped && v.snapshot == nil {
		return err
	}
	v.content, err = r.contentOf(ctx, p, v.index, v.snapshot)
	return err
}

// contentOf finds the content that was made for a snapshot; without the snapshot it is known by the label that we gave it.
func (r *Reconciler) contentOf(ctx context.Context, p *v1alpha1.RestorePoint, index int, s *snapshotv1.VolumeSnapshot) (*snapshotv1.VolumeSnapshotContent, error) {
	if s != nil {
		name := "snapcontent-" + string(s.UID) // as the snapshot controller names it, before it says so
		if s.Status != nil && s.Status.BoundVolumeSnapshotContentName != nil {
			name = *s.Status.BoundVolumeSnapshotContentName
		}
		return get(ctx, r.Reader, &snapshotv1.VolumeSnapshotContent{}, "", name)
	}
	var list snapshotv1.VolumeSnapshotContentList
	err := r.Reader.List(ctx, &list, client.MatchingLabels{v1alpha1.LabelRestorePoint: string(p.UID)})
	if err != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("listing snapshot contents: %w", err)
	}
	for i := range list.Items {
		if ref := list.Items[i].Spec.VolumeSnapshotRef; ref.Namespace == p.Namespace && ref.Name == objectName(p, index) {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// get reads an object, or nil if there is none. That its kind is not served is as good a proof.
func get[T client.Object](ctx context.Context, c client.Reader, o T, namespace, name string) (T, error) {
	var none T
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, o)
	if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("reading %T %q: %w", o, name, err)
	}
	return o, nil
}
