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

type volumeListOptions struct {
	vault     vault.Flags
	labels    map[string]string
	recursive bool
	format    output.Format
}

func (p *Program) volumeListCommand() *cobra.Command {
	var o volumeListOptions
	cmd := &cobra.Command{
		Use:   "list [SNAPSHOT [PATH]]",
		Short: "List snapshots, or what is in one",
		Long: `List the snapshots of a vault, the oldest first, or what is in a directory of one snapshot. The list is complete, or the command
fails.`,
		Example: `  lockstep volume list --label app=shop
  lockstep volume list latest etc --recursive`,
		Args: cobra.MaximumNArgs(2),
		RunE: p.onVault(&o.vault, func(ctx context.Context, v *vault.Opened, args []string) error {
			if len(args) == 0 {
				return p.listSnapshots(ctx, v, o)
			}
			id, err := snapshotID(ctx, v, args[0], o.labels)
			if err != nil {
				return err
			}
			return p.listEntries(ctx, v, id, append(args, "")[1], o)
		}),
	}
	o.vault.AddFlags(cmd.Flags(), true)
	addLabels(cmd, &o.labels, "only snapshots with this label")
	cmd.Flags().BoolVarP(&o.recursive, "recursive", "r", false, "list what is below directories, too")
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) listSnapshots(ctx context.Context, v *vault.Opened, o volumeListOptions) error {
	snapshots, err := v.Snapshots(ctx)
	if err != nil {
		return err
	}
	list := []*volume.Snapshot{}
	for _, s := range snapshots {
		if has(s.Labels, o.labels) {
			list = append(list, s)
		}
	}
	return o.format.Print(p.Out, list, func(w io.Writer) error {
		rows := make([][]string, len(list))
		for i, s := range list {
			rows[i] = []string{s.ID, output.Ago(p.Now(), s.Created), fmt.Sprint(s.Stats.Files), output.Bytes(s.Stats.Size), output.Bytes(s.Stats.Stored), dash(pairs(s.Labels))}
		}
		return output.Rows(w, []string{"ID", "SAVED", "FILES", "SIZE", "STORED", "LABELS"}, rows)
	})
}

// listEntries prints entries as they come: there may be millions.
func (p *Program) listEntries(ctx context.Context, v *vault.Opened, id, path string, o volumeListOptions) error {
	if o.format != output.Table {
		list := []volume.Entry{}
		for e, err := range v.Entries(ctx, id, path, o.recursive) {
			if err != nil {
				return err
			}
			list = append(list, e)
		}
		return o.format.Print(p.Out, list, nil)
	}
	for e, err := range v.Entries(ctx, id, path, o.recursive) {
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(p.Out, entryLine(e)); err != nil {
			return err
		}
	}
	return nil
}

func entryLine(e volume.Entry) string {
	line := fmt.Sprintf("%-9s %04o %6d:%-6d %9s  %s  %s", e.Kind, e.Mode, e.UID, e.GID, output.Bytes(e.Size), output.Time(e.ModTime), output.Path(e.Path))
	switch {
	case e.Reason != "":
		line += "  (not saved: " + e.Reason + ")"
	case e.Target != "":
		line += " -> " + output.Path(e.Target)
	case e.Changed:
		line += "  (changed while it was saved)"
	}
	return line
}

func (p *Program) volumeDiffCommand() *cobra.Command {
	var flags vault.Flags
	var labels map[string]string
	var format output.Format
	cmd := &cobra.Command{
		Use:     "diff SNAPSHOT SNAPSHOT",
		Short:   "Tell what changed between two snapshots",
		Long:    "Tell what changed from one snapshot to another: what was added and removed, and whose content, metadata or kind changed.",
		Example: `  lockstep volume diff 5f3c 81aa`,
		Args:    cobra.ExactArgs(2),
		RunE: p.onVault(&flags, func(ctx context.Context, v *vault.Opened, args []string) error {
			ids, err := snapshotIDs(ctx, v, args, labels)
			if err != nil {
				return err
			}
			changes := []volume.Change{}
			for c, err := range v.Diff(ctx, ids[0], ids[1]) {
				if err != nil {
					return err
				}
				changes = append(changes, c)
			}
			return format.Print(p.Out, changes, func(w io.Writer) error {
				for _, c := range changes {
					if _, err := fmt.Fprintf(w, "%-9s %s\n", c.What, output.Path(c.Path)); err != nil {
						return err
					}
				}
				return nil
			})
		}),
	}
	flags.AddFlags(cmd.Flags(), true)
	addLabels(cmd, &labels, "latest is the newest snapshot with this label")
	format.AddFlag(cmd)
	return cmd
}
