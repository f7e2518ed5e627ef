package mover

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Where a mover finds things in its container.
const (
	// KeyFile is the age identity that opens the vault.
	KeyFile = "/lockstep/key/identity"
	// CAFile holds further certificate authorities for the store; it need not exist.
	CAFile = "/lockstep/ca/ca.crt"

	volumeDir    = "/volume"
	volumeDevice = "/dev/lockstep-volume"
)

// Entries of the Secrets that a Vault names.
const (
	KeyEntry             = "identity"
	AccessKeyIDEntry     = "accessKeyID"
	SecretAccessKeyEntry = "secretAccessKey"
	SessionTokenEntry    = "sessionToken"
	CAEntry              = "ca.crt"
)

// ServiceAccount is the account of every mover. It has no permissions, and its token is not mounted.
const ServiceAccount = "lockstep-mover"

// VaultAccess is how a mover reaches a vault.
type VaultAccess struct {
	URL string
	// KeySecret names the Secret of lockstep-system with the entry KeyEntry.
	KeySecret string
	// CredentialsSecret names the Secret with the store's credentials; empty for ambient ones.
	CredentialsSecret string
	// Volumes and Mounts are what a vault in a filesystem needs: the volume that the controller itself has there.
	Volumes []corev1.Volume
	Mounts  []corev1.VolumeMount
}

// JobVolume is one claim and what to do with it.
type JobVolume struct {
	// Claim is in lockstep-system.
	Claim    string
	ReadOnly bool
	// Block says that the claim is of a device and not of a file system.
	Block bool
	// Task is what to do, without what the Job sets.
	Task Task
}

// JobSpec is a mover Job: one pod, with one container for each volume, so that one which fails does not take others with it; or, if
// they are Together, with one container that takes one volume after another.
type JobSpec struct {
	// Name is in lockstep-system.
	Name, Image         string
	Labels, Annotations map[string]string
	Vault               VaultAccess
	Volumes             []JobVolume
	// Together is for small volumes, which take less than to start a container for each.
	Together bool

	NodeSelector map[string]string
	Affinity     *corev1.Affinity
	Tolerations  []corev1.Toleration
	Topology     []corev1.TopologySpreadConstraint
	// Resources of each container; without them a small request and no limit.
	Resources corev1.ResourceRequirements
	// Deadline bounds the whole Job; 0 is no bound.
	Deadline time.Duration
}

// NewJob makes the Job. Nothing in it is random or depends on the time, so that making it twice makes it once.
func NewJob(s JobSpec) (*batchv1.Job, error) {
	if len(s.Volumes) == 0 {
		return nil, fmt.Errorf("mover job %q has no volume", s.Name)
	}
	pod := newPod()
	pod.NodeSelector, pod.Affinity, pod.Tolerations, pod.TopologySpreadConstraints = s.NodeSelector, s.Affinity, s.Tolerations, s.Topology
	pod.Volumes = vaultVolumes(s.Vault)
	for i, v := range s.Volumes {
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: volumeName(i), VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{
				ClaimName: v.Claim, ReadOnly: v.Task.Live, // else a kubelet may give the files to this pod alone, by their SELinux label
			},
		}})
	}
	each := 1
	if s.Together {
		each = len(s.Volumes)
	}
	for first := 0; first < len(s.Volumes); first += each {
		c, err := container(s, first, each)
		if err != nil {
			return nil, err
		}
		pod.Containers = append(pod.Containers, c)
	}
	job := newJob(s.Name, s.Labels, pod, s.Deadline)
	job.Annotations = s.Annotations
	return job, nil
}

// newPod is a pod without containers: it has no access to the Kubernetes API, and is not restarted.
func newPod() corev1.PodSpec {
	return corev1.PodSpec{
		RestartPolicy:                corev1.RestartPolicyNever,
		ServiceAccountName:           ServiceAccount,
		AutomountServiceAccountToken: new(false),
		EnableServiceLinks:           new(false),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsUser:      new(int64(0)),
			RunAsGroup:     new(int64(0)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}
}

func newJob(name string, labels map[string]string, pod corev1.PodSpec, deadline time.Duration) *batchv1.Job {
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name, Labels: labels},
		Spec: batchv1.JobSpec{
			BackoffLimit:         new(int32(0)), // the controller owns the retries
			PodReplacementPolicy: new(batchv1.Failed),
			Template:             corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod},
		},
	}
	if deadline > 0 {
		job.Spec.ActiveDeadlineSeconds = new(int64(deadline.Seconds()))
	}
	return job
}

// A kubelet keeps 12 KiB of termination messages for all containers of a pod together.
const podMessages = 12 << 10

// volumePrefix begins the names of the volumes in the pod that are copied.
const volumePrefix = "volume-"

