package argocd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestBuild: what Argo CD makes of a path is said in Flux's words, or refused by its name.
func TestBuild(t *testing.T) {
	for name, tt := range map[string]struct {
		source, want string
		refused      []string
	}{
		"nothing": {source: "path: app", want: "path: app"},
		"all that is known": {
			source: "path: app\nkustomize: {namePrefix: eu-, nameSuffix: -1x, namespace: shop, components: [../c], version: v5, commonLabels: {}, forceCommonLabels: false," +
				" patches: [{target: {kind: Deployment}, patch: '[]'}], images: ['web:1.2', 'old=r.example.org:5000/new/web', 'db@sha256:abc', 'a=b:2@sha256:def']}",
			want: "path: app\nnamePrefix: eu-\nnameSuffix: -1x\ntargetNamespace: shop\ncomponents: [../c]\npatches: [{target: {kind: Deployment}, patch: '[]'}]\n" +
				"images: [{name: web, newTag: '1.2'}, {name: old, newName: 'r.example.org:5000/new/web'}, {name: db, digest: 'sha256:abc'}," +
				" {name: a, newName: b, newTag: '2', digest: 'sha256:def'}]",
		},
		"what is not": {
			source: "path: app\nhelm: {values: x}\ndirectory: {recurse: true, include: a*}\nkustomize: {replicas: [{name: db, count: 2}], commonLabels: {a: b}, patches: [{path: p.yaml}]}",
			want:   "path: app\npatches: [{path: p.yaml}]",
			refused: []string{
				"sets helm,", "sets directory.include,", "sets kustomize.commonLabels,", "sets a patch with a path or options,", "sets kustomize.replicas,",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var source, want map[string]any
			if err := yaml.Unmarshal([]byte(tt.source), &source); err != nil {
				t.Fatal(err)
			}
			if err := yaml.Unmarshal([]byte(tt.want), &want); err != nil {
				t.Fatal(err)
			}
			app := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"destination": map[string]any{"namespace": "shop"}}}}
			got := build(app, source)
			if diff := cmp.Diff(want, got.Kustomization.Object["spec"]); diff != "" || got.Namespace != "shop" {
				t.Errorf("namespace %q (-want +got):\n%s", got.Namespace, diff)
			}
			for i, refusal := range tt.refused {
				if i >= len(got.Refusals) || !strings.Contains(got.Refusals[i], refusal) {
					t.Fatalf("refused for %q, want %q", got.Refusals, tt.refused)
				}
			}
			if len(got.Refusals) != len(tt.refused) {
				t.Errorf("refused for %q, want %q", got.Refusals, tt.refused)
			}
		})
	}
}
