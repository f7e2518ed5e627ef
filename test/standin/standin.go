// Package standin does to the objects of Flux and Argo CD what their controllers do: it fetches, renders and applies, and writes the
// same status, one step at a time, so that a test decides who acts when. Rendering and applying are Flux's own packages. What it does
// not do, such as pruning, waves of what is no hook, hooks of other phases than PreSync and PostSync, drift correction and timeouts, no test
// may count on.
package standin

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/fluxcd/pkg/kustomize"
	"github.com/fluxcd/pkg/ssa"
	ssautils "github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Fetch checks a commit or, where that is empty, the head of a branch out, and gives the commit and the directory.
type Fetch func(ctx context.Context, url, branch, commit string) (fetched, dir string, err error)

// Applied is told what is applied, before that is done.
type Applied func(ctx context.Context, by, commit string)

// build renders a directory as Flux does; by is the Kustomization, or an empty object. What it substitutes from the cluster is read with c.
func build(ctx context.Context, c client.Client, root, path string, by unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	dir := filepath.Join(root, path)
	action, err := kustomize.NewGenerator(root, by).WriteFile(dir, kustomize.WithSaveOriginalKustomization())
	if err != nil {
		return nil, fmt.Errorf("generating the kustomization of %s: %w", path, err)
	}
	built, err := kustomize.SecureBuild(root, dir, false)
	if err != nil {
		return nil, fmt.Errorf("building %s: %w", path, err)
	}
	if err := kustomize.CleanDirectory(dir, action); err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for _, r := range built.Resources() {
		if _, err := kustomize.SubstituteVariables(ctx, c, by, r); err != nil {
			return nil, fmt.Errorf("substituting in %s: %w", r.CurId(), err)
		}
		data, err := r.MarshalJSON()
		if err != nil {
			return nil, err
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(data); err != nil {
			return nil, err
		}
		objects = append(objects, u)
	}
	return objects, nil
}

// applyAll applies namespaces and definitions before what needs them to be there.
func applyAll(ctx context.Context, c client.Client, owner ssa.Owner, objects []*unstructured.Unstructured) error {
	var first, rest []*unstructured.Unstructured
	for _, o := range objects {
		if ssautils.IsClusterDefinition(o) {
			first = append(first, o)
		} else {
			rest = append(rest, o)
		}
	}
	manager := ssa.NewResourceManager(c, nil, owner)
	if _, err := manager.ApplyAll(ctx, first, ssa.DefaultApplyOptions()); err != nil {
		return err
	}
	_, err := manager.ApplyAll(ctx, rest, ssa.DefaultApplyOptions())
	return err
}
