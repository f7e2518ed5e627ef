package backup

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubelabels "k8s.io/apimachinery/pkg/labels"

	"github.com/lockstep-dr/lockstep/controller/internal/workloads"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// absence is what is next for the workloads that are to be away.
type absence string

const (
	absenceNone   absence = "none"  // nothing is to be away, or nothing any more
	absenceScale  absence = "scale" // scale to zero what is not
	absenceAwait  absence = "await" // wait until the last pod has gone
	absenceHeld   absence = "held"  // all are away: take snapshots, and wait for them
	absenceCheck  absence = "check" // find out whether nothing has run
	absenceEnd    absence = "end"   // give them their replicas back
	absenceFailed absence = "failed"
)

// decideAbsence finds what is next for the workloads of a point of an age, of whose snapshots some may have been asked for, and all be cut.
func decideAbsence(s *v1alpha1.Scaling, requested, cut bool, age time.Duration) (next absence, message string) {
	switch {
	case s == nil || s.CutAt != nil && !away(s):
		return absenceNone, ""
	case s.CutAt != nil:
		return absenceEnd, ""
	case age > s.Timeout.Duration:
		return absenceFailed, fmt.Sprintf("the snapshots were not taken within %s", spelling.Duration(s.Timeout.Duration))
	case s.GoneAt == nil && requested:
		return absenceFailed, "a snapshot was asked for before everything was scaled to zero"
	case s.GoneAt == nil && slices.ContainsFunc(s.Workloads, func(w v1alpha1.ScaledWorkload) bool { return w.ScaledAt == nil }):
		return absenceScale, ""
	case s.GoneAt == nil:
		return absenceAwait, ""
	case cut:
		return absenceCheck, ""
	}
	return absenceHeld, ""
}

// away says that a workload is owed its replicas.
func away(s *v1alpha1.Scaling) bool {
	return s != nil && slices.ContainsFunc(s.Workloads, func(w v1alpha1.ScaledWorkload) bool { return w.ScaleBackDue })
}

// absent marks the volumes of which the policy wants nobody to have them, and refuses those that cannot be saved so.
func absent(s *v1alpha1.ScaleToZero, claims []corev1.PersistentVolumeClaim, volumes []v1alpha1.VolumeCapture) error {
	selector := kubelabels.Everything()
	if s.Selector != nil {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(s.Selector); err != nil {
			return lacksForGood(v1alpha1.ReasonInvalidSpec, "scaleToZero: its selector: %w", err)
		}
	}
	found := false
	for i := range claims {
		claim, v := &claims[i], &volumes[i]
		if by := metav1.GetControllerOf(claim); by != nil && by.Kind == "Pod" {
			return lacksForGood(v1alpha1.ReasonInvalidSpec, "scaleToZero: claim %q is pod %q's own and would be deleted with it", claim.Name, by.Name)
		}
		if !selector.Matches(kubelabels.Set(claim.Labels)) {
			continue
		}
		if inPlace(v) {
			return lacksForGood(v1alpha1.ReasonVolumeNotReady, "scaleToZero: the storage of claim %q knows no snapshots, and what mounts it would be away "+
				"until all of it is read; leave it out with scaleToZero.selector", claim.Name)
		}
		v.ScaleToZero, found = true, true
	}
	if !found {
		return lacksForGood(v1alpha1.ReasonInvalidSpec, "scaleToZero: its selector %q chooses none of the policy's claims", selector)
	}
	return nil
}

