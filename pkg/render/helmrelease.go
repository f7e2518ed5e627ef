package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	ssautil "github.com/fluxcd/pkg/ssa/utils"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// helmRelease fills in what a HelmRelease of Flux says.
func (r *Repository) helmRelease(o *owner) {
	u := o.Object
	o.Target = cmp.Or(text(u, "spec", "targetNamespace"), o.Namespace)
	o.Prune, o.Suspended = true, flag(u, "spec", "suspend")
	o.Force = flag(u, "spec", "upgrade", "force")
	o.DependsOn = dependencies(o, "spec", "dependsOn")
	if remote := text(u, "spec", "kubeConfig", "secretRef", "name"); remote != "" {
		o.Cluster = remoteCluster(o.Cluster, remote)
	}
	dir, err := r.chartOf(o)
	if err != nil {
		o.gaps = append(o.gaps, o.gap(err))
		return
	}
	s := sourceOf(u, "spec", "chart", "spec", "sourceRef")
	if o.sight, err = r.sightOf(o, source{s.kind, cmp.Or(s.namespace, o.Namespace), s.name}); err != nil {
		o.gaps = append(o.gaps, o.gap(err))
		return
	}
	o.Path = strings.Trim(path.Join("/", dir), "/")
	files, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "chart", "spec", "valuesFiles")
	o.reads = r.chartReads(o.dir(), files)
	refs, _, _ := unstructured.NestedSlice(u.Object, "spec", "valuesFrom")
	o.values = &values{from: valuesRefs(o, refs)}
	o.recipe = func(ctx context.Context) ([]desired.Object, []desired.Gap, error) {
		in, err := r.release(o, files, refs)
		if err != nil {
			return nil, r.missed(o), err
		}
		objects, gaps, err := r.helm(ctx, in)
		if err == nil {
			objects, err = postRender(u, objects)
		}
		return objects, append(gaps, r.missed(o)...), err
	}
}

// chartOf is the directory of a HelmRelease's chart, if it is in the repository.
func (r *Repository) chartOf(o *owner) (string, error) {
	if name := text(o.Object, "spec", "chartRef", "name"); name != "" {
		return "", fmt.Errorf("its chart is in %s %s and not in the repository", text(o.Object, "spec", "chartRef", "kind"), name)
	}
	name := text(o.Object, "spec", "chart", "spec", "chart")
	s := sourceOf(o.Object, "spec", "chart", "spec", "sourceRef")
	s.namespace = cmp.Or(s.namespace, o.Namespace)
	if s.kind == "HelmRepository" {
		return "", fmt.Errorf("its chart %s is in %s and not in the repository", name, s)
	}
	return name, r.isHere(o, s)
}

// chartReads are the files of a chart, of what it depends on beside it, and of values.
func (r *Repository) chartReads(dir string, files []string) *reads {
	s := &reads{paths: map[string]bool{}}
	var visit func(dir string)
	visit = func(dir string) {
		if dir = path.Clean(dir); s.paths[dir] || strings.HasPrefix(dir, "..") {
			return
		}
		s.paths[dir] = true
		var c struct {
			Dependencies []struct{ Repository string }
		}
		if data, err := r.small(path.Join(dir, "Chart.yaml")); err == nil && yaml.Unmarshal(data, &c) == nil {
			for _, d := range c.Dependencies {
				if local, ok := strings.CutPrefix(d.Repository, "file://"); ok {
					visit(path.Join(dir, local))
				}
			}
		}
	}
	visit(dir)
	for _, f := range files {
		s.paths[path.Clean(f)] = true
	}
	for _, link := range r.index.links {
		for p := range s.paths {
			s.unsure = s.unsure || within(link, p) || within(p, link)
		}
	}
	return s
}

// release puts together what Flux gives to Helm.
func (r *Repository) release(o *owner, files []string, refs []any) (install, error) {
	u := o.Object
	name := o.Name
	if target := text(u, "spec", "targetNamespace"); target != "" {
		name = target + "-" + name
	}
	in := install{
		dir: o.dir(), name: cmp.Or(text(u, "spec", "releaseName"), shortName(name)), namespace: o.Target,
		skipCRDs: text(u, "spec", "install", "crds") == "Skip", kubeVersion: r.options.KubeVersion, values: map[string]any{}, sight: o.sight,
	}
	if len(files) > 0 {
		in.defaults = map[string]any{}
		for _, file := range files {
			data, err := r.guard(r.fs.over).seeing(o.sight).read(r.file(path.Clean(file)))
			if err != nil && flag(u, "spec", "chart", "spec", "ignoreMissingValuesFiles") {
				continue
			}
			if err != nil {
				return in, fmt.Errorf("its values file %s cannot be read", file)
			}
			if err := merge(in.defaults, data); err != nil {
				return in, fmt.Errorf("its values file %s: %w", file, err)
			}
		}
	}
	for i, ref := range o.values.from {
		m, _ := refs[i].(map[string]any)
		if err := ref.into(in.values, m); err != nil {
			return in, err
		}
	}
	inline, _, _ := unstructured.NestedMap(u.Object, "spec", "values")
	in.values = loader.MergeMaps(in.values, inline)
	return in, nil
}

