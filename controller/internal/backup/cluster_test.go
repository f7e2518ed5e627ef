package backup_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

const (
	driver    = "csi.example.test"
	protector = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
)

// cluster is a stand-in for what a test API server lacks: the snapshot controller, the CSI driver, the provisioner, the Job
// controller, the controllers of workloads and the kubelet. Movers really run, on directories. The real ones are used in test/e2e.
type cluster struct {
	t    *testing.T
	c    client.Client
	open mover.Open
	// volumes holds the data of each volume by its handle, snapshots that of each snapshot of the storage.
	volumes, snapshots map[string]string
	made               int
	// fail, if set, is asked before a mover runs; a result stands for what the mover leaves, and a nil one for a killed pod.
	fail func(job *batchv1.Job) (*mover.Result, bool)
	// broken holds the error that snapshots of a claim get.
	broken map[string]string
	// beside, if set, has a snapshot taken.
	beside func(claim string)
}

func newCluster(t *testing.T, c client.Client, open mover.Open) *cluster {
	return &cluster{t: t, c: c, open: open, volumes: map[string]string{}, snapshots: map[string]string{}, broken: map[string]string{}}
}

func (k *cluster) check(err error) {
	k.t.Helper()
	if client.IgnoreNotFound(err) != nil {
		k.t.Fatal(err)
	}
}

// step does everything that is to be done once.
func (k *cluster) step(ctx context.Context) {
	k.t.Helper()
	k.settleWorkloads(ctx)
	k.takeGroups(ctx)
	k.takeSnapshots(ctx)
	k.settleContents(ctx)
	k.provision(ctx)
	k.runJobs(ctx)
}

func (k *cluster) takeSnapshots(ctx context.Context) {
	k.t.Helper()
	var list snapshotv1.VolumeSnapshotList
	k.check(k.c.List(ctx, &list))
	for i := range list.Items {
		s := &list.Items[i]
		if s.Status != nil {
			continue
		}
		now := metav1.Now()
		s.Status = &snapshotv1.VolumeSnapshotStatus{ReadyToUse: new(true), CreationTime: &now, RestoreSize: new(resource.MustParse("1Gi"))}
		if from := s.Spec.Source.PersistentVolumeClaimName; from == nil {
			s.Status.BoundVolumeSnapshotContentName = s.Spec.Source.VolumeSnapshotContentName
			k.check(k.c.Status().Update(ctx, s))
			continue
		} else if message := k.broken[*from]; message != "" {
			s.Status = &snapshotv1.VolumeSnapshotStatus{Error: &snapshotv1.VolumeSnapshotError{Message: &message}}
			k.check(k.c.Status().Update(ctx, s))
			continue
		}
		k.dynamicContent(ctx, s)
	}
}

func (k *cluster) dynamicContent(ctx context.Context, s *snapshotv1.VolumeSnapshot) {
	k.t.Helper()
	claim, pv := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
	k.check(k.c.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: *s.Spec.Source.PersistentVolumeClaimName}, claim))
	k.check(k.c.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv))
	if k.beside != nil {
		k.beside(claim.Name)
	}
	handle := "snapshot-of-" + string(s.UID)
	k.snapshots[handle] = k.copyOf(k.volumes[pv.Spec.CSI.VolumeHandle])
	content := &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: "snapcontent-" + string(s.UID), Finalizers: []string{protector}},
		Spec: snapshotv1.VolumeSnapshotContentSpec{
			Driver: driver, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete, VolumeSnapshotClassName: s.Spec.VolumeSnapshotClassName,
			Source:            snapshotv1.VolumeSnapshotContentSource{VolumeHandle: &pv.Spec.CSI.VolumeHandle},
			VolumeSnapshotRef: corev1.ObjectReference{Namespace: s.Namespace, Name: s.Name, UID: s.UID},
		},
	}
	k.check(k.c.Create(ctx, content))
	content.Status = &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: &handle, ReadyToUse: new(true)}
	k.check(k.c.Status().Update(ctx, content))
	s.Status.BoundVolumeSnapshotContentName = &content.Name
	k.check(k.c.Status().Update(ctx, s))
}

