//go:build linux

// Package build makes what clusters run from: the Kubernetes binaries, from Go
// modules, and container images, from Debian's packages. Each result lies in a
// directory of the cache named for its inputs and is made once.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
)

// Builder fills the cache.
type Builder struct {
	Home home.Home
	// Step does a step and tells about it.
	Step func(what string, do func() error) error
}

// once returns the cached directory of this kind and key, made by fill unless
// it is there. A directory is seen only when it is complete.
func (b Builder) once(ctx context.Context, kind, key string, fill func(ctx context.Context, dir string) error) (string, error) {
	dir := filepath.Join(b.Home.Build(), kind+"-"+key)
	if exists(dir) {
		return dir, nil
	}
	unlock, err := b.Home.Lock(ctx, "build-"+kind)
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(dir) {
		return dir, nil // another invocation was faster
	}
	tmp := dir + ".tmp"
	if err := errors.Join(os.RemoveAll(tmp), os.MkdirAll(tmp, 0o755)); err != nil {
		return "", err
	}
	if err := fill(ctx, tmp); err != nil {
		return "", fmt.Errorf("building %s: %w", kind, err)
	}
	return dir, os.Rename(tmp, dir)
}

// keyOf names a set of inputs.
func keyOf(inputs ...string) string {
	h := sha256.New()
	for _, s := range inputs {
		fmt.Fprintf(h, "%d:%s\n", len(s), s)
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:16]
}

// run runs a program and says its last words when it fails.
func run(ctx context.Context, dir string, env []string, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	// A program that is told to stop gets a moment to end its own children.
	cmd.WaitDelay = 5 * time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, tail(errs.String(), 2000))
	}
	return out.Bytes(), nil
}

func tail(s string, n int) string {
	s = strings.TrimSpace(s)
	if len(s) > n {
		s = "…" + s[len(s)-n:]
	}
	return s
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
