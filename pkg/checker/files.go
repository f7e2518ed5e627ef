package checker

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/render"
)

// filesBelow are the files of a commit that lie in a directory, by their paths from there.
type filesBelow struct {
	*git.Files
	below  string
	names  []string
	hashes map[string]string
}

func newFilesBelow(all *git.Files, below string) render.Files {
	if below == "." {
		return all
	}
	f := &filesBelow{Files: all, below: below, hashes: map[string]string{}}
	for _, name := range all.Names() {
		if rest, ok := strings.CutPrefix(name, below+"/"); ok {
			f.names = append(f.names, rest)
			f.hashes[rest] = all.Hashes()[name]
		}
	}
	return f
}

// Names are those of all files.
func (f *filesBelow) Names() []string { return f.names }

// Hashes are those of the contents.
func (f *filesBelow) Hashes() map[string]string { return f.hashes }

// Read gives the first bytes of a file.
func (f *filesBelow) Read(name string, most int64) ([]byte, error) {
	return f.Files.Read(path.Join(f.below, name), most)
}

// Bring writes out files.
func (f *filesBelow) Bring(names ...string) error {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = path.Join(f.below, name)
	}
	return f.Files.Bring(all...)
}

// bring has files of a commit there, if it has them.
func bring(c render.Commit, names ...string) error {
	if c.Files == nil {
		return nil
	}
	return c.Files.Bring(names...)
}

// maxFile bounds a configuration and a baseline, in bytes.
const maxFile = 32 << 20

// settings are those of a file, or of the one in what is judged if there is one.
func settings(root, file string) (coverage.Config, error) {
	data, err := read(root, coverage.ConfigName, file)
	if err != nil {
		return coverage.Config{}, fmt.Errorf("reading the configuration: %w", err)
	}
	config, err := coverage.ParseConfig(data)
	var wrong *coverage.ConfigError
	if errors.As(err, &wrong) {
		wrong.File = file
	}
	return config, err
}

// settingsBefore are those that base was judged by. One that cannot be read judged nothing: then it is as in head.
func settingsBefore(base render.Commit, file string, head coverage.Config) (coverage.Config, error) {
	if file != "" {
		return head, nil
	}
	if err := bring(base, coverage.ConfigName); err != nil {
		return coverage.Config{}, err
	}
	if before, err := settings(base.Root, ""); err == nil {
		return before, nil
	}
	return head, nil
}

// applyBaseline takes out of the findings what a file knows, or the one in what is judged if there is one.
func applyBaseline(r *coverage.Report, root, file string) error {
	data, err := read(root, BaselineName, file)
	if data == nil && err == nil {
		return nil
	}
	var known coverage.Baseline
	if err == nil {
		known, err = coverage.ParseBaseline(data)
	}
	if err != nil {
		return fmt.Errorf("reading the baseline %q: %w", cmp.Or(file, BaselineName), err)
	}
	r.Apply(known)
	return nil
}

// read reads a file that a user names, which must be there, or else one of a name in root, which may be absent: then the data is nil.
// That one is a stranger's: it leads nowhere else.
func read(root, name, file string) ([]byte, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		return readAll(f)
	}
	in, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	info, err := in.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", name)
	}
	f, err := in.Open(name)
	if err != nil {
		return nil, err
	}
	return readAll(f)
}

func readAll(f *os.File) ([]byte, error) {
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", f.Name(), err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%q has more than %d MiB", f.Name(), maxFile>>20)
	}
	if data == nil {
		data = []byte{}
	}
	return data, nil
}
