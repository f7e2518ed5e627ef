//go:build linux

package lab

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

func TestRenderCeph(t *testing.T) {
	b, err := renderCeph("f5b5c2f0-0000-4000-8000-000000000000", "10.77.3.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"mon_host = v2:10.77.3.1:3300\n", "endpoint=10.77.3.1:8480 tcp_nodelay=1\n", "memstore_device_bytes = 8589934592\n"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in:\n%s", want, b)
		}
	}
}

func TestGit(t *testing.T) {
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- ServeGit(ctx, address, dir) }()
	defer func() { cancel(); <-served }()
	wait, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	if err := supervise.TCP(address)(wait); err != nil {
		t.Fatal(err)
	}

	lab := Lab{Git: Git{URL: "http://" + address, Dir: dir}}
	url, err := lab.MakeRepo(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lab.MakeRepo(ctx, "shop"); err == nil {
		t.Error("the same repository was made twice")
	}
	for _, bad := range []string{"", "../x", "a/b", "x.git", "-x"} {
		if _, err := lab.MakeRepo(ctx, bad); err == nil {
			t.Errorf("repository %q was made", bad)
		}
	}

	work, clone := filepath.Join(t.TempDir(), "work"), filepath.Join(t.TempDir(), "clone")
	git(t, "", "clone", "-q", url, work)
	git(t, work, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "first")
	git(t, work, "push", "-q", "origin", "HEAD:main")
	first := git(t, work, "rev-parse", "HEAD")
	git(t, work, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "second")
	git(t, work, "push", "-q", "origin", "HEAD:main")
	git(t, "", "clone", "-q", "--depth=1", url, clone)
	if got := git(t, clone, "rev-parse", "--abbrev-ref", "HEAD"); got != "main" {
		t.Errorf("the branch is %q", got)
	}
	// A commit that is no branch's tip may be asked for.
	git(t, clone, "fetch", "-q", "--depth=1", "origin", first)
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}
