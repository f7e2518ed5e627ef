package cmd

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

// preflight finds out what the controller would find out before it begins. With the vault at hand a dry run says something
// even while there is no cluster yet.
func (p *Program) preflight(
	c *kube.Cluster, checkImages, bare bool,
) func(context.Context, *plan.Plan, residual.Set) (plan.Preflight, error) {
	return func(ctx context.Context, made *plan.Plan, set residual.Set) (plan.Preflight, error) {
		inspector := facts.Inspector{Reader: c, Mapper: c.RESTMapper(), Try: facts.Trial(c)}
		account := client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: facts.ControllerAccount}
		known := plan.Preflight{}
		err := c.Get(ctx, account, &corev1.ServiceAccount{})
		if err == nil || apierrors.IsForbidden(err) {
			inspector.Allowed, err = facts.Controller(c), nil
		}
		if client.IgnoreNotFound(err) == nil {
			known, err = planner.Inspect(inspector, "", checkImages)(ctx, made, set)
		}
		switch {
		case err == nil:
		case bare && kube.Unreachable(err):
			known = plan.Preflight{NotChecked: []string{"permissions, quotas, storage and images: the cluster does not answer"}}
		default:
			return known, fmt.Errorf("looking at the cluster: %w", err)
		}
		return known, nil
	}
}
