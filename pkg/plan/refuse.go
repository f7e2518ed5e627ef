package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// refuse gathers everything that speaks against the restore, so that a person mends it in one go.
func (b *builder) refuse() error {
	b.refusePairing()
	b.refuseObjects()
	b.refuseResidual()
	for _, c := range b.plan.Claims {
		b.refuseExisting(c)
		b.refuseSpec(c)
		b.refuseClass(c)
		b.refuseNamespace(c)
	}
	return nil
}

// refusePairing keeps revision and data together: the commit must deploy what ran when the data was taken.
func (b *builder) refusePairing() {
	record, wanted := b.in.Choice.Record.Revision, b.in.Revision
	if record.Tree != wanted.Tree {
		b.refusef("commit %s at path %q does not deploy what ran when point %s was taken (commit %s, path %q): its data may have "+
			"another schema; restore the point's own commit and path", short(wanted.Commit), wanted.Path, b.plan.Point.ID,
			short(record.Commit), record.Path)
	}
}

func (b *builder) refuseObjects() {
	defined := b.defined()
	for _, key := range slices.SortedFunc(maps.Keys(b.set), object.Key.Compare) {
		kind, known := defined[key.GroupKind()]
		if b.in.Facts.Kinds != nil && !known {
			b.refusef("%s: this cluster does not serve the kind, and the commit does not define it; install what defines it first", key)
		}
		needsNamespace := known && kind.Namespaced || object.IsWorkload(b.set[key]) || key.GroupKind() == object.Claim
		if needsNamespace && key.Namespace == "" {
			b.refusef("%s names no namespace; set one in its manifest or in the kustomization", key)
		}
		b.refuseReach(key)
	}
}

// refuseReach keeps a Restore outside lockstep-system within its namespace, and from handing out permissions there: the
// controller applies objects with permissions of its own.
func (b *builder) refuseReach(key object.Key) {
	home := b.in.Facts.RestoreNamespace
	if home == "" || home == v1alpha1.SystemNamespace {
		return
	}
	if key.Namespace != home {
		b.refusef("%s is outside namespace %s; only a Restore in %s may reach there", key, home, v1alpha1.SystemNamespace)
	} else if key.Group == "rbac.authorization.k8s.io" {
		b.refusef("%s gives permissions; only a Restore in %s may do that", key, v1alpha1.SystemNamespace)
	}
}

// refuseResidual keeps a Restore within its namespace also with what Git does not hold. It names no object: who may read the
// refusal may have nothing to do with that namespace.
func (b *builder) refuseResidual() {
	foreign := map[string]bool{}
	for _, key := range b.in.Residual {
		if key.Namespace == b.in.Facts.RestoreNamespace {
			b.refuseReach(key)
		} else {
			foreign[key.Namespace] = true
		}
	}
	if home := b.in.Facts.RestoreNamespace; home == "" || home == v1alpha1.SystemNamespace {
		return
	}
	for _, namespace := range slices.Sorted(maps.Keys(foreign)) {
		b.refusef("point %s holds objects of namespace %s that Git does not hold; only a Restore in %s may reach there",
			b.plan.Point.ID, namespace, v1alpha1.SystemNamespace)
	}
}

// defined adds the kinds that the commit itself defines to those that are served.
func (b *builder) defined() map[schema.GroupKind]KindFact {
	out := maps.Clone(b.in.Facts.Kinds)
	if out == nil {
		out = map[schema.GroupKind]KindFact{}
	}
	for key, u := range b.set {
		if key.GroupKind() != object.CustomResourceDefinition {
			continue
		}
		group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(u.Object, "spec", "scope")
		out[schema.GroupKind{Group: group, Kind: kind}] = KindFact{Namespaced: scope == "Namespaced"}
	}
	return out
}

