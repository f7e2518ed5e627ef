package planner

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/images"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

// inspected adds to a plan what the preflight finds.
func (p *Planner) inspected(ctx context.Context, made *Replay) (*Replay, error) {
	if p.Preflight != nil {
		found, err := p.Preflight(ctx, made.Plan, made.Residual)
		if err != nil {
			return nil, err
		}
		if err := made.Plan.Check(found); err != nil {
			return nil, failed(StepRender, err)
		}
	}
	return made, nil
}

// Inspect is a Planner's Preflight against a cluster. Images says that registries are asked for the images of the commit.
func Inspect(i facts.Inspector, restoreUID string, askRegistries bool) func(context.Context, *plan.Plan, residual.Set) (plan.Preflight, error) {
	return func(ctx context.Context, p *plan.Plan, set residual.Set) (plan.Preflight, error) {
		known, err := i.Preflight(ctx, p, set.Keys(), restoreUID)
		if err != nil || !askRegistries || known.Begun {
			return known, err
		}
		return known, checkImages(ctx, i, p, set, &known)
	}
}

// checkImages asks registries with the Secrets of the commit, the point and the cluster.
func checkImages(ctx context.Context, i facts.Inspector, p *plan.Plan, set residual.Set, known *plan.Preflight) error {
	wanted, err := p.Images()
	if err != nil {
		return failed(StepRender, err)
	}
	brought, err := pullSecrets(p, set, wanted)
	if err != nil {
		return failed(StepRender, err)
	}
	secrets, err := i.PullSecrets(ctx, wanted)
	if apierrors.IsForbidden(err) {
		known.NotChecked = append(known.NotChecked, "images with the pull secrets that the cluster has: "+err.Error())
	} else if err != nil {
		return err
	}
	names := make([]string, len(wanted))
	for n, image := range wanted {
		names[n] = image.Name
	}
	for n, err := range images.Check(ctx, names, append(brought, secrets...)) {
		if err != nil {
			known.Images = append(known.Images, plan.ImageAnswer{Image: names[n], Missing: errors.Is(err, images.ErrMissing), Why: err.Error()})
		}
	}
	return ctx.Err()
}

// pullSecrets are those that the restore itself brings.
func pullSecrets(p *plan.Plan, set residual.Set, wanted []plan.Image) ([]corev1.Secret, error) {
	var names, accounts []object.Name
	for _, image := range wanted {
		names, accounts = append(names, image.PullSecrets...), append(accounts, image.Accounts...)
	}
	var rendered []corev1.Secret
	for _, o := range p.Base {
		switch o.GroupKind() {
		case object.Secret:
			var s corev1.Secret
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Manifest.Object, &s); err != nil {
				return nil, errors.New(o.String() + " is malformed") // the cause may hold its values
			}
			for k, v := range s.StringData {
				if s.Data == nil {
					s.Data = map[string][]byte{}
				}
				s.Data[k] = []byte(v)
			}
			rendered = append(rendered, s)
		case object.ServiceAccount:
			var account corev1.ServiceAccount
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Manifest.Object, &account); err != nil {
				return nil, err
			}
			if !slices.Contains(accounts, o.NamespacedName()) {
				continue
			}
			for _, s := range account.ImagePullSecrets {
				names = append(names, object.Name{Namespace: o.Namespace, Name: s.Name})
			}
		}
	}
	return slices.DeleteFunc(append(rendered, set.Secrets...), func(s corev1.Secret) bool {
		return !slices.Contains(names, object.Name{Namespace: s.Namespace, Name: s.Name})
	}), nil
}
