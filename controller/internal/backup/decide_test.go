package backup

import (
	"testing"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// Each case is a world in which a controller may wake up, also after having been killed between any two writes.
func TestDecide(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	capture := func(attempts int32) *v1alpha1.VolumeCapture {
		return &v1alpha1.VolumeCapture{Claim: "data", Attempts: attempts}
	}
	snapshot := func(ready bool) *snapshotv1.VolumeSnapshot {
		return &snapshotv1.VolumeSnapshot{Status: &snapshotv1.VolumeSnapshotStatus{ReadyToUse: &ready}}
	}
	content := func(policy snapshotv1.DeletionPolicy, labelled bool) *snapshotv1.VolumeSnapshotContent {
		c := &snapshotv1.VolumeSnapshotContent{
			Spec:   snapshotv1.VolumeSnapshotContentSpec{DeletionPolicy: policy},
			Status: &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: new("handle")},
		}
		if labelled {
			c.Labels = map[string]string{v1alpha1.LabelRestorePoint: "uid"}
		}
		return c
	}
	retained := content(snapshotv1.VolumeSnapshotContentRetain, true)
	exposed := content(snapshotv1.VolumeSnapshotContentDelete, true)
	going := snapshot(true)
	going.DeletionTimestamp = &metav1.Time{Time: now}
	jobFailed := func(ago time.Duration) *batchv1.Job {
		return &batchv1.Job{Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{{
			Type: batchv1.JobFailed, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Time{Time: now.Add(-ago)},
		}}}}
	}
	failedState := mover.State{Phase: mover.PhaseFailed, Message: "evicted"}
	tests := []struct {
		name  string
		world work
		step  step
		state v1alpha1.VolumeState
	}{
		{"cut and not ready", work{capture: capture(0), snapshot: snapshot(false)}, stepWait, v1alpha1.VolumeSnapshotting},
		{"ready, content not seen yet", work{capture: capture(0), snapshot: snapshot(true)}, stepWait, v1alpha1.VolumeSnapshotting},
		{"ready", work{capture: capture(0), snapshot: snapshot(true), content: content(snapshotv1.VolumeSnapshotContentDelete, false)},
			stepRetain, v1alpha1.VolumeExposing},
		{"the class retains by itself, and the content is not marked", work{capture: capture(0), snapshot: snapshot(true),
			content: content(snapshotv1.VolumeSnapshotContentRetain, false)}, stepRetain, v1alpha1.VolumeExposing},
		{"retained", work{capture: capture(0), snapshot: snapshot(true), content: retained}, stepExpose, v1alpha1.VolumeExposing},
		{"killed between the two objects of exposing", work{capture: capture(0), snapshot: snapshot(true), content: retained, exposed: exposed},
			stepExpose, v1alpha1.VolumeExposing},
		{"exposed", work{capture: capture(0), snapshot: snapshot(true), content: retained, exposed: exposed, exposedSnapshot: snapshot(true)},
			stepRemove, v1alpha1.VolumeExposing},
		{"original going", work{capture: capture(0), snapshot: going, content: retained, exposed: exposed,
			exposedSnapshot: snapshot(true)}, stepClaim, v1alpha1.VolumeExposing},
		{"original gone, its content left", work{capture: capture(0), content: retained, exposed: exposed,
			exposedSnapshot: snapshot(true)}, stepClaim, v1alpha1.VolumeExposing},
		{"exposed snapshot not bound", work{capture: capture(0), exposed: exposed, exposedSnapshot: snapshot(false)}, stepWait, v1alpha1.VolumeExposing},
		{"original gone", work{capture: capture(0), exposed: exposed, exposedSnapshot: snapshot(true)}, stepClaim, v1alpha1.VolumeExposing},
		{"somebody deleted the snapshot", work{capture: capture(0)}, stepFail, v1alpha1.VolumeFailed},
		{"temporary claim", work{capture: capture(0), claim: &corev1.PersistentVolumeClaim{}}, stepStart, v1alpha1.VolumeSaving},
		{"temporary volume lost", work{capture: capture(0), claim: &corev1.PersistentVolumeClaim{
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimLost}}}, stepFail, v1alpha1.VolumeFailed},
		{"killed after counting, or the job was deleted", work{capture: capture(1), claim: &corev1.PersistentVolumeClaim{}}, stepStart, v1alpha1.VolumeSaving},
		{"running", work{capture: capture(1), job: &batchv1.Job{}, mover: mover.State{Phase: mover.PhaseRunning}}, stepWait, v1alpha1.VolumeSaving},
		{"has not started for long", work{capture: capture(1), job: &batchv1.Job{}, mover: mover.State{
			Phase: mover.PhasePending, PendingSince: now.Add(-time.Hour)}}, stepEnd, v1alpha1.VolumeSaving},
		{"done", work{capture: capture(1), job: &batchv1.Job{}, mover: mover.State{Phase: mover.PhaseSucceeded}}, stepNote, v1alpha1.VolumeSaving},
		{"failed just now", work{capture: capture(1), job: jobFailed(time.Second), mover: failedState}, stepWait, v1alpha1.VolumeSaving},
		{"failed a while ago", work{capture: capture(1), job: jobFailed(11 * time.Second), mover: failedState}, stepStart, v1alpha1.VolumeSaving},
		{"second failure waits three times as long", work{capture: capture(2), job: jobFailed(11 * time.Second), mover: failedState}, stepWait, v1alpha1.VolumeSaving},
		{"failed once too often", work{capture: capture(4), job: jobFailed(time.Hour), mover: failedState}, stepFail, v1alpha1.VolumeFailed},
		{"failed for good", work{capture: capture(1), job: &batchv1.Job{}, mover: mover.State{Phase: mover.PhaseFailed, Terminal: true}},
			stepFail, v1alpha1.VolumeFailed},
		{"saved", work{capture: &v1alpha1.VolumeCapture{Snapshot: "id"}}, stepClean, v1alpha1.VolumeSaved},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decide(&tt.world, DefaultLimits(), now)
			if got.step != tt.step || got.state != tt.state {
				t.Errorf("got step %q, state %q, want %q, %q", got.step, got.state, tt.step, tt.state)
			}
			if got.step == stepFail && (got.reason == "" || got.message == "") {
				t.Errorf("a failure without reason or message: %+v", got)
			}
		})
	}
}
