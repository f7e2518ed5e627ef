package step

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

const (
	headCommit = "1111111111111111111111111111111111111111"
	baseCommit = "2222222222222222222222222222222222222222"
)

// runner is a fake of what a job runs in: the files of the runner, its environment, and a GitHub that keeps comments.
type runner struct {
	t    *testing.T
	env  map[string]string
	log  bytes.Buffer
	errs bytes.Buffer
	// lockstep stands in for the program.
	lockstep func(Command) int
	ran      []Command

	mu       sync.Mutex
	comments []string
	notes    string
	readOnly bool
}

func newRunner(t *testing.T, inputs map[string]string) *runner {
	t.Helper()
	r := &runner{t: t}
	server := httptest.NewServer(http.HandlerFunc(r.github))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	r.env = map[string]string{
		"GITHUB_OUTPUT": filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary"), "GITHUB_EVENT_PATH": filepath.Join(dir, "event.json"),
		"GITHUB_API_URL": server.URL, "GITHUB_REPOSITORY": "acme/shop", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_SHA": headCommit,
		"RUNNER_TEMP": dir, "PATH": "/bin",
	}
	for name, value := range inputs {
		r.env["INPUT_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))] = value
	}
	return r
}

// github is no GitHub: it keeps the comments of pull request 7 and the notes of release 3.
func (r *runner) github(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var in struct{ Body string }
	if req.Method != http.MethodGet {
		if r.readOnly || req.Header.Get("Authorization") != "Bearer gh-t0ken" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_ = json.NewDecoder(req.Body).Decode(&in)
	}
	switch req.Method + " " + req.URL.Path {
	case "GET /repos/acme/shop/issues/7/comments":
		all := []any{}
		for i, body := range r.comments {
			all = append(all, map[string]any{"id": i + 1, "body": body, "user": map[string]string{"login": "github-actions[bot]", "type": "Bot"}})
		}
		_ = json.NewEncoder(w).Encode(all)
	case "POST /repos/acme/shop/issues/7/comments":
		r.comments = append(r.comments, in.Body)
		w.WriteHeader(http.StatusCreated)
	case "PATCH /repos/acme/shop/issues/comments/1":
		r.comments[0] = in.Body
	case "GET /repos/acme/shop/releases/3":
		_ = json.NewEncoder(w).Encode(map[string]string{"body": r.notes})
	case "PATCH /repos/acme/shop/releases/3":
		r.notes = in.Body
	case "GET /token":
		if req.Header.Get("Authorization") != "Bearer runner" || req.URL.Query().Get("audience") != "clusters" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		claims := base64.RawURLEncoding.EncodeToString([]byte(`{"exp": 1800000000}`))
		_ = json.NewEncoder(w).Encode(map[string]string{"value": "h." + claims + ".s"})
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (r *runner) run(step string) int {
	r.t.Helper()
	j := &Job{
		Out: &r.log, Err: &r.errs, Getenv: func(k string) string { return r.env[k] }, HTTP: http.DefaultClient,
		Environ: func() []string {
			var env []string
			for k, v := range r.env {
				env = append(env, k+"="+v)
			}
			return env
		},
		Run: func(_ context.Context, c Command) (int, error) {
			r.ran = append(r.ran, c)
			if r.lockstep == nil {
				return 0, errors.New("there is no lockstep")
			}
			return r.lockstep(c), nil
		},
		Wait: func(context.Context, time.Duration) error { return nil },
	}
	return j.Main(r.t.Context(), []string{step})
}

func (r *runner) event(v string) {
	r.t.Helper()
	if err := os.WriteFile(r.env["GITHUB_EVENT_PATH"], []byte(v), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *runner) file(env string) string {
	r.t.Helper()
	data, err := os.ReadFile(r.env[env])
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return string(data)
}

// outputs reads the file as the runner does.
func (r *runner) outputs() map[string]string {
	r.t.Helper()
	out := map[string]string{}
	lines := strings.Split(r.file("GITHUB_OUTPUT"), "\n")
	for i := 0; i+2 < len(lines); i += 3 {
		name, mark, ok := strings.Cut(lines[i], "<<")
		if !ok || lines[i+2] != mark {
			r.t.Fatalf("the output file is not as it should be: %q", lines)
		}
		out[name] = lines[i+1]
	}
	return out
}

// commands are the lines of the log that the runner takes for commands.
func (r *runner) commands() []string {
	var found []string
	stopped := ""
	for _, line := range strings.Split(r.log.String(), "\n") {
		line = strings.TrimSpace(line)
		switch {
		case stopped != "":
			if line == "::"+stopped+"::" {
				stopped = ""
			}
		case strings.HasPrefix(line, "::stop-commands::"):
			stopped = strings.TrimPrefix(line, "::stop-commands::")
		case strings.HasPrefix(line, "::") || strings.Contains(line, "##["):
			found = append(found, line)
		}
	}
	if stopped != "" {
		r.t.Error("commands are still stopped at the end of the step")
	}
	return found
}

const madePoint = `{"kind": "RestorePoint", "metadata": {"name": "shop-1", "namespace": "shop"}, "spec": {"policyRef": {"name": "shop"}, "trigger": "PreDeploy", "before": "` + headCommit + `"},
 "status": {"id": "20260301-040000-1a2b3c4d", "revision": {"repository": "https://git.example.com/shop.git", "commit": "` + baseCommit + `", "path": "deploy", "tree": "t"},
 "startedAt": "2026-03-01T04:00:00Z", "completedAt": "2026-03-01T04:01:30Z", "copies": [{"vault": "primary"}, {"vault": "offsite"}],
 "volumes": [{"claim": "data", "bytes": 1024}, {"claim": "log", "bytes": 1}]}}`

func TestBackup(t *testing.T) {
	r := newRunner(t, map[string]string{"policy": "shop", "namespace": "shop", "token": "gh-t0ken", "kubeconfig": "users: [{name: a, user: {token: k8s-t0ken}}]"})
	var config string
	r.lockstep = func(c Command) int {
		for _, e := range c.Env {
			if file, ok := strings.CutPrefix(e, "KUBECONFIG="); ok {
				data, err := os.ReadFile(file)
				info, statErr := os.Stat(file)
				if err != nil || statErr != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("the kubeconfig: %v, %v, %v", err, statErr, info)
				}
				config = file
				if !strings.Contains(string(data), "k8s-t0ken") {
					t.Errorf("the kubeconfig is %q", data)
				}
			}
			if strings.HasPrefix(e, "INPUT_") {
				t.Errorf("lockstep gets %s", e)
			}
		}
		fmt.Fprintln(c.Err, "volume data  Saved\n::error::forged by a volume's name")
		fmt.Fprintln(c.Out, madePoint)
		return 0
	}
	if code := r.run("backup"); code != 0 {
		t.Fatalf("exit code %d: %s", code, &r.log)
	}
	want := []string{"backup", "--before=" + headCommit, "--timeout=30m", "--output=json", "--namespace=shop", "--", "shop"}
	if !slices.Equal(r.ran[0].Args, want) {
		t.Errorf("ran lockstep %q, want %q", r.ran[0].Args, want)
	}
	for name, value := range map[string]string{"name": "shop-1", "namespace": "shop", "id": "20260301-040000-1a2b3c4d", "commit": baseCommit, "before": headCommit,
		"vault": "primary", "duration": "90", "volumes": "2", "bytes": "1025"} {
		if got := r.outputs()[name]; got != value {
			t.Errorf("output %s is %q, want %q", name, got, value)
		}
	}
	if commands := r.commands(); !slices.Equal(commands, []string{"::add-mask::k8s-t0ken", "::group::Restore point of shop before 1111111", "::endgroup::"}) {
		t.Errorf("the commands are %q", commands)
	}
	if !strings.Contains(r.log.String(), "volume data  Saved") {
		t.Error("the log does not show how it went")
	}
	if !strings.Contains(r.file("GITHUB_STEP_SUMMARY"), "<code>primary</code>") {
		t.Errorf("the summary is %q", r.file("GITHUB_STEP_SUMMARY"))
	}
	if _, err := os.Stat(config); config == "" || !os.IsNotExist(err) {
		t.Errorf("the kubeconfig %q is still there: %v", config, err)
	}
}

func TestBackupFails(t *testing.T) {
	for name, tt := range map[string]struct {
		inputs   map[string]string
		lockstep func(Command) int
		want     string
	}{
		"without a policy":       {want: `the input "policy" is missing`},
		"before no commit":       {inputs: map[string]string{"policy": "shop", "before": "main"}, want: "no full commit"},
		"two ways to a cluster":  {inputs: map[string]string{"policy": "shop", "kubeconfig": "a: b", "server": "https://k"}, want: "not both"},
		"a token over http":      {inputs: map[string]string{"policy": "shop", "server": "http://k", "cluster-token": "t"}, want: "https"},
		"a server, and no token": {inputs: map[string]string{"policy": "shop", "server": "https://k"}, want: "needs one of"},
		"a kubeconfig of no form": {inputs: map[string]string{"policy": "shop", "kubeconfig": "{s3cr3t"},
			want: "is not YAML"},
		"no lockstep": {inputs: map[string]string{"policy": "shop"}, want: "there is no lockstep"},
		"a point that failed": {inputs: map[string]string{"policy": "shop"}, want: "no restore point before the deploy: the point failed: HookFailed See: lockstep describe",
			lockstep: func(c Command) int {
				fmt.Fprint(c.Err, "made RestorePoint shop/shop-1\nlockstep: the point failed: HookFailed\n  See: lockstep describe\n")
				return 1
			}},
		"a point that is not complete": {inputs: map[string]string{"policy": "shop"}, want: "is not complete",
			lockstep: func(c Command) int {
				fmt.Fprint(c.Out, `{"metadata": {"name": "shop-1"}, "status": {}}`)
				return 0
			}},
		"nothing printed": {inputs: map[string]string{"policy": "shop"}, want: "reading the RestorePoint", lockstep: func(Command) int { return 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRunner(t, tt.inputs)
			r.lockstep = tt.lockstep
			if code := r.run("backup"); code != 1 {
				t.Errorf("exit code %d", code)
			}
			commands := strings.Join(r.commands(), "\n")
			if !strings.Contains(strings.ReplaceAll(commands, "  ", ""), "::error::") || !strings.Contains(strings.Join(strings.Fields(commands), " "), tt.want) {
				t.Errorf("the commands are %q, want an error with %q", commands, tt.want)
			}
			if len(r.outputs()) > 0 {
				t.Errorf("there are outputs: %v", r.outputs())
			}
			if strings.Contains(r.log.String(), "s3cr3t") {
				t.Error("the log holds the secret")
			}
		})
	}
}

func TestServerWithTokensOfGitHub(t *testing.T) {
	r := newRunner(t, map[string]string{"policy": "shop", "server": "https://k8s.example.com", "certificate-authority": "-----BEGIN", "oidc-audience": "clusters"})
	r.lockstep = func(c Command) int {
		for _, e := range c.Env {
			if file, ok := strings.CutPrefix(e, "KUBECONFIG="); ok {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				var config struct {
					Clusters []struct {
						Cluster struct {
							Server string
							CA     []byte `json:"certificate-authority-data"`
						}
					}
					Users []struct {
						User struct {
							Exec struct {
								Command string
								Args    []string
								Env     []struct{ Name, Value string }
							}
						}
					}
				}
				if err := yaml.Unmarshal(data, &config); err != nil {
					t.Fatal(err)
				}
				plugin := config.Users[0].User.Exec
				if config.Clusters[0].Cluster.Server != "https://k8s.example.com" || string(config.Clusters[0].Cluster.CA) != "-----BEGIN\n" ||
					!filepath.IsAbs(plugin.Command) || !slices.Equal(plugin.Args, []string{"token"}) || plugin.Env[0].Value != "clusters" {
					t.Errorf("the kubeconfig is %s", data)
				}
			}
		}
		fmt.Fprintln(c.Out, madePoint)
		return 0
	}
	if code := r.run("backup"); code != 0 {
		t.Errorf("exit code %d: %s", code, &r.log)
	}
}

func TestToken(t *testing.T) {
	r := newRunner(t, map[string]string{"oidc-audience": "clusters"})
	r.env["ACTIONS_ID_TOKEN_REQUEST_URL"], r.env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = r.env["GITHUB_API_URL"]+"/token?x=1", "runner"
	if code := r.run("token"); code != 0 {
		t.Fatalf("exit code %d: %s", code, &r.errs)
	}
	var credential struct {
		APIVersion, Kind string
		Status           struct{ Token, ExpirationTimestamp string }
	}
	if err := json.Unmarshal(r.log.Bytes(), &credential); err != nil {
		t.Fatal(err)
	}
	if credential.Kind != "ExecCredential" || !strings.HasPrefix(credential.Status.Token, "h.") || credential.Status.ExpirationTimestamp != "2027-01-15T07:59:30Z" {
		t.Errorf("the credential is %+v", credential)
	}
	denied := newRunner(t, nil)
	if code := denied.run("token"); code != 1 || denied.log.Len() > 0 || !strings.Contains(denied.errs.String(), "id-token: write") {
		t.Errorf("exit code %d, %q, %q", code, &denied.log, &denied.errs)
	}
}

const findings = `{"head": "` + headCommit + `", "base": "` + baseCommit + `", "findings": [
 {"rule": "LS101", "severity": "error", "object": {"kind": "PersistentVolumeClaim", "namespace": "shop", "name": "data"}, "file": "shop.yaml", "line": 3, "message": "the claim goes", "fix": "keep it", "fingerprint": "f"}],
 "coverage": [], "impact": [{"rule": "LS101", "namespace": "shop", "volume": "data", "size": "40Gi", "effect": "deleted", "why": "it is pruned", "protected": "unprotected"}],
 "notRendered": [], "replayable": {"answer": "yes", "reasons": []}, "suppressed": []}`

const pullRequest = `{"pull_request": {"number": 7, "base": {"sha": "` + baseCommit + `"}}}`

// checks stands in for lockstep check.
func checks(code int, printed string) func(Command) int {
	return func(c Command) int {
		fmt.Fprint(c.Out, printed)
		return code
	}
}

func TestCheck(t *testing.T) {
	r := newRunner(t, map[string]string{"token": "gh-t0ken", "baseline": "known.json"})
	sarif := filepath.Join(t.TempDir(), "out", "lockstep.sarif")
	r.env["INPUT_SARIF_FILE"], r.env["GITHUB_REF"] = sarif, "refs/pull/7/merge"
	r.event(pullRequest)
	r.lockstep = checks(1, findings)
	if code := r.run("check"); code != 1 {
		t.Errorf("exit code %d", code)
	}
	want := []string{"check", "--format=json", "--fail-on=error", "--base=HEAD^1", "--baseline=known.json", "--", "."}
	if !slices.Equal(r.ran[0].Args, want) {
		t.Errorf("ran lockstep %q, want %q", r.ran[0].Args, want)
	}
	commands := strings.Join(r.commands(), "\n")
	if !strings.Contains(commands, "::error title=LS101 claim-pruned,file=shop.yaml,line=3::") || !strings.Contains(commands, "::add-mask::gh-t0ken") {
		t.Errorf("the commands are %q", commands)
	}
	if out := r.outputs(); out["errors"] != "1" || out["warnings"] != "0" || out["replayable"] != "yes" || out["sarif-file"] != sarif {
		t.Errorf("the outputs are %v", out)
	}
	for _, text := range append(r.comments, r.file("GITHUB_STEP_SUMMARY")) {
		if !strings.Contains(text, "Merging this will delete claim <code>shop/data</code>, 40Gi") ||
			!strings.Contains(text, "https://github.com/acme/shop/blob/"+headCommit+"/shop.yaml#L3") {
			t.Errorf("the text is %q", text)
		}
	}
	if data, err := os.ReadFile(sarif); err != nil || !json.Valid(data) {
		t.Errorf("the SARIF file: %v", err)
	}
	r.lockstep = checks(0, strings.Replace(findings, `"severity": "error"`, `"severity": "note"`, 1))
	if code := r.run("check"); code != 0 || len(r.comments) != 1 || !strings.Contains(r.comments[0], "1 note") {
		t.Errorf("the second time: exit code %d, comments %q", code, r.comments)
	}
}

func TestCheckOfAFork(t *testing.T) {
	r := newRunner(t, map[string]string{"token": "gh-t0ken", "fail-on": "off"})
	r.readOnly = true
	r.event(pullRequest)
	r.lockstep = checks(0, findings)
	if code := r.run("check"); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if commands := strings.Join(r.commands(), "\n"); !strings.Contains(commands, "::notice::No comment was left") {
		t.Errorf("the commands are %q", commands)
	}
	if !strings.Contains(r.file("GITHUB_STEP_SUMMARY"), "Merging this will delete") {
		t.Error("the summary does not have it")
	}
	if !slices.Contains(r.ran[0].Args, "--base="+baseCommit) {
		t.Errorf("ran lockstep %q", r.ran[0].Args)
	}
}

func TestCheckThatCouldNotBe(t *testing.T) {
	for name, lockstep := range map[string]func(Command) int{
		"2":       func(c Command) int { fmt.Fprint(c.Err, "lockstep: no such commit\n  fetch it\n"); return 2 },
		"nothing": checks(0, ""),
		"no JSON": checks(1, "findings"),
	} {
		r := newRunner(t, map[string]string{"fail-on": "off"})
		r.lockstep = lockstep
		if code := r.run("check"); code != 1 || !strings.Contains(strings.Join(r.commands(), "\n"), "::error::") {
			t.Errorf("%s: exit code %d: %q", name, code, r.commands())
		}
	}
}

// TestCheckOfNothing: a repository of which nothing can be rendered is not checked, and the summary says what was not.
func TestCheckOfNothing(t *testing.T) {
	r := newRunner(t, map[string]string{"fail-on": "off"})
	r.lockstep = func(c Command) int {
		fmt.Fprint(c.Out, `{"findings": [], "unchecked": true, "notRendered": [{"file": "shop.yaml", "line": 1, "what": "Application shop", "why": "a plugin makes it"}], "replayable": {"answer": "no"}}`)
		fmt.Fprint(c.Err, "lockstep: nothing could be rendered\n")
		return 2
	}
	if code := r.run("check"); code != 1 || !strings.Contains(strings.Join(r.commands(), "\n"), "::error::could not check: nothing could be rendered") {
		t.Errorf("exit code %d: %q", code, r.commands())
	}
	if summary := r.file("GITHUB_STEP_SUMMARY"); !strings.Contains(summary, "Could not be checked") || !strings.Contains(summary, "a plugin makes it") {
		t.Errorf("the summary is %q", summary)
	}
}

func TestRestorePlan(t *testing.T) {
	for code, tt := range map[int]struct{ restorable, says string }{
		0: {"yes", "would do this"}, 3: {"unknown", "not known"}, 4: {"no", "**not** be restored"}, 5: {"refused", "refused"},
	} {
		r := newRunner(t, map[string]string{"token": "gh-t0ken", "vault": "s3://acme-dr/prod"})
		r.notes = "New: soap."
		r.event(`{"release": {"id": 3, "tag_name": "v1.4.2"}}`)
		r.lockstep = func(c Command) int {
			fmt.Fprint(c.Out, "Restore ```of``` @octocat\n  claim data\n")
			if code != 0 {
				fmt.Fprint(c.Err, "lockstep: because of <b>\n")
			}
			return code
		}
		if got := r.run("restore-plan"); got != 0 {
			t.Fatalf("%d: exit code %d: %s", code, got, &r.log)
		}
		if want := []string{"restore", "--dry-run", "--tag=v1.4.2", "--vault=s3://acme-dr/prod"}; !slices.Equal(r.ran[0].Args, want) {
			t.Errorf("ran lockstep %q, want %q", r.ran[0].Args, want)
		}
		if got := r.outputs()["restorable"]; got != tt.restorable {
			t.Errorf("%d: restorable is %q, want %q", code, got, tt.restorable)
		}
		for _, text := range []string{r.notes, r.file("GITHUB_STEP_SUMMARY")} {
			if !strings.Contains(text, tt.says) || !strings.Contains(text, "````text\nRestore ```of``` @octocat\n  claim data\n````\n") || strings.Contains(text, "<b>") {
				t.Errorf("%d: the text is %q", code, text)
			}
		}
		if !strings.HasPrefix(r.notes, "New: soap.\n") {
			t.Errorf("the release's own notes are gone: %q", r.notes)
		}
		r.env["INPUT_REQUIRED"] = "true"
		if got := r.run("restore-plan"); (got == 0) != (code == 0) {
			t.Errorf("%d and required: exit code %d", code, got)
		}
	}
}

func TestRestorePlanThatCouldNotBe(t *testing.T) {
	for name, prepare := range map[string]func(*runner){
		"no tag":   func(*runner) {},
		"exit 2":   func(r *runner) { r.env["INPUT_TAG"] = "v1"; r.lockstep = checks(2, "") },
		"no event": func(r *runner) { r.event("{") },
	} {
		r := newRunner(t, nil)
		prepare(r)
		if code := r.run("restore-plan"); code != 1 || !strings.Contains(strings.Join(r.commands(), "\n"), "::error::") {
			t.Errorf("%s: exit code %d: %q", name, code, r.commands())
		}
	}
	r := newRunner(t, nil)
	r.env["GITHUB_REF_TYPE"], r.env["GITHUB_REF_NAME"] = "tag", "v2"
	r.lockstep = checks(0, "")
	if code := r.run("restore-plan"); code != 0 || !slices.Contains(r.ran[0].Args, "--tag=v2") {
		t.Errorf("of a pushed tag: exit code %d, %v", code, r.ran)
	}
}

func TestRunnerWithoutItsFiles(t *testing.T) {
	r := newRunner(t, map[string]string{"policy": "shop"})
	r.env["GITHUB_OUTPUT"] = "/nonexistent/output"
	r.lockstep = checks(0, madePoint)
	if code := r.run("backup"); code != 1 || !strings.Contains(strings.Join(r.commands(), "\n"), "::error::") {
		t.Errorf("exit code %d: %q", code, r.commands())
	}
	if code := newRunner(t, nil).run("restore"); code != 1 {
		t.Errorf("an unknown step: exit code %d", code)
	}
}

func TestProgram(t *testing.T) {
	shell, err := os.Stat("/bin/sh")
	if err != nil || shell.IsDir() {
		t.Skip("there is no shell")
	}
	run := Program("/bin/sh")
	var out bytes.Buffer
	if code, err := run(t.Context(), Command{Args: []string{"-c", "echo $A; exit 5"}, Env: []string{"A=b"}, Out: &out, Err: io.Discard}); code != 5 || err != nil || out.String() != "b\n" {
		t.Errorf("%d, %v, %q", code, err, &out)
	}
	if _, err := run(t.Context(), Command{Args: []string{"-c", "kill -9 $$"}, Out: io.Discard, Err: io.Discard}); err == nil {
		t.Error("a program that was killed is said to have ended")
	}
	if _, err := Program("/nonexistent/lockstep")(t.Context(), Command{}); err == nil {
		t.Error("a program that is not there is said to have run")
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = run(ctx, Command{Args: []string{"-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.01; done"}, Out: writer(func(p []byte) (int, error) { cancel(); return len(p), nil }), Err: io.Discard})
	if err == nil {
		t.Error("a cancelled program is said to have ended by itself")
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
