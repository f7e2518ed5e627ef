package cmd

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// restoreReport is a restore for programs: the object, with what follows from its measured times.
type restoreReport struct {
	*v1alpha1.Restore
	// Timeline is every measured moment in order.
	Timeline []moments `json:"timeline"`
	// RTOSeconds is set once everything is back, ObjectiveSeconds where the policy promises an RTO, ObjectiveMet with both.
	RTOSeconds       *int64 `json:"rtoSeconds,omitempty"`
	ObjectiveSeconds *int64 `json:"objectiveSeconds,omitempty"`
	ObjectiveMet     *bool  `json:"objectiveMet,omitempty"`
}

// moments is one measured moment of a restore.
type moments struct {
	// Seconds since the restore was asked for.
	Seconds int64       `json:"seconds"`
	At      metav1.Time `json:"at"`
	// What happened: Begun, ClaimsReserved, WorkloadReleased, VolumeFilled, VolumeBound, VolumesBound, WorkloadHealthy, Completed or
	// Stopped.
	What string `json:"what"`
	// Object is what it happened to, if to one: a claim as "<namespace>/<name>", a workload with its kind before.
	Object  string `json:"object,omitempty"`
	Message string `json:"message"`
}

func reportRestore(r *v1alpha1.Restore) restoreReport {
	report := restoreReport{Restore: named(r, "Restore"), Timeline: timeline(r)}
	rto, done := recoveryTime(r)
	if done {
		report.RTOSeconds = new(int64(rto / time.Second))
	}
	if o := r.Status.Objective; o != nil {
		report.ObjectiveSeconds = new(int64(o.Duration / time.Second))
		if done {
			report.ObjectiveMet = new(rto <= o.Duration)
		}
	}
	return report
}

// recoveryTime is what a finished restore took.
func recoveryTime(r *v1alpha1.Restore) (time.Duration, bool) {
	if r.Status.StartedAt == nil || r.Status.CompletedAt == nil {
		return 0, false
	}
	return r.Status.CompletedAt.Sub(r.Status.StartedAt.Time), true
}

// timeline is every measured moment of a restore in order.
func timeline(r *v1alpha1.Restore) []moments {
	all := []moments{}
	s := r.Status
	add := func(at *metav1.Time, what, object, format string, args ...any) {
		if at != nil && s.StartedAt != nil {
			all = append(all, moments{int64(at.Sub(s.StartedAt.Time) / time.Second), *at, what, object, fmt.Sprintf(format, args...)})
		}
	}
	add(s.StartedAt, "Begun", "", "begun")
	add(s.ReservedAt, "ClaimsReserved", "", "every claim is reserved")
	for _, l := range s.Workloads {
		add(l.ReleasedAt, "WorkloadReleased", workloadName(l), "%s is released", workloadName(l))
	}
	for _, v := range s.Volumes {
		name := v.Namespace + "/" + v.Claim
		add(v.HydratedAt, "VolumeFilled", name, "volume %s is filled and verified, %s", name, output.Bytes(v.Bytes))
		add(v.BoundAt, "VolumeBound", name, "volume %s is bound", name)
	}
	add(s.BoundAt, "VolumesBound", "", "every volume is bound")
	for _, l := range s.Workloads {
		add(l.HealthyAt, "WorkloadHealthy", workloadName(l), "%s is healthy", workloadName(l))
	}
	if stalled(r) {
		c := ready(r)
		add(&c.LastTransitionTime, "Stopped", "", "stopped: %s", sentence(c.Reason, c.Message))
	}
	if s.Revision == nil {
		add(s.CompletedAt, "Completed", "", "everything is in place")
	} else {
		add(s.CompletedAt, "Completed", "", "everything is healthy")
	}
	slices.SortStableFunc(all, func(a, b moments) int { return cmp.Compare(a.Seconds, b.Seconds) })
	return all
}

func timelineRows(r *v1alpha1.Restore) [][]string {
	var rows [][]string
	for _, m := range timeline(r) {
		rows = append(rows, []string{fmt.Sprintf("+%d s", m.Seconds), m.Message})
	}
	return rows
}

func writeTimeline(w io.Writer, r *v1alpha1.Restore) error {
	if err := output.Rows(w, nil, timelineRows(r)); err != nil {
		return err
	}
	switch rto, ok := recoveryTime(r); {
	case ok && r.Status.Revision != nil:
		fmt.Fprintf(w, "commit %s%s is back with its data; RTO %d s\n", short(r.Status.Revision.Commit),
			parenthesised(r.Status.Revision.Ref), int(rto.Seconds()))
	case ok && len(r.Spec.Volumes) > 0:
		fmt.Fprintf(w, "%s back, in %d s\n", output.Count(len(r.Status.Volumes), "volume is", "volumes are"), int(rto.Seconds()))
	}
	if text := objective(r); text != "" {
		if _, err := fmt.Fprintf(w, "objective: %s\n", text); err != nil {
			return err
		}
	}
	return nil
}

// objective holds what a restore took against what the policy promises; it is empty without a promise.
func objective(r *v1alpha1.Restore) string {
	if r.Status.Objective == nil {
		return ""
	}
	promised := r.Status.Objective.Duration
	rto, done := recoveryTime(r)
	switch {
	case !done:
		return output.Duration(promised)
	case rto <= promised:
		return fmt.Sprintf("%s, met with %s to spare", output.Duration(promised), output.Duration(promised-rto))
	}
	return fmt.Sprintf("%s, MISSED by %s", output.Duration(promised), output.Duration(rto-promised))
}
