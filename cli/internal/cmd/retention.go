package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/retention"
)

func (p *Program) retentionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retention",
		Short: "Look at which restore points are kept, and let some go",
		Long:  `Look at which restore points a retention keeps, and why; allow points to go that are too many at once.`,
	}
	cmd.AddCommand(p.retentionPreviewCommand(), p.retentionApproveCommand())
	return cmd
}

type previewOptions struct {
	vault  vault.Flags
	source source
	rules  retention.Rules
	zone   string
	ruled  bool // by flags
	format output.Format
}

// ruleFlags are the flags that stand for spec.retention.
func (o *previewOptions) ruleFlags() *pflag.FlagSet {
	f := pflag.NewFlagSet("rules", pflag.ContinueOnError)
	f.IntVar(&o.rules.Last, "last", 0, "keep so many of the newest points")
	f.IntVar(&o.rules.Hourly, "hourly", 0, "keep the newest point of so many hours")
	f.IntVar(&o.rules.Daily, "daily", 0, "keep the newest point of so many days")
	f.IntVar(&o.rules.Weekly, "weekly", 0, "keep the newest point of so many weeks")
	f.IntVar(&o.rules.Monthly, "monthly", 0, "keep the newest point of so many months")
	f.StringSliceVar(&o.rules.Tags, "tags", nil, "keep the newest point of each commit with a Git tag that one of these patterns matches")
	f.DurationVar(&o.rules.RanLonger, "ran-longer", 0, "keep the newest point of whatever was deployed for longer")
	return f
}

func (p *Program) retentionPreviewCommand() *cobra.Command {
	var o previewOptions
	cmd := &cobra.Command{
		Use:   "preview NAMESPACE/POLICY",
		Short: "Show which points a retention keeps, and why",
		Long: `Show which points of an application a retention keeps, and why. Nothing is changed.

The rules are those of the policy in the cluster, or else those of the flags: then no cluster is needed if the vault is named by its
URL. The points are read from the vault itself. For rules about tags the repository's are asked for; if they are not known, every
point is kept.`,
		Example: `  lockstep retention preview shop/shop
  lockstep retention preview shop/shop --last 10 --daily 7 --tags 'v*' --vault s3://acme-dr/prod --key-file vault.key`,
		Args: cobra.ExactArgs(1),
	}
	rules := o.ruleFlags()
	cmd.RunE = runs(func(ctx context.Context, args []string) error {
		rules.VisitAll(func(f *pflag.Flag) { o.ruled = o.ruled || f.Changed })
		return p.retentionPreview(ctx, args[0], o)
	})
	f := cmd.Flags()
	f.AddFlagSet(rules)
	f.StringVar(&o.zone, "time-zone", "", "where days begin, as Europe/Berlin; that of the policy, or UTC, by default")
	f.StringVar(&o.source.repository, "repo", "", "URL of the Git repository with the tags, or a local work tree of it; that of the newest point by default")
	f.StringVar(&o.source.secret, "git-secret", "", "Secret with the credentials of the repository, in the namespace of the policy")
	o.vault.AddFlags(f, false)
	o.format.AddFlag(cmd)
	return cmd
}

// preview is what "retention preview" prints.
type preview struct {
	Application string           `json:"application"`
	Kept        int              `json:"kept"`
	WouldGo     int              `json:"wouldGo"`
	Points      []previewVerdict `json:"points"`
}

type previewVerdict struct {
	ID      string    `json:"id"`
	Taken   time.Time `json:"taken"`
	Commit  string    `json:"commit"`
	Keep    bool      `json:"keep"`
	Reasons []string  `json:"reasons"`
}

func (p *Program) retentionPreview(ctx context.Context, application string, o previewOptions) error {
	namespace, name, ok := strings.Cut(application, "/")
	if !ok || namespace == "" || name == "" {
		return fault.New(fault.Usage, "See: lockstep retention preview --help", "%q is not NAMESPACE/POLICY", application)
	}
	if !o.ruled {
		if err := p.rulesOf(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &o); err != nil {
			return err
		}
	}
	in := retention.Input{Rules: o.rules, Now: p.Now()}
	var err error
	if in.Zone, err = time.LoadLocation(o.zone); err != nil {
		return fault.New(fault.Usage, "", "time zone %q is not one of the IANA database", o.zone)
	}
	v, err := p.openVault(ctx, o.vault)
	if err != nil {
		return err
	}
	records, err := catalog.List(ctx, v.Vault)
	if err != nil {
		return vault.Explain(err)
	}
	newest := ""
	holds, err := catalog.Holds(ctx, v.Vault, p.Now())
	if err != nil {
		return vault.Explain(err)
	}
	for _, r := range records { // the oldest first
		if r.Application == application {
			fact := retention.PointOf(r)
			if hold, held := holds[r.ID]; held {
				fact.Hold = hold.String()
			}
			in.Points = append(in.Points, fact)
			newest = r.Revision.Repository
		}
	}
	o.source.repository = cmp.Or(o.source.repository, newest)
	if len(o.rules.Tags) > 0 && len(in.Points) > 0 {
		if in.Tags, err = p.tags(ctx, namespace, o.source); err != nil {
			p.note("the tags are not known: %v", err)
		}
	}
	verdicts, err := retention.Decide(in)
	if err != nil {
		return fault.New(fault.Usage, "", "%w", err)
	}
	result := previewOf(application, verdicts)
	return o.format.Print(p.Out, result, func(w io.Writer) error { return result.write(w, p.Now()) })
}

// rulesOf takes the rules of a policy in the cluster.
func (p *Program) rulesOf(ctx context.Context, key client.ObjectKey, o *previewOptions) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	var policy v1alpha1.ProtectionPolicy
	if err := c.Get(ctx, key, &policy); err != nil {
		return fmt.Errorf("reading policy %q: %w", key, err)
	}
	if o.zone == "" {
		o.zone = policy.Spec.TimeZone
	}
	o.rules = retention.RulesOf(policy.Spec.Retention)
	return nil
}

func (p *Program) tags(ctx context.Context, namespace string, s source) (tags map[string][]string, err error) {
	var c client.Client
	if s.secret != "" {
		if c, err = p.connect(); err != nil {
			return nil, err
		}
	}
	repository, err := s.open(ctx, c, namespace)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	return repository.Tags(ctx)
}

func previewOf(application string, verdicts []retention.Verdict) preview {
	result := preview{Application: application, Points: make([]previewVerdict, len(verdicts))}
	for i, v := range verdicts {
		if v.Keep {
			result.Kept++
		} else {
			result.WouldGo++
		}
		result.Points[i] = previewVerdict{ID: v.Point.ID, Taken: v.Point.Taken, Commit: v.Point.Commit, Keep: v.Keep}
		for _, reason := range v.Reasons {
			result.Points[i].Reasons = append(result.Points[i].Reasons, reason.String())
		}
	}
	return result
}

func (r preview) write(w io.Writer, now time.Time) error {
	rows := make([][]string, len(r.Points))
	for i, v := range r.Points {
		keep := "keep"
		if !v.Keep {
			keep = "GO"
		}
		rows[i] = []string{v.ID, output.Ago(now, v.Taken), short(v.Commit), keep, strings.Join(v.Reasons, ", ")}
	}
	if err := output.Rows(w, []string{"ID", "TAKEN", "COMMIT", "WOULD", "BECAUSE"}, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nOf %s %d would be kept and %d would go.\n",
		output.Count(len(r.Points), "point", "points"), r.Kept, r.WouldGo)
	return err
}
