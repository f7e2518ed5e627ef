//go:build linux

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/image"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

// ImportImages puts image archives into the cluster's container engine and
// waits until pods can use them.
func (c Cluster) ImportImages(ctx context.Context, archives ...string) error {
	var names []string
	for _, a := range archives {
		tags, err := image.Tags(a)
		if err != nil {
			return err
		}
		names = append(names, tags...)
		f, err := os.Open(a)
		if err != nil {
			return err
		}
		// Unpacking is left to the first container that wants the image.
		_, err = c.ctr(ctx, f, "images", "import", "--no-unpack", "-")
		if err := errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("importing image archive %q into cluster %q: %w", a, c.Name, err)
		}
	}
	return c.awaitImages(ctx, names)
}

// awaitImages waits until the kubelet's side of containerd has taken notice of
// the images, which it marks them for. A pod made before that would get an
// older image of the name, or none.
func (c Cluster) awaitImages(ctx context.Context, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return supervise.Poll(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		out, err := c.ctr(ctx, nil, "images", "ls", "-q", `labels."io.cri-containerd.image"==managed`)
		if err != nil {
			return err
		}
		for _, n := range names {
			// A name without a registry is given one.
			if !slices.ContainsFunc(strings.Fields(string(out)), func(known string) bool {
				return known == n || strings.HasSuffix(known, "/"+n)
			}) {
				return fmt.Errorf("image %q is not known to the kubelet yet", n)
			}
		}
		return nil
	})
}

// ctr runs containerd's own client in the cluster.
func (c Cluster) ctr(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"-t", strconv.Itoa(c.PID), "-m", "ctr", "-a", containerdSocket, "-n", "k8s.io"}, args...)...)
	cmd.Stdin = stdin
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return out, err
}
