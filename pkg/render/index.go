package render

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

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
	// synced are those of them that stand for FluxInstances.
	synced map[*unstructured.Unstructured]bool
	// byName are those by kind and name.
	byName map[string][]desired.Object
	// entries are all files and directories, with whether they are directories; "." is the root.
	entries map[string]bool
	// kustomizationOf are the kustomizations of directories.
	kustomizationOf map[string][]string
	// names are all files, sorted; hashes are those of their contents, as far as they are known.
	names  []string
	hashes map[string]string
	blobs  *Blobs
	gaps   []desired.Gap
}

// maxFiles are those of a repository.
const maxFiles = 500_000

// newIndex finds what a commit holds. Files are nil if all are on disk.
func newIndex(fs *guardedFS, files Files, blobs *Blobs) (*index, error) {
	x := &index{mentions: map[string]bool{}, kustomizationOf: map[string][]string{}, byName: map[string][]desired.Object{}, blobs: blobs}
	x.entries, x.hashes, x.synced = map[string]bool{}, map[string]string{}, map[*unstructured.Unstructured]bool{}
	fs.files, fs.index = files, x
	look := x.walk
	if files != nil {
		x.hashes = files.Hashes()
		look = x.list
	}
	if err := look(fs); err != nil {
		return nil, err
	}
	slices.Sort(x.names)
	x.kustomizations = slices.Sorted(maps.Keys(x.kustomizationOf))
	slices.Sort(x.charts)
	if err := x.readAll(fs); err != nil {
		return nil, err
	}
	if err := x.submodules(fs); err != nil {
		return nil, err
	}
	for _, w := range x.written {
		if !isInstance(w.Unstructured) {
			continue
		}
		made, err := synced(w)
		if err != nil {
			x.gaps = append(x.gaps, desired.Gap{Origin: w.Origin, What: "FluxInstance " + path.Join(w.GetNamespace(), w.GetName()), Why: "its patches cannot be applied: " + err.Error()})
		}
		for _, m := range made {
			x.synced[m.Unstructured] = true
		}
		x.written = append(x.written, made...)
	}
	for _, w := range x.written {
		key := w.GetKind() + "/" + w.GetName()
		x.byName[key] = append(x.byName[key], w)
	}
	return x, nil
}

// list takes the files that a commit names.
func (x *index) list(fs *guardedFS) error {
	names := fs.files.Names()
	if len(names) > maxFiles {
		return tooMuch("the repository has more than %d files", maxFiles)
	}
	x.entries["."] = true
	for _, name := range names {
		for dir := path.Dir(name); !x.entries[dir]; dir = path.Dir(dir) {
			x.entries[dir] = true
		}
		x.note(name)
	}
	return fs.over()
}

// asWalked is the order of walk: what is in a directory comes before what has a longer name than it.
func asWalked(a, b string) int {
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		default:
			return cmp.Compare(a[i], b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}

// walk takes the files that are on disk.
func (x *index) walk(fs *guardedFS) error {
	return filepath.WalkDir(fs.root, func(file string, entry os.DirEntry, err error) error {
		if err == nil {
			err = fs.over()
		}
		if err != nil {
			return err
		}
		if len(x.entries) > maxFiles {
			return tooMuch("the repository has more than %d files", maxFiles)
		}
		name := cmp.Or(filepath.ToSlash(strings.TrimPrefix(file[len(fs.root):], string(filepath.Separator))), ".")
		switch {
		case entry.IsDir() && entry.Name() == ".git":
			return filepath.SkipDir
		case entry.IsDir():
			x.entries[name] = true
			return nil
		case entry.Type()&os.ModeSymlink != 0:
			x.links = append(x.links, name)
			return nil
		case entry.Type().IsRegular():
			x.note(name)
		}
		return nil
	})
}

// note takes a file by its name.
func (x *index) note(name string) {
	x.entries[name] = false
	x.names = append(x.names, name)
	switch base := path.Base(name); {
	case isKustomization(name):
		dir := path.Dir(name)
		x.kustomizationOf[dir] = append(x.kustomizationOf[dir], name)
	case base == ".sourceignore":
		x.ignores = append(x.ignores, name)
	case base == "Chart.yaml":
		x.charts = append(x.charts, path.Dir(name))
	}
	if isText(name) {
		x.files = append(x.files, name)
	}
}

// in are the files in a directory and below it.
func (x *index) in(dir string) []string {
	if dir == "." {
		return x.names
	}
	from, _ := slices.BinarySearch(x.names, dir+"/")
	to, _ := slices.BinarySearch(x.names, dir+"0") // what follows the slash
	return x.names[from:to]
}

// isKustomization says whether a file is one by its name.
func isKustomization(name string) bool {
	return slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(name))
}

