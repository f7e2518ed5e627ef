package facts

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// Live reads what a cluster has of data, in all namespaces. What the user may not list is named in Missing, and nothing that would follow
// from it is in the answer. The reader must not be a stale cache.
func Live(ctx context.Context, c client.Reader) (*coverage.Live, error) {
	live := &coverage.Live{}
	var claims corev1.PersistentVolumeClaimList
	var volumes corev1.PersistentVolumeList
	var classes storagev1.StorageClassList
	var policies v1alpha1.ProtectionPolicyList
	may := map[client.ObjectList]bool{}
	for _, l := range []struct {
		list client.ObjectList
		what string
	}{{&claims, "PersistentVolumeClaims"}, {&volumes, "PersistentVolumes"}, {&classes, "StorageClasses"}, {&policies, "ProtectionPolicies"}} {
		err := c.List(ctx, l.list)
		switch {
		case err == nil, meta.IsNoMatchError(err): // where Lockstep is not installed, nothing is protected
			may[l.list] = true
		case apierrors.IsForbidden(err):
			live.Missing = append(live.Missing, l.what)
		default:
			return nil, fmt.Errorf("listing %s: %w", l.what, err)
		}
	}
	live.Volumes, live.Classes, live.Policies = volumes.Items, classes.Items, policies.Items
	if !may[&claims] || !may[&policies] {
		return live, nil // a claim whose policy may not be seen is not known to have none
	}
	live.Claims = claims.Items
	known := map[object.Name]plan.ClaimFact{}
	for _, claim := range claims.Items {
		known[object.Name{Namespace: claim.Namespace, Name: claim.Name}] = plan.ClaimFact{Phase: claim.Status.Phase}
	}
	consumers, err := Consumers(ctx, c, known)
	if apierrors.IsForbidden(err) {
		live.Missing = append(live.Missing, "what mounts claims")
		return live, nil
	}
	if err != nil {
		return nil, err
	}
	live.Mounted = map[object.Name]bool{}
	for _, consumer := range consumers {
		for _, claim := range consumer.Claims {
			live.Mounted[claim] = true
		}
	}
	return live, nil
}
