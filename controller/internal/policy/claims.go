package policy

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/selection"
)

// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restores,verbs=get;list;watch

// Claims selects the claims of a policy, bound or not, sorted by name.
func Claims(ctx context.Context, c client.Reader, p *v1alpha1.ProtectionPolicy) ([]corev1.PersistentVolumeClaim, error) {
	var list corev1.PersistentVolumeClaimList
	if err := c.List(ctx, &list, client.InNamespace(p.Namespace)); err != nil {
		return nil, fmt.Errorf("listing claims: %w", err)
	}
	verdicts, err := selection.Select(p, list.Items)
	if err != nil {
		return nil, err
	}
	claims := make([]corev1.PersistentVolumeClaim, 0, len(verdicts))
	for _, v := range verdicts {
		if v.Taken {
			claims = append(claims, v.Claim)
		}
	}
	return claims, nil
}

// InvalidError says that a policy cannot mean what it says.
type InvalidError = selection.InvalidError

// Restoring maps the claims that an unfinished Restore still fills onto the Restore's name.
func Restoring(ctx context.Context, c client.Reader, claims []corev1.PersistentVolumeClaim) (map[string]string, error) {
	busy := map[string]string{}
	if !slices.ContainsFunc(claims, func(c corev1.PersistentVolumeClaim) bool { return c.Labels[v1alpha1.LabelRestore] != "" }) {
		return busy, nil
	}
	var restores v1alpha1.RestoreList
	if err := c.List(ctx, &restores); err != nil {
		return nil, fmt.Errorf("listing restores: %w", err)
	}
	running := map[string]string{}
	for i := range restores.Items {
		if r := &restores.Items[i]; !conditions.IsReady(r) && !conditions.IsStalled(r) {
			running[string(r.UID)] = r.Name
		}
	}
	for _, claim := range claims {
		if name, ok := running[claim.Labels[v1alpha1.LabelRestore]]; ok {
			busy[claim.Name] = name
		}
	}
	return busy, nil
}
