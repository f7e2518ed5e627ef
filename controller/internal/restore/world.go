package restore

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// world is what was observed of one restore. Everything is decided from it, so that a controller that died at any
// instant goes on where the world stands.
type world struct {
	now time.Time
	uid string
	// verify is how the restore wants its volumes proven.
	verify v1alpha1.Verify
	// engine is where the engine stands that applies the commit.
	engine gitops.State
	// objects are the commit's, without workloads and claims with data; definitions first.
	objects []thing
	// settled is when the data was in use; zero before.
	settled time.Time
	// there says of each object and workload of the commit whether others that need it may come.
	there map[object.Key]bool
	// broughtBack: what Git does not hold and no pod follows from has come back, as far as nothing holds it up. Like what was
	// applied it is remembered instead of observed; to forget it only means to do it again.
	broughtBack bool
	// returning is what of it may be absent still, following the rest of what Git does not hold.
	returning, following returning
	// quiet says that no mover was asked how far it is, or what it waits for.
	quiet bool
	// asked says that a person wants what failed to be tried again.
	asked     bool
	volumes   []volume
	groups    []group
	workloads []workload
	// shared are movers of several groups.
	shared []*shared
	// halted are the workloads that are stopped while claims are replaced.
	halted []halted
	// room is how many more movers may run, of every backup and restore.
	room int
}

// volume is one claim of the point on its way.
type volume struct {
	plan.Claim
	// staging is the claim that the mover fills, target the application's.
	staging, target *corev1.PersistentVolumeClaim
	// pv is the volume that is filled through the one and handed to the other.
	pv *corev1.PersistentVolume
	// attached says that a node still has the volume.
	attached bool
	// warning is why the staging claim has had no volume for a while, in the provisioner's words.
	warning string
	// stranded says that the volume is on one node's own storage, and that node is gone.
	stranded bool
	// old is the volume that the claim has which is to be replaced, users are the pods that use it. Both are known only while that
	// claim is there.
	old   *corev1.PersistentVolume
	users []string
	// managed says that an engine of GitOps would make the target again, were it deleted.
	managed bool
}

// group is the claims of one consumer pod, filled by one mover pod.
type group struct {
	plan.Group
	// jobs are the group's own movers, by attempt; shared is a mover that it has together with others, before any of its own.
	jobs   []job
	shared *shared
	// pods says that a pod of one of the movers still exists, writing that one has not ended.
	pods, writing bool
}

// job is one attempt at filling a group.
type job struct {
	attempt  int
	deleting bool
	// finished says that the Job is over.
	finished bool
	// ended is when the attempt was over; zero while it is not.
	ended time.Time
	state mover.State
}

// workload is one workload of the commit.
type workload struct {
	plan.Workload
	released bool
	refused  refusal
	status   apply.Status
	// replaces is the Job, by its UID, that the status says is to be made again; live the one that is there, if somebody asked.
	replaces types.UID
	live     *liveJob
}

// step is where a volume stands. It is derived afresh each time and stored nowhere.
type step int

// Steps, in their order.
const (
	// stepStage: the staging claim is to be made.
	stepStage step = iota
	// stepProvision: the staging claim waits for its volume.
	stepProvision
	// stepAdopt: the volume is to be marked as this restore's and kept from being reclaimed.
	stepAdopt
	// stepReserve: the target is to be made, or patched, to name the volume.
	stepReserve
	// stepForget: the target names a volume that was lost, and is to be made anew to name another.
	stepForget
	// stepFill: the volume is to be filled and verified.
	stepFill
	// stepDetach: the mover and its hold on the volume must go.
	stepDetach
	// stepRepoint: the volume is to be handed to the target.
	stepRepoint
	// stepBind: the target waits to be bound.
	stepBind
	// stepGiveBack: the volume's own reclaim policy is to be given back.
	stepGiveBack
	// stepUnstage: the staging claim is to be removed.
	stepUnstage
	// stepDone: the target has its data, and nothing of the restore is left.
	stepDone
	// stepVacate: the volume waits for the old claim to be replaced.
	stepVacate
	// stepWait: something that goes by itself is in the way.
	stepWait
	// stepStuck: a person must look.
	stepStuck
)

