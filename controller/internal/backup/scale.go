package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/workloads"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// +kubebuilder:rbac:groups=storage.k8s.io,resources=volumeattachments,verbs=list

// scaleTargets finds everything that mounts the claims which nobody is to have.
func (r *Reconciler) scaleTargets(ctx context.Context, pol *v1alpha1.ProtectionPolicy, claims []corev1.PersistentVolumeClaim, f foundation) (*v1alpha1.Scaling, error) {
	if pol.Spec.ScaleToZero == nil {
		return nil, nil
	}
	if err := absent(pol.Spec.ScaleToZero, claims, f.volumes); err != nil {
		return nil, fmt.Errorf("policy %q: %w", pol.Name, err)
	}
	chosen, bound := map[object.Name]bool{}, map[object.Name]plan.ClaimFact{}
	for _, v := range f.volumes {
		if name := (object.Name{Namespace: pol.Namespace, Name: v.Claim}); v.ScaleToZero {
			chosen[name], bound[name] = true, plan.ClaimFact{Phase: corev1.ClaimBound}
		}
	}
	consumers, err := facts.Consumers(ctx, r.Reader, bound)
	if err != nil {
		return nil, err
	}
	keys, err := toScale(chosen, consumers)
	if err != nil {
		return nil, err
	}
	if err := heldAway(pol.Namespace, f.quiesce, keys, consumers); err != nil {
		return nil, fmt.Errorf("policy %q: %w", pol.Name, err)
	}
	s := &v1alpha1.Scaling{Timeout: pol.Spec.ScaleToZero.Timeout}
	for _, key := range keys {
		live, err := workloads.Get(ctx, r.Reader, key)
		if err != nil {
			return nil, err
		}
		if live == nil {
			continue
		}
		w, err := scaledWorkload(live)
		if err != nil {
			return nil, err
		}
		s.Workloads = append(s.Workloads, w)
	}
	return s, nil
}

func (r *Reconciler) liveWorkload(ctx context.Context, p *v1alpha1.RestorePoint, w *v1alpha1.ScaledWorkload) (*unstructured.Unstructured, error) {
	return workloads.Get(ctx, r.Reader, object.Key{Group: appsv1.GroupName, Kind: w.Kind, Namespace: p.Namespace, Name: w.Name})
}

// scaleDown scales to zero what is to be away. What each had is in the status already.
func (r *Reconciler) scaleDown(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	for i := range p.Status.ScaleToZero.Workloads {
		w := &p.Status.ScaleToZero.Workloads[i]
		if w.ScaledAt != nil {
			continue
		}
		live, err := r.liveWorkload(ctx, p, w)
		if err != nil {
			return ctrl.Result{}, err
		}
		do, why := decideDown(w, live, p.Name)
		switch do {
		case scaleFail:
			return r.fail(p, v1alpha1.ReasonScaleDownFailed, why)
		case scaleRenote:
			w.Replicas = workloads.Replicas(live)
			w.ScaleBackDue = w.Replicas > 0
			return r.progress(p, "scaling to zero", atOnce) // it must be in the status first
		case scaleSet:
			if err = r.setReplicas(ctx, w, live, 0, p.Name); refused(err) {
				return r.fail(p, v1alpha1.ReasonScaleDownFailed, err.Error())
			} else if err != nil {
				return ctrl.Result{}, err
			}
		}
		now := metav1.NewMicroTime(r.Clock.Now())
		w.ScaledAt = &now
	}
	return r.progress(p, "scaling to zero", atOnce)
}

// setReplicas changes how many pods a workload is to have, with the mark that says for whom it is at zero; live gets what is there afterwards.
func (r *Reconciler) setReplicas(ctx context.Context, w *v1alpha1.ScaledWorkload, live *unstructured.Unstructured, n int32, point string) error {
	changed := live.DeepCopy()
	if err := unstructured.SetNestedField(changed.Object, int64(n), "spec", "replicas"); err != nil {
		return err
	}
	marks := changed.GetAnnotations()
	if marks == nil {
		marks = map[string]string{}
	}
	if point != "" {
		marks[v1alpha1.AnnotationScaledBy], marks[v1alpha1.AnnotationReplicas] = point, strconv.Itoa(int(w.Replicas))
	} else {
		delete(marks, v1alpha1.AnnotationScaledBy)
		delete(marks, v1alpha1.AnnotationReplicas)
	}
	changed.SetAnnotations(marks)
	if err := workloads.Change(ctx, r.Client, live, changed); err != nil {
		return fmt.Errorf("scaling %s to %d: %w", nameOfWorkload(w), n, err)
	}
	live.Object = changed.Object
	return nil
}

// refused says that the API server will not do it, also if it is asked again.
func refused(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err)
}

// awaitGone waits until the last pod is gone and the volumes are detached, where they are attached: then all is written that was to be.
func (r *Reconciler) awaitGone(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	s := p.Status.ScaleToZero
	var waiting []string
	for i := range s.Workloads {
		w := &s.Workloads[i]
		live, err := r.liveWorkload(ctx, p, w)
		if err != nil {
			return ctrl.Result{}, err
		}
		if w.Generation == 0 && !gone(w, live) {
			w.Generation = live.GetGeneration()
		}
		if why := disturbed(w, live); why != "" {
			return r.fail(p, v1alpha1.ReasonScaleDownFailed, why)
		}
		if !settled(w, live) {
			waiting = append(waiting, nameOfWorkload(w))
		}
	}
	users, err := r.users(ctx, p, nil)
	if err != nil {
		return ctrl.Result{}, err
	}
	attached, err := r.attached(ctx, p)
	if err != nil {
		return ctrl.Result{}, err
	}
	if waiting = slices.Concat(waiting, users, attached); len(waiting) > 0 {
		return r.progress(p, "waiting to be away: "+strings.Join(waiting, ", "), r.Limits.Soon)
	}
	now := metav1.NewMicroTime(r.Clock.Now())
	s.GoneAt = &now
	return r.progress(p, "taking snapshots", atOnce)
}

