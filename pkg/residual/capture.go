package residual

import (
	"context"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Capture finds the Secrets that the objects of a namespace refer to and Git does not hold. Objects that others own are left
// out: they are made again, and their owner's references count. A required Secret that is absent is a *MissingError where
// an object of Git wants it. The reader must not be a cache.
func Capture(ctx context.Context, c client.Reader, namespace string) (Set, error) {
	wanted, err := references(ctx, c, namespace)
	if err != nil {
		return Set{}, err
	}
	set := Set{Version: Version, Secrets: []corev1.Secret{}}
	for _, name := range slices.SortedFunc(maps.Keys(wanted), object.Name.Compare) {
		secret := &corev1.Secret{}
		err := c.Get(ctx, client.ObjectKey{Namespace: name.Namespace, Name: name.Name}, secret)
		switch {
		case apierrors.IsNotFound(err) && wanted[name] != "":
			return Set{}, &MissingError{Secret: name.String(), By: wanted[name]}
		case apierrors.IsNotFound(err):
		case err != nil:
			return Set{}, fmt.Errorf("reading secret %q: %w", name, err)
		case irreplaceable(secret):
			set.Secrets = append(set.Secrets, sanitise(secret))
		}
	}
	return set, nil
}

// references maps the Secrets that are referred to onto the object of Git that cannot do without, if there is one.
func references(ctx context.Context, c client.Reader, namespace string) (map[object.Name]string, error) {
	objects, err := referrers(ctx, c, namespace)
	if err != nil {
		return nil, err
	}
	wanted := map[object.Name]string{}
	for _, u := range objects {
		refs, err := object.References(u)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			if ref.Kind != object.Secret.Kind {
				continue
			}
			by := wanted[ref.Name]
			if by == "" && !ref.Optional && HeldByGit(u) {
				by = u.GetKind() + " " + u.GetName()
			}
			wanted[ref.Name] = by
		}
	}
	return wanted, nil
}

// referrers lists the objects that may refer to Secrets, with the ServiceAccounts that the workloads among them use.
func referrers(ctx context.Context, c client.Reader, namespace string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	accounts := map[string]bool{}
	for _, gvk := range []schema.GroupVersionKind{
		appsv1.SchemeGroupVersion.WithKind("Deployment"),
		appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
		appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
		appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		batchv1.SchemeGroupVersion.WithKind("CronJob"),
		batchv1.SchemeGroupVersion.WithKind("Job"),
		corev1.SchemeGroupVersion.WithKind("Pod"),
		networkingv1.SchemeGroupVersion.WithKind("Ingress"),
	} {
		list, err := roots(ctx, c, namespace, gvk)
		if err != nil {
			return nil, err
		}
		for _, u := range list {
			spec, err := object.PodSpec(u)
			if err != nil {
				return nil, err
			}
			if spec != nil {
				accounts[spec.ServiceAccountName] = true
			}
		}
		out = append(out, list...)
	}
	list, err := roots(ctx, c, namespace, corev1.SchemeGroupVersion.WithKind("ServiceAccount"))
	if err != nil {
		return nil, err
	}
	for _, u := range list {
		if accounts[u.GetName()] || u.GetName() == "default" {
			out = append(out, u)
		}
	}
	return out, nil
}

// roots lists the objects of a kind that no controller owns.
func roots(ctx context.Context, c client.Reader, namespace string, gvk schema.GroupVersionKind) ([]*unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
	if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return nil, fmt.Errorf("listing objects of kind %s: %w", gvk.Kind, err)
	}
	var out []*unstructured.Unstructured
	for i := range list.Items {
		if metav1.GetControllerOf(&list.Items[i]) == nil {
			out = append(out, &list.Items[i])
		}
	}
	return out, nil
}
