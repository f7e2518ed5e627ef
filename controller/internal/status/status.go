// Package status writes back what a reconciliation found out about an object.
package status

import (
	"context"

	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/patch"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Patch writes what changed of an object since the patcher saw it last, and that its generation was observed. The conditions of
// Lockstep's kinds are the controller's alone. An object that is gone needs no status.
func Patch(ctx context.Context, patcher *patch.SerialPatcher, o conditions.Setter) error {
	err := patcher.Patch(ctx, o, patch.WithFieldOwner(v1alpha1.FieldManager), patch.WithStatusObservedGeneration{},
		patch.WithOwnedConditions{Conditions: []string{v1alpha1.ConditionReady, v1alpha1.ConditionReconciling, v1alpha1.ConditionStalled,
			v1alpha1.ConditionObjectiveMet, v1alpha1.ConditionCopiesBehind}})
	return kerrors.FilterOut(err, apierrors.IsNotFound) // it is an aggregate, into which client.IgnoreNotFound does not look
}
