package render

import (
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/sourceignore"
	"github.com/fluxcd/pkg/sourceignore/gitignore"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// sight is what an artifact of Flux has of the repository, where .sourceignore files or the source leave files out, or there are symbolic
// links: source-controller archives files and directories and nothing else.
type sight struct {
	// id is equal for those that leave out the same in the same repository.
	id string
	// entries are as in an index.
	entries map[string]bool
	// hidden are the files that are left out.
	hidden map[string]bool
	// links are those of them that are left out for being links.
	links []string
	// unsure says that kustomizations are among them, so that directories may be other than they seem.
	unsure bool
}

// sees says whether a file of the repository is in the artifact.
func (s *sight) sees(name string) bool { return s == nil || !s.hidden[name] }

// hashed is empty if all is seen.
func (s *sight) hashed() string {
	if s == nil {
		return ""
	}
	return s.id
}

// seeing leaves out of a file system what is not seen.
func (fs *guardedFS) seeing(s *sight) *guardedFS {
	if s == nil {
		return fs
	}
	fs.sight = s
	fs.FileSystem = &snapshot{FileSystem: fs.FileSystem, root: fs.root, entries: s.entries, files: fs.files, most: fs.bounds.file + 1}
	return fs
}

// sightOf is that of a source; nil if all is seen.
func (r *Repository) sightOf(o *owner, s source) (*sight, error) {
	var ignore string
	var sparse []string
	if w := r.sourceFor(o, s); w.Unstructured != nil {
		ignore = text(w.Unstructured, "spec", "ignore")
		sparse, _, _ = unstructured.NestedStringSlice(w.Object, "spec", "sparseCheckout")
	}
	if len(r.index.ignores)+len(r.index.links)+len(sparse) == 0 && ignore == "" {
		r.sights[""] = nil
		return nil, nil
	}
	key := strings.Join(append(slices.Clone(sparse), ignore), "\x00")
	if known, ok := r.sights[key]; ok {
		return known, nil
	}
	found, err := look(r.index, ignore, sparse, r.small, r.fs.over)
	if err == nil {
		r.sights[key] = found
	}
	return found, err
}

// look leaves out what source-controller does: with patterns of its own a source has those, and none of Flux's for other tools' files.
func look(x *index, ignore string, sparse []string, read func(file string) ([]byte, error), over func() error) (*sight, error) {
	var patterns []gitignore.Pattern
	id := strings.Join(append(slices.Clone(sparse), ignore), "\x00")
	for _, file := range slices.Sorted(slices.Values(x.ignores)) {
		data, err := read(file)
		if err != nil {
			return nil, &Error{File: file, Err: err}
		}
		id += "\x00" + file + "\x00" + string(data)
		var domain []string
		if dir := path.Dir(file); dir != "." {
			domain = strings.Split(dir, "/")
		}
		patterns = append(patterns, sourceignore.ReadPatterns(strings.NewReader(string(data)), domain)...)
	}
	matcher := sourceignore.NewDefaultMatcher(nil, nil)
	if patterns = append(patterns, sourceignore.ReadPatterns(strings.NewReader(ignore), nil)...); len(patterns) > 0 {
		matcher = gitignore.NewMatcher(append(sourceignore.VCSPatterns(nil), patterns...))
	}
	s := &sight{id: hexSum(id), entries: map[string]bool{".": true}, hidden: map[string]bool{}}
	for _, name := range x.names {
		if err := over(); err != nil {
			return nil, err
		}
		if matcher.Match(strings.Split(name, "/"), false) || !inSparse(name, sparse) {
			s.hidden[name] = true
			s.unsure = s.unsure || isKustomization(name)
			continue
		}
		s.entries[name] = false
		for dir := path.Dir(name); !s.entries[dir]; dir = path.Dir(dir) {
			s.entries[dir] = true
		}
	}
	for _, link := range x.links {
		s.hidden[link] = true
		s.unsure = s.unsure || isKustomization(link)
		if !matcher.Match(strings.Split(link, "/"), false) {
			s.links = append(s.links, link)
		}
	}
	return s, nil
}

// artifact is what an artifact of Flux has of the files below the root; nil if it has all.
func (fs *guardedFS) artifact(ignore string) (*sight, error) {
	x := &index{entries: map[string]bool{}, kustomizationOf: map[string][]string{}}
	if err := x.walk(fs); err != nil || len(x.ignores)+len(x.links) == 0 && ignore == "" {
		return nil, err
	}
	return look(x, ignore, nil, func(file string) ([]byte, error) { return fs.read(filepath.Join(fs.root, filepath.FromSlash(file))) }, fs.over)
}

// inSparse says whether a source that checks out only some directories has a file: go-git goes by the beginnings of names.
func inSparse(name string, directories []string) bool {
	return len(directories) == 0 || slices.ContainsFunc(directories, func(dir string) bool {
		return strings.HasPrefix(name, strings.TrimPrefix(path.Clean(dir), "./"))
	})
}

// missed names the links in what an owner is rendered from: whoever follows them, as kustomize and Git's users do, takes for deployed
// what is not.
func (r *Repository) missed(o *owner) []desired.Gap {
	if o.sight == nil {
		return nil
	}
	var gaps []desired.Gap
	for _, link := range o.sight.links {
		if (isText(link) || r.fs.IsDir(r.file(link))) && slices.ContainsFunc(o.reads.sorted(), func(p string) bool { return within(p, link) || r.fills(link, p) }) {
			gaps = append(gaps, desired.Gap{Origin: desired.Origin{File: link}, What: "link " + link,
				Why: "Flux deploys nothing by symbolic links: its artifacts have none"})
		}
	}
	return gaps
}

// fills says whether a file counts for lying in a directory: there is no kustomization between them that would name it.
func (r *Repository) fills(file, dir string) bool {
	if !within(file, dir) {
		return false
	}
	for at := path.Dir(file); at != dir && at != "."; at = path.Dir(at) {
		if len(r.index.kustomizationOf[at]) > 0 {
			return false
		}
	}
	return len(r.index.kustomizationOf[dir]) == 0
}

// patternsFor leave out of a directory what is not seen, for who goes by the disk.
func (s *sight) patternsFor(dir string) []string {
	var patterns []string
	for _, name := range slices.Sorted(maps.Keys(s.hidden)) {
		if ext := path.Ext(name); within(name, dir) && (ext == ".yaml" || ext == ".yml") {
			patterns = append(patterns, "/"+escaped.Replace(strings.TrimPrefix(strings.TrimPrefix(name, strings.TrimPrefix(dir, ".")), "/")))
		}
	}
	return patterns
}

var escaped = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`)
