//go:build linux

package namespace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// MountPool mounts an empty btrfs, for volumes and snapshots. It lives in the
// sparse file img, and its loop device goes with the mount.
func MountPool(ctx context.Context, img, dir string, mib int) error {
	f, err := os.Create(img)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(int64(mib)<<20), f.Close(), os.MkdirAll(dir, 0o755)); err != nil {
		return fmt.Errorf("making the pool's file: %w", err)
	}
	if out, err := exec.CommandContext(ctx, "mkfs.btrfs", "-q", "-K", img).CombinedOutput(); err != nil {
		return fmt.Errorf("formatting the pool: %w: %s", err, out)
	}
	// The pool need not survive the machine, so it never waits for the disk.
	if out, err := exec.CommandContext(ctx, "mount", "-o", "loop,noatime,nobarrier,discard=async", img, dir).CombinedOutput(); err != nil {
		return fmt.Errorf("mounting the pool: %w: %s", err, out)
	}
	return nil
}