// settleContents deletes contents whose snapshot is gone as their policy says, and the storage's snapshots with them.
func (k *cluster) settleContents(ctx context.Context) {
	k.t.Helper()
	var list snapshotv1.VolumeSnapshotContentList
	k.check(k.c.List(ctx, &list))
	for i := range list.Items {
		content := &list.Items[i]
		ref := content.Spec.VolumeSnapshotRef
		err := k.c.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, &snapshotv1.VolumeSnapshot{})
		static := content.Spec.Source.SnapshotHandle != nil
		deletes := content.Spec.DeletionPolicy == snapshotv1.VolumeSnapshotContentDelete
		if static && deletes && strings.HasPrefix(k.handleOf(content), memberPrefix) {
			k.t.Fatalf("content %s would delete a snapshot of a group by itself, which drivers refuse", content.Name)
		}
		switch {
		case content.DeletionTimestamp != nil:
			if deletes {
				delete(k.snapshots, k.handleOf(content))
			}
			controllerutil.RemoveFinalizer(content, protector)
			k.check(k.c.Update(ctx, content))
		case err == nil && static && controllerutil.AddFinalizer(content, protector):
			k.check(k.c.Update(ctx, content))
		case err != nil && deletes && controllerutil.ContainsFinalizer(content, protector):
			k.check(k.c.Delete(ctx, content))
		}
	}
}

func (k *cluster) handleOf(content *snapshotv1.VolumeSnapshotContent) string {
	if content.Spec.Source.SnapshotHandle != nil {
		return *content.Spec.Source.SnapshotHandle
	}
	if content.Status == nil || content.Status.SnapshotHandle == nil {
		return ""
	}
	return *content.Status.SnapshotHandle
}

// provision binds claims from snapshots, and removes claims and volumes that are being deleted.
func (k *cluster) provision(ctx context.Context) {
	k.t.Helper()
	var claims corev1.PersistentVolumeClaimList
	k.check(k.c.List(ctx, &claims, client.InNamespace(v1alpha1.SystemNamespace)))
	alive := map[string]bool{}
	for i := range claims.Items {
		claim := &claims.Items[i]
		if claim.DeletionTimestamp != nil {
			claim.Finalizers = nil
			k.check(k.c.Update(ctx, claim))
			continue
		}
		alive[claim.Name] = true
		switch {
		case claim.Spec.VolumeName == "":
			k.bindSnapshot(ctx, claim)
		case claim.Status.Phase != corev1.ClaimBound:
			k.bindReserved(ctx, claim)
		}
	}
	var volumes corev1.PersistentVolumeList
	k.check(k.c.List(ctx, &volumes))
	for i := range volumes.Items {
		pv := &volumes.Items[i]
		if ref := pv.Spec.ClaimRef; ref == nil || ref.Namespace != v1alpha1.SystemNamespace || alive[ref.Name] {
			continue
		}
		switch {
		case pv.DeletionTimestamp != nil:
			pv.Finalizers = nil
			k.check(k.c.Update(ctx, pv))
		case pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete && pv.Spec.CSI == nil:
			k.t.Fatalf("the provisioner is told to delete the application's own data, by volume %s", pv.Name)
		case pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
			delete(k.volumes, pv.Spec.CSI.VolumeHandle)
			pv.Finalizers = nil
			k.check(k.c.Update(ctx, pv))
			k.check(k.c.Delete(ctx, pv))
		}
	}
}

// bindReserved binds a claim to the volume that it names, if that is reserved for it.
func (k *cluster) bindReserved(ctx context.Context, claim *corev1.PersistentVolumeClaim) {
	k.t.Helper()
	pv := &corev1.PersistentVolume{}
	if k.c.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv) != nil || pv.Spec.ClaimRef == nil ||
		pv.Spec.ClaimRef.Namespace != claim.Namespace || pv.Spec.ClaimRef.Name != claim.Name {
		return
	}
	claim.Status.Phase, claim.Status.Capacity = corev1.ClaimBound, pv.Spec.Capacity
	k.check(k.c.Status().Update(ctx, claim))
}

