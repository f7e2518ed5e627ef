//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

var validRepo = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`)

// MakeRepo makes an empty bare repository whose branch is main, and returns its
// URL.
func (l Lab) MakeRepo(ctx context.Context, name string) (string, error) {
	if !validRepo.MatchString(name) || strings.HasSuffix(name, ".git") {
		return "", fmt.Errorf("repository name %q: want lower-case letters, digits, dots and dashes, without .git", name)
	}
	dir := filepath.Join(l.Git.Dir, name+".git")
	if _, err := os.Stat(dir); err == nil {
		return "", fmt.Errorf("repository %q exists", name)
	}
	// Nothing may pack or expire behind a test's back.
	for _, args := range [][]string{
		{"init", "-q", "--bare", "--initial-branch=main", dir},
		{"-C", dir, "config", "http.receivepack", "true"},
		{"-C", dir, "config", "uploadpack.allowReachableSHA1InWant", "true"},
		{"-C", dir, "config", "receive.autogc", "false"},
	} {
		if out, err := exec.CommandContext(ctx, "git", args...).CombinedOutput(); err != nil {
			return "", errors.Join(fmt.Errorf("making repository %q: %w: %s", name, err, out), os.RemoveAll(dir))
		}
	}
	return l.Git.URL + "/" + name + ".git", nil
}

// ServeGit serves the bare repositories in dir over HTTP, for reading and for
// writing by anyone, until the context ends.
func ServeGit(ctx context.Context, address, dir string) error {
	out, err := exec.CommandContext(ctx, "git", "--exec-path").Output()
	if err != nil {
		return fmt.Errorf("looking for git's programs: %w", err)
	}
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: &cgi.Handler{
			Path: filepath.Join(strings.TrimSpace(string(out)), "git-http-backend"),
			Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1",
				// The repositories belong to whoever started the lab.
				"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
			InheritEnv: []string{"PATH"},
		},
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	return server.Serve(listener)
}
