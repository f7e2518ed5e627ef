// Package workloads reads and changes workloads of an application that run or rest at the controller's word. Nothing is changed that
// somebody else has changed since it was read.
package workloads

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Get reads a workload of the version v1; nil if there is none.
func Get(ctx context.Context, c client.Reader, key object.Key) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(key.GroupKind().WithVersion("v1"))
	err := c.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: key.Name}, u)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	return u, nil
}

// Change writes a workload that was read as live, as long as it still is so; changed gets what is there afterwards.
func Change(ctx context.Context, c client.Client, live, changed *unstructured.Unstructured) error {
	return c.Patch(ctx, changed, client.MergeFromWithOptions(live, client.MergeFromWithOptimisticLock{}), client.FieldOwner(v1alpha1.FieldManager))
}

// Replicas is how many pods a workload is to have; one that does not say it is to have one.
func Replicas(u *unstructured.Unstructured) int32 {
	n, set, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	if !set {
		return 1
	}
	return int32(n)
}

// ScaledBy names the restore point that has a workload at zero, and will scale it back; empty if none has. Beside replicas the mark says
// nothing: a rollback may have brought it back.
func ScaledBy(u *unstructured.Unstructured) string {
	if Replicas(u) > 0 {
		return ""
	}
	return u.GetAnnotations()[v1alpha1.AnnotationScaledBy]
}

// Scalers names everybody but Lockstep who says how many replicas the workload is to have now, sorted.
func Scalers(u *unstructured.Unstructured) []string {
	var out []string
	for _, f := range u.GetManagedFields() {
		var fields struct {
			Spec struct {
				Replicas *struct{} `json:"f:replicas"`
			} `json:"f:spec"`
		}
		if f.Manager == v1alpha1.FieldManager || f.FieldsV1 == nil {
			continue
		}
		if err := json.Unmarshal(f.FieldsV1.GetRawBytes(), &fields); err == nil && fields.Spec.Replicas != nil {
			out = append(out, f.Manager)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
