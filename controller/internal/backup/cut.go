package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// quick is how long most drivers take to fix the moment of a snapshot, and how long they are looked at closely.
const quick = 5 * time.Second

// cut asks for all snapshots at once, waits until the moment of each is fixed, and makes sure that the same revision ran all the
// while.
func (r *Reconciler) cut(ctx context.Context, p *v1alpha1.RestorePoint, volumes []*work) (ctrl.Result, error) {
	requested := slices.ContainsFunc(volumes, (*work).asked)
	fixed := !slices.ContainsFunc(volumes, func(v *work) bool { return !v.cut() })
	absence, why := decideAbsence(p.Status.ScaleToZero, requested, fixed, r.Clock.Since(p.Status.StartedAt.Time))
	switch absence {
	case absenceFailed:
		return r.fail(p, v1alpha1.ReasonScaleDownFailed, why)
	case absenceScale:
		return r.scaleDown(ctx, p)
	case absenceAwait:
		return r.awaitGone(ctx, p)
	}
	switch next, message := decideQuiesce(p.Status.Quiesce, requested, fixed, r.Clock.Now()); next {
	case stillFreeze:
		return r.freeze(ctx, p)
	case stillThaw:
		return r.unquiesce(ctx, p)
	case stillFailed:
		return r.fail(p, v1alpha1.ReasonQuiesceFailed, message)
	}
	switch absence {
	case absenceCheck:
		return r.checkAway(ctx, p)
	case absenceEnd:
		return r.endAbsence(ctx, p)
	}
	if slices.ContainsFunc(volumes, func(v *work) bool { return !v.asked() && !inPlace(v.capture) }) {
		if p.Status.Group != nil {
			return r.takeGroup(ctx, p)
		}
		return r.takeSnapshots(ctx, p, volumes)
	}
	var waiting []string
	for _, v := range volumes {
		if inPlace(v.capture) {
			continue
		}
		v.capture.State, v.capture.Message = v1alpha1.VolumeSnapshotting, v.trouble()
		if v.cut() {
			if v.capture.Taken == nil {
				v.capture.Taken = v.taken(r.Clock.Now())
			}
			continue
		}
		waiting = append(waiting, fmt.Sprintf("%q", v.capture.Claim))
	}
	if len(waiting) == 0 {
		return r.confirm(ctx, p)
	}
	switch elapsed := r.Clock.Since(p.Status.StartedAt.Time); {
	case elapsed < quick || due(p) || away(p.Status.ScaleToZero):
		return r.progress(p, "taking snapshots", r.soon(p))
	case elapsed <= r.Limits.Cut:
		return r.progress(p, "taking snapshots", r.Limits.Poll)
	}
	message := "no snapshot of claim " + strings.Join(waiting, ", ") + " within " + r.Limits.Cut.String()
	for _, v := range volumes {
		if !v.cut() {
			v.capture.State = v1alpha1.VolumeFailed
			if v.capture.Message != "" {
				message += fmt.Sprintf("; claim %q: %s", v.capture.Claim, v.capture.Message)
			}
		}
	}
	return r.fail(p, v1alpha1.ReasonSnapshotFailed, message)
}

// takeSnapshots prepares everything first, so that the requests follow each other closely. What takes an answer of the API server is asked
// for all volumes at once: an application may be held still meanwhile.
func (r *Reconciler) takeSnapshots(ctx context.Context, p *v1alpha1.RestorePoint, volumes []*work) (ctrl.Result, error) {
	var asked []*work
	for _, v := range volumes {
		if !inPlace(v.capture) {
			asked = append(asked, v)
		}
	}
	requests := make([]*snapshotv1.VolumeSnapshot, len(asked))
	err := together(len(asked), func(i int) (err error) {
		requests[i], err = r.snapshotOf(ctx, p, asked[i])
		return err
	})
	if err != nil {
		return r.refuse(p, err)
	}
	if err := together(len(asked), func(i int) error { return r.create(ctx, requests[i]) }); err != nil {
		return ctrl.Result{}, err
	}
	return r.progress(p, "taking snapshots", r.soon(p))
}

