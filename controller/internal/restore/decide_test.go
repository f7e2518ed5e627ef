package restore

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

const uid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"

var now = time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)

func dataClaim() plan.Claim {
	return plan.Claim{
		Name: object.Name{Namespace: "shop", Name: "data"}, Snapshot: "snap", Bytes: 100, ContentRoot: "c", MetaRoot: "m", StorageClass: "fast",
	}
}

// The parts of a world with one volume. Each returns a new value, so that a case changes only its own.

func staging(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: stagingName(uid, 0), UID: "staging"},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv"},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func target(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "target", Labels: map[string]string{v1alpha1.LabelRestore: uid}},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv"},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func phase(p corev1.PersistentVolumeClaimPhase) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = p }
}

func unbound(c *corev1.PersistentVolumeClaim) {
	c.Spec.VolumeName, c.Status.Phase = "", corev1.ClaimPending
}

func deleting(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{Time: now} }

func ours(c *corev1.PersistentVolumeClaim) { c.Annotations = map[string]string{annotationMade: uid} }

func names(pv string) func(*corev1.PersistentVolumeClaim) {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = pv }
}

func ofEngine(w *world) { w.volumes[0].managed = true }

func ofSet(w *world) { w.volumes[0].Origin = plan.OriginTemplate }

func foreign(c *corev1.PersistentVolumeClaim) { c.Labels = nil }

// pv is a volume as the provisioner made it, with the claim of the UID.
func pv(claimedBy types.UID, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv", Labels: map[string]string{}, Annotations: map[string]string{}},
		Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{UID: claimedBy}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
		},
	}
	for _, f := range change {
		f(v)
	}
	return v
}

func adopted(v *corev1.PersistentVolume) {
	v.Labels[v1alpha1.LabelRestore] = uid
	v.Annotations[v1alpha1.AnnotationTarget] = "shop/data"
	v.Annotations[v1alpha1.AnnotationReclaimPolicy] = "Delete"
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
}

func filled(v *corev1.PersistentVolume) { v.Annotations[v1alpha1.AnnotationHydrated] = "c/m" }

func filledOtherwise(v *corev1.PersistentVolume) { v.Annotations[v1alpha1.AnnotationHydrated] = "x/y" }

func whole() mover.Result {
	return mover.Result{Snapshot: "snap", ContentRoot: "c", MetaRoot: "m", Verified: true}
}

func attempt(n int, over bool, results ...mover.Result) job {
	j := job{attempt: n, state: mover.State{Phase: mover.PhaseRunning, Results: map[string]mover.Result{}}}
	if over {
		j.ended, j.state.Phase = now.Add(-time.Second), mover.PhaseFailed
	}
	for _, r := range results {
		j.state.Results[stagingName(uid, 0)] = r
	}
	return j
}

func ago(j job, d time.Duration) job {
	j.ended = now.Add(-d)
	return j
}

// seen is an attempt as it is seen from outside.
func seen(j job, s mover.State) job {
	s.Results = j.state.Results
	j.state = s
	return j
}

// worldOf is a world with one volume and what a case says of it.
func worldOf(v volume, change ...func(*world)) *world {
	v.Claim = dataClaim()
	w := &world{now: now, uid: uid, broughtBack: true, room: 4, verify: v1alpha1.VerifyReadback, volumes: []volume{v}, groups: []group{{}}}
	for _, f := range change {
		f(w)
	}
	return w
}

func jobs(list ...job) func(*world) {
	return func(w *world) { w.groups[0].jobs = list }
}

func pods(w *world) { w.groups[0].pods = true }

func waits(w *world) { w.volumes[0].WaitForFirstConsumer = true }