// toScale finds the workloads whose pods mount claims, or would, and refuses what cannot be taken away and brought back. CronJobs stay as
// they are: what they start meanwhile is found out.
func toScale(claims map[object.Name]bool, all []plan.Consumer) ([]object.Key, error) {
	found := map[object.Key]bool{}
	for _, c := range all {
		i := slices.IndexFunc(c.Claims, func(n object.Name) bool { return claims[n] })
		root := c.Root(all)
		if i < 0 || c.Kind == "CronJob" || root.Key == c.Key && !scalable(root) && !c.Active() {
			continue
		}
		claim := c.Claims[i].Name
		switch {
		case root.By != object.Key{} && !root.Active():
		case root.By != object.Key{}:
			return nil, lacksForGood(v1alpha1.ReasonScaleDownFailed, "%s mounts claim %q and is made by %s, which would start it again", c.Key, claim, root.By)
		case scalable(root):
			found[root.Key] = true
		case root.Kind == "Job" || root.Kind == "CronJob":
			return nil, lacks(v1alpha1.ReasonScaleDownFailed, "%s mounts claim %q and is not complete", c.Key, claim)
		default:
			return nil, lacksForGood(v1alpha1.ReasonScaleDownFailed, "%s mounts claim %q, and only Deployments, StatefulSets and ReplicaSets can be scaled to zero and back",
				root.Key, claim)
		}
	}
	return slices.SortedFunc(maps.Keys(found), object.Key.Compare), nil
}

func scalable(c plan.Consumer) bool {
	return c.Group == appsv1.GroupName && (c.Kind == "Deployment" || c.Kind == "StatefulSet" || c.Kind == "ReplicaSet")
}

// heldAway refuses hooks for pods that are scaled away.
func heldAway(namespace string, held []v1alpha1.Quiesced, scaled []object.Key, all []plan.Consumer) error {
	for _, q := range held {
		key := object.Key{Kind: "Pod", Namespace: namespace, Name: q.Pod}
		i := slices.IndexFunc(all, func(c plan.Consumer) bool { return c.Key == key })
		if i < 0 {
			continue
		}
		if root := all[i].Root(all); slices.Contains(scaled, root.Key) {
			return lacksForGood(v1alpha1.ReasonInvalidSpec, "quiesce[%d] holds pod %q of %s still, which scaleToZero takes away: one of the two will do", q.Hook, q.Pod, root.Key)
		}
	}
	return nil
}

// scaledWorkload is what the status has of a workload before it is scaled. It is refused while another point has it at zero, and where
// its claims would go with its replicas.
func scaledWorkload(live *unstructured.Unstructured) (v1alpha1.ScaledWorkload, error) {
	var none v1alpha1.ScaledWorkload
	if by := workloads.ScaledBy(live); by != "" {
		return none, lacks(v1alpha1.ReasonScaleDownFailed, "%s %q is scaled to zero by point %q, says its annotation %s",
			live.GetKind(), live.GetName(), by, v1alpha1.AnnotationScaledBy)
	}
	if when, _, _ := unstructured.NestedString(live.Object, "spec", "persistentVolumeClaimRetentionPolicy", "whenScaled"); when == string(appsv1.DeletePersistentVolumeClaimRetentionPolicyType) {
		return none, lacksForGood(v1alpha1.ReasonScaleDownFailed, "%s %q deletes its claims when it is scaled: its persistentVolumeClaimRetentionPolicy.whenScaled is %s",
			live.GetKind(), live.GetName(), when)
	}
	n := workloads.Replicas(live)
	return v1alpha1.ScaledWorkload{Kind: live.GetKind(), Name: live.GetName(), UID: string(live.GetUID()), Replicas: n, ScaleBackDue: n > 0}, nil
}

// scaleStep is what is to be done to one workload.
type scaleStep string

const (
	scaleNote   scaleStep = "note" // it is as it is to be
	scaleRenote scaleStep = "renote"
	scaleSet    scaleStep = "set"
	scaleFail   scaleStep = "fail"
)

// decideDown finds what is to be done to a workload that is to be at zero. Its mark says whether a controller that died had scaled it.
func decideDown(w *v1alpha1.ScaledWorkload, live *unstructured.Unstructured, point string) (scaleStep, string) {
	if gone(w, live) {
		return scaleFail, nameOfWorkload(w) + " was deleted after the point began"
	}
	n := workloads.Replicas(live)
	switch by := workloads.ScaledBy(live); {
	case by != "" && by != point:
		return scaleFail, fmt.Sprintf("%s is scaled to zero by point %q", nameOfWorkload(w), by)
	case by != "":
		return scaleNote, ""
	case n != w.Replicas:
		return scaleRenote, ""
	case n == 0:
		return scaleNote, ""
	}
	return scaleSet, ""
}

