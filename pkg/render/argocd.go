package render

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gobwas/glob"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// application fills in what an Application of Argo CD says.
func (r *Repository) application(o *owner) {
	u := o.Object
	o.Target = text(u, "spec", "destination", "namespace")
	o.Prune = flag(u, "spec", "syncPolicy", "automated", "prune")
	options, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "syncPolicy", "syncOptions")
	o.Force = slices.Contains(options, "Replace=true") || slices.Contains(options, "Force=true")
	o.Suspended = u.GetAnnotations()["argocd.argoproj.io/skip-reconcile"] == "true"
	server, name := text(u, "spec", "destination", "server"), text(u, "spec", "destination", "name")
	if remote := cmp.Or(name, server); remote != "" && name != "in-cluster" && server != "https://kubernetes.default.svc" {
		o.Cluster = remoteCluster(o.Cluster, remote)
	}
	sources := applicationSources(u)
	var here []applicationSource
	o.reads = &reads{paths: map[string]bool{}}
	for _, s := range sources {
		if s.path == "" && s.chart == "" {
			continue // only for values
		}
		if err := r.isApplicationHere(s); err != nil {
			o.gaps = append(o.gaps, o.gap(err))
			continue
		}
		o.Path = cmp.Or(o.Path, strings.TrimPrefix(s.path, "."))
		s, files, err := r.overridden(s, o.Name)
		if err != nil {
			o.gaps = append(o.gaps, o.gap(err))
			continue
		}
		here = append(here, s)
		o.reads.add(r.applicationReads(s, sources))
		for _, file := range files {
			o.reads.paths[file] = true
		}
	}
	if len(sources) == 0 {
		o.gaps = append(o.gaps, o.gap(errors.New("it names no source")))
	}
	o.recipe = func(ctx context.Context) ([]desired.Object, []desired.Gap, error) {
		var objects []desired.Object
		var gaps []desired.Gap
		for _, s := range here {
			more, missing, err := r.applicationSource(ctx, o, s, sources)
			objects, gaps = append(objects, more...), append(gaps, missing...)
			if err != nil {
				gaps = append(gaps, o.gap(err))
			}
		}
		return objects, gaps, ctx.Err()
	}
}

// applicationSource is one of an Application.
type applicationSource struct {
	url, path, chart, ref    string
	revision                 string
	directory, kustomize     map[string]any
	helm                     map[string]any
	hasKustomize, hasHelm    bool
	hasDirectory, hasPlugins bool
	// written is all of it.
	written map[string]any
}

func applicationSources(u *unstructured.Unstructured) []applicationSource {
	list, _, _ := unstructured.NestedSlice(u.Object, "spec", "sources")
	if one, ok, _ := unstructured.NestedMap(u.Object, "spec", "source"); ok && len(list) == 0 {
		list = []any{one}
	}
	var sources []applicationSource
	for _, entry := range list {
		if m, ok := entry.(map[string]any); ok {
			sources = append(sources, applicationSourceOf(m))
		}
	}
	return sources
}

func applicationSourceOf(m map[string]any) applicationSource {
	s := applicationSource{written: m}
	s.url, _ = m["repoURL"].(string)
	s.chart, _ = m["chart"].(string)
	s.ref, _ = m["ref"].(string)
	s.revision, _ = m["targetRevision"].(string)
	if p, ok := m["path"].(string); ok && p != "" {
		s.path = path.Clean(strings.TrimLeft(p, "/"))
	}
	s.directory, s.hasDirectory = m["directory"].(map[string]any)
	s.kustomize, s.hasKustomize = m["kustomize"].(map[string]any)
	s.helm, s.hasHelm = m["helm"].(map[string]any)
	_, s.hasPlugins = m["plugin"]
	return s
}

