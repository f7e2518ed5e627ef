package restore

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// A Job that has no volumes of its own starts at once, and may use up its tries before the database that it is for has its
// data. So a Job that failed before the data was in use is made again, once. Which one that is, by its UID, is in the status
// before it is deleted: a controller that starts anew deletes that one, if it is still there, and never the one made after it.

// settling bounds the wait for workloads with data to become healthy, before a Job is made again that may be for them.
const settling = time.Minute

// liveJob is what a workload that is a Job looks like in the cluster.
type liveJob struct {
	uid      types.UID
	deleting bool
	// failed is when the Job gave up; zero if it has not.
	failed time.Time
}

func isJob(key object.Key) bool { return key.Group == batchv1.GroupName && key.Kind == "Job" }

// observeJobs looks at the Jobs that have failed, or are to be made again.
func (r *Reconciler) observeJobs(ctx context.Context, restore *v1alpha1.Restore, w *world) error {
	for i := range w.workloads {
		l := &w.workloads[i]
		if !isJob(l.Key) {
			continue
		}
		l.replaces = types.UID(statusOf(restore, l.Workload).Replaces)
		if l.replaces == "" && l.status.Health != apply.Failed {
			continue
		}
		live := &batchv1.Job{}
		err := r.Reader.Get(ctx, client.ObjectKey(l.NamespacedName()), live)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading job %q: %w", l.NamespacedName(), err)
		}
		if err == nil {
			l.live = &liveJob{uid: live.UID, deleting: live.DeletionTimestamp != nil, failed: failedAt(live)}
		}
	}
	w.settled = settled(restore, w)
	return nil
}

// failedAt is when a Job gave up; zero if it has not.
func failedAt(j *batchv1.Job) time.Time {
	for _, c := range j.Status.Conditions {
		if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

// statusOf is what the status says of a workload so far.
func statusOf(restore *v1alpha1.Restore, l plan.Workload) v1alpha1.WorkloadRestore {
	for _, s := range restore.Status.Workloads {
		if s.Kind == l.Kind && s.Namespace == l.Namespace && s.Name == l.Name {
			return s
		}
	}
	return v1alpha1.WorkloadRestore{}
}

// settled is when every volume was bound and the workloads that mount them were healthy; zero while that is still to come.
func settled(restore *v1alpha1.Restore, w *world) time.Time {
	if restore.Status.BoundAt == nil {
		return time.Time{}
	}
	at := restore.Status.BoundAt.Time
	for _, l := range w.workloads {
		healthy := statusOf(restore, l.Workload).HealthyAt
		switch {
		case len(l.WaitsFor) == 0:
		case healthy != nil && healthy.After(at):
			at = healthy.Time
		case healthy == nil && w.now.Sub(restore.Status.BoundAt.Time) < settling:
			return time.Time{}
		}
	}
	return at
}

// replaceDue says that a Job failed too early and is to be made again.
func (w *world) replaceDue(l workload) bool {
	return l.replaces == "" && l.live != nil && !l.live.failed.IsZero() && l.live.failed.Before(w.settled)
}

// replaced says that the Job which is there is the one that is to go.
func (l workload) replaced() bool {
	return l.replaces != "" && l.live != nil && l.live.uid == l.replaces
}

// decideJobs removes the Jobs that the status says are to be made again.
func (w *world) decideJobs() []action {
	var out []action
	for _, l := range w.workloads {
		if l.replaced() && !l.live.deleting {
			out = append(out, action{verb: doReplace, object: l.Key})
		}
	}
	return out
}

// replace deletes a Job that failed too early; once it is gone, it is released again.
func (s scope) replace(ctx context.Context, key object.Key) error {
	for _, l := range s.world.workloads {
		if l.Key != key {
			continue
		}
		s.replay.ledger.forget(key)
		old := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}}
		err := s.Client.Delete(ctx, old, client.Preconditions{UID: &l.replaces}, client.PropagationPolicy(metav1.DeletePropagationBackground))
		return client.IgnoreNotFound(err)
	}
	return nil
}