// where derives the step of a volume, with the reason and the words where it waits or is stuck.
func (v volume) where(g group, uid string) (step, string) {
	switch {
	case v.replacing():
		return v.behindOld(g, uid)
	case v.bound():
		return v.afterBinding(), ""
	case v.target != nil && v.target.DeletionTimestamp != nil:
		return stepWait, fmt.Sprintf("claim %s is being deleted", v.Name)
	case v.target != nil && v.target.Status.Phase == corev1.ClaimBound:
		return stepStuck, fmt.Sprintf("claim %s was bound to volume %s by somebody else; it is not touched", v.Name, v.target.Spec.VolumeName)
	case v.staging != nil && v.staging.DeletionTimestamp != nil && !v.hydrated():
		return stepWait, fmt.Sprintf("staging claim %s is being deleted", v.staging.Name)
	case v.pv == nil:
		return v.withoutVolume(g, uid)
	case v.handedOver() && v.whole():
		return stepBind, ""
	case v.stranded && !v.handedOver():
		return v.startOver(g, uid)
	case v.lostStaging():
		return stepStuck, fmt.Sprintf("volume %s lost its staging claim before it was filled", v.pv.Name)
	case !v.adopted(uid):
		return stepAdopt, ""
	case v.target == nil || v.target.Spec.VolumeName == "":
		return stepReserve, ""
	case v.target.Spec.VolumeName != v.pv.Name && v.replaceable(uid):
		return stepForget, ""
	case v.target.Spec.VolumeName != v.pv.Name:
		return stepStuck, fmt.Sprintf("claim %s is reserved for volume %s, not for %s", v.Name, v.target.Spec.VolumeName, v.pv.Name)
	case !v.hydrated():
		return stepFill, ""
	case !v.whole():
		return stepStuck, fmt.Sprintf("volume %s was filled with other data than the point's", v.pv.Name)
	case g.busy() || v.attached:
		return stepDetach, ""
	}
	return stepRepoint, ""
}

// withoutVolume is where a volume stands that has not been provisioned, or is gone.
func (v volume) withoutVolume(g group, uid string) (step, string) {
	switch {
	case v.reserved(uid) && !v.replaceable(uid):
		return stepStuck, fmt.Sprintf("volume %s, for which claim %s is reserved, is gone; %s", v.target.Spec.VolumeName, v.Name, makeRoom)
	case v.staging == nil:
		return stepStage, ""
	case v.staging.Status.Phase == corev1.ClaimLost && g.busy():
		return stepWait, "its volume is gone; waiting for the mover to end"
	case v.staging.Status.Phase == corev1.ClaimLost:
		return stepUnstage, ""
	}
	return stepProvision, ""
}

// startOver is where a volume stands that is out of reach for good and was not handed over: it is given up with its staging claim, and
// another one is provisioned. The target keeps its pods waiting until then.
func (v volume) startOver(g group, uid string) (step, string) {
	_, kept := v.pv.Annotations[v1alpha1.AnnotationReclaimPolicy]
	switch {
	case v.reserved(uid) && !v.replaceable(uid):
		return stepStuck, fmt.Sprintf("volume %s was on a node that is gone, and claim %s can take no other; %s", v.pv.Name, v.Name, makeRoom)
	case g.busy():
		return stepWait, fmt.Sprintf("volume %s was on a node that is gone; waiting for the mover to end", v.pv.Name)
	case kept:
		return stepGiveBack, ""
	case v.staging != nil:
		return stepUnstage, ""
	}
	return stepStage, ""
}

// makeRoom is what a person has to do where the restore must not.
const makeRoom = "delete this restore, the workload and the claim, and restore again"

// replaceable says that the target may be deleted to be made anew: this restore made it, it has never been bound, and neither a
// StatefulSet nor an engine would make it in between, with an empty volume.
func (v volume) replaceable(uid string) bool {
	return v.reserved(uid) && !v.handedOver() && !v.managed && v.target.Annotations[annotationMade] == uid && v.Origin != plan.OriginTemplate &&
		v.target.Status.Phase != corev1.ClaimBound
}

