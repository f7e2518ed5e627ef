package backup

import (
	"context"
	"errors"
	"fmt"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/policy"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/selection"
)

// notReady says what a point lacks to begin.
type notReady struct {
	reason string
	// final says that waiting does not help.
	final bool
	err   error
}

func (e *notReady) Error() string { return e.err.Error() }

func lacks(reason, format string, args ...any) *notReady {
	return &notReady{reason: reason, err: fmt.Errorf(format, args...)}
}

func lacksForGood(reason, format string, args ...any) *notReady {
	return &notReady{reason: reason, final: true, err: fmt.Errorf(format, args...)}
}

// begin fixes the revision and the expected claims in the status. Nothing is made before they are there.
func (r *Reconciler) begin(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	f, err := r.prepare(ctx, p)
	var lack *notReady
	var vault *vaults.Error
	switch {
	case errors.As(err, &lack):
		return r.hold(p, lack)
	case errors.As(err, &vault) && vault.Unknown():
		return r.awaitVault(ctx, p, vault)
	case errors.As(err, &vault):
		return r.hold(p, lacks(v1alpha1.ReasonVaultNotReady, "%w", err))
	case err != nil:
		return ctrl.Result{}, err
	}
	p.Status.ID = point.NewID(p.CreationTimestamp.Time, string(p.UID))
	p.Status.Revision = &f.revision
	p.Status.StartedAt = &metav1.Time{Time: r.Clock.Now()}
	p.Status.Volumes = f.volumes
	p.Status.Quiesce = f.quiesce     // before the first pre hook runs
	p.Status.ScaleToZero = f.scaling // before anything is scaled
	p.Status.Group = f.group
	controllerutil.AddFinalizer(p, v1alpha1.Finalizer)
	return r.progress(p, "taking snapshots", atOnce)
}

// awaitVault keeps a point waiting whose vault does not answer, if the schedule asked for it: nothing is lost by waiting, and its data is the
// newer. Whoever else asked waits for an answer: a vault that is known to be down is one, and any is that does not come back for a while.
func (r *Reconciler) awaitVault(ctx context.Context, p *v1alpha1.RestorePoint, why *vaults.Error) (ctrl.Result, error) {
	if p.Spec.Trigger == v1alpha1.TriggerSchedule {
		return r.vaultError(p, why)
	}
	down, err := r.Vaults.Down(ctx, why.Vault)
	if err != nil {
		return ctrl.Result{}, err
	}
	if down || r.Clock.Since(p.CreationTimestamp.Time) > r.Limits.Begin {
		return r.fail(p, v1alpha1.ReasonUnreachable, why.Error())
	}
	return r.vaultError(p, why)
}

// hold lets the point wait for what it lacks, for a while.
func (r *Reconciler) hold(p *v1alpha1.RestorePoint, lack *notReady) (ctrl.Result, error) {
	limit := r.Limits.Begin
	if p.Spec.Trigger == v1alpha1.TriggerPostDeploy {
		limit = r.Limits.Deploy
	}
	if lack.final || r.Clock.Since(p.CreationTimestamp.Time) > limit {
		return r.fail(p, lack.reason, lack.Error())
	}
	conditions.MarkReconciling(p, lack.reason, "%s", lack)
	conditions.MarkFalse(p, v1alpha1.ConditionReady, lack.reason, "%s", lack)
	return ctrl.Result{RequeueAfter: r.Limits.Poll}, nil
}

// foundation is what a point begins with.
type foundation struct {
	revision v1alpha1.Revision
	volumes  []v1alpha1.VolumeCapture
	quiesce  []v1alpha1.Quiesced
	scaling  *v1alpha1.Scaling
	group    *v1alpha1.SnapshotGroup
}

