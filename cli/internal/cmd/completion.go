package cmd

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// completeWithin bounds the wait for a cluster while somebody waits for a completion.
const completeWithin = 3 * time.Second

// completePolicies completes the name of a policy in the namespace.
func (p *Program) completePolicies(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return p.complete(cmd, prefix, func(ctx context.Context, c *kube.Cluster) []string {
		return names(ctx, c, "", &v1alpha1.ProtectionPolicyList{}, client.InNamespace(c.Namespace))
	})
}

// completeObjects completes what "describe" takes. The IDs of points are those of the cluster's RestorePoints: reading
// the vault would take longer than a person waits.
func (p *Program) completeObjects(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return p.complete(cmd, prefix, func(ctx context.Context, c *kube.Cluster) []string {
		return slices.Concat(
			pointIDs(ctx, c),
			names(ctx, c, "policy/", &v1alpha1.ProtectionPolicyList{}, client.InNamespace(c.Namespace)),
			names(ctx, c, "point/", &v1alpha1.RestorePointList{}, client.InNamespace(c.Namespace)),
			names(ctx, c, "restore/", &v1alpha1.RestoreList{}, client.InNamespace(p.namespaceFor(c, "restore"))),
			names(ctx, c, "vault/", &v1alpha1.VaultList{}),
		)
	})
}

// completePoints completes the ID of a point.
func (p *Program) completePoints(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return p.complete(cmd, prefix, pointIDs)
}

// completeVaults completes the name of a Vault.
func (p *Program) completeVaults(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	return p.complete(cmd, prefix, func(ctx context.Context, c *kube.Cluster) []string {
		return names(ctx, c, "", &v1alpha1.VaultList{})
	})
}

// complete asks the cluster for what begins with prefix. Where it does not answer there is nothing to offer, and a
// completion has no place for errors.
func (p *Program) complete(
	cmd *cobra.Command, prefix string, ask func(context.Context, *kube.Cluster) []string,
) ([]string, cobra.ShellCompDirective) {
	c, err := p.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completeWithin)
	defer cancel()
	all := slices.DeleteFunc(ask(ctx, c), func(s string) bool { return !strings.HasPrefix(s, prefix) })
	return all, cobra.ShellCompDirectiveNoFileComp
}

func pointIDs(ctx context.Context, c *kube.Cluster) []string {
	var list v1alpha1.RestorePointList
	if c.List(ctx, &list) != nil {
		return nil
	}
	var ids []string
	for _, p := range list.Items {
		if ready(&p).Status == "True" {
			ids = append(ids, p.Status.ID+"\t"+p.Namespace+"/"+p.Spec.PolicyRef.Name)
		}
	}
	return ids
}

func names(ctx context.Context, c client.Client, prefix string, list client.ObjectList, options ...client.ListOption) []string {
	if c.List(ctx, list, options...) != nil {
		return nil
	}
	var all []string
	// The function only collects, so that it has no error to hand on.
	_ = meta.EachListItem(list, func(o runtime.Object) error {
		all = append(all, prefix+o.(client.Object).GetName())
		return nil
	})
	return all
}
