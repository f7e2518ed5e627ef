package backup

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/selection"
)

// +kubebuilder:rbac:groups="",resources=persistentvolumes,verbs=create;delete

// sourceKind finds what a claim can be read from: a snapshot or, if the policy has it so, the volume while it is in use.
func (r *Reconciler) sourceKind(ctx context.Context, pol *v1alpha1.ProtectionPolicy, claim *corev1.PersistentVolumeClaim) (v1alpha1.CaptureSource, error) {
	pv, err := r.volumeOf(ctx, claim)
	if err != nil {
		return "", err
	}
	classes, err := r.snapshotClasses(ctx)
	if err != nil {
		return "", err
	}
	source, _, err := selection.Source(pol, claim, pv, classes)
	if err != nil {
		return "", lacksForGood(v1alpha1.ReasonVolumeNotReady, "%w", err)
	}
	if source == v1alpha1.SourceSnapshot {
		return source, nil
	}
	if _, err := r.aliasAffinity(ctx, claim, pv); err != nil {
		return "", err
	}
	return source, nil
}

func (r *Reconciler) volumeOf(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.PersistentVolume, error) {
	pv := &corev1.PersistentVolume{}
	if err := r.Client.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv); err != nil {
		return nil, fmt.Errorf("reading volume %q of claim %q: %w", claim.Spec.VolumeName, claim.Name, err)
	}
	return pv, nil
}

// alias makes the volume's second name and the claim of it. It is the first that refers to the second, so that no other can be had.
func (r *Reconciler) alias(ctx context.Context, p *v1alpha1.RestorePoint, v *work) error {
	source, err := r.source(ctx, p, v.capture)
	if err != nil {
		return err
	}
	pv, err := r.volumeOf(ctx, source)
	if err != nil {
		return err
	}
	alias, err := aliasOf(pv, objectName(p, v.index))
	if err != nil {
		return lacksForGood(v1alpha1.ReasonVolumeNotReady, "claim %q: %w", source.Name, err)
	}
	alias.Labels = labels(p)
	if err := r.create(ctx, alias); err != nil {
		return err
	}
	return r.create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: alias.Name, Labels: labels(p)},
		Spec: corev1.PersistentVolumeClaimSpec{
			VolumeName: alias.Name, StorageClassName: new(""), AccessModes: alias.Spec.AccessModes, VolumeMode: alias.Spec.VolumeMode,
			Resources: corev1.VolumeResourceRequirements{Requests: alias.Spec.Capacity},
		},
	})
}

// aliasAffinity keeps the mover on the node that has the directory, where the volume itself does not.
func (r *Reconciler) aliasAffinity(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (*corev1.Affinity, error) {
	if pv.Spec.HostPath == nil || pv.Spec.NodeAffinity != nil && pv.Spec.NodeAffinity.Required != nil {
		return nil, nil
	}
	pods, err := r.podsOf(ctx, claim.Namespace)
	if err != nil {
		return nil, err
	}
	node, err := nodeOf(claim.Name, pods)
	if err != nil {
		return nil, lacks(v1alpha1.ReasonVolumeNotReady, "%w", err)
	}
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}},
	}}}, nil
}

// cleanAlias deletes the second name of a volume; what it leads to stays.
func (r *Reconciler) cleanAlias(ctx context.Context, p *v1alpha1.RestorePoint, index int) (bool, error) {
	alias, err := get(ctx, r.Reader, &corev1.PersistentVolume{}, "", objectName(p, index))
	switch {
	case err != nil:
		return false, err
	case alias == nil || alias.DeletionTimestamp != nil:
		return alias == nil, nil
	}
	return false, r.remove(ctx, alias)
}

// setReclaimPolicy says what becomes of a volume's storage when its claim goes.
func (r *Reconciler) setReclaimPolicy(ctx context.Context, pv *corev1.PersistentVolume, policy corev1.PersistentVolumeReclaimPolicy) error {
	if pv.Spec.PersistentVolumeReclaimPolicy == policy {
		return nil
	}
	changed := pv.DeepCopy()
	changed.Spec.PersistentVolumeReclaimPolicy = policy
	if err := r.Client.Patch(ctx, changed, client.MergeFrom(pv)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("setting the reclaim policy of volume %q to %s: %w", pv.Name, policy, err)
	}
	return nil
}
