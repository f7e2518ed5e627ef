package gate

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kerrors "k8s.io/apimachinery/pkg/util/errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/patch"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
)

// show says on the policy how deploys of its application fare. The other conditions are those of the policy's own reconciler.
func (r *Reconciler) show(ctx context.Context, g flux.Gate, v verdict, p *v1alpha1.ProtectionPolicy) error {
	patcher := patch.NewSerialPatcher(p, r.Client)
	if c := condition(g, v, p); c != nil {
		conditions.Set(p, c)
	} else {
		conditions.Delete(p, v1alpha1.ConditionDeployGate)
	}
	err := patcher.Patch(ctx, p, patch.WithFieldOwner(v1alpha1.FieldManager), patch.WithOwnedConditions{Conditions: []string{v1alpha1.ConditionDeployGate}})
	if err = kerrors.FilterOut(err, apierrors.IsNotFound); err != nil {
		return fmt.Errorf("saying on policy %q how deploys fare: %w", p.Name, err)
	}
	return nil
}

func condition(g flux.Gate, v verdict, p *v1alpha1.ProtectionPolicy) *metav1.Condition {
	c := &metav1.Condition{Type: v1alpha1.ConditionDeployGate, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonGateOpen}
	switch w := v.waiting; {
	case w != nil:
		c.Reason, c.Message = w.Reason, fmt.Sprintf("Kustomization %s waits to deploy %s: %s", g.Name, short(w.To), w.Message)
		if w.Reason != v1alpha1.ReasonTakingPoint {
			c.Status = metav1.ConditionFalse
		}
	case g.Required && g.Mistake != "":
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, v1alpha1.ReasonInvalidAnnotation, fmt.Sprintf("Kustomization %s: %s", g.Name, g.Mistake)
	case g.Required:
		c.Message = fmt.Sprintf("Kustomization %s deploys only after a restore point", g.Name)
	case p.Spec.OnDeploy.Before():
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonNotGated
		c.Message = fmt.Sprintf("onDeploy asks for a point before each deploy, and Kustomization %s does not wait for one: give it the annotation %s: %s",
			g.Name, v1alpha1.AnnotationPreDeploy, v1alpha1.PreDeployRequired)
	default:
		return nil
	}
	return c
}
