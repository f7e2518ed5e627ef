//go:build linux

package node

import (
	"context"
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
	if err := namespace.MountPool(ctx, filepath.Join(inside, "pool.img"), filepath.Join(inside, "pool"), c.PoolMiB); err != nil {
		return err
	}
	return supervise.Run(ctx, filepath.Join(inside, "log"), components(c))
}