// users names the pods that have the claims which nobody is to have.
func (r *Reconciler) users(ctx context.Context, p *v1alpha1.RestorePoint, since *metav1.MicroTime) ([]string, error) {
	var pods corev1.PodList
	if err := r.Reader.List(ctx, &pods, client.InNamespace(p.Namespace)); err != nil {
		return nil, fmt.Errorf("listing pods: %w", err)
	}
	return usersOf(absentClaims(p), pods.Items, since), nil
}

// attached names the volumes of these claims that a node still has.
func (r *Reconciler) attached(ctx context.Context, p *v1alpha1.RestorePoint) (out []string, err error) {
	var attachments storagev1.VolumeAttachmentList
	if err := r.Reader.List(ctx, &attachments); err != nil {
		return nil, fmt.Errorf("listing volume attachments: %w", err)
	}
	for i := range p.Status.Volumes {
		v := &p.Status.Volumes[i]
		if !v.ScaleToZero {
			continue
		}
		claim, err := r.source(ctx, p, v)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(attachments.Items, func(a storagev1.VolumeAttachment) bool {
			return a.Spec.Source.PersistentVolumeName != nil && *a.Spec.Source.PersistentVolumeName == claim.Spec.VolumeName
		}) {
			out = append(out, fmt.Sprintf("the volume of claim %q", v.Claim))
		}
	}
	return out, nil
}

// checkAway makes sure that nothing has run until the moment of the last snapshot. That it has not is in the status before anything is
// scaled back.
func (r *Reconciler) checkAway(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	s := p.Status.ScaleToZero
	for i := range s.Workloads {
		live, err := r.liveWorkload(ctx, p, &s.Workloads[i])
		if err != nil {
			return ctrl.Result{}, err
		}
		if why := disturbed(&s.Workloads[i], live); why != "" {
			return r.fail(p, v1alpha1.ReasonScaleDownFailed, why)
		}
	}
	users, err := r.users(ctx, p, s.GoneAt)
	if err != nil {
		return ctrl.Result{}, err
	}
	if len(users) > 0 {
		return r.fail(p, v1alpha1.ReasonScaleDownFailed, strings.Join(users, ", ")+" had a claim that nobody was to have while the snapshots were taken")
	}
	now := metav1.NewMicroTime(r.Clock.Now())
	s.CutAt = &now
	return r.progress(p, "scaling back", atOnce)
}

// endAbsence gives the workloads their replicas back when all snapshots are cut.
func (r *Reconciler) endAbsence(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	switch err := r.scaleBack(ctx, p); {
	case refused(err):
		return r.fail(p, v1alpha1.ReasonScaleUpFailed, err.Error())
	case err != nil:
		return ctrl.Result{}, err
	}
	return r.progress(p, "snapshots are taken", atOnce)
}

// scaleBack gives all workloads their replicas back that are owed them. While an error is returned some may be at zero, and it is to be
// called again.
func (r *Reconciler) scaleBack(ctx context.Context, p *v1alpha1.RestorePoint) error {
	if p.Status.ScaleToZero == nil {
		return nil
	}
	var failed error
	for i := range p.Status.ScaleToZero.Workloads {
		if w := &p.Status.ScaleToZero.Workloads[i]; w.ScaleBackDue {
			if err := r.scaleOneBack(ctx, p, w); err != nil {
				w.Message = err.Error()
				failed = join(failed, err)
			}
		}
	}
	return failed
}

func (r *Reconciler) scaleOneBack(ctx context.Context, p *v1alpha1.RestorePoint, w *v1alpha1.ScaledWorkload) error {
	live, err := r.liveWorkload(ctx, p, w)
	if err != nil {
		return err
	}
	do, message := decideBack(w, live, p.Name)
	if do == scaleSet {
		if err := r.setReplicas(ctx, w, live, given(w, live), ""); err != nil {
			return err
		}
	}
	w.ScaleBackDue, w.Message = false, message
	if w.ScaledAt != nil {
		now := metav1.NewMicroTime(r.Clock.Now())
		w.ScaledBackAt = &now
	}
	return nil
}

// restoreReplicas gives workloads back what a point that ended still owes them.
func (r *Reconciler) restoreReplicas(ctx context.Context, p *v1alpha1.RestorePoint) (done bool) {
	if !away(p.Status.ScaleToZero) {
		return true
	}
	before := scaleMessages(p)
	err := r.scaleBack(ctx, p)
	if err != nil && !slices.Equal(before, scaleMessages(p)) && !errors.Is(err, context.Canceled) && !apierrors.IsConflict(err) {
		r.Events.Event(p, corev1.EventTypeWarning, v1alpha1.ReasonScaleUpFailed, err.Error())
	}
	return !away(p.Status.ScaleToZero)
}

func scaleMessages(p *v1alpha1.RestorePoint) (out []string) {
	for _, w := range p.Status.ScaleToZero.Workloads {
		out = append(out, w.Message)
	}
	return out
}
