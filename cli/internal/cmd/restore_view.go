package cmd

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// restoreItems is what a board shows of a restore: its volumes, its workloads, and last the whole.
func restoreItems(r *v1alpha1.Restore) []progress.Item {
	var items []progress.Item
	for _, v := range r.Status.Volumes {
		items = append(items, volumeItem(v))
	}
	for _, l := range r.Status.Workloads {
		items = append(items, workloadItem(r, l))
	}
	return append(items, overallItem(r))
}

func volumeItem(v v1alpha1.VolumeRestore) progress.Item {
	it := progress.Item{Name: "volume " + v.Namespace + "/" + v.Claim, State: string(v.State), Note: v.Message}
	if v.Attempts > 1 && v.State != v1alpha1.HydrationBound {
		it.Note = strings.TrimPrefix(fmt.Sprintf("%s, attempt %d", v.Message, v.Attempts), ", ")
	}
	switch v.State {
	case v1alpha1.HydrationHydrating, v1alpha1.HydrationVerifying:
		it.Done, it.Total = v.Progress, v.Bytes
	case v1alpha1.HydrationBound:
		it.Done, it.Total, it.Tone = v.Bytes, v.Bytes, progress.Good
	case v1alpha1.HydrationFailed:
		it.Tone = progress.Bad
	case v1alpha1.HydrationPlanned, v1alpha1.HydrationReserved, "":
		it.Tone = progress.Waiting
	}
	return it
}

func workloadItem(r *v1alpha1.Restore, l v1alpha1.WorkloadRestore) progress.Item {
	it := progress.Item{Name: workloadName(l), State: string(l.State), Note: l.Message}
	waits := stillWaitsFor(r, l)
	switch {
	case l.State == v1alpha1.WorkloadHealthy:
		it.Tone = progress.Good
	case len(waits) > 0:
		it.Tone = progress.Waiting
		it.Note = strings.TrimSuffix("waits for "+strings.Join(waits, ", ")+"; "+l.Message, "; ")
	case l.State == v1alpha1.WorkloadWaiting:
		it.Tone = progress.Waiting
	}
	return it
}

// stillWaitsFor are the claims that a workload, or a pod of it, waits for, each with its state. Whatever else it waits for the
// controller says in the workload's message.
func stillWaitsFor(r *v1alpha1.Restore, l v1alpha1.WorkloadRestore) []string {
	var out []string
	for _, name := range l.WaitsFor {
		i := slices.IndexFunc(r.Status.Volumes, func(v v1alpha1.VolumeRestore) bool { return v.Namespace+"/"+v.Claim == name })
		if i >= 0 && r.Status.Volumes[i].BoundAt == nil {
			out = append(out, fmt.Sprintf("%s (%s)", name, strings.ToLower(string(r.Status.Volumes[i].State))))
		}
	}
	return out
}

// overallItem counts the bytes of all volumes: those that are filled, and those that are being filled.
func overallItem(r *v1alpha1.Restore) progress.Item {
	c := ready(r)
	it := progress.Item{Name: "restore", State: c.Reason}
	if r.Status.StartedAt != nil {
		it.Since = r.Status.StartedAt.Time
	}
	for _, v := range r.Status.Volumes {
		it.Total += v.Bytes
		switch {
		case v.HydratedAt != nil || v.State == v1alpha1.HydrationVerifying:
			it.Done += v.Bytes
		case v.State == v1alpha1.HydrationHydrating:
			it.Done += v.Progress
		}
	}
	notes := []string{r.Status.Summary}
	switch {
	case c.Status == metav1.ConditionTrue:
		it.Tone = progress.Good
	case stalled(r):
		it.Tone, notes = progress.Bad, []string{c.Message}
	case c.Reason != v1alpha1.ReasonProgressing, r.Status.Summary == "":
		notes = []string{c.Message}
	}
	if o := r.Status.Objective; o != nil && !finished(r) {
		notes = append(notes, output.Duration(o.Duration)+" promised")
	}
	it.Note = strings.Trim(strings.Join(notes, ", "), ", ")
	return it
}
