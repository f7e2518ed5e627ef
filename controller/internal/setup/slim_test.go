package setup

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
)

// What is kept of a Kustomization still says which source it has, and not what it deployed.
func TestSlim(t *testing.T) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(flux.KindKustomization())
	u.SetNamespace("shop")
	u.SetName("app")
	u.SetResourceVersion("7")
	u.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "somebody"}})
	u.Object["spec"] = map[string]any{"path": "./deploy", "sourceRef": map[string]any{"kind": "GitRepository", "name": "fleet"}}
	u.Object["status"] = map[string]any{"inventory": map[string]any{"entries": []any{"much"}}}
	o, err := slim(u)
	kept, ok := o.(*unstructured.Unstructured)
	if err != nil || !ok {
		t.Fatal(o, err)
	}
	if kept.GetName() != "app" || kept.GetResourceVersion() != "7" || kept.GroupVersionKind() != flux.KindKustomization() || flux.SourceOf(kept).String() != "shop/fleet" {
		t.Errorf("too little is kept: %v", kept.Object)
	}
	if text, err := kept.MarshalJSON(); err != nil || strings.Contains(string(text), "much") || strings.Contains(string(text), "somebody") {
		t.Errorf("%s, %v", text, err)
	}
	o, err = slim(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", ManagedFields: []metav1.ManagedFieldsEntry{{}}}, Status: corev1.PodStatus{Phase: corev1.PodRunning}})
	if p, ok := o.(*corev1.Pod); err != nil || !ok || p.ManagedFields != nil || p.Status.Phase != corev1.PodRunning {
		t.Errorf("%v, %v", o, err)
	}
	if o, err := slim("a tombstone"); err != nil || o != "a tombstone" {
		t.Errorf("%v, %v", o, err)
	}
}
