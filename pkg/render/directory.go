package render

import (
	"bytes"
	"cmp"
	"context"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// directory is one that a person or a pipeline applies: its kustomization, or the manifests in it and not below.
func (r *Repository) directory(dir string) *owner {
	o := &owner{Owner: desired.Owner{
		ID: string(desired.Directory) + " " + dir, Kind: desired.Directory, Name: dir, Path: strings.TrimPrefix(dir, "."), Origin: desired.Origin{File: dir},
	}}
	if file := r.kustomizationIn(dir); file != "" {
		o.Origin = desired.Origin{File: file, Line: 1}
		o.reads, o.Target = r.readsOf(dir), r.namespaceOf(dir)
		o.recipe = func(ctx context.Context) ([]desired.Object, []desired.Gap, error) {
			return r.build(ctx, As{Path: dir}, nil)
		}
		return o
	}
	var files []string
	for _, file := range r.followedFiles() {
		if path.Dir(file) == dir && r.isManifest(file) {
			files = append(files, file)
		}
	}
	o.reads = r.readsOf(files...)
	o.recipe = func(ctx context.Context) ([]desired.Object, []desired.Gap, error) {
		return r.manifestsOf(ctx, files, "")
	}
	return o
}

// manifestsOf reads manifests as they are. Files that cannot be read are gaps.
func (r *Repository) manifestsOf(ctx context.Context, files []string, namespace string) ([]desired.Object, []desired.Gap, error) {
	var objects []desired.Object
	var plain []*unstructured.Unstructured
	var gaps []desired.Gap
	for _, file := range files {
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		read, nameless, err := r.objectsIn(file)
		gaps = append(gaps, nameless...)
		if err != nil {
			gaps = append(gaps, desired.Gap{Origin: desired.Origin{File: file}, What: file, Why: strings.TrimSpace(r.fs.relative(err).Error())})
			continue
		}
		for _, o := range read {
			objects, plain = append(objects, o), append(plain, o.Unstructured)
		}
	}
	setNamespaces(plain, cmp.Or(namespace, defaultNamespace))
	return objects, gaps, nil
}

// objectsIn reads one file. Documents that are no objects of a cluster do not count; those without a name are gaps.
func (r *Repository) objectsIn(file string) ([]desired.Object, []desired.Gap, error) {
	data, err := r.small(file)
	if err != nil {
		return nil, nil, err
	}
	var objects []desired.Object
	var nameless []desired.Gap
	line := 1
	for _, text := range splitDocuments(data) {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &u.Object); err != nil {
			return nil, nil, err
		}
		origin := desired.Origin{File: file, Line: line}
		if found := documentsOf(text); len(found) > 0 {
			origin.Line = line + found[0].line - 1
		}
		line += bytes.Count(text, []byte("\n"))
		if err := eachObject(u, func(u *unstructured.Unstructured) {
			if u.GetName() == "" {
				nameless = append(nameless, withoutName(u, origin))
				return
			}
			objects = append(objects, desired.Object{Unstructured: u, Origin: origin})
		}); err != nil {
			return nil, nil, err
		}
	}
	return objects, nameless, nil
}

// withoutName says of an object that it has no name, as where the cluster makes one.
func withoutName(u *unstructured.Unstructured, at desired.Origin) desired.Gap {
	return desired.Gap{Origin: at, What: strings.TrimSpace(u.GetKind() + " " + u.GetGenerateName()), Why: "it has no name: what Git holds must be found again by its name"}
}

// eachObject calls for an object, or for those of a list.
func eachObject(u *unstructured.Unstructured, call func(*unstructured.Unstructured)) error {
	if u.GetKind() == "" || u.GetAPIVersion() == "" || ofTool(u.GetAPIVersion()) {
		return nil
	}
	if u.IsList() {
		return u.EachListItem(func(item runtime.Object) error {
			if o, ok := item.(*unstructured.Unstructured); ok {
				return eachObject(o, call)
			}
			return nil
		})
	}
	call(u)
	return nil
}

// ofTool says of an API version that what has it is read by a tool, and never brought to a cluster.
func ofTool(apiVersion string) bool {
	group, _, _ := strings.Cut(apiVersion, "/")
	switch group {
	case "kind.x-k8s.io", "k3d.io", "eksctl.io", "ctlptl.dev", "skaffold", "backstage.io", "kustomize.config.k8s.io", "kubeadm.k8s.io", "kubelet.config.k8s.io",
		"kubeproxy.config.k8s.io", "kubescheduler.config.k8s.io", "apiserver.config.k8s.io", "audit.k8s.io", "client.authentication.k8s.io":
		return true
	}
	return false
}
