package render

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// The groups of what deploys.
const (
	fluxKustomize = "kustomize.toolkit.fluxcd.io"
	fluxHelm      = "helm.toolkit.fluxcd.io"
	fluxSource    = "source.toolkit.fluxcd.io"
	fluxOperator  = "fluxcd.controlplane.io"
	argo          = "argoproj.io"
	// fluxExtensions are of its source-watcher.
	fluxExtensions = "source.extensions.fluxcd.io"
)

// engines are words without which a file has nothing that deploys.
var engines = [][]byte{[]byte(fluxKustomize), []byte(fluxHelm), []byte(fluxSource), []byte(fluxOperator), []byte(argo), []byte(fluxExtensions)}

// index is what a commit holds, found without rendering.
type index struct {
	// files are all that may be manifests, in the order of their names.
	files []string
	// mentions are those that have a word of engines, and the directories that they lie in.
	mentions map[string]bool
	// ignores are files by which Flux leaves others out.
	ignores []string
	// links are symbolic links.
	links []string
	// kustomizations are directories with a kustomization, charts those with a chart.
	kustomizations, charts []string
	// written are the objects of engines as files have them, before any patch.
	written []desired.Object
	// byName are those by kind and name.
	byName map[string][]desired.Object
	// entries are all files and directories by their absolute paths, with whether they are directories.
	entries map[string]bool
	// kustomizationOf are the kustomizations of directories.
	kustomizationOf map[string][]string
	gaps            []desired.Gap
}

// maxFiles are those of a repository.
const maxFiles = 500_000

// newIndex walks through a commit.
func newIndex(fs *guardedFS) (*index, error) {
	x := &index{mentions: map[string]bool{}, kustomizationOf: map[string][]string{}, byName: map[string][]desired.Object{}}
	x.entries = map[string]bool{}
	err := filepath.WalkDir(fs.root, func(file string, entry os.DirEntry, err error) error {
		if err == nil {
			err = fs.over()
		}
		if err != nil {
			return err
		}
		if len(x.entries) > maxFiles {
			return tooMuch("the repository has more than %d files", maxFiles)
		}
		name := fs.name(file)
		dir := path.Dir(name)
		switch {
		case entry.IsDir() && entry.Name() == ".git":
			return filepath.SkipDir
		case entry.IsDir():
			x.entries[file] = true
			return nil
		case entry.Type()&os.ModeSymlink != 0:
			x.links = append(x.links, name)
			return nil
		case !entry.Type().IsRegular():
			return nil
		}
		x.entries[file] = false
		if slices.Contains(konfig.RecognizedKustomizationFileNames(), entry.Name()) {
			x.kustomizationOf[dir] = append(x.kustomizationOf[dir], name)
		}
		if entry.Name() == ".sourceignore" {
			x.ignores = append(x.ignores, name)
		}
		if entry.Name() == "Chart.yaml" {
			x.charts = append(x.charts, dir)
		}
		if isText(name) {
			x.files = append(x.files, name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	x.kustomizations = slices.Sorted(maps.Keys(x.kustomizationOf))
	slices.Sort(x.charts)
	for _, name := range x.files {
		if err := x.add(fs, name); err != nil {
			return nil, err
		}
	}
	for _, w := range x.written {
		key := w.GetKind() + "/" + w.GetName()
		x.byName[key] = append(x.byName[key], w)
	}
	return x, nil
}

// isText says whether a file may be a manifest, or a template of one.
func isText(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json", ".tpl"}, path.Ext(name)) || path.Base(name) == "Kustomization"
}

func (x *index) add(fs *guardedFS, name string) error {
	if err := fs.over(); err != nil {
		return err
	}
	file := filepath.Join(fs.root, filepath.FromSlash(name))
	info, err := os.Lstat(file)
	if err != nil {
		return err
	}
	if info.Size() > fs.bounds.file {
		x.gaps = append(x.gaps, desired.Gap{
			Origin: desired.Origin{File: name}, What: name,
			Why: fmt.Sprintf("it has %d bytes, more than the %d that a file may", info.Size(), fs.bounds.file),
		})
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(engines, func(word []byte) bool { return bytes.Contains(data, word) }) {
		return nil
	}
	for p := name; p != "."; p = path.Dir(p) {
		x.mentions[p] = true
	}
	x.mentions["."] = true
	if !x.inChart(name) && path.Ext(name) != ".tpl" {
		x.read(fs, name, data)
	}
	return nil
}

// inChart says whether a file is a template.
func (x *index) inChart(name string) bool {
	return slices.ContainsFunc(x.charts, func(chart string) bool { return within(name, path.Join(chart, "templates")) })
}

// read notes what a file has of engines. What is no YAML is none.
func (x *index) read(fs *guardedFS, name string, data []byte) {
	if err := checkAliases(data, fs.bounds.nodes); err != nil {
		x.gaps = append(x.gaps, desired.Gap{Origin: desired.Origin{File: name}, What: name, Why: err.Error()})
		return
	}
	line := 1
	for _, text := range splitDocuments(data) {
		for _, d := range documentsOf(text) {
			u := &unstructured.Unstructured{}
			if yaml.Unmarshal(text, &u.Object) == nil && isEngine(u) && u.GetName() != "" {
				x.written = append(x.written, desired.Object{Unstructured: u, Origin: desired.Origin{File: name, Line: line + d.line - 1}})
			}
		}
		line += bytes.Count(text, []byte("\n"))
	}
}

func isEngine(u *unstructured.Unstructured) bool {
	switch u.GroupVersionKind().Group {
	case fluxKustomize, fluxHelm, fluxSource, fluxOperator, fluxExtensions, argo:
		return true
	}
	return false
}

// within says whether a path is a directory, or lies in it.
func within(name, dir string) bool {
	return dir == "." || dir == "" || name == dir || strings.HasPrefix(name, dir+"/")
}

// below are the sorted names that lie in a directory.
func below(sorted []string, dir string) []string {
	var found []string
	for _, name := range sorted {
		if within(name, dir) {
			found = append(found, name)
		}
	}
	return found
}

// mention says whether what is read may deploy more.
func (x *index) mention(reads []string) bool {
	return slices.ContainsFunc(reads, func(p string) bool { return x.mentions[p] })
}

// kustomizationIn is the name of the kustomization of a directory; empty if it has none.
func (r *Repository) kustomizationIn(dir string) string {
	if found := r.index.kustomizationOf[path.Clean(dir)]; len(found) > 0 {
		return found[0]
	}
	if len(r.index.links) == 0 {
		return ""
	}
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		if info, err := os.Lstat(r.file(path.Join(dir, name))); err == nil && !info.IsDir() {
			return path.Join(dir, name)
		}
	}
	return ""
}

var errNoHash = errors.New("its content is not known")