// overridden is a source as files beside its manifests change it, which Argo CD's image updater writes: for all Applications, and for one.
func (r *Repository) overridden(s applicationSource, application string) (applicationSource, []string, error) {
	var files []string
	for _, name := range []string{".argocd-source.yaml", ".argocd-source-" + application + ".yaml"} {
		file := path.Join(s.path, name)
		if _, there := r.lies(file); !there {
			continue
		}
		data, err := r.small(file)
		change := map[string]any{}
		if err == nil {
			err = yaml.Unmarshal(data, &change)
		}
		if err != nil {
			return s, nil, &Error{File: file, Err: r.fs.relative(err)}
		}
		files = append(files, file)
		changed := mergePatch(s.written, change)
		for _, field := range []string{"repoURL", "path", "chart", "ref", "targetRevision"} { // where it is stays
			delete(changed, field)
			if v, ok := s.written[field]; ok {
				changed[field] = v
			}
		}
		s = applicationSourceOf(changed)
	}
	if s.hasPlugins {
		return s, nil, errors.New("it is made by a plugin, and plugins are not run")
	}
	return s, files, nil
}

// mergePatch is the JSON merge patch of RFC 7396. It changes neither of them.
func mergePatch(to, patch map[string]any) map[string]any {
	merged := maps.Clone(to)
	for key, value := range patch {
		change, isMap := value.(map[string]any)
		switch {
		case value == nil:
			delete(merged, key)
		case isMap:
			before, _ := merged[key].(map[string]any)
			if before == nil {
				before = map[string]any{}
			}
			merged[key] = mergePatch(before, change)
		default:
			merged[key] = value
		}
	}
	return merged
}

// isApplicationHere is nil if a source is a directory of the repository itself.
func (r *Repository) isApplicationHere(s applicationSource) error {
	switch {
	case s.chart != "":
		return fmt.Errorf("its chart %s is in %s and not in the repository", s.chart, s.url)
	case !r.urls[normalURL(s.url)]:
		return fmt.Errorf("its source %s is another repository, or not known to be this one", s.url)
	case !r.isRevision(s.revision):
		return otherRevision("source", "at another revision", s.revision)
	case !filepath.IsLocal(filepath.FromSlash(cmp.Or(s.path, "."))):
		return fmt.Errorf("its path %s %w", s.path, ErrRemote)
	case s.hasPlugins:
		return errors.New("it is made by a plugin, and plugins are not run")
	}
	return nil
}

// isRevision says whether what Argo CD follows may be the commit at hand: what it is called, the default branch, or what most of the
// Applications follow.
func (r *Repository) isRevision(name string) bool {
	name = strings.TrimPrefix(name, "refs/heads/")
	return slices.Contains(r.options.Revisions, name) || name == "" || name == "HEAD" || name == "main" || name == "master" || r.branches[name] || name == r.followedRevision
}

// otherRevision is the error of what is not of the commit at hand. The name is a stranger's, and in no command that one may copy.
func otherRevision(of, is, revision string) error {
	return fmt.Errorf("its %s is %s, %s (to check that one: --head)", of, is, revision)
}

// learnRevision takes for the branch at hand the one that most of the Applications of the repository follow, if none follows the default
// one, or what most call theirs.
func (r *Repository) learnRevision(written []desired.Object) {
	follow := map[string]int{}
	for _, w := range written {
		sources := applicationSources(w.Unstructured)
		if template, ok, _ := unstructured.NestedMap(w.Object, "spec", "template"); ok {
			sources = append(sources, applicationSources(&unstructured.Unstructured{Object: template})...)
		}
		for _, s := range sources {
			if !r.urls[normalURL(s.url)] || s.chart != "" || strings.Contains(s.revision, "{{") {
				continue
			}
			if r.isRevision(s.revision) {
				return
			}
			follow[strings.TrimPrefix(s.revision, "refs/heads/")]++
		}
	}
	names := slices.SortedFunc(maps.Keys(follow), func(a, b string) int { return cmp.Or(follow[b]-follow[a], strings.Compare(a, b)) })
	if len(names) == 1 || len(names) > 1 && follow[names[0]] > follow[names[1]] {
		r.followedRevision = names[0]
	}
}

