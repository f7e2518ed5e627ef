package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/flux"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// opensWithin bounds the wait until the API server has forgotten an admission policy that was removed; it takes a moment.
const opensWithin = time.Minute

type uninstallOptions struct {
	dryRun, force bool
}

func (p *Program) uninstallCommand() *cobra.Command {
	var o uninstallOptions
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove Lockstep from the cluster, and keep all data",
		Long: `Remove the admission policies that hold deploys of Flux, ask Flux to go on with what they held, and then remove the controller and its
permissions. The policies go first: without the controller nobody would approve a deploy any more.

Nothing is lost: the vaults are not touched, and the kinds with their objects (policies, points, restores, vaults) and the namespace
with the vaults' Secrets stay. "lockstep install" goes on where it ended.

While a restore is unfinished this is refused, since it may hold objects of Flux or Argo CD; --force does it all the same.`,
		Args: cobra.NoArgs,
		RunE: runs(func(ctx context.Context, _ []string) error { return p.uninstall(ctx, o) }),
	}
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "say what would be removed, and remove nothing")
	cmd.Flags().BoolVar(&o.force, "force", false, "remove the controller also while a restore is unfinished")
	return cmd
}

func (p *Program) uninstall(ctx context.Context, o uninstallOptions) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	if err := unfinishedRestores(ctx, c); err != nil && !o.force {
		return err
	}
	objects, err := removable()
	if err != nil {
		return err
	}
	found, err := gates(ctx, c)
	if err != nil {
		return err
	}
	if o.dryRun {
		return p.wouldUninstall(ctx, c, objects, found)
	}
	p.note("opening the gates, and removing Lockstep")
	if err := p.removeGate(ctx, c); err != nil {
		return err
	}
	if err := p.letGo(ctx, c, found); err != nil {
		return err
	}
	for _, u := range objects {
		if isGate(u) {
			continue
		}
		if err := p.remove(ctx, c, u); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(p.Out, "Lockstep is removed. All data in the vaults is kept, and so are the kinds of group %s with their objects, and namespace %s with "+
		"the vaults' Secrets: lockstep install goes on from there.\n", v1alpha1.GroupVersion.Group, v1alpha1.SystemNamespace)
	return err
}

// removable is what was installed and holds no data, in the order in which it goes.
func removable() ([]*unstructured.Unstructured, error) {
	objects, err := manifests.Objects("none")
	if err != nil {
		return nil, err
	}
	objects = slices.DeleteFunc(objects, func(u *unstructured.Unstructured) bool {
		return u.GetKind() == "Namespace" || u.GetKind() == "CustomResourceDefinition"
	})
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return goes(a) - goes(b) })
	return objects, nil
}

// goes orders a removal: what holds deploys, the controller, its permissions.
func goes(u *unstructured.Unstructured) int {
	switch {
	case isGate(u):
		return bindingFirst(u)
	case u.GetKind() == "Deployment":
		return 2
	}
	return 3
}

func (p *Program) wouldUninstall(ctx context.Context, c client.Client, objects []*unstructured.Unstructured, found []flux.Gate) error {
	for _, u := range objects {
		have := u.DeepCopy()
		err := c.Get(ctx, client.ObjectKeyFromObject(u), have)
		if apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", object.KeyOf(u), err)
		}
		if _, err := fmt.Fprintf(p.Out, "would remove %s\n", object.KeyOf(u)); err != nil {
			return err
		}
	}
	for _, g := range found {
		if !g.Closed() {
			continue
		}
		if _, err := fmt.Fprintf(p.Out, "would let Kustomization %s deploy %s, which waits for its restore point\n", g.Name, g.Incoming); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(p.Out, "would keep all data in the vaults, the kinds and their objects, and namespace "+v1alpha1.SystemNamespace)
	return err
}

// unfinishedRestores refuses while the controller is needed.
func unfinishedRestores(ctx context.Context, c client.Client) error {
	var restores v1alpha1.RestoreList
	err := c.List(ctx, &restores)
	if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing restores: %w", err)
	}
	var names []string
	for i := range restores.Items {
		if r := &restores.Items[i]; !finished(r) {
			names = append(names, r.Namespace+"/"+r.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fault.New(fault.Refused, "Wait for it, or delete it: what it holds of Flux or Argo CD is then given back.", "unfinished: restore %s", strings.Join(names, ", "))
}

// letGo asks Flux to go on with everything that waits, as soon as the API server lets it: it forgets a policy a moment after its removal.
func (p *Program) letGo(ctx context.Context, c *kube.Cluster, found []flux.Gate) error {
	for _, g := range found {
		if !g.Closed() {
			continue
		}
		if err := p.awaitOpen(ctx, c, g); err != nil {
			return err
		}
		engines := gitops.Cluster{Client: c, Reader: c}
		u, err := engines.Get(ctx, flux.KindKustomization().GroupKind(), g.Name)
		if err != nil {
			return err
		}
		if u == nil {
			continue
		}
		after := u.DeepCopy()
		if err := flux.Explain(after, nil); err != nil {
			return err
		}
		flux.Request(after, p.Now())
		if err := engines.Change(ctx, u, after); err != nil {
			return err
		}
		p.note("  Kustomization %s goes on to %s", g.Name, g.Incoming)
	}
	return nil
}

// awaitOpen asks the API server, without changing anything, whether it would let Flux begin.
func (p *Program) awaitOpen(ctx context.Context, c client.Client, g flux.Gate) error {
	deadline := p.Now().Add(opensWithin)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(flux.KindKustomization())
		u.SetNamespace(g.Name.Namespace)
		u.SetName(g.Name.Name)
		patch := client.RawPatch("application/merge-patch+json", []byte(`{"status":{"lastAttemptedRevision":"`+g.Incoming+`"}}`))
		err := c.Status().Patch(ctx, u, patch, client.DryRunAll)
		switch {
		case err == nil || apierrors.IsNotFound(err):
			return nil
		case !strings.Contains(err.Error(), "lockstep-gate"):
			return fmt.Errorf("asking whether Kustomization %s may be deployed: %w", g.Name, err)
		case p.Now().After(deadline):
			return fault.New(fault.Failed, "Look for another binding of the policy: kubectl get validatingadmissionpolicybindings",
				"Kustomization %s is still held %s after its gate was removed: %w", g.Name, opensWithin, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
