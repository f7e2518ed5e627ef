package standin

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/ssa"
	ssautils "github.com/fluxcd/pkg/ssa/utils"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// Helm stands in for helm-controller, for charts that are in the Git repository of their sourceRef. Helm's own engine renders them; what
// Helm does with hooks and with releases is not stood in for.
type Helm struct {
	Client client.Client
	Fetch  Fetch
}

// Step installs or upgrades every HelmRelease whose source has been fetched.
func (h *Helm) Step(ctx context.Context) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "helm.toolkit.fluxcd.io", Version: "v2", Kind: "HelmReleaseList"})
	if err := h.Client.List(ctx, list); err != nil {
		return err
	}
	for i := range list.Items {
		if err := h.reconcile(ctx, &list.Items[i]); err != nil {
			return err
		}
	}
	return nil
}

func (h *Helm) reconcile(ctx context.Context, u *unstructured.Unstructured) error {
	field := func(path ...string) string {
		s, _, _ := unstructured.NestedString(u.Object, append([]string{"spec", "chart", "spec"}, path...)...)
		return s
	}
	source := &sourcev1.GitRepository{}
	if err := h.Client.Get(ctx, client.ObjectKey{Namespace: field("sourceRef", "namespace"), Name: field("sourceRef", "name")}, source); err != nil {
		return err
	}
	if source.Status.Artifact == nil {
		return nil
	}
	_, commit, err := revision.Parse(source.Status.Artifact.Revision)
	if err != nil {
		return err
	}
	_, dir, err := h.Fetch(ctx, source.Spec.URL, "", commit)
	if err != nil {
		return err
	}
	values, _, _ := unstructured.NestedMap(u.Object, "spec", "values")
	objects, version, err := chart(ctx, filepath.Join(dir, filepath.FromSlash(field("chart"))), u.GetName(), u.GetNamespace(), values)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if o.GetNamespace() == "" {
			o.SetNamespace(u.GetNamespace())
		}
		labels := o.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels["helm.toolkit.fluxcd.io/name"], labels["helm.toolkit.fluxcd.io/namespace"] = u.GetName(), u.GetNamespace()
		o.SetLabels(labels)
	}
	if err := applyAll(ctx, h.Client, ssa.Owner{Field: "helm-controller", Group: "helm.toolkit.fluxcd.io"}, objects); err != nil {
		return err
	}
	before := u.DeepCopy()
	u.Object["status"] = map[string]any{
		"observedGeneration": u.GetGeneration(), "storageNamespace": u.GetNamespace(), "lastAttemptedRevision": version + "+" + commit[:12],
		"conditions": []any{map[string]any{"type": "Ready", "status": "True", "reason": "InstallSucceeded", "message": "", "lastTransitionTime": stamp()}},
		"history":    []any{map[string]any{"chartVersion": version + "+" + commit[:12], "name": u.GetName(), "namespace": u.GetNamespace(), "status": "deployed"}},
	}
	return h.Client.Status().Patch(ctx, u, client.MergeFrom(before))
}

// chart renders a chart, and gives its version.
func chart(ctx context.Context, dir, name, namespace string, values map[string]any) ([]*unstructured.Unstructured, string, error) {
	c, err := loader.LoadDir(dir)
	if err != nil {
		return nil, "", err
	}
	all, err := util.ToRenderValues(c, values, common.ReleaseOptions{Name: name, Namespace: namespace, Revision: 1, IsInstall: true}, common.DefaultCapabilities)
	if err != nil {
		return nil, "", err
	}
	files, err := engine.Engine{}.RenderWithContext(ctx, c, all)
	if err != nil {
		return nil, "", err
	}
	var objects []*unstructured.Unstructured
	for file, text := range files {
		if !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(file)) {
			continue
		}
		found, err := ssautils.ReadObjects(strings.NewReader(text))
		if err != nil {
			return nil, "", fmt.Errorf("reading what %s gives: %w", file, err)
		}
		objects = append(objects, found...)
	}
	return objects, c.Metadata.Version, nil
}
