package cmd

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
)

const (
	groupProtect = "protect"
	groupRecover = "recover"
	groupVault   = "vault"
	groupSetup   = "setup"
)

func (p *Program) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lockstep",
		Short: "Disaster recovery for Kubernetes run by GitOps",
		Long: `Lockstep brings a Git commit back together with its data.

Git holds what a cluster should be. Lockstep keeps what Git cannot, the data, tags it with the commit that was
deployed, and restores by replaying that commit while it fills the volumes.`,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: p.Name},
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       p.Version,
	}
	root.SetOut(p.Out)
	root.SetErr(p.Err)
	root.SetVersionTemplate("{{.Version}}\n")
	p.cluster.AddFlags(root.PersistentFlags())
	root.PersistentFlags().BoolVarP(&p.quiet, "quiet", "q", false, "print results and errors only, no progress")
	root.AddGroup(
		&cobra.Group{ID: groupProtect, Title: "Protect:"},
		&cobra.Group{ID: groupRecover, Title: "Look and recover:"},
		&cobra.Group{ID: groupVault, Title: "Vaults and volumes:"},
		&cobra.Group{ID: groupSetup, Title: "Set up:"},
	)
	add(root, groupProtect, p.checkCommand(), p.applyCommand(), p.backupCommand(), p.policyCommand(), p.statusCommand())
	add(root, groupRecover, p.pointsCommand(), p.describeCommand(), p.holdCommand(), p.releaseHoldCommand(), p.retentionCommand(), p.residualCommand(), p.restoreCommand(), p.rollbackCommand(), p.doctorCommand())
	add(root, groupVault, p.vaultCommand(), p.volumeCommand())
	add(root, groupSetup, p.installCommand(), p.uninstallCommand(), p.versionCommand())
	root.AddCommand(exitCodesTopic())
	root.SetCompletionCommandGroupID(groupSetup)
	root.SetHelpCommandGroupID(groupSetup)
	return settled(root)
}

func add(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// settled makes every complaint about the command line one of usage, in all commands.
func settled(c *cobra.Command) *cobra.Command {
	c.SetFlagErrorFunc(usage)
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error { return usage(cmd, check(cmd, args)) }
	}
	for _, sub := range c.Commands() {
		settled(sub)
	}
	return c
}

func usage(cmd *cobra.Command, err error) error {
	var known *fault.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &fault.Error{Code: fault.Usage, Err: err, Hint: "See: " + cmd.CommandPath() + " --help"}
}
