package residual

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// The bootstrap set is what the engines need, in namespaces of their own, to deploy the application again: credentials of the sources,
// keys of what is encrypted in Git, values. Only what brings objects of the namespaces that are looked at counts: a label alone could
// name anybody's keys.

// references of Flux's objects to Secrets of their own namespace.
var (
	sourceSecrets = [][]string{
		{"spec", "secretRef", "name"}, {"spec", "certSecretRef", "name"}, {"spec", "proxySecretRef", "name"}, {"spec", "verify", "secretRef", "name"},
	}
	kustomizationSecrets = [][]string{{"spec", "decryption", "secretRef", "name"}}
)

const sourceGroup = "source.toolkit.fluxcd.io"

// concerns says that what an engine's object brings is, in part, of the namespaces that are looked at.
func (s *survey) concerns(by string) bool {
	for key, who := range s.facts.Git {
		if who == by && slices.Contains(s.scope.Namespaces, key.Namespace) {
			return true
		}
	}
	return false
}

// ofKustomization notes what a Kustomization needs: its keys, its variables, and its source with what that needs.
func (s *survey) ofKustomization(ctx context.Context, u *unstructured.Unstructured, by string) error {
	if !s.concerns(by) {
		return nil
	}
	if err := s.needSecrets(ctx, u, by, kustomizationSecrets); err != nil {
		return err
	}
	if err := s.needEach(ctx, u, by, "spec", "postBuild", "substituteFrom"); err != nil {
		return err
	}
	return s.source(ctx, u, "spec", "sourceRef")
}

// ofRelease does the same for a HelmRelease.
func (s *survey) ofRelease(ctx context.Context, u *unstructured.Unstructured, by string) error {
	if !s.concerns(by) {
		return nil
	}
	if err := s.needEach(ctx, u, by, "spec", "valuesFrom"); err != nil {
		return err
	}
	for _, ref := range [][]string{{"spec", "chart", "spec", "sourceRef"}, {"spec", "chartRef"}} {
		if err := s.source(ctx, u, ref...); err != nil {
			return err
		}
	}
	return nil
}

// source follows a reference to a source of Flux.
func (s *survey) source(ctx context.Context, u *unstructured.Unstructured, ref ...string) error {
	text := func(field string) string {
		v, _, _ := unstructured.NestedString(u.Object, append(slices.Clone(ref), field)...)
		return v
	}
	name := object.Name{Namespace: text("namespace"), Name: text("name")}
	if name.Namespace == "" {
		name.Namespace = u.GetNamespace()
	}
	if name.Name == "" || text("kind") == "" {
		return nil
	}
	gk := schema.GroupKind{Group: sourceGroup, Kind: text("kind")}
	return s.bring(ctx, gk, name, func(ctx context.Context, source *unstructured.Unstructured) error {
		return s.needSecrets(ctx, source, gk.Kind+" "+name.String(), sourceSecrets)
	})
}

func (s *survey) needSecrets(ctx context.Context, u *unstructured.Unstructured, by string, refs [][]string) error {
	for _, fields := range refs {
		name, _, _ := unstructured.NestedString(u.Object, fields...)
		if err := s.need(ctx, object.Key{Kind: object.Secret.Kind, Namespace: u.GetNamespace(), Name: name}, by); err != nil {
			return err
		}
	}
	return nil
}

func (s *survey) needEach(ctx context.Context, u *unstructured.Unstructured, by string, fields ...string) error {
	list, _, _ := unstructured.NestedSlice(u.Object, fields...)
	for _, item := range list {
		ref, _ := item.(map[string]any)
		kind, _ := ref["kind"].(string)
		name, _ := ref["name"].(string)
		if kind != object.Secret.Kind && kind != object.ConfigMap.Kind {
			continue
		}
		if err := s.need(ctx, object.Key{Kind: kind, Namespace: u.GetNamespace(), Name: name}, by); err != nil {
			return err
		}
	}
	return nil
}

// need looks at a Secret or ConfigMap of the bootstrap set and has it decided on like all others. One that is not there is not missed:
// what runs has done without it.
func (s *survey) need(ctx context.Context, key object.Key, by string) error {
	if _, known := s.facts.Bootstrap[key]; known || key.Name == "" || slices.Contains(s.scope.Namespaces, key.Namespace) {
		return nil
	}
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(key.Kind))
	err := s.Get(ctx, client.ObjectKey(key.NamespacedName()), live)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s, which %s needs: %w", key, by, err)
	}
	return s.take(ctx, live, key.Kind, by)
}

