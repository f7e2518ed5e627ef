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

func claimsReserved(s v1alpha1.RestoreStatus) event {
	return event{corev1.EventTypeNormal, "ClaimsReserved", "every claim is reserved" + after(s, s.ReservedAt)}
}

func volumeRestored(s v1alpha1.RestoreStatus, v v1alpha1.VolumeRestore) event {
	return event{corev1.EventTypeNormal, "VolumeRestored", fmt.Sprintf("claim %s/%s has its data%s", v.Namespace, v.Claim, after(s, v.BoundAt))}
}

func alteredOnTheWay(v v1alpha1.VolumeRestore) event {
	return event{corev1.EventTypeWarning, "AlteredOnTheWay", fmt.Sprintf("claim %s/%s: something was altered on the way from the vault, %d times, and good "+
		"when it was read once more", v.Namespace, v.Claim, v.Reread)}
}

func workloadHealthy(s v1alpha1.RestoreStatus, l v1alpha1.WorkloadRestore) event {
	return event{corev1.EventTypeNormal, "WorkloadHealthy", fmt.Sprintf("%s %s/%s is healthy%s", l.Kind, l.Namespace, l.Name, after(s, l.HealthyAt))}
}

func stalled(reason, message string) event {
	return event{corev1.EventTypeWarning, reason, message}
}

func restored(s v1alpha1.RestoreStatus) event {
	return event{corev1.EventTypeNormal, "Restored", fmt.Sprintf("%s, %s after the restore was asked for",
		outcome(s), s.CompletedAt.Sub(s.StartedAt.Time).Round(1e9))}
}

func engineReleased(engine v1alpha1.Engine) event {
	return event{corev1.EventTypeNormal, "EngineReleased", fmt.Sprintf("%s follows Git's branch again", engine)}
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
		out = append(out, claimsReserved(now))
	}
	for _, v := range now.Volumes {
		if v.BoundAt != nil && !wasBound(old.Volumes, v) {
			out = append(out, volumeRestored(now, v))
		}
	}
	for i, v := range now.Volumes {
		if v.Reread > 0 && (i >= len(old.Volumes) || old.Volumes[i].Reread != v.Reread) {
			out = append(out, alteredOnTheWay(v))
		}
	}
	for _, l := range now.Workloads {
		if l.HealthyAt != nil && !wasHealthy(old.Workloads, l) {
			out = append(out, workloadHealthy(now, l))
		}
	}
	if conditions.IsStalled(after) && conditions.GetMessage(before, v1alpha1.ConditionStalled) != conditions.GetMessage(after, v1alpha1.ConditionStalled) {
		out = append(out, stalled(conditions.GetReason(after, v1alpha1.ConditionStalled), conditions.GetMessage(after, v1alpha1.ConditionStalled)))
	}
	if old.CompletedAt == nil && now.CompletedAt != nil {
		out = append(out, restored(now))
		if now.ObjectiveMet != nil {
			out = append(out, objectiveMeasured(now))
		}
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

func wasHealthy(before []v1alpha1.WorkloadRestore, l v1alpha1.WorkloadRestore) bool {
	for _, b := range before {
		if b.Kind == l.Kind && b.Namespace == l.Namespace && b.Name == l.Name {
			return b.HealthyAt != nil
		}
	}
	return false
}
