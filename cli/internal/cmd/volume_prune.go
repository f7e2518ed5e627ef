package cmd

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func (p *Program) volumeForgetCommand() *cobra.Command {
	var flags vault.Flags
	cmd := &cobra.Command{
		Use:   "forget SNAPSHOT...",
		Short: "Forget snapshots",
		Long: `Forget snapshots, which cannot be undone. Their space is freed by later runs of 'lockstep volume prune'. A snapshot that a restore
point needs is not forgotten.`,
		Example: `  lockstep volume forget 5f3c 81aa`,
		Args:    cobra.MinimumNArgs(1),
		RunE:    p.onVault(&flags, p.volumeForget),
	}
	flags.AddFlags(cmd.Flags(), true)
	return cmd
}

func (p *Program) volumeForget(ctx context.Context, v *vault.Opened, names []string) error {
	records, err := catalog.List(ctx, v.Vault)
	if err != nil {
		return err
	}
	needed := map[string]string{} // by which point
	for _, r := range records {
		for _, volume := range r.Volumes {
			needed[volume.Snapshot] = r.ID
		}
	}
	if slices.Contains(names, latest) {
		return fault.New(fault.Usage, "Name it by its id.", "%q is not forgotten: it may be another one in a moment", latest)
	}
	ids, err := snapshotIDs(ctx, v, names, nil)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if point, is := needed[id]; is {
			return fault.New(fault.Refused, "", "restore point %q needs snapshot %s", point, id)
		}
	}
	if err := v.Forget(ctx, ids...); err != nil {
		return err
	}
	for _, id := range ids {
		fmt.Fprintf(p.Out, "forgot %s\n", id)
	}
	return nil
}

type volumePruneOptions struct {
	vault     vault.Flags
	grace     time.Duration
	exclusive bool
	minLive   float64
	dryRun    bool
	format    output.Format
}

func (p *Program) volumePruneCommand() *cobra.Command {
	var o volumePruneOptions
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Delete what no snapshot needs",
		Long: `Delete what no snapshot needs, in two steps: what is needless now is condemned, and what was condemned before the grace time, and still is
needless, is deleted. So run it from time to time. Saves and loads may run meanwhile, from anywhere: there is no lock.

Packs of which little is needed are repacked. What the store does not delete, because of Object Lock or of rights, is reported and tried again by the
next run. A snapshot that cannot be read ends the run before anything is condemned.`,
		Example: `  lockstep volume prune --dry-run
  lockstep volume prune --grace 0s --no-other-saves   # at once: only if no other machine saves into this vault`,
		Args: cobra.NoArgs,
		RunE: p.onVault(&o.vault, func(ctx context.Context, v *vault.Opened, _ []string) error { return p.volumePrune(ctx, v, o) }),
	}
	o.vault.AddFlags(cmd.Flags(), true)
	f := cmd.Flags()
	f.DurationVar(&o.grace, "grace", volume.GraceTime, "how long packs stay condemned before they are deleted")
	f.BoolVar(&o.exclusive, "no-other-saves", false, "you made sure that no save runs meanwhile: any grace time will do")
	f.Float64Var(&o.minLive, "min-live", volume.MinLive, "repack packs of which a smaller share is needed, 0 to 1")
	f.BoolVar(&o.dryRun, "dry-run", false, "change nothing, tell what would be done")
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) volumePrune(ctx context.Context, v *vault.Opened, o volumePruneOptions) error {
	if o.grace < volume.GraceTime && !o.exclusive {
		return fault.New(fault.Usage, "Add --no-other-saves only if you are sure that nothing else saves into this vault.",
			"a grace time of %v is too short beside other saves: the least is %v", o.grace, volume.GraceTime)
	}
	if o.minLive <= 0 {
		o.minLive = -1
	}
	show, done := p.follow("vault", "pruning")
	r, err := v.Prune(ctx, volume.PruneOptions{
		Grace: o.grace, NoOtherSaves: o.exclusive, MinLive: o.minLive, DryRun: o.dryRun, Progress: show,
	})
	done()
	if err != nil {
		return err
	}
	return o.format.Print(p.Out, r, func(w io.Writer) error {
		would := ""
		if r.DryRun {
			would = "nothing was changed; a run would do this:\n"
		}
		fmt.Fprintf(w, "%s%s in %s, %s of them needed by %s\n", would, output.Bytes(r.Packs.Bytes),
			output.Count(r.Packs.Objects, "pack", "packs"), percent(r.Live, r.Packs.Bytes), output.Count(r.Snapshots, "snapshot", "snapshots"))
		for _, line := range r.Reasons() {
			fmt.Fprintln(w, line)
		}
		return nil
	})
}
