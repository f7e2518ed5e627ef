package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/residual"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// What residual.Capture reads: which kinds hold something that Git does not, nobody knows beforehand.
//
// +kubebuilder:rbac:groups=*,resources=*,verbs=get;list

// captureResidual puts what Git does not hold into the vault, as soon as the data's moment is fixed.
func (r *Reconciler) captureResidual(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	vault, name, err := r.openVault(ctx, p)
	if err != nil {
		return r.refuse(p, err)
	}
	set, err := r.residualOf(ctx, vault, name, p)
	var missing *residual.MissingError
	var tooLarge *residual.SizeError
	switch {
	case errors.As(err, &missing):
		return r.fail(p, v1alpha1.ReasonResidualMissing, err.Error())
	case errors.As(err, &tooLarge):
		return r.fail(p, v1alpha1.ReasonResidualTooLarge, err.Error())
	case err != nil:
		_, _ = r.progress(p, "looking for what Git does not hold: "+err.Error(), 0)
		return r.refuse(p, err)
	}
	p.Status.Residual = &v1alpha1.ResidualSummary{Secrets: int32(len(set.Secrets)), Objects: int32(len(set.Objects))}
	return r.progress(p, "saving volumes", atOnce)
}

// residualOf captures the residual set, unless the point already has one in the vault: a document is written once, and what
// a controller wrote before it died counts.
func (r *Reconciler) residualOf(ctx context.Context, vault *volume.Vault, name string, p *v1alpha1.RestorePoint) (residual.Set, error) {
	before, err := vault.Document(ctx, point.ResidualKind, p.Status.ID)
	switch {
	case err == nil:
		return residual.Decode(before.Data)
	case !errors.Is(err, volume.ErrDocumentNotFound):
		return residual.Set{}, vaults.NewError(name, err)
	}
	set, err := r.survey(ctx, p)
	if err != nil || set.Empty() {
		return set, err
	}
	data, err := residual.Encode(set)
	if err != nil {
		return set, err
	}
	if err := catalog.PutResidual(ctx, vault, p.Status.ID, data); err != nil {
		return set, vaults.NewError(name, err)
	}
	return set, nil
}

// survey captures what Git does not hold of the point's namespace. An API of the cluster that does not answer is waited for: what
// it serves may be what the application cannot do without.
func (r *Reconciler) survey(ctx context.Context, p *v1alpha1.RestorePoint) (residual.Set, error) {
	kinds, err := residual.Kinds(r.Discovery)
	if err != nil {
		return residual.Set{}, err
	}
	return residual.Capture(ctx, r.Reader, residual.Scope{Namespaces: []string{p.Namespace}, Kinds: kinds})
}

// record writes the record, and with it makes the point real. Conditions are written before the rest of a status: the point becomes Ready
// only when its status says, for good, which vault holds it.
func (r *Reconciler) record(ctx context.Context, p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	vault, name, err := r.openVault(ctx, p)
	if err != nil {
		return r.refuse(p, err)
	}
	if err := r.writeRecord(ctx, vault, name, p); err != nil {
		return r.refuse(p, err)
	}
	copied := v1alpha1.PointCopy{Vault: name, State: v1alpha1.CopyVerified, VerifiedAt: &metav1.Time{Time: r.Clock.Now()}}
	switch until, err := catalog.LockedUntil(ctx, vault, p.Status.ID); {
	case err != nil:
		return r.refuse(p, vaults.NewError(name, err))
	case !until.IsZero():
		copied.LockedUntil = &metav1.Time{Time: until}
	}
	p.Status.Copies = []v1alpha1.PointCopy{copied}
	return r.progress(p, "recorded", atOnce)
}

// done ends a point whose record is written.
func (r *Reconciler) done(p *v1alpha1.RestorePoint) (ctrl.Result, error) {
	message := fmt.Sprintf("point %s is in vault %q", p.Status.ID, p.Status.Copies[0].Vault)
	conditions.Delete(p, v1alpha1.ConditionReconciling)
	conditions.MarkTrue(p, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "%s", message)
	r.Events.Event(p, corev1.EventTypeNormal, v1alpha1.ReasonSucceeded, message)
	return ctrl.Result{RequeueAfter: r.Limits.Soon}, nil
}