// isText says whether a file may be a manifest, or a template of one.
func isText(name string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json", ".tpl"}, path.Ext(name)) || path.Base(name) == "Kustomization"
}

// content is what a file has to say before anything is rendered.
type content struct {
	hash string
	// mentions says that it has a word of engines.
	mentions bool
	// absent says why the content itself is not here; empty if it is.
	absent  string
	engines []desired.Object
	err     error
}

// readAll reads what may be manifests, beside one another, and takes it in.
func (x *index) readAll(fs *guardedFS) error {
	contents := make([]content, len(x.files))
	var next atomic.Int64
	var readers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		readers.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(x.files)); i = next.Add(1) - 1 {
				contents[i] = x.read(fs, x.files[i])
			}
		})
	}
	readers.Wait()
	for i, name := range x.files {
		if err := x.add(fs, name, contents[i]); err != nil {
			return err
		}
	}
	return nil
}

func (x *index) read(fs *guardedFS, name string) (c content) {
	defer func() {
		if p := recover(); p != nil {
			c.err = fmt.Errorf("reading %s fails: %v", name, p)
		}
	}()
	if c.err = fs.over(); c.err != nil {
		return c
	}
	read := sync.OnceValues(func() ([]byte, error) { return fs.readWhole(name) })
	if c.hash = x.hashes[name]; c.hash == "" {
		data, err := read()
		if c.err = err; err != nil {
			return c
		}
		c.hash = x.blobs.hash(data)
	}
	type about struct {
		mentions bool
		absent   string
	}
	is, err := known(x.blobs, "about", c.hash, func() (about, error) {
		data, err := read()
		data = decoded(data)
		return about{slices.ContainsFunc(engines, func(word []byte) bool { return bytes.Contains(data, word) }), absent(data)}, err
	})
	c.mentions, c.absent, c.err = is.mentions, is.absent, err
	if err == nil && isKustomization(name) { // who follows it says what is wrong with it
		_, _ = known(x.blobs, "references", c.hash, func() (followed, error) {
			data, err := read()
			if err == nil {
				err = checkAliases(data, fs.bounds.nodes)
			}
			if err != nil {
				return followed{}, err
			}
			return follow(data), nil
		})
	}
	if err != nil || !c.mentions || x.inChart(name) || path.Ext(name) == ".tpl" {
		return c
	}
	c.engines, c.err = known(x.blobs, "engines", c.hash, func() ([]desired.Object, error) {
		data, err := read()
		if err == nil {
			err = checkAliases(data, fs.bounds.nodes)
		}
		if err != nil {
			return nil, err
		}
		plain, err := known(x.blobs, "plain", c.hash, func() (plainFile, error) { return plainObjects(data) })
		if err != nil {
			return enginesIn(data), nil
		}
		return slices.DeleteFunc(slices.Clone(plain.objects), func(o desired.Object) bool { return !isEngine(o.Unstructured) }), nil
	})
	return c
}

// absent says why the content of a file that Git filters is not here; empty if it is.
func absent(data []byte) string {
	switch {
	case bytes.HasPrefix(data, []byte("version https://git-lfs.github.com/spec/")):
		return "it is a pointer of Git LFS, and what it points to is not here (in a work tree: git lfs pull)"
	case bytes.HasPrefix(data, []byte("\x00GITCRYPT\x00")):
		return "git-crypt has encrypted it (in a work tree: git-crypt unlock)"
	}
	return ""
}

func (x *index) add(fs *guardedFS, name string, c content) error {
	if fs.files == nil && c.hash != "" {
		x.hashes[name] = c.hash
	}
	if c.absent != "" {
		x.gaps = append(x.gaps, desired.Gap{Origin: desired.Origin{File: name, Line: 1}, What: name, Why: c.absent})
	}
	if c.mentions {
		for p := name; p != "."; p = path.Dir(p) {
			x.mentions[p] = true
		}
		x.mentions["."] = true
	}
	if errors.As(c.err, new(*BoundError)) {
		x.gaps = append(x.gaps, desired.Gap{Origin: desired.Origin{File: name}, What: name, Why: c.err.Error()})
		return nil
	}
	x.written = append(x.written, lyingIn(name, c.engines)...)
	return c.err
}

