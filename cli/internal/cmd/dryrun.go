package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/planner"
)

// dryRun makes the plan that the controller would carry out, and prints it.
func (p *Program) dryRun(ctx context.Context, c *kube.Cluster, from v1alpha1.RestoreFrom, o restoreOptions) error {
	made, err := p.plan(ctx, c, from, o)
	if err != nil {
		return err
	}
	if err := o.format.Print(p.Out, made, func(w io.Writer) error { _, err := io.WriteString(w, made.Text()); return err }); err != nil {
		return err
	}
	if len(made.Refusals) > 0 {
		return fault.New(fault.Refused, "", "the restore would be refused: %s", output.Count(len(made.Refusals), "reason", "reasons"))
	}
	return nil
}

func (p *Program) plan(
	ctx context.Context, c *kube.Cluster, from v1alpha1.RestoreFrom, o restoreOptions,
) (made *plan.Plan, err error) {
	v, err := o.vault.Open(ctx, func() (*kube.Cluster, error) { return c, nil })
	if err != nil {
		return nil, err
	}
	if o.source.repository == "" {
		if err := o.sourceFrom(ctx, v.Vault); err != nil {
			return nil, err
		}
	}
	repository, err := o.source.open(ctx, c, c.Namespace)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	way := planner.Planner{
		Vault: v.Vault, Repository: repository,
		Facts: func(ctx context.Context, choice match.Choice, objects []*unstructured.Unstructured) (plan.Facts, error) {
			return p.facts(ctx, c, choice, objects, vault.IsURL(o.vault.Vault))
		},
	}
	replay, err := way.Plan(ctx, planner.Request{From: from, Path: o.source.path})
	if err != nil {
		return nil, plannerError(err)
	}
	return replay.Plan, nil
}

// plannerError gives what stood in the way to a plan its exit code.
func plannerError(err error) error {
	var e *planner.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Step {
	case planner.StepVault:
		return vault.Explain(e.Err)
	case planner.StepGit:
		return gitError(e.Err)
	case planner.StepMatch:
		if mismatch := (*match.MismatchError)(nil); errors.As(e.Err, &mismatch) {
			return fault.New(fault.Refused, "", "%w", e.Err)
		}
		return matchError(e.Err)
	}
	return e.Err
}

// facts looks at the cluster. With the vault at hand a dry run says something even while there is no cluster yet; what
// is not known is then left to the restore itself to refuse.
func (p *Program) facts(
	ctx context.Context, c *kube.Cluster, choice match.Choice, objects []*unstructured.Unstructured, bare bool,
) (plan.Facts, error) {
	known, err := facts.Read(ctx, c, c.RESTMapper(), choice, objects)
	switch {
	case err == nil:
	case !bare || !kube.Unreachable(err):
		return known, fmt.Errorf("looking at the cluster: %w", err)
	default:
		p.note("note: the cluster does not answer: what it holds is not considered")
		known = plan.Facts{}
	}
	if bare && known.Kinds != nil { // the restore brings its own kinds
		known.Kinds[v1alpha1.GroupVersion.WithKind("ProtectionPolicy").GroupKind()] = plan.KindFact{Namespaced: true}
	}
	known.RestoreNamespace = c.Namespace
	return known, nil
}
