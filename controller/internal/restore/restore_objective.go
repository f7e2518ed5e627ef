package restore

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// promise notes the RTO that the policy promises; 0 is no promise.
func promise(restore *v1alpha1.Restore, rto time.Duration) {
	restore.Status.Objective = nil
	if rto > 0 {
		restore.Status.Objective = &metav1.Duration{Duration: rto}
	}
}

// measure notes what the restore took, and holds it against the promise. Statuses have whole seconds, and so has the RTO:
// whoever subtracts the times in the status must get the same.
func measure(restore *v1alpha1.Restore, now time.Time) {
	s := &restore.Status
	now = now.Truncate(time.Second)
	s.CompletedAt = &metav1.Time{Time: now}
	rto := now.Sub(s.StartedAt.Truncate(time.Second))
	s.RTO = &metav1.Duration{Duration: rto}
	if s.Objective != nil {
		s.ObjectiveMet = new(rto <= s.Objective.Duration)
	}
}

// summary counts what is back.
func summary(s *v1alpha1.RestoreStatus) string {
	bound, healthy := 0, 0
	for _, v := range s.Volumes {
		if v.State == v1alpha1.HydrationBound {
			bound++
		}
	}
	for _, l := range s.Workloads {
		if l.State == v1alpha1.WorkloadHealthy {
			healthy++
		}
	}
	return fmt.Sprintf("%d/%d volumes, %d/%d workloads", bound, len(s.Volumes), healthy, len(s.Workloads))
}

// after says how long after the restore was asked for something happened.
func after(s v1alpha1.RestoreStatus, at *metav1.Time) string {
	if s.StartedAt == nil || at == nil {
		return ""
	}
	return fmt.Sprintf(" %s after the restore was asked for", spelling.Duration(at.Sub(s.StartedAt.Time).Round(time.Second)))
}

func objectiveMeasured(s v1alpha1.RestoreStatus) event {
	if *s.ObjectiveMet {
		return event{corev1.EventTypeNormal, "ObjectiveMet", fmt.Sprintf("the RTO was %s, and %s are promised", spelling.Duration(s.RTO.Duration), spelling.Duration(s.Objective.Duration))}
	}
	return event{corev1.EventTypeWarning, "ObjectiveMissed", fmt.Sprintf("the RTO was %s, %s more than the %s that are promised",
		spelling.Duration(s.RTO.Duration), spelling.Duration(s.RTO.Duration-s.Objective.Duration), spelling.Duration(s.Objective.Duration))}
}
