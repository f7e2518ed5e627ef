package restore

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// stage makes the claim that a mover fills: as the target, but in lockstep-system and large enough for the data.
func (s scope) stage(ctx context.Context, v volume) error {
	spec := v.Target.Spec
	annotations := map[string]string{v1alpha1.AnnotationTarget: v.Name.String()}
	if v.target != nil && v.target.Annotations[annotationSelectedNode] != "" { // its pod has a place already: the volume must be in reach
		annotations[annotationSelectedNode] = v.target.Annotations[annotationSelectedNode]
	}
	return s.Client.Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v1alpha1.SystemNamespace, Name: stagingName(s.world.uid, v.Index), Labels: temporary(s.world.uid),
			Annotations: annotations,
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
		if !v.Empty {
			metav1.SetMetaDataAnnotation(&claim.ObjectMeta, v1alpha1.AnnotationRestoredFrom, s.replay.plan.Point.ID)
		}
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

// part remembers with the staging claim that a mover of several did not fill it.
func (s scope) part(ctx context.Context, v volume) error {
	return s.patchClaim(ctx, v.staging, func(claim *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, annotationAlone, "true")
	})
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

// forget deletes the target unless somebody has changed it meanwhile.
func (r *Reconciler) forget(ctx context.Context, v volume) error {
	uid := v.target.UID
	return client.IgnoreNotFound(r.Client.Delete(ctx, v.target, client.Preconditions{UID: &uid, ResourceVersion: &v.target.ResourceVersion}))
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
