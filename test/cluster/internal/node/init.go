//go:build linux

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/namespace"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/network"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/proc"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

// Init is the first process of a cluster. It makes the namespaces it was
// started in the cluster's own and then runs the components until it is killed.
func Init(ctx context.Context, dir string) error {
	if err := proc.AwaitRelease(); err != nil {
		return err
	}
	var c Cluster
	if err := home.ReadJSON(filepath.Join(dir, stateFile), &c); err != nil {
		return err
	}
	// The kubelet writes these settings, which are the whole machine's.
	err := namespace.Enter(c.Dir, map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
		"kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	})
	if err != nil {
		return err
	}
	setup := network.Setup{Address: c.Address + "/24", Gateway: c.Lab.Gateway, Loopback: dnsIP, PodCIDR: c.PodCIDR}
	if err := setup.Apply(ctx); err != nil {
		return err
	}
	if err := mountPool(ctx, c.PoolMiB); err != nil {
		return err
	}
	return supervise.Run(ctx, filepath.Join(inside, "log"), components(c))
}

// mountPool mounts a btrfs of the cluster's own, for volumes and snapshots. It
// lives in a sparse file, and the loop device goes with the mount.
func mountPool(ctx context.Context, mib int) error {
	img, dir := filepath.Join(inside, "pool.img"), filepath.Join(namespace.Dir, "pool")
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
