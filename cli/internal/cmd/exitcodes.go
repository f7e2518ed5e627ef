package cmd

import "github.com/spf13/cobra"

// exitCodesTopic is shown by "help exit-codes".
func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `The exit code says how a command ended, so that a script need not read messages.

  0    done; for a restore: everything is back, verified and healthy
  1    it was tried and failed; for "status": something is not well; for "check": something was found
  2    it could not begin: a flag, a file or a setting is wrong; "check" ends so whatever it could not read
  3    unknown: the vault, Git or the cluster could not be asked. Nothing follows from it about what exists:
       mend the access and ask again
  4    proven absent: everything was asked and what was looked for does not exist
  5    refused: it would have overwritten something
  130  interrupted

Unknown and absent are never mixed up: a restore that cannot read its vault creates nothing.`,
	}
}
