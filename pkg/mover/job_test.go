package mover_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
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

func onlyTask(t *testing.T, c corev1.Container) mover.Task {
	t.Helper()
	tasks, err := mover.ParseTasks(c.Env[0].Value)
	if err != nil || len(tasks) != 1 {
		t.Fatalf("tasks of %s: %+v, %v", c.Name, tasks, err)
	}
	return tasks[0]
}

// TestTogether: volumes in one container have places of their own, and share the room of its message.
func TestTogether(t *testing.T) {
	load := mover.Task{Action: mover.ActionLoad, Snapshot: "s"}
	job, err := mover.NewJob(mover.JobSpec{Name: "ls-1", Together: true, Vault: mover.VaultAccess{KeySecret: "key"}, Volumes: []mover.JobVolume{
		{Claim: "one", Task: load}, {Claim: "disk", Block: true, Task: load}, {Claim: "two", Task: load},
	}})
	if err != nil {
		t.Fatal(err)
	}
	pod := job.Spec.Template.Spec
	if len(pod.Containers) != 1 {
		t.Fatalf("%d containers", len(pod.Containers))
	}
	c := pod.Containers[0]
	tasks, err := mover.ParseTasks(c.Env[0].Value)
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]string{}
	for _, m := range c.VolumeMounts {
		at[m.Name] = m.MountPath
	}
	for _, d := range c.VolumeDevices {
		at[d.Name] = d.DevicePath
	}
	var all mover.Results
	for i, task := range tasks {
		volume := pod.Volumes[slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == task.Claim
		})]
		if task.Dir == "" || task.Dir != at[volume.Name] || task.Device != (task.Claim == "disk") {
			t.Errorf("task %d: %+v, its volume is at %q", i, task, at[volume.Name])
		}
		all = append(all, mover.Result{Error: strings.Repeat("long ", 2000)})
	}
	if n := len(all.Encode(tasks)); n > 4096 || n < 3000 {
		t.Errorf("the results take %d bytes", n)
	}
}

