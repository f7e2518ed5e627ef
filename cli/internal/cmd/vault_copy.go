package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

type vaultCopyOptions struct {
	from, to        vault.Flags
	recheck, dryRun bool
	format          output.Format
}

func (o *vaultCopyOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.from.Vault, "from", "", "the vault to copy from: its URL, or the name of a Vault in the cluster (default $"+vault.EnvVault+")")
	f.StringVar(&o.from.KeyFile, "from-key-file", "", "file with its key, if it is named by its URL (default $"+vault.EnvKeyFile+")")
	f.StringVar(&o.to.Vault, "to", "", "the vault to copy to: its URL, or the name of a Vault in the cluster")
	f.StringVar(&o.to.KeyFile, "to-key-file", "", "file with its key, if it is named by its URL")
	f.BoolVar(&o.recheck, "recheck", false, "read back points that are there already, too, and bring what is missing of them")
	f.BoolVar(&o.dryRun, "dry-run", false, "copy nothing, tell which points the other vault lacks")
	o.format.AddFlag(cmd)
}

func (p *Program) vaultCopyCommand() *cobra.Command {
	var o vaultCopyOptions
	cmd := &cobra.Command{
		Use:   "copy --from VAULT --to VAULT [POINT...]",
		Short: "Copy restore points into another vault",
		Long: `Copy restore points into another vault, all of them or those named, the newest first. No cluster is needed if both are named by their URLs.

The other vault must exist, and has a key of its own: what is copied is sealed anew. What it has already is not sent again, so that an
interrupted copy goes on where it was. What was sent is read back before a point counts as copied.

Vaults in S3 that are named by their URLs are both reached with the credentials of the environment.`,
		Example: `  lockstep vault copy --from primary --to offsite
  lockstep vault copy --from s3://acme-dr/prod --from-key-file prod.key --to file:///mnt/usb/vault --to-key-file usb.key 20260102-030405-1a2b3c4d`,
		ValidArgsFunction: p.completePoints,
		RunE: runs(func(ctx context.Context, args []string) error {
			return vault.Explain(p.vaultCopy(ctx, args, o))
		}),
	}
	o.addFlags(cmd)
	for _, flag := range []string{"from", "to"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, p.completeVaults) // it fails only for flags that do not exist
	}
	return cmd
}

// copied is one point in the answer.
type copied struct {
	catalog.CopyReport
	// Lacking says, with --dry-run, that the other vault does not have the point.
	Lacking bool   `json:"lacking,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (p *Program) vaultCopy(ctx context.Context, ids []string, o vaultCopyOptions) error {
	if o.to.Vault == "" {
		return fault.New(fault.Usage, "Name it with --to.", "which vault to copy to is not said")
	}
	from, err := p.openVault(ctx, o.from)
	if err != nil {
		return err
	}
	to, err := o.to.Open(ctx, p.connect)
	if err != nil {
		return err
	}
	p.warnExposed(to.Key)
	if len(ids) == 0 {
		if ids, err = newestFirst(ctx, from.Vault); err != nil {
			return err
		}
	}
	all := make([]copied, 0, len(ids))
	var failures []error
	for _, id := range ids {
		c, err := p.copyPoint(ctx, from.Vault, to.Vault, id, o)
		if err != nil {
			c.Error = err.Error()
			failures = append(failures, err)
		}
		all = append(all, c)
		if ctx.Err() != nil || errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrDenied) {
			break // and so would all others
		}
	}
	err = o.format.Print(p.Out, all, func(w io.Writer) error { return printCopied(w, all, len(ids), o.dryRun) })
	return errors.Join(append(failures, err)...)
}

func newestFirst(ctx context.Context, v *volume.Vault) ([]string, error) {
	records, err := catalog.List(ctx, v)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(records))
	for i, r := range slices.Backward(records) {
		ids[len(records)-1-i] = r.ID
	}
	return ids, nil
}

func (p *Program) copyPoint(ctx context.Context, from, to *volume.Vault, id string, o vaultCopyOptions) (copied, error) {
	if o.dryRun {
		_, err := catalog.Get(ctx, to, id)
		lacking := errors.Is(err, catalog.ErrPointNotFound)
		if lacking {
			_, err = catalog.Get(ctx, from, id)
		}
		return copied{CopyReport: catalog.CopyReport{ID: id, Present: !lacking && err == nil}, Lacking: lacking && err == nil}, err
	}
	show, done := p.follow(id, "copying")
	defer done()
	r, err := catalog.Copy(ctx, from, to, id, volume.CopyOptions{Recheck: o.recheck, Progress: show})
	return copied{CopyReport: r}, err
}

func printCopied(w io.Writer, all []copied, asked int, dryRun bool) error {
	rows := make([][]string, len(all))
	for i, c := range all {
		state := "copied"
		switch {
		case c.Error != "":
			state = "failed"
		case c.Lacking:
			state = "lacking"
		case c.Present:
			state = "there already"
		}
		rows[i] = []string{c.ID, state, output.Bytes(c.Bytes), output.Bytes(c.Stored)}
	}
	if err := output.Rows(w, []string{"ID", "STATE", "NEW", "STORED"}, rows); err != nil {
		return err
	}
	if left := asked - len(all); left > 0 {
		fmt.Fprintf(w, "not tried: %s\n", output.Count(left, "point", "points"))
	}
	if dryRun {
		fmt.Fprintln(w, "nothing was copied")
	}
	return nil
}
