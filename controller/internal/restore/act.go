package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

// scope is what an action works on.
type scope struct {
	*Reconciler
	restore *v1alpha1.Restore
	replay  *replay
	world   *world
}

// actAll does the actions one after another; one that fails does not hold the others up.
func (r *Reconciler) actAll(ctx context.Context, restore *v1alpha1.Restore, replay *replay, w *world, actions []action) error {
	s := scope{Reconciler: r, restore: restore, replay: replay, world: w}
	var failed []error
	for _, a := range actions {
		err := s.act(ctx, a)
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			continue // the world is not what was observed: look again
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", a, err))
		}
	}
	return errors.Join(failed...)
}

func (s scope) act(ctx context.Context, a action) error {
	switch a.verb {
	case doDefine:
		return s.define(ctx)
	case doBase:
		return s.base(ctx)
	case doRelease:
		return s.release(ctx, a.workload)
	case doFill:
		return s.fill(ctx, a.group, a.attempt)
	case doDismiss:
		return s.dismiss(ctx, a.group)
	}
	i := slices.IndexFunc(s.world.volumes, func(v volume) bool { return v.Name == a.claim })
	return map[verb]func(context.Context, volume) error{
		doStage: s.stage, doAdopt: s.adopt, doReserve: s.reserve, doRecord: s.record, doRepoint: s.repoint,
		doTouch: s.touch, doGiveBack: s.giveBack, doUnstage: s.unstage,
	}[a.verb](ctx, s.world.volumes[i])
}

func manifests(objects []plan.Object) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, o := range objects {
		out = append(out, o.Manifest)
	}
	return out
}

func (s scope) define(ctx context.Context) error {
	if _, err := s.applier(s.replay).Apply(ctx, manifests(s.replay.plan.Definitions)); err != nil {
		return err
	}
	s.replay.defined = true
	return nil
}

func (s scope) base(ctx context.Context) error {
	if _, err := residual.Replay(ctx, s.Client, s.replay.secrets, s.replay.plan.Point.ID); err != nil {
		return err
	}
	if _, err := s.applier(s.replay).Apply(ctx, manifests(s.replay.plan.Base)); err != nil {
		return err
	}
	s.replay.based = true
	return nil
}

func (s scope) release(ctx context.Context, key object.Key) error {
	i := slices.IndexFunc(s.world.workloads, func(l workload) bool { return l.Key == key })
	l := &s.world.workloads[i]
	if _, err := s.applier(s.replay).Apply(ctx, []*unstructured.Unstructured{l.Manifest}); err != nil {
		return err
	}
	s.replay.released[key], l.released = true, true
	return nil
}

// stage makes the claim that a mover fills: as the target, but in lockstep-system and large enough for the data.
func (s scope) stage(ctx context.Context, v volume) error {
	spec := v.Target.Spec
	return s.Client.Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.SystemNamespace, Name: stagingName(s.world.uid, v.Index), Labels: temporary(s.world.uid),
			Annotations: map[string]string{v1alpha1.AnnotationTarget: v.Name.String()},
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: spec.AccessModes, VolumeMode: spec.VolumeMode, StorageClassName: &v.StorageClass,
			VolumeAttributesClassName: spec.VolumeAttributesClassName,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceStorage: *resource.NewQuantity(v.Size, resource.BinarySI),
			}},
		},
	}, client.FieldOwner(v1alpha1.FieldManager))
}

// adopt keeps the volume from being reclaimed from now on: until the target is bound, the volume controller would take it
// for abandoned the moment its staging claim lets go.
func (s scope) adopt(ctx context.Context, v volume) error {
	return s.patchVolume(ctx, v.pv, func(pv *corev1.PersistentVolume) {
		for k, value := range temporary(s.world.uid) {
			metav1.SetMetaDataLabel(&pv.ObjectMeta, k, value)
		}
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, v1alpha1.AnnotationTarget, v.Name.String())
		if pv.Annotations[v1alpha1.AnnotationReclaimPolicy] == "" {
			metav1.SetMetaDataAnnotation(&pv.ObjectMeta, v1alpha1.AnnotationReclaimPolicy, string(pv.Spec.PersistentVolumeReclaimPolicy))
		}
		pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	})
}

// reserve lets the target name the volume: from then on it stays pending until the volume is handed to it, and its pods wait.
func (s scope) reserve(ctx context.Context, v volume) error {
	mark := func(claim *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataLabel(&claim.ObjectMeta, v1alpha1.LabelRestore, s.world.uid)
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, v1alpha1.AnnotationRestoredFrom, s.replay.plan.Point.ID)
		claim.Spec.VolumeName = v.pv.Name
		if claim.Spec.StorageClassName == nil {
			claim.Spec.StorageClassName = &v.pv.Spec.StorageClassName
		}
	}
	if v.target != nil {
		return s.patchClaim(ctx, v.target, mark)
	}
	claim := v.Target.DeepCopy()
	mark(claim)
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, annotationMade, s.world.uid)
	if application, err := object.ParseName(s.replay.plan.Application); err == nil && v.Origin == plan.OriginGit {
		metav1.SetMetaDataLabel(&claim.ObjectMeta, v1alpha1.LabelApplicationName, application.Name)
		metav1.SetMetaDataLabel(&claim.ObjectMeta, v1alpha1.LabelApplicationNamespace, application.Namespace)
	}
	return s.Client.Create(ctx, claim, client.FieldOwner(v1alpha1.FieldManager))
}

// A mover gets an hour, and what its bytes take at a rate that only broken storage is below.
const (
	minDeadline = time.Hour
	slowest     = 4 << 20 // bytes a second
)

