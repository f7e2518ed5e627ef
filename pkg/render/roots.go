package render

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// roots are the owners that nothing in the repository deploys: the clusters' own Kustomizations, in whose path they lie themselves,
// else what deploys and is in no other's path, else directories.
func (r *Repository) roots() []*owner {
	written := slices.DeleteFunc(slices.Clone(r.index.written), func(w desired.Object) bool { return !deploys(w.Unstructured) })
	var roots []*owner
	add := func(w desired.Object, instance string) {
		r.begun[w.Unstructured] = true
		for _, o := range r.owner(w, instance, nil) {
			roots = append(roots, r.add(o)...)
		}
	}
	clusters := r.clusters(written)
	r.learnURL(written)
	r.learnRevision(written)
	for _, w := range clusters {
		add(w, fluxPath(w.Unstructured))
	}
	covered := r.covered(written)
	var loose []desired.Object
	for _, w := range written {
		isFlux := w.GroupVersionKind().Group != argo
		if !covered[w.File] && (!isFlux || len(clusters) == 0) {
			loose = append(loose, w)
		}
	}
	if len(loose)+len(clusters) == 0 {
		loose = written // each leads to another, in a circle
	}
	ambiguous := directoriesWithSameNames(loose)
	for _, w := range loose {
		instance := ""
		if ambiguous[path.Dir(w.File)] {
			instance = path.Dir(w.File)
		}
		add(w, instance)
	}
	// Releases alone bring nothing of what lies beside them: another repository deploys it with them.
	if !slices.ContainsFunc(roots, func(o *owner) bool { return o.Kind != desired.HelmRelease }) {
		for _, o := range r.directories() {
			roots = append(roots, r.add(o)...)
		}
	}
	return roots
}

// deploys says whether an object deploys others.
func deploys(u *unstructured.Unstructured) bool {
	switch u.GroupVersionKind().GroupKind().String() {
	case "Kustomization." + fluxKustomize:
		return text(u, "spec", "path") != "" || text(u, "spec", "sourceRef", "name") != ""
	case "Application." + argo, "ApplicationSet." + argo:
		return true
	case "HelmRelease." + fluxHelm:
		return text(u, "spec", "chart", "spec", "chart") != "" || text(u, "spec", "chartRef", "name") != ""
	}
	return false
}

// clusters are Kustomizations that deploy the directory in which they are written: what Flux's bootstrap makes, or what a FluxInstance
// stands for. Where the repository is known by them, their source is it.
func (r *Repository) clusters(written []desired.Object) []desired.Object {
	var found []desired.Object
	for _, w := range written {
		s := sourceOf(w.Unstructured, "spec", "sourceRef")
		declared := r.written(s)
		synced := r.index.synced[w.Unstructured]
		inside := within(w.File, cmp.Or(fluxPath(w.Unstructured), ".")) || synced && declared != nil && r.urls[normalURL(text(declared, "spec", "url"))]
		if w.GroupVersionKind().Group != fluxKustomize || !inside {
			continue
		}
		if !synced && s.name != systemName && w.GetName() != systemName && (fluxPath(w.Unstructured) == "" || declared == nil || !r.urls[normalURL(text(declared, "spec", "url"))]) {
			continue
		}
		if declared != nil {
			r.urls[normalURL(text(declared, "spec", "url"))] = true
			r.own[declared] = true
			if branch := text(declared, "spec", "ref", "branch"); branch != "" {
				r.branches[branch] = true
			}
		}
		found = append(found, w)
	}
	return found
}

// written is a source that is written in the repository; nil if it is not.
func (r *Repository) written(s source) *unstructured.Unstructured {
	for _, w := range r.index.byName[s.kind+"/"+s.name] {
		if w.GroupVersionKind().Group == fluxSource && text(w.Unstructured, "spec", "url") != "" {
			return w.Unstructured
		}
	}
	return nil
}

