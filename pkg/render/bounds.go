package render

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/konfig"
)

// bounds are of one build. Repositories come from strangers, too.
type bounds struct {
	// file and all are bytes: of one file, and of all that a build reads.
	file, all int64
	// files are how often files are read.
	files int
	// nodes are the values in a YAML file, with those that aliases repeat.
	nodes int
	// objects are of all owners.
	objects int
}

var defaultBounds = bounds{file: 8 << 20, all: 64 << 20, files: 20_000, nodes: 2_000_000, objects: 200_000}

// BoundError says that something is larger than what is rendered.
type BoundError struct{ message string }

func (e *BoundError) Error() string { return e.message }

func tooMuch(format string, args ...any) error {
	return &BoundError{fmt.Sprintf(format, args...)}
}

// read reads a file within the bounds.
func (fs *guardedFS) read(file string) ([]byte, error) {
	if err := fs.over(); err != nil {
		return nil, err
	}
	if fs.bounds.files--; fs.bounds.files < 0 {
		return nil, tooMuch("more files are read than the %d that one build may", defaultBounds.files)
	}
	if data, ok := fs.contents[file]; ok {
		return data, nil
	}
	if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Size() > fs.bounds.file {
		return nil, tooMuch("has %d bytes, more than the %d that a file may", info.Size(), fs.bounds.file)
	}
	data, err := fs.FileSystem.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > fs.bounds.file { // through a link, or only so much of it was read
		return nil, tooMuch("has more bytes than the %d that a file may", fs.bounds.file)
	}
	if fs.bounds.all -= int64(len(data)); fs.bounds.all < 0 {
		return nil, tooMuch("with it more is read than the %d bytes that one build may", defaultBounds.all)
	}
	if err := checkAliases(data, fs.bounds.nodes); err != nil {
		return nil, err
	}
	if fs.contents != nil {
		fs.contents[file] = data
	}
	return data, nil
}

// boundAll checks the manifests of a directory before a kustomization of all of them is made.
func (fs *guardedFS) boundAll(dir string, flat bool) error {
	count := *fs
	return filepath.WalkDir(dir, func(file string, entry os.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && file != dir && (flat || entry.Name() == ".git" || fs.hasKustomization(file)):
			return filepath.SkipDir
		case entry.IsDir() || filepath.Ext(file) != ".yaml" && filepath.Ext(file) != ".yml":
			return fs.over()
		case !fs.sight.sees(fs.name(file)):
			return nil
		}
		if _, err := count.read(file); err != nil && errors.As(err, new(*BoundError)) {
			fs.refused = &Error{File: fs.name(file), Err: err}
			return fs.refused
		}
		return nil
	})
}

func (fs *guardedFS) hasKustomization(dir string) bool {
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		if info, err := os.Lstat(filepath.Join(dir, name)); err == nil && !info.IsDir() {
			return true
		}
	}
	return false
}

// checkAliases refuses YAML that becomes much larger when its aliases are followed.
func checkAliases(data []byte, limit int) error {
	if !bytes.Contains(data, []byte("*")) || !bytes.Contains(data, []byte("&")) {
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	total := 0
	for {
		var document yaml.Node
		if err := decode(decoder, &document); err != nil {
			return nil // the end, or no YAML: whoever reads it as such says so
		}
		if total = saturate(total, expanded(&document, map[*yaml.Node]int{})); total > limit {
			return tooMuch("its YAML aliases repeat more than %d values", limit)
		}
	}
}

// decode keeps a panic of the parser to the file.
func decode(decoder *yaml.Decoder, into any) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("is no YAML: %v", r)
		}
	}()
	return decoder.Decode(into)
}

// expanded counts values; an alias to something that it is in has infinitely many.
func expanded(node *yaml.Node, known map[*yaml.Node]int) int {
	if n, ok := known[node]; ok {
		return n
	}
	known[node] = math.MaxInt
	n := 1
	if node.Alias != nil {
		n = saturate(n, expanded(node.Alias, known))
	}
	for _, child := range node.Content {
		n = saturate(n, expanded(child, known))
	}
	known[node] = n
	return n
}

func saturate(a, b int) int {
	if a > math.MaxInt-b {
		return math.MaxInt
	}
	return a + b
}
