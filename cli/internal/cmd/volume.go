package cmd

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func (p *Program) volumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Save and load directories, with no cluster",
		Long: `Save directories into a vault and load them back, with no cluster: your data is readable wherever the vault and its key
are. The volumes that restore points hold are among them.`,
	}
	cmd.AddCommand(p.volumeSaveCommand(), p.volumeLoadCommand(), p.volumeListCommand())
	return cmd
}

// openByURL opens the vault of flags that need no cluster.
func (p *Program) openByURL(ctx context.Context, f vault.Flags) (*vault.Opened, error) {
	f.Complete(p.Getenv)
	if f.Vault == "" {
		return nil, fault.New(fault.Usage, "Name it with --vault or $"+vault.EnvVault+".", "no vault")
	}
	v, err := vault.OpenURL(ctx, f.Vault, f.KeyFile)
	if err != nil {
		return nil, err
	}
	p.warnExposed(v.Key)
	return v, nil
}

// follow shows the progress of one directory.
func follow(board *progress.Board, dir, state string) func(volume.Progress) {
	return func(at volume.Progress) {
		it := progress.Item{Name: dir, State: state, Done: at.Bytes, Total: at.TotalBytes}
		if at.Verifying {
			it.State = "verifying"
		}
		board.Show(it)
	}
}

type volumeSaveOptions struct {
	vault  vault.Flags
	labels map[string]string
	format output.Format
}

func (p *Program) volumeSaveCommand() *cobra.Command {
	var o volumeSaveOptions
	cmd := &cobra.Command{
		Use:   "save DIR",
		Short: "Save a directory",
		Long: `Save a directory with everything below it: owners, modes, times to the nanosecond, extended attributes, ACLs, links, holes.
What the vault has already is not stored again.

If one file cannot be read, nothing is recorded, the files are named, and the exit code is 1.`,
		Example: `  lockstep volume save --vault file:///mnt/vault --key-file vault.key /srv/data -o json | jq -r .id`,
		Args:    cobra.ExactArgs(1),
		RunE:    runs(func(ctx context.Context, args []string) error { return p.volumeSave(ctx, args[0], o) }),
	}
	o.vault.AddFlags(cmd.Flags(), true)
	cmd.Flags().StringToStringVar(&o.labels, "label", nil, "label to keep with the volume, as key=value; may be repeated")
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) volumeSave(ctx context.Context, dir string, o volumeSaveOptions) error {
	v, err := p.openByURL(ctx, o.vault)
	if err != nil {
		return err
	}
	board := p.board()
	s, err := v.Save(ctx, dir, volume.SaveOptions{Labels: o.labels, Progress: follow(board, dir, "saving")})
	board.Clear()
	if err != nil {
		return vault.Explain(err)
	}
	return o.format.Print(p.Out, s, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "saved %s: %s, %s (%s new in the vault)\n", s.ID,
			output.Count(int(s.Stats.Files), "file", "files"), output.Bytes(s.Stats.Size), output.Bytes(s.Stats.Stored))
		return err
	})
}

type loadedVolume struct {
	ID        string       `json:"id"`
	Directory string       `json:"directory"`
	Roots     volume.Roots `json:"roots"`
	Stats     volume.Stats `json:"stats"`
	// Damaged are objects of the vault that are damaged and could be done without.
	Damaged []string `json:"damaged,omitempty"`
}

type volumeLoadOptions struct {
	vault  vault.Flags
	verify bool
	format output.Format
}

func (p *Program) volumeLoadCommand() *cobra.Command {
	var o volumeLoadOptions
	cmd := &cobra.Command{
		Use:   "load ID DIR",
		Short: "Load a saved directory into an empty one",
		Long: `Load a saved directory, verified while it is written, and with --verify read back and compared once more. DIR must be
empty: nothing is ever overwritten. Run as root to get owners and devices back.`,
		Example: `  lockstep volume load --vault file:///mnt/vault --key-file vault.key 5f3c… /srv/restored`,
		Args:    cobra.ExactArgs(2),
		RunE:    runs(func(ctx context.Context, args []string) error { return p.volumeLoad(ctx, args[0], args[1], o) }),
	}
	o.vault.AddFlags(cmd.Flags(), true)
	cmd.Flags().BoolVar(&o.verify, "verify", false, "read everything back from the disk and compare")
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) volumeLoad(ctx context.Context, id, dir string, o volumeLoadOptions) error {
	v, err := p.openByURL(ctx, o.vault)
	if err != nil {
		return err
	}
	verify := volume.VerifyWrite
	if o.verify {
		verify = volume.VerifyReadback
	}
	board := p.board()
	r, err := v.Load(ctx, id, dir, volume.LoadOptions{Verify: verify, Progress: follow(board, dir, "loading")})
	board.Clear()
	if err != nil {
		return vault.Explain(err)
	}
	loaded := loadedVolume{ID: r.Snapshot.ID, Directory: dir, Roots: r.Roots, Stats: r.Stats, Damaged: r.Damaged}
	for _, name := range r.Damaged {
		p.note("warning: damaged in the vault, and not needed for this volume: %s", name)
	}
	return o.format.Print(p.Out, loaded, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "loaded %s into %s: %s, %s\n", id, dir,
			output.Count(int(r.Stats.Files), "file", "files"), output.Bytes(r.Stats.Size))
		return err
	})
}

type volumeListOptions struct {
	vault  vault.Flags
	labels map[string]string
	format output.Format
}

func (p *Program) volumeListCommand() *cobra.Command {
	var o volumeListOptions
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the saved directories of a vault",
		Long:  "List the saved directories of a vault, the oldest first. The list is complete, or the command fails.",
		Args:  cobra.NoArgs,
		RunE:  runs(func(ctx context.Context, _ []string) error { return p.volumeList(ctx, o) }),
	}
	o.vault.AddFlags(cmd.Flags(), true)
	cmd.Flags().StringToStringVar(&o.labels, "label", nil, "only those with this label, as key=value; may be repeated")
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) volumeList(ctx context.Context, o volumeListOptions) error {
	v, err := p.openByURL(ctx, o.vault)
	if err != nil {
		return err
	}
	snapshots, err := v.Snapshots(ctx)
	if err != nil {
		return vault.Explain(err)
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
			rows[i] = []string{s.ID, output.Ago(p.Now(), s.Created), fmt.Sprint(s.Stats.Files), output.Bytes(s.Stats.Size), dash(pairs(s.Labels))}
		}
		return output.Rows(w, []string{"ID", "SAVED", "FILES", "SIZE", "LABELS"}, rows)
	})
}

// has reports whether labels include all that are wanted.
func has(labels, wanted map[string]string) bool {
	for k, v := range wanted {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func pairs(labels map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, k+"="+labels[k])
	}
	return strings.Join(all, ",")
}
