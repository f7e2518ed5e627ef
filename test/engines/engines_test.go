// Package engines tests holding, pinning, releasing and giving back on real Flux and Argo CD. It needs a cluster with both, as the
// workflow "engines" makes one, and is not run elsewhere.
package engines

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// hostEnv names the address under which the cluster reaches the machine that the test runs on.
const hostEnv = "LOCKSTEP_ENGINES_HOST"

// repository is a Git repository with two commits, served over HTTP. Each has a ConfigMap of the given name, which says which.
type repository struct {
	url    string
	before string // the commit before the head of branch main
}

func serve(t *testing.T, host, name string) repository {
	t.Helper()
	root := t.TempDir()
	work := filepath.Join(root, "work")
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", work, "-c", "user.name=test", "-c", "user.email=test@example.com"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if err := os.MkdirAll(filepath.Join(work, "app"), 0o755); err != nil {
		t.Fatal(err)
	}
	git("init", "-q", "-b", "main")
	for _, says := range []string{"before", "head"} {
		manifest := fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\ndata: {says: %s}\n", name, says)
		if err := os.WriteFile(filepath.Join(work, "app", "note.yaml"), []byte(manifest), 0o644); err != nil {
			t.Fatal(err)
		}
		git("add", "-A")
		git("commit", "-q", "-m", says)
	}
	git("clone", "-q", "--bare", work, filepath.Join(root, name+".git"))
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(git("--exec-path")), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"},
	}}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	port := listener.Addr().(*net.TCPAddr).Port
	return repository{url: fmt.Sprintf("http://%s:%d/%s.git", host, port, name), before: git("rev-parse", "main~1")}
}

func TestEngines(t *testing.T) {
	host := os.Getenv(hostEnv)
	if host == "" {
		t.Skip("NOT RUN: " + hostEnv + " names no address of this machine; the workflow \"engines\" sets it")
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("flux", func(t *testing.T) {
		r := serve(t, host, "by-flux")
		create(t, c, "source.toolkit.fluxcd.io/v1", "GitRepository", "flux-system", "by-flux",
			map[string]any{"url": r.url, "interval": "10s", "ref": map[string]any{"branch": "main"}})
		create(t, c, "kustomize.toolkit.fluxcd.io/v1", "Kustomization", "flux-system", "by-flux", map[string]any{
			"path": "./app", "interval": "10m", "prune": true, "sourceRef": map[string]any{"kind": "GitRepository", "name": "by-flux"},
		})
		replay(t, c, v1alpha1.EngineFlux, "by-flux", r)
	})
	t.Run("flux with a gate", func(t *testing.T) { gate(t, c, "by-gate", serve(t, host, "by-gate")) })
	t.Run("argocd", func(t *testing.T) {
		r := serve(t, host, "by-argo")
		create(t, c, "argoproj.io/v1alpha1", "Application", "argocd", "by-argo", map[string]any{
			"project": "default", "destination": map[string]any{"server": "https://kubernetes.default.svc", "namespace": "default"},
			"source":     map[string]any{"repoURL": r.url, "path": "app", "targetRevision": "main"},
			"syncPolicy": map[string]any{"automated": map[string]any{"selfHeal": true}},
		})
		replay(t, c, v1alpha1.EngineArgoCD, "by-argo", r)
	})
	t.Run("argocd with several sources", func(t *testing.T) {
		r := serve(t, host, "by-sources")
		create(t, c, "argoproj.io/v1alpha1", "Application", "argocd", "by-sources", map[string]any{
			"project": "default", "destination": map[string]any{"server": "https://kubernetes.default.svc", "namespace": "default"},
			"sources": []any{
				map[string]any{"repoURL": r.url, "ref": "values", "targetRevision": "main"},
				map[string]any{"repoURL": r.url, "path": "app", "targetRevision": "main"},
			},
			"syncPolicy": map[string]any{"automated": map[string]any{"selfHeal": true}},
		})
		replay(t, c, v1alpha1.EngineArgoCD, "by-sources", r)
	})
}

// replay takes a deployed application to the commit before and lets it go again, as a restore does.
func replay(t *testing.T, c client.Client, want v1alpha1.Engine, name string, r repository) {
	t.Helper()
	ctx := t.Context()
	says(t, c, name, "head")
	engines := gitops.Cluster{Client: c, Reader: c}
	found, err := ruler.Choose(ctx, engines, v1alpha1.EngineAuto, gitops.Target{Repository: r.url, Path: "app"})
	if err != nil || found.Engine != want || len(found.Refusals) > 0 {
		t.Fatalf("it is ruled by %+v, %v", found, err)
	}
	driver := ruler.Driver(engines, want)
	task := func() gitops.Task {
		return gitops.Task{
			Owner:   gitops.Owner{Name: object.Name{Namespace: v1alpha1.SystemNamespace, Name: name}, UID: "uid-of-" + name},
			Objects: found.Objects, Revision: v1alpha1.Revision{Repository: r.url, Commit: r.before, Path: "app"}, Now: time.Now(),
		}
	}
	until(t, "held and pinned", func(ctx context.Context) (bool, error) {
		s, err := driver.Observe(ctx, task())
		switch {
		case err != nil:
			return false, err
		case s.HoldDue:
			return false, driver.Hold(ctx, task())
		case s.Held() && s.PinDue:
			return false, driver.Pin(ctx, task())
		}
		return s.Pinned(), nil
	})
	says(t, c, name, "head") // nothing goes on before it is released
	until(t, "released and ready", func(ctx context.Context) (bool, error) {
		s, err := driver.Observe(ctx, task())
		if err != nil {
			return false, err
		}
		for _, o := range found.Objects {
			if u := s.Units[driver.Key(o)]; o.Role == v1alpha1.RoleUnit && !u.Ready {
				return false, driver.Release(ctx, task(), o)
			}
		}
		return true, nil
	})
	says(t, c, name, "before")
	until(t, "given back", func(ctx context.Context) (bool, error) {
		waits, err := ruler.Undo(ctx, engines, "uid-of-"+name, time.Now())
		return waits == "", err
	})
	says(t, c, name, "head")
}

func create(t *testing.T, c client.Client, apiVersion, kind, namespace, name string, spec map[string]any) {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "spec": spec}}
	u.SetNamespace(namespace)
	u.SetName(name)
	if err := c.Create(t.Context(), u); err != nil {
		t.Fatal(err)
	}
}

func says(t *testing.T, c client.Client, name, want string) {
	t.Helper()
	until(t, name+" says "+want, func(ctx context.Context) (bool, error) {
		note := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{}}
		err := c.Get(ctx, client.ObjectKey{Namespace: "default", Name: name}, note)
		return err == nil && note.Data["says"] == want, client.IgnoreNotFound(err)
	})
}

// until tries again when somebody else changed an object in between.
func until(t *testing.T, what string, done func(context.Context) (bool, error)) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), time.Second, 5*time.Minute, true, func(ctx context.Context) (bool, error) {
		ok, err := done(ctx)
		last = err
		return ok && err == nil, nil
	})
	if err != nil {
		t.Fatalf("waiting for %s: %v, last: %v", what, err, last)
	}
}
