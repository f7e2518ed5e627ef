package backup

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/selection"
)

// inPlace reports whether a volume is read itself, and not a snapshot of it.
func inPlace(c *v1alpha1.VolumeCapture) bool { return c.Source == v1alpha1.SourceVolume }

// consistency is the least of the volumes'.
func consistency(volumes []v1alpha1.VolumeCapture) v1alpha1.Consistency {
	of := make([]v1alpha1.Consistency, len(volumes))
	for i := range volumes {
		of[i] = volumes[i].Consistency
	}
	return point.Least(of...)
}

// aliasOf is a volume with the source of another, to read it from lockstep-system: reserved for one claim there, and to be retained, so
// that nothing deletes what it leads to. It has no label or annotation of the other, which would give it to a provisioner. It fails as
// selection.InUse does.
func aliasOf(pv *corev1.PersistentVolume, name string) (*corev1.PersistentVolume, error) {
	if err := selection.InUse(pv); err != nil {
		return nil, err
	}
	alias := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: pv.Spec.Capacity, VolumeMode: pv.Spec.VolumeMode, MountOptions: pv.Spec.MountOptions, NodeAffinity: pv.Spec.NodeAffinity,
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef:                      &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: v1alpha1.SystemNamespace, Name: name},
		},
	}
	switch source := pv.Spec.PersistentVolumeSource.DeepCopy(); {
	case source.NFS != nil:
		source.NFS.ReadOnly = true
		alias.Spec.NFS = source.NFS
	case source.Local != nil:
		alias.Spec.Local = source.Local
	case source.HostPath != nil:
		// What is not there must not be made, and then found empty.
		if t := source.HostPath.Type; t == nil || *t == corev1.HostPathUnset || *t == corev1.HostPathDirectoryOrCreate {
			source.HostPath.Type = new(corev1.HostPathDirectory)
		}
		alias.Spec.HostPath = source.HostPath
	}
	return alias, nil
}

// nodeOf finds the node of a hostPath volume that does not say on which it is: the one where its pods run. There may be another
// directory of that name on every other.
func nodeOf(claim string, pods []corev1.Pod) (string, error) {
	var nodes []string
	for i := range pods {
		p := &pods[i]
		if p.Spec.NodeName != "" && !over(p) && hasClaim(p, claim) {
			nodes = append(nodes, p.Spec.NodeName)
		}
	}
	slices.Sort(nodes)
	switch nodes = slices.Compact(nodes); len(nodes) {
	case 0:
		return "", fmt.Errorf("the volume of claim %q is a directory of a node and does not say of which, and no pod that uses it tells", claim)
	case 1:
		return nodes[0], nil
	}
	return "", fmt.Errorf("the volume of claim %q is a directory of a node and does not say of which, and the pods that use it are on several: %q", claim, nodes)
}