// TestObserveTogether: of a container that was killed, what it had done before counts.
func TestObserveTogether(t *testing.T) {
	job, err := mover.NewJob(mover.JobSpec{Name: "ls-1", Together: true, Volumes: []mover.JobVolume{{Claim: "one"}, {Claim: "two"}, {Claim: "three"}}})
	if err != nil {
		t.Fatal(err)
	}
	job.UID = "job-uid"
	good, bad := mover.Result{Snapshot: "s"}, mover.Result{Error: "files", Reason: mover.ReasonFiles}
	state := ended(good, bad)
	state.Terminated.Reason, state.Terminated.ExitCode = "OOMKilled", 137
	pod := podOf(over(job, batchv1.JobFailed, "Because"), state)
	got, err := mover.ObserveAmong(t.Context(), fake.NewClientBuilder().WithScheme(scheme.Scheme).Build(), nil, job,
		[]corev1.Pod{*pod, {ObjectMeta: metav1.ObjectMeta{Name: "of another"}}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]mover.Result{"one": good, "two": bad}, got.Results); diff != "" || got.Phase != mover.PhaseFailed || got.PodGone {
		t.Errorf("got %+v: %s", got, diff)
	}
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
		task := onlyTask(t, c)
		if task.Dir != "/volume" || task.VaultURL != "s3://bucket" || task.MessageLimit != 4094 {
			t.Errorf("task of %s: %+v", c.Name, task)
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

// A volume in use is mounted for reading only in the whole pod; a snapshot's may have to be written to when it is mounted.
func TestLiveVolumeIsMountedReadOnly(t *testing.T) {
	pod := newJob(t,
		mover.JobVolume{Claim: "snapshot", ReadOnly: true, Task: mover.Task{Action: mover.ActionSave}},
		mover.JobVolume{Claim: "live", ReadOnly: true, Task: mover.Task{Action: mover.ActionSave, Live: true}}).Spec.Template.Spec
	for _, v := range pod.Volumes {
		if c := v.PersistentVolumeClaim; c != nil && c.ReadOnly != (c.ClaimName == "live") {
			t.Errorf("claim %s: read only %t", c.ClaimName, c.ReadOnly)
		}
	}
}

// A block volume is a device of the container, and no mount.
func TestBlockVolume(t *testing.T) {
	pod := newJob(t,
		mover.JobVolume{Claim: "disk", Block: true, Task: mover.Task{Action: mover.ActionLoad, Snapshot: "s"}},
		mover.JobVolume{Claim: "files", Task: mover.Task{Action: mover.ActionLoad, Snapshot: "s"}}).Spec.Template.Spec
	disk, files := pod.Containers[0], pod.Containers[1]
	if diff := cmp.Diff([]corev1.VolumeDevice{{Name: disk.Name, DevicePath: "/dev/lockstep-volume"}}, disk.VolumeDevices); diff != "" {
		t.Error(diff)
	}
	for _, m := range disk.VolumeMounts {
		if m.Name == disk.Name {
			t.Errorf("the device is mounted at %s, too", m.MountPath)
		}
	}
	if len(files.VolumeDevices) > 0 {
		t.Errorf("a file system is a device: %+v", files.VolumeDevices)
	}
	for _, c := range pod.Containers {
		task := onlyTask(t, c)
		if want := c.Name == disk.Name; task.Device != want || (task.Dir == "/dev/lockstep-volume") != want {
			t.Errorf("task of %s: %+v", c.Name, task)
		}
	}
}

func TestMessagesShareTheRoomOfAPod(t *testing.T) {
	volumes := make([]mover.JobVolume, 12)
	for i := range volumes {
		volumes[i].Claim = string(rune('a' + i))
	}
	for _, c := range newJob(t, volumes...).Spec.Template.Spec.Containers {
		if task := onlyTask(t, c); task.MessageLimit != 1022 {
			t.Errorf("%s: %+v", c.Name, task)
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

func ended(all ...mover.Result) corev1.ContainerState {
	message := mover.Results(all).Encode(make([]mover.Task, len(all)))
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: string(message)}}
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

func TestHopeless(t *testing.T) {
	now := time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name string
		is   mover.State
		want string
	}{
		{"just made", mover.State{Phase: mover.PhasePending, PendingSince: now.Add(-time.Minute)}, ""},
		{"waits for long", mover.State{Phase: mover.PhasePending, PendingSince: now.Add(-time.Hour)}, "the mover did not start within 10m"},
		{"and says why", mover.State{Phase: mover.PhasePending, PendingSince: now.Add(-time.Hour), Message: "FailedMount: busy"},
			"the mover did not start within 10m: FailedMount: busy"},
		{"one of two is done", mover.State{Phase: mover.PhasePending}, ""},
		{"its node was restarted just now", mover.State{Phase: mover.PhasePending, HaltedSince: now.Add(-10 * time.Second)}, ""},
		{"its node was restarted", mover.State{Phase: mover.PhasePending, HaltedSince: now.Add(-time.Minute)},
			"the node was restarted while the mover started, and does not start it again"},
		{"moves", mover.State{Phase: mover.PhaseRunning, Idle: time.Minute}, ""},
		{"moves nothing", mover.State{Phase: mover.PhaseRunning, Idle: time.Hour}, "the mover has read and written nothing for 30m"},
		{"on a lost node", mover.State{Phase: mover.PhaseRunning, Idle: time.Hour, LostNode: "one"}, ""},
		{"is being ended", mover.State{Phase: mover.PhaseRunning, Idle: time.Hour, Abandoned: true}, ""},
		{"is over", mover.State{Phase: mover.PhaseFailed, PendingSince: now.Add(-time.Hour)}, ""},
	} {
		if got := tt.is.Hopeless(now); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestWhyItWaits: what the kubelet and the Job's controller say only in events is in the message, too.
func TestWhyItWaits(t *testing.T) {
	event := func(of types.UID, kind, reason string, minute int) *corev1.Event {
		return &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: string(of) + reason},
			InvolvedObject: corev1.ObjectReference{UID: of}, Type: kind, Reason: reason, Message: "why",
			LastTimestamp: metav1.NewTime(time.Date(2026, 3, 1, 4, minute, 0, 0, time.UTC)),
		}
	}
	events := kubefake.NewClientset(event("pod", corev1.EventTypeWarning, "FailedMount", 2), event("pod", corev1.EventTypeWarning, "FailedAttachVolume", 1),
		event("pod", corev1.EventTypeNormal, "Scheduled", 3), event("other", corev1.EventTypeWarning, "Foreign", 4), event("job-uid", corev1.EventTypeWarning, "FailedCreate", 1))
	job := newJob(t, mover.JobVolume{Claim: "one"})
	creating := podOf(job, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}})
	creating.UID = "pod"
	unschedulable := podOf(job)
	unschedulable.UID = "pod"
	unschedulable.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "no node"}}
	for _, tt := range []struct {
		name string
		pods []client.Object
		want string
	}{
		{"a volume that cannot be mounted", []client.Object{creating}, "FailedMount: why"},
		{"no node", []client.Object{unschedulable}, "Unschedulable: no node"},
		{"a pod that cannot be made", nil, "FailedCreate: why"},
	} {
		got, err := mover.Observe(t.Context(), fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(tt.pods...).Build(), events, job)
		if err != nil || got.Message != tt.want || got.Phase != mover.PhasePending {
			t.Errorf("%s: got %+v, %v", tt.name, got, err)
		}
	}
}