// shortName is how Flux makes a release's name that is too long.
func shortName(name string) string {
	const longest = 53
	if len(name) <= longest {
		return name
	}
	return name[:longest-13] + "-" + hexSum(name)[:12]
}

// into adds the values of a ConfigMap or Secret, as a file of values or as one value.
func (ref valuesRef) into(values map[string]any, m map[string]any) error {
	key, _ := m["valuesKey"].(string)
	target, _ := m["targetPath"].(string)
	key = cmp.Or(key, "values.yaml")
	data, ok := ref.data[key]
	switch {
	case slices.Contains(ref.encrypted, key):
		return fmt.Errorf("its values in %s cannot be read", ref)
	case !ok && ref.optional:
		return nil
	case !ok && ref.found:
		return fmt.Errorf("its values in %s are not there: it has no key %s", ref, key)
	case !ok:
		return fmt.Errorf("its values in %s are not in the repository", ref)
	case target == "":
		if err := merge(values, []byte(data)); err != nil {
			return fmt.Errorf("its values in %s are no YAML", ref)
		}
		return nil
	}
	if len(data) > 1 && (data[0] == '"' && strings.HasSuffix(data, `"`) || data[0] == '\'' && strings.HasSuffix(data, `'`)) {
		return strvals.ParseIntoString(target+"="+data[1:len(data)-1], values)
	}
	if err := strvals.ParseInto(target+"="+data, values); err != nil {
		return fmt.Errorf("its value in %s cannot be put at %s", ref, target)
	}
	return nil
}

// merge adds a file of values to those before.
func merge(into map[string]any, data []byte) error {
	if err := checkAliases(data, defaultBounds.nodes); err != nil {
		return err
	}
	more := map[string]any{}
	if err := yaml.Unmarshal(data, &more); err != nil {
		return err
	}
	for key, value := range loader.MergeMaps(into, more) {
		into[key] = value
	}
	return nil
}

// postRender changes the objects of a release as its own kustomizations and its common metadata say.
func postRender(u *unstructured.Unstructured, objects []desired.Object) ([]desired.Object, error) {
	renderers, _, _ := unstructured.NestedSlice(u.Object, "spec", "postRenderers")
	for _, p := range renderers {
		m, _ := p.(map[string]any)
		kustomization, ok := m["kustomize"].(map[string]any)
		if !ok {
			return nil, errors.New("it has a post-renderer that is not known")
		}
		var err error
		if objects, err = kustomized(kustomization, objects); err != nil {
			return nil, err
		}
	}
	labels, _, _ := unstructured.NestedStringMap(u.Object, "spec", "commonMetadata", "labels")
	annotations, _, _ := unstructured.NestedStringMap(u.Object, "spec", "commonMetadata", "annotations")
	for _, o := range objects {
		ssautil.SetCommonMetadata([]*unstructured.Unstructured{o.Unstructured}, labels, annotations)
	}
	return objects, nil
}

// kustomized runs the objects through a kustomization of patches and images.
func kustomized(kustomization map[string]any, objects []desired.Object) ([]desired.Object, error) {
	memory := filesys.MakeFsInMemory()
	m := map[string]any{"buildMetadata": []any{types.OriginAnnotations}}
	for _, field := range []string{"patches", "patchesStrategicMerge", "patchesJson6902", "images"} {
		if v, ok := kustomization[field]; ok {
			m[field] = v
		}
	}
	var files []any
	from := map[string]desired.Origin{}
	for i, o := range objects {
		data, err := yaml.Marshal(o.Object)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("%d.yaml", i)
		if err := memory.WriteFile(name, data); err != nil {
			return nil, err
		}
		files = append(files, name)
		from[name] = o.Origin
	}
	m["resources"] = files
	data, err := yaml.Marshal(m)
	if err == nil {
		err = memory.WriteFile("kustomization.yaml", data)
	}
	if err != nil {
		return nil, err
	}
	var k types.Kustomization
	if err := k.Unmarshal(data); err != nil {
		return nil, err
	}
	for _, p := range references(&k) {
		if isRemote(p) {
			return nil, fmt.Errorf("%w: %q", ErrRemote, p)
		}
	}
	schemas.RLock()
	defer schemas.RUnlock()
	openapi.Schema()
	built, err := krusty.MakeKustomizer(&krusty.Options{LoadRestrictions: types.LoadRestrictionsNone, PluginConfig: types.DisabledPluginConfig()}).Run(memory, ".")
	if err != nil {
		return nil, fmt.Errorf("its post-renderer fails: %w", err)
	}
	var origins []desired.Origin
	for _, resource := range built.Resources() {
		o, err := resource.GetOrigin()
		if err != nil || o == nil {
			origins = append(origins, desired.Origin{})
		} else {
			origins = append(origins, from[o.Path])
		}
		if err := resource.SetOrigin(nil); err != nil {
			return nil, err
		}
	}
	plain, err := convert(built)
	if err != nil {
		return nil, err
	}
	out := make([]desired.Object, len(plain))
	for i, u := range plain {
		out[i] = desired.Object{Unstructured: u, Origin: origins[i]}
	}
	return out, nil
}