// fill starts a mover for those volumes of the group that have no data yet. Of the attempts before, only the last has
// something to say.
func (s scope) fill(ctx context.Context, index, attempt int) error {
	i := slices.IndexFunc(s.world.groups, func(g group) bool { return g.Index == index })
	g := s.world.groups[i]
	spec := mover.JobSpec{
		Name: jobName(s.world.uid, index, attempt), Image: s.Image, Vault: s.replay.access,
		Labels:       temporary(s.world.uid),
		Annotations:  map[string]string{annotationAttempt: strconv.Itoa(attempt)},
		NodeSelector: g.NodeSelector, Tolerations: g.Tolerations,
	}
	spec.Labels[labelGroup] = strconv.Itoa(index)
	if g.NodeAffinity != nil {
		spec.Affinity = &corev1.Affinity{NodeAffinity: g.NodeAffinity}
	}
	var bytes int64
	for _, v := range s.world.members(g) {
		if v.hydrated() {
			continue
		}
		bytes += v.Bytes
		spec.Volumes = append(spec.Volumes, mover.JobVolume{Claim: v.staging.Name, Task: mover.Task{
			Action: mover.ActionLoad, Snapshot: v.Snapshot, Verify: s.world.verify, ContentRoot: v.ContentRoot, MetaRoot: v.MetaRoot,
		}})
	}
	spec.Deadline = minDeadline + time.Duration(bytes/slowest)*time.Second
	job, err := mover.NewJob(spec)
	if err != nil {
		return err
	}
	s.admission.Lock()
	defer s.admission.Unlock()
	if running, err := s.countMovers(ctx); err != nil || running >= s.MaxMovers {
		return err // another restore was faster: its turn comes
	}
	if err := s.Client.Create(ctx, job, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return err
	}
	for _, j := range g.jobs {
		if j.attempt < attempt-1 {
			if err := s.deleteJob(ctx, jobName(s.world.uid, index, j.attempt)); err != nil {
				return err
			}
		}
	}
	return nil
}

// record writes the proof onto the staging claim and then onto the volume, which is the one that counts. It comes before the
// mover, whose word it is, may go.
func (s scope) record(ctx context.Context, v volume) error {
	err := s.patchClaim(ctx, v.staging, func(claim *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, v1alpha1.AnnotationHydrated, v.Roots())
	})
	if err != nil {
		return err
	}
	return s.patchVolume(ctx, v.pv, func(pv *corev1.PersistentVolume) {
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, v1alpha1.AnnotationHydrated, v.Roots())
	})
}

func (s scope) dismiss(ctx context.Context, index int) error {
	i := slices.IndexFunc(s.world.groups, func(g group) bool { return g.Index == index })
	for _, j := range s.world.groups[i].jobs {
		if err := s.deleteJob(ctx, jobName(s.world.uid, index, j.attempt)); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) deleteJob(ctx context.Context, name string) error {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}}
	err := r.Client.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground))
	return client.IgnoreNotFound(err)
}

// repoint hands the volume to the target. It fails if either changed since it was observed: the volume by its resource
// version, the target because the volume controller binds by UID.
func (s scope) repoint(ctx context.Context, v volume) error {
	return s.patchVolume(ctx, v.pv, func(pv *corev1.PersistentVolume) {
		pv.Spec.ClaimRef = &corev1.ObjectReference{
			APIVersion: "v1", Kind: object.Claim.Kind, Namespace: v.target.Namespace, Name: v.target.Name, UID: v.target.UID,
		}
	})
}

func (s scope) touch(ctx context.Context, v volume) error {
	return s.patchClaim(ctx, v.lagging(), func(claim *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, v1alpha1.AnnotationReconcileAt, s.world.now.UTC().Format(time.RFC3339Nano))
	})
}

// giveBack ends the volume's being special. What stays is the proof of what it was filled with.
func (r *Reconciler) giveBack(ctx context.Context, v volume) error {
	return r.patchVolume(ctx, v.pv, func(pv *corev1.PersistentVolume) {
		if policy := pv.Annotations[v1alpha1.AnnotationReclaimPolicy]; policy != "" {
			pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimPolicy(policy)
		}
		delete(pv.Annotations, v1alpha1.AnnotationReclaimPolicy)
		delete(pv.Annotations, v1alpha1.AnnotationTarget)
		maps.DeleteFunc(pv.Labels, func(k, _ string) bool { return k == v1alpha1.LabelManagedBy || k == v1alpha1.LabelRestore })
	})
}

func (r *Reconciler) unstage(ctx context.Context, v volume) error {
	uid := v.staging.UID
	err := r.Client.Delete(ctx, v.staging, client.Preconditions{UID: &uid})
	return client.IgnoreNotFound(err)
}

// patchVolume changes a volume unless somebody else has changed it meanwhile.
func (r *Reconciler) patchVolume(ctx context.Context, pv *corev1.PersistentVolume, change func(*corev1.PersistentVolume)) error {
	changed := pv.DeepCopy()
	change(changed)
	patch := client.MergeFromWithOptions(pv, client.MergeFromWithOptimisticLock{})
	return r.Client.Patch(ctx, changed, patch, client.FieldOwner(v1alpha1.FieldManager))
}

// patchClaim changes a claim unless somebody else has changed it meanwhile.
func (r *Reconciler) patchClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, change func(*corev1.PersistentVolumeClaim)) error {
	changed := claim.DeepCopy()
	change(changed)
	patch := client.MergeFromWithOptions(claim, client.MergeFromWithOptimisticLock{})
	return r.Client.Patch(ctx, changed, patch, client.FieldOwner(v1alpha1.FieldManager))
}
