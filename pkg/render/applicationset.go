package render

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/Masterminds/sprig/v3"
	"github.com/gobwas/glob"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// maxGenerated are the Applications of one ApplicationSet.
const maxGenerated = 5_000

// applicationSet makes the Applications of an ApplicationSet. They belong to who deploys it.
func (r *Repository) applicationSet(object desired.Object, instance string, parent *owner) []*owner {
	gap := func(err error) {
		g := desired.Gap{Origin: object.Origin, What: "ApplicationSet " + path.Join(object.GetNamespace(), object.GetName()), Why: err.Error()}
		if parent != nil {
			g.Owner = parent.ID
		}
		r.gaps = append(r.gaps, g)
	}
	g := generation{r: r, object: object.Unstructured, golang: flag(object.Unstructured, "spec", "goTemplate")}
	g.options, _, _ = unstructured.NestedStringSlice(object.Object, "spec", "goTemplateOptions")
	shape, _, _ := unstructured.NestedMap(object.Object, "spec", "template")
	generators, _, _ := unstructured.NestedSlice(object.Object, "spec", "generators")
	if text(object.Unstructured, "spec", "templatePatch") != "" {
		gap(errors.New("its templatePatch is not rendered"))
		return nil
	}
	var owners []*owner
	for _, entry := range generators {
		m, _ := entry.(map[string]any)
		all, err := g.generate(m, 0)
		if err != nil {
			gap(err)
			continue
		}
		for _, params := range all {
			made, err := g.fill(shape, params)
			if err != nil {
				gap(err)
				break
			}
			u := &unstructured.Unstructured{Object: made.(map[string]any)}
			u.SetAPIVersion(argo + "/v1alpha1")
			u.SetKind("Application")
			u.SetNamespace(object.GetNamespace())
			belongs(u, object.Unstructured)
			if u.GetName() == "" {
				gap(errors.New("it makes an Application without a name"))
				break
			}
			owners = append(owners, r.owner(desired.Object{Unstructured: u, Origin: object.Origin}, instance, parent)...)
		}
	}
	return owners
}

// belongs makes an Application that of its ApplicationSet, as Argo CD does: it is deleted when the set makes it no more, and then deletes
// what it deployed, unless the set says that this is preserved.
func belongs(u, set *unstructured.Unstructured) {
	u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: set.GetAPIVersion(), Kind: set.GetKind(), Name: set.GetName()}})
	if len(u.GetFinalizers()) == 0 && !flag(set, "spec", "syncPolicy", "preserveResourcesOnDeletion") {
		u.SetFinalizers([]string{"resources-finalizer.argocd.argoproj.io"})
	}
}

// generation is the making of parameters and of what is filled in with them.
type generation struct {
	r       *Repository
	object  *unstructured.Unstructured
	golang  bool
	options []string
}

// generate makes the parameters of a generator.
func (g *generation) generate(generator map[string]any, depth int) ([]map[string]any, error) {
	if _, ok := generator["selector"]; ok {
		return nil, errors.New("its generator's selector is not rendered")
	}
	for _, kind := range slices.Sorted(maps.Keys(generator)) {
		m, ok := generator[kind].(map[string]any)
		if !ok {
			continue
		}
		if shape, _ := m["template"].(map[string]any); len(shape) > 0 {
			return nil, errors.New("its generator's own template is not rendered")
		}
		var all []map[string]any
		var err error
		switch kind {
		case "list":
			all, err = g.list(m)
		case "git":
			all, err = g.git(m)
		case "matrix":
			all, err = g.matrix(m, depth)
		default:
			return nil, fmt.Errorf("what its generator %s gives is not in the repository", kind)
		}
		if len(all) > maxGenerated {
			return nil, tooMuch("it makes more than %d Applications", maxGenerated)
		}
		return all, err
	}
	return nil, errors.New("it has a generator that is empty")
}

func (g *generation) list(m map[string]any) ([]map[string]any, error) {
	if text(&unstructured.Unstructured{Object: m}, "elementsYaml") != "" {
		return nil, errors.New("its generator's elementsYaml is not rendered")
	}
	elements, _, _ := unstructured.NestedSlice(m, "elements")
	var all []map[string]any
	for _, e := range elements {
		if element, ok := e.(map[string]any); ok {
			all = append(all, g.params(element))
		}
	}
	return all, nil
}

