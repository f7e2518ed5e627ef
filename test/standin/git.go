package standin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Git fetches from real repositories, with a work tree for each commit. It serves one engine, one fetch at a time.
type Git struct {
	// Dir is where it keeps what it fetched.
	Dir string
}

// Fetch is a Fetch.
func (g Git) Fetch(ctx context.Context, url, branch, commit string) (fetched, dir string, err error) {
	sum := sha256.Sum256([]byte(url))
	mirror := filepath.Join(g.Dir, hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(mirror); errors.Is(err, os.ErrNotExist) {
		if _, err := git(ctx, "clone", "-q", "--mirror", url, mirror); err != nil {
			return "", "", err
		}
	}
	if _, err := git(ctx, "-C", mirror, "fetch", "-q"); err != nil {
		return "", "", err
	}
	if commit == "" {
		commit = "refs/heads/" + branch
	}
	if fetched, err = git(ctx, "-C", mirror, "rev-parse", commit+"^{commit}"); err != nil {
		return "", "", err
	}
	dir = mirror + "-" + fetched
	if _, err := os.Stat(dir); err == nil {
		return fetched, dir, nil
	}
	_, err = git(ctx, "-C", mirror, "worktree", "add", "-q", "--detach", dir, fetched)
	return fetched, dir, err
}

func git(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
