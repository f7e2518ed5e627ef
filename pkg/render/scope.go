package render

import (
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// defaultNamespace is the one that kubectl would use.
const defaultNamespace = "default"

// setNamespaces gives objects that are known to live in a namespace, and name none, the one that is meant then. Kinds that are not
// known here are left to the API server.
func setNamespaces(objects []*unstructured.Unstructured, namespace string) {
	namespaced := map[schema.GroupKind]bool{}
	for _, u := range objects {
		if u.GroupVersionKind().GroupKind() != (schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}) {
			continue
		}
		group, _, _ := unstructured.NestedString(u.Object, "spec", "group")
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "names", "kind")
		scope, _, _ := unstructured.NestedString(u.Object, "spec", "scope")
		namespaced[schema.GroupKind{Group: group, Kind: kind}] = scope == "Namespaced"
	}
	for _, u := range objects {
		gk := u.GroupVersionKind().GroupKind()
		if u.GetNamespace() == "" && (namespaced[gk] || isNamespaced(gk)) {
			u.SetNamespace(namespace)
		}
	}
}

// isNamespaced knows the namespaced kinds that come with Kubernetes and with Lockstep.
func isNamespaced(gk schema.GroupKind) bool {
	var kinds []string
	switch gk.Group {
	case "apps", "batch", "autoscaling", "policy", "extensions", "coordination.k8s.io", "discovery.k8s.io", "events.k8s.io",
		fluxKustomize, fluxHelm, fluxSource, argo:
		return true
	case "":
		kinds = []string{
			"ConfigMap", "Endpoints", "Event", "LimitRange", "PersistentVolumeClaim", "Pod", "PodTemplate",
			"ReplicationController", "ResourceQuota", "Secret", "Service", "ServiceAccount",
		}
	case "networking.k8s.io":
		kinds = []string{"Ingress", "NetworkPolicy"}
	case "rbac.authorization.k8s.io":
		kinds = []string{"Role", "RoleBinding"}
	case "storage.k8s.io":
		kinds = []string{"CSIStorageCapacity"}
	case "resource.k8s.io":
		kinds = []string{"ResourceClaim", "ResourceClaimTemplate"}
	case "lockstep.dev":
		kinds = []string{"ProtectionPolicy", "Restore", "RestorePoint"}
	}
	return slices.Contains(kinds, gk.Kind)
}
