package residual

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// staleAnnotations were written by the old cluster about itself.
var staleAnnotations = []string{
	corev1.LastAppliedConfigAnnotation, v1alpha1.AnnotationRestoredFrom, v1alpha1.AnnotationReconcileAt, v1alpha1.AnnotationBootstrap,
	"kubernetes.io/service-account.uid", "deployment.kubernetes.io/revision", "deprecated.daemonset.template.generation",
	"endpoints.kubernetes.io/last-change-trigger-time",
}

// Sanitise returns a copy of a live object with what makes it what it is, and without what ties it to its cluster: its
// identity and history there, its status, its owners (an annotation keeps their names), and what the control plane assigned.
func Sanitise(live *unstructured.Unstructured) *unstructured.Unstructured {
	clean := live.DeepCopy()
	delete(clean.Object, "status")
	clean.Object["metadata"] = metadata(live)
	switch gk := clean.GroupVersionKind().GroupKind(); {
	case gk.String() == "Service":
		service(clean)
	case gk == object.ServiceAccount:
		delete(clean.Object, "secrets") // tokens of the old cluster
	case gk == object.Secret && clean.Object["type"] == string(corev1.SecretTypeServiceAccountToken):
		delete(clean.Object, "data") // the control plane fills it
	case gk.String() == "Endpoints":
		targets(clean, "subsets")
	case gk.String() == "EndpointSlice.discovery.k8s.io":
		targets(clean, "endpoints")
	}
	return clean
}

func metadata(live *unstructured.Unstructured) map[string]any {
	meta := map[string]any{"namespace": live.GetNamespace(), "name": live.GetName()}
	if labels := live.GetLabels(); len(labels) > 0 {
		meta["labels"] = textMap(labels)
	}
	annotations := live.GetAnnotations()
	for _, key := range staleAnnotations {
		delete(annotations, key)
	}
	var owners []string
	for _, o := range live.GetOwnerReferences() {
		owners = append(owners, o.Kind+"/"+o.Name)
	}
	if len(owners) > 0 {
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[v1alpha1.AnnotationOwners] = strings.Join(owners, ",")
	}
	if len(annotations) > 0 {
		meta["annotations"] = textMap(annotations)
	}
	return meta
}

func textMap(in map[string]string) map[string]any {
	out := make(map[string]any, len(in))
	for k, v := range in {
		out[k] = v
	}
	return out
}

// service drops the addresses and ports that the old cluster assigned. A headless Service stays one.
func service(u *unstructured.Unstructured) {
	spec, ok := u.Object["spec"].(map[string]any)
	if !ok {
		return
	}
	if spec["clusterIP"] != corev1.ClusterIPNone {
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
	}
	delete(spec, "healthCheckNodePort")
	ports, _ := spec["ports"].([]any)
	for _, p := range ports {
		if port, ok := p.(map[string]any); ok {
			delete(port, "nodePort")
		}
	}
}

// targets drops the references of addresses to pods and nodes.
func targets(u *unstructured.Unstructured, field string) {
	var visit func(any)
	visit = func(value any) {
		switch v := value.(type) {
		case []any:
			for _, item := range v {
				visit(item)
			}
		case map[string]any:
			delete(v, "targetRef")
			delete(v, "nodeName")
			for _, item := range v {
				visit(item)
			}
		}
	}
	visit(u.Object[field])
}
