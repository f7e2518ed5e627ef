package git

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// list describes everything below dir except .git: the kind and permission to execute, and the content or target.
func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		switch d.Type() {
		case fs.ModeDir:
			if name == ".git" {
				return filepath.SkipDir
			}
			found[name] = "directory"
		case fs.ModeSymlink:
			target, err := os.Readlink(file)
			found[name] = "-> " + target
			return err
		default:
			info, err := d.Info()
			if err != nil {
				return err
			}
			content, err := os.ReadFile(file)
			found[name] = info.Mode().String()[3:4] + " " + string(content)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func materialise(t *testing.T, r *Repository, commit, path string) (map[string]string, error) {
	t.Helper()
	dir := t.TempDir()
	err := r.Materialise(t.Context(), v1alpha1.Revision{Commit: commit, Path: path}, dir)
	if err != nil {
		return nil, err
	}
	return list(t, dir), nil
}

func TestMaterialise(t *testing.T) {
	w := newWork(t)
	w.write("deploy/kustomization.yaml", "resources: [../base]")
	w.write("base/db.yaml", "kind: X\n")
	w.write("empty", "")
	w.write("odd \n name/ü", "x")
	w.write("run.sh", "#!/bin/sh\n")
	w.write("deploy/link", "-> ../base/db.yaml")
	w.write("deploy/dir", "-> ../base")
	w.write("deploy/over-a-link", "-> dir/db.yaml")
	w.write("deploy/dangling", "-> nothing")
	w.write("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
	w.git("add", "-A")
	w.git("update-index", "--chmod=+x", "run.sh")
	w.git("commit", "-q", "-m", "one")
	commit := w.git("rev-parse", "HEAD")
	clone := filepath.Join(t.TempDir(), "clone")
	w.git("clone", "-q", w.dir, clone)
	want := list(t, clone)
	if want["run.sh"] != "x #!/bin/sh\n" || want["deploy/link"] != "-> ../base/db.yaml" {
		t.Fatalf("the clone to compare with is wrong: %v", want)
	}
	for name, location := range map[string]string{
		"remote": serve(t, w).url(), "remote by name": serve(t, w, "uploadpack.allowAnySHA1InWant=true").url(), "local": w.dir,
	} {
		got, err := materialise(t, open(t, location, Options{}), commit, "deploy")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: differs from what git writes (-want +got):\n%s", name, diff)
		}
	}
}

// TestMaterialiseLinks has links that leave the repository, refused inside the path and left out elsewhere.
func TestMaterialiseLinks(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"absolute":             {"deploy/l": "-> /etc/passwd"},
		"up":                   {"deploy/l": "-> ../../x"},
		"up through a link":    {"deploy/up": "-> ..", "deploy/l": "-> up/../x"},
		"up after a long name": {"deploy/a/b/f": "x", "deploy/l": "-> a/b/../../../../x"},
		"to the root itself":   {"deploy/l": "-> ../../" + "work"},
		"in a circle":          {"deploy/l": "-> m", "deploy/m": "-> l"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWork(t)
			for file, content := range files {
				w.write(file, content)
			}
			w.write("other/f", "x")
			commit := w.commit("one")
			r := open(t, w.dir, Options{})
			for _, path := range []string{".", "deploy"} {
				if _, err := materialise(t, r, commit, path); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "deploy/l") {
					t.Errorf("path %q: got error %v, want ErrUnsafe that names the link", path, err)
				}
			}
			got, err := materialise(t, r, commit, "other")
			if _, there := got["deploy/l"]; err != nil || there || got["other/f"] == "" {
				t.Errorf("path elsewhere: got %v, %v, want all but the link", got, err)
			}
		})
	}
}

func TestMaterialiseSubmodule(t *testing.T) {
	w := newWork(t)
	w.write("deploy/f", "x")
	first := w.commit("one")
	w.git("update-index", "--add", "--cacheinfo", "160000,"+first+",deploy/sub")
	w.git("commit", "-q", "-m", "two")
	commit := w.git("rev-parse", "HEAD")
	r := open(t, w.dir, Options{})
	if _, err := materialise(t, r, commit, "deploy"); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), `"deploy/sub" is a submodule`) {
		t.Errorf("inside the path: got error %v, want ErrUnsafe that names it", err)
	}
	if got, err := materialise(t, r, commit, "deploy/f"); err != nil || got["deploy/sub"] != "directory" {
		t.Errorf("elsewhere: got %v, %v, want an empty directory as git makes", got, err)
	}
}