// learnURL takes for the repository the one whose paths the Applications in it have, if none is known by its URL.
func (r *Repository) learnURL(written []desired.Object) {
	there, wrong := map[string]int{}, map[string]bool{}
	for _, w := range written {
		sources := applicationSources(w.Unstructured)
		if template, ok, _ := unstructured.NestedMap(w.Object, "spec", "template"); ok {
			sources = append(sources, applicationSources(&unstructured.Unstructured{Object: template})...)
		}
		for _, s := range sources {
			url := normalURL(s.url)
			if r.urls[url] {
				return
			}
			if s.chart != "" || s.path == "" || s.path == "." || strings.Contains(s.path+s.url, "{{") {
				continue
			}
			if _, ok := r.lies(s.path); !ok {
				wrong[url] = true
			}
			there[url]++
		}
	}
	best := ""
	for url, n := range there {
		switch {
		case wrong[url]:
		case n > there[best]:
			best = url
		case n == there[best]:
			return // nobody knows which
		}
	}
	if best != "" {
		r.urls[best] = true
	}
}

func (s *reads) add(more *reads) {
	for p := range more.paths {
		s.paths[p] = true
	}
	s.unsure = s.unsure || more.unsure
}

// isChart and the kustomization say what a directory is, as Argo CD finds out.
func (r *Repository) isChart(s applicationSource) bool {
	return s.hasHelm || !s.hasKustomize && !s.hasDirectory && r.kustomizationIn(s.path) == "" && slices.Contains(r.index.charts, s.path)
}

func (r *Repository) applicationReads(s applicationSource, all []applicationSource) *reads {
	if !r.isChart(s) {
		start := []string{s.path}
		for _, c := range stringsIn(s.kustomize, "components") {
			start = append(start, path.Join(s.path, c))
		}
		return r.readsOf(start...)
	}
	var files []string
	for _, f := range stringsIn(s.helm, "valueFiles") {
		if file, err := r.valueFile(f, s, all); err == nil {
			files = append(files, file)
		}
	}
	return r.chartReads(s.path, files)
}

func stringsIn(m map[string]any, field string) []string {
	list, _, _ := unstructured.NestedStringSlice(m, field)
	return list
}

func (r *Repository) applicationSource(ctx context.Context, o *owner, s applicationSource, all []applicationSource) ([]desired.Object, []desired.Gap, error) {
	switch {
	case r.isChart(s):
		in, err := r.applicationChart(o, s, all)
		if err != nil {
			return nil, nil, err
		}
		return r.helm(ctx, in)
	case s.hasKustomize || !s.hasDirectory && r.kustomizationIn(s.path) != "":
		return r.build(ctx, As{Path: s.path, Namespace: o.Target, change: func(k map[string]any) error { return kustomizeOptions(r, s, k) }}, nil)
	default:
		files, gaps, err := r.applicationFiles(s)
		if err != nil {
			return nil, nil, err
		}
		objects, more, err := r.manifestsOf(ctx, files, o.Target)
		return objects, append(gaps, more...), err
	}
}

// applicationFiles are the manifests of a directory.
func (r *Repository) applicationFiles(s applicationSource) ([]string, []desired.Gap, error) {
	if isDir, _ := r.lies(s.path); !isDir {
		return nil, nil, fmt.Errorf("its directory %s is not in the repository", s.path)
	}
	recurse, _ := s.directory["recurse"].(bool)
	match := func(field string, fallback bool) (func(string) bool, error) {
		pattern, _ := s.directory[field].(string)
		if pattern == "" {
			return func(string) bool { return fallback }, nil
		}
		g, err := glob.Compile(pattern)
		if err != nil {
			return nil, fmt.Errorf("its directory.%s is no pattern", field)
		}
		return g.Match, nil
	}
	included, err := match("include", true)
	if err != nil {
		return nil, nil, err
	}
	excluded, err := match("exclude", false)
	if err != nil {
		return nil, nil, err
	}
	var files []string
	var gaps []desired.Gap
	for _, file := range below(r.followedFiles(), s.path) {
		name := strings.TrimPrefix(strings.TrimPrefix(file, strings.TrimPrefix(s.path, ".")), "/")
		if !recurse && strings.Contains(name, "/") || !included(name) || excluded(name) || !r.isManifest(file) {
			continue
		}
		files = append(files, file)
	}
	if jsonnet, _ := s.directory["jsonnet"].(map[string]any); len(jsonnet) > 0 {
		gaps = append(gaps, desired.Gap{Origin: desired.Origin{File: s.path}, What: s.path, Why: "Jsonnet is not rendered"})
	}
	return files, gaps, nil
}

