//go:build linux

// Command cluster builds Kubernetes from Go modules and runs one-node clusters
// of it, without Docker, joined by a network with a Git and an S3 server.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/build"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
)

// errCannotRun is for what no other arguments would make work; exit code 2.
var errCannotRun = errors.New("cannot run here")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := newCommand().ExecuteContext(ctx)
	stop()
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case errors.Is(err, errCannotRun):
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// exitCode passes on how a program that was run for the user ended.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// app is what the commands share.
type app struct {
	home  home.Home
	steps *steps
}

func (a *app) builder() build.Builder { return build.Builder{Home: a.home, Step: a.steps.do} }

func newCommand() *cobra.Command {
	a := &app{steps: newSteps(os.Stderr)}
	c := &cobra.Command{
		Use:   "cluster",
		Short: "One-node Kubernetes clusters for tests, without Docker",
		Long: `Builds Kubernetes from Go modules and runs one-node clusters of it in namespaces
of their own, joined by a network with a Git and an S3 server.

State and cache lie in $LOCKSTEP_HOME, by default ~/.cache/lockstep.`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			a.home, err = home.Find(os.Getenv)
			return err
		},
	}
	c.AddCommand(a.buildCommand(), a.assetsCommand(), a.upCommand(), a.downCommand(), a.killCommand(), a.statusCommand(),
		a.labCommand(), a.imageCommand(), a.kubectlCommand(), a.logsCommand(), a.sanityCommand(), internalCommand())
	return c
}

// needRoot refuses at once what only root can do.
func needRoot(*cobra.Command, []string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%w: namespaces, mounts and links take root (this is user %d); `cluster assets` and `cluster image pack` do not", errCannotRun, os.Geteuid())
	}
	return nil
}

// asRoot makes a command refuse to run without privileges.
func asRoot(c *cobra.Command) *cobra.Command {
	c.PreRunE = needRoot
	return c
}