// TestVolume walks one volume through every sub-step and every state that a death between two writes can leave.
func TestVolume(t *testing.T) {
	touched := func(at time.Time) func(*corev1.PersistentVolumeClaim) {
		return func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{v1alpha1.AnnotationReconcileAt: at.Format(time.RFC3339Nano)}
		}
	}
	given := func(v *corev1.PersistentVolume) {
		filled(v) // the proof stays; all other marks are gone
	}
	failed := mover.Result{Error: "the store did not answer", Reason: mover.ReasonUnavailable}
	permanent := mover.Result{Error: "the snapshot is damaged", Reason: mover.ReasonDamaged}
	tests := []struct {
		name  string
		world *world
		want  string // the actions, joined
		state v1alpha1.HydrationState
		says  string
	}{
		{"nothing is there", worldOf(volume{}), "stage shop/data", v1alpha1.HydrationPlanned, ""},
		{"a claim waits for its namespace", worldOf(volume{staging: staging(), pv: pv("staging", adopted)}, func(w *world) {
			w.there = map[object.Key]bool{{Kind: "Namespace", Name: "shop"}: false}
		}), "", v1alpha1.HydrationStaging, ""},
		{"staged", worldOf(volume{staging: staging(unbound)}), "", v1alpha1.HydrationStaging, "class fast"},
		{"staged, and provisioned only where the mover runs", worldOf(volume{staging: staging(unbound)}, waits), "fill group 0, attempt 0", v1alpha1.HydrationStaging, ""},
		{"the mover waits for its volume", worldOf(volume{staging: staging(unbound)}, waits, jobs(attempt(0, false))), "", v1alpha1.HydrationStaging, ""},
		{"provisioned", worldOf(volume{staging: staging(), pv: pv("staging")}), "adopt shop/data", v1alpha1.HydrationStaging, ""},
		{"adopted", worldOf(volume{staging: staging(), pv: pv("staging", adopted)}), "reserve shop/data", v1alpha1.HydrationStaging, ""},
		{"adopted, and Git's claim is there and waits", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(unbound, foreign)}),
			"reserve shop/data", v1alpha1.HydrationStaging, ""},
		{"reserved", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}), "fill group 0, attempt 0", v1alpha1.HydrationReserved, "free mover"},
		{"no mover is free", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, func(w *world) { w.room = 0 }), "", v1alpha1.HydrationReserved, "free mover"},
		{"a mover of an earlier life is going", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, pods), "", v1alpha1.HydrationReserved, ""},
		{"filling", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(attempt(0, false)), pods), "", v1alpha1.HydrationHydrating, ""},
		{"filled, and reserved late", worldOf(volume{staging: staging(), pv: pv("staging", adopted)}, jobs(attempt(0, true, whole()))),
			"reserve shop/data, record shop/data", v1alpha1.HydrationStaging, ""},
		{"filled and verified", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(attempt(0, true, whole())), pods),
			"record shop/data", v1alpha1.HydrationHydrating, ""},
		{"recorded", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filled), target: target()}, jobs(attempt(0, true, whole())), pods),
			"dismiss group 0", v1alpha1.HydrationDetaching, ""},
		{"recorded, mover being deleted", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filled), target: target()},
			jobs(job{deleting: true}), pods), "", v1alpha1.HydrationDetaching, ""},
		{"the mover's pod is still there", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filled), target: target()}, pods), "", v1alpha1.HydrationDetaching, ""},
		{"the node still has the volume", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filled), target: target(), attached: true}), "", v1alpha1.HydrationDetaching, ""},
		{"detached", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filled), target: target()}), "repoint shop/data", v1alpha1.HydrationRebinding, ""},
		{"handed over", worldOf(volume{staging: staging(), pv: pv("target", adopted, filled), target: target()}), "touch shop/data", v1alpha1.HydrationRebinding, ""},
		{"just touched", worldOf(volume{staging: staging(), pv: pv("target", adopted, filled), target: target(touched(now.Add(-time.Second)))}), "", v1alpha1.HydrationRebinding, ""},
		{"touched in vain", worldOf(volume{staging: staging(), pv: pv("target", adopted, filled), target: target(touched(now.Add(-time.Minute)))}), "touch shop/data", v1alpha1.HydrationRebinding, ""},
		{"handed over, staging claim gone", worldOf(volume{pv: pv("target", adopted, filled), target: target()}), "touch shop/data", v1alpha1.HydrationRebinding, ""},
		{"bound, staging claim has not let go", worldOf(volume{staging: staging(), pv: pv("target", adopted, filled), target: target(phase(corev1.ClaimBound))}), "touch shop/data", v1alpha1.HydrationRebinding, ""},
		{"bound", worldOf(volume{staging: staging(phase(corev1.ClaimLost)), pv: pv("target", adopted, filled), target: target(phase(corev1.ClaimBound))}),
			"give back shop/data", v1alpha1.HydrationBound, ""},
		{"bound, staging claim deleted by somebody", worldOf(volume{pv: pv("target", adopted, filled), target: target(phase(corev1.ClaimBound))}), "give back shop/data", v1alpha1.HydrationBound, ""},
		{"policy given back", worldOf(volume{staging: staging(phase(corev1.ClaimLost)), pv: pv("target", given), target: target(phase(corev1.ClaimBound))}),
			"unstage shop/data", v1alpha1.HydrationBound, ""},
		{"done", worldOf(volume{pv: pv("target", given), target: target(phase(corev1.ClaimBound))}), "", v1alpha1.HydrationBound, ""},

		{"the target is being deleted", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(foreign, deleting, phase(corev1.ClaimBound))}), "", v1alpha1.HydrationPlanned, "being deleted"},
		{"the target was deleted after it was reserved", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filled)}), "reserve shop/data", v1alpha1.HydrationStaging, ""},
		{"the target was made anew after the volume was handed over", worldOf(volume{staging: staging(phase(corev1.ClaimLost)), pv: pv("former", adopted, filled), target: target(unbound, foreign)}),
			"reserve shop/data", v1alpha1.HydrationStaging, ""},
		{"reserved anew after the volume was handed over", worldOf(volume{staging: staging(phase(corev1.ClaimLost)), pv: pv("former", adopted, filled), target: target()}),
			"repoint shop/data", v1alpha1.HydrationRebinding, ""},
		{"somebody else bound the target", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(foreign, phase(corev1.ClaimBound), func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "other" })}),
			"", v1alpha1.HydrationFailed, "bound to volume other by somebody else"},
		{"somebody else reserved the target", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(foreign, func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "other" })}),
			"", v1alpha1.HydrationFailed, "reserved for volume other"},
		{"bound without a proof", worldOf(volume{pv: pv("target", adopted), target: target(phase(corev1.ClaimBound))}), "", v1alpha1.HydrationFailed, "by somebody else"},
		{"filled with other data", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filledOtherwise), target: target()}), "", v1alpha1.HydrationFailed, "other data"},
		{"the reserved volume is gone", worldOf(volume{target: target()}), "", v1alpha1.HydrationFailed, "is gone"},
		{"the staging claim was deleted before it was filled", worldOf(volume{pv: pv("staging", adopted), target: target()}), "", v1alpha1.HydrationFailed, "lost its staging claim"},
		{"the staging claim is being deleted", worldOf(volume{staging: staging(deleting), pv: pv("staging", adopted), target: target()}), "", v1alpha1.HydrationPlanned, "being deleted"},
		{"the volume went before it was reserved", worldOf(volume{staging: staging(phase(corev1.ClaimLost))}), "unstage shop/data", v1alpha1.HydrationStaging, ""},
		{"marked for another restore", worldOf(volume{staging: staging(), pv: pv("staging", adopted, func(v *corev1.PersistentVolume) { v.Labels[v1alpha1.LabelRestore] = "other" }), target: target()}),
			"adopt shop/data", v1alpha1.HydrationStaging, ""},

		{"the reserved volume is gone, and the claim can be made anew", worldOf(volume{target: target(ours)}), "stage shop/data", v1alpha1.HydrationPlanned, ""},
		{"it is gone while its staging claim is there", worldOf(volume{staging: staging(phase(corev1.ClaimLost)), target: target(ours)}), "unstage shop/data", v1alpha1.HydrationStaging, ""},
		{"it is gone while its mover waits", worldOf(volume{staging: staging(phase(corev1.ClaimLost)), target: target(ours)}, jobs(attempt(0, false))),
			"dismiss group 0", v1alpha1.HydrationPlanned, "its volume is gone"},
		{"another is being provisioned", worldOf(volume{staging: staging(unbound), target: target(ours)}), "", v1alpha1.HydrationStaging, ""},
		{"another is there", worldOf(volume{staging: staging(), pv: pv("staging"), target: target(ours, names("former"))}), "adopt shop/data", v1alpha1.HydrationStaging, ""},
		{"another is there, and the claim names the former", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(ours, names("former"))}),
			"forget shop/data", v1alpha1.HydrationStaging, ""},
		{"another is filled, and the claim names the former", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filled), target: target(ours, names("former"))}),
			"forget shop/data", v1alpha1.HydrationStaging, ""},
		{"a StatefulSet would make the claim empty", worldOf(volume{target: target(ours)}, ofSet), "", v1alpha1.HydrationFailed, "the workload and the claim"},

		{"its node is gone before it was reserved", worldOf(volume{staging: staging(), pv: pv("staging", adopted), stranded: true}), "give back shop/data", v1alpha1.HydrationStaging, ""},
		{"its node is gone before it was adopted", worldOf(volume{staging: staging(), pv: pv("staging"), stranded: true}), "unstage shop/data", v1alpha1.HydrationStaging, ""},
		{"its node is gone while it is filled", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(ours), stranded: true}, jobs(attempt(0, false)), pods),
			"dismiss group 0", v1alpha1.HydrationPlanned, "a node that is gone"},
		{"its node is gone, and its mover is", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(ours), stranded: true}), "give back shop/data", v1alpha1.HydrationStaging, ""},
		{"its node is gone after it was filled", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filled), target: target(ours), stranded: true}), "give back shop/data", v1alpha1.HydrationStaging, ""},
		{"given up", worldOf(volume{staging: staging(), pv: pv("staging", filled), target: target(ours), stranded: true}), "unstage shop/data", v1alpha1.HydrationStaging, ""},
		{"given up, staging claim gone", worldOf(volume{pv: pv("staging"), target: target(ours), stranded: true}), "stage shop/data", v1alpha1.HydrationPlanned, ""},
		{"its node is gone, and a StatefulSet would make the claim empty", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(ours), stranded: true}, ofSet),
			"", v1alpha1.HydrationFailed, "the workload and the claim"},
		{"its node is gone, and an engine would make the claim empty", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(ours), stranded: true}, ofEngine),
			"", v1alpha1.HydrationFailed, "the workload and the claim"},
		{"its node is gone, and somebody else made the claim", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target(), stranded: true}),
			"", v1alpha1.HydrationFailed, "the workload and the claim"},
		{"its node is gone after it was handed over", worldOf(volume{staging: staging(), pv: pv("target", adopted, filled), target: target(ours), stranded: true}),
			"touch shop/data", v1alpha1.HydrationRebinding, ""},

		{"failed just now", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(attempt(0, true, failed))), "", v1alpha1.HydrationHydrating, ""},
		{"failed a while ago", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(ago(attempt(0, true, failed), time.Minute))),
			"fill group 0, attempt 1", v1alpha1.HydrationHydrating, ""},
		{"failed again, and the pause is longer", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()},
			jobs(ago(attempt(0, true, failed), time.Minute), ago(attempt(1, true, failed), 15*time.Second))), "", v1alpha1.HydrationHydrating, ""},
		{"failed too often, and is tried again", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(ago(attempt(2, true, failed), time.Hour))),
			"fill group 0, attempt 3", v1alpha1.HydrationFailed, "did not answer; it is tried again"},
		{"failed too often, and is being tried again", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()},
			jobs(ago(attempt(2, true, failed), time.Hour), attempt(3, false)), pods), "", v1alpha1.HydrationFailed, "did not answer; it is tried again"},
		{"failed for days, and the pause is no longer", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(ago(attempt(1000, true, failed), 6*time.Minute))),
			"fill group 0, attempt 1001", v1alpha1.HydrationFailed, "it is tried again"},
		{"a person asks", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(attempt(0, true, failed)), func(w *world) { w.asked = true }),
			"dismiss group 0", v1alpha1.HydrationHydrating, ""},
		{"a person asks while it is tried", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()},
			jobs(ago(attempt(0, true, failed), time.Hour), attempt(1, false)), func(w *world) { w.asked = true }), "", v1alpha1.HydrationHydrating, ""},
		{"failed for good", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(ago(attempt(0, true, permanent), time.Hour))),
			"", v1alpha1.HydrationFailed, "the snapshot is damaged"},
		{"died without a word", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(ago(attempt(0, true), time.Hour))),
			"fill group 0, attempt 1", v1alpha1.HydrationHydrating, ""},
		{"no node takes the mover", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(seen(attempt(0, false), mover.State{
			Phase: mover.PhasePending, Message: "Unschedulable: 0/3 nodes are available", PendingSince: now.Add(-time.Minute),
		}))), "", v1alpha1.HydrationHydrating, "0/3 nodes"},
		{"no node has taken the mover for long", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(seen(attempt(0, false), mover.State{
			Phase: mover.PhasePending, Message: "Unschedulable: 0/3 nodes are available", PendingSince: now.Add(-11 * time.Minute),
		}))), "abandon group 0", v1alpha1.HydrationHydrating, "0/3 nodes"},
		{"a volume cannot be mounted, before it was reserved", worldOf(volume{staging: staging(), pv: pv("staging", adopted)}, jobs(seen(attempt(0, false), mover.State{
			Phase: mover.PhasePending, Message: "FailedMount: no such device", PendingSince: now.Add(-11 * time.Minute),
		}))), "reserve shop/data, abandon group 0", v1alpha1.HydrationStaging, ""},
		{"nothing moves", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, pods, jobs(seen(attempt(0, false), mover.State{
			Phase: mover.PhaseRunning, Idle: 31 * time.Minute,
		}))), "abandon group 0", v1alpha1.HydrationHydrating, ""},
		{"being abandoned", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, pods, jobs(seen(attempt(0, false), mover.State{
			Phase: mover.PhaseRunning, Idle: 31 * time.Minute, Abandoned: true,
		}))), "", v1alpha1.HydrationHydrating, ""},
		{"abandoned", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, jobs(ago(seen(attempt(0, true), mover.State{
			Phase: mover.PhaseFailed, Message: "the mover did not start", Abandoned: true,
		}), time.Minute))), "fill group 0, attempt 1", v1alpha1.HydrationHydrating, "did not start"},
		{"the node is lost", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, pods, jobs(seen(attempt(0, false), mover.State{
			Phase: mover.PhaseRunning, Message: "node one is lost", LostNode: "one", Idle: time.Hour, PendingSince: now.Add(-time.Hour),
		}))), "", v1alpha1.HydrationHydrating, "node one is lost"},
		{"over, and a pod of it may still write", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, pods,
			func(w *world) { w.groups[0].writing = true }, jobs(ago(attempt(0, true), time.Hour))), "", v1alpha1.HydrationHydrating, ""},
		{"wrote something else", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()},
			jobs(ago(attempt(0, true, mover.Result{Snapshot: "snap", ContentRoot: "c", MetaRoot: "other", Verified: true}), time.Hour))),
			"", v1alpha1.HydrationFailed, "not what was saved"},
		{"did not read back", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()},
			jobs(ago(attempt(0, true, mover.Result{Snapshot: "snap", ContentRoot: "c", MetaRoot: "m"}), time.Hour))),
			"", v1alpha1.HydrationFailed, "not what was saved"},
		{"need not read back", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: target()}, func(w *world) { w.verify = v1alpha1.VerifyWrite },
			jobs(attempt(0, true, mover.Result{Snapshot: "snap", ContentRoot: "c", MetaRoot: "m"}))), "record shop/data", v1alpha1.HydrationHydrating, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := join(decide(tt.world)); got != tt.want {
				t.Errorf("got actions %q, want %q", got, tt.want)
			}
			state, says := tt.world.stateOf(tt.world.volumes[0], tt.world.groups[0])
			if state != tt.state || !strings.Contains(says, tt.says) {
				t.Errorf("got state %s %q, want %s with %q", state, says, tt.state, tt.says)
			}
		})
	}
}

