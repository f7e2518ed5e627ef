package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func (p *Program) retentionApproveCommand() *cobra.Command {
	var digest string
	cmd := &cobra.Command{
		Use:   "approve NAMESPACE/POLICY",
		Short: "Allow points to go that are too many to go at once",
		Long: `Allow points to go that are too many to go at once without a person's word.

Without --points it only shows what would go, and the digest of exactly these points. With it they are allowed to go: after their grace time they
are removed. If other points would go by then, that is another digest, and nothing is allowed.`,
		Example: `  lockstep retention approve shop/shop
  lockstep retention approve shop/shop --points 5f3c81aa09b2e7d4`,
		Args: cobra.ExactArgs(1),
		RunE: runs(func(ctx context.Context, args []string) error { return p.retentionApprove(ctx, args[0], digest) }),
	}
	cmd.Flags().StringVar(&digest, "points", "", "the digest of the points that are allowed to go")
	return cmd
}

func (p *Program) retentionApprove(ctx context.Context, name, digest string) error {
	namespace, policyName, ok := strings.Cut(name, "/")
	if !ok || namespace == "" || policyName == "" {
		return fault.New(fault.Usage, "See: lockstep retention approve --help", "%q is not NAMESPACE/POLICY", name)
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	policy := &v1alpha1.ProtectionPolicy{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: policyName}, policy); err != nil {
		return fmt.Errorf("reading policy %q: %w", name, err)
	}
	refused := slices.DeleteFunc(slices.Clone(policy.Status.Retention), func(r v1alpha1.VaultRetention) bool { return r.Refused == nil })
	if len(refused) == 0 {
		p.note("nothing of policy %s waits for a person's word", name)
		return nil
	}
	if digest == "" {
		for _, r := range refused {
			fmt.Fprintf(p.Out, "%s would go at once from vault %q, %d stay:\n", output.Count(int(r.Refused.Count), "point", "points"), r.Vault, r.Kept)
			for _, id := range r.Refused.Points {
				fmt.Fprintln(p.Out, "  "+id)
			}
			if more := int(r.Refused.Count) - len(r.Refused.Points); more > 0 {
				fmt.Fprintf(p.Out, "  and %d more: lockstep retention preview %s\n", more, name)
			}
			fmt.Fprintf(p.Out, "To allow exactly that: lockstep retention approve %s --points %s\n", name, r.Refused.Digest)
		}
		return nil
	}
	if !slices.ContainsFunc(refused, func(r v1alpha1.VaultRetention) bool { return r.Refused.Digest == digest }) {
		return fault.New(fault.Refused, "Look again: lockstep retention approve "+name, "%s are not the points that would go now", digest)
	}
	before := policy.DeepCopy()
	words := digest
	if old := policy.Annotations[v1alpha1.AnnotationApprovedRemoval]; len(refused) > 1 && old != "" {
		words = old + "," + digest // of the other vault
	}
	metav1.SetMetaDataAnnotation(&policy.ObjectMeta, v1alpha1.AnnotationApprovedRemoval, words)
	if err := c.Patch(ctx, policy, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("allowing points of policy %q to go: %w", name, err)
	}
	fmt.Fprintf(p.Out, "they are allowed to go, each after its grace time; to keep one, hold it: lockstep hold POINT-ID\n")
	return nil
}
