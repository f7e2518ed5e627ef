// Package movers bounds how many movers run at once: in the cluster, and on each node.
package movers

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch
// +kubebuilder:rbac:groups="",namespace=lockstep-system,resources=events,verbs=list
// +kubebuilder:rbac:groups=batch,namespace=lockstep-system,resources=jobs,verbs=patch

// Limits are how many movers may run at once.
type Limits struct {
	// Max is for the whole cluster, PerNode for each of its nodes.
	Max, PerNode int
}

// Room is what all backups and restores together have for their movers.
type Room struct {
	// Reader must not be a cache: it would not know the mover that was made last.
	Reader client.Reader
	// Client writes; of what it reads, the nodes, a cache knows enough.
	Client client.Client
	Limits Limits

	admission sync.Mutex // between counting movers and adding one
}

// labelSlot is on every mover and its pod. Two movers of one slot are never on one node, and there are as many slots as a node
// may have movers. So it is the scheduler that keeps the limit: it alone knows at each moment where every pod is, and it goes
// on when a controller dies.
const labelSlot = "lockstep.dev/mover-slot"

// Start makes the Job of a mover, and says false if there is no room for it now. A Job of its name counts as room for itself. It is the
// only way to make one: whatever the mover is for, it is counted.
func (r *Room) Start(ctx context.Context, job *batchv1.Job) (bool, error) {
	r.admission.Lock()
	defer r.admission.Unlock()
	others, err := r.running(ctx, job.Name)
	if err != nil {
		return false, err
	}
	limit, err := r.limit(ctx)
	if err != nil || len(others) >= limit {
		return false, err
	}
	metav1.SetMetaDataLabel(&job.ObjectMeta, v1alpha1.LabelManagedBy, v1alpha1.FieldManager) // running counts by it
	spread(job, leastUsed(others, r.Limits.PerNode))
	if err := r.Client.Create(ctx, job, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return false, fmt.Errorf("making mover %q: %w", job.Name, err)
	}
	return true, nil
}

// Abandon ends a mover for which there is no hope, and keeps why with it. The Job itself stays, as a failed one.
func (r *Room) Abandon(ctx context.Context, job *batchv1.Job, why string) error {
	changed := job.DeepCopy()
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, mover.AnnotationAbandoned, why)
	changed.Spec.ActiveDeadlineSeconds = new(int64(1))
	err := client.IgnoreNotFound(r.Client.Patch(ctx, changed, client.MergeFrom(job), client.FieldOwner(v1alpha1.FieldManager)))
	if err != nil {
		return fmt.Errorf("ending mover %q: %w", job.Name, err)
	}
	return nil
}

// Left is how many more movers may run now.
func (r *Room) Left(ctx context.Context) (int, error) {
	taken, err := r.running(ctx, "")
	if err != nil {
		return 0, err
	}
	limit, err := r.limit(ctx)
	return max(limit-len(taken), 0), err
}

// limit is the smaller of what the cluster may have and what its nodes together may: a mover more than that would only wait for
// a node. Without any node that takes pods, one may wait.
func (r *Room) limit(ctx context.Context) (int, error) {
	var nodes corev1.NodeList
	if err := r.Client.List(ctx, &nodes); err != nil {
		return 0, fmt.Errorf("counting nodes: %w", err)
	}
	available := 0
	for _, n := range nodes.Items {
		if !n.Spec.Unschedulable {
			available++
		}
	}
	return min(r.Limits.Max, max(available*r.Limits.PerNode, 1)), nil
}

func (r *Room) running(ctx context.Context, except string) ([]batchv1.Job, error) {
	var jobs batchv1.JobList
	err := r.Reader.List(ctx, &jobs, client.InNamespace(v1alpha1.SystemNamespace), client.MatchingLabels{v1alpha1.LabelManagedBy: v1alpha1.FieldManager})
	if err != nil {
		return nil, fmt.Errorf("counting movers: %w", err)
	}
	var out []batchv1.Job
	for _, j := range jobs.Items {
		if Ended(&j).IsZero() && j.Name != except {
			out = append(out, j)
		}
	}
	return out, nil
}

// leastUsed is the slot with the fewest movers, so that each finds a node as soon as any can.
func leastUsed(running []batchv1.Job, slots int) int {
	used := make([]int, slots)
	for _, j := range running {
		if slot, err := strconv.Atoi(j.Labels[labelSlot]); err == nil && 0 <= slot && slot < slots {
			used[slot]++
		}
	}
	best := 0
	for slot := range used {
		if used[slot] < used[best] {
			best = slot
		}
	}
	return best
}

// spread gives the mover a slot and keeps it from nodes where that slot is taken.
func spread(job *batchv1.Job, slot int) {
	mine := map[string]string{labelSlot: strconv.Itoa(slot)}
	for _, m := range []*metav1.ObjectMeta{&job.ObjectMeta, &job.Spec.Template.ObjectMeta} {
		labels := maps.Clone(mine)
		maps.Copy(labels, m.Labels)
		m.Labels = labels
	}
	affinity := job.Spec.Template.Spec.Affinity.DeepCopy()
	if affinity == nil {
		affinity = &corev1.Affinity{}
	}
	if affinity.PodAntiAffinity == nil {
		affinity.PodAntiAffinity = &corev1.PodAntiAffinity{}
	}
	required := &affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	*required = append(*required, corev1.PodAffinityTerm{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: mine},
	})
	job.Spec.Template.Spec.Affinity = affinity
}

// Ended is when a Job was over; zero while it is not.
func Ended(j *batchv1.Job) time.Time {
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}