// writeRecord writes the record unless it is there: a controller that died after writing left it behind.
func (r *Reconciler) writeRecord(ctx context.Context, vault *volume.Vault, name string, p *v1alpha1.RestorePoint) error {
	switch before, err := catalog.Get(ctx, vault, p.Status.ID); {
	case err == nil && holds(before, p):
		if err := catalog.Lock(ctx, vault, p.Status.ID); err != nil {
			return vaults.NewError(name, err)
		}
		return nil
	case err == nil:
		return lacksForGood(v1alpha1.ReasonSaveFailed, "the vault holds another point under the id %s", p.Status.ID)
	case !errors.Is(err, catalog.ErrPointNotFound):
		return vaults.NewError(name, err)
	}
	record, err := r.recordOf(ctx, p)
	if err != nil {
		return err
	}
	if err := catalog.Put(ctx, vault, record); err != nil {
		return vaults.NewError(name, err)
	}
	return nil
}

// holds reports whether a record is the one of this point: the same saved volumes.
func holds(record point.Record, p *v1alpha1.RestorePoint) bool {
	saved := map[string]string{}
	for _, v := range record.Volumes {
		saved[v.Claim] = v.Snapshot
	}
	expected := map[string]string{}
	for _, v := range p.Status.Volumes {
		expected[v.Claim] = v.Snapshot
	}
	return record.Application == application(p) && maps.Equal(saved, expected)
}

func (r *Reconciler) recordOf(ctx context.Context, p *v1alpha1.RestorePoint) (point.Record, error) {
	record := point.Record{
		Version: point.Version, ID: p.Status.ID, Application: application(p), Revision: *p.Status.Revision,
		Trigger: p.Spec.Trigger, Before: p.Spec.Before,
		Taken: p.Status.Taken.UTC(), Completed: p.Status.CompletedAt.UTC(),
	}
	record.Group = p.Status.Group != nil
	if n := p.Status.Residual; n.Secrets+n.Objects > 0 {
		record.Residual = &point.Residual{Document: p.Status.ID, Secrets: int(n.Secrets), Objects: int(n.Objects)}
	}
	for i := range p.Status.Volumes {
		v, err := r.volumeRecord(ctx, p, &p.Status.Volumes[i])
		if err != nil {
			return record, err
		}
		record.Volumes = append(record.Volumes, v)
	}
	return record, nil
}

func (r *Reconciler) volumeRecord(ctx context.Context, p *v1alpha1.RestorePoint, c *v1alpha1.VolumeCapture) (point.Volume, error) {
	claim, err := r.source(ctx, p, c)
	if err != nil {
		return point.Volume{}, err
	}
	pv, err := r.volumeOf(ctx, claim)
	if err != nil {
		return point.Volume{}, err
	}
	spec := *claim.Spec.DeepCopy()
	spec.VolumeName, spec.DataSource, spec.DataSourceRef = "", nil, nil
	v := point.Volume{
		Namespace: p.Namespace, Claim: c.Claim, Labels: portableLabels(claim.Labels), Annotations: portableAnnotations(claim.Annotations), Spec: spec,
		Taken: c.Taken.UTC(), Snapshot: c.Snapshot, Bytes: c.Bytes, Files: c.Files, Changed: len(c.Changed) + int(c.MoreChanged), ContentRoot: c.ContentRoot, MetaRoot: c.MetaRoot,
	}
	if pv.Spec.CSI != nil {
		v.Provisioner = pv.Spec.CSI.Driver
	}
	if c.Consistency != v1alpha1.ConsistencyCrash {
		v.Consistency = c.Consistency
	}
	capacity := spec.Resources.Requests[corev1.ResourceStorage]
	if c.Capacity != nil && capacity.Cmp(*c.Capacity) < 0 {
		capacity = *c.Capacity
	}
	v.Capacity = capacity.Value()
	return v, nil
}

// portableLabels leaves out what ties a claim to a restore that made it.
func portableLabels(in map[string]string) map[string]string {
	return without(in, v1alpha1.LabelRestore)
}

// portableAnnotations leaves out what the old cluster wrote about binding, and what was applied last.
func portableAnnotations(in map[string]string) map[string]string {
	return without(in,
		"pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller",
		"volume.kubernetes.io/selected-node", "volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner",
		corev1.LastAppliedConfigAnnotation, v1alpha1.AnnotationRestoredFrom, v1alpha1.AnnotationReconcileAt)
}

func without(in map[string]string, keys ...string) map[string]string {
	out := maps.Clone(in)
	for _, k := range keys {
		delete(out, k)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// openVault opens the vault of the point's policy, and names it.
func (r *Reconciler) openVault(ctx context.Context, p *v1alpha1.RestorePoint) (*volume.Vault, string, error) {
	pol, err := r.policyOf(ctx, p)
	if err != nil {
		return nil, "", err
	}
	vault, err := r.Vaults.Open(ctx, pol.Spec.Vaults[0])
	return vault, pol.Spec.Vaults[0], err
}

func application(p *v1alpha1.RestorePoint) string { return p.Namespace + "/" + p.Spec.PolicyRef.Name }
