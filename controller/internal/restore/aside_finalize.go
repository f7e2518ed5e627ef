package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/workloads"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// wayBack lets a restore that is being deleted leave nothing stopped which could run as before. An old claim that is still there has
// its volume back as it was. Workloads run again if all are; where a claim is gone they would start empty, and stay stopped.
func (r *Reconciler) wayBack(ctx context.Context, restore *v1alpha1.Restore) error {
	if restore.Status.CompletedAt != nil {
		return nil
	}
	var replaced []string
	for _, v := range restore.Status.Volumes {
		if v.SetAside == "" {
			continue
		}
		inPlace, err := r.stillThere(ctx, v)
		if err != nil {
			return err
		}
		if !inPlace {
			replaced = append(replaced, fmt.Sprintf("volume %s of claim %s/%s", v.SetAside, v.Namespace, v.Claim))
			continue
		}
		if err := r.unkeep(ctx, string(restore.UID), v.SetAside); err != nil {
			return err
		}
	}
	var off []string
	for _, s := range restore.Status.Stopped {
		live, err := workloads.Get(ctx, r.Reader, stoppedKey(s))
		if err != nil {
			return err
		}
		h := halted{s, live}
		if live == nil || !h.isStopped() {
			continue
		}
		if len(replaced) > 0 {
			off = append(off, h.key().String())
			continue
		}
		_, _, before := h.field()
		if err := r.set(ctx, h, before); err != nil {
			return fmt.Errorf("starting %s again: %w", h.key(), err)
		}
	}
	if len(replaced) > 0 {
		e := leftAside(replaced, off)
		r.Events.Event(restore, e.kind, e.reason, e.message)
	}
	return nil
}

// stillThere says that a claim is the one that was to be replaced.
func (r *Reconciler) stillThere(ctx context.Context, v v1alpha1.VolumeRestore) (bool, error) {
	claim := &corev1.PersistentVolumeClaim{}
	err := r.Reader.Get(ctx, client.ObjectKey{Namespace: v.Namespace, Name: v.Claim}, claim)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("reading claim %q: %w", object.Name{Namespace: v.Namespace, Name: v.Claim}, err)
	}
	return err == nil && claim.UID == types.UID(v.Replaces) && claim.DeletionTimestamp == nil, nil
}

// unkeep gives an old volume its reclaim policy back, and takes the marks off it.
func (r *Reconciler) unkeep(ctx context.Context, uid, name string) error {
	pv := &corev1.PersistentVolume{}
	err := r.Reader.Get(ctx, client.ObjectKey{Name: name}, pv)
	if err != nil || pv.Labels[v1alpha1.LabelSetAside] != uid {
		return client.IgnoreNotFound(err)
	}
	err = r.patchVolume(ctx, pv, func(pv *corev1.PersistentVolume) {
		if policy := pv.Annotations[v1alpha1.AnnotationReclaimPolicy]; policy != "" {
			pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimPolicy(policy)
		}
		delete(pv.Labels, v1alpha1.LabelSetAside)
		for _, a := range []string{v1alpha1.AnnotationReclaimPolicy, v1alpha1.AnnotationSetAsideBy, v1alpha1.AnnotationSetAsideClaim} {
			delete(pv.Annotations, a)
		}
	})
	if err != nil {
		return fmt.Errorf("giving volume %q its reclaim policy back: %w", name, err)
	}
	return nil
}

func leftAside(replaced, off []string) event {
	message := strings.Join(replaced, ", ") + ": kept with the data from before"
	if len(off) > 0 {
		message += "; stopped: " + strings.Join(slices.Sorted(slices.Values(off)), ", ")
	}
	return event{corev1.EventTypeWarning, "LeftAside", message}
}