// take adds an object to the bootstrap set, unless its namespace says that nothing of it is kept.
func (s *survey) take(ctx context.Context, live metav1.Object, kind, by string) error {
	o := seenAs(corev1.SchemeGroupVersion.WithKind(kind), live)
	if _, known := s.facts.Bootstrap[o.Key]; known {
		return nil
	}
	namespace := &metav1.PartialObjectMetadata{}
	namespace.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Namespace"))
	if err := s.Get(ctx, client.ObjectKey{Name: o.Key.Namespace}, namespace); err != nil && !apierrors.IsForbidden(err) {
		return fmt.Errorf("reading namespace %q: %w", o.Key.Namespace, err)
	}
	if why, excluded := namespace.Annotations[v1alpha1.AnnotationExclude]; excluded {
		if o.Annotations == nil {
			o.Annotations = map[string]string{}
		}
		o.Annotations[v1alpha1.AnnotationExclude] = strings.TrimSuffix("its namespace is excluded: "+why, ": ")
	}
	s.facts.Objects = append(s.facts.Objects, o)
	s.facts.Bootstrap[o.Key] = by
	s.facts.Wanted[o.Key] = Want{By: by}
	return nil
}

// labelArgoSecret marks the Secrets from which Argo CD takes what it knows of repositories.
const labelArgoSecret = "argocd.argoproj.io/secret-type"

// ofApplication notes the credentials of the repositories that an Application of Argo CD reads: Secrets beside it, which are for a
// repository or for all whose URLs begin alike.
func (s *survey) ofApplication(ctx context.Context, u *unstructured.Unstructured) error {
	by := "Application " + u.GetNamespace() + "/" + u.GetName()
	var urls []string
	sources, _, _ := unstructured.NestedSlice(u.Object, "spec", "sources")
	single, _, _ := unstructured.NestedMap(u.Object, "spec", "source")
	for _, item := range append(sources, single) {
		source, _ := item.(map[string]any)
		if url, _ := source["repoURL"].(string); url != "" {
			urls = append(urls, url)
		}
	}
	list := &corev1.SecretList{}
	marked := client.HasLabels{labelArgoSecret}
	if err := s.List(ctx, list, client.InNamespace(u.GetNamespace()), marked); err != nil {
		return fmt.Errorf("listing the Secrets from which Argo CD knows repositories: %w", err)
	}
	for i := range list.Items {
		secret := &list.Items[i]
		known := strings.TrimSuffix(string(secret.Data["url"]), ".git")
		kind := secret.Labels[labelArgoSecret]
		fits := slices.ContainsFunc(urls, func(url string) bool {
			return known != "" && (kind == "repository" && strings.TrimSuffix(url, ".git") == known || kind == "repo-creds" && strings.HasPrefix(url, known))
		})
		if !fits || slices.Contains(s.scope.Namespaces, secret.Namespace) {
			continue
		}
		if err := s.take(ctx, secret, object.Secret.Kind, by); err != nil {
			return err
		}
	}
	return nil
}

const (
	sealedGroup    = "bitnami.com"
	labelSealedKey = "sealedsecrets.bitnami.com/sealed-secrets-key"
)

// sealedKeys notes the keys of sealed-secrets, if the application has a SealedSecret: what Git holds of it is worth nothing without them.
func (s *survey) sealedKeys(ctx context.Context) error {
	i := slices.IndexFunc(s.facts.Objects, func(o Object) bool { return o.Key.Group == sealedGroup && o.Key.Kind == "SealedSecret" })
	if i < 0 {
		return nil
	}
	by := "SealedSecret " + s.facts.Objects[i].Key.Name
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	if err := s.List(ctx, list, client.HasLabels{labelSealedKey}); err != nil {
		return fmt.Errorf("listing the keys of sealed-secrets: %w", err)
	}
	for i := range list.Items {
		if slices.Contains(s.scope.Namespaces, list.Items[i].Namespace) {
			continue
		}
		if err := s.take(ctx, &list.Items[i], object.Secret.Kind, by); err != nil {
			return err
		}
	}
	return nil
}

// WithoutBootstrap is the set of what is the application's own.
func (s Set) WithoutBootstrap() Set {
	marked := map[object.Key]bool{}
	for key, o := range s.all() {
		_, marked[key] = o.GetAnnotations()[v1alpha1.AnnotationBootstrap]
	}
	return s.Without(func(key object.Key) bool { return marked[key] })
}
