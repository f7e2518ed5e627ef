package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
	"sigs.k8s.io/yaml"
)

type metadata struct {
	Name, Description, Author string
	Inputs                    map[string]struct {
		Description, Default string
		Required             bool
	}
	Outputs map[string]struct{ Description, Value string }
	Runs    struct {
		Using string
		Steps []struct {
			ID, Shell, Run string
			Env            map[string]string
		}
	}
}

var usesInput = regexp.MustCompile(`^\$\{\{ inputs\.([a-z0-9-]+) \}\}$`)

// A composite action gets no INPUT_…: each input must be put there, and none may come into a shell in another way.
func TestMetadata(t *testing.T) {
	files, err := filepath.Glob("*/action.yml")
	if err != nil || len(files) != 4 {
		t.Fatalf("the actions are %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Dir(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var m metadata
			if err := yaml.UnmarshalStrict(data, &m); err != nil {
				t.Fatal(err)
			}
			if m.Name == "" || m.Description == "" || m.Runs.Using != "composite" {
				t.Errorf("the action is %q, %q, %q", m.Name, m.Description, m.Runs.Using)
			}
			used := map[string]bool{}
			for i, s := range m.Runs.Steps {
				if s.Shell != "bash" || strings.Contains(s.Run, "${{") {
					t.Errorf("step %d: shell %q, %q", i, s.Shell, s.Run)
				}
				for name, value := range s.Env {
					found := usesInput.FindStringSubmatch(value)
					if found == nil || name != "INPUT_"+strings.ToUpper(strings.ReplaceAll(found[1], "-", "_")) {
						t.Errorf("step %d: %s is %q", i, name, value)
						continue
					}
					if _, ok := m.Inputs[found[1]]; !ok {
						t.Errorf("step %d uses the input %q, which there is not", i, found[1])
					}
					used[found[1]] = true
				}
			}
			for name, in := range m.Inputs {
				if !used[name] || in.Description == "" {
					t.Errorf("input %q is used: %v; its description is %q", name, used[name], in.Description)
				}
			}
			for name, out := range m.Outputs {
				last := m.Runs.Steps[len(m.Runs.Steps)-1].ID
				if out.Value != "${{ steps."+last+".outputs."+name+" }}" || out.Description == "" {
					t.Errorf("output %q is %q", name, out.Value)
				}
			}
		})
	}
}

// actionlint knows the workflow's syntax, its expressions, and the inputs and outputs of the actions of this repository.
func TestWorkflows(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	project, err := actionlint.NewProject(root)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../.github/workflows/*.yml")
	if err != nil || len(files) < 3 {
		t.Fatalf("the workflows are %v, %v", files, err)
	}
	var out bytes.Buffer
	linter, err := actionlint.NewLinter(&out, &actionlint.LinterOptions{WorkingDir: root})
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		found, err := linter.LintFile(file, project)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range found {
			t.Error(e)
		}
	}
	// The linter must be able to object.
	wrong := "on: push\njobs:\n  a:\n    runs-on: ubuntu-24.04\n    steps:\n      - uses: ./action/check\n        with: {no-such-input: x}\n"
	if found, err := linter.Lint(filepath.Join(root, ".github/workflows/wrong.yml"), []byte(wrong), project); err != nil || len(found) == 0 {
		t.Errorf("a wrong workflow passes: %v", err)
	}
}

// archive is what a release has for this machine: programs that say their name.
func archive(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	tw := tar.NewWriter(zipped)
	for _, name := range []string{"lockstep", "lockstep-action"} {
		script := "#!/bin/sh\necho v9.9.9\n"
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(script))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, script); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestInstall(t *testing.T) {
	for _, tool := range []string{"bash", "curl", "tar", "awk"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("there is no %s", tool)
		}
	}
	good := archive(t)
	sum := fmt.Sprintf("%x", sha256.Sum256(good))
	name := "lockstep_" + runtime.GOOS + "_" + runtime.GOARCH + ".tar.gz"
	binaries := t.TempDir()
	for _, program := range []string{"lockstep", "lockstep-action"} {
		if err := os.WriteFile(filepath.Join(binaries, program), []byte("#!/bin/sh\necho own\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for title, tt := range map[string]struct {
		env    []string
		list   string
		served []byte
		// want is the version that is set up; empty if the step must fail with the text of fails.
		want, fails string
	}{
		"latest":                       {list: sum + "  " + name + "\n", served: good, want: "v9.9.9"},
		"a version":                    {env: []string{"INPUT_VERSION=v9.9.9"}, list: "0  other\n" + sum + " *" + name + "\n", served: good, want: "v9.9.9"},
		"a checksum of the user's":     {env: []string{"INPUT_SHA256=" + sum}, served: good, want: "v9.9.9"},
		"another archive":              {list: sum + "  " + name + "\n", served: append([]byte("x"), good...), fails: "is not what it should be"},
		"another checksum of the user": {env: []string{"INPUT_SHA256=00"}, list: sum + "  " + name + "\n", served: good, fails: "is not what it should be"},
		"not in the list":              {list: sum + "  lockstep_plan9_arm.tar.gz\n", served: good, fails: "is not what it should be"},
		"no list":                      {served: good, fails: "checksums"},
		"no release":                   {list: sum + "  " + name + "\n", fails: "could not be fetched"},
		"no version":                   {env: []string{"INPUT_VERSION=$(id)"}, served: good, fails: "must be latest"},
		"programs at hand":             {env: []string{"INPUT_BINARY=" + binaries}, want: "own"},
		"a directory without them":     {env: []string{"INPUT_BINARY=" + t.TempDir()}, fails: "holds no program"},
		"set up before":                {env: []string{"LOCKSTEP_SET_UP=" + binaries}, want: "own"},
	} {
		t.Run(title, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/"+name) && tt.served != nil:
					_, _ = w.Write(tt.served)
				case strings.HasSuffix(r.URL.Path, "/checksums.txt") && tt.list != "":
					_, _ = io.WriteString(w, tt.list)
				default:
					w.WriteHeader(http.StatusNotFound)
				}
			}))
			defer server.Close()
			temp := t.TempDir()
			run := exec.CommandContext(t.Context(), "bash", "setup/install.sh")
			run.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.Contains(strings.ToLower(e), "proxy") }),
				append([]string{"LOCKSTEP_RELEASES=" + server.URL, "RUNNER_TEMP=" + temp, "GITHUB_PATH=" + temp + "/path", "GITHUB_ENV=" + temp + "/env",
					"GITHUB_OUTPUT=" + temp + "/output"}, tt.env...)...)
			log, err := run.CombinedOutput()
			if tt.want == "" {
				if err == nil || !strings.Contains(string(log), "::error") || !strings.Contains(string(log), tt.fails) {
					t.Errorf("%v: %s", err, log)
				}
				if _, err := os.Stat(temp + "/path"); err == nil {
					t.Error("something is on the PATH")
				}
				return
			}
			if err != nil {
				t.Fatalf("%v: %s", err, log)
			}
			dir, err := os.ReadFile(temp + "/path")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(strings.TrimSpace(string(dir)), "lockstep-action")); err != nil {
				t.Error(err)
			}
			if out, err := os.ReadFile(temp + "/output"); err != nil || string(out) != "version="+tt.want+"\n" {
				t.Errorf("the outputs are %q, %v", out, err)
			}
		})
	}
}
