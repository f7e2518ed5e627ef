package facts_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// The client is a fake: only its answers matter here, and those of denied lists are a server's.
func TestLive(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	idle := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "idle"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "d",
		VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}}}
	policy := &v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"}}
	forbidden := func(client.ObjectList) error {
		return apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "", errors.New("no"))
	}
	for name, tt := range map[string]struct {
		deny    func(client.ObjectList) bool
		with    func(client.ObjectList) error
		claims  int
		mounted []object.Name
		missing []string
		fails   bool
	}{
		"everything":              {claims: 2, mounted: []object.Name{{Namespace: "shop", Name: "data"}}},
		"policies are not to see": {deny: is[*v1alpha1.ProtectionPolicyList], with: forbidden, missing: []string{"ProtectionPolicies"}},
		"volumes are not to see": {deny: is[*corev1.PersistentVolumeList], with: forbidden, claims: 2, mounted: []object.Name{{Namespace: "shop", Name: "data"}},
			missing: []string{"PersistentVolumes"}},
		"claims do not answer": {deny: is[*corev1.PersistentVolumeClaimList], with: func(client.ObjectList) error { return errors.New("timeout") }, fails: true},
		"pods are not to see": {deny: func(l client.ObjectList) bool { return l.GetObjectKind().GroupVersionKind().Kind == "PodList" }, with: forbidden, claims: 2,
			missing: []string{"what mounts claims"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(claim, idle, pod, policy).WithInterceptorFuncs(interceptor.Funcs{
				List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
					if tt.deny != nil && tt.deny(list) {
						return tt.with(list)
					}
					return c.List(ctx, list, opts...)
				},
			}).Build()
			live, err := facts.Live(t.Context(), c)
			if tt.fails {
				if err == nil {
					t.Error("a cluster that does not answer is said to be known")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(live.Claims) != tt.claims || !slices.Equal(live.Missing, tt.missing) || len(live.Mounted) != len(tt.mounted) {
				t.Errorf("%d claims, missing %q, mounted %v", len(live.Claims), live.Missing, live.Mounted)
			}
			for _, m := range tt.mounted {
				if !live.Mounted[m] {
					t.Errorf("%v is not mounted", m)
				}
			}
		})
	}
}

func is[T client.ObjectList](l client.ObjectList) bool {
	_, ok := l.(T)
	return ok
}
