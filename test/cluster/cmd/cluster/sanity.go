//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/csi"
)

func (a *app) sanityCommand() *cobra.Command {
	return asRoot(&cobra.Command{
		Use: "sanity", Short: "Run the CSI conformance suite, csi-sanity, against the driver", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := a.builder().Packages(cmd.Context()); err != nil {
				return err
			}
			binaries, err := a.builder().Binaries(cmd.Context())
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "lockstep-sanity-")
			if err != nil {
				return err
			}
			defer func() { _ = os.RemoveAll(dir) }()
			// In namespaces of its own nothing it mounts or starts can stay behind.
			suite := exec.CommandContext(cmd.Context(), "/proc/self/exe", "internal", "sanity", dir, filepath.Join(binaries.Bin(), "csi-sanity"))
			suite.Stdout, suite.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			suite.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
			if err := suite.Run(); err != nil {
				return fmt.Errorf("csi-sanity: %w", err)
			}
			return nil
		},
	})
}

func internalSanityCommand() *cobra.Command {
	return &cobra.Command{Use: "sanity DIR PROGRAM", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		return csi.Sanity(cmd.Context(), args[0], args[1], cmd.OutOrStdout())
	}}
}
