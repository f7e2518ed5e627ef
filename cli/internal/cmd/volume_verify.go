package cmd

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

type volumeVerifyOptions struct {
	vault  vault.Flags
	level  string
	sample float64
	format output.Format
}

func (p *Program) volumeVerifyCommand() *cobra.Command {
	var o volumeVerifyOptions
	cmd := &cobra.Command{
		Use:   "verify [SNAPSHOT...]",
		Short: "Make sure that a vault holds what was saved",
		Long: `Make sure that a vault holds what was saved. The levels read more and more, each includes those before it:

  records   every small object opens: snapshots, documents, keys, index
  chunks    trees are read, and every chunk that they need is in a pack that exists with the right size
  footers   every pack's footer opens, and says what the index says
  data      every chunk is fetched, decrypted, decompressed and compared with its digest; --sample reads a share of the packs

Damage is named by object and, for each snapshot, by the files it hurts; then the exit code is 1. What cannot be read leaves the
answer unknown, with exit code 3.`,
		Example: `  lockstep volume verify
  lockstep volume verify --level data --sample 0.05
  lockstep volume verify latest --level data`,
		RunE: p.onVault(&o.vault, func(ctx context.Context, v *vault.Opened, args []string) error {
			return p.volumeVerify(ctx, v, args, o)
		}),
	}
	o.vault.AddFlags(cmd.Flags(), true)
	choice(cmd, &o.level, "level", "how much to read", "footers", "records", "chunks", "data")
	cmd.Flags().Float64Var(&o.sample, "sample", 1, "share of the packs that the level data reads, chosen at random, 0 to 1")
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) volumeVerify(ctx context.Context, v *vault.Opened, names []string, o volumeVerifyOptions) error {
	var level volume.VerifyLevel
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return fault.New(fault.Usage, "", "%w", err)
	}
	if o.sample <= 0 || o.sample > 1 {
		return fault.New(fault.Usage, "", "a sample of %v: want more than 0 and at most 1", o.sample)
	}
	ids, err := snapshotIDs(ctx, v, names, nil)
	if err != nil {
		return err
	}
	show, done := p.follow("vault", "verifying")
	r, err := v.Verify(ctx, volume.VerifyOptions{Level: level, Snapshots: ids, Sample: o.sample, Progress: show})
	done()
	if err != nil {
		return err
	}
	if err := o.format.Print(p.Out, r, func(w io.Writer) error { return printVerified(w, r) }); err != nil {
		return err
	}
	return damage(r.Err(), "See what can be mended: lockstep vault repair --dry-run")
}

// damage is a failure that was proven, unlike damage that keeps a command from its answer.
func damage(err error, hint string) error {
	if err == nil {
		return nil
	}
	return fault.New(fault.Failed, hint, "%w", err)
}

func printVerified(w io.Writer, r *volume.VerifyReport) error {
	fmt.Fprintf(w, "verified to the level %s: %s, %s, %s (%s)\n", r.Level, output.Count(r.Snapshots, "snapshot", "snapshots"),
		output.Count(r.Packs, "pack", "packs"), output.Count(int(r.Chunks), "chunk", "chunks"), output.Bytes(r.Bytes))
	for _, d := range r.Damaged {
		fmt.Fprintf(w, "damaged: %s: %s\n", d.Object, d.Reason)
	}
	for _, h := range r.Hurt {
		fmt.Fprintf(w, "snapshot %s: %s hurt\n", h.ID, output.Count(h.Count, "file is", "files are"))
		for _, f := range h.Files {
			fmt.Fprintf(w, "  %s: %s\n", output.Path(f.Path), f.Reason)
		}
	}
	return nil
}

func (p *Program) volumeStatCommand() *cobra.Command {
	var flags vault.Flags
	var format output.Format
	cmd := &cobra.Command{
		Use:   "stat",
		Short: "Tell how much a vault holds",
		Args:  cobra.NoArgs,
		RunE: p.onVault(&flags, func(ctx context.Context, v *vault.Opened, _ []string) error {
			s, err := v.Stat(ctx)
			if err != nil {
				return err
			}
			return format.Print(p.Out, s, func(w io.Writer) error { return printStat(w, s) })
		}),
	}
	flags.AddFlags(cmd.Flags(), true)
	format.AddFlag(cmd)
	return cmd
}

func printStat(w io.Writer, s *volume.VaultStat) error {
	rows := [][]string{
		{"snapshots", fmt.Sprint(s.Snapshots), ""},
		{"chunks", fmt.Sprint(s.Chunks), fmt.Sprintf("%s, %s as stored (%s)", output.Bytes(s.Raw), output.Bytes(s.Stored), percent(s.Stored, s.Raw))},
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Objects)) {
		rows = append(rows, []string{kind, fmt.Sprint(s.Objects[kind].Objects), output.Bytes(s.Objects[kind].Bytes)})
	}
	rows = append(rows, []string{"all objects", fmt.Sprint(s.Total.Objects), output.Bytes(s.Total.Bytes)},
		[]string{"to be deleted", fmt.Sprint(s.Condemned.Objects), output.Bytes(s.Condemned.Bytes)})
	for _, name := range s.Damaged {
		rows = append(rows, []string{"damaged", "", name})
	}
	return output.Rows(w, nil, rows)
}
