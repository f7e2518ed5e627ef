package cmd

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/doctor"
	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/git"
)

type doctorOptions struct {
	vault   vault.Flags
	source  source
	image   string
	limit   time.Duration
	verbose bool
	format  output.Format
}

func (p *Program) doctorCommand() *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what will not work, before the bad night",
		Long: `Look at the cluster, its vaults, its storage, the permissions and the GitOps engine, and say what would not work. Nothing is
changed.

With --vault URL and --key-file no cluster is looked at, but the vault alone: could a bare cluster be restored from it?

With --repo, Git is asked whether it still has the commits of the newest points. --repo may be an SSH or HTTPS URL, or a local
work tree.

The exit code is 0 if there is no error, warnings or not; 1 if there is an error; 3 if something could not be asked, and there is no
error besides.`,
		Example: `  lockstep doctor
  lockstep doctor -v -o json
  lockstep doctor --vault s3://acme-dr/prod --key-file vault.key --repo https://git.example.com/shop.git`,
		Args: cobra.NoArgs,
		RunE: runs(func(ctx context.Context, _ []string) error { return p.doctor(ctx, o) }),
	}
	f := cmd.Flags()
	// The environment does not choose: with it, too, the doctor is for the cluster unless the command line says otherwise.
	f.StringVar(&o.vault.Vault, "vault", "", "look at this vault alone: file:///path or s3://bucket/prefix?endpoint=…&region=…")
	f.StringVar(&o.vault.KeyFile, "key-file", "", "file with the key of that vault (default $"+vault.EnvKeyFile+")")
	f.StringVar(&o.source.repository, "repo", "", "URL of the Git repository of the points, or a local work tree of it")
	f.StringVar(&o.image, "image", p.Image, "image of the controller that belongs to this program (default $"+envImage+")")
	f.DurationVar(&o.limit, "check-timeout", 30*time.Second, "how long each check may take")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "tell what is well, too")
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) doctor(ctx context.Context, o doctorOptions) (err error) {
	if err := o.source.check(); err != nil {
		return err
	}
	s := &doctor.Subject{Image: o.image, Now: p.Now}
	if s.Image == "" {
		s.Image = p.Getenv(envImage)
	}
	if o.source.repository != "" {
		r, openErr := o.source.open(ctx, nil, "")
		if openErr != nil {
			return openErr
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		s.Repository = doctorsRepository{r}
	}
	checks := doctor.Checks()
	if o.vault.Vault != "" {
		o.vault.Complete(p.Getenv)
		if !vault.IsURL(o.vault.Vault) {
			return fault.New(fault.Usage, "Give its URL.", "--vault %q is not a URL", o.vault.Vault)
		}
		if _, err := vault.ReadKey(o.vault.KeyFile); err != nil {
			return err
		}
		checks = doctor.VaultChecks()
		s.OpenVault = func(ctx context.Context) (*vault.Opened, error) { return p.openByURL(ctx, o.vault) }
	} else if s.Cluster, err = p.connect(); err != nil {
		return err
	}
	report := doctor.Examine(ctx, s, checks, o.limit)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := o.format.Print(p.Out, report, func(w io.Writer) error { return report.Write(w, o.verbose) }); err != nil {
		return err
	}
	switch report.Result {
	case doctor.Error:
		return fault.New(fault.Failed, "", "something would not work")
	case doctor.Unknown:
		return fault.New(fault.Unknown, "", "something could not be asked")
	}
	return nil
}

// doctorsRepository asks a repository about one commit.
type doctorsRepository struct{ *git.Repository }

// Holds reports whether the commit is there still, with the path.
func (r doctorsRepository) Holds(ctx context.Context, commit, path string) error {
	_, err := r.Resolve(ctx, git.Ref{Commit: commit}, path)
	return err
}
