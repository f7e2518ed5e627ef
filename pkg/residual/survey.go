package residual

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

const (
	// pageSize is the number of objects of one answer.
	pageSize = 500
	// maxObjects bounds what a survey remembers.
	maxObjects = 200_000
)

// Scope says what a survey looks at.
type Scope struct {
	Namespaces []string
	// Kinds are those of the function Kinds.
	Kinds []schema.GroupVersionKind
	// Rendered are the objects of a commit, which are in Git whatever the cluster says, Applications the policies
	// ("<namespace>/<name>") among them.
	Rendered     []object.Key
	Applications []string
	// OwnedConfigMaps keeps ConfigMaps that others own, as Secrets are.
	OwnedConfigMaps bool
}

// Survey gathers what Decide must know. It is complete or an error. The reader must not be a cache.
func Survey(ctx context.Context, c client.Reader, scope Scope) (Facts, error) {
	s := survey{Reader: c, scope: scope, facts: Facts{
		Git: map[object.Key]string{}, Applications: map[string]bool{}, Releases: map[object.Name]string{}, Wanted: map[object.Key]Want{},
		Owners: map[types.UID]Object{}, Gone: map[types.UID]bool{}, Selecting: map[object.Name]bool{},
		Bootstrap:       map[object.Key]string{},
		OwnedConfigMaps: scope.OwnedConfigMaps,
	}}
	for _, key := range scope.Rendered {
		s.facts.Git[key] = "the commit renders it"
	}
	for _, application := range scope.Applications {
		s.facts.Applications[application] = true
	}
	for _, step := range []func(context.Context) error{s.objects, s.sealedKeys, s.engines, s.owners, s.services, s.wanted} {
		if err := step(ctx); err != nil {
			return Facts{}, err
		}
	}
	return s.facts, nil
}

type survey struct {
	client.Reader
	scope Scope
	facts Facts
}

