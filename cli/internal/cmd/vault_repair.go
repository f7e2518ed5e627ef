package cmd

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func (p *Program) vaultRepairCommand() *cobra.Command {
	var flags vault.Flags
	var dryRun bool
	var format output.Format
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Mend what can be mended, and name what is lost",
		Long: `Mend what can be mended: describe packs anew whose index is lost or damaged, copy what can be read from packs with a damaged footer, remove
damaged objects that only say what others say. No object that holds data is deleted. Then name what is lost, file by file.

Do not run it beside 'lockstep volume prune'. A file that is lost is healed by saving it again, as long as it still exists somewhere.

The exit code is 1 if something is damaged still.`,
		Args: cobra.NoArgs,
		RunE: p.onVault(&flags, func(ctx context.Context, v *vault.Opened, _ []string) error {
			show, done := p.follow("vault", "repairing")
			r, err := v.Repair(ctx, volume.RepairOptions{DryRun: dryRun, Progress: show})
			done()
			if err != nil {
				return err
			}
			if err := format.Print(p.Out, r, func(w io.Writer) error { return printRepaired(w, r) }); err != nil {
				return err
			}
			return damage(r.Err(), "Save again what still exists: that heals old snapshots, too.")
		}),
	}
	flags.AddFlags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "change nothing, tell what would be done")
	format.AddFlag(cmd)
	return cmd
}

func printRepaired(w io.Writer, r *volume.RepairReport) error {
	if r.DryRun {
		fmt.Fprintln(w, "nothing was changed; a run would do this:")
	}
	fmt.Fprintf(w, "described anew: %s\n", output.Count(r.Described, "pack", "packs"))
	fmt.Fprintf(w, "salvaged: %s, %s\n", output.Count(r.Salvaged.Objects, "chunk", "chunks"), output.Bytes(r.Salvaged.Bytes))
	for _, name := range r.Removed {
		fmt.Fprintf(w, "removed: %s\n", name)
	}
	return printVerified(w, r.Left)
}
