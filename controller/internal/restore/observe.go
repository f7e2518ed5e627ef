package restore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// observe reads the world of a restore from the API server.
func (r *Reconciler) observe(ctx context.Context, restore *v1alpha1.Restore, replay *replay) (*world, error) {
	w := &world{
		now: r.Now(), uid: string(restore.UID), verify: restore.Spec.Verify,
		broughtBack: replay.broughtBack, returning: replay.returning, following: replay.following,
		asked: restore.Annotations[v1alpha1.AnnotationReconcileAt] != restore.Status.LastHandledReconcileAt,
	}
	made, err := r.observeTemporary(ctx, restore)
	if err != nil {
		return nil, err
	}
	if w.room, err = r.Movers.Left(ctx); err != nil {
		return nil, err
	}
	if err := r.observeVolumes(ctx, replay, made, w); err != nil {
		return nil, err
	}
	if err := r.observeAside(ctx, restore, w); err != nil {
		return nil, err
	}
	return w, r.deployerOf(restore, replay).observe(ctx, w)
}

// observeVolumes looks at volumes and their movers, at several at once: each takes requests of its own.
func (r *Reconciler) observeVolumes(ctx context.Context, replay *replay, made temporaries, w *world) error {
	w.volumes, w.groups = make([]volume, len(replay.plan.Claims)), make([]group, len(replay.plan.Groups))
	logs := r.Kube
	if w.quiet = w.now.Sub(replay.shown) < showEvery; w.quiet {
		logs = nil
	} else {
		replay.shown = w.now
	}
	var err error
	if made.targets, err = r.listTargets(ctx, replay.plan.Claims); err != nil {
		return err
	}
	made.firstSeen = func(mover types.UID) time.Time { return replay.firstSeen(mover, w.now) }
	looks, ctx := errgroup.WithContext(ctx)
	looks.SetLimit(r.Parallel)
	for i, c := range replay.plan.Claims {
		v := &w.volumes[i]
		*v = volume{Claim: c, staging: made.staging[stagingName(w.uid, c.Index)], managed: replay.plan.Engine.Manages()}
		looks.Go(func() error {
			if v.staging != nil && v.staging.Status.Phase == corev1.ClaimPending && w.now.Sub(v.staging.CreationTimestamp.Time) > slowToProvision {
				v.warning = mover.Warning(ctx, logs, v.staging.Namespace, v.staging.UID)
			}
			return r.observeVolume(ctx, w.uid, made, v)
		})
	}
	for i, g := range replay.plan.Groups {
		looks.Go(func() (err error) {
			w.groups[i], err = r.observeGroup(ctx, made, logs, group{Group: g})
			return err
		})
	}
	for i := range made.jobs {
		if groups := groupsOf(made.jobs[i].Labels); len(groups) > 1 {
			s := &shared{groups: groups}
			w.shared = append(w.shared, s)
			looks.Go(func() (err error) {
				s.job, err = r.observeJob(ctx, made, logs, &made.jobs[i])
				return err
			})
		}
	}
	if err := looks.Wait(); err != nil {
		return err
	}
	for _, s := range w.shared {
		for i := range w.groups {
			if slices.Contains(s.groups, w.groups[i].Index) {
				w.groups[i].shared = s
			}
		}
	}
	return nil
}

// slowToProvision is what a volume may take before it is asked why: the answer is dear, and mostly there is nothing to say.
const slowToProvision = 15 * time.Second

// temporaries is what a restore has made for itself, and what hangs on it.
type temporaries struct {
	staging  map[string]*corev1.PersistentVolumeClaim // by name
	volumes  map[string]*corev1.PersistentVolume      // by the target's "<namespace>/<name>"
	jobs     []batchv1.Job
	pods     []corev1.Pod
	attached map[string]bool // by volume
	// firstSeen is when a mover was seen first.
	firstSeen func(mover types.UID) time.Time
	// targets are all claims of those namespaces of which it is known, by their names.
	targets map[string]map[string]*corev1.PersistentVolumeClaim
}

// fewTargets is up to how many claims of a namespace are read one by one; beyond, to list them all is less.
const fewTargets = 3

// listTargets reads the claims of the namespaces in which the plan has many.
func (r *Reconciler) listTargets(ctx context.Context, claims []plan.Claim) (map[string]map[string]*corev1.PersistentVolumeClaim, error) {
	count := map[string]int{}
	for _, c := range claims {
		count[c.Name.Namespace]++
	}
	out := map[string]map[string]*corev1.PersistentVolumeClaim{}
	for namespace, n := range count {
		if n <= fewTargets {
			continue
		}
		var list corev1.PersistentVolumeClaimList
		if err := r.Reader.List(ctx, &list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("listing claims of namespace %q: %w", namespace, err)
		}
		out[namespace] = map[string]*corev1.PersistentVolumeClaim{}
		for i := range list.Items {
			out[namespace][list.Items[i].Name] = &list.Items[i]
		}
	}
	return out, nil
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
	if listed, known := made.targets[v.Name.Namespace]; known {
		v.target = listed[v.Name.Name]
	} else {
		target := &corev1.PersistentVolumeClaim{}
		switch err := r.Reader.Get(ctx, client.ObjectKey(v.Name), target); {
		case err == nil:
			v.target = target
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("reading claim %q: %w", v.Name, err)
		}
	}
	v.pv = made.volumes[v.Name.String()]
	name := ""
	if v.staging != nil {
		name = v.staging.Spec.VolumeName
	}
	if v.staging == nil && v.reserved(uid) {
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
	return r.observeNodes(ctx, v)
}

// showEvery is how often movers are asked how far they are, or what they wait for. The answer is dear: a log comes from the node, and
// events are searched.
const showEvery = 2 * time.Second

func (r *Reconciler) observeGroup(ctx context.Context, made temporaries, logs kubernetes.Interface, g group) (group, error) {
	for _, p := range made.pods {
		mine := slices.Contains(groupsOf(p.Labels), g.Index)
		g.pods = g.pods || mine
		g.writing = g.writing || mine && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
	}
	for i := range made.jobs {
		if !slices.Equal(groupsOf(made.jobs[i].Labels), []int{g.Index}) {
			continue
		}
		observed, err := r.observeJob(ctx, made, logs, &made.jobs[i])
		if err != nil {
			return g, err
		}
		g.jobs = append(g.jobs, observed)
	}
	return g, nil
}

func (r *Reconciler) observeJob(ctx context.Context, made temporaries, logs kubernetes.Interface, j *batchv1.Job) (job, error) {
	attempt, err := strconv.Atoi(j.Annotations[annotationAttempt])
	if err != nil {
		return job{}, fmt.Errorf("reading the attempt of job %q: %w", j.Name, err)
	}
	state, err := mover.ObserveAmong(ctx, r.Reader, logs, j, made.pods)
	if err != nil {
		return job{}, err
	}
	if !state.PendingSince.IsZero() {
		state.PendingSince = made.firstSeen(j.UID)
	}
	observed := job{attempt: attempt, deleting: j.DeletionTimestamp != nil, ended: movers.Ended(j), state: state}
	observed.finished = !observed.ended.IsZero()
	if !observed.finished && state.Terminal {
		observed.ended = j.CreationTimestamp.Time
	}
	return observed, nil
}

func (r *Reconciler) applier(replay *replay) Applier {
	name, err := object.ParseName(replay.plan.Application)
	if err != nil { // a record without a policy's full name is refused when it is read
		name = object.Name{Name: replay.plan.Application}
	}
	return r.NewApplier(client.ObjectKey(name))
}
