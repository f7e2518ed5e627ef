package cmd

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

type pointsOptions struct {
	vault       vault.Flags
	repository  string
	path        string
	application string
	commit      string
	git         bool
	branch      string
	limit       int
	gitSecret   string
	format      output.Format
}

func (o *pointsOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	o.vault.AddFlags(f, false)
	f.StringVar(&o.repository, "repo", "", "only points of this Git repository")
	f.StringVar(&o.path, "path", "", "only points of this directory of the repository")
	f.StringVar(&o.application, "application", "", "only points of this application: <namespace>/<policy>")
	f.StringVar(&o.commit, "commit", "", "only points of this commit; a prefix will do")
	f.BoolVar(&o.git, "git", false, "show the repository's commits with their points; --repo may be a local work tree")
	f.StringVar(&o.branch, "branch", "", "with --git: the branch to show (default: what is checked out, or the default branch)")
	f.IntVar(&o.limit, "max-count", 30, "with --git: show at most so many commits")
	f.StringVar(&o.gitSecret, "git-secret", "", "with --git: Secret with the credentials of the repository, in the namespace of -n")
	o.format.AddFlag(cmd)
}

func (p *Program) pointsCommand() *cobra.Command {
	var o pointsOptions
	cmd := &cobra.Command{
		Use:     "points",
		Aliases: []string{"point"},
		Short:   "List the restore points of a vault",
		Long: `List the restore points of a vault, the newest first.

The list is read from the vault itself, so that it needs no cluster if the vault is named by its URL. It is complete, or
the command fails.

With --git it is a log of the repository: each commit with its tags, and beneath it the points that were taken while it was
running. The credentials of the repository are those of --git-secret, or $LOCKSTEP_GIT_USERNAME and
$LOCKSTEP_GIT_PASSWORD.`,
		Example: `  lockstep points
  lockstep points --vault s3://acme-dr/prod --key-file vault.key --application shop/shop -o json
  lockstep points --git --repo .`,
		Args: cobra.NoArgs,
		RunE: runs(func(ctx context.Context, _ []string) error {
			if o.git {
				return p.pointsGit(ctx, o)
			}
			return p.points(ctx, o)
		}),
	}
	o.addFlags(cmd)
	cmd.AddCommand(p.pointsAnnounceCommand())
	return cmd
}

func (p *Program) points(ctx context.Context, o pointsOptions) error {
	v, err := p.openVault(ctx, o.vault)
	if err != nil {
		return err
	}
	records, err := catalog.List(ctx, v.Vault)
	if err != nil {
		return vault.Explain(err)
	}
	holds, err := catalog.Holds(ctx, v.Vault, p.Now())
	if err != nil {
		return vault.Explain(err)
	}
	records = slices.DeleteFunc(records, func(r point.Record) bool { return !o.selects(r) })
	slices.SortFunc(records, func(a, b point.Record) int { return cmp.Or(b.Taken.Compare(a.Taken), cmp.Compare(b.ID, a.ID)) })
	listed := make([]listedPoint, len(records))
	held := false
	for i, r := range records {
		listed[i].Record = r
		if h, is := holds[r.ID]; is {
			listed[i].Hold, held = &h, true
		}
	}
	return o.format.Print(p.Out, listed, func(w io.Writer) error {
		rows := make([][]string, len(records))
		for i, r := range records {
			rows[i] = []string{
				r.ID, output.Ago(p.Now(), r.Taken), r.Application, cmp.Or(r.Revision.Ref, "-"), short(r.Revision.Commit),
				strconv.Itoa(len(r.Volumes)), output.Bytes(recordBytes(r)), string(r.Consistency()),
			}
			if h := listed[i].Hold; h != nil {
				rows[i] = append(rows[i], h.String())
			} else if held {
				rows[i] = append(rows[i], "-")
			}
		}
		head := []string{"ID", "TAKEN", "APPLICATION", "REF", "COMMIT", "VOLUMES", "SIZE", "CONSISTENCY"}
		if held {
			head = append(head, "HELD")
		}
		return output.Rows(w, head, rows)
	})
}

// listedPoint is a point with what is said of it beside its record.
type listedPoint struct {
	point.Record
	Hold *catalog.Hold `json:"hold,omitempty"`
}

func (o pointsOptions) selects(r point.Record) bool {
	return (o.repository == "" || revision.SameRepository(o.repository, r.Revision.Repository)) &&
		(o.path == "" || cleanPath(o.path) == r.Revision.Path) &&
		(o.application == "" || o.application == r.Application) &&
		strings.HasPrefix(r.Revision.Commit, o.commit)
}

// openVault opens the vault of the flags, completed from the environment and the cluster.
func (p *Program) openVault(ctx context.Context, f vault.Flags) (*vault.Opened, error) {
	f.Complete(p.Getenv)
	v, err := f.Open(ctx, p.connect)
	if err != nil {
		return nil, err
	}
	p.warnExposed(v.Key)
	return v, nil
}

func recordBytes(r point.Record) int64 {
	var n int64
	for _, v := range r.Volumes {
		n += v.Bytes
	}
	return n
}

// short is a commit as people write it, or a dash.
func short(commit string) string {
	if commit == "" {
		return "-"
	}
	return revision.Short(commit)
}
