package mover

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// Pruned is what a prune did, in points and bytes.
type Pruned struct {
	// Swept are removed points whose data was given up.
	Swept int `json:"swept"`
	// Deleted was deleted, Waiting is needless and not yet for the grace time, Kept should go and the store keeps it.
	Deleted int64 `json:"deleted"`
	Waiting int64 `json:"waiting"`
	Kept    int64 `json:"kept"`
}

// pruneName is the name of a prune's container.
const pruneName = "prune"

// pruneMemory bounds a prune. One that needs more is killed, which harms nothing, and says so.
var pruneMemory = corev1.ResourceRequirements{
	Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")},
	Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")},
}

// NewPruneJob makes the Job that prunes the vault; the spec has no volumes.
func NewPruneJob(s JobSpec) (*batchv1.Job, error) {
	value, err := json.Marshal([]Task{{Action: ActionPrune, VaultURL: s.Vault.URL}})
	if err != nil {
		return nil, fmt.Errorf("encoding the task of prune %q: %w", s.Name, err)
	}
	mounts := append([]corev1.VolumeMount{
		{Name: "key", MountPath: path.Dir(KeyFile), ReadOnly: true}, {Name: "tmp", MountPath: "/tmp"},
	}, s.Vault.Mounts...)
	env := []corev1.EnvVar{{Name: TaskEnv, Value: string(value)}}
	if s.Vault.CredentialsSecret != "" {
		mounts = append(mounts, corev1.VolumeMount{Name: "ca", MountPath: path.Dir(CAFile), ReadOnly: true})
		env = append(env, credentials("AWS_", s.Vault.CredentialsSecret)...)
	}
	c := newContainer(pruneName, s.Image, env, mounts, []corev1.Capability{"DAC_OVERRIDE", "FOWNER"})
	c.Resources = pruneMemory
	pod := newPod()
	pod.Volumes, pod.Containers = vaultVolumes(s.Vault), []corev1.Container{c}
	job := newJob(s.Name, s.Labels, pod, s.Deadline)
	job.Annotations = s.Annotations
	return job, nil
}

// PruneResult reads what a prune Job that is over left, of its pods.
func PruneResult(ctx context.Context, c client.Reader, job *batchv1.Job) (Result, error) {
	var pods corev1.PodList
	err := c.List(ctx, &pods, client.InNamespace(job.Namespace), client.MatchingLabels{batchv1.ControllerUidLabel: string(job.UID)})
	if err != nil {
		return Result{}, fmt.Errorf("listing the pods of job %q: %w", job.Name, err)
	}
	why := "the prune is gone and left no result"
	for _, pod := range pods.Items {
		for _, s := range pod.Status.ContainerStatuses {
			if s.Name != pruneName || s.State.Terminated == nil {
				continue
			}
			if all, err := DecodeResults(s.State.Terminated.Message); err == nil && len(all) == 1 {
				return all[0], nil
			}
			why = fmt.Sprintf("the prune left no result: %s, exit code %d", s.State.Terminated.Reason, s.State.Terminated.ExitCode)
		}
	}
	if _, failed := Finished(job); failed != "" {
		why += ": " + failed
	}
	return Result{Error: why, Reason: ReasonFailed}, nil
}

// PruneHopeless says in words why a prune Job that is not over should be ended: it is empty while there is hope.
func PruneHopeless(ctx context.Context, c client.Reader, job *batchv1.Job, now time.Time) (string, error) {
	if job.Annotations[AnnotationAbandoned] != "" || now.Sub(job.CreationTimestamp.Time) <= maxPending {
		return "", nil
	}
	var pods corev1.PodList
	err := c.List(ctx, &pods, client.InNamespace(job.Namespace), client.MatchingLabels{batchv1.ControllerUidLabel: string(job.UID)})
	if err != nil {
		return "", fmt.Errorf("listing the pods of job %q: %w", job.Name, err)
	}
	for _, pod := range pods.Items {
		for _, s := range pod.Status.ContainerStatuses {
			if s.State.Waiting == nil {
				return "", nil // it runs, or is over in a moment
			}
		}
	}
	return fmt.Sprintf("the prune did not start within %s", spelling.Duration(maxPending)), nil
}

// prune gives up what removed points kept, and then deletes what nothing needs. Both may run beside anything else.
func prune(ctx context.Context, v *volume.Vault, show func(volume.Progress)) (Result, error) {
	swept, err := catalog.Sweep(ctx, v, time.Now())
	if err != nil {
		return Result{}, err
	}
	r, err := v.Prune(ctx, volume.PruneOptions{Progress: show})
	if err != nil {
		return Result{}, err
	}
	return Result{Pruned: &Pruned{
		Swept: swept.Swept, Deleted: r.Deleted.Bytes, Waiting: r.Waiting.Bytes + r.Condemned.Bytes + r.Young.Bytes, Kept: r.Kept.Bytes,
	}}, nil
}
