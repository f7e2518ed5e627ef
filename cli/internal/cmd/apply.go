package cmd

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

type applyOptions struct {
	source      source
	ref         git.Ref
	application string
	timeout     time.Duration
	format      output.Format
}

func (o *applyOptions) addFlags(cmd *cobra.Command) {
	o.source.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.ref.Tag, "tag", "", "tag to deploy")
	f.StringVar(&o.ref.Commit, "commit", "", "commit to deploy")
	f.StringVar(&o.ref.Branch, "branch", "", "branch to deploy")
	f.StringVar(&o.application, "application", "", "<namespace>/<policy> that owns the objects (default: the policy among them)")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long the objects may take to become healthy")
	o.format.AddFlag(cmd)
	cmd.MarkFlagsMutuallyExclusive("tag", "commit", "branch")
	cmd.MarkFlagsOneRequired("tag", "commit", "branch")
}

func (p *Program) applyCommand() *cobra.Command {
	var o applyOptions
	cmd := &cobra.Command{
		Use:   "apply --repo URL --path P (--tag T | --commit C | --branch B)",
		Short: "Deploy a commit and note which one is running",
		Long: `Deploy a commit where neither Flux nor Argo CD does: render its directory with kustomize, apply the objects server-side,
wait until they are healthy, and note the revision on the ProtectionPolicy, so that restore points are tagged with it.

No data is touched; nothing is deleted.`,
		Example: `  lockstep apply --repo https://git.example.com/shop.git --path deploy --tag v1.4.2`,
		Args:    cobra.NoArgs,
		RunE:    runs(func(ctx context.Context, _ []string) error { return p.apply(ctx, o) }),
	}
	o.addFlags(cmd)
	return cmd
}

type applyResult struct {
	Application string            `json:"application"`
	Revision    v1alpha1.Revision `json:"revision"`
	Objects     []appliedObject   `json:"objects"`
}

type appliedObject struct {
	Object string `json:"object"`
	Action string `json:"action"`
}

func (p *Program) apply(ctx context.Context, o applyOptions) error {
	if o.source.repository == "" {
		return fault.New(fault.Usage, "Name it with --repo.", "no repository")
	}
	if err := o.source.check(); err != nil {
		return err
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	rev, objects, err := o.source.render(ctx, c, c.Namespace, o.ref)
	if err != nil {
		return err
	}
	objects, hooks, err := plan.WithoutHooks(objects)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		p.note("%s is left out: %s", h.Object, h.Reason)
	}
	application, policies, err := owner(objects, o.application)
	if err != nil {
		return err
	}
	p.note("deploying commit %s%s of %s: %s", short(rev.Commit), parenthesised(rev.Ref), rev.Repository,
		output.Count(len(objects), "object", "objects"))
	a := apply.New(c, application)
	deploying := func() error {
		for _, policy := range policies {
			if err := a.StampDeploying(ctx, policy, rev); err != nil {
				return err
			}
		}
		return nil
	}
	if err := deploying(); err != nil {
		return err
	}
	entries, err := a.Apply(ctx, objects)
	if err != nil {
		return fmt.Errorf("applying commit %s: %w", short(rev.Commit), err)
	}
	if err := deploying(); err != nil { // on a policy that came with this commit
		return err
	}
	if err := p.waitForObjects(ctx, a, objects, o.timeout); err != nil {
		return err
	}
	for _, policy := range policies {
		if err := a.StampRevision(ctx, policy, rev); err != nil {
			return fmt.Errorf("noting the revision on policy %s: %w", policy, err)
		}
	}
	r := applyResult{Application: application.String(), Revision: rev, Objects: make([]appliedObject, len(entries))}
	for i, e := range entries {
		r.Objects[i] = appliedObject{e.Key.String(), string(e.Action)}
	}
	return o.format.Print(p.Out, r, r.write)
}

// owner is the application that the objects belong to, and the policies that the revision is noted on.
func owner(objects []*unstructured.Unstructured, application string) (types.NamespacedName, []types.NamespacedName, error) {
	policies := apply.Policies(objects)
	if application != "" {
		namespace, name, ok := strings.Cut(application, "/")
		if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
			return types.NamespacedName{}, nil, fault.New(fault.Usage, "", "application %q is not <namespace>/<policy>", application)
		}
		key := types.NamespacedName{Namespace: namespace, Name: name}
		if !slices.Contains(policies, key) {
			policies = append(policies, key)
		}
		return key, policies, nil
	}
	switch len(policies) {
	case 1:
		return policies[0], policies, nil
	case 0:
		return types.NamespacedName{}, nil, fault.New(fault.Usage,
			"Add a ProtectionPolicy to the directory, or name one of the cluster with --application.",
			"the commit has no ProtectionPolicy to note the revision on")
	default:
		return types.NamespacedName{}, nil, fault.New(fault.Usage, "Choose one with --application.",
			"the commit has %d ProtectionPolicies", len(policies))
	}
}

// waitForObjects shows what is not healthy yet.
func (p *Program) waitForObjects(ctx context.Context, a *apply.Applier, objects []*unstructured.Unstructured, timeout time.Duration) error {
	board := p.board()
	defer board.Close()
	waiting := map[string]progress.Item{}
	return a.Wait(ctx, objects, timeout, func(changed map[object.Key]apply.Status) {
		for key, s := range changed {
			name := key.String()
			if _, shown := waiting[name]; !shown && s.Health == apply.Current {
				continue // healthy from the start: nothing to tell
			}
			waiting[name] = progress.Item{Name: name, State: string(s.Health), Note: s.Message}
		}
		items := make([]progress.Item, 0, len(waiting))
		for _, it := range waiting {
			items = append(items, it)
		}
		slices.SortFunc(items, func(a, b progress.Item) int { return cmp.Compare(a.Name, b.Name) })
		board.Show(items...)
	})
}

func (r applyResult) write(w io.Writer) error {
	rows := make([][]string, len(r.Objects))
	for i, o := range r.Objects {
		rows[i] = []string{o.Object, o.Action}
	}
	if err := output.Rows(w, nil, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "application %s runs commit %s%s\n", r.Application, short(r.Revision.Commit), parenthesised(r.Revision.Ref))
	return err
}