func TestLostNode(t *testing.T) {
	job := newJob(t, mover.JobVolume{Claim: "one"})
	node := func(ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Status: corev1.NodeStatus{
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
	}
	running := podOf(job, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})
	running.Spec.NodeName = "one"
	silent := running.DeepCopy()
	silent.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}
	over := silent.DeepCopy()
	over.Status.Phase = corev1.PodFailed
	for _, tt := range []struct {
		name    string
		objects []client.Object
		want    string
	}{
		{"runs", []client.Object{running, node(corev1.ConditionTrue)}, ""},
		{"not ready, on a node that is", []client.Object{silent, node(corev1.ConditionTrue)}, ""},
		{"the node does not answer", []client.Object{silent, node(corev1.ConditionUnknown)}, "one"},
		{"the node is gone", []client.Object{silent}, "one"},
		{"over before", []client.Object{over}, ""},
	} {
		got, err := mover.Observe(t.Context(), fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(tt.objects...).Build(), kubefake.NewClientset(), job)
		if err != nil || got.LostNode != tt.want || (tt.want != "") != strings.Contains(got.Message, "node one, where the mover runs, is lost") {
			t.Errorf("%s: got %+v, %v", tt.name, got, err)
		}
	}
}

// TestHalted holds what a kubelet shows of a pod that it gave up on, as a real one did, against what it shows of those that it starts.
func TestHalted(t *testing.T) {
	job := newJob(t, mover.JobVolume{Claim: "one"}, mover.JobVolume{Claim: "two"})
	since := metav1.NewTime(time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC))
	sandbox := func(there corev1.ConditionStatus, id, reason string, first corev1.ContainerState) *corev1.Pod {
		pod := podOf(job, first, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}})
		pod.Status.ContainerStatuses[1].ContainerID = id
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReadyToStartContainers, Status: there, LastTransitionTime: since}}
		return pod
	}
	creating := corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}
	lost := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 255, Reason: "Unknown"}}
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want bool
	}{
		{"nothing is made yet", sandbox(corev1.ConditionFalse, "", "ContainerCreating", creating), false},
		{"being started", sandbox(corev1.ConditionTrue, "containerd://1", "", creating), false},
		{"made, and its sandbox is gone", sandbox(corev1.ConditionFalse, "containerd://1", "", creating), true},
		{"made, and the other was killed", sandbox(corev1.ConditionFalse, "containerd://1", "", lost), true},
	} {
		got, err := mover.Observe(t.Context(), fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(tt.pod).Build(), nil, job)
		if err != nil || got.HaltedSince.Equal(since.Time) != tt.want || (got.Hopeless(since.Add(time.Minute)) != "") != tt.want {
			t.Errorf("%s: got %+v, %v", tt.name, got, err)
		}
	}
}

// TestAbandoned: the reason for which a Job was ended outlives its pod.
func TestAbandoned(t *testing.T) {
	job := over(newJob(t, mover.JobVolume{Claim: "one"}), batchv1.JobFailed, "DeadlineExceeded")
	job.Annotations = map[string]string{mover.AnnotationAbandoned: "no node took it"}
	got, err := mover.Observe(t.Context(), fake.NewClientBuilder().WithScheme(scheme.Scheme).Build(), kubefake.NewClientset(), job)
	if err != nil || got.Phase != mover.PhaseFailed || got.Terminal || got.Message != "no node took it" {
		t.Errorf("got %+v, %v", got, err)
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