func (k *cluster) bindSnapshot(ctx context.Context, claim *corev1.PersistentVolumeClaim) {
	k.t.Helper()
	s, content := &snapshotv1.VolumeSnapshot{}, &snapshotv1.VolumeSnapshotContent{}
	k.check(k.c.Get(ctx, client.ObjectKey{Namespace: claim.Namespace, Name: claim.Spec.DataSource.Name}, s))
	if s.Status == nil || s.Status.BoundVolumeSnapshotContentName == nil {
		return
	}
	k.check(k.c.Get(ctx, client.ObjectKey{Name: *s.Status.BoundVolumeSnapshotContentName}, content))
	data, ok := k.snapshots[k.handleOf(content)]
	if !ok {
		k.t.Fatalf("claim %s is made from snapshot %s, which the storage has lost", claim.Name, k.handleOf(content))
	}
	// A StorageClass that keeps its volumes: ours must go all the same.
	k.bind(ctx, claim, data, corev1.PersistentVolumeReclaimRetain)
}

// bind gives a claim a volume with data.
func (k *cluster) bind(ctx context.Context, claim *corev1.PersistentVolumeClaim, data string, policy corev1.PersistentVolumeReclaimPolicy) {
	k.t.Helper()
	name := "pv-" + string(claim.UID)
	k.volumes[name] = data
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: policy, AccessModes: claim.Spec.AccessModes, StorageClassName: *claim.Spec.StorageClassName,
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: name}},
			ClaimRef:               &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
		},
	}
	k.check(k.c.Create(ctx, pv))
	claim.Spec.VolumeName = name
	k.check(k.c.Update(ctx, claim))
	claim.Status.Phase, claim.Status.Capacity = corev1.ClaimBound, pv.Spec.Capacity
	k.check(k.c.Status().Update(ctx, claim))
}

// runJobs runs movers to their end, and removes the pods of Jobs that are gone.
func (k *cluster) runJobs(ctx context.Context) {
	k.t.Helper()
	var jobs batchv1.JobList
	k.check(k.c.List(ctx, &jobs, client.InNamespace(v1alpha1.SystemNamespace)))
	alive := map[string]bool{}
	for i := range jobs.Items {
		job := &jobs.Items[i]
		alive[job.Name] = true
		if done, _ := mover.Finished(job); !done {
			k.runJob(ctx, job)
		}
	}
	var pods corev1.PodList
	k.check(k.c.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace), client.HasLabels{batchv1.JobNameLabel}))
	for i := range pods.Items {
		if !alive[pods.Items[i].Labels[batchv1.JobNameLabel]] {
			k.check(k.c.Delete(ctx, &pods.Items[i], client.GracePeriodSeconds(0)))
		}
	}
}

func (k *cluster) runJob(ctx context.Context, job *batchv1.Job) {
	k.t.Helper()
	spec := job.Spec.Template.Spec
	claim := &corev1.PersistentVolumeClaim{}
	for _, v := range spec.Volumes {
		if v.Name == spec.Containers[0].Name {
			k.check(k.c.Get(ctx, client.ObjectKey{Namespace: job.Namespace, Name: v.PersistentVolumeClaim.ClaimName}, claim))
		}
	}
	if claim.Status.Phase != corev1.ClaimBound {
		return
	}
	var result *mover.Result
	decided := false
	if k.fail != nil {
		result, decided = k.fail(job)
	}
	if !decided {
		tasks, err := mover.ParseTasks(spec.Containers[0].Env[0].Value)
		k.check(err)
		tasks[0].Dir = k.dataOf(ctx, claim.Spec.VolumeName)
		done, err := mover.Run(ctx, tasks, k.open, io.Discard, func(mover.Results) error { return nil })
		k.check(err)
		result = &done[0]
	}
	k.endJob(ctx, job, result)
}

