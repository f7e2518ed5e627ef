package cmd

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
)

func (p *Program) vaultReindexCommand() *cobra.Command {
	var flags vault.Flags
	var dryRun bool
	var format output.Format
	cmd := &cobra.Command{
		Use:   "reindex",
		Short: "Write what the index of restore points lacks",
		Long: `Read every restore point and write the names that the index lacks of it. By the index a restore finds its point without reading
them all.

It is needed only if names got lost. Nothing else is written, and nothing is deleted; it may run at any time, also beside backups.
A vault without an index, as older versions wrote it, gets one: until then all points are read for each question.`,
		Args: cobra.NoArgs,
		RunE: p.onVault(&flags, func(ctx context.Context, v *vault.Opened, _ []string) error {
			board := p.board()
			r, err := catalog.Reindex(ctx, v.Vault, catalog.ReindexOptions{DryRun: dryRun, Progress: func(done, of int) {
				board.Show(progress.Item{Name: "vault", State: "indexing", Note: fmt.Sprintf("%d0%% of %d names", 10*done/of, of)})
			}})
			board.Clear()
			if err != nil {
				return err
			}
			return format.Print(p.Out, r, func(w io.Writer) error { return printReindexed(w, r) })
		}),
	}
	flags.AddFlags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing, tell what would be done")
	format.AddFlag(cmd)
	return cmd
}

func printReindexed(w io.Writer, r catalog.ReindexReport) error {
	if r.DryRun {
		fmt.Fprintln(w, "nothing was changed; a run would do this:")
	}
	_, err := fmt.Fprintf(w, "read: %s\nwritten: %s\n", output.Count(r.Records, "restore point", "restore points"), output.Count(r.Written, "name", "names"))
	return err
}
