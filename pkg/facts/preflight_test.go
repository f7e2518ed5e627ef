package facts_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// planned has a volume of class fast in namespace shop, and a ConfigMap.
func planned(t *testing.T) *plan.Plan {
	t.Helper()
	class := "fast"
	p, err := plan.New(plan.Input{
		Choice: match.Choice{Record: point.Record{Volumes: []point.Volume{{
			Namespace: "shop", Claim: "data", Capacity: 1 << 30,
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
		}}}},
		Objects: []*unstructured.Unstructured{rendered("v1", "Namespace", "", "shop"), rendered("example.org/v1", "Unserved", "shop", "sale")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// asked notes what is asked of an authoriser that forbids to patch claims.
type asked struct {
	mu   sync.Mutex
	all  bool
	what []string
}

func (a *asked) allowed(_ context.Context, what authorizationv1.ResourceAttributes) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.what = append(a.what, fmt.Sprintf("%s %s/%s %s", what.Verb, what.Group, what.Resource, what.Namespace))
	if what.Verb == "*" {
		return a.all, nil
	}
	return what.Verb != "patch" || what.Resource != "persistentvolumeclaims", nil
}

func storage(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceRequestsStorage: resource.MustParse(size)}
}

func stocked() []client.Object {
	size, largest, yes := resource.MustParse("3Gi"), resource.MustParse("2Gi"), true
	published := func(name, class string) *storagev1.CSIStorageCapacity {
		return &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: "csi", Name: name}, StorageClassName: class, Capacity: &size, MaximumVolumeSize: &largest}
	}
	return append(existing(),
		&corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "limits"}, Spec: corev1.ResourceQuotaSpec{Hard: storage("10Gi")},
			Status: corev1.ResourceQuotaStatus{Used: storage("4Gi")},
		},
		&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "limits"}},
		&corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "scoped"},
			Spec:       corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}},
		},
		&storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &yes}},
		published("a", "fast"), published("b", "fast"), published("c", "slow"),
	)
}

func TestPreflight(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(stocked()...).Build()
	a := &asked{}
	known, err := facts.Inspector{Reader: c, Mapper: mapper(), Allowed: a.allowed}.Preflight(t.Context(), planned(t), nil, "nobody")
	if err != nil {
		t.Fatal(err)
	}
	const gi = 1 << 30
	want := plan.Preflight{
		Denied: []plan.Access{
			{Kind: object.Claim, Namespace: v1alpha1.SystemNamespace, Verb: "patch"}, {Kind: object.Claim, Namespace: "shop", Verb: "patch"},
		},
		Quotas: []plan.Quota{{Name: object.Name{Namespace: "shop", Name: "limits"}, Hard: storage("10Gi"), Used: storage("4Gi")}},
		Claimed: []plan.Room{
			{Claim: object.Name{Namespace: "shop", Name: "data"}, Class: "fast", Bytes: gi}, {Claim: object.Name{Namespace: "shop", Name: "of-no-concern"}},
		},
		Capacity:   map[string]plan.Capacity{"fast": {Driver: "p", Published: true, Total: 6 * gi, Largest: 2 * gi}},
		NotChecked: []string{"quota lockstep-system/scoped: it counts only objects of some scopes"},
	}
	if diff := cmp.Diff(want, known); diff != "" {
		t.Errorf("preflight (-want +got):\n%s", diff)
	}
	slices.Sort(a.what)
	if unique := slices.Compact(slices.Clone(a.what)); len(unique) != len(a.what) {
		t.Errorf("asked twice: %q", a.what)
	}
	if slices.ContainsFunc(a.what, func(s string) bool { return strings.Contains(s, "example.org") }) {
		t.Errorf("asked about a kind that is not served: %q", a.what)
	}
	if known, err := (facts.Inspector{Reader: c, Mapper: mapper(), Allowed: a.allowed}).Preflight(t.Context(), planned(t), nil, "uid"); err != nil || !known.Begun {
		t.Errorf("of a restore that has claims: begun %v, %v", known.Begun, err)
	}
}

