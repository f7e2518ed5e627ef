package object

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestOrderOf(t *testing.T) {
	tests := []struct {
		name        string
		annotations map[string]string
		want        Order
	}{
		{"nothing declared", nil, Order{}},
		{"wave", map[string]string{"argocd.argoproj.io/sync-wave": "-2"}, Order{Wave: -2}},
		{"no number", map[string]string{"argocd.argoproj.io/sync-wave": "first"}, Order{}},
		{"hook of Argo CD", map[string]string{"argocd.argoproj.io/hook": "PreSync", "argocd.argoproj.io/sync-wave": "1"}, Order{Phase: -1, Wave: 1}},
		{"hook of Helm", map[string]string{"helm.sh/hook": "post-install, post-upgrade", "helm.sh/hook-weight": "5"}, Order{Phase: 1, Wave: 5}},
		{"both: Argo CD's counts", map[string]string{"argocd.argoproj.io/hook": "Sync", "helm.sh/hook": "pre-install"}, Order{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := &unstructured.Unstructured{Object: map[string]any{}}
			u.SetAnnotations(tt.annotations)
			if got := OrderOf(u); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	if (Order{Phase: -1, Wave: 9}).Compare(Order{Wave: -9}) >= 0 {
		t.Error("a wave counts more than a phase")
	}
}
