package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

type loadedVolume struct {
	ID        string       `json:"id"`
	Directory string       `json:"directory"`
	Roots     volume.Roots `json:"roots"`
	Stats     volume.Stats `json:"stats"`
	// Damaged are objects of the vault that are damaged and could be done without.
	Damaged []string `json:"damaged,omitempty"`
	// Changed are files that changed while they were saved: their bytes may never have been together.
	Changed []string `json:"changed,omitempty"`
}

type volumeLoadOptions struct {
	vault     vault.Flags
	labels    map[string]string
	path      string
	verify    bool
	overwrite bool
	mirror    bool
	tar       bool
	format    output.Format
}

func (p *Program) volumeLoadCommand() *cobra.Command {
	var o volumeLoadOptions
	cmd := &cobra.Command{
		Use:   "load SNAPSHOT TARGET",
		Short: "Load a snapshot, or one file or directory of it",
		Long: `Load a snapshot into a directory, verified while it is written, and with --verify read back and compared once more. An image is
loaded into a file or a block device. With --path only that file or directory of the snapshot is loaded. Run as root to get owners and devices back.

TARGET must be empty or not exist: nothing is overwritten unless you say so. A load that was interrupted is taken up where it was: just run it again.
With --overwrite an existing directory is made to hold what the snapshot holds; only what differs is fetched, and what else is there stays. With
--mirror what else is there is removed, too.

With --tar the snapshot is written as a tar archive to the file TARGET, or to the standard output if that is "-".`,
		Example: `  lockstep volume load --vault file:///mnt/vault --key-file vault.key 5f3c… /srv/restored
  lockstep volume load latest --label app=shop /srv/data --mirror --verify
  lockstep volume load latest - --tar --path etc | tar -tv`,
		Args: cobra.ExactArgs(2),
		RunE: p.onVault(&o.vault, func(ctx context.Context, v *vault.Opened, args []string) error {
			return p.volumeLoad(ctx, v, args[0], args[1], o)
		}),
	}
	o.vault.AddFlags(cmd.Flags(), true)
	addLabels(cmd, &o.labels, "latest is the newest snapshot with this label")
	f := cmd.Flags()
	f.StringVar(&o.path, "path", "", "load only this file or directory of the snapshot")
	f.BoolVar(&o.verify, "verify", false, "read everything back from the disk and compare")
	f.BoolVar(&o.overwrite, "overwrite", false, "load into a directory that is not empty, and replace what differs")
	f.BoolVar(&o.mirror, "mirror", false, "load into a directory that is not empty, replace what differs and remove what the snapshot does not hold")
	f.BoolVar(&o.tar, "tar", false, "write a tar archive")
	cmd.MarkFlagsMutuallyExclusive("overwrite", "mirror", "tar")
	cmd.MarkFlagsMutuallyExclusive("verify", "tar")
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) volumeLoad(ctx context.Context, v *vault.Opened, name, target string, o volumeLoadOptions) error {
	id, err := snapshotID(ctx, v, name, o.labels)
	if err != nil {
		return err
	}
	if o.tar {
		return p.toFile(target, func(w io.Writer) error { return v.Tar(ctx, id, o.path, w) })
	}
	lo := volume.LoadOptions{Path: o.path}
	if o.verify {
		lo.Verify = volume.VerifyReadback
	}
	switch {
	case o.overwrite:
		lo.Existing = volume.ExistingOverwrite
	case o.mirror:
		lo.Existing = volume.ExistingMirror
	}
	show, done := p.follow(target, "loading")
	lo.Progress = show
	r, err := v.Load(ctx, id, target, lo)
	done()
	if err != nil {
		p.printFiles("not loaded", viewFiles(err))
		return err
	}
	loaded := loadedVolume{ID: r.Snapshot.ID, Directory: target, Roots: r.Roots, Stats: r.Stats, Damaged: r.Damaged, Changed: r.Changed}
	for _, name := range r.Damaged {
		p.note("warning: damaged in the vault, and not needed for this snapshot: %s", name)
	}
	for _, path := range r.Changed {
		p.note("warning: changed while it was saved: %q", path)
	}
	return o.format.Print(p.Out, loaded, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "loaded %s into %s: %s, %s (%s fetched)\n", id, target,
			output.Count(int(r.Stats.Files), "file", "files"), output.Bytes(r.Stats.Size), output.Bytes(r.Stats.Stored))
		return err
	})
}

// toFile has a new file written, or the standard output. What is left of a file after a failure is removed.
func (p *Program) toFile(target string, write func(io.Writer) error) error {
	if target == "-" {
		return write(p.Out)
	}
	f, err := os.OpenFile(target, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fault.New(fault.Refused, "Give the name of a new file.", "%w", err)
	}
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(target))
	}
	return nil
}

func (p *Program) volumeCatCommand() *cobra.Command {
	var flags vault.Flags
	var labels map[string]string
	cmd := &cobra.Command{
		Use:     "cat SNAPSHOT|POINT[:NAMESPACE/CLAIM] [PATH]",
		Short:   "Write one file of a snapshot or of a restore point to the standard output",
		Long:    "Write one file of a snapshot to the standard output. An image is that file itself and needs no path.",
		Example: `  lockstep volume cat latest etc/app.conf --label app=shop`,
		Args:    cobra.RangeArgs(1, 2),
		RunE: p.onVault(&flags, func(ctx context.Context, v *vault.Opened, args []string) error {
			id, err := snapshotID(ctx, v, args[0], labels)
			if err != nil {
				return err
			}
			path := append(args, "")[1]
			return p.nearTo(ctx, v, id, path, v.Cat(ctx, id, path, p.Out))
		}),
	}
	flags.AddFlags(cmd.Flags(), true)
	addLabels(cmd, &labels, "latest is the newest snapshot with this label")
	return cmd
}
