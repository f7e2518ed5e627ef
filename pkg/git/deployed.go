package git

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // Git's own names are made so, and this one stands beside them
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"sigs.k8s.io/kustomize/api/konfig"
)

// maxScanned bounds the bytes that are looked through for what they refer to, maxLooked how often it is looked whether a path is there. What has
// more is known by the tree of the whole commit. maxQuiet bounds of how many files and directories it is remembered that they refer to nothing.
const (
	maxScanned = 64 << 20
	maxLooked  = 200_000
	maxQuiet   = 100_000
)

// deployed names what a path deploys at a commit. That is the tree of the path, as Git names it, unless something below refers to what lies
// outside, as an overlay to its base or a release to its chart, or an engine's object elsewhere in the commit adds to it: then it is a name made
// of the names of all that. It never is the same where one of the files differs that the path is known to refer to, or one of those documents;
// what cannot be followed counts as a reference to the whole commit.
func (r *Repository) deployed(ctx context.Context, commit *object.Commit, dir string) (plumbing.Hash, error) {
	own, err := r.treeAt(commit, dir)
	if err != nil || dir == "." {
		return own, err
	}
	root, err := commit.Tree()
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	s := &scan{
		repo: r, root: root, parts: map[string]plumbing.Hash{dir: own}, todo: []string{dir}, left: r.limits.scanned, trees: map[plumbing.Hash]*object.Tree{},
		names: map[string]bool{},
	}
	for more := true; more && !s.whole; {
		if err := s.run(ctx); err != nil {
			return plumbing.ZeroHash, err
		}
		if more, err = s.order(ctx, dir, commit.TreeHash); err != nil {
			return plumbing.ZeroHash, fmt.Errorf("%w: looking at what adds to %q: %w", ErrUnreachable, dir, err)
		}
	}
	if s.whole {
		return commit.TreeHash, nil
	}
	return s.name(own), nil
}

// name is made of all that counts.
func (s *scan) name(own plumbing.Hash) plumbing.Hash {
	var lines []string
	for _, o := range s.orders {
		if o.counted {
			lines = append(lines, fmt.Sprintf("%s %s\n", o.sum, path.Join(o.dir, o.file)))
		}
		if o.beside != nil {
			lines = append(lines, fmt.Sprintf("%s %s\n", o.beside.Hash, o.dir))
		}
	}
	for _, sum := range s.supplied(s.all, nil) {
		lines = append(lines, fmt.Sprintf("%s\n", sum))
	}
	if len(lines) == 0 && len(s.parts) == 1 {
		return own
	}
	for p, hash := range s.parts {
		lines = append(lines, fmt.Sprintf("%s %s\n", hash, p))
	}
	slices.Sort(lines)
	return sha1.Sum([]byte(strings.Join(lines, ""))) //nolint:gosec // as above
}

// deployedIfThere is deployed of a path that need not be clean, or zero if the commit has none.
func (r *Repository) deployedIfThere(ctx context.Context, commit *object.Commit, dir string) (plumbing.Hash, error) {
	inside, err := cleanPath(dir)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	name, err := r.deployed(ctx, commit, inside)
	if errors.Is(err, ErrPathNotFound) {
		return plumbing.ZeroHash, nil
	}
	return name, err
}

// scan follows what files refer to.
type scan struct {
	repo *Repository
	root *object.Tree
	// parts are the files and directories that count, with their names in Git; of todo it is not known what they refer to.
	parts map[string]plumbing.Hash
	todo  []string
	left  int64
	// looked counts how often it was looked for a path.
	looked int
	// loud says that something was found in what is looked at that may refer to others.
	loud bool
	// all are the orders of the commit, orders its deployers and overlays, places those that count have, names what they and what is looked at mention.
	all    *orders
	orders []placed
	places []string
	names  map[string]bool
	// whole says that there is no telling what counts, so that all does.
	whole bool
	// trees are those that were read, broken is why one could not be.
	trees  map[plumbing.Hash]*object.Tree
	broken error
}

func (s *scan) run(ctx context.Context) error {
	for len(s.todo) > 0 && !s.whole {
		next := s.todo[0]
		s.todo = s.todo[1:]
		if err := cmp.Or(s.look(ctx, next, s.entry(next)), s.broken); err != nil {
			return fmt.Errorf("%w: looking at what %q refers to: %w", ErrUnreachable, next, err)
		}
	}
	return nil
}