// params are what templates see: as they are, or flat.
func (g *generation) params(values map[string]any) map[string]any {
	if g.golang {
		return values
	}
	flat := map[string]any{}
	var flatten func(prefix string, value any)
	flatten = func(prefix string, value any) {
		switch v := value.(type) {
		case map[string]any:
			for key, value := range v {
				flatten(strings.TrimPrefix(prefix+"."+key, "."), value)
			}
		case []any:
			for i, value := range v {
				flatten(fmt.Sprintf("%s.%d", prefix, i), value)
			}
		default:
			flat[prefix] = fmt.Sprint(v)
		}
	}
	flatten("", values)
	return flat
}

// git finds directories, or files of parameters, in the repository.
func (g *generation) git(m map[string]any) ([]map[string]any, error) {
	u := &unstructured.Unstructured{Object: m}
	if url := text(u, "repoURL"); !g.r.urls[normalURL(url)] {
		return nil, fmt.Errorf("its generator reads %s, which is another repository, or not known to be this one", url)
	}
	if revision := text(u, "revision"); !g.r.isRevision(revision) {
		return nil, fmt.Errorf("its generator reads another revision, %s", revision)
	}
	if text(u, "pathParamPrefix") != "" {
		return nil, errors.New("its generator's pathParamPrefix is not rendered")
	}
	if directories, ok, _ := unstructured.NestedSlice(m, "directories"); ok {
		return g.matching(m, directories, g.r.directoriesOf(), func(dir string) (map[string]any, error) { return map[string]any{}, nil })
	}
	files, _, _ := unstructured.NestedSlice(m, "files")
	return g.matching(m, files, g.r.index.files, g.fileParams)
}

// matching are the parameters of the paths that patterns name and do not exclude.
func (g *generation) matching(m map[string]any, patterns []any, paths []string, read func(string) (map[string]any, error)) ([]map[string]any, error) {
	var included, excluded []glob.Glob
	for _, entry := range patterns {
		p := &unstructured.Unstructured{}
		p.Object, _ = entry.(map[string]any)
		compiled, err := glob.Compile(strings.TrimPrefix(text(p, "path"), "./"), '/')
		if err != nil {
			return nil, fmt.Errorf("its generator's path %q is no pattern", text(p, "path"))
		}
		if flag(p, "exclude") {
			excluded = append(excluded, compiled)
		} else {
			included = append(included, compiled)
		}
	}
	values, _, _ := unstructured.NestedMap(m, "values")
	var all []map[string]any
	for _, name := range paths {
		fits := func(g glob.Glob) bool { return g.Match(name) }
		if !slices.ContainsFunc(included, fits) || slices.ContainsFunc(excluded, fits) {
			continue
		}
		params, err := read(name)
		if err != nil {
			return nil, err
		}
		g.addPath(params, name)
		if len(values) > 0 {
			filled, err := g.fill(values, params)
			if err != nil {
				return nil, err
			}
			if g.golang {
				params["values"] = filled
			} else {
				for key, value := range filled.(map[string]any) {
					params["values."+key] = value
				}
			}
		}
		all = append(all, params)
	}
	return all, nil
}

