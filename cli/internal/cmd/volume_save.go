package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// Labels that save sets itself.
const (
	labelPath       = "path"
	labelHost       = "host"
	labelCommit     = "commit"
	labelRepository = "repository"
)

type volumeSaveOptions struct {
	vault     vault.Flags
	labels    map[string]string
	repo      string
	parent    string
	detect    string
	compress  string
	keepGoing bool
	writeOnly string
	format    output.Format
}

func (p *Program) volumeSaveCommand() *cobra.Command {
	var o volumeSaveOptions
	cmd := &cobra.Command{
		Use:   "save PATH",
		Short: "Save a directory, a file or a block device",
		Long: `Save a directory with everything below it: owners, modes, times to the nanosecond, extended attributes, ACLs, links, holes. A
file or a block device is saved as an image. What the vault has already is not stored again.

A file that has not changed since the parent, the newest snapshot of the same path on the same host unless --parent says otherwise, is not
read again. With --detect strict (the default) it must have the same size, modification and change time and inode; mtime is for copies
whose inodes and change times are new; none reads everything.

With --repo the snapshot is tagged with the commit that is checked out there, as the label commit.

If one file cannot be read, or changes while it is read, nothing is recorded, the files are named, and the exit code is 1. With
--keep-going the snapshot is recorded all the same, says what is missing, and the exit code is 1, too.

A save that was interrupted is taken up where it was: just run it again.`,
		Example: `  lockstep volume save --vault file:///mnt/vault --key-file vault.key /srv/data -o json | jq -r .id
  lockstep volume save /var/lib/postgresql --repo ~/gitops --label app=shop
  lockstep volume save /dev/vg0/snap --compression zstd`,
		Args: cobra.ExactArgs(1),
		RunE: runs(func(ctx context.Context, args []string) error { return p.volumeSave(ctx, args[0], o) }),
	}
	o.vault.AddFlags(cmd.Flags(), true)
	addLabels(cmd, &o.labels, "label to keep with the snapshot")
	f := cmd.Flags()
	f.StringVar(&o.repo, "repo", "", "local Git repository; its commit is kept as the label commit")
	f.StringVar(&o.parent, "parent", "auto", "snapshot that unchanged files are taken from: its id, auto or none")
	choice(cmd, &o.detect, "detect", "what tells that a file is unchanged", "strict", "mtime", "none")
	choice(cmd, &o.compress, "compression", "how to compress: auto is s2 for a first snapshot, zstd for those with a parent", "auto", "s2", "zstd")
	f.BoolVar(&o.keepGoing, "keep-going", false, "record the snapshot although some files cannot be read")
	f.StringVar(&o.writeOnly, "write-only", "", "file of 'lockstep vault key export': save with credentials that may only write")
	o.format.AddFlag(cmd)
	return cmd
}

// choice adds a flag that takes one of some words, the first unless it is given.
func choice(cmd *cobra.Command, value *string, name, what string, words ...string) {
	cmd.Flags().StringVar(value, name, words[0], what+": "+strings.Join(words[:len(words)-1], ", ")+" or "+words[len(words)-1])
	// The error says that the flag does not exist, and it was added on the line above.
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

type savedVolume struct {
	*volume.Snapshot
	// Failed are the entries that could not be read, or changed while they were.
	Failed []fileView `json:"failed,omitempty"`
}

func (p *Program) volumeSave(ctx context.Context, path string, o volumeSaveOptions) error {
	so, err := p.saveOptions(ctx, path, o)
	if err != nil {
		return err
	}
	v, err := p.openToSave(ctx, o)
	if err != nil {
		return err
	}
	if so.Parent, err = parent(ctx, v, so, o.parent); err != nil {
		return err
	}
	show, done := p.follow(path, "saving")
	so.Progress = show
	s, err := v.Save(ctx, path, so)
	done()
	if s == nil {
		return vault.Explain(err)
	}
	saved := savedVolume{s, viewFiles(err)}
	if printErr := o.format.Print(p.Out, saved, func(w io.Writer) error { return printSaved(w, s) }); printErr != nil {
		return printErr
	}
	p.printFiles("not saved whole", saved.Failed)
	return vault.Explain(err)
}

func printSaved(w io.Writer, s *volume.Snapshot) error {
	unchanged := ""
	if s.Stats.UnchangedBytes > 0 {
		unchanged = fmt.Sprintf(", %s unchanged", output.Bytes(s.Stats.UnchangedBytes))
	}
	_, err := fmt.Fprintf(w, "saved %s: %s, %s%s (%s new in the vault)\n", s.ID,
		output.Count(int(s.Stats.Files), "file", "files"), output.Bytes(s.Stats.Size), unchanged, output.Bytes(s.Stats.Stored))
	return err
}

// openToSave opens the vault, without reading from it if it is to be written only.
func (p *Program) openToSave(ctx context.Context, o volumeSaveOptions) (*vault.Opened, error) {
	if o.writeOnly == "" {
		return p.openByURL(ctx, o.vault)
	}
	data, err := os.ReadFile(o.writeOnly)
	if err != nil {
		return nil, fault.New(fault.Usage, "Make it, where the vault can be read, with: lockstep vault key export", "reading %q: %w", o.writeOnly, err)
	}
	o.vault.Complete(p.Getenv)
	return o.vault.OpenBootstrap(ctx, data)
}

func (p *Program) saveOptions(ctx context.Context, path string, o volumeSaveOptions) (volume.SaveOptions, error) {
	so := volume.SaveOptions{Labels: maps.Clone(o.labels), KeepGoing: o.keepGoing, Blind: o.writeOnly != ""}
	if err := errors.Join(so.Compression.UnmarshalText([]byte(o.compress)), so.Detect.UnmarshalText([]byte(o.detect))); err != nil {
		return so, fault.New(fault.Usage, "", "%w", err)
	}
	if so.Labels == nil {
		so.Labels = map[string]string{}
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return so, err
	}
	implied := map[string]string{labelPath: absolute}
	if host, err := os.Hostname(); err == nil {
		implied[labelHost] = host
	}
	if o.repo != "" {
		if err := tag(ctx, o.repo, implied); err != nil {
			return so, err
		}
	}
	for k, v := range implied {
		if _, given := so.Labels[k]; !given {
			so.Labels[k] = v
		}
	}
	return so, nil
}

// tag adds the commit that a repository has checked out.
func tag(ctx context.Context, repo string, labels map[string]string) (err error) {
	r, err := git.Open(repo, git.Options{})
	if err != nil {
		return answerError(err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	rev, err := r.Resolve(ctx, git.Ref{Head: true}, "")
	if err != nil {
		return answerError(err)
	}
	labels[labelCommit], labels[labelRepository] = rev.Commit, rev.Repository
	return nil
}

// parent finds the snapshot that unchanged files are taken from.
func parent(ctx context.Context, v *vault.Opened, so volume.SaveOptions, name string) (string, error) {
	switch {
	case name == "none", so.Blind:
		return "", nil
	case name != "auto":
		id, err := snapshotID(ctx, v, name, nil)
		return id, vault.Explain(err)
	}
	same := map[string]string{labelPath: so.Labels[labelPath]}
	if host, known := so.Labels[labelHost]; known {
		same[labelHost] = host
	}
	s, err := v.Latest(ctx, same)
	if err != nil || s == nil {
		return "", vault.Explain(err)
	}
	return s.ID, nil
}