// decideBack finds what is to be done to a workload that is owed its replicas. Whatever somebody else has made of it meanwhile stays.
func decideBack(w *v1alpha1.ScaledWorkload, live *unstructured.Unstructured, point string) (scaleStep, string) {
	if gone(w, live) {
		return scaleNote, nameOfWorkload(w) + " was deleted while it was scaled to zero"
	}
	marked := live.GetAnnotations()[v1alpha1.AnnotationScaledBy] == point
	n, by := workloads.Replicas(live), workloads.Scalers(live)
	switch {
	case n == 0 && !marked && w.ScaledAt == nil:
		return scaleNote, "" // it was never scaled for this point
	case n == 0 && len(by) > 0:
		return scaleSet, fmt.Sprintf("%s was scaled to 0 by %s meanwhile, and stays so", nameOfWorkload(w), strings.Join(by, ", "))
	case n == 0:
		return scaleSet, ""
	case marked:
		return scaleSet, scaledUp(w, live)
	case n != w.Replicas:
		return scaleNote, scaledUp(w, live)
	}
	return scaleNote, "" // it has them
}

// given is how many replicas a workload gets that is owed them, if nobody else has decided that.
func given(w *v1alpha1.ScaledWorkload, live *unstructured.Unstructured) int32 {
	if n := workloads.Replicas(live); n > 0 || len(workloads.Scalers(live)) > 0 {
		return n
	}
	return w.Replicas
}

func gone(w *v1alpha1.ScaledWorkload, live *unstructured.Unstructured) bool {
	return live == nil || string(live.GetUID()) != w.UID
}

func scaledUp(w *v1alpha1.ScaledWorkload, live *unstructured.Unstructured) string {
	message := fmt.Sprintf("%s was scaled to %d meanwhile", nameOfWorkload(w), workloads.Replicas(live))
	if by := workloads.Scalers(live); len(by) > 0 {
		message += " by " + strings.Join(by, ", ")
	}
	return message
}

// disturbed says what has happened to a workload that was at zero all the while, if anything has.
func disturbed(w *v1alpha1.ScaledWorkload, live *unstructured.Unstructured) string {
	switch {
	case gone(w, live):
		return nameOfWorkload(w) + " was deleted while it was scaled to zero"
	case workloads.Replicas(live) > 0:
		return scaledUp(w, live)
	case live.GetGeneration() != w.Generation:
		return nameOfWorkload(w) + " was changed while it was scaled to zero: it may have run meanwhile"
	}
	return ""
}

// settled says that a workload's controller has seen the zero, and knows of no pod.
func settled(w *v1alpha1.ScaledWorkload, live *unstructured.Unstructured) bool {
	seen, _, _ := unstructured.NestedInt64(live.Object, "status", "observedGeneration")
	pods, _, _ := unstructured.NestedInt64(live.Object, "status", "replicas")
	return seen >= w.Generation && pods == 0
}

// usersOf names the pods that have one of the claims, sorted; those that have ended since a moment count, too.
func usersOf(claims map[string]bool, pods []corev1.Pod, since *metav1.MicroTime) []string {
	var out []string
	for i := range pods {
		p := &pods[i]
		if over(p) && (since == nil || p.CreationTimestamp.Time.Before(since.Truncate(time.Second))) {
			continue
		}
		for claim := range claims {
			if hasClaim(p, claim) {
				out = append(out, fmt.Sprintf("pod %q", p.Name))
				break
			}
		}
	}
	slices.Sort(out)
	return out
}

func nameOfWorkload(w *v1alpha1.ScaledWorkload) string { return fmt.Sprintf("%s %q", w.Kind, w.Name) }

// absentClaims are the claims that nobody is to have.
func absentClaims(p *v1alpha1.RestorePoint) map[string]bool {
	out := map[string]bool{}
	for _, v := range p.Status.Volumes {
		if v.ScaleToZero {
			out[v.Claim] = true
		}
	}
	return out
}
