package image

import (
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// AddPrograms adds ELF files from the unpacked system at root, at the paths
// they have there, with the shared libraries they need. Nothing comes from the
// system this runs on.
func (l *Layer) AddPrograms(root string, paths ...string) error {
	seen := map[string]bool{}
	for _, p := range paths {
		if err := l.addProgram(root, p, seen); err != nil {
			return fmt.Errorf("packing program %q: %w", p, err)
		}
	}
	return nil
}

func (l *Layer) addProgram(root, path string, seen map[string]bool) error {
	if seen[path] {
		return nil
	}
	seen[path] = true
	file, err := resolve(root, path)
	if err != nil {
		return err
	}
	l.put(path, entry{mode: 0o755, file: file})
	needed, interpreter, err := dependencies(file)
	if err != nil {
		return err
	}
	if interpreter != "" {
		if err := l.addProgram(root, interpreter, seen); err != nil {
			return err
		}
	}
	for _, lib := range needed {
		p, err := findLibrary(root, lib)
		if err != nil {
			return err
		}
		if err := l.addProgram(root, p, seen); err != nil {
			return err
		}
	}
	return nil
}

// dependencies returns the names of the libraries an ELF file is linked with,
// and the path of the dynamic loader it asks for.
func dependencies(file string) (needed []string, interpreter string, err error) {
	f, err := elf.Open(file)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = f.Close() }()
	if s := f.Section(".interp"); s != nil {
		b, err := s.Data()
		if err != nil {
			return nil, "", err
		}
		interpreter = strings.TrimRight(string(b), "\x00")
	}
	needed, err = f.ImportedLibraries()
	return needed, interpreter, err
}

// findLibrary looks in the directories that the loader looks in.
func findLibrary(root, name string) (string, error) {
	for _, pattern := range []string{"lib/*-linux-gnu", "usr/lib/*-linux-gnu", "lib", "usr/lib", "lib64"} {
		matches, err := filepath.Glob(filepath.Join(root, pattern, name))
		if err != nil {
			return "", err
		}
		if len(matches) > 0 {
			return strings.TrimPrefix(matches[0], root), nil
		}
	}
	return "", fmt.Errorf("library %q is in none of the unpacked packages", name)
}

// resolve follows symbolic links as a process whose root is root would.
func resolve(root, path string) (string, error) {
	p := filepath.Join(root, path)
	for range 16 {
		target, err := os.Readlink(p)
		if err != nil {
			_, err := os.Stat(p)
			return p, err
		}
		if filepath.IsAbs(target) {
			p = filepath.Join(root, target)
		} else {
			p = filepath.Join(filepath.Dir(p), target)
		}
	}
	return "", fmt.Errorf("too many links at %q", path)
}
