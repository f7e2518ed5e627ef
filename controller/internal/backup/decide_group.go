package backup

import (
	"slices"
	"strings"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	kubelabels "k8s.io/apimachinery/pkg/labels"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// defaultGroupClass marks the class that is taken if there are several of one driver.
const defaultGroupClass = "groupsnapshot.storage.kubernetes.io/is-default-class"

// groupLabels are what chooses exactly the claims that are taken among all of the namespace. The snapshot controller looks at matchLabels
// alone: what else would match must not be left out by other means.
func groupLabels(pol *v1alpha1.ProtectionPolicy, taken, all []corev1.PersistentVolumeClaim) (map[string]string, error) {
	var labels map[string]string
	if s := pol.Spec.Volumes.Selector; s != nil {
		if len(s.MatchExpressions) > 0 {
			return nil, lacksForGood(v1alpha1.ReasonInvalidSpec, "policy %q: with snapshots: Group, volumes.selector may have matchLabels only: "+
				"the snapshot controller takes no notice of matchExpressions", pol.Name)
		}
		labels = s.MatchLabels
	}
	for i := range all {
		claim := &all[i]
		if kubelabels.SelectorFromSet(labels).Matches(kubelabels.Set(claim.Labels)) &&
			!slices.ContainsFunc(taken, func(c corev1.PersistentVolumeClaim) bool { return c.Name == claim.Name }) {
			return nil, lacksForGood(v1alpha1.ReasonInvalidSpec, "policy %q: a group snapshot would have claim %q, too, which is left out: let volumes.selector not choose it",
				pol.Name, claim.Name)
		}
	}
	return labels, nil
}

// groupDriver is the one CSI driver of all volumes.
func groupDriver(claims []corev1.PersistentVolumeClaim, volumes map[string]*corev1.PersistentVolume) (driver string, err error) {
	for i := range claims {
		pv := volumes[claims[i].Name]
		switch {
		case pv.Spec.CSI == nil:
			return "", lacksForGood(v1alpha1.ReasonGroupSnapshotUnavailable, "the volume of claim %q does not come from a CSI driver, so that no group snapshot can have it", claims[i].Name)
		case driver != "" && driver != pv.Spec.CSI.Driver:
			return "", lacksForGood(v1alpha1.ReasonGroupSnapshotUnavailable, "the volume of claim %q is of the driver %q and that of claim %q of %q: a group snapshot is one driver's",
				claims[0].Name, driver, claims[i].Name, pv.Spec.CSI.Driver)
		}
		driver = pv.Spec.CSI.Driver
	}
	return driver, nil
}

// groupClass chooses the driver's class: the default one, else the first by name. A class that keeps what it made is of no use.
func groupClass(driver string, classes []groupv1.VolumeGroupSnapshotClass) (string, error) {
	var found []groupv1.VolumeGroupSnapshotClass
	keeps := ""
	for _, c := range classes {
		switch {
		case c.Driver != driver:
		case c.DeletionPolicy != snapshotv1.VolumeSnapshotContentDelete:
			keeps = c.Name
		default:
			found = append(found, c)
		}
	}
	slices.SortFunc(found, func(a, b groupv1.VolumeGroupSnapshotClass) int { return strings.Compare(a.Name, b.Name) })
	i := slices.IndexFunc(found, func(c groupv1.VolumeGroupSnapshotClass) bool { return c.Annotations[defaultGroupClass] == "true" })
	switch {
	case len(found) > 0:
		return found[max(i, 0)].Name, nil
	case keeps != "":
		return "", lacksForGood(v1alpha1.ReasonGroupSnapshotUnavailable, "the VolumeGroupSnapshotClass %q keeps every snapshot: one with deletionPolicy: Delete is needed", keeps)
	}
	return "", lacksForGood(v1alpha1.ReasonGroupSnapshotUnavailable, "there is no VolumeGroupSnapshotClass for the driver %q", driver)
}

func groupReady(g *groupv1.VolumeGroupSnapshot) bool {
	return g.Status != nil && g.Status.ReadyToUse != nil && *g.Status.ReadyToUse
}

// groupCut reports whether the moment of a group is fixed.
func groupCut(g *groupv1.VolumeGroupSnapshot) bool {
	return g != nil && g.Status != nil && (g.Status.CreationTime != nil || groupReady(g))
}

func groupError(g *groupv1.VolumeGroupSnapshot) string {
	if g == nil || g.Status == nil || g.Status.Error == nil || g.Status.Error.Message == nil {
		return ""
	}
	return *g.Status.Error.Message
}

// memberOf finds the snapshot of a claim among those that a group made.
func memberOf(group, claim string, snapshots []snapshotv1.VolumeSnapshot) *snapshotv1.VolumeSnapshot {
	for i := range snapshots {
		s := &snapshots[i]
		if from := s.Spec.Source.PersistentVolumeClaimName; inGroup(group, s) && from != nil && *from == claim {
			return s
		}
	}
	return nil
}

func inGroup(group string, s *snapshotv1.VolumeSnapshot) bool {
	for _, by := range s.OwnerReferences {
		if by.Kind == "VolumeGroupSnapshot" && by.Name == group {
			return true
		}
	}
	return s.Status != nil && s.Status.VolumeGroupSnapshotName != nil && *s.Status.VolumeGroupSnapshotName == group
}