// applicationChart puts together what Argo CD gives to Helm.
func (r *Repository) applicationChart(o *owner, s applicationSource, all []applicationSource) (install, error) {
	h := &unstructured.Unstructured{Object: s.helm}
	in := install{
		dir: s.path, name: cmp.Or(text(h, "releaseName"), o.Name), namespace: cmp.Or(text(h, "namespace"), o.Target), values: map[string]any{},
		skipCRDs: flag(h, "skipCrds"), kubeVersion: cmp.Or(text(h, "kubeVersion"), r.options.KubeVersion), apiVersions: stringsIn(s.helm, "apiVersions"),
	}
	for _, f := range stringsIn(s.helm, "valueFiles") {
		file, err := r.valueFile(f, s, all)
		if err != nil {
			return in, err
		}
		data, err := r.small(file)
		if err != nil && flag(h, "ignoreMissingValueFiles") {
			continue
		}
		if err != nil {
			return in, fmt.Errorf("its values file %s cannot be read", f)
		}
		if err := merge(in.values, data); err != nil {
			return in, fmt.Errorf("its values file %s: %w", f, err)
		}
	}
	if object, ok := s.helm["valuesObject"].(map[string]any); ok {
		in.values = loader.MergeMaps(in.values, object)
	} else if err := merge(in.values, []byte(text(h, "values"))); err != nil {
		return in, fmt.Errorf("its values: %w", err)
	}
	return in, r.parameters(s, in.values)
}

// parameters are set as by --set, --set-string and --set-file.
func (r *Repository) parameters(s applicationSource, values map[string]any) error {
	list, _, _ := unstructured.NestedSlice(s.helm, "parameters")
	for _, entry := range list {
		p := &unstructured.Unstructured{}
		p.Object, _ = entry.(map[string]any)
		set := strvals.ParseInto
		if flag(p, "forceString") {
			set = strvals.ParseIntoString
		}
		if err := set(text(p, "name")+"="+commas(text(p, "value")), values); err != nil {
			return fmt.Errorf("its parameter %s cannot be set", text(p, "name"))
		}
	}
	list, _, _ = unstructured.NestedSlice(s.helm, "fileParameters")
	for _, entry := range list {
		p := &unstructured.Unstructured{}
		p.Object, _ = entry.(map[string]any)
		read := func(name []rune) (any, error) {
			data, err := r.small(path.Join(s.path, string(name)))
			return string(data), err
		}
		if err := strvals.ParseIntoFile(text(p, "name")+"="+text(p, "path"), values, read); err != nil {
			return fmt.Errorf("its parameter %s cannot be read from %s", text(p, "name"), text(p, "path"))
		}
	}
	return nil
}

// commas escapes those that are in no list, as Argo CD does.
func commas(value string) string {
	if strings.HasPrefix(value, "{") && strings.HasSuffix(value, "}") {
		return value
	}
	return strings.ReplaceAll(strings.ReplaceAll(value, `\,`, ","), ",", `\,`)
}