func join(actions []action) string {
	parts := make([]string, len(actions))
	for i, a := range actions {
		parts[i] = a.String()
	}
	return strings.Join(parts, ", ")
}

// TestNothingIsOverwritten goes through every combination of what can be seen of a volume: the volume is handed over only
// whole, detached and to a claim that is reserved for it, and it is filled only while its staging claim has it.
func TestNothingIsOverwritten(t *testing.T) {
	stagings := []*corev1.PersistentVolumeClaim{nil, staging(), staging(unbound), staging(phase(corev1.ClaimLost)), staging(deleting)}
	targets := []*corev1.PersistentVolumeClaim{nil, target(), target(unbound), target(unbound, foreign), target(foreign), target(deleting),
		target(phase(corev1.ClaimBound)), target(foreign, phase(corev1.ClaimBound)), target(ours), target(ours, names("former")), target(ours, phase(corev1.ClaimBound))}
	var volumes []*corev1.PersistentVolume
	for _, by := range []types.UID{"staging", "target", "other"} {
		volumes = append(volumes, pv(by), pv(by, adopted), pv(by, adopted, filled), pv(by, adopted, filledOtherwise), pv(by, filled))
	}
	volumes = append(volumes, nil, pv("", adopted, func(v *corev1.PersistentVolume) { v.Spec.ClaimRef = nil }))
	movers := [][]job{nil, {attempt(0, false)}, {attempt(0, true, whole())}, {ago(attempt(0, true), time.Hour)}}
	seen := map[verb]int{}
	for i := range len(stagings) * len(targets) * len(volumes) * len(movers) * 8 {
		n := i
		pick := func(of int) int { defer func() { n /= of }(); return n % of }
		v := volume{staging: stagings[pick(len(stagings))], target: targets[pick(len(targets))], pv: volumes[pick(len(volumes))]}
		w := worldOf(v, jobs(movers[pick(len(movers))]...))
		w.groups[0].pods, w.volumes[0].attached = pick(2) == 1, pick(2) == 1
		w.volumes[0].stranded = pick(2) == 1 && w.volumes[0].pv != nil
		v = w.volumes[0]
		lost := v.stranded && !v.handedOver() && len(w.groups[0].jobs) == 0 && !w.groups[0].pods
		for _, a := range decide(w) {
			seen[a.verb]++
			bad := ""
			switch a.verb {
			case doRepoint:
				if !v.whole() || v.attached || w.groups[0].pods || len(w.groups[0].jobs) > 0 || v.target == nil ||
					v.target.Spec.VolumeName != "pv" || v.target.Status.Phase == corev1.ClaimBound || !v.adopted(uid) {
					bad = "handed over"
				}
			case doFill:
				if v.pv == nil || v.hydrated() || v.pv.Spec.ClaimRef.UID != "staging" || v.target == nil || !v.reserved(uid) && v.target.Spec.VolumeName != "pv" {
					bad = "filled"
				}
			case doReserve:
				if v.target != nil && (v.target.Status.Phase == corev1.ClaimBound || v.target.Spec.VolumeName != "") {
					bad = "reserved"
				}
			case doGiveBack:
				if !lost && (v.target == nil || v.target.Status.Phase != corev1.ClaimBound || v.staging != nil && v.staging.Status.Phase != corev1.ClaimLost) {
					bad = "given back"
				}
			case doUnstage:
				if v.pv != nil && !v.bound() && !lost {
					bad = "unstaged"
				}
			case doStage:
				if v.staging != nil || v.pv != nil && !lost {
					bad = "staged"
				}
			case doForget:
				if v.target.Status.Phase == corev1.ClaimBound || v.target.Annotations[annotationMade] != uid || v.target.Spec.VolumeName == v.pv.Name || v.handedOver() {
					bad = "forgotten"
				}
			}
			if bad != "" {
				t.Fatalf("%s although staging %+v, target %+v, volume %+v, group %+v", bad, v.staging, v.target, v.pv, w.groups[0])
			}
		}
	}
	for _, do := range []verb{doStage, doAdopt, doReserve, doFill, doRecord, doRepoint, doTouch, doGiveBack, doUnstage, doForget, doDismiss} {
		if seen[do] == 0 {
			t.Errorf("no combination led to %q", do)
		}
	}
}

