package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/fluxcd/pkg/runtime/conditions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// job is one of GitHub's, as a step of the Action sees it. GitHub's API is a stand-in, which keeps one comment.
type job struct {
	t         *testing.T
	variables map[string]string
	mu        sync.Mutex
	comment   string
}

func newJob(t *testing.T) *job {
	t.Helper()
	j := &job{t: t}
	server := httptest.NewServer(http.HandlerFunc(j.serve))
	t.Cleanup(server.Close)
	event := filepath.Join(t.TempDir(), "event.json")
	must(t, os.WriteFile(event, []byte(`{"pull_request": {"number": 7, "base": {"sha": ""}}}`), 0o600))
	j.variables = map[string]string{
		"GITHUB_ACTIONS": "true", "GITHUB_API_URL": server.URL, "GITHUB_REPOSITORY": "acme/notes", "GITHUB_EVENT_PATH": event, "INPUT_TOKEN": "github-token",
	}
	return j
}

func (j *job) serve(w http.ResponseWriter, r *http.Request) {
	j.mu.Lock()
	defer j.mu.Unlock()
	const comments = "/repos/acme/notes/issues/7/comments"
	switch {
	case r.Method == http.MethodGet && r.URL.Path == comments && j.comment == "":
		fmt.Fprint(w, "[]")
		return
	case r.Method == http.MethodGet && r.URL.Path == comments:
		_ = json.NewEncoder(w).Encode([]map[string]any{{"id": 1, "body": j.comment, "user": map[string]string{"type": "Bot"}}})
		return
	case r.Method == http.MethodPost && r.URL.Path == comments && j.comment == "":
	case r.Method == http.MethodPatch && r.URL.Path == "/repos/acme/notes/issues/comments/1":
	default:
		j.t.Errorf("GitHub was asked for %s %s", r.Method, r.URL.Path)
		w.WriteHeader(http.StatusTeapot)
		return
	}
	data, err := io.ReadAll(r.Body)
	var said struct{ Body string }
	if err == nil {
		err = json.Unmarshal(data, &said)
	}
	if err != nil {
		j.t.Errorf("GitHub was sent %q: %v", data, err)
	}
	j.comment = said.Body
	fmt.Fprint(w, "{}")
}

func (j *job) said() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.comment
}

// step runs the Action's program as action.yml does, with these inputs and variables over those of the job, and gives the outputs and the summary.
// It must end with the code.
func (j *job) step(ctx context.Context, name string, code int, variables map[string]string) (outputs map[string]string, summary, log string) {
	j.t.Helper()
	dir := j.t.TempDir()
	files := map[string]string{
		"GITHUB_OUTPUT": filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary"), "GITHUB_ENV": filepath.Join(dir, "env"),
		"GITHUB_STATE": filepath.Join(dir, "state"), "RUNNER_TEMP": dir,
	}
	all := maps.Clone(j.variables)
	maps.Copy(all, files)
	maps.Copy(all, variables)
	log, err := shared.lab.Shell(ctx, "lockstep-action "+name, all)
	got := 0
	var exit *lab.ExitError
	if errors.As(err, &exit) {
		got, log = exit.Code, exit.Output
	} else {
		must(j.t, err)
	}
	if got != code {
		j.t.Fatalf("the step %s ended with %d, not %d:\n%s", name, got, code, log)
	}
	outputs = map[string]string{}
	for _, m := range anOutput.FindAllStringSubmatch(read(j.t, files["GITHUB_OUTPUT"]), -1) {
		outputs[m[1]] = m[2]
	}
	return outputs, read(j.t, files["GITHUB_STEP_SUMMARY"]), log
}

var anOutput = regexp.MustCompile(`(?m)^([a-z-]+)<<_GitHubActionsFileCommandDelimeter_\n(.*)\n_GitHubActionsFileCommandDelimeter_$`)

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	must(t, err)
	return string(data)
}

// role is the Role that action/README.md gives to the job.
var role = regexp.MustCompile("(?s)```yaml\n(apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n.*?)```")

// mayBackUp is access to prod for whoever may do what action/README.md says and nothing else.
func mayBackUp(ctx context.Context, t *testing.T, namespace string) map[string]string {
	t.Helper()
	found := role.FindStringSubmatch(read(t, filepath.Join("..", "..", "action", "README.md")))
	if found == nil {
		t.Fatal("action/README.md gives no Role")
	}
	prod, file := shared.prod, filepath.Join(t.TempDir(), "role.yaml")
	must(t, os.WriteFile(file, []byte(strings.ReplaceAll(found[1], "namespace: shop", "namespace: "+namespace)), 0o600))
	kubectl(ctx, t, prod, "apply", "-f", file)
	kubectl(ctx, t, prod, "-n", namespace, "create", "serviceaccount", "pipeline")
	kubectl(ctx, t, prod, "-n", namespace, "create", "rolebinding", "pipeline", "--role=lockstep-backup", "--serviceaccount="+namespace+":pipeline")
	authority := string(prod.Config.CAData)
	if authority == "" {
		authority = read(t, prod.Config.CAFile)
	}
	return map[string]string{
		"INPUT_SERVER": prod.Config.Host, "INPUT_CERTIFICATE_AUTHORITY": strings.TrimSpace(authority),
		"INPUT_CLUSTER_TOKEN": kubectl(ctx, t, prod, "-n", namespace, "create", "token", "pipeline"), "INPUT_NAMESPACE": namespace,
	}
}

