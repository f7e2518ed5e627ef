package restore

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluxcd/pkg/runtime/patch"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/sops"
)

// +kubebuilder:rbac:groups=source.toolkit.fluxcd.io,resources=gitrepositories,verbs=get;list;patch
// +kubebuilder:rbac:groups=kustomize.toolkit.fluxcd.io,resources=kustomizations,verbs=get;list;patch
// +kubebuilder:rbac:groups=argoproj.io,resources=applications,verbs=get;list;patch
// +kubebuilder:rbac:groups=argoproj.io,resources=applicationsets,verbs=get

// chooseEngine takes the engine that was chosen before, or finds out which one rules the target, and how it builds that. It is nil where
// only volumes come back.
func (r *Reconciler) chooseEngine(ctx context.Context, restore *v1alpha1.Restore) (*planner.Engine, error) {
	mapping := planner.Mapping(restore.Spec.Map)
	target := gitops.Target{
		Repository: restore.Spec.Source.URL, Path: restore.Spec.Source.Path, UID: string(restore.UID),
		Part: len(restore.Spec.Only) > 0 || len(mapping.StorageClasses) > 0, Apart: len(mapping.Namespaces) > 0,
	}
	var chosen plan.Engine
	if s := restore.Status.Engine; s != nil {
		chosen = plan.Engine{Name: s.Name, Reason: s.Message, Objects: s.Objects}
	} else if target.Repository == "" {
		return nil, nil // no commit is applied
	} else {
		found, err := ruler.Choose(ctx, r.engines(), restore.Spec.Engine, target)
		if err != nil {
			return nil, err
		}
		chosen = plan.Engine{Name: found.Engine, Reason: found.Message, Objects: found.Objects, Refusals: found.Refusals}
	}
	return planner.NewEngine(ctx, r.engines(), chosen, target, restore.Namespace)
}

// rememberEngine writes the choice into the status, and what is to be set aside, before anything is held, stopped or applied.
func (r *Reconciler) rememberEngine(ctx context.Context, restore *v1alpha1.Restore, patcher *patch.SerialPatcher, made *plan.Plan) error {
	chosen := made.Engine
	if restore.Status.Engine != nil || chosen == nil {
		return nil
	}
	before := restore.DeepCopy()
	restore.Status.Engine = &v1alpha1.EngineStatus{Name: chosen.Name, Message: chosen.Reason, Objects: chosen.Objects}
	decideOnce(restore, made)
	locked := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Status().Patch(ctx, restore, locked, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("recording the chosen engine: %w", err)
	}
	*patcher = *patch.NewSerialPatcher(restore, r.Client)
	return nil
}

// holding says that a restore may still hold something of an engine.
func holding(restore *v1alpha1.Restore) bool {
	s := restore.Status.Engine
	return s != nil && s.Name != v1alpha1.EngineDirect && s.ReleasedAt == nil
}

// asksForRelease says that a restore is complete and its engine is to follow Git's branch again.
func asksForRelease(restore *v1alpha1.Restore) bool {
	_, asked := restore.Annotations[v1alpha1.AnnotationRelease]
	return asked && restore.Status.CompletedAt != nil && holding(restore)
}

// release leaves the engine of a complete restore to itself again, when that is asked for.
func (r *Reconciler) release(ctx context.Context, restore *v1alpha1.Restore) (ctrl.Result, error) {
	if !asksForRelease(restore) {
		return ctrl.Result{}, nil
	}
	waits, err := r.letGo(ctx, restore)
	if err != nil {
		return ctrl.Result{}, err
	}
	before := restore.DeepCopy()
	restore.Status.Engine.Message = waits
	if waits == "" {
		restore.Status.Engine.ReleasedAt = &metav1.Time{Time: r.Now()}
	}
	if err := r.Client.Status().Patch(ctx, restore, client.MergeFrom(before), client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return ctrl.Result{}, fmt.Errorf("recording the release: %w", err)
	}
	if waits != "" {
		return ctrl.Result{RequeueAfter: 5 * time.Second}, nil
	}
	e := engineReleased(restore.Status.Engine.Name)
	r.Events.Event(restore, e.kind, e.reason, e.message)
	return ctrl.Result{}, nil
}

// letGo gives back what is held of the engine. The running revision is forgotten first: from then on the engine deploys what Lockstep
// does not know of.
func (r *Reconciler) letGo(ctx context.Context, restore *v1alpha1.Restore) (waits string, err error) {
	if !holding(restore) {
		return "", nil
	}
	if err := r.forgetRevision(ctx, restore); err != nil {
		return "", err
	}
	return ruler.Undo(ctx, r.engines(), string(restore.UID), r.Now())
}

// forgetRevision takes off the policies what this restore recorded on them.
func (r *Reconciler) forgetRevision(ctx context.Context, restore *v1alpha1.Restore) error {
	at := restore.Status.Revision
	if at == nil || restore.Status.CompletedAt == nil {
		return nil
	}
	var policies v1alpha1.ProtectionPolicyList
	if err := r.Reader.List(ctx, &policies); err != nil {
		return fmt.Errorf("listing policies: %w", err)
	}
	for i := range policies.Items {
		p := &policies.Items[i]
		if p.Annotations[v1alpha1.AnnotationRevision] != revision.Format(at.Ref, at.Commit) || p.Annotations[v1alpha1.AnnotationPath] != at.Path ||
			p.Annotations[v1alpha1.AnnotationRepository] != at.Repository {
			continue
		}
		if err := apply.ForgetRevision(ctx, r.Client, client.ObjectKeyFromObject(p)); err != nil {
			return err
		}
	}
	return nil
}

// decryptionKeys reads the keys of what is encrypted in the commit, if the restore names any.
func (r *Reconciler) decryptionKeys(ctx context.Context, restore *v1alpha1.Restore) (sops.Keys, error) {
	if restore.Spec.Decryption == nil {
		return nil, nil
	}
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: restore.Namespace, Name: restore.Spec.Decryption.SecretRef.Name}
	if err := r.Reader.Get(ctx, key, secret); err != nil {
		return nil, unknown(v1alpha1.ReasonSourceUnknown, fmt.Errorf("reading the secret with the decryption key: %w", err))
	}
	keys, err := sops.ParseKeys(secret.Data)
	if err != nil {
		return nil, final(v1alpha1.ReasonInvalidSpec, fmt.Errorf("reading secret %q: %w", key, err))
	}
	return keys, nil
}
