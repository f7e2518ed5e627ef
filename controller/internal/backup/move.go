package backup

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// move takes every volume one step further. One that fails ends the point; the others' temporary objects go with it.
func (r *Reconciler) move(ctx context.Context, p *v1alpha1.RestorePoint, volumes []*work) (ctrl.Result, error) {
	var unsaved []string
	var failures []decision
	again := r.Limits.Poll
	for _, v := range volumes {
		d := decide(v, r.Limits, r.Clock.Now())
		v.capture.State, v.capture.Message = d.state, d.message
		if d.step == stepFail {
			failures = append(failures, d)
			continue
		}
		if err := r.act(ctx, p, v, d.step); err != nil {
			return r.refuse(p, err)
		}
		if r.changesSoon(p, d, v.capture.Message) {
			again = r.Limits.Soon
		}
		if v.capture.Snapshot == "" {
			unsaved = append(unsaved, v.capture.Claim)
		}
	}
	switch {
	case len(failures) > 0:
		messages := make([]string, len(failures))
		for i, f := range failures {
			messages[i] = f.message
		}
		return r.fail(p, failures[0].reason, strings.Join(messages, "; "))
	case len(unsaved) > 0:
		return r.progress(p, "saving volumes: "+strings.Join(unsaved, ", "), again)
	}
	if slices.ContainsFunc(volumes, func(v *work) bool { return inPlace(v.capture) }) {
		if err := r.sameRevision(ctx, p, "volumes in use were read"); err != nil {
			return r.refuse(p, err)
		}
	}
	p.Status.CompletedAt = &metav1.Time{Time: r.Clock.Now()}
	return r.progress(p, "writing the record", atOnce)
}

// changesSoon reports whether something was done to the volume, or the storage is likely to answer at any moment.
func (r *Reconciler) changesSoon(p *v1alpha1.RestorePoint, d decision, message string) bool {
	switch {
	case d.step == stepClean || message != "":
		return false
	case d.step == stepWait:
		return d.state != v1alpha1.VolumeSaving && r.Clock.Since(p.Status.Taken.Time) < quick
	}
	return true
}

func (r *Reconciler) act(ctx context.Context, p *v1alpha1.RestorePoint, v *work, s step) error {
	switch s {
	case stepRetain:
		return r.retain(ctx, p, v.content)
	case stepExpose:
		return r.expose(ctx, p, v)
	case stepRemove:
		_, err := r.removeOriginal(ctx, v.snapshot, v.content, v.exposed)
		return err
	case stepClaim:
		return r.claimSnapshot(ctx, p, v)
	case stepAlias:
		return r.alias(ctx, p, v)
	case stepStart:
		return r.start(ctx, p, v)
	case stepEnd:
		return r.Movers.Abandon(ctx, v.job, v.capture.Message)
	case stepNote:
		note(v)
	case stepClean:
		_, err := r.cleanVolume(ctx, p, v.index)
		return err
	case stepWait:
		v.capture.Progress = max(v.capture.Progress, progressOf(v))
	}
	return nil
}

// retain lets the storage's snapshot outlive the snapshot object in the application's namespace, and marks its content as ours.
func (r *Reconciler) retain(ctx context.Context, p *v1alpha1.RestorePoint, content *snapshotv1.VolumeSnapshotContent) error {
	changed := content.DeepCopy()
	changed.Spec.DeletionPolicy = snapshotv1.VolumeSnapshotContentRetain
	if changed.Labels == nil {
		changed.Labels = map[string]string{}
	}
	maps.Copy(changed.Labels, labels(p))
	if err := r.Client.Patch(ctx, changed, client.MergeFrom(content)); err != nil {
		return fmt.Errorf("retaining snapshot content %q: %w", content.Name, err)
	}
	return nil
}

// expose names the storage's snapshot in lockstep-system. From here on, deleting that name deletes the snapshot,
// unless a group has it.
func (r *Reconciler) expose(ctx context.Context, p *v1alpha1.RestorePoint, v *work) error {
	name := exposedName(p, v.index)
	policy := snapshotv1.VolumeSnapshotContentDelete
	if v.grouped {
		policy = snapshotv1.VolumeSnapshotContentRetain
	}
	if v.exposed == nil {
		content := &snapshotv1.VolumeSnapshotContent{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels(p), Annotations: secretAnnotations(v.content)},
			Spec: snapshotv1.VolumeSnapshotContentSpec{
				Driver: v.content.Spec.Driver, DeletionPolicy: policy,
				VolumeSnapshotClassName: v.content.Spec.VolumeSnapshotClassName, SourceVolumeMode: v.content.Spec.SourceVolumeMode,
				Source:            snapshotv1.VolumeSnapshotContentSource{SnapshotHandle: v.content.Status.SnapshotHandle},
				VolumeSnapshotRef: corev1.ObjectReference{Namespace: v1alpha1.SystemNamespace, Name: name},
			},
		}
		if err := r.create(ctx, content); err != nil {
			return err
		}
	}
	class := cmp.Or(v.exposed, v.content).Spec.VolumeSnapshotClassName
	return r.create(ctx, &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name, Labels: labels(p)},
		Spec: snapshotv1.VolumeSnapshotSpec{
			VolumeSnapshotClassName: class, Source: snapshotv1.VolumeSnapshotSource{VolumeSnapshotContentName: &name},
		},
	})
}

