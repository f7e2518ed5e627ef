package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/workloads"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// A restore may replace claims that are bound, where that was asked for. Everything runs on until every volume of the point is
// filled and verified: what can fail has failed by then. Then, in this order:
//
//	keep     each old volume gets the reclaim policy Retain and says whose it was. That comes first: some StatefulSets delete
//	         their claims when they are scaled.
//	stop     the workloads that mount the claims are scaled to none, CronJobs suspended.
//	vacate   each old claim is deleted when no pod uses it, and only if it is the one that the status names.
//
// From then on it is a restore like any other. Which claims and workloads these are, and what they had, is in the status before
// any of it.

// +kubebuilder:rbac:groups=batch,resources=cronjobs,verbs=get;list;patch

// Verbs of setting aside.
const (
	doKeep   verb = "keep"   // keep an old volume whatever becomes of its claim
	doStop   verb = "stop"   // stop a workload
	doVacate verb = "vacate" // delete an old claim
	doResume verb = "resume" // give a workload back what the commit does not say
)

// halted is a workload that is stopped while claims are replaced.
type halted struct {
	v1alpha1.StoppedWorkload
	// live is the workload as it is now; nil if there is none.
	live *unstructured.Unstructured
}

func (s halted) key() object.Key { return stoppedKey(s.StoppedWorkload) }

func stoppedKey(s v1alpha1.StoppedWorkload) object.Key {
	group := appsv1.GroupName
	if s.Kind == "CronJob" {
		group = batchv1.GroupName
	}
	return object.Key{Group: group, Kind: s.Kind, Namespace: s.Namespace, Name: s.Name}
}

// field is where it says how much of a workload runs, and what is there while it is stopped.
func (s halted) field() (path []string, off, before any) {
	if s.Kind == "CronJob" {
		return []string{"spec", "suspend"}, true, false
	}
	return []string{"spec", "replicas"}, int64(0), int64(s.Replicas)
}

// isStopped says that nothing of it runs, or that it is gone.
func (s halted) isStopped() bool {
	if s.live == nil {
		return true
	}
	path, off, _ := s.field()
	value, _, _ := unstructured.NestedFieldNoCopy(s.live.Object, path...)
	return value == off
}

// scaledBy names the restore point that has it at zero, and will scale it back whatever anybody else does; empty if none has.
func (s halted) scaledBy() string {
	if s.live == nil || s.Kind == "CronJob" {
		return ""
	}
	return workloads.ScaledBy(s.live)
}

// awaited finds a workload that a restore point has at zero: it is stopped when it has come back, or it would come back later.
func (w *world) awaited() (halted, bool) {
	i := slices.IndexFunc(w.halted, func(s halted) bool { return s.scaledBy() != "" })
	if i < 0 {
		return halted{}, false
	}
	return w.halted[i], true
}

// says tells whether a manifest says itself how much of it is to run.
func (s halted) says(manifest *unstructured.Unstructured) bool {
	path, _, _ := s.field()
	_, found, _ := unstructured.NestedFieldNoCopy(manifest.Object, path...)
	return found
}

// replacing says that the target is the claim that is to be replaced.
func (v volume) replacing() bool {
	return v.SetAside != nil && v.target != nil && v.target.UID == v.SetAside.ClaimUID
}

// behindOld is where a volume stands whose old claim is still there: it is filled as if there were none, and then waits.
func (v volume) behindOld(g group, uid string) (step, string) {
	fresh := v
	fresh.target = nil
	at, why := fresh.where(g, uid)
	switch {
	case at != stepReserve:
		return at, why
	case !v.hydrated():
		return stepFill, ""
	case !v.whole():
		return stepStuck, fmt.Sprintf("volume %s was filled with other data than the point's", v.pv.Name)
	case g.busy() || v.attached:
		return stepDetach, ""
	case v.old != nil && v.old.Labels[v1alpha1.LabelRestore] != "":
		return stepWait, fmt.Sprintf("volume %s is still being handed over by another restore", v.old.Name)
	case v.old == nil || v.old.Spec.ClaimRef == nil || v.old.Spec.ClaimRef.UID != v.SetAside.ClaimUID:
		return stepStuck, fmt.Sprintf("volume %s, which is to be set aside, is gone or no longer that of claim %s; look for it, and delete the claim",
			v.SetAside.Volume, v.Name)
	}
	return stepVacate, ""
}