// prepare finds out everything that a point needs to begin.
func (r *Reconciler) prepare(ctx context.Context, p *v1alpha1.RestorePoint) (f foundation, err error) {
	pol, err := r.policyOf(ctx, p)
	if err != nil {
		return f, err
	}
	if f.revision, err = r.running(ctx, pol, nil); err != nil {
		return f, err
	}
	claims, err := policy.Claims(ctx, r.Client, pol)
	if invalid := (*policy.InvalidError)(nil); errors.As(err, &invalid) {
		return f, lacksForGood(v1alpha1.ReasonInvalidSpec, "policy %q: %w", pol.Name, err)
	}
	if err != nil {
		return f, err
	}
	if len(claims) == 0 {
		return f, lacks(v1alpha1.ReasonNoVolumes, "policy %q selects no claim", pol.Name)
	}
	if f.volumes, err = r.checkClaims(ctx, pol, claims); err != nil {
		return f, err
	}
	if _, err := r.Vaults.Open(ctx, pol.Spec.Vaults[0]); err != nil {
		return f, err
	}
	if _, err := r.Vaults.Access(ctx, pol.Spec.Vaults[0]); err != nil {
		return f, err
	}
	if f.quiesce, err = r.quiesceTargets(ctx, pol); err != nil {
		return f, err
	}
	if f.scaling, err = r.scaleTargets(ctx, pol, claims, f); err != nil {
		return f, err
	}
	f.group, err = r.groupOf(ctx, p, pol, claims)
	return f, err
}

// policyOf reads the policy live: its annotations say which revision is running.
func (r *Reconciler) policyOf(ctx context.Context, p *v1alpha1.RestorePoint) (*v1alpha1.ProtectionPolicy, error) {
	pol := &v1alpha1.ProtectionPolicy{}
	err := r.Reader.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: p.Spec.PolicyRef.Name}, pol)
	if apierrors.IsNotFound(err) {
		return nil, lacks(v1alpha1.ReasonPolicyNotFound, "there is no ProtectionPolicy %q in namespace %q", p.Spec.PolicyRef.Name, p.Namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("reading policy %q: %w", p.Spec.PolicyRef.Name, err)
	}
	return pol, nil
}

// checkClaims says what is expected of each claim. It refuses those that hold no data yet or that cannot be saved as the policy has it.
func (r *Reconciler) checkClaims(ctx context.Context, pol *v1alpha1.ProtectionPolicy, claims []corev1.PersistentVolumeClaim) ([]v1alpha1.VolumeCapture, error) {
	busy, err := policy.Restoring(ctx, r.Client, claims)
	if err != nil {
		return nil, err
	}
	var volumes []v1alpha1.VolumeCapture
	for i := range claims {
		claim := &claims[i]
		if busy[claim.Name] != "" {
			return nil, lacks(v1alpha1.ReasonVolumeNotReady, "claim %q is being filled by restore %q", claim.Name, busy[claim.Name])
		}
		if err := selection.Ready(claim); err != nil {
			return nil, lacks(v1alpha1.ReasonVolumeNotReady, "%w", err)
		}
		source, err := r.sourceKind(ctx, pol, claim)
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, expected(claim, source))
	}
	return volumes, nil
}

// snapshotClass chooses the VolumeSnapshotClass of a claim's driver.
func (r *Reconciler) snapshotClass(ctx context.Context, claim *corev1.PersistentVolumeClaim) (string, error) {
	pv, err := r.volumeOf(ctx, claim)
	if err != nil {
		return "", err
	}
	classes, err := r.snapshotClasses(ctx)
	if err != nil {
		return "", err
	}
	class, err := selection.SnapshotClass(claim, pv, classes)
	if err != nil {
		return "", lacksForGood(v1alpha1.ReasonVolumeNotReady, "%w", err)
	}
	return class, nil
}

func (r *Reconciler) snapshotClasses(ctx context.Context) ([]snapshotv1.VolumeSnapshotClass, error) {
	var classes snapshotv1.VolumeSnapshotClassList
	if err := r.Reader.List(ctx, &classes); err != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("listing snapshot classes: %w", err)
	}
	return classes.Items, nil
}

func expected(claim *corev1.PersistentVolumeClaim, source v1alpha1.CaptureSource) v1alpha1.VolumeCapture {
	c := v1alpha1.VolumeCapture{Claim: claim.Name, UID: string(claim.UID), State: v1alpha1.VolumePending, Source: source}
	if claim.Spec.StorageClassName != nil {
		c.StorageClass = *claim.Spec.StorageClassName
	}
	if capacity, ok := claim.Status.Capacity[corev1.ResourceStorage]; ok {
		c.Capacity = &capacity
	}
	return c
}
