package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// Environment variables with the credentials of a Git repository, for pipelines.
const (
	envGitUsername = "LOCKSTEP_GIT_USERNAME"
	envGitPassword = "LOCKSTEP_GIT_PASSWORD" //nolint:gosec // the name of a variable, not a password
)

type announceOptions struct {
	vault      vault.Flags
	repository string
	secret     string
	push       bool
	format     output.Format
}

func (p *Program) pointsAnnounceCommand() *cobra.Command {
	var o announceOptions
	cmd := &cobra.Command{
		Use:   "announce ID",
		Short: "Tag the commit of a restore point in Git",
		Long: `Show in Git that there is a restore point of a commit: make the annotated tag lockstep/<namespace>/<policy>/<ID> of it, whose
message says what the point holds. Without --push nothing is changed, and the tag is shown as it would be made.

A tag that exists is left as it is, so that the command may be repeated; a tag is never moved. The credentials are those of
--git-secret, or $` + envGitUsername + ` and $` + envGitPassword + `; for SSH those of your agent.`,
		Example: `  lockstep points announce 20260102-030405-0badcafe
  lockstep points announce 20260102-030405-0badcafe --push`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completePoints,
		RunE:              runs(func(ctx context.Context, args []string) error { return p.pointsAnnounce(ctx, args[0], o) }),
	}
	f := cmd.Flags()
	o.vault.AddFlags(f, false)
	f.StringVar(&o.repository, "repo", "", "URL of the repository, if the point's cannot be pushed to")
	f.StringVar(&o.secret, "git-secret", "", "Secret with the credentials of the repository, in the namespace of -n")
	f.BoolVar(&o.push, "push", false, "make the tag in the repository")
	o.format.AddFlag(cmd)
	return cmd
}

// announcement is what "points announce" prints.
type announcement struct {
	Repository string `json:"repository"`
	Commit     string `json:"commit"`
	Tag        string `json:"tag"`
	Message    string `json:"message"`
	// Pushed says that the tag is in the repository, Made that it was not there before.
	Pushed bool `json:"pushed"`
	Made   bool `json:"made"`
}

func (p *Program) pointsAnnounce(ctx context.Context, id string, o announceOptions) error {
	v, err := p.openVault(ctx, o.vault)
	if err != nil {
		return err
	}
	record, err := catalog.Get(ctx, v.Vault, id)
	if errors.Is(err, catalog.ErrPointNotFound) {
		return fault.New(fault.Absent, "See: lockstep points", "the vault has no point %q", id)
	}
	if err != nil {
		return vault.Explain(err)
	}
	a := announcement{
		Repository: cmp.Or(o.repository, record.Revision.Repository), Commit: record.Revision.Commit,
		Tag: "lockstep/" + record.Application + "/" + record.ID, Message: tagMessage(record),
	}
	if o.push {
		if err := p.pushTag(ctx, &a, o.secret); err != nil {
			return err
		}
	}
	return o.format.Print(p.Out, a, a.write)
}

// tagMessage says what a point holds. The repository may have other readers than the vault: no claim is named.
func tagMessage(r point.Record) string {
	return fmt.Sprintf("Restore point %s of %s\n\n%s, %s, taken %s while commit %s was running.\n\nlockstep restore --point %s",
		r.ID, r.Application, output.Count(len(r.Volumes), "volume", "volumes"), output.Bytes(recordBytes(r)), r.Taken.UTC().Format(time.RFC3339), r.Revision.Commit, r.ID)
}

func (p *Program) pushTag(ctx context.Context, a *announcement, secret string) (err error) {
	repository, err := p.openRepository(ctx, source{repository: a.Repository, secret: secret})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	a.Repository = repository.URL()
	a.Made, err = repository.PushTag(ctx, a.Tag, a.Commit, a.Message, git.Signer("Lockstep", "lockstep@lockstep.dev", p.Now()))
	if errors.Is(err, git.ErrTagged) {
		return fault.New(fault.Refused, "", "%w", err)
	}
	a.Pushed = err == nil
	return answerError(err)
}

// openRepository opens a repository with the credentials of a Secret, or of the environment.
func (p *Program) openRepository(ctx context.Context, s source) (*git.Repository, error) {
	if s.secret == "" {
		auth := git.Auth{Username: p.Getenv(envGitUsername), Password: p.Getenv(envGitPassword)}
		r, err := git.Open(s.repository, git.Options{Auth: auth})
		return r, answerError(err)
	}
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	return s.open(ctx, c, c.Namespace)
}

func (a announcement) write(w io.Writer) error {
	switch {
	case a.Made:
		_, err := fmt.Fprintf(w, "made tag %s of commit %s in %s\n", a.Tag, short(a.Commit), a.Repository)
		return err
	case a.Pushed:
		_, err := fmt.Fprintf(w, "tag %s of commit %s is in %s already\n", a.Tag, short(a.Commit), a.Repository)
		return err
	}
	_, err := fmt.Fprintf(w, "tag %s of commit %s in %s, if it were pushed (--push):\n\n%s\n", a.Tag, short(a.Commit), a.Repository, a.Message)
	return err
}
