package restore

import (
	"context"
	"fmt"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// observe reads the world of a restore from the API server.
func (r *Reconciler) observe(ctx context.Context, restore *v1alpha1.Restore, replay *replay) (*world, error) {
	w := &world{
		now: r.Now(), uid: string(restore.UID), verify: restore.Spec.Verify, maxMovers: r.MaxMovers,
		defined: replay.defined, based: replay.based,
		asked: restore.Annotations[v1alpha1.AnnotationReconcileAt] != restore.Status.LastHandledReconcileAt,
	}
	made, err := r.observeTemporary(ctx, restore)
	if err != nil {
		return nil, err
	}
	if w.movers, err = r.countMovers(ctx); err != nil {
		return nil, err
	}
	for _, c := range replay.plan.Claims {
		v := volume{Claim: c, staging: made.staging[stagingName(w.uid, c.Index)]}
		if err := r.observeVolume(ctx, w.uid, made, &v); err != nil {
			return nil, err
		}
		w.volumes = append(w.volumes, v)
	}
	for _, g := range replay.plan.Groups {
		observed, err := r.observeGroup(ctx, made, group{Group: g})
		if err != nil {
			return nil, err
		}
		w.groups = append(w.groups, observed)
	}
	return w, r.observeWorkloads(ctx, replay, w)
}

// temporaries is what a restore has made for itself, and what hangs on it.
type temporaries struct {
	staging  map[string]*corev1.PersistentVolumeClaim // by name
	volumes  map[string]*corev1.PersistentVolume      // by the target's "<namespace>/<name>"
	jobs     []batchv1.Job
	pods     []corev1.Pod
	attached map[string]bool // by volume
}

func (r *Reconciler) observeTemporary(ctx context.Context, restore *v1alpha1.Restore) (temporaries, error) {
	t := temporaries{
		staging: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{}, attached: map[string]bool{},
	}
	var claims corev1.PersistentVolumeClaimList
	var volumes corev1.PersistentVolumeList
	var jobs batchv1.JobList
	var pods corev1.PodList
	var attachments storagev1.VolumeAttachmentList
	mine := client.MatchingLabels{v1alpha1.LabelRestore: string(restore.UID)}
	system := client.InNamespace(v1alpha1.SystemNamespace)
	for _, l := range []struct {
		what    string
		list    client.ObjectList
		options []client.ListOption
	}{
		{"staging claims", &claims, []client.ListOption{system, mine}},
		{"volumes", &volumes, []client.ListOption{mine}},
		{"movers", &jobs, []client.ListOption{system, mine}},
		{"movers' pods", &pods, []client.ListOption{system, mine}},
		{"volume attachments", &attachments, nil},
	} {
		if err := r.Reader.List(ctx, l.list, l.options...); err != nil {
			return t, fmt.Errorf("listing %s: %w", l.what, err)
		}
	}
	for i := range claims.Items {
		t.staging[claims.Items[i].Name] = &claims.Items[i]
	}
	for i := range volumes.Items {
		t.volumes[volumes.Items[i].Annotations[v1alpha1.AnnotationTarget]] = &volumes.Items[i]
	}
	t.jobs, t.pods = jobs.Items, pods.Items
	for _, a := range attachments.Items {
		if a.Spec.Source.PersistentVolumeName != nil {
			t.attached[*a.Spec.Source.PersistentVolumeName] = true
		}
	}
	return t, nil
}

// observeVolume finds the target, and the volume by its mark or else through whichever claim names it.
func (r *Reconciler) observeVolume(ctx context.Context, uid string, made temporaries, v *volume) error {
	target := &corev1.PersistentVolumeClaim{}
	switch err := r.Reader.Get(ctx, client.ObjectKey(v.Name), target); {
	case err == nil:
		v.target = target
	case !apierrors.IsNotFound(err):
		return fmt.Errorf("reading claim %q: %w", v.Name, err)
	}
	v.pv = made.volumes[v.Name.String()]
	name := ""
	if v.staging != nil {
		name = v.staging.Spec.VolumeName
	}
	if name == "" && v.reserved(uid) {
		name = v.target.Spec.VolumeName
	}
	if v.pv == nil && name != "" {
		pv := &corev1.PersistentVolume{}
		switch err := r.Reader.Get(ctx, client.ObjectKey{Name: name}, pv); {
		case err == nil:
			v.pv = pv
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("reading volume %q: %w", name, err)
		}
	}
	v.attached = v.pv != nil && made.attached[v.pv.Name]
	return nil
}

func (r *Reconciler) observeGroup(ctx context.Context, made temporaries, g group) (group, error) {
	label := strconv.Itoa(g.Index)
	for _, p := range made.pods {
		g.pods = g.pods || p.Labels[labelGroup] == label
	}
	for i := range made.jobs {
		j := &made.jobs[i]
		if j.Labels[labelGroup] != label {
			continue
		}
		attempt, err := strconv.Atoi(j.Annotations[annotationAttempt])
		if err != nil {
			return g, fmt.Errorf("reading the attempt of job %q: %w", j.Name, err)
		}
		state, err := mover.Observe(ctx, r.Reader, r.Kubernetes, j)
		if err != nil {
			return g, err
		}
		observed := job{attempt: attempt, deleting: j.DeletionTimestamp != nil, ended: ended(j), state: state}
		if observed.ended.IsZero() && state.Terminal {
			observed.ended = j.CreationTimestamp.Time
		}
		g.jobs = append(g.jobs, observed)
	}
	return g, nil
}

// countMovers counts the running movers of every backup and restore.
func (r *Reconciler) countMovers(ctx context.Context) (int, error) {
	var jobs batchv1.JobList
	err := r.Reader.List(ctx, &jobs, client.InNamespace(v1alpha1.SystemNamespace), client.MatchingLabels{v1alpha1.LabelManagedBy: "lockstep"})
	if err != nil {
		return 0, fmt.Errorf("listing movers: %w", err)
	}
	running := 0
	for i := range jobs.Items {
		if ended(&jobs.Items[i]).IsZero() {
			running++
		}
	}
	return running, nil
}

// ended is when a Job was over; zero while it is not.
func ended(j *batchv1.Job) time.Time {
	for _, c := range j.Status.Conditions {
		if c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) {
			return c.LastTransitionTime.Time
		}
	}
	return time.Time{}
}

func (r *Reconciler) observeWorkloads(ctx context.Context, replay *replay, w *world) error {
	var released []*unstructured.Unstructured
	for _, l := range replay.plan.Workloads {
		w.workloads = append(w.workloads, workload{Workload: l, released: replay.released[l.Key]})
		if replay.released[l.Key] {
			released = append(released, l.Manifest)
		}
	}
	if len(released) == 0 {
		return nil
	}
	health, err := r.applier(replay).Health(ctx, released)
	if err != nil {
		return fmt.Errorf("reading the workloads' health: %w", err)
	}
	apply.FinishJobs(released, health)
	for i, l := range w.workloads {
		w.workloads[i].status = health[l.Key]
	}
	return nil
}

func (r *Reconciler) applier(replay *replay) Applier {
	name, err := object.ParseName(replay.plan.Application)
	if err != nil { // a record without a policy's full name is refused when it is read
		name = object.Name{Name: replay.plan.Application}
	}
	return r.NewApplier(client.ObjectKey(name))
}