// TestMaterialiseHostile has trees that the git program would not make.
func TestMaterialiseHostile(t *testing.T) {
	w := newWork(t)
	w.write("f", "x")
	w.commit("one")
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	blob, link := w.git("rev-parse", "HEAD:f"), hashObject(w, "blob", outside)
	sub := hashObject(w, "tree", entry(w, "100644", "f", blob))
	for name, tree := range map[string]string{
		"parent":              entry(w, "40000", "..", sub),
		"itself":              entry(w, "40000", ".", sub),
		".git":                entry(w, "40000", ".git", sub),
		".GIT":                entry(w, "40000", ".GIT", sub),
		"a path as a name":    entry(w, "100644", "../../x", blob),
		"an absolute name":    entry(w, "100644", "/tmp/x", blob),
		"an empty name":       entry(w, "100644", "", blob),
		"link and directory":  entry(w, "120000", "a", link) + entry(w, "40000", "a", sub),
		"file twice":          entry(w, "100644", "a", blob) + entry(w, "100644", "a", blob),
		"an unknown mode":     entry(w, "60000", "a", blob),
		"a missing directory": entry(w, "40000", "a", strings.Repeat("1", 40)),
		"a missing file":      entry(w, "100644", "a", strings.Repeat("1", 40)),
		"a file as directory": entry(w, "40000", "a", blob),
		"a directory as file": entry(w, "100644", "a", sub),
	} {
		t.Run(name, func(t *testing.T) {
			commit := w.git("commit-tree", "-m", "x", hashObject(w, "tree", tree))
			dir := t.TempDir()
			err := open(t, w.dir, Options{}).Materialise(t.Context(), v1alpha1.Revision{Commit: commit, Path: "."}, dir)
			if err == nil {
				t.Errorf("written: %v", list(t, dir))
			}
			if left := list(t, outside); len(left) > 1 {
				t.Errorf("written outside: %v", left)
			}
		})
	}
}

// entry is one line of a tree object.
func entry(w *work, mode, name, hash string) string {
	w.t.Helper()
	raw := make([]byte, 0, 20)
	for i := 0; i < len(hash); i += 2 {
		raw = append(raw, unhex(hash[i])<<4|unhex(hash[i+1]))
	}
	return mode + " " + name + "\x00" + string(raw)
}

func unhex(c byte) byte { return byte(strings.IndexByte("0123456789abcdef", c)) }

func hashObject(w *work, kind, content string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "git", "hash-object", "-t", kind, "-w", "--literally", "--stdin")
	cmd.Dir, cmd.Stdin = w.dir, strings.NewReader(content)
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestMaterialiseLimits(t *testing.T) {
	w := newWork(t)
	w.write("a/b", strings.Repeat("x", 1000))
	w.write("c", strings.Repeat("y", 1000))
	commit := w.commit("one")
	for name, c := range map[string]struct {
		o  Options
		ok bool
	}{
		"as many files":    {Options{MaxFiles: 3}, true},
		"too many files":   {Options{MaxFiles: 2}, false},
		"as many bytes":    {Options{MaxTree: 2000}, true},
		"too many by one":  {Options{MaxTree: 1999}, false},
		"far below limits": {Options{}, true},
	} {
		_, err := materialise(t, open(t, w.dir, c.o), commit, ".")
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

func TestMaterialiseRefuses(t *testing.T) {
	w, v1, _ := shop(t)
	r := open(t, w.dir, Options{})
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "f"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Materialise(t.Context(), v1alpha1.Revision{Commit: v1, Path: "."}, full); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("a directory with files: got error %v", err)
	}
	if err := r.Materialise(t.Context(), v1alpha1.Revision{Commit: v1, Path: "."}, filepath.Join(full, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: got error %v", err)
	}
	if _, err := materialise(t, r, strings.Repeat("1", 40), "."); !errors.Is(err, ErrRefNotFound) {
		t.Errorf("no such commit: got error %v", err)
	}
	if _, err := materialise(t, r, v1, "../x"); err == nil {
		t.Error("a path that leaves the repository is taken")
	}
}