// inPipeline has the Action save what runs before a commit is deployed, and tell what restores would do.
func (e *example) inPipeline(ctx context.Context, namespace, policy, running string) *v1alpha1.RestorePoint {
	t := e.t
	t.Helper()
	prod, j, next := shared.prod, newJob(t), e.head()
	access := mayBackUp(ctx, t, namespace)
	backup := func(code int, policy string) (map[string]string, string, string) {
		t.Helper()
		variables := maps.Clone(access)
		variables["INPUT_POLICY"], variables["GITHUB_SHA"] = policy, next
		return j.step(ctx, "backup", code, variables)
	}
	out, summary, log := backup(0, policy)
	p := &v1alpha1.RestorePoint{}
	must(t, prod.Get(ctx, client.ObjectKey{Namespace: namespace, Name: out["name"]}, p))
	if p.Spec.Trigger != v1alpha1.TriggerPreDeploy || p.Spec.Before != next || !conditions.IsReady(p) || p.Status.Revision.Commit != running {
		t.Errorf("the point of the Action is %+v, %+v", p.Spec, p.Status.Revision)
	}
	seconds, err := strconv.Atoi(out["duration"])
	if bytes, err := strconv.Atoi(out["bytes"]); err != nil || bytes == 0 {
		t.Errorf("it says that it has %q bytes", out["bytes"])
	}
	if err != nil || seconds < 0 || out["namespace"] != namespace || out["id"] != p.Status.ID || out["commit"] != running || out["before"] != next ||
		out["vault"] != "primary" || out["volumes"] != strconv.Itoa(len(p.Status.Volumes)) {
		t.Errorf("the outputs are %q", out)
	}
	if !strings.Contains(summary, out["id"]) || !strings.Contains(summary, running) {
		t.Errorf("the summary:\n%s", summary)
	}
	if token := access["INPUT_CLUSTER_TOKEN"]; strings.Count(log, token) != strings.Count(log, "::add-mask::"+token) {
		t.Errorf("the log has the token:\n%s", log)
	}

	// A policy that is not there, and a point that fails, end the job before it deploys.
	if _, _, log := backup(1, "nobody"); !strings.Contains(log, "has no ProtectionPolicy") {
		t.Errorf("without the policy:\n%s", log)
	}
	breakBackups(ctx, t, namespace)
	t.Cleanup(func() {
		kubectl(context.WithoutCancel(ctx), t, prod, "delete", "pv", "by-hand", "--ignore-not-found", "--wait=false")
	})
	out, summary, log = backup(1, policy)
	if len(out) > 0 || !strings.Contains(summary, "There is none") || !strings.Contains(log, "::error::") || !strings.Contains(log, "does not come from a CSI driver") {
		t.Errorf("a point that fails has the outputs %q, the summary\n%s\nand the log\n%s", out, summary, log)
	}
	kubectl(ctx, t, prod, "-n", namespace, "delete", "pvc", "by-hand")
	e.plans(ctx, j, p)
	return p
}

// plans has the Action tell on the pull request what a restore of a tag would do: on a fresh cluster, over what runs, and of a tag
// without a point.
func (e *example) plans(ctx context.Context, j *job, p *v1alpha1.RestorePoint) {
	e.t.Helper()
	vault := map[string]string{
		"INPUT_VAULT": shared.vault, "INPUT_KEY_FILE": shared.key, "AWS_ACCESS_KEY_ID": shared.lab.S3.AccessKey, "AWS_SECRET_ACCESS_KEY": shared.lab.S3.SecretKey,
		"INPUT_REPO": e.repo.URL, "INPUT_PATH": "production",
	}
	plan := func(code int, want, says, tag string, variables map[string]string) {
		e.t.Helper()
		all := maps.Clone(vault)
		maps.Copy(all, variables)
		all["INPUT_TAG"] = tag
		out, summary, log := j.step(ctx, "restore-plan", code, all)
		title, _, _ := strings.Cut(summary, "\n")
		if out["restorable"] != want || !strings.Contains(summary, says) || !strings.Contains(j.said(), title) || !strings.Contains(j.said(), says) {
			e.t.Errorf("the plan of %s is %q, not %q with a word about %q; the comment\n%s\nthe summary\n%s\nthe log\n%s", tag, out, want, says, j.said(), summary, log)
		}
	}
	fresh := read(e.t, shared.dr.Kubeconfig)
	plan(0, "yes", p.Status.ID, tag, map[string]string{"INPUT_KUBECONFIG": fresh})
	plan(0, "refused", "would be **refused**", tag, map[string]string{"INPUT_KUBECONFIG": read(e.t, shared.prod.Kubeconfig)})
	plan(1, "no", "can **not** be restored", "v2.0.0", map[string]string{"INPUT_KUBECONFIG": fresh, "INPUT_REQUIRED": "true"})
}
