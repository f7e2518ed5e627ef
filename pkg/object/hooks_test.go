package object

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func TestLeftOut(t *testing.T) {
	tests := []struct {
		name        string
		annotations map[string]string
		want        string
	}{
		{"no hook", nil, ""},
		{"of a deploy", map[string]string{"argocd.argoproj.io/hook": "PreSync"}, ""},
		{"of a deploy and another time", map[string]string{"helm.sh/hook": "post-install, test"}, ""},
		{"of a rollback", map[string]string{"helm.sh/hook": "pre-rollback"}, ""},
		{"unknown", map[string]string{"argocd.argoproj.io/hook": "Someday"}, ""},
		{"when the application is deleted", map[string]string{"argocd.argoproj.io/hook": "PostDelete"}, "a hook for PostDelete, which a deploy does not run"},
		{"never", map[string]string{"argocd.argoproj.io/hook": "Skip"}, "a hook for Skip, which a deploy does not run"},
		{"when a sync has failed", map[string]string{"argocd.argoproj.io/hook": "SyncFail"}, "a hook for SyncFail, which a deploy does not run"},
		{"when a chart is removed", map[string]string{"helm.sh/hook": "pre-delete,post-delete"}, "a hook for pre-delete, post-delete, which a deploy does not run"},
		{"a test", map[string]string{"helm.sh/hook": "test"}, "a hook for test, which a deploy does not run"},
		{"both: Argo CD's counts", map[string]string{"argocd.argoproj.io/hook": "Sync", "helm.sh/hook": "test"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "ConfigMap"}}
			u.SetAnnotations(tt.annotations)
			if got, err := LeftOut(u); err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}

// TestLeftOutOwn knows the hooks that docs/argocd.md gives to people, and no other Job that makes points.
func TestLeftOutOwn(t *testing.T) {
	for _, file := range []string{"presync.yaml", "postsync.yaml"} {
		data, err := os.ReadFile(filepath.Join("..", "..", "examples", "argocd", "hooks", file))
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(data, &u.Object); err != nil {
			t.Fatal(err)
		}
		if got, err := LeftOut(u); err != nil || got != "a hook that asks for the restore point of a sync by Argo CD" {
			t.Errorf("%s: got %q, %v", file, got, err)
		}
		if err := unstructured.SetNestedSlice(u.Object, []any{map[string]any{"name": "lockstep", "args": []any{"backup", "shop"}}},
			"spec", "template", "spec", "containers"); err != nil {
			t.Fatal(err)
		}
		if got, err := LeftOut(u); err != nil || got != "" {
			t.Errorf("%s without its flag: got %q, %v", file, got, err)
		}
	}
}
