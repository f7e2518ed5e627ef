package mover

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// copyContainer is the container that copies, and stands for a claim in what is observed of it.
const copyContainer = "copy"

// CopyResult is the result of a copy that is over, and whether it left one.
func (s State) CopyResult() (Result, bool) {
	r, ok := s.Results[copyContainer]
	return r, ok
}

// CopySpec is a Job that brings a restore point from one vault into another. It alone has the keys of both.
type CopySpec struct {
	// Name is in lockstep-system.
	Name, Image string
	Labels      map[string]string
	From, To    VaultAccess
	Point       string
	// Recheck reads back what the other vault has already.
	Recheck bool
	// Deadline bounds the whole Job; 0 is no bound.
	Deadline time.Duration
}

// Place is where a mover finds what opens one vault.
type Place struct {
	// Key and CA are files; CA need not exist.
	Key, CA string
	// Env begins the names of the variables with the store's credentials.
	Env string
}

// PlaceOf says where the tasks' Job has put what opens the vault at a URL. A copy has none of the variables that the ambient chain reads:
// the credentials of one vault are not tried on the other.
func PlaceOf(tasks []Task, url string) Place {
	copies := slices.ContainsFunc(tasks, func(t Task) bool { return t.Action == ActionCopy })
	switch {
	case !copies:
		return Place{KeyFile, CAFile, "AWS_"}
	case slices.ContainsFunc(tasks, func(t Task) bool { return t.To == url }):
		return copyTo
	}
	return copyFrom
}

var (
	copyFrom = Place{"/lockstep/from-key/identity", "/lockstep/from-ca/ca.crt", "LOCKSTEP_FROM_"}
	copyTo   = Place{"/lockstep/to-key/identity", "/lockstep/to-ca/ca.crt", "LOCKSTEP_TO_"}
)

// NewCopyJob makes the Job. Nothing in it is random or depends on the time, so that making it twice makes it once.
func NewCopyJob(s CopySpec) (*batchv1.Job, error) {
	tasks, err := json.Marshal([]Task{{
		Action: ActionCopy, VaultURL: s.From.URL, To: s.To.URL, Point: s.Point, Recheck: s.Recheck, MessageLimit: defaultMessage - 2,
	}})
	if err != nil {
		return nil, fmt.Errorf("encoding the task of mover %q: %w", s.Name, err)
	}
	pod := newPod()
	pod.Volumes = []corev1.Volume{{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	env := []corev1.EnvVar{{Name: TaskEnv, Value: string(tasks)}}
	mounts := []corev1.VolumeMount{{Name: "tmp", MountPath: "/tmp"}}
	for _, v := range []struct {
		name   string
		access VaultAccess
		place  Place
	}{{"from", s.From, copyFrom}, {"to", s.To, copyTo}} {
		pod.Volumes = append(pod.Volumes, secretVolume(v.name+"-key", v.access.KeySecret, KeyEntry, false))
		mounts = append(mounts, corev1.VolumeMount{Name: v.name + "-key", MountPath: "/lockstep/" + v.name + "-key", ReadOnly: true})
		if secret := v.access.CredentialsSecret; secret != "" {
			pod.Volumes = append(pod.Volumes, secretVolume(v.name+"-ca", secret, CAEntry, true))
			mounts = append(mounts, corev1.VolumeMount{Name: v.name + "-ca", MountPath: "/lockstep/" + v.name + "-ca", ReadOnly: true})
			env = append(env, credentials(v.place.Env, secret)...)
		}
		for i, m := range v.access.Mounts {
			if slices.ContainsFunc(mounts, func(other corev1.VolumeMount) bool { return other.MountPath == m.MountPath }) {
				continue // both vaults are in one volume
			}
			source := v.access.Volumes[i]
			m.Name, source.Name = v.name+"-"+m.Name, v.name+"-"+source.Name
			mounts, pod.Volumes = append(mounts, m), append(pod.Volumes, source)
		}
	}
	// What a vault in a filesystem needs, which may belong to any user.
	c := newContainer(copyContainer, s.Image, env, mounts, []corev1.Capability{"DAC_OVERRIDE", "FOWNER"})
	c.Resources = resources(c.Resources)
	pod.Containers = []corev1.Container{c}
	return newJob(s.Name, s.Labels, pod, s.Deadline), nil
}

// copyPoint copies a point.
func copyPoint(ctx context.Context, from, to *volume.Vault, t Task, show func(volume.Progress)) (Result, error) {
	r, err := catalog.Copy(ctx, from, to, t.Point, volume.CopyOptions{Recheck: t.Recheck, Progress: show})
	if err != nil {
		return Result{}, err
	}
	return Result{Bytes: r.Bytes, Stored: r.Stored, Verified: true, LockedUntil: r.LockedUntil}, nil
}
