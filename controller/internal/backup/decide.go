package backup

import (
	"fmt"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// step is the next thing to do for a volume whose snapshot has been cut.
type step string

const (
	stepWait   step = "wait"
	stepRetain step = "retain" // make the storage's snapshot outlive the object in the application's namespace
	stepExpose step = "expose" // name the same storage snapshot in lockstep-system
	stepRemove step = "remove" // take the original snapshot out of the application's namespace
	stepClaim  step = "claim"  // ask for a temporary volume from the snapshot
	stepAlias  step = "alias"  // name the volume itself in lockstep-system, where there can be no snapshot
	stepStart  step = "start"  // make a mover
	stepEnd    step = "end"    // end a mover for which there is no hope
	stepNote   step = "note"   // keep the mover's result in the status
	stepFail   step = "fail"
	stepClean  step = "clean" // the result is safe: remove what is temporary
)

// decision is a step and what to show of it.
type decision struct {
	step    step
	state   v1alpha1.VolumeState
	message string // of stepWait, stepEnd and stepFail
	reason  string // of stepFail
}

func wait(state v1alpha1.VolumeState, message string) decision {
	return decision{step: stepWait, state: state, message: message}
}

func failed(reason, format string, args ...any) decision {
	return decision{step: stepFail, state: v1alpha1.VolumeFailed, reason: reason, message: fmt.Sprintf(format, args...)}
}

// decide finds the next step of a volume from what there is of it.
func decide(v *work, l Limits, now time.Time) decision {
	switch {
	case v.capture.Snapshot != "":
		return decision{step: stepClean, state: v1alpha1.VolumeSaved}
	case v.job != nil:
		return decideJob(v, l, now)
	case v.claim != nil && v.claim.Status.Phase == corev1.ClaimLost:
		return failed(v1alpha1.ReasonSnapshotFailed, "claim %q: the temporary volume was lost", v.capture.Claim)
	case v.claim != nil:
		return decision{step: stepStart, state: v1alpha1.VolumeSaving}
	case inPlace(v.capture):
		return decision{step: stepAlias, state: v1alpha1.VolumeExposing}
	}
	return decideSnapshot(v)
}

// decideSnapshot brings a snapshot from the application's namespace into lockstep-system. At each moment exactly one content
// would delete the storage's snapshot, or none. One of a group is the group's to delete: it stays where it is, and its second name keeps it.
func decideSnapshot(v *work) decision {
	exposing := func(s step) decision { return decision{step: s, state: v1alpha1.VolumeExposing} }
	if v.exposed == nil {
		switch {
		case v.snapshot == nil && v.group != nil && !groupReady(v.group):
			return wait(v1alpha1.VolumeSnapshotting, groupError(v.group))
		case v.snapshot == nil && v.group != nil:
			return failed(v1alpha1.ReasonSnapshotFailed, "claim %q: the group snapshot is ready and has none of it", v.capture.Claim)
		case v.snapshot == nil:
			return failed(v1alpha1.ReasonSnapshotFailed, "claim %q: its snapshot was deleted before it was saved", v.capture.Claim)
		case !ready(v.snapshot):
			return wait(v1alpha1.VolumeSnapshotting, snapshotError(v.snapshot))
		case v.content == nil || v.content.Status == nil || v.content.Status.SnapshotHandle == nil:
			return wait(v1alpha1.VolumeSnapshotting, "")
		case !v.grouped && (v.content.Spec.DeletionPolicy != snapshotv1.VolumeSnapshotContentRetain || v.content.Labels[v1alpha1.LabelRestorePoint] == ""):
			return exposing(stepRetain)
		}
		return exposing(stepExpose)
	}
	switch {
	case v.exposedSnapshot == nil:
		return exposing(stepExpose)
	case !v.grouped && v.snapshot != nil && v.snapshot.DeletionTimestamp == nil:
		return exposing(stepRemove) // its content, which nobody sees, goes when the volume is saved
	case !ready(v.exposedSnapshot):
		return wait(v1alpha1.VolumeExposing, snapshotError(v.exposedSnapshot))
	}
	return exposing(stepClaim)
}

func decideJob(v *work, l Limits, now time.Time) decision {
	switch v.mover.Phase {
	case mover.PhaseSucceeded:
		return decision{step: stepNote, state: v1alpha1.VolumeSaving}
	case mover.PhaseFailed:
		message := fmt.Sprintf("claim %q: %s", v.capture.Claim, v.mover.Message)
		if v.mover.Terminal || v.capture.Attempts > l.Retries {
			return failed(v1alpha1.ReasonSaveFailed, "%s", message)
		}
		if now.Before(movers.Ended(v.job).Add(backoff(l.RetryAfter, v.capture.Attempts))) {
			return wait(v1alpha1.VolumeSaving, "waiting to try again: "+v.mover.Message)
		}
		return decision{step: stepStart, state: v1alpha1.VolumeSaving}
	}
	if why := v.mover.Hopeless(now); why != "" {
		return decision{step: stepEnd, state: v1alpha1.VolumeSaving, message: why}
	}
	return wait(v1alpha1.VolumeSaving, v.mover.Message)
}

// backoff triples with each attempt.
func backoff(first time.Duration, attempts int32) time.Duration {
	for ; attempts > 1; attempts-- {
		first *= 3
	}
	return first
}

func ready(s *snapshotv1.VolumeSnapshot) bool {
	return s.Status != nil && s.Status.ReadyToUse != nil && *s.Status.ReadyToUse
}

// isCut reports whether the moment of a snapshot is fixed: from then on, what the application writes is not in it.
func isCut(s *snapshotv1.VolumeSnapshot) bool {
	return s != nil && s.Status != nil && (s.Status.CreationTime != nil || ready(s))
}

// asked reports whether a snapshot of the volume was asked for.
func (v *work) asked() bool { return v.snapshot != nil || v.group != nil }

// cut reports whether the moment of a volume is fixed. One that is read itself has none.
func (v *work) cut() bool {
	if v.grouped {
		return groupCut(v.group)
	}
	return inPlace(v.capture) || isCut(v.snapshot)
}

// taken is the snapshot's own time. Drivers that do not tell it are taken at their word when they are ready.
func (v *work) taken(now time.Time) *metav1.Time {
	switch {
	case v.grouped && v.group.Status.CreationTime != nil:
		return v.group.Status.CreationTime
	case !v.grouped && v.snapshot.Status.CreationTime != nil:
		return v.snapshot.Status.CreationTime
	}
	return &metav1.Time{Time: now}
}

// trouble is what the storage says of a snapshot that does not come.
func (v *work) trouble() string {
	if v.grouped {
		return groupError(v.group)
	}
	return snapshotError(v.snapshot)
}

func snapshotError(s *snapshotv1.VolumeSnapshot) string {
	if s == nil || s.Status == nil || s.Status.Error == nil || s.Status.Error.Message == nil {
		return ""
	}
	return *s.Status.Error.Message
}