// secretAnnotations say which Secrets the driver needs to list and to delete the snapshot.
func secretAnnotations(content *snapshotv1.VolumeSnapshotContent) map[string]string {
	out := map[string]string{}
	for k, v := range content.Annotations {
		if strings.HasPrefix(k, "snapshot.storage.kubernetes.io/") && strings.Contains(k, "secret") {
			out[k] = v
		}
	}
	return out
}

// claimSnapshot asks for the temporary volume that the mover reads.
func (r *Reconciler) claimSnapshot(ctx context.Context, p *v1alpha1.RestorePoint, v *work) error {
	source, err := r.source(ctx, p, v.capture)
	if err != nil {
		return err
	}
	size := source.Spec.Resources.Requests[corev1.ResourceStorage]
	if v.capture.Capacity != nil && size.Cmp(*v.capture.Capacity) < 0 {
		size = *v.capture.Capacity
	}
	if s := v.exposedSnapshot.Status.RestoreSize; s != nil && size.Cmp(*s) < 0 {
		size = *s
	}
	return r.create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: objectName(p, v.index), Labels: labels(p)},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: source.Spec.AccessModes, StorageClassName: source.Spec.StorageClassName, VolumeMode: source.Spec.VolumeMode,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: size}},
			DataSource: &corev1.TypedLocalObjectReference{
				APIGroup: new(snapshotv1.GroupName), Kind: "VolumeSnapshot", Name: v.exposedSnapshot.Name,
			},
		},
	})
}

// start makes the next mover of the volume, or again one that somebody removed, if there is room. The attempt is counted in the status
// afterwards: should that be lost, the same Job is found under the same name.
func (r *Reconciler) start(ctx context.Context, p *v1alpha1.RestorePoint, v *work) error {
	attempt := v.capture.Attempts
	if v.job != nil || attempt == 0 {
		attempt++
	}
	job, err := r.newMover(ctx, p, v, attempt)
	if err != nil {
		return err
	}
	switch started, err := r.Movers.Start(ctx, job); {
	case err != nil && !apierrors.IsAlreadyExists(err):
		return err
	case err == nil && !started:
		v.capture.Message = "waiting for a mover to finish: as many run as may"
		return nil
	}
	v.capture.Attempts = attempt
	return nil
}

func (r *Reconciler) newMover(ctx context.Context, p *v1alpha1.RestorePoint, v *work, attempt int32) (*batchv1.Job, error) {
	pol, err := r.policyOf(ctx, p)
	if err != nil {
		return nil, err
	}
	access, err := r.Vaults.Access(ctx, pol.Spec.Vaults[0])
	if err != nil {
		return nil, err
	}
	affinity, err := r.affinity(ctx, p, v.capture)
	if err != nil {
		return nil, err
	}
	source, err := r.source(ctx, p, v.capture)
	if err != nil {
		return nil, err
	}
	block := source.Spec.VolumeMode != nil && *source.Spec.VolumeMode == corev1.PersistentVolumeBlock
	return mover.NewJob(mover.JobSpec{
		Name: jobName(p, v.index, attempt), Image: r.Image, Labels: labels(p), Vault: access,
		Affinity: affinity, Deadline: r.Limits.Point,
		Volumes: []mover.JobVolume{{Claim: objectName(p, v.index), ReadOnly: true, Block: block, Task: mover.Task{
			Action: mover.ActionSave, Live: inPlace(v.capture),
			Labels: map[string]string{"point": p.Status.ID, "namespace": p.Namespace, "claim": v.capture.Claim},
		}}},
	})
}

// affinity keeps the mover where the source is, if the temporary volume is only made once the mover has a node.
func (r *Reconciler) affinity(ctx context.Context, p *v1alpha1.RestorePoint, c *v1alpha1.VolumeCapture) (*corev1.Affinity, error) {
	if inPlace(c) {
		claim, err := r.source(ctx, p, c)
		if err != nil {
			return nil, err
		}
		pv, err := r.volumeOf(ctx, claim)
		if err != nil {
			return nil, err
		}
		return r.aliasAffinity(ctx, claim, pv)
	}
	class := &storagev1.StorageClass{}
	err := r.Client.Get(ctx, client.ObjectKey{Name: c.StorageClass}, class)
	if err != nil {
		return nil, fmt.Errorf("reading storage class %q: %w", c.StorageClass, err)
	}
	if class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
		return nil, nil
	}
	claim, err := r.source(ctx, p, c)
	if err != nil {
		return nil, err
	}
	pv, err := r.volumeOf(ctx, claim)
	if err != nil {
		return nil, err
	}
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return nil, nil
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: pv.Spec.NodeAffinity.Required}}, nil
}

// note keeps the result of a mover, which is lost with its pod.
func note(v *work) {
	for _, result := range v.mover.Results {
		c := v.capture
		c.State, c.Snapshot = v1alpha1.VolumeSaved, result.Snapshot
		c.Bytes, c.Stored, c.Files, c.Progress = result.Bytes, result.Stored, result.Files, result.Bytes
		c.ContentRoot, c.MetaRoot = result.ContentRoot, result.MetaRoot
		c.Changed, c.MoreChanged = result.Changed, int32(result.More)
	}
}

func progressOf(v *work) (bytes int64) {
	for _, p := range v.mover.Progress {
		bytes += p.Bytes
	}
	return bytes
}

func (r *Reconciler) remove(ctx context.Context, o client.Object) error {
	err := r.Client.Delete(ctx, o, client.PropagationPolicy(metav1.DeletePropagationBackground))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting %T %q: %w", o, o.GetName(), err)
	}
	return nil
}
