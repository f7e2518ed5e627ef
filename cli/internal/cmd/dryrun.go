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
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/plan"
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
	records, err := catalog.List(ctx, v.Vault)
	if err != nil {
		return nil, vault.Explain(err)
	}
	if o.source.repository == "" {
		if err := o.sourceOf(records); err != nil {
			return nil, err
		}
	}
	repository, err := o.source.open(ctx, c, c.Namespace)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()

	query := match.Query{Application: from.Application, PointID: from.RestorePoint}
	byCommit := from.Commit != "" || from.Tag != ""
	switch {
	case byCommit:
		if query.Revision, err = repository.Resolve(ctx, git.Ref{Tag: from.Tag, Commit: from.Commit}, o.source.path); err != nil {
			return nil, gitError(err)
		}
	case from.Before != nil:
		query.Before = &from.Before.Time
		query.Revision = v1alpha1.Revision{Repository: repository.URL(), Path: o.source.path}
	}
	choice, err := match.Choose(records, query)
	if err != nil {
		return nil, matchError(err)
	}
	rev := query.Revision
	if !byCommit { // the point says which commit
		if rev, err = repository.Resolve(ctx, git.Ref{Commit: choice.Record.Revision.Commit}, o.source.path); err != nil {
			return nil, gitError(err)
		}
		rev.Ref = choice.Record.Revision.Ref
	}
	objects, err := renderRevision(ctx, repository, rev)
	if err != nil {
		return nil, err
	}
	known, err := p.facts(ctx, c, choice, objects, vault.IsURL(o.vault.Vault))
	if err != nil {
		return nil, err
	}
	return plan.New(plan.Input{Choice: choice, Revision: rev, Objects: objects, Facts: known})
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
