package facts_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
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

func rendered(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(apiVersion)
	u.SetKind(kind)
	u.SetNamespace(namespace)
	u.SetName(name)
	return u
}

func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion})
	m.Add(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Namespace"), meta.RESTScopeRoot)
	return m
}

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	return s
}

func existing() []client.Object {
	class, wait := "fast", storagev1.VolumeBindingWaitForFirstConsumer
	return []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}},
		&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", Labels: map[string]string{v1alpha1.LabelRestore: "uid"}},
			Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv", StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "of-no-concern"}},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "gone", Name: "data", Labels: map[string]string{v1alpha1.LabelRestore: "deleted"}}},
		&v1alpha1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "first", UID: "uid"}},
		&v1alpha1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "second", UID: "another"}},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: "p", VolumeBindingMode: &wait},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "slow", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}}, Provisioner: "q"},
	}
}

// specOf is that of an existing claim.
func specOf(namespace, name string) corev1.PersistentVolumeClaimSpec {
	for _, o := range existing() {
		if claim, ok := o.(*corev1.PersistentVolumeClaim); ok && claim.Namespace == namespace && claim.Name == name {
			return claim.Spec
		}
	}
	return corev1.PersistentVolumeClaimSpec{}
}

func TestRead(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(existing()...).Build()
	choice := match.Choice{Record: point.Record{Volumes: []point.Volume{{Namespace: "shop", Claim: "data"}, {Namespace: "gone", Claim: "data"}}}}
	objects := []*unstructured.Unstructured{
		rendered("v1", "PersistentVolumeClaim", "shop", "empty"), rendered("v1", "Namespace", "", "shop"), rendered("example.org/v1", "Banner", "shop", "sale"),
	}
	got, err := facts.Read(t.Context(), c, mapper(), choice, objects)
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Facts{
		Claims: map[object.Name]plan.ClaimFact{
			{Namespace: "shop", Name: "data"}: {Phase: corev1.ClaimBound, RestoreUID: "uid", Restore: object.Name{Namespace: "shop", Name: "first"}, Spec: specOf("shop", "data")},
			{Namespace: "gone", Name: "data"}: {RestoreUID: "deleted"},
		},
		StorageClasses: map[string]plan.ClassFact{"fast": {Provisioner: "p", WaitForFirstConsumer: true}, "slow": {Provisioner: "q", Default: true}},
		Namespaces:     map[string]bool{"shop": true, "gone": false},
		Kinds: map[schema.GroupKind]plan.KindFact{
			{Kind: "PersistentVolumeClaim"}: {Namespaced: true}, {Kind: "Namespace"}: {},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

// TestExisting: what does not answer may well exist.
func TestExisting(t *testing.T) {
	c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithRESTMapper(mapper()).WithObjects(existing()...).Build()
	objects := []*unstructured.Unstructured{rendered("v1", "Namespace", "", "shop"), rendered("v1", "Namespace", "", "other"), rendered("example.org/v1", "Banner", "", "sale")}
	found, err := facts.Existing(t.Context(), c, objects)
	if diff := cmp.Diff(map[object.Key]bool{{Kind: "Namespace", Name: "shop"}: true}, found); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	silent := errors.New("no answer")
	deaf := interceptor.NewClient(c, interceptor.Funcs{Get: func(context.Context, client.WithWatch, client.ObjectKey, client.Object, ...client.GetOption) error {
		return silent
	}})
	if _, err := facts.Existing(t.Context(), deaf, objects); !errors.Is(err, silent) {
		t.Errorf("got %v", err)
	}
}

// TestReadWithoutRestores: a cluster that knows nothing of Lockstep has no Restores either; one that does not answer may.
func TestReadWithoutRestores(t *testing.T) {
	choice := match.Choice{Record: point.Record{Volumes: []point.Volume{{Namespace: "shop", Claim: "data"}}}}
	silent := errors.New("no answer")
	for _, answer := range []error{&meta.NoKindMatchError{}, silent} {
		c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(existing()...).Build(), interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
				if _, ok := list.(*v1alpha1.RestoreList); ok {
					return answer
				}
				return c.List(ctx, list, opts...)
			},
		})
		got, err := facts.Read(t.Context(), c, mapper(), choice, nil)
		if errors.Is(answer, silent) != errors.Is(err, silent) || err == nil && got.Claims[object.Name{Namespace: "shop", Name: "data"}].Restore != (object.Name{}) {
			t.Errorf("%v: got %+v, %v", answer, got.Claims, err)
		}
	}
}

// TestReadFailsClosed: what could not be read is an error, never an absent claim.
func TestReadFailsClosed(t *testing.T) {
	silent := errors.New("no answer")
	for _, namespaces := range []bool{true, false} {
		c := interceptor.NewClient(fake.NewClientBuilder().WithScheme(newScheme(t)).Build(), interceptor.Funcs{
			Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
				if _, ok := o.(*corev1.Namespace); ok == namespaces {
					return silent
				}
				return c.Get(ctx, key, o, opts...)
			},
		})
		choice := match.Choice{Record: point.Record{Volumes: []point.Volume{{Namespace: "shop", Claim: "data"}}}}
		if _, err := facts.Read(t.Context(), c, mapper(), choice, nil); !errors.Is(err, silent) {
			t.Errorf("namespaces silent %v: got %v", namespaces, err)
		}
	}
}