// snapshotOf is the snapshot that a volume needs.
func (r *Reconciler) snapshotOf(ctx context.Context, p *v1alpha1.RestorePoint, v *work) (*snapshotv1.VolumeSnapshot, error) {
	claim, err := r.source(ctx, p, v.capture)
	if err != nil {
		return nil, err
	}
	class, err := r.snapshotClass(ctx, claim)
	if err != nil {
		return nil, err
	}
	return &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: objectName(p, v.index), Labels: labels(p)},
		Spec: snapshotv1.VolumeSnapshotSpec{
			VolumeSnapshotClassName: &class,
			Source:                  snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: &claim.Name},
		},
	}, nil
}

// soon is how soon to look whether snapshots are cut: five times as often where an application is held still for them.
func (r *Reconciler) soon(p *v1alpha1.RestorePoint) time.Duration {
	if due(p) {
		return r.Limits.Soon / 5
	}
	return r.Limits.Soon
}

// confirm fixes the moment of the point, if the revision did not change before it. What is still to be read is of this moment or newer.
func (r *Reconciler) confirm(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	if err := r.sameRevision(ctx, p, "the snapshots were taken"); err != nil {
		return r.refuse(p, err)
	}
	pods, err := r.podsOf(ctx, p.Namespace)
	if err != nil {
		return ctrl.Result{}, err
	}
	for i := range p.Status.Volumes {
		v := &p.Status.Volumes[i]
		v.Consistency = consistencyOf(v.Claim, pods, p.Status.Quiesce)
		switch {
		case v.ScaleToZero:
			v.Consistency = v1alpha1.ConsistencyApplication // nobody had it: checkAway has seen to that
		case inPlace(v):
			v.Consistency, v.Taken = v1alpha1.ConsistencyFuzzy, &metav1.Time{Time: r.Clock.Now()}
		}
		if p.Status.Taken == nil || p.Status.Taken.Before(v.Taken) {
			p.Status.Taken = v.Taken
		}
	}
	p.Status.Consistency = consistency(p.Status.Volumes)
	return r.progress(p, "saving volumes", atOnce)
}

// sameRevision makes sure that the point's revision has been running all the while.
func (r *Reconciler) sameRevision(ctx context.Context, p *v1alpha1.RestorePoint, while string) error {
	pol, err := r.policyOf(ctx, p)
	if err != nil {
		return err
	}
	now, err := r.running(ctx, pol, p.Status.Revision)
	if lack := (*notReady)(nil); err != nil && !errors.As(err, &lack) {
		return err // the cluster does not answer
	}
	if err != nil || !sameDeploy(now, *p.Status.Revision) {
		return lacksForGood(v1alpha1.ReasonRevisionChanged, "another commit was deployed while %s: their data may be of either", while)
	}
	return nil
}

// source reads the claim that is to be saved, and makes sure that it is still the one that was expected.
func (r *Reconciler) source(ctx context.Context, p *v1alpha1.RestorePoint, c *v1alpha1.VolumeCapture) (*corev1.PersistentVolumeClaim, error) {
	claim := &corev1.PersistentVolumeClaim{}
	err := r.Reader.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: c.Claim}, claim)
	if apierrors.IsNotFound(err) || err == nil && string(claim.UID) != c.UID {
		return nil, lacksForGood(v1alpha1.ReasonVolumeNotReady, "claim %q was deleted after the point began", c.Claim)
	}
	if err != nil {
		return nil, fmt.Errorf("reading claim %q: %w", c.Claim, err)
	}
	return claim, nil
}

func (r *Reconciler) create(ctx context.Context, o client.Object) error {
	err := r.Client.Create(ctx, o, client.FieldOwner(v1alpha1.FieldManager))
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating %T %q: %w", o, o.GetName(), err)
	}
	return nil
}

func labels(p *v1alpha1.RestorePoint) map[string]string {
	return map[string]string{v1alpha1.LabelManagedBy: v1alpha1.FieldManager, v1alpha1.LabelRestorePoint: string(p.UID)}
}
