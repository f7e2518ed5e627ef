package render

import (
	"context"
	"path"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// directory is one that a person or a pipeline applies: its kustomization, or the manifests in it and not below.
func (r *Repository) directory(dir string) *owner {
	o := &owner{Owner: desired.Owner{
		ID: string(desired.Directory) + " " + dir, Kind: desired.Directory, Name: dir, Path: strings.TrimPrefix(dir, "."), Origin: desired.Origin{File: dir},
	}}
	if file := r.fs.kustomizationIn(dir); file != "" {
		o.Origin = desired.Origin{File: file, Line: 1}
		o.reads = r.readsOf(dir)
		o.recipe = func(ctx context.Context) ([]desired.Object, []desired.Gap, error) { return r.build(ctx, As{Path: dir}) }
		return o
	}
	var files []string
	for _, file := range r.index.files {
		if path.Dir(file) == dir && r.isManifest(file) {
			files = append(files, file)
		}
	}
	o.reads = r.readsOf(files...)
	o.recipe = func(ctx context.Context) ([]desired.Object, []desired.Gap, error) {
		return r.manifestsOf(ctx, As{Path: dir}, files)
	}
	return o
}

// manifestsOf renders files of a directory. Those that cannot be read are gaps.
func (r *Repository) manifestsOf(ctx context.Context, as As, files []string) ([]desired.Object, []desired.Gap, error) {
	var gaps []desired.Gap
	as.resources = []string{}
	for _, file := range files {
		if err := r.parses(file); err != nil {
			gaps = append(gaps, desired.Gap{Origin: desired.Origin{File: file}, What: file, Why: strings.TrimSpace(err.Error())})
			continue
		}
		as.resources = append(as.resources, strings.TrimPrefix(strings.TrimPrefix(file, as.Path), "/"))
	}
	if len(as.resources) == 0 {
		return nil, gaps, nil
	}
	objects, more, err := r.build(ctx, as)
	return objects, append(gaps, more...), err
}

func (r *Repository) parses(file string) error {
	data, err := r.small(file)
	if err != nil {
		return err
	}
	for _, text := range splitDocuments(data) {
		var any map[string]any
		if err := yaml.Unmarshal(text, &any); err != nil {
			return err
		}
	}
	return nil
}

// kustomizationOf lists files as kustomize wants it.
func kustomizationOf(files []string) ([]byte, error) {
	return yaml.Marshal(types.Kustomization{
		TypeMeta:  types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind},
		Resources: files, BuildMetadata: []string{types.OriginAnnotations},
	})
}
