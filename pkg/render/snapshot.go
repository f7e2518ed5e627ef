package render

import (
	"io/fs"
	"os"
	"path/filepath"

	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// snapshot answers what is where out of memory, for a commit without links, in which a path cannot lead elsewhere. What lies outside it
// leaves to the file system that refuses it.
type snapshot struct {
	filesys.FileSystem
	root string
	// entries are all files and directories by their absolute paths, with whether they are directories.
	entries map[string]bool
	// files are nil if all are on disk; of others no more is read than one byte over the bound.
	files Files
	most  int64
}

// inside is the path cleaned, if it lies in the root.
func (s *snapshot) inside(path string) (string, bool) {
	path = filepath.Clean(path)
	return path, filepath.IsAbs(path) && within(path, s.root)
}

// Exists says whether there is something.
func (s *snapshot) Exists(path string) bool {
	if clean, ok := s.inside(path); ok {
		_, there := s.entries[clean]
		return there
	}
	return s.FileSystem.Exists(path)
}

// IsDir says whether there is a directory.
func (s *snapshot) IsDir(path string) bool {
	if clean, ok := s.inside(path); ok {
		return s.entries[clean]
	}
	return s.FileSystem.IsDir(path)
}

// CleanedAbs gives a directory, or that of a file and its name.
func (s *snapshot) CleanedAbs(path string) (filesys.ConfirmedDir, string, error) {
	clean, ok := s.inside(path)
	if !ok {
		return s.FileSystem.CleanedAbs(path)
	}
	isDir, there := s.entries[clean]
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
	clean, ok := s.inside(path)
	if !ok {
		return s.FileSystem.ReadFile(path)
	}
	if isDir, there := s.entries[clean]; !there || isDir {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	if s.files != nil {
		rel, err := filepath.Rel(s.root, clean)
		if err != nil {
			return nil, err
		}
		return s.files.Read(filepath.ToSlash(rel), s.most)
	}
	return os.ReadFile(clean)
}
