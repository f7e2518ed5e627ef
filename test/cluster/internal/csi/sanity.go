//go:build linux

package csi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/namespace"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

// sanityPoolMiB is the size of the file system that the suite works on.
const sanityPoolMiB = 256

// Sanity runs the conformance suite against the driver. It must be called in
// fresh mount and PID namespaces; dir is an empty directory.
func Sanity(ctx context.Context, dir, program string, out io.Writer) error {
	if err := namespace.Enter(dir, nil); err != nil {
		return err
	}
	pool := namespace.Dir + "/pool"
	if err := namespace.MountPool(ctx, pool+".img", pool, sanityPoolMiB); err != nil {
		return err
	}
	driver, err := New(pool, "sanity-node")
	if err != nil {
		return err
	}
	socket := namespace.Dir + "/csi.sock"
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- driver.Serve(ctx, socket, "") }()
	defer func() { cancel(); <-served }()
	if err := supervise.File(socket)(ctx); err != nil {
		return fmt.Errorf("waiting for the driver: %w", errors.Join(err, ctx.Err()))
	}
	suite := exec.CommandContext(ctx, program, "-csi.endpoint", socket, "-ginkgo.no-color",
		"-csi.mountdir", namespace.Dir+"/target", "-csi.stagingdir", namespace.Dir+"/staging")
	suite.Stdout, suite.Stderr = out, out
	return suite.Run()
}
