package render

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// snapshot answers what is where out of memory, for a commit without links, in which a path cannot lead elsewhere. What lies outside it
// leaves to the file system that refuses it.
type snapshot struct {
	filesys.FileSystem
	root string
	// entries are as in an index.
	entries map[string]bool
	// files are nil if all are on disk; of others no more is read than one byte over the bound.
	files Files
	most  int64
}

// inside is the path relative to the root, with slashes, if it lies there.
func (s *snapshot) inside(path string) (string, bool) {
	rest, ok := strings.CutPrefix(filepath.Clean(path), s.root)
	switch {
	case ok && rest == "":
		return ".", true
	case ok && os.IsPathSeparator(rest[0]):
		return filepath.ToSlash(rest[1:]), true
	}
	return "", false
}

// Exists says whether there is something.
func (s *snapshot) Exists(path string) bool {
	if name, ok := s.inside(path); ok {
		_, there := s.entries[name]
		return there
	}
	return s.FileSystem.Exists(path)
}

// IsDir says whether there is a directory.
func (s *snapshot) IsDir(path string) bool {
	if name, ok := s.inside(path); ok {
		return s.entries[name]
	}
	return s.FileSystem.IsDir(path)
}

// CleanedAbs gives a directory, or that of a file and its name.
func (s *snapshot) CleanedAbs(path string) (filesys.ConfirmedDir, string, error) {
	name, ok := s.inside(path)
	if !ok {
		return s.FileSystem.CleanedAbs(path)
	}
	isDir, there := s.entries[name]
	clean := filepath.Clean(path)
	switch {
	case !there:
		return "", "", &fs.PathError{Op: "lstat", Path: path, Err: fs.ErrNotExist}
	case isDir:
		return filesys.ConfirmedDir(clean), "", nil
	}
	return filesys.ConfirmedDir(filepath.Dir(clean)), filepath.Base(clean), nil
}

// ReadFile reads what is there.
func (s *snapshot) ReadFile(path string) ([]byte, error) {
	name, ok := s.inside(path)
	if !ok {
		return s.FileSystem.ReadFile(path)
	}
	if isDir, there := s.entries[name]; !there || isDir {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	if s.files != nil {
		return s.files.Read(name, s.most)
	}
	return os.ReadFile(filepath.Clean(path))
}