// kept says that the old volume stays whatever becomes of its claim, and says whose it was.
func (v volume) kept(uid string) bool {
	return v.old.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRetain && v.old.Labels[v1alpha1.LabelSetAside] == uid
}

// replacing says that a claim which is to be replaced is still there. Until none is, nothing of the commit comes but namespaces.
func (w *world) replacing() bool { return slices.ContainsFunc(w.volumes, volume.replacing) }

// decideAside sets aside what is in the way, once nothing else is waited for.
func (w *world) decideAside() []action {
	if !w.replacing() || !w.allFilled() {
		return nil
	}
	var out []action
	for _, v := range w.volumes {
		if v.replacing() && !v.kept(w.uid) {
			out = append(out, action{verb: doKeep, claim: v.Name})
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, s := range w.halted {
		if !s.isStopped() {
			out = append(out, action{verb: doStop, object: s.key()})
		}
	}
	if _, wait := w.awaited(); wait || len(out) > 0 {
		return out
	}
	for _, v := range w.volumes {
		if v.replacing() && v.target.DeletionTimestamp == nil && len(v.users) == 0 {
			out = append(out, action{verb: doVacate, claim: v.Name})
		}
	}
	return out
}

// allFilled says that every volume is filled and verified, and free to be handed over where an old claim is in the way.
func (w *world) allFilled() bool {
	return !slices.ContainsFunc(w.volumes, func(v volume) bool {
		at, _ := v.where(w.groupOf(v), w.uid)
		return !v.whole() || v.replacing() && at != stepVacate
	})
}

// behind says in words what an old claim waits for before it is replaced.
func (w *world) behind(v volume) string {
	s, wait := w.awaited()
	switch {
	case !w.allFilled():
		return "filled and verified; waits for the other volumes before anything is stopped"
	case wait:
		return fmt.Sprintf("waits for restore point %s, which has scaled %s to zero, to scale it back", s.scaledBy(), s.key())
	case len(v.users) > 0:
		return fmt.Sprintf("waits for %s to end", strings.Join(v.users, ", "))
	}
	return ""
}

// decideResume gives back what the commit leaves to others, as an autoscaler, to workloads that it has brought.
func (w *world) decideResume() []action {
	var out []action
	for _, s := range w.halted {
		if w.resumeDue(s) {
			out = append(out, action{verb: doResume, object: s.key()})
		}
	}
	return out
}

func (w *world) resumeDue(s halted) bool {
	i := slices.IndexFunc(w.workloads, func(l workload) bool { return l.Key == s.key() })
	return !w.replacing() && s.live != nil && s.isStopped() && i >= 0 && w.workloads[i].released && !s.says(w.workloads[i].Manifest)
}

// observeAside looks at old volumes and who uses them, and at what is stopped.
func (r *Reconciler) observeAside(ctx context.Context, restore *v1alpha1.Restore, w *world) error {
	for i := range w.volumes {
		v := &w.volumes[i]
		if !v.replacing() {
			continue
		}
		old := &corev1.PersistentVolume{}
		err := r.Reader.Get(ctx, types.NamespacedName{Name: v.SetAside.Volume}, old)
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("reading volume %q: %w", v.SetAside.Volume, err)
		}
		if err == nil {
			v.old = old
		}
		if v.users, err = r.usersOf(ctx, v.Name); err != nil {
			return err
		}
	}
	for _, s := range restore.Status.Stopped {
		live, err := workloads.Get(ctx, r.Reader, stoppedKey(s))
		if err != nil {
			return err
		}
		w.halted = append(w.halted, halted{s, live})
	}
	return nil
}

// usersOf names the pods that use a claim, without those that have ended.
func (r *Reconciler) usersOf(ctx context.Context, claim object.Name) ([]string, error) {
	var pods corev1.PodList
	if err := r.Reader.List(ctx, &pods, client.InNamespace(claim.Namespace)); err != nil {
		return nil, fmt.Errorf("listing pods of namespace %q: %w", claim.Namespace, err)
	}
	var users []string
	for _, p := range pods.Items {
		over := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if !over && slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name
		}) {
			users = append(users, "pod "+p.Namespace+"/"+p.Name)
		}
	}
	slices.Sort(users)
	return users, nil
}