// objects lists the metadata of all kinds. An object that is served as two kinds counts as the first.
func (s *survey) objects(ctx context.Context) error {
	seen := map[types.UID]bool{}
	for _, namespace := range s.scope.Namespaces {
		for _, gvk := range s.scope.Kinds {
			err := s.pages(ctx, namespace, gvk, func(o Object) error {
				if o.UID != "" && seen[o.UID] {
					return nil
				}
				if len(s.facts.Objects) == maxObjects {
					return fmt.Errorf("namespace %q: more than %d objects", namespace, maxObjects)
				}
				seen[o.UID] = true
				s.facts.Objects = append(s.facts.Objects, o)
				return nil
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *survey) pages(ctx context.Context, namespace string, gvk schema.GroupVersionKind, each func(Object) error) error {
	next := ""
	for {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		err := s.List(ctx, list, client.InNamespace(namespace), client.Limit(pageSize), client.Continue(next))
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return nil // the kind has gone since the cluster was asked for its kinds, and its objects with it
		}
		if err != nil {
			return fmt.Errorf("listing objects of kind %s in namespace %q: %w", gvk.GroupKind(), namespace, err)
		}
		for i := range list.Items {
			if err := each(seenAs(gvk, &list.Items[i])); err != nil {
				return err
			}
		}
		if next = list.Continue; next == "" {
			return nil
		}
	}
}

// seenAs is an object as Decide sees it.
func seenAs(gvk schema.GroupVersionKind, o metav1.Object) Object {
	annotations := o.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation) // large, and of no interest
	return Object{
		Key:        object.Key{Group: gvk.Group, Kind: gvk.Kind, Namespace: o.GetNamespace(), Name: o.GetName()},
		APIVersion: gvk.GroupVersion().String(), UID: o.GetUID(), Labels: o.GetLabels(), Annotations: annotations,
		Owners: o.GetOwnerReferences(), Deleting: o.GetDeletionTimestamp() != nil,
	}
}

// owners looks for the owners that were not listed, and theirs: cluster-wide ones, those of derived kinds, and those that are
// no more.
func (s *survey) owners(ctx context.Context) error {
	known := map[types.UID]bool{}
	for _, o := range s.facts.Objects {
		known[o.UID] = true
	}
	for queue := slices.Clone(s.facts.Objects); len(queue) > 0; queue = queue[1:] {
		for _, ref := range queue[0].Owners {
			if known[ref.UID] {
				continue
			}
			known[ref.UID] = true
			owner, err := s.owner(ctx, queue[0].Key.Namespace, ref)
			if err != nil {
				return err
			}
			if owner != nil {
				queue = append(queue, *owner)
			}
		}
	}
	return nil
}

func (s *survey) owner(ctx context.Context, namespace string, ref metav1.OwnerReference) (*Object, error) {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(gvk)
	err := s.Get(ctx, client.ObjectKey{Namespace: namespace, Name: ref.Name}, live)
	switch {
	case meta.IsNoMatchError(err), apierrors.IsForbidden(err), apierrors.IsMethodNotSupported(err):
		return nil, nil // whether it is there cannot be told
	case apierrors.IsNotFound(err), err == nil && live.UID != ref.UID:
		s.facts.Gone[ref.UID] = true
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading %s %q, which owns an object of namespace %q: %w", ref.Kind, ref.Name, namespace, err)
	}
	owner := seenAs(gvk, live)
	s.facts.Owners[ref.UID] = owner
	return &owner, nil
}

// services finds those that have a selector.
func (s *survey) services(ctx context.Context) error {
	if !slices.ContainsFunc(s.scope.Kinds, func(gvk schema.GroupVersionKind) bool { return gvk.GroupKind().String() == "Endpoints" }) {
		return nil
	}
	for _, namespace := range s.scope.Namespaces {
		list := &corev1.ServiceList{}
		if err := s.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return fmt.Errorf("listing the services of namespace %q: %w", namespace, err)
		}
		for _, service := range list.Items {
			s.facts.Selecting[object.Name{Namespace: namespace, Name: service.Name}] = len(service.Spec.Selector) > 0
		}
	}
	return nil
}

// referring are the kinds whose objects name Secrets and ConfigMaps.
var referring = []schema.GroupVersionKind{
	appsv1.SchemeGroupVersion.WithKind("Deployment"),
	appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
	appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
	appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
	batchv1.SchemeGroupVersion.WithKind("CronJob"),
	batchv1.SchemeGroupVersion.WithKind("Job"),
	corev1.SchemeGroupVersion.WithKind("Pod"),
	corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
	networkingv1.SchemeGroupVersion.WithKind("Ingress"),
}

// wanted finds the Secrets and ConfigMaps that objects of Git refer to.
func (s *survey) wanted(ctx context.Context) error {
	for _, namespace := range s.scope.Namespaces {
		for _, gvk := range referring {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
			next := ""
			for {
				if err := s.List(ctx, list, client.InNamespace(namespace), client.Limit(pageSize), client.Continue(next)); err != nil {
					return fmt.Errorf("listing objects of kind %s in namespace %q: %w", gvk.Kind, namespace, err)
				}
				for i := range list.Items {
					if err := s.references(&list.Items[i]); err != nil {
						return err
					}
				}
				if next = list.GetContinue(); next == "" {
					break
				}
			}
		}
	}
	return nil
}

func (s *survey) references(u *unstructured.Unstructured) error {
	if metav1.GetControllerOf(u) != nil || (judge{Facts: s.facts}).git(seenAs(u.GroupVersionKind(), u)) == "" {
		return nil
	}
	refs, err := object.References(u)
	if err != nil {
		return err
	}
	for _, ref := range refs {
		key := object.Key{Kind: ref.Kind, Namespace: ref.Name.Namespace, Name: ref.Name.Name}
		s.want(key, u.GetKind()+" "+u.GetName(), !ref.Optional)
	}
	return nil
}

// want notes a reference, if it leads into the namespaces and kinds that were looked at. One who cannot do without is named
// before one who can.
func (s *survey) want(key object.Key, by string, required bool) {
	lookedAt := slices.Contains(s.scope.Namespaces, key.Namespace) &&
		slices.ContainsFunc(s.scope.Kinds, func(gvk schema.GroupVersionKind) bool { return gvk.GroupKind() == key.GroupKind() })
	if before := s.facts.Wanted[key]; lookedAt && (before.By == "" || required && !before.Required) {
		s.facts.Wanted[key] = Want{by, required}
	}
}