// fileParams are the content of a file.
func (g *generation) fileParams(file string) (map[string]any, error) {
	data, err := g.r.small(file)
	if err != nil {
		return nil, err
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(data, &values); err != nil {
		return nil, fmt.Errorf("%s is no file of parameters", file)
	}
	return maps.Clone(g.params(values)), nil
}

// addPath tells templates where they are: a directory, or that of a file.
func (g *generation) addPath(params map[string]any, name string) {
	dir, file := name, ""
	if slices.Contains(g.r.index.files, name) {
		dir, file = path.Dir(name), path.Base(name)
	}
	at := map[string]any{"basename": path.Base(dir), "basenameNormalized": normalName(path.Base(dir))}
	if file != "" {
		at["filename"], at["filenameNormalized"] = file, normalName(file)
	}
	segments := strings.Split(dir, "/")
	if g.golang {
		list := make([]any, len(segments))
		for i, s := range segments {
			list[i] = s
		}
		at["path"], at["segments"] = dir, list
		params["path"] = at
		return
	}
	params["path"] = dir
	for key, value := range at {
		params["path."+key] = value
	}
	for i, s := range segments {
		params[fmt.Sprintf("path[%d]", i)] = s
	}
}

// directoriesOf are all that are not hidden.
func (r *Repository) directoriesOf() []string {
	found := map[string]bool{}
	for _, file := range r.index.files {
		for dir := path.Dir(file); dir != "."; dir = path.Dir(dir) {
			if !hidden(dir) {
				found[dir] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// matrix joins each of one generator's with each of another's, which may be filled in with the first's.
func (g *generation) matrix(m map[string]any, depth int) ([]map[string]any, error) {
	generators, _, _ := unstructured.NestedSlice(m, "generators")
	if len(generators) != 2 || depth > 1 {
		return nil, errors.New("its matrix is not of two generators")
	}
	first, _ := generators[0].(map[string]any)
	outer, err := g.generate(first, depth+1)
	if err != nil {
		return nil, err
	}
	var all []map[string]any
	for _, a := range outer {
		filled, err := g.fill(generators[1], a)
		if err != nil {
			return nil, err
		}
		second, _ := filled.(map[string]any)
		inner, err := g.generate(second, depth+1)
		if err != nil {
			return nil, err
		}
		for _, b := range inner {
			joined := maps.Clone(a)
			maps.Copy(joined, b)
			all = append(all, joined)
		}
		if len(all) > maxGenerated {
			return nil, tooMuch("it makes more than %d Applications", maxGenerated)
		}
	}
	return all, nil
}

var placeholder = regexp.MustCompile(`\{\{\s*([^{}]*?)\s*\}\}`)

// fill puts parameters into all texts of a value.
func (g *generation) fill(value any, params map[string]any) (any, error) {
	switch v := value.(type) {
	case map[string]any:
		filled := map[string]any{}
		for key, value := range v {
			k, err := g.text(key, params)
			if err != nil {
				return nil, err
			}
			if filled[k], err = g.fill(value, params); err != nil {
				return nil, err
			}
		}
		return filled, nil
	case []any:
		filled := make([]any, len(v))
		for i, value := range v {
			var err error
			if filled[i], err = g.fill(value, params); err != nil {
				return nil, err
			}
		}
		return filled, nil
	case string:
		return g.text(v, params)
	}
	return value, nil
}

func (g *generation) text(s string, params map[string]any) (string, error) {
	if !strings.Contains(s, "{{") {
		return s, nil
	}
	if !g.golang {
		return placeholder.ReplaceAllStringFunc(s, func(match string) string {
			if value, ok := params[placeholder.FindStringSubmatch(match)[1]]; ok {
				return fmt.Sprint(value)
			}
			return match // as Argo CD leaves it
		}), nil
	}
	funcs := sprig.TxtFuncMap()
	for _, name := range []string{"env", "expandenv", "getHostByName"} {
		delete(funcs, name)
	}
	maps.Copy(funcs, boundedFuncs())
	funcs["normalize"] = normalName
	return inTime(context.Background(), fillTime, func() (string, error) {
		t, err := template.New("").Funcs(funcs).Option(g.options...).Parse(s)
		if err != nil {
			return "", fmt.Errorf("its template does not parse: %w", err)
		}
		var out bytes.Buffer
		if err := t.Execute(&limited{&out}, params); err != nil {
			return "", fmt.Errorf("its template cannot be filled in: %w", err)
		}
		return out.String(), nil
	})
}

// fillTime is how long one text of an ApplicationSet may take.
const fillTime = 5 * time.Second

// limited ends a template that writes too much.
type limited struct{ to *bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.to.Len()+len(p) > maxText {
		return 0, tooMuch("a template makes a text of more than %d bytes", maxText)
	}
	return l.to.Write(p)
}

var notInNames = regexp.MustCompile(`[^a-z0-9.-]+`)

// normalName makes a name that Kubernetes takes.
func normalName(s string) string {
	s = notInNames.ReplaceAllString(strings.ToLower(s), "-")
	return strings.Trim(s[:min(len(s), 253)], "-.")
}