// valueFile is the path of a values file, beside the chart, from the root, or in another source.
func (r *Repository) valueFile(name string, s applicationSource, all []applicationSource) (string, error) {
	switch {
	case strings.Contains(name, "://"):
		return "", fmt.Errorf("its values file %s %w", name, ErrRemote)
	case strings.HasPrefix(name, "$"):
		ref, rest, _ := strings.Cut(name[1:], "/")
		for _, other := range all {
			if other.ref != ref || ref == "" {
				continue
			}
			if !r.urls[normalURL(other.url)] {
				return "", fmt.Errorf("its values file %s is in %s and not in the repository", name, other.url)
			}
			if !r.isRevision(other.revision) {
				return "", otherRevision("values file "+name, "at another revision", other.revision)
			}
			return path.Clean(rest), nil
		}
		return "", fmt.Errorf("its values file %s is in no source", name)
	case strings.HasPrefix(name, "/"):
		return path.Clean(name[1:]), nil
	}
	return path.Join(s.path, name), nil
}

// kustomizeOptions does to a kustomization what Argo CD does with `kustomize edit`.
func kustomizeOptions(r *Repository, s applicationSource, k map[string]any) error {
	u := &unstructured.Unstructured{Object: s.kustomize}
	for _, field := range []string{"namePrefix", "nameSuffix", "namespace"} {
		if v := text(u, field); v != "" {
			k[field] = v
		}
	}
	labels, _, _ := unstructured.NestedMap(s.kustomize, "commonLabels")
	switch {
	case len(labels) == 0:
	case flag(u, "labelWithoutSelector"):
		k["labels"] = listOf(k["labels"], map[string]any{"pairs": labels, "includeTemplates": flag(u, "labelIncludeTemplates")})
	default:
		addTo(k, "commonLabels", labels)
	}
	annotations, _, _ := unstructured.NestedMap(s.kustomize, "commonAnnotations")
	addTo(k, "commonAnnotations", annotations)
	for _, image := range stringsIn(s.kustomize, "images") {
		k["images"] = replaceNamed(k["images"], imageOf(image))
	}
	replicas, _, _ := unstructured.NestedSlice(s.kustomize, "replicas")
	for _, entry := range replicas {
		if m, ok := entry.(map[string]any); ok {
			k["replicas"] = replaceNamed(k["replicas"], m)
		}
	}
	patches, _, _ := unstructured.NestedSlice(s.kustomize, "patches")
	k["patches"] = listOf(k["patches"], patches...)
	for _, c := range stringsIn(s.kustomize, "components") {
		if _, ok := r.lies(path.Join(s.path, c)); !ok && flag(u, "ignoreMissingComponents") {
			continue
		}
		k["components"] = listOf(k["components"], c)
	}
	return nil
}

func listOf(before any, more ...any) any {
	list, _ := before.([]any)
	if len(list)+len(more) == 0 {
		return before
	}
	return append(slices.Clone(list), more...)
}

func addTo(k map[string]any, field string, more map[string]any) {
	if len(more) == 0 {
		return
	}
	all := map[string]any{}
	before, _ := k[field].(map[string]any)
	for key, value := range before {
		all[key] = value
	}
	for key, value := range more {
		all[key] = value
	}
	k[field] = all
}

// replaceNamed puts an entry in the place of the one of its name.
func replaceNamed(list any, entry map[string]any) any {
	entries, _ := list.([]any)
	return append(slices.DeleteFunc(slices.Clone(entries), func(e any) bool {
		m, _ := e.(map[string]any)
		return m["name"] == entry["name"]
	}), entry)
}

// imageOf reads name[=new][:tag|@digest].
func imageOf(s string) map[string]any {
	name, version, replaced := strings.Cut(s, "=")
	if !replaced {
		version = s
	}
	m := map[string]any{}
	if at := strings.LastIndex(version, "@"); at >= 0 {
		m["digest"], version = version[at+1:], version[:at]
	} else if colon := strings.LastIndex(version, ":"); colon > strings.LastIndex(version, "/") {
		m["newTag"], version = version[colon+1:], version[:colon]
	}
	if replaced {
		m["newName"] = version
	} else {
		name = version
	}
	m["name"] = name
	return m
}
