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
	b.refuseSelection()
	if b.plan.Engine != nil {
		b.plan.Refusals = append(b.plan.Refusals, b.plan.Engine.Refusals...)
	}
	b.refuseMapping()
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

func (b *builder) refuseObjects() {
	defined := b.defined()
	for _, key := range slices.SortedFunc(maps.Keys(b.set), object.Key.Compare) {
		kind, known := defined[key.GroupKind()]
		// An engine of GitOps tries again until what defines the kind is there.
		if b.in.Facts.Kinds != nil && !known && !b.plan.Engine.Manages() {
			b.refusef("%s: this cluster does not serve the kind, and the commit does not define it; install what defines it first", key)
		}
		if object.IsEncrypted(b.set[key]) && !b.plan.Engine.Manages() {
			b.refusef("%s is encrypted with SOPS; give the age key that opens it in spec.decryption.secretRef, or let Flux apply the commit", key)
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
		scope, _, _ := unstructured.NestedString(u.Object, "spec", "scope")
		out[definedBy(u)] = KindFact{Namespaced: scope == "Namespaced"}
	}
	return out
}

// refuseExisting never overwrites: only an absent claim, one that has no volume yet, or one of this very Restore is filled.
func (b *builder) refuseExisting(c Claim) {
	fact, exists := b.in.Facts.Claims[c.Name]
	mine := b.in.Facts.RestoreUID != "" && fact.RestoreUID == b.in.Facts.RestoreUID
	switch {
	case !exists || mine || fact.Deleting:
	case c.SetAside != nil && fact.UID == c.SetAside.ClaimUID: // it is replaced, and what it has is kept
	case fact.Phase == corev1.ClaimBound || fact.Phase == corev1.ClaimLost:
		b.refusef("claim %s is bound to volume %s: a restore never overwrites data; stop its workload, keep the volume if its data "+
			"may be needed, and delete the claim; or roll back, which does all of this (lockstep rollback)", c.Name, fact.Spec.VolumeName)
	case fact.Restore != object.Name{}:
		b.refusef("claim %s is reserved by restore %s: wait until that one is done, or end it (kubectl -n %s delete restore %s) and, if the claim "+
			"is still there then, delete its workload and the claim", c.Name, fact.Restore, fact.Restore.Namespace, fact.Restore.Name)
	case fact.RestoreUID != "":
		b.refusef("claim %s is reserved by a restore that is gone (UID %s), and holds no data: delete its workload and the claim "+
			"(kubectl -n %s delete pvc %s)", c.Name, fact.RestoreUID, c.Name.Namespace, c.Name.Name)
	case fact.Spec.VolumeName != "":
		b.refusef("claim %s is reserved for volume %s; delete the claim", c.Name, fact.Spec.VolumeName)
	case fact.request() > c.Size:
		b.refusef("claim %s exists and asks for %s, more than the %s that Git asks for and the point needs; delete the claim",
			c.Name, size(fact.request()), size(c.Size))
	}
}

func (b *builder) refuseSpec(c Claim) {
	spec := c.Target.Spec
	if block := isBlock(spec); block != c.Block {
		b.refusef("claim %s is %s in Git, and %s was saved: what one holds cannot fill the other; restore a commit with the volumeMode of the point",
			c.Name, modeName(block), modeName(c.Block))
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

func modeName(block bool) string {
	if block {
		return "a block device"
	}
	return "a file system"
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
		b.refusef("claim %s needs storage class %q; %s; create the class, or give it another name (--map-storage-class)", c.Name, c.StorageClass, present)
	}
}

func (b *builder) refuseNamespace(c Claim) {
	if c.Origin != OriginGit { // Git's objects are asked about one by one
		b.refuseReach(object.Key{Kind: object.Claim.Kind, Namespace: c.Name.Namespace, Name: c.Name.Name})
	}
	rendered := b.set.Has(object.Namespace, object.Name{Name: c.Name.Namespace})
	if b.in.Facts.Namespaces != nil && !b.in.Facts.Namespaces[c.Name.Namespace] && !rendered {
		text := fmt.Sprintf("namespace %q does not exist, or is being deleted, and the commit does not render it; create it or add it to Git", c.Name.Namespace)
		if !b.plan.ReplaysCommit() {
			text = fmt.Sprintf("namespace %q does not exist, or is being deleted; create it", c.Name.Namespace)
		}
		if !slices.Contains(b.plan.Refusals, text) {
			b.plan.Refusals = append(b.plan.Refusals, text)
		}
	}
}
