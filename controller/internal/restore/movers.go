package restore

import (
	"context"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// A mover gets an hour, and what its bytes take at a rate that only broken storage is below.
const (
	minDeadline = time.Hour
	slowest     = 4 << 20 // bytes a second
)

// fill starts a mover for those volumes of the groups that have no data yet. Of the attempts before, only the last has
// something to say.
func (s scope) fill(ctx context.Context, indexes []int, attempt int) error {
	g := s.group(indexes[0])
	spec := mover.JobSpec{
		Name: jobName(s.world.uid, g.Index, attempt), Image: s.Image, Vault: s.replay.access,
		Labels:       temporary(s.world.uid),
		Annotations:  map[string]string{annotationAttempt: strconv.Itoa(attempt)},
		NodeSelector: g.NodeSelector, Tolerations: g.Tolerations,
		Together: len(indexes) > 1,
	}
	if spec.Together {
		spec.Name = sharedName(s.world.uid, g.Index)
	}
	spec.Labels[labelGroup] = groupsLabel(indexes)
	if g.NodeAffinity != nil {
		spec.Affinity = &corev1.Affinity{NodeAffinity: g.NodeAffinity}
	}
	var bytes int64
	for _, index := range indexes {
		for _, v := range s.world.members(s.group(index)) {
			if v.hydrated() {
				continue
			}
			bytes += v.Bytes
			spec.Volumes = append(spec.Volumes, mover.JobVolume{Claim: v.staging.Name, Block: v.Block, Task: mover.Task{
				Action: mover.ActionLoad, Snapshot: v.Snapshot, Verify: s.world.verify, ContentRoot: v.ContentRoot, MetaRoot: v.MetaRoot,
			}})
		}
	}
	spec.Deadline = minDeadline + time.Duration(bytes/slowest)*time.Second
	job, err := mover.NewJob(spec)
	if err != nil {
		return err
	}
	if started, err := s.Movers.Start(ctx, job); err != nil || !started {
		return err // where there is no room now, another restore or a backup was faster: its turn comes
	}
	for _, j := range g.jobs {
		if j.attempt < attempt-1 {
			if err := s.deleteJob(ctx, jobName(s.world.uid, g.Index, j.attempt)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s scope) group(index int) group {
	return s.world.groups[slices.IndexFunc(s.world.groups, func(g group) bool { return g.Index == index })]
}

// abandon ends the group's last mover. The attempt stays, with the reason, until the next is made.
func (s scope) abandon(ctx context.Context, index int) error {
	last := s.group(index).last()
	job := &batchv1.Job{}
	if err := s.Reader.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: jobName(s.world.uid, index, last.attempt)}, job); err != nil {
		return client.IgnoreNotFound(err)
	}
	return s.Movers.Abandon(ctx, job, last.state.Hopeless(s.world.now))
}

func (s scope) dismiss(ctx context.Context, index int) error {
	g := s.group(index)
	if g.shared != nil {
		return s.deleteJob(ctx, sharedName(s.world.uid, g.shared.groups[0]))
	}
	for _, j := range g.jobs {
		if err := s.deleteJob(ctx, jobName(s.world.uid, index, j.attempt)); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) deleteJob(ctx context.Context, name string) error {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}}
	err := r.Client.Delete(ctx, job, client.PropagationPolicy(metav1.DeletePropagationBackground))
	return client.IgnoreNotFound(err)
}