// TestRelease: a workload starts when its own claims are reserved, a stateless one at once.
func TestRelease(t *testing.T) {
	reserved := volume{staging: staging(), pv: pv("staging", adopted), target: target()}
	w := worldOf(reserved)
	other := volume{Claim: dataClaim(), staging: staging(unbound)}
	other.Name.Name, other.Index, other.Group = "other", 1, 1
	w.volumes, w.groups = append(w.volumes, other), append(w.groups, group{Group: plan.Group{Index: 1}})
	for name, needs := range map[string][]string{"web": nil, "db": {"data"}, "late": {"other"}, "both": {"data", "other"}} {
		l := workload{}
		l.Key = object.Key{Group: "apps", Kind: "StatefulSet", Namespace: "shop", Name: name}
		for _, n := range needs {
			l.WaitsFor = append(l.WaitsFor, object.Name{Namespace: "shop", Name: n})
		}
		w.workloads = append(w.workloads, l)
	}
	released := func() map[string]bool {
		out := map[string]bool{}
		for _, a := range decide(w) {
			if a.verb == doRelease {
				out[a.object.Name] = true
			}
		}
		return out
	}
	if diff := cmp.Diff(map[string]bool{"web": true, "db": true}, released()); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
}

// TestNeeds: an object waits for what it needs and for nothing else, and what is refused is tried again after a while.
func TestNeeds(t *testing.T) {
	key := func(kind, name string) object.Key {
		k := object.Key{Kind: kind, Name: name}
		if kind != "Namespace" && kind != "CustomResourceDefinition" {
			k.Namespace = "shop"
		}
		return k
	}
	namespace, definition, config, login := key("Namespace", "shop"), key("CustomResourceDefinition", "widgets"), key("ConfigMap", "config"), key("Secret", "login")
	custom := key("Widget", "w")
	thingOf := func(k object.Key, needs ...object.Key) thing { return thing{Object: plan.Object{Key: k, Needs: needs}} }
	job := func(name string, needs ...object.Key) workload {
		return workload{Workload: plan.Workload{Object: plan.Object{Key: key("Job", name), Needs: append(needs, namespace)}}}
	}
	tests := []struct {
		name    string
		applied []object.Key
		refused []object.Key
		change  func(*world)
		want    string
	}{
		{"at first", nil, nil, nil, "apply Namespace shop, apply CustomResourceDefinition widgets"},
		{"a definition holds nobody else up", []object.Key{namespace}, nil, nil,
			"bring back, apply CustomResourceDefinition widgets, apply ConfigMap shop/config"},
		{"all is tried before the first workload", []object.Key{namespace, definition}, nil, func(w *world) { w.broughtBack = true },
			"apply ConfigMap shop/config, apply Widget shop/w"},
		{"one refused object", []object.Key{namespace, definition, custom}, []object.Key{config}, func(w *world) { w.broughtBack = true },
			"release Job shop/plain, release Job shop/with-login"},
		{"it is tried again", []object.Key{namespace, definition, custom}, []object.Key{config},
			func(w *world) { w.broughtBack, w.now = true, now.Add(time.Minute) },
			"apply ConfigMap shop/config, release Job shop/plain, release Job shop/with-login"},
		{"a refused definition", []object.Key{namespace, config}, []object.Key{definition}, func(w *world) { w.broughtBack = true },
			"release Job shop/plain, release Job shop/with-config, release Job shop/with-login"},
		{"a Secret that Git does not hold", []object.Key{namespace, definition, config, custom}, nil, nil,
			"bring back, release Job shop/plain, release Job shop/with-config"},
		{"declared order", []object.Key{namespace, definition, config, custom}, nil, func(w *world) {
			w.broughtBack = true
			w.workloads[0].released = true
			w.workloads[0].status.Health = apply.InProgress
			w.workloads[1].After, w.workloads[2].After = []object.Key{key("Job", "plain")}, nil
		}, "release Job shop/with-login"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := &world{now: now, objects: []thing{
				thingOf(namespace), thingOf(definition), thingOf(config, namespace), thingOf(custom, namespace, definition),
			}, workloads: []workload{job("plain"), job("with-config", config), job("with-login", login)}, there: map[object.Key]bool{}}
			for i := range w.objects {
				o := &w.objects[i]
				o.applied = slices.Contains(tt.applied, o.Key)
				o.usable = o.applied
				w.there[o.Key] = o.applied
				if slices.Contains(tt.refused, o.Key) {
					o.refused = refusal{err: testenv.ErrDead, tries: 1, last: now}
				}
			}
			if tt.change != nil {
				tt.change(w)
			}
			if got := join(decide(w)); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// TestResidual: what Git does not hold comes back at once; of it, what pods may follow from waits until every claim names its volume.
// What is held up is tried again, not at once.
func TestResidual(t *testing.T) {
	reserved := volume{staging: staging(), pv: pv("staging", adopted), target: target()}
	absent := volume{staging: staging(), pv: pv("staging", adopted)}
	pending, held := returning{pending: true}, returning{pending: true, held: "no such kind", tried: now.Add(-time.Second)}
	tests := []struct {
		name                 string
		volume               volume
		returning, following returning
		brought              bool
		want                 string
	}{
		{"nothing to bring", reserved, returning{}, returning{}, true, ""},
		{"at first", reserved, pending, pending, false, "bring back"},
		{"a claim is not reserved yet", absent, returning{}, pending, true, ""},
		{"every claim is reserved", reserved, returning{}, pending, true, "follow"},
		{"held a moment ago", reserved, held, held, true, ""},
		{"held for a while", reserved, returning{pending: true, tried: now.Add(-returnEvery)}, held, true, "bring back"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := worldOf(tt.volume, func(w *world) { w.returning, w.following, w.broughtBack = tt.returning, tt.following, tt.brought })
			var got []string
			for _, a := range decide(w) {
				if a.verb == doBringBack || a.verb == doFollow {
					got = append(got, a.String())
				}
			}
			if text := strings.Join(got, ", "); text != tt.want {
				t.Errorf("got %q, want %q", text, tt.want)
			}
			if complete(w) {
				t.Error("it counts as complete")
			}
		})
	}
	done := worldOf(volume{target: target(phase(corev1.ClaimBound)), pv: pv("target", filled)})
	if !complete(done) {
		t.Error("a whole world is not complete")
	}
	for _, left := range []func(*world){func(w *world) { w.returning = held }, func(w *world) { w.following = held }} {
		w := *done
		if left(&w); complete(&w) || w.held() != "no such kind" {
			t.Errorf("complete without what is held: %q", w.held())
		}
	}
}

// TestCustomComesLater: what an operator makes of an object of the commit could take the place of what is still to come.
func TestCustomComesLater(t *testing.T) {
	custom := thing{Object: plan.Object{Key: object.Key{Group: "example.org", Kind: "Postgres", Namespace: "shop", Name: "db"}}}
	absent, reserved := volume{staging: staging(), pv: pv("staging", adopted)}, volume{staging: staging(), pv: pv("staging", adopted), target: target()}
	ofPoint := func(w *world) { w.volumes[0].Origin = plan.OriginPoint }
	tests := []struct {
		name   string
		volume volume
		change func(*world)
		comes  bool
	}{
		{"nothing is to come", reserved, ofPoint, true},
		{"what Git does not hold is not back", reserved, func(w *world) { w.broughtBack = false }, false},
		{"a claim that nobody in Git makes is not reserved", absent, ofPoint, false},
		{"a claim that the commit makes is not reserved", absent, func(w *world) { w.volumes[0].Origin = plan.OriginGit }, true},
		{"a claim of another namespace is not reserved", absent, func(w *world) {
			ofPoint(w)
			w.volumes[0].Name.Namespace = "other"
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := worldOf(tt.volume, tt.change)
			w.objects = []thing{custom}
			if got := strings.Contains(join(decide(w)), "apply Postgres"); got != tt.comes {
				t.Errorf("got %q", join(decide(w)))
			}
		})
	}
}

// TestClearUp: what was handed over is finished, everything else goes; what a workload counts on stays and is named.
func TestClearUp(t *testing.T) {
	given := func(v *corev1.PersistentVolume) { filled(v) }
	tests := []struct {
		name string
		l    leftover
		want verb
	}{
		{"nothing", leftover{}, ""},
		{"mover at work", leftover{busy: true, volume: volume{staging: staging(), pv: pv("staging", adopted), target: target()}}, doWait},
		{"staged", leftover{volume: volume{staging: staging(unbound)}}, doUnstage},
		{"provisioned", leftover{volume: volume{staging: staging(), pv: pv("staging")}}, doUnstage},
		{"adopted", leftover{volume: volume{staging: staging(), pv: pv("staging", adopted)}}, doGiveBack},
		{"policy given back, so that the volume goes with its staging claim", leftover{volume: volume{staging: staging(), pv: pv("staging")}}, doUnstage},
		{"filled and not handed over", leftover{volume: volume{staging: staging(), pv: pv("staging", adopted, filled), target: target()}}, doGiveBack},
		{"handed over", leftover{volume: volume{staging: staging(), pv: pv("target", adopted, filled), target: target()}}, doTouch},
		{"bound, staging holds on", leftover{volume: volume{staging: staging(), pv: pv("target", adopted, filled), target: target(phase(corev1.ClaimBound))}}, doTouch},
		{"bound", leftover{volume: volume{staging: staging(phase(corev1.ClaimLost)), pv: pv("target", adopted, filled), target: target(phase(corev1.ClaimBound))}}, doGiveBack},
		{"bound, policy given back", leftover{volume: volume{staging: staging(phase(corev1.ClaimLost)), pv: pv("target", given), target: target(phase(corev1.ClaimBound))}}, doUnstage},
		{"done", leftover{volume: volume{pv: pv("target", given), target: target(phase(corev1.ClaimBound))}}, ""},
		{"reserved by us, of no use to anybody", leftover{made: true, volume: volume{target: target()}}, doForget},
		{"reserved by us, and a workload waits", leftover{made: true, used: true, volume: volume{target: target()}}, doLeave},
		{"found, and reserved", leftover{volume: volume{target: target()}}, doLeave},
		{"going already", leftover{made: true, volume: volume{target: target(deleting)}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := clearUp(tt.l); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestAskAgain(t *testing.T) {
	for in, want := range map[time.Duration]time.Duration{0: 2 * time.Second, time.Minute: 30 * time.Second, time.Hour: 2 * time.Minute} {
		if got := askAgain(in); got != want {
			t.Errorf("after %s: got %s, want %s", in, got, want)
		}
	}
}
