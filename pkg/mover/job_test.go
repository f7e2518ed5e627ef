package mover_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/pkg/mover"
)

func newJob(t *testing.T, volumes ...mover.JobVolume) *batchv1.Job {
	t.Helper()
	job, err := mover.NewJob(mover.JobSpec{
		Name: "ls-1", Image: "image", Labels: map[string]string{"a": "b"}, Deadline: time.Hour, Volumes: volumes,
		Vault: mover.VaultAccess{
			URL: "s3://bucket", KeySecret: "key", CredentialsSecret: "credentials",
			// A vault may itself be on a claim, which is no volume to copy.
			Volumes: []corev1.Volume{{Name: "vault", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "nfs"}}}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	job.UID = "job-uid"
	return job
}

func TestJobShape(t *testing.T) {
	job := newJob(t,
		mover.JobVolume{Claim: "one", ReadOnly: true, Task: mover.Task{Action: mover.ActionSave}},
		mover.JobVolume{Claim: "two", Task: mover.Task{Action: mover.ActionLoad, Snapshot: "s"}})
	pod := job.Spec.Template.Spec
	if *job.Spec.BackoffLimit != 0 || *job.Spec.PodReplacementPolicy != batchv1.Failed || *job.Spec.ActiveDeadlineSeconds != 3600 {
		t.Errorf("job spec %+v", job.Spec)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken || pod.RestartPolicy != corev1.RestartPolicyNever {
		t.Error("a mover has a token, or is restarted by the kubelet")
	}
	want := [][]corev1.Capability{{"DAC_OVERRIDE", "FOWNER"}, {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP", "MKNOD"}}
	for i, c := range pod.Containers {
		if diff := cmp.Diff(want[i], c.SecurityContext.Capabilities.Add); diff != "" {
			t.Errorf("capabilities of %s: %s", c.Name, diff)
		}
		if !*c.SecurityContext.ReadOnlyRootFilesystem || *c.SecurityContext.AllowPrivilegeEscalation || c.SecurityContext.Capabilities.Drop[0] != "ALL" {
			t.Errorf("security context of %s: %+v", c.Name, c.SecurityContext)
		}
		if _, limited := c.Resources.Limits[corev1.ResourceCPU]; limited || len(c.Resources.Requests) == 0 {
			t.Errorf("resources of %s: %+v", c.Name, c.Resources)
		}
		if c.VolumeMounts[0].MountPath != "/volume" || c.VolumeMounts[0].ReadOnly != (i == 0) {
			t.Errorf("mount of %s: %+v", c.Name, c.VolumeMounts[0])
		}
		task, err := mover.ParseTask(c.Env[0].Value)
		if err != nil || task.Dir != "/volume" || task.VaultURL != "s3://bucket" || task.MessageLimit != 4096 {
			t.Errorf("task of %s: %+v, %v", c.Name, task, err)
		}
		for _, e := range c.Env[1:] {
			if e.Value != "" || e.ValueFrom.SecretKeyRef.Name != "credentials" {
				t.Errorf("%s has %s in clear", c.Name, e.Name)
			}
		}
	}
	again := newJob(t,
		mover.JobVolume{Claim: "one", ReadOnly: true, Task: mover.Task{Action: mover.ActionSave}},
		mover.JobVolume{Claim: "two", Task: mover.Task{Action: mover.ActionLoad, Snapshot: "s"}})
	if diff := cmp.Diff(job, again); diff != "" {
		t.Errorf("the same job twice differs: %s", diff)
	}
	if _, err := mover.NewJob(mover.JobSpec{Name: "empty"}); err == nil {
		t.Error("a job without volumes was made")
	}
}

func TestMessagesShareTheRoomOfAPod(t *testing.T) {
	volumes := make([]mover.JobVolume, 12)
	for i := range volumes {
		volumes[i].Claim = string(rune('a' + i))
	}
	for _, c := range newJob(t, volumes...).Spec.Template.Spec.Containers {
		if task, err := mover.ParseTask(c.Env[0].Value); err != nil || task.MessageLimit != 1024 {
			t.Errorf("%s: %+v, %v", c.Name, task, err)
		}
	}
}

// podOf is what a kubelet would show of a Job's pod.
func podOf(job *batchv1.Job, states ...corev1.ContainerState) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: job.Namespace, Name: job.Name + "-pod", Labels: map[string]string{batchv1.ControllerUidLabel: string(job.UID)},
	}, Spec: job.Spec.Template.Spec}
	for i, s := range states {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: pod.Spec.Containers[i].Name, State: s})
	}
	return pod
}

