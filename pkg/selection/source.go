package selection

import (
	"cmp"
	"fmt"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Ready says why a claim cannot be saved as long as it is as it is: it is being deleted, or is not bound.
func Ready(claim *corev1.PersistentVolumeClaim) error {
	switch {
	case claim.DeletionTimestamp != nil:
		return fmt.Errorf("claim %q is being deleted", claim.Name)
	case claim.Status.Phase != corev1.ClaimBound:
		return fmt.Errorf("claim %q is not bound but %s: it holds no data that could be saved; leave it out with the annotation %s if that is meant",
			claim.Name, cmp.Or(claim.Status.Phase, corev1.ClaimPending), v1alpha1.AnnotationExclude)
	}
	return nil
}

// Source says what a claim with its volume is read from: a snapshot, of the class that it gives, or, if the policy has it so, the volume
// while it is in use. An error says why neither can be.
func Source(
	p *v1alpha1.ProtectionPolicy, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, classes []snapshotv1.VolumeSnapshotClass,
) (source v1alpha1.CaptureSource, class string, err error) {
	switch {
	case pv.Spec.CSI != nil:
		class, err = SnapshotClass(claim, pv, classes)
		return v1alpha1.SourceSnapshot, class, err
	case p.Spec.Consistency != v1alpha1.ConsistencyFuzzy:
		return "", "", fmt.Errorf("the volume of claim %q does not come from a CSI driver, so that it cannot be snapshotted; "+
			"with consistency: Fuzzy in the policy %q, storage of the kinds nfs, local and hostPath is read while it is in use", claim.Name, p.Name)
	}
	if err := InUse(pv); err != nil {
		return "", "", fmt.Errorf("claim %q can neither be snapshotted nor read while it is in use: %w", claim.Name, err)
	}
	return v1alpha1.SourceVolume, "", nil
}

// InUse says why a volume cannot be read by a second name while it is in use. The handle of a CSI driver never has two volumes: drivers
// and attachments count on that.
func InUse(pv *corev1.PersistentVolume) error {
	switch source := &pv.Spec.PersistentVolumeSource; {
	case pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return fmt.Errorf("volume %q is a device: what is read from a device in use is of no use", pv.Name)
	case source.NFS == nil && source.Local == nil && source.HostPath == nil:
		return fmt.Errorf("volume %q is on neither nfs nor local nor hostPath storage", pv.Name)
	}
	return nil
}

// SnapshotClass chooses the class that a claim's snapshots are made with: the default one of its driver, else the first by name. An error
// says why the claim cannot be snapshotted.
func SnapshotClass(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, classes []snapshotv1.VolumeSnapshotClass) (string, error) {
	if pv.Spec.CSI == nil {
		return "", fmt.Errorf("the volume of claim %q does not come from a CSI driver, so that it cannot be snapshotted", claim.Name)
	}
	if claim.Spec.StorageClassName == nil || *claim.Spec.StorageClassName == "" {
		return "", fmt.Errorf("claim %q has no StorageClass, so that nothing can provision a volume from its snapshot", claim.Name)
	}
	best := ClassOf(pv.Spec.CSI.Driver, classes)
	if best == "" {
		return "", fmt.Errorf("there is no VolumeSnapshotClass for the driver %q of claim %q", pv.Spec.CSI.Driver, claim.Name)
	}
	return best, nil
}

// ClassOf is the class that a driver's snapshots are made with: the default one, else the first by name; empty if it has none.
func ClassOf(driver string, classes []snapshotv1.VolumeSnapshotClass) string {
	best := ""
	var bestDefault bool
	for _, c := range classes {
		isDefault := c.Annotations["snapshot.storage.kubernetes.io/is-default-class"] == "true"
		if c.Driver == driver && (best == "" || isDefault && !bestDefault || isDefault == bestDefault && c.Name < best) {
			best, bestDefault = c.Name, isDefault
		}
	}
	return best
}
