package render

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
)

// reads are the files that an owner is rendered from, and directories of which everything may count.
type reads struct {
	paths map[string]bool
	// unsure says that there may be more.
	unsure bool
}

func (s *reads) sorted() []string { return slices.Sorted(maps.Keys(s.paths)) }

// readsOf follows directories and files to all that a build of them reads. It parses kustomizations and nothing else. What it gives
// must not be changed.
func (r *Repository) readsOf(start ...string) *reads {
	key := strings.Join(start, "\x00")
	if r.read[key] == nil {
		r.read[key] = r.follow(start)
	}
	return r.read[key]
}

func (r *Repository) follow(start []string) *reads {
	s := &reads{paths: map[string]bool{}}
	visited := map[string]bool{} // directories with kustomizations
	var visit func(p string)
	visit = func(p string) {
		if s.paths[p] || visited[p] || !filepath.IsLocal(filepath.FromSlash(p)) {
			return
		}
		file := r.kustomizationIn(p)
		if file == "" {
			s.paths[p] = true
			if r.index.entries[p] {
				for _, k := range below(r.index.kustomizations, p) {
					visit(k)
				}
			}
			return
		}
		visited[p], s.paths[file] = true, true
		refs, sure := r.references(file)
		s.unsure = s.unsure || !sure
		for _, ref := range refs {
			visit(path.Join(p, ref))
		}
	}
	for _, p := range start {
		visit(path.Clean(p))
	}
	for _, link := range r.index.links {
		for p := range s.paths {
			s.unsure = s.unsure || within(link, p) || within(p, link)
		}
	}
	return s
}

// followed are what a kustomization names, and whether that is all.
type followed struct {
	refs []string
	sure bool
	// namespace is what all namespaced objects get; empty if it is not known.
	namespace string
	// plain says that it has files as resources and at most that namespace, and nothing else.
	plain bool
}

// references are what a kustomization names, and whether that is all.
func (r *Repository) references(file string) ([]string, bool) {
	found := r.followed(file)
	return found.refs, found.sure
}

// namespaceOf is the one that the kustomization of a directory gives to all namespaced objects; empty if it is not known.
func (r *Repository) namespaceOf(dir string) string {
	file := r.kustomizationIn(dir)
	if file == "" {
		return ""
	}
	return r.followed(file).namespace
}

func (r *Repository) followed(file string) followed {
	found, _ := known(r.blobs, "references", r.content(file), func() (followed, error) {
		data, err := r.small(file)
		if err != nil {
			return followed{}, nil
		}
		return follow(data), nil
	})
	return found
}

// follow reads a kustomization.
func follow(data []byte) (found followed) {
	var k types.Kustomization
	if k.Unmarshal(data) != nil {
		return found
	}
	k.FixKustomization()
	// What comes after it could change it again; variables are filled in later.
	if found.sure = len(k.Generators)+len(k.Transformers)+len(k.Validators) == 0; found.sure &&
		len(k.Replacements)+len(k.PatchesJson6902)+len(k.Vars) == 0 && !strings.Contains(k.Namespace, "$") { //nolint:staticcheck // still followed
		found.namespace = k.Namespace
	}
	for _, ref := range references(&k) {
		if ref != "" && len(ref) < 4096 && !isRemote(ref) {
			found.refs = append(found.refs, ref)
		}
	}
	found.plain = isPlain(&k) && len(found.refs) == len(k.Resources)
	return found
}

// content names what a file holds: by its hash, or where that is not known by its place.
func (r *Repository) content(file string) string {
	return cmp.Or(r.index.hashes[file], r.file(file))
}

// file is where a path of the repository is on disk.
func (r *Repository) file(name string) string {
	return filepath.Join(r.fs.root, filepath.FromSlash(name))
}

// lies says whether the repository has something at a path, brought or not, and whether it is a directory; nothing of what is outside.
func (r *Repository) lies(name string) (isDir, there bool) {
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return false, false
	}
	if isDir, there = r.index.entries[path.Clean(name)]; there || len(r.index.links) == 0 {
		return isDir, there
	}
	info, err := os.Lstat(r.file(name))
	return err == nil && info.IsDir(), err == nil
}

// guard is a file system for one build.
func (r *Repository) guard(over func() error) *guardedFS {
	fs := &guardedFS{FileSystem: r.fs.FileSystem, over: over, root: r.fs.root, plugins: map[string]bool{}, bounds: r.bounds, files: r.commit.Files, index: r.index}
	if len(r.index.links) == 0 {
		fs.FileSystem = &snapshot{FileSystem: r.fs.FileSystem, root: r.fs.root, entries: r.index.entries, files: r.commit.Files, most: r.bounds.file + 1}
	}
	return fs
}

// small reads a file of the repository within the bounds.
func (r *Repository) small(name string) ([]byte, error) {
	return r.guard(r.fs.over).read(r.file(name))
}

// hash is of what an owner is and reads; empty if that is not known.
func (r *Repository) hash(s *reads, of ...any) string {
	if s.unsure {
		return ""
	}
	all, err := json.Marshal(of)
	if err != nil {
		return ""
	}
	for _, p := range s.sorted() {
		h, err := r.hashOf(p)
		if err != nil {
			return ""
		}
		all = append(append(append(append(all, 0), p...), 0), h...)
	}
	sum := sha256.Sum256(all)
	return hex.EncodeToString(sum[:])
}

// hashOf is of a file, or of all those in a directory. One that is absent has one, too.
func (r *Repository) hashOf(p string) (string, error) {
	if hash := r.index.hashes[p]; hash != "" {
		return hash, nil
	}
	switch isDir, there := r.index.entries[p]; {
	case !there:
		return "", nil
	case !isDir:
		return r.blobs.hashFile(r.file(p))
	}
	sum := sha256.New()
	for _, file := range r.index.in(p) {
		h, err := r.hashOf(file)
		if err != nil {
			return "", err
		}
		_, _ = io.WriteString(sum, file+"\x00"+h+"\x00")
	}
	return hex.EncodeToString(sum.Sum(nil)), r.fs.over()
}

func hexSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}
