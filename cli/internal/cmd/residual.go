package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

func (p *Program) residualCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "residual",
		Short: "Look at what Git does not hold",
		Long: `Look at what an application needs and Git does not hold: generated passwords, issued certificates, objects made by hand.
A restore point keeps it beside the volumes, sealed.`,
	}
	cmd.AddCommand(p.residualDiffCommand())
	return cmd
}

type residualOptions struct {
	source source
	ref    git.Ref
	all    bool
	format output.Format
}

func (o *residualOptions) addFlags(cmd *cobra.Command) {
	o.source.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.ref.Tag, "tag", "", "compare with the commit of this tag")
	f.StringVar(&o.ref.Commit, "commit", "", "compare with this commit")
	f.StringVar(&o.ref.Branch, "branch", "", "compare with the commit of this branch")
	f.BoolVar(&o.all, "all", false, "show what is left out, too")
	o.format.AddFlag(cmd)
	cmd.MarkFlagsMutuallyExclusive("tag", "commit", "branch")
}

func (p *Program) residualDiffCommand() *cobra.Command {
	var o residualOptions
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Show what Git does not hold, and why each object is in or out",
		Long: `Show which objects of a namespace are residual: neither in Git nor made again by anybody, so that they are gone with the
cluster unless a restore point keeps them. Each object has its reason. An object that Git needs and that is nowhere is
MISSING, and the command ends with 4.

What Git holds is asked of Flux, Argo CD and Lockstep in the cluster. With --repo a commit is rendered, and what it holds
counts as well.

Nothing is changed. The values of Secrets are neither asked for nor shown, save that Helm's own storage is read to learn
what a release holds, where Flux keeps no inventory of it.`,
		Example: `  lockstep residual diff -n shop
  lockstep residual diff -n shop --all --repo https://git.example.com/shop.git --path deploy --tag v1.4.2`,
		Args: cobra.NoArgs,
		RunE: runs(func(ctx context.Context, _ []string) error { return p.residualDiff(ctx, o) }),
	}
	o.addFlags(cmd)
	return cmd
}

func (p *Program) residualDiff(ctx context.Context, o residualOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	decisions, err := p.residualOf(ctx, c, o)
	if err != nil {
		return err
	}
	count := map[residual.Verdict]int{}
	for _, d := range decisions {
		count[d.Verdict]++
	}
	if !o.all {
		decisions = slices.DeleteFunc(decisions, func(d residual.Decision) bool { return d.Verdict == residual.Out })
	}
	result := residualResult{Namespace: c.Namespace, Objects: decisions}
	if err := o.format.Print(p.Out, result, result.write); err != nil {
		return err
	}
	p.note("namespace %s: %s not in Git, %d left out", c.Namespace, output.Count(count[residual.In], "object", "objects"), count[residual.Out])
	if n := count[residual.Missing]; n > 0 {
		return fault.New(fault.Absent, "Make it, bring it by Git, or mark the reference as optional.",
			"%s missing: the next restore point would fail", output.Count(n, "object that Git needs is", "objects that Git needs are"))
	}
	return nil
}

func (o *residualOptions) check() error {
	named := o.ref != git.Ref{}
	switch {
	case o.source.repository == "" && named:
		return fault.New(fault.Usage, "Name it with --repo.", "no repository to find the commit in")
	case o.source.repository != "" && !named:
		return fault.New(fault.Usage, "Name it with --tag, --commit or --branch.", "no commit of the repository")
	}
	return o.source.check()
}

// residualOf looks at the namespace and decides.
func (p *Program) residualOf(ctx context.Context, c *kube.Cluster, o residualOptions) ([]residual.Decision, error) {
	err := c.Get(ctx, client.ObjectKey{Name: c.Namespace}, &corev1.Namespace{})
	if apierrors.IsNotFound(err) {
		return nil, fault.New(fault.Absent, "Name another with -n.", "there is no namespace %q", c.Namespace)
	}
	if err != nil && !apierrors.IsForbidden(err) { // who may not see namespaces may still see what is in one
		return nil, fmt.Errorf("reading namespace %q: %w", c.Namespace, err)
	}
	scope := residual.Scope{Namespaces: []string{c.Namespace}}
	silent := rest.CopyConfig(c.Config)
	silent.WarningHandler = rest.NoWarnings{} // that a kind is deprecated is no fault of who looks at all of them
	d, err := discovery.NewDiscoveryClientForConfig(silent)
	if err != nil {
		return nil, fmt.Errorf("preparing to ask the cluster for its kinds: %w", err)
	}
	scope.Kinds, err = residual.Kinds(d)
	if failed := (*discovery.ErrGroupDiscoveryFailed)(nil); errors.As(err, &failed) {
		return nil, fault.New(fault.Unknown, "See which API does not answer: kubectl get apiservices", "%w", err)
	}
	if err != nil {
		return nil, err
	}
	if o.source.repository != "" {
		if err := o.render(ctx, c, &scope); err != nil {
			return nil, err
		}
	}
	quiet, err := kube.New(silent)
	if err != nil {
		return nil, err
	}
	facts, err := residual.Survey(ctx, quiet, scope)
	if err != nil {
		return nil, err
	}
	return residual.Decide(facts), nil
}

// render adds what a commit holds to the scope.
func (o *residualOptions) render(ctx context.Context, c *kube.Cluster, scope *residual.Scope) error {
	_, objects, err := o.source.render(ctx, c, c.Namespace, o.ref)
	if err != nil {
		return err
	}
	for _, u := range objects {
		scope.Rendered = append(scope.Rendered, object.KeyOf(u))
	}
	for _, policy := range apply.Policies(objects) {
		scope.Applications = append(scope.Applications, policy.String())
	}
	return nil
}

type residualResult struct {
	Namespace string              `json:"namespace"`
	Objects   []residual.Decision `json:"objects"`
}

func (r residualResult) write(w io.Writer) error {
	rows := make([][]string, len(r.Objects))
	for i, d := range r.Objects {
		kind, _, _ := strings.Cut(d.Key.String(), " ")
		name := d.Key.Name
		if d.Key.Namespace != r.Namespace { // an engine's
			name = d.Key.NamespacedName().String()
		}
		rows[i] = []string{kind, name, strings.ToUpper(string(d.Verdict)), output.Path(d.Reason)}
	}
	return output.Rows(w, []string{"KIND", "NAME", "IN/OUT", "REASON"}, rows)
}
