package cmd

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
)

type holdOptions struct {
	vault  vault.Flags
	reason string
	until  string
}

func (p *Program) holdCommand() *cobra.Command {
	var o holdOptions
	cmd := &cobra.Command{
		Use:   "hold POINT-ID",
		Short: "Keep a restore point, whatever its retention says",
		Long: `Keep a restore point, whatever its retention says, until somebody releases it or a time has come. The hold is in the vault beside
the point, so that it holds for every cluster. A further hold of the same point replaces the first.

A hold stops the retention, and nothing else: who may delete in the store itself still can. Object Lock is against that.`,
		Example: `  lockstep hold 20260102-150405-1a2b3c4d --reason "before the audit"
  lockstep hold 20260102 --until 2027-01-31`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completePointArg,
		RunE:              runs(func(ctx context.Context, args []string) error { return p.hold(ctx, args[0], o) }),
	}
	f := cmd.Flags()
	o.vault.AddFlags(f, false)
	f.StringVar(&o.reason, "reason", "", "why; by default who holds it")
	f.StringVar(&o.until, "until", "", "when the hold ends by itself: a date, as 2027-01-31, or a time of RFC 3339; never by default")
	return cmd
}

func (p *Program) releaseHoldCommand() *cobra.Command {
	var flags vault.Flags
	cmd := &cobra.Command{
		Use:               "release-hold POINT-ID",
		Short:             "Let the retention decide about a held restore point again",
		Long:              `Let the retention decide about a held restore point again.`,
		Example:           `  lockstep release-hold 20260102-150405-1a2b3c4d`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completePointArg,
		RunE:              runs(func(ctx context.Context, args []string) error { return p.releaseHold(ctx, args[0], flags) }),
	}
	flags.AddFlags(cmd.Flags(), false)
	return cmd
}

// completePointArg completes the ID of a point as the only argument.
func (p *Program) completePointArg(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return p.completePoints(cmd, args, prefix)
}

func (p *Program) hold(ctx context.Context, id string, o holdOptions) error {
	h := catalog.Hold{Reason: o.reason, Since: p.Now().UTC()}
	if o.until != "" {
		var err error
		if h.Until, err = parseUntil(o.until); err != nil || !h.Until.After(p.Now()) {
			return fault.New(fault.Usage, "Write it as 2027-01-31 or 2027-01-31T12:00:00Z.", "--until %q is not a time to come", o.until)
		}
	}
	if h.Reason == "" {
		h.Reason = "held by hand"
		if who, err := user.Current(); err == nil && who.Username != "" {
			h.Reason = "held by " + who.Username
		}
	}
	v, err := p.openVault(ctx, o.vault)
	if err != nil {
		return err
	}
	choice, err := p.findPoint(ctx, v, id)
	if err != nil {
		return err
	}
	h.Point = choice.Record.ID
	switch err := catalog.PutHold(ctx, v.Vault, h); {
	case errors.Is(err, catalog.ErrPointNotFound):
		return fault.New(fault.Absent, "", "%w", err)
	case err != nil:
		return vault.Explain(err)
	}
	fmt.Fprintf(p.Out, "%s is held: %s\n", h.Point, h)
	return nil
}

// parseUntil reads a date, which ends in UTC with its last moment, or a time.
func parseUntil(s string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	at, err := time.Parse(time.RFC3339, s)
	return at.UTC(), err
}

func (p *Program) releaseHold(ctx context.Context, id string, flags vault.Flags) error {
	v, err := p.openVault(ctx, flags)
	if err != nil {
		return err
	}
	choice, err := p.findPoint(ctx, v, id)
	if err != nil {
		return err
	}
	was, err := catalog.Release(ctx, v.Vault, choice.Record.ID)
	if err != nil {
		return vault.Explain(err)
	}
	if !was {
		p.note("%s was not held", choice.Record.ID)
		return nil
	}
	fmt.Fprintf(p.Out, "%s is not held any more: the retention decides about it\n", choice.Record.ID)
	return nil
}