// dataOf is the directory of a volume's data.
func (k *cluster) dataOf(ctx context.Context, volume string) string {
	k.t.Helper()
	pv := &corev1.PersistentVolume{}
	k.check(k.c.Get(ctx, client.ObjectKey{Name: volume}, pv))
	if pv.Spec.Local != nil {
		return pv.Spec.Local.Path
	}
	return k.volumes[volume]
}

func (k *cluster) endJob(ctx context.Context, job *batchv1.Job, result *mover.Result) {
	k.t.Helper()
	labels := map[string]string{batchv1.JobNameLabel: job.Name, batchv1.ControllerUidLabel: string(job.UID)}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: job.Namespace, Name: job.Name, Labels: labels}, Spec: job.Spec.Template.Spec}
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	k.check(k.c.Create(ctx, pod))
	ended := &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "Error"}
	condition := batchv1.JobFailed
	if result != nil {
		ended.Message = string(mover.Results{*result}.Encode(make([]mover.Task, 1)))
		if result.Error == "" {
			ended.ExitCode, ended.Reason, condition = 0, "Completed", batchv1.JobComplete
		}
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name, State: corev1.ContainerState{Terminated: ended}}}
	k.check(k.c.Status().Update(ctx, pod))
	now := metav1.Now()
	job.Status.StartTime = &now
	job.Status.Conditions = []batchv1.JobCondition{{Type: condition, Status: corev1.ConditionTrue, LastTransitionTime: now, Reason: "StandIn"}}
	if condition == batchv1.JobComplete {
		job.Status.CompletionTime = &now
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, LastTransitionTime: now})
	} else {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: batchv1.JobFailureTarget, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	k.check(k.c.Status().Update(ctx, job))
}

// leftovers names everything of backups that is still there.
func (k *cluster) leftovers(ctx context.Context) []string {
	k.t.Helper()
	var names []string
	for handle := range k.snapshots {
		names = append(names, "storage snapshot "+handle)
	}
	labelled := client.HasLabels{v1alpha1.LabelRestorePoint}
	var snapshots snapshotv1.VolumeSnapshotList
	k.check(k.c.List(ctx, &snapshots))
	for _, o := range snapshots.Items {
		names = append(names, "VolumeSnapshot "+o.Name)
	}
	var groups groupv1.VolumeGroupSnapshotList
	k.check(k.c.List(ctx, &groups))
	for _, o := range groups.Items {
		names = append(names, "VolumeGroupSnapshot "+o.Name)
	}
	var contents snapshotv1.VolumeSnapshotContentList
	k.check(k.c.List(ctx, &contents))
	for _, o := range contents.Items {
		names = append(names, "VolumeSnapshotContent "+o.Name)
	}
	var claims corev1.PersistentVolumeClaimList
	k.check(k.c.List(ctx, &claims, labelled))
	for _, o := range claims.Items {
		names = append(names, "claim "+o.Name)
	}
	var jobs batchv1.JobList
	k.check(k.c.List(ctx, &jobs))
	for _, o := range jobs.Items {
		names = append(names, "job "+o.Name)
	}
	var volumes corev1.PersistentVolumeList
	k.check(k.c.List(ctx, &volumes))
	for _, o := range volumes.Items {
		if o.Spec.ClaimRef.Namespace == v1alpha1.SystemNamespace {
			names = append(names, "volume "+o.Name)
		}
	}
	return names
}

func (k *cluster) copyOf(dir string) string {
	k.t.Helper()
	k.made++
	out := filepath.Join(k.t.TempDir(), "copy")
	if err := os.CopyFS(out, os.DirFS(dir)); err != nil {
		k.t.Fatal(err)
	}
	return out
}

// manualClock stands still until it is moved.
type manualClock struct{ now time.Time }

func (c *manualClock) Now() time.Time                  { return c.now }
func (c *manualClock) Since(t time.Time) time.Duration { return c.now.Sub(t) }
