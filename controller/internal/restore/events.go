package restore

import (
	"fmt"

	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// event is one thing that happened to a restore.
type event struct {
	kind, reason, message string
}

func pointChosen(p v1alpha1.ChosenPoint) event {
	return event{corev1.EventTypeNormal, "PointChosen", fmt.Sprintf("point %s (%s): %s", p.ID, p.Match, p.Message)}
}

func claimsReserved() event {
	return event{corev1.EventTypeNormal, "ClaimsReserved", "every claim is reserved"}
}

func volumeRestored(v v1alpha1.VolumeRestore) event {
	return event{corev1.EventTypeNormal, "VolumeRestored", fmt.Sprintf("claim %s/%s has its data", v.Namespace, v.Claim)}
}

func stalled(reason, message string) event {
	return event{corev1.EventTypeWarning, reason, message}
}

func restored(s v1alpha1.RestoreStatus) event {
	return event{corev1.EventTypeNormal, "Restored", fmt.Sprintf("commit %s runs with the data of point %s, %s after the restore was asked for",
		s.Revision.Commit, s.Point.ID, s.CompletedAt.Sub(s.StartedAt.Time).Round(1e9))}
}

func claimLeft(claim object.Name) event {
	return event{corev1.EventTypeWarning, "ClaimLeft", fmt.Sprintf("claim %s stays reserved and has no data: were it deleted, its workload would "+
		"start empty. Delete the workload and the claim, then restore again", claim)}
}

// eventsBetween are what is new in a status.
func eventsBetween(before, after *v1alpha1.Restore) []event {
	var out []event
	old, now := before.Status, after.Status
	if old.Point == nil && now.Point != nil {
		out = append(out, pointChosen(*now.Point))
	}
	if old.ReservedAt == nil && now.ReservedAt != nil && len(now.Volumes) > 0 {
		out = append(out, claimsReserved())
	}
	for _, v := range now.Volumes {
		if v.BoundAt != nil && !wasBound(old.Volumes, v) {
			out = append(out, volumeRestored(v))
		}
	}
	if conditions.IsStalled(after) && conditions.GetMessage(before, v1alpha1.ConditionStalled) != conditions.GetMessage(after, v1alpha1.ConditionStalled) {
		out = append(out, stalled(conditions.GetReason(after, v1alpha1.ConditionStalled), conditions.GetMessage(after, v1alpha1.ConditionStalled)))
	}
	if old.CompletedAt == nil && now.CompletedAt != nil {
		out = append(out, restored(now))
	}
	return out
}

func wasBound(before []v1alpha1.VolumeRestore, v v1alpha1.VolumeRestore) bool {
	for _, b := range before {
		if b.Namespace == v.Namespace && b.Claim == v.Claim {
			return b.BoundAt != nil
		}
	}
	return false
}
