package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func (p *Program) volumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Save and load directories and block devices, with no cluster",
		Long: `Save directories, files and block devices into a vault and load them back, with no cluster: your data is readable
wherever the vault and its key are. The volumes that restore points hold are among them.

Snapshots are named by their id, by the first digits of it (4 at least), or by the word latest; and the volumes of a restore
point by its ID and the claim, as in 20260102-030405-1a2b3c4d:shop/data.`,
	}
	cmd.AddCommand(p.volumeSaveCommand(), p.volumeLoadCommand(), p.volumeListCommand(), p.volumeCatCommand(), p.volumeExtractCommand(), p.volumeDiffCommand(),
		p.volumeStatCommand(), p.volumeVerifyCommand(), p.volumeForgetCommand(), p.volumePruneCommand())
	return cmd
}

// openByURL opens the vault of flags that need no cluster.
func (p *Program) openByURL(ctx context.Context, f vault.Flags) (*vault.Opened, error) {
	f.Complete(p.Getenv)
	if f.Vault == "" {
		return nil, fault.New(fault.Usage, "Name it with --vault or $"+vault.EnvVault+".", "no vault")
	}
	v, err := f.OpenURL(ctx)
	if err != nil {
		return nil, err
	}
	p.warnExposed(v.Key)
	return v, nil
}

// onVault makes what a command does out of run, with the vault of its flags open.
func (p *Program) onVault(f *vault.Flags, run func(ctx context.Context, v *vault.Opened, args []string) error) func(*cobra.Command, []string) error {
	return runs(func(ctx context.Context, args []string) error {
		v, err := p.openByURL(ctx, *f)
		if err != nil {
			return err
		}
		return vault.Explain(run(ctx, v, args))
	})
}

// follow shows the progress of one task until done is called.
func (p *Program) follow(name, state string) (show func(volume.Progress), done func()) {
	board := p.board()
	return func(at volume.Progress) {
		it := progress.Item{Name: name, State: state, Done: cmp.Or(at.Bytes, at.Stored), Total: at.TotalBytes}
		if at.Verifying {
			it.State = "verifying"
		}
		if at.UnchangedBytes > 0 {
			it.Note = output.Bytes(at.UnchangedBytes) + " unchanged"
		}
		board.Show(it)
	}, board.Clear
}

// minPrefix is how many digits of a snapshot's id are enough to name it.
const minPrefix = 4

// latest names the newest snapshot.
const latest = "latest"

// snapshotID finds the snapshot that name means among those that have the labels.
func snapshotID(ctx context.Context, v *vault.Opened, name string, labels map[string]string) (string, error) {
	hex := strings.Trim(name, "0123456789abcdef") == ""
	switch {
	case hex && len(name) == 32:
		return name, nil
	case strings.Contains(name, "-"):
		return pointSnapshot(ctx, v, name)
	case name == latest:
		s, err := v.Latest(ctx, labels)
		if err != nil {
			return "", err
		}
		if s == nil {
			return "", fault.New(fault.Absent, "", "the vault holds no snapshot%s", withLabels(labels))
		}
		return s.ID, nil
	case !hex || len(name) < minPrefix || len(name) > 32:
		return "", fault.New(fault.Usage, "See them with: lockstep volume list", "snapshot %q: want an id, the first %d or more digits of one, or %q", name, minPrefix, latest)
	}
	snapshots, err := v.Snapshots(ctx)
	if err != nil {
		return "", err
	}
	var found []string
	for _, s := range snapshots {
		if strings.HasPrefix(s.ID, name) {
			found = append(found, s.ID)
		}
	}
	switch len(found) {
	case 0:
		return "", fault.New(fault.Absent, "", "no snapshot's id begins with %q", name)
	case 1:
		return found[0], nil
	}
	return "", fault.New(fault.Usage, "Give more digits.", "%q is ambiguous: %s", name, strings.Join(found, ", "))
}

// pointSnapshot finds the snapshot of a volume of a restore point.
func pointSnapshot(ctx context.Context, v *vault.Opened, name string) (string, error) {
	id, claim, named := strings.Cut(name, ":")
	choice, err := catalog.Find(ctx, v.Vault, match.Query{PointID: id}, nil)
	if err != nil {
		return "", answerError(err)
	}
	var found, all []string
	for _, volume := range choice.Record.Volumes {
		all = append(all, choice.Record.ID+":"+volume.Key())
		if !named || claim == volume.Key() || claim == volume.Claim {
			found = append(found, volume.Snapshot)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return "", fault.New(fault.Absent, "It has: "+strings.Join(all, ", "), "point %s has no volume %q", choice.Record.ID, claim)
	}
	return "", fault.New(fault.Usage, "Say which: "+strings.Join(all, ", "), "point %s has several volumes", choice.Record.ID)
}

// snapshotIDs finds the snapshots that names mean.
func snapshotIDs(ctx context.Context, v *vault.Opened, names []string, labels map[string]string) ([]string, error) {
	ids := make([]string, len(names))
	for i, name := range names {
		var err error
		if ids[i], err = snapshotID(ctx, v, name, labels); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

func withLabels(labels map[string]string) string {
	if len(labels) == 0 {
		return ""
	}
	return " with " + pairs(labels)
}

func addLabels(cmd *cobra.Command, labels *map[string]string, what string) {
	cmd.Flags().StringToStringVar(labels, "label", nil, what+", as key=value; may be repeated")
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

// fileView is one file of an error, for programs.
type fileView struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

func viewFiles(err error) []fileView {
	var files *volume.FileErrors
	if !errors.As(err, &files) {
		return nil
	}
	views := make([]fileView, len(files.Files))
	for i, f := range files.Files {
		views[i] = fileView{f.Path, f.Err.Error()}
	}
	return views
}

// printFiles lists files one a line.
func (p *Program) printFiles(what string, files []fileView) {
	for _, f := range files {
		p.note("  %s: %q: %s", what, f.Path, f.Reason)
	}
}

// percent writes a share of a whole.
func percent(part, whole int64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", part*100/whole)
}