func volumeName(i int) string { return volumePrefix + strconv.Itoa(i) }

// container is one for n volumes, and has the name of the first.
func container(s JobSpec, first, n int) (corev1.Container, error) {
	message := min(defaultMessage, podMessages*n/len(s.Volumes))
	var tasks []Task
	var mounts []corev1.VolumeMount
	var devices []corev1.VolumeDevice
	for i, v := range s.Volumes[first : first+n] {
		name, task, suffix := volumeName(first+i), v.Task, ""
		if n > 1 {
			suffix = fmt.Sprintf("-%d", i)
		}
		task.Claim, task.VaultURL, task.Device = v.Claim, s.Vault.URL, v.Block
		task.MessageLimit = message/n - 2 // for what is around results and between them
		if v.Block {
			task.Dir = volumeDevice + suffix
			devices = append(devices, corev1.VolumeDevice{Name: name, DevicePath: task.Dir})
		} else {
			task.Dir = volumeDir + suffix
			mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: task.Dir, ReadOnly: v.ReadOnly})
		}
		tasks = append(tasks, task)
	}
	value, err := json.Marshal(tasks)
	if err != nil {
		return corev1.Container{}, fmt.Errorf("encoding the tasks of mover %q: %w", s.Name, err)
	}
	mounts = slices.Concat(mounts, []corev1.VolumeMount{
		{Name: "key", MountPath: path.Dir(KeyFile), ReadOnly: true},
		{Name: "tmp", MountPath: "/tmp"},
	}, s.Vault.Mounts)
	env := []corev1.EnvVar{{Name: TaskEnv, Value: string(value)}}
	if s.Vault.CredentialsSecret != "" {
		mounts = append(mounts, corev1.VolumeMount{Name: "ca", MountPath: path.Dir(CAFile), ReadOnly: true})
		env = append(env, credentials("AWS_", s.Vault.CredentialsSecret)...)
	}
	c := newContainer(volumeName(first), s.Image, env, mounts, capabilities(tasks))
	c.VolumeDevices, c.Resources = devices, resources(s.Resources)
	return c, nil
}

func newContainer(name, image string, env []corev1.EnvVar, mounts []corev1.VolumeMount, add []corev1.Capability) corev1.Container {
	return corev1.Container{
		Name:                     name,
		Image:                    image,
		ImagePullPolicy:          corev1.PullIfNotPresent,
		Args:                     []string{"mover"},
		Env:                      env,
		VolumeMounts:             mounts,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
		SecurityContext: &corev1.SecurityContext{
			ReadOnlyRootFilesystem:   new(true),
			AllowPrivilegeEscalation: new(false),
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: add},
		},
	}
}

// capabilities are what actions need to see, or to make, files of any owner and kind. Pod Security "baseline" allows them.
func capabilities(tasks []Task) []corev1.Capability {
	if !slices.ContainsFunc(tasks, func(t Task) bool { return t.Action != ActionSave }) {
		return []corev1.Capability{"DAC_OVERRIDE", "FOWNER"}
	}
	return []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP", "MKNOD"}
}

// resources has no processor limit: a mover may use what is idle, and a limit would only lengthen the night.
func resources(r corev1.ResourceRequirements) corev1.ResourceRequirements {
	if r.Requests == nil && r.Limits == nil {
		r.Requests = corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("100m"),
			corev1.ResourceMemory: resource.MustParse("128Mi"),
		}
	}
	return r
}

func vaultVolumes(v VaultAccess) []corev1.Volume {
	volumes := []corev1.Volume{
		{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		secretVolume("key", v.KeySecret, KeyEntry, false),
	}
	if v.CredentialsSecret != "" {
		volumes = append(volumes, secretVolume("ca", v.CredentialsSecret, CAEntry, true))
	}
	return append(volumes, v.Volumes...)
}

func secretVolume(name, secret, entry string, optional bool) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
		SecretName: secret, Optional: new(optional), DefaultMode: new(int32(0o400)),
		Items: []corev1.KeyToPath{{Key: entry, Path: entry}},
	}}}
}

// credentials are the store's, in variables whose names begin with prefix.
func credentials(prefix, secret string) []corev1.EnvVar {
	return []corev1.EnvVar{
		fromSecret(prefix+"ACCESS_KEY_ID", secret, AccessKeyIDEntry, false),
		fromSecret(prefix+"SECRET_ACCESS_KEY", secret, SecretAccessKeyEntry, false),
		fromSecret(prefix+"SESSION_TOKEN", secret, SessionTokenEntry, true),
	}
}

func fromSecret(name, secret, entry string, optional bool) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: entry, Optional: new(optional),
	}}}
}