// refuseExisting never overwrites: only an absent claim, one that has no volume yet, or one of this very Restore is filled.
func (b *builder) refuseExisting(c Claim) {
	fact, exists := b.in.Facts.Claims[c.Name]
	mine := b.in.Facts.RestoreUID != "" && fact.RestoreUID == b.in.Facts.RestoreUID
	switch {
	case !exists || mine || fact.Deleting:
	case fact.Phase == corev1.ClaimBound || fact.Phase == corev1.ClaimLost:
		b.refusef("claim %s is bound to volume %s: a restore never overwrites data; stop its workload, keep the volume if its data "+
			"may be needed, and delete the claim", c.Name, fact.VolumeName)
	case fact.Restore != object.Name{}:
		b.refusef("claim %s is reserved by restore %s: wait until that one is done, or end it (kubectl -n %s delete restore %s) and, if the claim "+
			"is still there then, delete its workload and the claim", c.Name, fact.Restore, fact.Restore.Namespace, fact.Restore.Name)
	case fact.RestoreUID != "":
		b.refusef("claim %s is reserved by a restore that is gone (UID %s), and holds no data: delete its workload and the claim "+
			"(kubectl -n %s delete pvc %s)", c.Name, fact.RestoreUID, c.Name.Namespace, c.Name.Name)
	case fact.VolumeName != "":
		b.refusef("claim %s is reserved for volume %s; delete the claim", c.Name, fact.VolumeName)
	case fact.Request > c.Size:
		b.refusef("claim %s exists and asks for %s, more than the %s that Git asks for and the point needs; delete the claim",
			c.Name, size(fact.Request), size(c.Size))
	}
}

func (b *builder) refuseSpec(c Claim) {
	spec := c.Target.Spec
	if spec.VolumeMode != nil && *spec.VolumeMode == corev1.PersistentVolumeBlock {
		b.refusef("claim %s is a block device; this version restores filesystems only", c.Name)
	}
	if slices.Contains(spec.AccessModes, corev1.ReadWriteOncePod) {
		b.refusef("claim %s has access mode ReadWriteOncePod, which lets no mover fill it; use ReadWriteOnce", c.Name)
	}
	if !slices.Contains(spec.AccessModes, corev1.ReadWriteOnce) && !slices.Contains(spec.AccessModes, corev1.ReadWriteMany) &&
		!slices.Contains(spec.AccessModes, corev1.ReadWriteOncePod) {
		b.refusef("claim %s has no access mode that can be written; use ReadWriteOnce or ReadWriteMany", c.Name)
	}
	if spec.VolumeName != "" {
		b.refusef("claim %s names volume %q in Git; a restored claim gets its volume from a storage class, remove volumeName", c.Name,
			spec.VolumeName)
	}
	if spec.Selector != nil {
		b.refusef("claim %s selects volumes by label, which no provisioned volume satisfies; remove its selector", c.Name)
	}
}

func (b *builder) refuseClass(c Claim) {
	classes := b.in.Facts.StorageClasses
	if asked := c.Target.Spec.StorageClassName; asked != nil && *asked == "" {
		b.refusef("claim %s asks for no storage class, so nothing can provision it; name one in Git", c.Name)
		return
	}
	if classes == nil {
		return
	}
	present := "the cluster has none"
	if len(classes) > 0 {
		present = "the cluster has " + strings.Join(slices.Sorted(maps.Keys(classes)), ", ")
	}
	if c.StorageClass == "" {
		b.refusef("claim %s names no storage class and there is no default; %s; make one of them the default", c.Name, present)
	} else if _, ok := classes[c.StorageClass]; !ok {
		b.refusef("claim %s needs storage class %q; %s; create the class under that name", c.Name, c.StorageClass, present)
	}
}

func (b *builder) refuseNamespace(c Claim) {
	if c.Origin != OriginGit { // Git's objects are asked about one by one
		b.refuseReach(object.Key{Kind: object.Claim.Kind, Namespace: c.Name.Namespace, Name: c.Name.Name})
	}
	rendered := b.set.Has(object.Namespace, object.Name{Name: c.Name.Namespace})
	if b.in.Facts.Namespaces != nil && !b.in.Facts.Namespaces[c.Name.Namespace] && !rendered {
		text := fmt.Sprintf("namespace %q does not exist and the commit does not render it; create it or add it to Git", c.Name.Namespace)
		if !slices.Contains(b.plan.Refusals, text) {
			b.plan.Refusals = append(b.plan.Refusals, text)
		}
	}
}
