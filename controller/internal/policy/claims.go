package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims,verbs=get;list;watch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restores,verbs=get;list;watch

// Claims selects the claims of a policy, bound or not, sorted by name. Those with AnnotationExclude are left out.
func Claims(ctx context.Context, c client.Reader, p *v1alpha1.ProtectionPolicy) ([]corev1.PersistentVolumeClaim, error) {
	selector := labels.Everything()
	if p.Spec.Volumes.Selector != nil {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(p.Spec.Volumes.Selector); err != nil {
			return nil, &InvalidError{fmt.Errorf("volumes.selector: %w", err)}
		}
	}
	var list corev1.PersistentVolumeClaimList
	if err := c.List(ctx, &list, client.InNamespace(p.Namespace), client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, fmt.Errorf("listing claims: %w", err)
	}
	claims := slices.DeleteFunc(list.Items, func(claim corev1.PersistentVolumeClaim) bool {
		_, excluded := claim.Annotations[v1alpha1.AnnotationExclude]
		return excluded
	})
	slices.SortFunc(claims, func(a, b corev1.PersistentVolumeClaim) int { return strings.Compare(a.Name, b.Name) })
	return claims, nil
}

// InvalidError says that a policy cannot mean what it says.
type InvalidError struct{ Err error }

func (e *InvalidError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *InvalidError) Unwrap() error { return e.Err }

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