// covered are the files with owners that another owner reads, one that is not written in the same file.
func (r *Repository) covered(written []desired.Object) map[string]bool {
	readers := map[string][]string{} // the files of at most two owners by what they read
	for _, w := range written {
		for _, o := range r.quietly(w) {
			if o.reads == nil || o.Kind == desired.Kustomization && o.Path == "" {
				continue // one of all files is mostly the base of others
			}
			for p := range o.reads.paths {
				if of := readers[p]; r.index.mentions[p] && len(of) < 2 && !slices.Contains(of, w.File) {
					readers[p] = append(of, w.File)
				}
			}
		}
	}
	covered := map[string]bool{}
	for _, w := range written {
		for p := w.File; ; p = path.Dir(p) {
			covered[w.File] = covered[w.File] || slices.ContainsFunc(readers[p], func(file string) bool { return file != w.File })
			if p == "." {
				break
			}
		}
	}
	return covered
}

// quietly is what an object deploys, with nothing noted.
func (r *Repository) quietly(w desired.Object) []*owner {
	before := len(r.gaps)
	defer func() { r.gaps = r.gaps[:before] }()
	return r.owner(w, "", nil)
}

// directoriesWithSameNames are those of several clusters: they have owners of the same name.
func directoriesWithSameNames(written []desired.Object) map[string]bool {
	where := map[string][]string{}
	for _, w := range written {
		name := w.GetKind() + " " + w.GetNamespace() + "/" + w.GetName()
		if dir := path.Dir(w.File); !slices.Contains(where[name], dir) {
			where[name] = append(where[name], dir)
		}
	}
	ambiguous := map[string]bool{}
	for _, dirs := range where {
		for _, dir := range dirs {
			ambiguous[dir] = ambiguous[dir] || len(dirs) > 1
		}
	}
	return ambiguous
}

// circles begin where Applications lead to one another and nothing else leads to them, as where an Argo CD deploys itself by one of its
// Applications. Such a one is taken as that before it deploys it, so that it has its name and its namespace.
func (r *Repository) circles(ctx context.Context) []*owner {
	left := slices.DeleteFunc(r.unreached(), func(w desired.Object) bool { return w.GroupVersionKind().Group != argo || r.leftOut(w.File) })
	if len(left) == 0 || len(left) > maxGenerated {
		return nil
	}
	makers := make([][]*owner, len(left))
	readers := map[string][]int{}
	for i, w := range left {
		makers[i] = r.quietly(w)
		for _, o := range makers[i] {
			for p := range o.reads.mentioned(r.index) {
				readers[p] = append(readers[p], i)
			}
		}
	}
	leads := make([][]int, len(left))
	for i, w := range left {
		for p := w.File; ; p = path.Dir(p) {
			for _, reader := range readers[p] {
				if left[reader].File != w.File && !slices.Contains(leads[reader], i) {
					leads[reader] = append(leads[reader], i)
				}
			}
			if p == "." {
				break
			}
		}
	}
	var roots []*owner
	for first, before := range beginnings(leads) {
		w := left[first]
		r.begun[w.Unstructured] = true
		object := w
		for _, o := range makers[before] {
			o.render(ctx)
			if at := slices.IndexFunc(o.objects, func(made desired.Object) bool { return made.Origin == w.Origin }); at >= 0 {
				object = o.objects[at]
			}
		}
		for _, o := range r.owner(object, "", nil) {
			roots = append(roots, r.add(o)...)
		}
	}
	return roots
}

// beginnings are those of the circles in a graph that nothing outside of them leads to: the first of each, with one that leads to it.
func beginnings(leads [][]int) iter.Seq2[int, int] {
	circle := circlesIn(leads)
	entered := map[int]bool{}
	before := map[int]int{} // by the first of a circle, which has its number
	for i, all := range leads {
		for _, j := range all {
			if circle[i] != circle[j] {
				entered[circle[j]] = true
			} else if circle[j] == j {
				before[j] = i
			}
		}
	}
	return func(yield func(int, int) bool) {
		for _, first := range slices.Sorted(maps.Keys(before)) {
			if !entered[first] && !yield(first, before[first]) {
				return
			}
		}
	}
}