// TestPreflightAllAllowed: one question is enough for a controller that may do everything.
func TestPreflightAllAllowed(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(newScheme(t)).Build()
	a := &asked{all: true}
	known, err := facts.Inspector{Reader: c, Mapper: mapper(), Allowed: a.allowed}.Preflight(t.Context(), planned(t), nil, "")
	if err != nil || len(known.Denied) > 0 || len(a.what) != 1 {
		t.Errorf("asked %q and found %v, %v", a.what, known.Denied, err)
	}
}

// TestPreflightNotChecked: what may not be asked is said, and what does not answer is an error.
func TestPreflightNotChecked(t *testing.T) {
	silent := errors.New("no answer")
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "things"}, "", errors.New("no"))
	for name, tt := range map[string]struct {
		list client.ObjectList
		get  client.Object
		says string
	}{
		"quotas":   {list: &corev1.ResourceQuotaList{}, says: "whether quotas leave room"},
		"claims":   {list: &corev1.PersistentVolumeClaimList{}, says: "whether quotas leave room"},
		"capacity": {list: &storagev1.CSIStorageCapacityList{}, says: "whether the storage has room"},
		"driver":   {get: &storagev1.CSIDriver{}, says: "whether the storage has room"},
		"reviews":  {says: "what the controller may do"},
	} {
		for _, answer := range []error{silent, forbidden} {
			c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(stocked()...).Build(), interceptor.Funcs{
				List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
					if fmt.Sprintf("%T", list) == fmt.Sprintf("%T", tt.list) {
						return answer
					}
					return c.List(ctx, list, opts...)
				},
				Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
					if fmt.Sprintf("%T", o) == fmt.Sprintf("%T", tt.get) {
						return answer
					}
					return c.Get(ctx, key, o, opts...)
				},
			})
			allowed := (&asked{all: true}).allowed
			if tt.list == nil && tt.get == nil {
				allowed = func(context.Context, authorizationv1.ResourceAttributes) (bool, error) { return false, answer }
			}
			known, err := facts.Inspector{Reader: c, Mapper: mapper(), Allowed: allowed}.Preflight(t.Context(), planned(t), nil, "")
			said := slices.ContainsFunc(known.NotChecked, func(s string) bool { return strings.HasPrefix(s, tt.says) })
			if errors.Is(answer, silent) != errors.Is(err, silent) || (err == nil) != said {
				t.Errorf("%s, %v: not checked %q, %v", name, answer, known.NotChecked, err)
			}
		}
	}
	c := fake.NewClientBuilder().WithScheme(newScheme(t)).Build()
	known, err := facts.Inspector{Reader: c, Mapper: mapper()}.Preflight(t.Context(), planned(t), nil, "")
	if err != nil || len(known.NotChecked) != 1 || !strings.Contains(known.NotChecked[0], "it is not in this cluster yet") {
		t.Errorf("without a controller: %q, %v", known.NotChecked, err)
	}
}

func TestPullSecrets(t *testing.T) {
	name := func(n string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: n} }
	c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(
		&corev1.ServiceAccount{ObjectMeta: name("reader"), ImagePullSecrets: []corev1.LocalObjectReference{{Name: "b"}, {Name: "gone"}}},
		&corev1.Secret{ObjectMeta: name("a")}, &corev1.Secret{ObjectMeta: name("b")}, &corev1.Secret{ObjectMeta: name("of-no-concern")},
	).Build()
	of := func(n string) object.Name { return object.Name{Namespace: "shop", Name: n} }
	got, err := facts.Inspector{Reader: c}.PullSecrets(t.Context(), []plan.Image{
		{PullSecrets: []object.Name{of("a"), of("lost")}, Accounts: []object.Name{of("reader")}}, {PullSecrets: []object.Name{of("a")}, Accounts: []object.Name{of("default")}},
	})
	if err != nil || len(got) != 2 || got[0].Name != "a" || got[1].Name != "b" {
		t.Errorf("got %v, %v", got, err)
	}
}
