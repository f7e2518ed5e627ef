package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/sops"
)

// dryRun makes the plan that the controller would carry out, and prints it.
func (p *Program) dryRun(ctx context.Context, c *kube.Cluster, from v1alpha1.RestoreFrom, o restoreOptions) error {
	made, err := p.plan(ctx, c, from, o)
	if err != nil {
		return err
	}
	if err := o.format.Print(p.Out, made.Plan, func(w io.Writer) error { return writePlan(w, made) }); err != nil {
		return err
	}
	if n := len(made.Plan.Refusals); n > 0 {
		return fault.New(fault.Refused, "", "the restore would be refused: %s", output.Count(n, "reason", "reasons"))
	}
	return nil
}

// writePlan adds to the plan's own words the names of what Git does not hold: who makes a dry run holds the vault's key.
func writePlan(w io.Writer, made *planner.Replay) error {
	if _, err := io.WriteString(w, made.Plan.Text()); err != nil || made.Residual.Empty() {
		return err
	}
	if _, err := io.WriteString(w, "\nNot in Git, from the point unless it exists\n"); err != nil {
		return err
	}
	for _, key := range made.Residual.Keys() {
		if _, err := fmt.Fprintf(w, "  %s\n", output.Path(key.String())); err != nil {
			return err
		}
		for _, l := range made.Leftovers[key] {
			if _, err := fmt.Fprintf(w, "    %s may still lead into namespace %s\n", output.Path(l.Field), l.Namespace); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Program) plan(
	ctx context.Context, c *kube.Cluster, from v1alpha1.RestoreFrom, o restoreOptions,
) (made *planner.Replay, err error) {
	v, err := o.vault.Open(ctx, func() (*kube.Cluster, error) { return c, nil })
	if err != nil {
		return nil, err
	}
	request := planner.Request{From: from, Path: o.source.path, Mapping: planner.Mapping(o.mapping()), SetAside: o.setAside}
	if request.Volumes, err = o.scope.requests(); err != nil {
		return nil, err
	}
	if request.Only, err = o.scope.workloads(); err != nil {
		return nil, err
	}
	way := planner.Planner{
		Vault: v.Vault,
		Facts: func(ctx context.Context, choice match.Choice, objects []*unstructured.Unstructured) (plan.Facts, error) {
			return p.facts(ctx, c, choice, objects, vault.IsURL(o.vault.Vault))
		},
		Existing: func(ctx context.Context, objects []*unstructured.Unstructured) (map[object.Key]bool, error) {
			found, err := facts.Existing(ctx, c, objects)
			if err != nil && vault.IsURL(o.vault.Vault) && kube.Unreachable(err) {
				return nil, nil // said already
			}
			return found, err
		},
		IgnoreMAC: o.ignoreMAC,
		Consumers: func(ctx context.Context, claims map[object.Name]plan.ClaimFact) ([]plan.Consumer, error) {
			found, err := facts.Consumers(ctx, c, claims)
			if err != nil {
				return nil, fmt.Errorf("looking for what mounts the claims: %w", err)
			}
			return found, nil
		},
		Preflight: p.preflight(c, o.checkImages, vault.IsURL(o.vault.Vault)),
	}
	if o.decryption != "" {
		secret := &corev1.Secret{}
		if err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: o.decryption}, secret); err != nil {
			return nil, fmt.Errorf("reading the secret with the decryption key: %w", err)
		}
		if way.Keys, err = sops.ParseKeys(secret.Data); err != nil {
			return nil, fault.New(fault.Usage, "", "--decryption-secret %s: %w", o.decryption, err)
		}
	}
	if !o.scope.volumesOnly() {
		if o.source.repository == "" {
			if err := o.sourceFrom(ctx, v.Vault); err != nil {
				return nil, err
			}
		}
		repository, openErr := o.source.open(ctx, c, c.Namespace)
		if openErr != nil {
			return nil, openErr
		}
		defer func() { err = errors.Join(err, repository.Close()) }()
		way.Repository, request.Path = repository, o.source.path
		target := gitops.Target{Repository: repository.URL(), Path: o.source.path,
			Part: len(o.scope.only) > 0 || len(o.mapClasses) > 0, Apart: len(o.mapNamespaces) > 0}
		way.Engine = func(ctx context.Context) (*planner.Engine, error) {
			return engine(ctx, c, v1alpha1.Engine(o.engine), target, vault.IsURL(o.vault.Vault))
		}
		way.Values = func(ctx context.Context, key object.Key) (map[string]string, error) {
			return planner.ReadValues(ctx, c, key)
		}
	}
	made, err = way.Plan(ctx, request)
	if err != nil {
		return nil, plannerError(err)
	}
	return made, nil
}

// engine says what would apply the commit, and how it builds that, unless the cluster does not answer.
func engine(ctx context.Context, c *kube.Cluster, wanted v1alpha1.Engine, target gitops.Target, bare bool) (*planner.Engine, error) {
	cluster := gitops.Cluster{Client: c, Reader: c}
	found, err := ruler.Choose(ctx, cluster, wanted, target)
	if err != nil {
		if bare && kube.Unreachable(err) {
			return nil, nil // the facts say so
		}
		return nil, err
	}
	chosen := plan.Engine{Name: found.Engine, Reason: found.Message, Objects: found.Objects, Refusals: found.Refusals}
	return planner.NewEngine(ctx, cluster, chosen, target, c.Namespace)
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
	case planner.StepGit, planner.StepMatch:
		return answerError(e.Err)
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
