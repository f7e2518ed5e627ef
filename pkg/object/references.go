package object

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// Reference is a Secret or ConfigMap that an object needs.
type Reference struct {
	Kind string // "Secret" or "ConfigMap"
	Name Name
	// Optional references may be absent without holding a pod back.
	Optional bool
}

// References returns the Secrets and ConfigMaps that an object names: those of a workload's pods (environment, volumes,
// projections, image pulls), a ServiceAccount's image pulls and an Ingress's certificates. Each stands once, sorted, and
// is optional only where every mention is.
func References(u *unstructured.Unstructured) ([]Reference, error) {
	spec, err := PodSpec(u)
	if err != nil {
		return nil, err
	}
	refs := references{namespace: u.GetNamespace(), found: map[Reference]bool{}}
	switch u.GroupVersionKind().GroupKind() {
	case ServiceAccount:
		sa := &corev1.ServiceAccount{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, sa); err != nil {
			return nil, malformed(u, err)
		}
		refs.pullSecrets(sa.ImagePullSecrets)
	case networkingv1.SchemeGroupVersion.WithKind("Ingress").GroupKind():
		ingress := &networkingv1.Ingress{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, ingress); err != nil {
			return nil, malformed(u, err)
		}
		for _, tls := range ingress.Spec.TLS {
			// An ingress controller serves without the Secret, with a certificate of its own.
			refs.add(Secret.Kind, tls.SecretName, true)
		}
	}
	if spec != nil {
		refs.pod(spec)
	}
	return refs.sorted(), nil
}

// references gathers; found holds, per reference with Optional unset, whether every mention so far was optional.
type references struct {
	namespace string
	found     map[Reference]bool
}

func (r *references) add(kind, name string, optional bool) {
	if name == "" {
		return
	}
	key := Reference{Kind: kind, Name: Name{r.namespace, name}}
	if before, seen := r.found[key]; seen {
		optional = optional && before
	}
	r.found[key] = optional
}

func (r *references) pullSecrets(list []corev1.LocalObjectReference) {
	for _, s := range list {
		// A missing pull secret is only an error where the registry wants one: kubelet tries without.
		r.add(Secret.Kind, s.Name, true)
	}
}

func (r *references) pod(spec *corev1.PodSpec) {
	r.pullSecrets(spec.ImagePullSecrets)
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		r.environment(c.Env, c.EnvFrom)
	}
	for _, v := range spec.Volumes {
		r.volume(v.VolumeSource)
	}
}

func (r *references) environment(env []corev1.EnvVar, from []corev1.EnvFromSource) {
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if s := e.ValueFrom.SecretKeyRef; s != nil {
			r.add(Secret.Kind, s.Name, truth(s.Optional))
		}
		if c := e.ValueFrom.ConfigMapKeyRef; c != nil {
			r.add(ConfigMap.Kind, c.Name, truth(c.Optional))
		}
	}
	for _, f := range from {
		if f.SecretRef != nil {
			r.add(Secret.Kind, f.SecretRef.Name, truth(f.SecretRef.Optional))
		}
		if f.ConfigMapRef != nil {
			r.add(ConfigMap.Kind, f.ConfigMapRef.Name, truth(f.ConfigMapRef.Optional))
		}
	}
}

func (r *references) volume(v corev1.VolumeSource) {
	if v.Secret != nil {
		r.add(Secret.Kind, v.Secret.SecretName, truth(v.Secret.Optional))
	}
	if v.ConfigMap != nil {
		r.add(ConfigMap.Kind, v.ConfigMap.Name, truth(v.ConfigMap.Optional))
	}
	if v.CSI != nil && v.CSI.NodePublishSecretRef != nil {
		r.add(Secret.Kind, v.CSI.NodePublishSecretRef.Name, false)
	}
	if v.Projected == nil {
		return
	}
	for _, p := range v.Projected.Sources {
		if p.Secret != nil {
			r.add(Secret.Kind, p.Secret.Name, truth(p.Secret.Optional))
		}
		if p.ConfigMap != nil {
			r.add(ConfigMap.Kind, p.ConfigMap.Name, truth(p.ConfigMap.Optional))
		}
	}
}

func (r *references) sorted() []Reference {
	out := make([]Reference, 0, len(r.found))
	for ref, optional := range r.found {
		ref.Optional = optional
		out = append(out, ref)
	}
	slices.SortFunc(out, func(a, b Reference) int {
		if a.Kind != b.Kind {
			return strings.Compare(a.Kind, b.Kind)
		}
		return a.Name.Compare(b.Name)
	})
	return out
}

func truth(b *bool) bool { return b != nil && *b }
