package cmd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/checker"
	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// live asks the cluster what it has.
func (p *Program) live(ctx context.Context) (*coverage.Live, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	found, err := facts.Live(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("looking at the cluster: %w", err)
	}
	asking, err := discovery.NewDiscoveryClientForConfig(c.Config)
	if err != nil {
		return nil, fmt.Errorf("asking the cluster for its kinds: %w", err)
	}
	lists, err := asking.ServerPreferredResources()
	if err != nil { // of a group whose server is down it is not known which kinds there are
		return found, nil
	}
	for _, list := range lists {
		group, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			found.Kinds = append(found.Kinds, schema.GroupKind{Group: group.Group, Kind: r.Kind})
		}
	}
	return found, nil
}

// pointsFor asks a vault from which point each policy's application could be restored at the commit that is judged.
func (p *Program) pointsFor(flags vault.Flags) func(context.Context, checker.Commit) ([]coverage.PointFacts, error) {
	return func(ctx context.Context, at checker.Commit) ([]coverage.PointFacts, error) {
		v, err := p.openVault(ctx, flags)
		if err != nil {
			return nil, err
		}
		records, err := catalog.List(ctx, v.Vault)
		if err != nil {
			return nil, vault.Explain(err)
		}
		found := []coverage.PointFacts{}
		for _, policy := range at.Policies {
			fact, err := pointOf(records, policy, func(path string) (v1alpha1.Revision, error) {
				return at.Repository.Resolve(ctx, git.Ref{Commit: at.Hash}, path)
			})
			if err != nil {
				return nil, err
			}
			fact.Policy, fact.Owner, fact.Vault = policy.Name, policy.Owner, flags.Vault
			found = append(found, fact)
		}
		return found, nil
	}
}

// pointOf finds the point of an application that fits a commit, which resolve gives at a path.
func pointOf(records []point.Record, policy checker.Policy, resolve func(path string) (v1alpha1.Revision, error)) (coverage.PointFacts, error) {
	application := policy.String()
	from := ""
	if policy.Owner != "" {
		from = revision.CleanPath(policy.Path)
	}
	var paths []string
	for _, r := range records {
		if r.Application == application && (from == "" || r.Revision.Path == from) && !slices.Contains(paths, r.Revision.Path) {
			paths = append(paths, r.Revision.Path)
		}
	}
	slices.Sort(paths)
	answer := coverage.PointFacts{Found: "absent", Why: "the vault holds no point of " + application}
	if from != "" {
		answer.Why += " at path " + from
	}
	for _, path := range paths {
		target, err := resolve(path)
		if errors.Is(err, git.ErrPathNotFound) {
			continue
		}
		if err != nil {
			return answer, err
		}
		target.Repository = "" // a clone may have another address than the cluster had
		choice, err := match.Choose(records, match.Query{Revision: target, Application: application})
		if err != nil {
			answer.Why = err.Error()
			continue
		}
		return coverage.PointFacts{Found: "found", ID: choice.Record.ID, Taken: choice.Record.Taken, Match: choice.Match}, nil
	}
	return answer, nil
}