// look goes through a file or a directory.
func (s *scan) look(ctx context.Context, name string, e *object.TreeEntry) error {
	if err := ctx.Err(); err != nil || s.whole {
		return err
	}
	switch {
	case e.Mode == filemode.Symlink:
		target, err := s.read(e.Hash)
		s.loud = true
		if err == nil && (path.IsAbs(string(target)) || !s.add(path.Join(path.Dir(name), string(target)))) {
			s.whole = true
		}
		return err
	case e.Mode == filemode.Submodule: // its commit is its name
		return nil
	case e.Mode != filemode.Dir && !refers(name):
		return nil
	}
	if size, known := s.repo.quiet[e.Hash]; known {
		s.take(size)
		return nil
	}
	// What is quiet is not looked at again: a history has mostly the same files.
	left, loud := s.left, s.loud
	s.loud = false
	err := s.inside(ctx, name, e)
	if err == nil && !s.loud && !s.whole {
		if s.repo.quiet == nil || len(s.repo.quiet) >= maxQuiet {
			s.repo.quiet = map[plumbing.Hash]int64{}
		}
		s.repo.quiet[e.Hash] = left - s.left
	}
	s.loud = s.loud || loud
	return err
}

func (s *scan) inside(ctx context.Context, name string, e *object.TreeEntry) error {
	if e.Mode != filemode.Dir {
		data, err := s.read(e.Hash)
		if err == nil {
			s.follow(name, data)
		}
		return err
	}
	tree := s.tree(e.Hash)
	if tree == nil {
		return s.broken
	}
	for i := range tree.Entries {
		if err := s.look(ctx, path.Join(name, tree.Entries[i].Name), &tree.Entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// take notes that so many bytes were looked through, whether now or before.
func (s *scan) take(size int64) {
	s.left -= size
	s.whole = s.whole || s.left < 0
}

func (s *scan) read(hash plumbing.Hash) ([]byte, error) {
	blob, err := object.GetBlob(s.repo.store, hash)
	if err != nil {
		return nil, err
	}
	if s.take(blob.Size); s.whole {
		return nil, nil
	}
	return contents(blob)
}

func contents(blob *object.Blob) ([]byte, error) {
	reader, err := blob.Reader()
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(reader)
	return data, errors.Join(err, reader.Close())
}

// refers says whether a file may name others that are deployed with it.
func refers(name string) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml", ".json", ".jsonnet", ".libsonnet":
		return true
	}
	return isKustomization(name)
}

func isKustomization(name string) bool {
	return slices.Contains(konfig.RecognizedKustomizationFileNames(), path.Base(name))
}

// word is what a path may be, in YAML and whatever is like it.
var word = regexp.MustCompile("[^\\s\"'`\\[\\]{},;()|<>=]+")

// engines have objects that name charts, values and directories by their path in the repository: releases the charts, deployers the directories, to
// which others are relative.
var (
	engines   = regexp.MustCompile(`(?m)^\s*"?apiVersion"?:\s*["']?((helm|kustomize|source)\.toolkit\.fluxcd\.io|argoproj\.io)/`)
	deployers = regexp.MustCompile(`(kustomize\.toolkit\.fluxcd|argoproj)\.io/`)
	charts    = regexp.MustCompile(`\bchart["']?:[ \t]*["']?([^\s"'#,}]+)`)
	paths     = regexp.MustCompile(`\b(?:chart|path)["']?:[ \t]*["']?([^\s"'#,}]+)`)
)

// maxKeyed bounds the paths of that kind in a file.
const maxKeyed = 1000

// follow adds what a file refers to: every word that is a path upwards, and what objects of engines may name.
func (s *scan) follow(name string, data []byte) {
	ofEngine := engines.Match(data)
	if !ofEngine && !bytes.Contains(data, []byte("..")) {
		return
	}
	s.loud = true
	bases := s.above(name)
	if ofEngine {
		s.mention(namesIn(data))
		keyed := charts
		if deployers.Match(data) {
			keyed = paths
		}
		found := keyed.FindAllSubmatch(data, maxKeyed+1)
		s.whole = s.whole || len(found) > maxKeyed
		for _, m := range found {
			inside := path.Clean(strings.TrimLeft(string(m[1]), "/"))
			s.add(inside)
			bases = append(bases, inside)
		}
	}
	for from, to := 0, 0; !s.whole; {
		at := word.FindIndex(data[to:])
		if at == nil {
			return
		}
		from, to = to+at[0], to+at[1]
		text := strings.TrimPrefix(string(data[from:to]), "file://")
		switch inside := fromRoot(text); {
		case slices.Contains(strings.Split(text, "/"), ".."):
			s.upwards(name, text, bases)
		case !ofEngine || inside == ".":
		case path.IsAbs(text):
			s.addFile(inside)
		case strings.Contains(text, "/"), path.Ext(text) == ".yaml", path.Ext(text) == ".yml":
			s.add(inside)
		}
	}
}

// upwards adds what a path of a file means. Those of a kustomization and of a chart are relative to it; others may be relative to whatever is
// built with the file.
func (s *scan) upwards(name, text string, bases []string) {
	if isKustomization(name) || path.Base(name) == "Chart.yaml" {
		if !s.add(path.Join(path.Dir(name), text)) {
			s.whole = true
		}
		return
	}
	for _, dir := range bases {
		s.add(path.Join(dir, text))
	}
}

// fromRoot is what a path in an engine's object is in the repository. Argo CD has $<name>/ before one in another of its sources.
func fromRoot(text string) string {
	if strings.HasPrefix(text, "$") {
		_, text, _ = strings.Cut(text, "/")
	}
	return path.Clean(strings.TrimLeft(text, "/"))
}

// addFile has a path count if it is a file.
func (s *scan) addFile(name string) {
	if s.is(name, filemode.Regular) || s.is(name, filemode.Executable) {
		s.add(name)
	}
}

// above are the directory of a file, and those above it that have a kustomization.
func (s *scan) above(name string) []string {
	dir := path.Dir(name)
	all := []string{dir}
	for dir != "." {
		dir = path.Dir(dir)
		if slices.ContainsFunc(konfig.RecognizedKustomizationFileNames(), func(file string) bool { return s.is(path.Join(dir, file), filemode.Regular) }) {
			all = append(all, dir)
		}
	}
	return all
}

// is says whether something of a mode is there.
func (s *scan) is(name string, mode filemode.FileMode) bool {
	entry := s.entry(name)
	return entry != nil && entry.Mode == mode
}

// entry is what a path is; nil if it is nothing.
func (s *scan) entry(name string) *object.TreeEntry {
	if s.looked++; s.looked > maxLooked {
		s.whole = true
		return nil
	}
	// Whatever a file may name is asked for here, also what go-git's own search takes for an invalid path.
	dir, last := path.Split(name)
	tree := s.root
	for _, part := range strings.FieldsFunc(dir, func(c rune) bool { return c == '/' }) {
		below := entryOf(tree, part)
		if below == nil || below.Mode != filemode.Dir {
			return nil
		}
		if tree = s.tree(below.Hash); tree == nil {
			return nil
		}
	}
	return entryOf(tree, last)
}

func entryOf(tree *object.Tree, name string) *object.TreeEntry {
	i := slices.IndexFunc(tree.Entries, func(e object.TreeEntry) bool { return e.Name == name })
	if i < 0 {
		return nil
	}
	return &tree.Entries[i]
}

// tree reads a directory; nil, and broken, if that is not here.
func (s *scan) tree(hash plumbing.Hash) *object.Tree {
	if tree, ok := s.trees[hash]; ok {
		return tree
	}
	tree, err := object.GetTree(s.repo.store, hash)
	if err != nil {
		s.broken = err
		return nil
	}
	s.trees[hash] = tree
	return tree
}

// has says that a path counts.
func (s *scan) has(name string) bool {
	for part := range s.parts {
		if within(part, name) {
			return true
		}
	}
	return false
}

func (s *scan) mentioned(name string) bool { return s.names[name] }

func (s *scan) mention(names []string) {
	for _, name := range names {
		s.names[name] = true
	}
}

// add has a path count, and says whether it is there.
func (s *scan) add(name string) bool {
	if s.has(name) {
		return true
	}
	if name == "." {
		s.whole = true
		return true
	}
	for above := path.Dir(name); above != "." && above != ".." && above != "/"; above = path.Dir(above) {
		if s.is(above, filemode.Symlink) { // wherever that leads
			s.whole = true
			return true
		}
	}
	entry := s.entry(name)
	if entry == nil {
		return false
	}
	s.parts[name] = entry.Hash
	s.todo = append(s.todo, name)
	return true
}
