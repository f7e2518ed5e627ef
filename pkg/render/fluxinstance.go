package render

import (
	"cmp"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// synced are the source and the Kustomization that Flux's operator makes of a FluxInstance, which stand for what Flux's own bootstrap
// writes into the repository; none if the instance syncs nothing. https://fluxoperator.dev/docs/crd/fluxinstance/#sync-configuration
func synced(instance desired.Object) ([]desired.Object, error) {
	sync := &unstructured.Unstructured{}
	sync.Object, _, _ = unstructured.NestedMap(instance.Object, "spec", "sync")
	kind, version := text(sync, "kind"), "source.toolkit.fluxcd.io/v1"
	if kind == "" {
		return nil, nil
	}
	namespace := cmp.Or(instance.GetNamespace(), systemName)
	metadata := map[string]any{"name": cmp.Or(text(sync, "name"), namespace), "namespace": namespace}
	source := map[string]any{"url": text(sync, "url")}
	if kind == "GitRepository" {
		source["ref"] = map[string]any{"name": text(sync, "ref")}
		if branch, ok := strings.CutPrefix(text(sync, "ref"), "refs/heads/"); ok {
			source["ref"] = map[string]any{"branch": branch}
		}
	}
	made := []desired.Object{
		{Origin: instance.Origin, Unstructured: &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": version, "kind": kind, "metadata": metadata, "spec": source,
		}}},
		{Origin: instance.Origin, Unstructured: &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": fluxKustomize + "/v1", "kind": "Kustomization", "metadata": metadata,
			"spec": map[string]any{
				"path": text(sync, "path"), "prune": true, "sourceRef": map[string]any{"kind": kind, "name": metadata["name"]},
			},
		}}},
	}
	patches, _, _ := unstructured.NestedSlice(instance.Object, "spec", "kustomize", "patches")
	var meant []any
	for _, p := range patches { // the others are for Flux's controllers, which are not here
		m, _ := p.(map[string]any)
		target := &unstructured.Unstructured{}
		target.Object, _ = m["target"].(map[string]any)
		if text(target, "kind") == kind || text(target, "kind") == "Kustomization" {
			meant = append(meant, p)
		}
	}
	if len(meant) == 0 {
		return made, nil
	}
	return kustomized(map[string]any{"patches": meant}, made)
}