// keep makes an old volume stay, and lets it say whose it was. It fails if somebody has changed it meanwhile.
func (s scope) keep(ctx context.Context, v volume) error {
	return s.patchVolume(ctx, v.old, func(pv *corev1.PersistentVolume) {
		metav1.SetMetaDataLabel(&pv.ObjectMeta, v1alpha1.LabelSetAside, s.world.uid)
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, v1alpha1.AnnotationSetAsideClaim, v.Name.String())
		metav1.SetMetaDataAnnotation(&pv.ObjectMeta, v1alpha1.AnnotationSetAsideBy, s.restore.Namespace+"/"+s.restore.Name)
		if pv.Annotations[v1alpha1.AnnotationReclaimPolicy] == "" {
			metav1.SetMetaDataAnnotation(&pv.ObjectMeta, v1alpha1.AnnotationReclaimPolicy, string(pv.Spec.PersistentVolumeReclaimPolicy))
		}
		pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	})
}

// vacate deletes the old claim, if it is the one of which the volume is kept.
func (s scope) vacate(ctx context.Context, v volume) error {
	uid := v.SetAside.ClaimUID
	return client.IgnoreNotFound(s.Client.Delete(ctx, v.target, client.Preconditions{UID: &uid}))
}

func (s scope) stop(ctx context.Context, key object.Key) error {
	w := s.halted(key)
	_, off, _ := w.field()
	return s.set(ctx, w, off)
}

func (s scope) resume(ctx context.Context, key object.Key) error {
	w := s.halted(key)
	_, _, before := w.field()
	return s.set(ctx, w, before)
}

func (s scope) halted(key object.Key) halted {
	i := slices.IndexFunc(s.world.halted, func(w halted) bool { return w.key() == key })
	return s.world.halted[i]
}

// set says how much of a workload is to run, unless somebody has changed it meanwhile.
func (r *Reconciler) set(ctx context.Context, w halted, value any) error {
	path, _, _ := w.field()
	changed := w.live.DeepCopy()
	if err := unstructured.SetNestedField(changed.Object, value, path...); err != nil {
		return err
	}
	return workloads.Change(ctx, r.Client, w.live, changed)
}

// asideOf is what the status says of an earlier decision; nil if none was taken.
func asideOf(restore *v1alpha1.Restore) *plan.Aside {
	if restore.Status.Engine == nil {
		return nil
	}
	known := &plan.Aside{Claims: map[object.Name]plan.SetAside{}}
	for _, v := range restore.Status.Volumes {
		if v.SetAside != "" {
			known.Claims[object.Name{Namespace: v.Namespace, Name: v.Claim}] = plan.SetAside{Volume: v.SetAside, ClaimUID: types.UID(v.Replaces)}
		}
	}
	for _, s := range restore.Status.Stopped {
		known.Stops = append(known.Stops, plan.Stop{Key: stoppedKey(s), Replicas: s.Replicas})
	}
	return known
}

// decideOnce puts into the status what is to be set aside and stopped.
func decideOnce(restore *v1alpha1.Restore, p *plan.Plan) {
	for _, c := range p.Claims {
		if c.SetAside != nil {
			restore.Status.Volumes = append(restore.Status.Volumes, v1alpha1.VolumeRestore{
				Namespace: c.Name.Namespace, Claim: c.Name.Name, SetAside: c.SetAside.Volume, Replaces: string(c.SetAside.ClaimUID),
			})
		}
	}
	for _, s := range p.Stops {
		restore.Status.Stopped = append(restore.Status.Stopped, v1alpha1.StoppedWorkload{
			Kind: s.Kind, Namespace: s.Namespace, Name: s.Name, Replicas: s.Replicas,
		})
	}
}