// submodules are other repositories: what they hold is in no commit of this one, and in a work tree only if somebody has fetched it.
func (x *index) submodules(fs *guardedFS) error {
	const name = ".gitmodules"
	if _, ok := slices.BinarySearch(x.names, name); !ok {
		return nil
	}
	data, err := fs.readWhole(name)
	if errors.As(err, new(*BoundError)) {
		x.gaps = append(x.gaps, desired.Gap{Origin: desired.Origin{File: name}, What: name, Why: err.Error()})
		return nil
	}
	for i, line := range strings.Split(string(data), "\n") {
		key, value, ok := strings.Cut(line, "=")
		if dir := path.Clean(strings.Trim(strings.TrimSpace(value), `"`)); ok && strings.TrimSpace(key) == "path" && filepath.IsLocal(dir) && len(x.in(dir)) == 0 {
			x.gaps = append(x.gaps, desired.Gap{Origin: desired.Origin{File: name, Line: i + 1}, What: "submodule " + dir,
				Why: "it is another repository, and what it holds is not here (in a work tree: git submodule update --init)"})
		}
	}
	return err
}

// lyingIn are copies of objects, as of a file.
func lyingIn(file string, objects []desired.Object) []desired.Object {
	copies := make([]desired.Object, len(objects))
	for i, o := range objects {
		copies[i] = desired.Object{Unstructured: o.DeepCopy(), Origin: desired.Origin{File: file, Line: o.Line}}
	}
	return copies
}

// readWhole reads a file that a build need not be able to read.
func (fs *guardedFS) readWhole(name string) ([]byte, error) {
	if fs.files != nil {
		data, err := fs.files.Read(name, fs.bounds.file+1)
		if int64(len(data)) > fs.bounds.file {
			return nil, tooMuch("it has more bytes than the %d that a file may", fs.bounds.file)
		}
		return data, err
	}
	file := filepath.Join(fs.root, filepath.FromSlash(name))
	data, err := readFile(file, fs.bounds.file+1)
	if int64(len(data)) <= fs.bounds.file {
		return data, err
	}
	info, err := os.Lstat(file)
	if err != nil {
		return nil, err
	}
	return nil, tooMuch("it has %d bytes, more than the %d that a file may", info.Size(), fs.bounds.file)
}

// bringFor has there what Flux's generator reads on disk: the kustomization of a directory, or all files if there is none.
func (fs *guardedFS) bringFor(dir string, kustomized bool) error {
	if fs.files == nil {
		return nil
	}
	if kustomized {
		return fs.files.Bring(fs.index.kustomizationOf[fs.name(dir)]...)
	}
	return fs.bringAll(dir)
}

// bringAll has all files of a directory there, for those that read it on disk.
func (fs *guardedFS) bringAll(dir string) error {
	if fs.files == nil {
		return nil
	}
	return fs.files.Bring(fs.index.in(fs.name(dir))...)
}

// inChart says whether a file is a template.
func (x *index) inChart(name string) bool {
	return slices.ContainsFunc(x.charts, func(chart string) bool { return within(name, path.Join(chart, "templates")) })
}

// enginesIn are what a file has of engines. What is no YAML is none.
func enginesIn(data []byte) []desired.Object {
	var found []desired.Object
	line := 1
	for _, text := range splitDocuments(data) {
		for _, d := range documentsOf(text) {
			u := &unstructured.Unstructured{}
			if yaml.Unmarshal(text, &u.Object) == nil && isEngine(u) && u.GetName() != "" {
				found = append(found, desired.Object{Unstructured: u, Origin: desired.Origin{Line: line + d.line - 1}})
			}
		}
		line += bytes.Count(text, []byte("\n"))
	}
	return found
}

func isInstance(u *unstructured.Unstructured) bool {
	return u.GroupVersionKind().GroupKind().String() == "FluxInstance."+fluxOperator
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

// followedFiles are those that may be manifests to who follows links to files, as Argo CD and kubectl do: neither follows one to a directory.
func (r *Repository) followedFiles() []string {
	files := r.index.files
	for _, link := range r.index.links {
		if isText(link) && !r.fs.IsDir(r.file(link)) {
			files = append(slices.Clip(files), link)
		}
	}
	if len(files) > len(r.index.files) {
		slices.SortFunc(files, asWalked)
	}
	return files
}

// mention says whether what is read may deploy more.
func (x *index) mention(s *reads) bool {
	for range s.mentioned(x) {
		return true
	}
	return false
}

// mentioned are those of the paths that may deploy more; of nil none.
func (s *reads) mentioned(x *index) iter.Seq[string] {
	return func(yield func(string) bool) {
		if s == nil {
			return
		}
		for p := range s.paths {
			if x.mentions[p] && !yield(p) {
				return
			}
		}
	}
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
