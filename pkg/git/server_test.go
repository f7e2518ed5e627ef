package git

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// work is a repository that tests commit to with the git program.
type work struct {
	t   *testing.T
	dir string
}

func newWork(t *testing.T) *work {
	t.Helper()
	w := &work{t: t, dir: filepath.Join(t.TempDir(), "work")}
	if err := os.Mkdir(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.git("init", "-q", "-b", "main")
	return w
}

func run(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_AUTHOR_DATE=2026-01-01T00:00:00Z",
		"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "GIT_COMMITTER_DATE=2026-01-01T00:00:00Z",
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func (w *work) git(args ...string) string {
	w.t.Helper()
	return run(w.t, w.dir, args...)
}

// write puts a file into the work tree; a content that begins with "-> " makes a symbolic link.
func (w *work) write(name, content string) {
	w.t.Helper()
	file := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if target, ok := strings.CutPrefix(content, "-> "); ok {
		if err := os.Symlink(target, file); err != nil {
			w.t.Fatal(err)
		}
		return
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// commit commits the work tree and gives the name of the commit.
func (w *work) commit(message string) string {
	w.t.Helper()
	w.git("add", "-A")
	w.git("commit", "-q", "--allow-empty", "-m", message)
	return w.git("rev-parse", "HEAD")
}

// server is git-http-backend over a bare copy of a work tree, with a place to interfere.
type server struct {
	*httptest.Server
	bare string
	// wrap, if set, comes before git-http-backend.
	wrap func(next http.Handler) http.Handler
}

// serve publishes the work tree as it is now at <URL>/shop.git; settings are Git configuration of the server.
func serve(t *testing.T, w *work, settings ...string) *server {
	t.Helper()
	return start(t, w, httptest.NewServer, settings...)
}

func start(t *testing.T, w *work, listen func(http.Handler) *httptest.Server, settings ...string) *server {
	t.Helper()
	root := t.TempDir()
	s := &server{bare: filepath.Join(root, "shop.git")}
	run(t, root, "clone", "-q", "--bare", w.dir, s.bare)
	for _, setting := range settings {
		key, value, _ := strings.Cut(setting, "=")
		run(t, s.bare, "config", key, value)
	}
	backend := &cgi.Handler{
		Path: filepath.Join(run(t, root, "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + root},
		// It complains about every commit that is asked for and not there.
		Stderr: io.Discard,
	}
	s.Server = listen(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		if s.wrap != nil {
			s.wrap(backend).ServeHTTP(out, in)
			return
		}
		backend.ServeHTTP(out, in)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) url() string { return s.URL + "/shop.git" }

// push updates the served copy.
func (s *server) push(w *work) {
	w.t.Helper()
	w.git("push", "-q", "--mirror", s.bare)
}

// tlsServer speaks TLS with a certificate that no system trusts, and keeps what clients say about that out of the log.
func tlsServer(h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	s.StartTLS()
	return s
}

func open(t *testing.T, location string, o Options) *Repository {
	t.Helper()
	r, err := Open(location, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}