// lostVolume says that the volume is given up, so that a mover of it has nothing to do any more.
func (v volume) lostVolume() bool {
	return v.pv == nil && v.staging != nil && v.staging.Status.Phase == corev1.ClaimLost || v.pv != nil && v.stranded && !v.handedOver()
}

// afterBinding is what is left once the target is bound. The policy is given back only when the staging claim has let go:
// before that, the volume could still be taken for an abandoned one.
func (v volume) afterBinding() step {
	_, kept := v.pv.Annotations[v1alpha1.AnnotationReclaimPolicy]
	switch {
	case kept && v.staging != nil && v.staging.Status.Phase != corev1.ClaimLost:
		return stepBind
	case kept:
		return stepGiveBack
	case v.staging != nil:
		return stepUnstage
	}
	return stepDone
}

// handedOver says that the volume belongs to this very target and to no other claim.
func (v volume) handedOver() bool {
	return v.pv != nil && v.target != nil && v.pv.Spec.ClaimRef != nil && v.pv.Spec.ClaimRef.UID == v.target.UID
}

// bound says that the target has the volume that this restore filled for it.
func (v volume) bound() bool {
	return v.handedOver() && v.whole() && v.target.Status.Phase == corev1.ClaimBound && v.target.Spec.VolumeName == v.pv.Name
}

// lagging is the claim that the volume controller has yet to look at after the volume was handed over: first the target, which
// it has to bind, then the staging claim, which it has to let go.
func (v volume) lagging() *corev1.PersistentVolumeClaim {
	if v.target.Status.Phase != corev1.ClaimBound {
		return v.target
	}
	return v.staging
}

// reserved says that the target names a volume for this restore's sake.
func (v volume) reserved(uid string) bool {
	return v.target != nil && v.target.DeletionTimestamp == nil && v.target.Spec.VolumeName != "" &&
		v.target.Labels[v1alpha1.LabelRestore] == uid
}

func (v volume) adopted(uid string) bool {
	_, kept := v.pv.Annotations[v1alpha1.AnnotationReclaimPolicy]
	return kept && v.pv.Labels[v1alpha1.LabelRestore] == uid && v.pv.Annotations[v1alpha1.AnnotationTarget] == v.Name.String() &&
		v.pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain
}

// hydrated says that the volume was filled and verified, with whatever data.
func (v volume) hydrated() bool {
	return v.pv != nil && v.pv.Annotations[v1alpha1.AnnotationHydrated] != ""
}

// whole says that the volume was filled with the point's data.
func (v volume) whole() bool {
	return v.pv != nil && v.pv.Annotations[v1alpha1.AnnotationHydrated] == v.Roots()
}

// lostStaging says that the volume can be reached through its staging claim no more, and holds nothing yet.
func (v volume) lostStaging() bool {
	if v.hydrated() {
		return false
	}
	return v.staging == nil || v.pv.Spec.ClaimRef == nil || v.pv.Spec.ClaimRef.UID != v.staging.UID
}

// busy says that something of the group's movers is still there.
func (g group) busy() bool { return len(g.jobs) > 0 || g.shared != nil || g.pods }

// mover is what is known of the newest mover; nil if there was none.
func (g group) mover() *job {
	if g.shared != nil {
		return &g.shared.job
	}
	return g.last()
}

// last is the newest attempt; nil if there was none.
func (g group) last() *job {
	if len(g.jobs) == 0 {
		return nil
	}
	last := slices.MaxFunc(g.jobs, func(a, b job) int { return cmp.Compare(a.attempt, b.attempt) })
	return &last
}

// lastEnded is the newest attempt that is over; nil if none is.
func (g group) lastEnded() *job {
	over := slices.DeleteFunc(slices.Clone(g.jobs), func(j job) bool { return j.ended.IsZero() })
	return group{jobs: over}.last()
}

// members are the volumes of a group.
func (w *world) members(g group) []*volume {
	var out []*volume
	for i := range w.volumes {
		if w.volumes[i].Group == g.Index {
			out = append(out, &w.volumes[i])
		}
	}
	return out
}

// groupOf is the group of a volume.
func (w *world) groupOf(v volume) group {
	i := slices.IndexFunc(w.groups, func(g group) bool { return g.Index == v.Group })
	return w.groups[i]
}