// circlesIn are for each point the first of those that lead to it and to which it leads, by Kosaraju's way: what is finished last, and all
// that leads there.
func circlesIn(leads [][]int) []int {
	back := make([][]int, len(leads))
	for i, all := range leads {
		for _, j := range all {
			back[j] = append(back[j], i)
		}
	}
	var finished []int
	visit := func(edges [][]int, seen []bool, from int, finish func(int)) {
		var at func(int)
		at = func(i int) {
			if seen[i] {
				return
			}
			seen[i] = true
			for _, j := range edges[i] {
				at(j)
			}
			finish(i)
		}
		at(from)
	}
	seen := make([]bool, len(leads))
	for i := range leads {
		visit(leads, seen, i, func(i int) { finished = append(finished, i) })
	}
	circle := make([]int, len(leads))
	seen = make([]bool, len(leads))
	for _, i := range slices.Backward(finished) {
		var members []int
		visit(back, seen, i, func(i int) { members = append(members, i) })
		for _, m := range members {
			circle[m] = slices.Min(members)
		}
	}
	return circle
}

// unreached is what is written and nothing deploys.
func (r *Repository) unreached() []desired.Object {
	known := map[string]bool{}
	files := map[string]bool{}
	for _, o := range r.owners {
		known[string(o.Kind)+" "+o.Name] = true
		for p := range o.reads.mentioned(r.index) {
			files[p] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(r.index.written), func(w desired.Object) bool {
		if !deploys(w.Unstructured) || r.begun[w.Unstructured] || known[w.GetKind()+" "+w.GetName()] {
			return true
		}
		read := false
		for p := w.File; p != "." && !read; p = path.Dir(p) {
			read = files[p]
		}
		return (read || files["."]) && !r.leftOut(w.File)
	})
}

// nameUnreached says of what is written and nothing deploys that it is not.
func (r *Repository) nameUnreached() {
	for _, w := range r.unreached() {
		why := "nothing that was rendered leads to it"
		if r.leftOut(w.File) {
			why = "a .sourceignore or the source leaves its file out, so that it is not deployed"
		}
		r.gaps = append(r.gaps, desired.Gap{Origin: w.Origin, What: fmt.Sprintf("%s %s", w.GetKind(), path.Join(w.GetNamespace(), w.GetName())), Why: why})
	}
}

// leftOut says that no source of Flux has a file.
func (r *Repository) leftOut(file string) bool {
	for _, s := range r.sights {
		if s.sees(file) {
			return false
		}
	}
	return len(r.sights) > 0
}

// directories are what is deployed if no engine does: kustomizations that no other refers to, and
// directories with manifests that none reads.
func (r *Repository) directories() []*owner {
	used := map[string]bool{}
	for _, dir := range r.index.kustomizations {
		if r.index.inChart(dir) {
			continue
		}
		refs, _ := r.references(r.kustomizationIn(dir))
		for _, ref := range refs {
			used[path.Join(dir, ref)] = used[path.Join(dir, ref)] || path.Join(dir, ref) != dir
		}
	}
	var found []*owner
	for _, dir := range r.index.kustomizations {
		if !used[dir] && !r.index.inChart(dir) && !r.isComponent(dir) {
			found = append(found, r.directory(dir))
		}
	}
	read := map[string]bool{}
	note := func(o *owner) {
		for p := range o.reads.paths {
			read[path.Dir(p)], read[p] = true, true
		}
	}
	for _, o := range found {
		note(o)
	}
	for _, dir := range r.index.kustomizations { // those that lead to one another in a circle
		if !read[dir] && !r.index.inChart(dir) && !r.isComponent(dir) {
			o := r.directory(dir)
			note(o)
			found = append(found, o)
		}
	}
	for _, dir := range r.manifests() {
		if !read[dir] && !used[dir] && r.kustomizationIn(dir) == "" {
			found = append(found, r.directory(dir))
		}
	}
	for _, name := range r.index.names {
		if engine := foreignEngine(name); engine != "" && !hidden(path.Dir(name)) && !r.index.inChart(name) {
			r.gaps = append(r.gaps, desired.Gap{Origin: desired.Origin{File: name, Line: 1}, What: name, Why: "what " + engine + " deploys by it is not rendered"})
		}
	}
	released := map[string]bool{}
	for _, o := range r.owners {
		released[o.Path] = true
	}
	for _, chart := range r.index.charts {
		if !released[chart] && !slices.ContainsFunc(r.index.charts, func(other string) bool { return other != chart && within(chart, path.Join(other, "charts")) }) {
			r.gaps = append(r.gaps, desired.Gap{
				Origin: desired.Origin{File: path.Join(chart, "Chart.yaml"), Line: 1}, What: "chart " + chart,
				Why: "nothing that was rendered deploys it, so its values are not known",
			})
		}
	}
	return found
}

// foreignEngine is what deploys by a file of the name, where that is neither Flux nor Argo CD nor kustomize; empty for none.
func foreignEngine(name string) string {
	switch base := path.Base(name); {
	case base == "helmfile.yaml", base == "helmfile.yaml.gotmpl", base == "helmfile.yml", path.Base(path.Dir(name)) == "helmfile.d":
		return "helmfile"
	case base == "fleet.yaml":
		return "Fleet"
	case base == ".kluctl.yaml", base == ".kluctl.yml":
		return "kluctl"
	case path.Ext(base) == ".jsonnet":
		return "Jsonnet"
	}
	return ""
}

func (r *Repository) isComponent(dir string) bool {
	file := r.kustomizationIn(dir)
	is, _ := known(r.blobs, "component", r.content(file), func() (bool, error) {
		data, err := r.small(file)
		return err == nil && strings.Contains(string(data), "kind: Component"), nil
	})
	return is
}

// manifests are the directories that have some.
func (r *Repository) manifests() []string {
	var found []string
	for _, file := range r.followedFiles() {
		if dir := path.Dir(file); !slices.Contains(found, dir) && r.isManifest(file) {
			found = append(found, dir)
		}
	}
	return found
}

// hidden says whether a directory is of tools: .github and the like.
func hidden(dir string) bool {
	return strings.HasPrefix(dir, ".") && dir != "." || strings.Contains(dir, "/.")
}

func (r *Repository) isManifest(file string) bool {
	if r.index.inChart(file) || hidden(path.Dir(file)) || path.Ext(file) == ".tpl" {
		return false
	}
	is, err := known(r.blobs, "manifest", r.content(file), func() (bool, error) {
		data, err := r.small(file)
		if data = decoded(data); bytes.IndexByte(data, 0) >= 0 { // UTF-16 without a mark, which who reads it is to complain of
			data = bytes.ReplaceAll(data, []byte{0}, nil)
		}
		return slices.ContainsFunc(splitDocuments(data), func(text []byte) bool {
			if m := versionLine.FindSubmatch(text); m != nil && ofTool(string(m[1])) {
				return false
			}
			return kindLine.Match(text) && bytes.Contains(text, []byte("apiVersion")) || bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) && isObject(text)
		}), err
	})
	return is || err != nil
}

var versionLine = regexp.MustCompile(`(?m)^"?apiVersion"?:[ \t]*["']?([^"'#\s]+)`)

func isObject(text []byte) bool {
	var u struct{ APIVersion, Kind string }
	return yaml.Unmarshal(text, &u) == nil && u.APIVersion != "" && u.Kind != "" && !ofTool(u.APIVersion)
}