func ended(r mover.Result) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: string(r.Encode(0))}}
}

func over(job *batchv1.Job, how batchv1.JobConditionType, reason string) *batchv1.Job {
	job.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue, Reason: reason}}
	return job
}

func TestObserve(t *testing.T) {
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: "why"}}
	}
	good, bad := mover.Result{Snapshot: "s"}, mover.Result{Error: "files", Reason: mover.ReasonFiles}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	killed := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}
	tests := []struct {
		name     string
		end      batchv1.JobConditionType
		states   []corev1.ContainerState
		phase    mover.Phase
		terminal bool
		message  string
	}{
		{"not scheduled yet", "", nil, mover.PhasePending, false, ""},
		{"pulling", "", []corev1.ContainerState{waiting("ContainerCreating"), waiting("ContainerCreating")}, mover.PhasePending, false, "ContainerCreating: why"},
		{"no such image", "", []corev1.ContainerState{waiting("ImagePullBackOff"), waiting("ImagePullBackOff")}, mover.PhaseFailed, true, "ImagePullBackOff: why"},
		{"a pull that failed once", "", []corev1.ContainerState{waiting("ErrImagePull"), waiting("ErrImagePull")}, mover.PhasePending, false, "ErrImagePull: why"},
		{"running", "", []corev1.ContainerState{running, ended(good)}, mover.PhaseRunning, false, ""},
		{"all saved, the job not told yet", "", []corev1.ContainerState{ended(good), ended(good)}, mover.PhasePending, false, ""},
		{"all saved", batchv1.JobComplete, []corev1.ContainerState{ended(good), ended(good)}, mover.PhaseSucceeded, false, ""},
		{"one could not", batchv1.JobFailed, []corev1.ContainerState{ended(good), ended(bad)}, mover.PhaseFailed, true, "files"},
		{"out of memory", batchv1.JobFailed, []corev1.ContainerState{ended(good), killed}, mover.PhaseFailed, false,
			`the mover of claim "two" left no result: OOMKilled, exit code 137`},
		{"the pod is gone", batchv1.JobFailed, nil, mover.PhaseFailed, false, "Because"},
		{"complete, and the pod is gone", batchv1.JobComplete, nil, mover.PhaseFailed, false, "the mover is gone and left no result"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			job := newJob(t, mover.JobVolume{Claim: "one"}, mover.JobVolume{Claim: "two"})
			if tt.end != "" {
				reason := ""
				if tt.end == batchv1.JobFailed {
					reason = "Because"
				}
				over(job, tt.end, reason)
			}
			objects := []client.Object{}
			if tt.states != nil {
				objects = append(objects, podOf(job, tt.states...))
			}
			c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(objects...).Build()
			got, err := mover.Observe(t.Context(), c, kubefake.NewClientset(), job)
			if err != nil {
				t.Fatal(err)
			}
			if got.Phase != tt.phase || got.Terminal != tt.terminal || got.Message != tt.message || got.PodGone != (tt.states == nil) {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestObserveDoesNotTakeAnUnansweredListForAbsence(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithInterceptorFuncs(interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error {
			return errors.New("timeout")
		},
	}).Build()
	if _, err := mover.Observe(t.Context(), c, kubefake.NewClientset(), newJob(t, mover.JobVolume{Claim: "one"})); err == nil {
		t.Error("no error although the API server did not answer")
	}
}
