package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/selection"
)

func (p *Program) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Look at what a policy protects",
		Long:  `Look at what a ProtectionPolicy protects, before it does.`,
	}
	cmd.AddCommand(p.policyPreviewCommand())
	return cmd
}

type policyPreviewOptions struct {
	file   string
	format output.Format
}

func (p *Program) policyPreviewCommand() *cobra.Command {
	var o policyPreviewOptions
	cmd := &cobra.Command{
		Use:   "preview [POLICY | -f FILE]",
		Short: "Show which claims a policy takes, which not, and why",
		Long: `Show each claim of a namespace: whether the policy takes it and why, what uses it, and what it is read from: a snapshot of
a class, or the volume itself. The decision is the controller's own. Nothing is changed.

With -f the policy is read from a file, or from the standard input if that is "-", so that it can be looked at before it is
deployed. Without a name it is the one policy of the namespace.

If the next point would fail for a claim, the command says so and ends with 1; if no claim is taken, with 4.`,
		Example: `  lockstep policy preview -n shop
  lockstep policy preview -f deploy/policy.yaml -n shop -o json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: p.completePolicies,
		RunE: runs(func(ctx context.Context, args []string) error {
			name := ""
			if len(args) > 0 {
				name = strings.TrimPrefix(args[0], "policy/")
			}
			return p.policyPreview(ctx, name, o)
		}),
	}
	cmd.Flags().StringVarP(&o.file, "filename", "f", "", "file with the policy, - for the standard input")
	o.format.AddFlag(cmd)
	return cmd
}

// policyPreview is what "policy preview" prints.
type policyPreview struct {
	Namespace string         `json:"namespace"`
	Policy    string         `json:"policy"`
	Claims    []claimPreview `json:"claims"`
}

type claimPreview struct {
	Claim string `json:"claim"`
	Taken bool   `json:"taken"`
	// Why says in words why it is taken, or not.
	Why string `json:"why"`
	// Source is what the claim is read from at the next point.
	Source v1alpha1.CaptureSource `json:"source,omitempty"`
	// SnapshotClass is that of the next point; empty without a snapshot.
	SnapshotClass string   `json:"snapshotClass,omitempty"`
	UsedBy        []string `json:"usedBy,omitempty"`
	// Problem says why the next point would fail for a claim that is taken.
	Problem string `json:"problem,omitempty"`
}

func (p *Program) policyPreview(ctx context.Context, name string, o policyPreviewOptions) error {
	if name != "" && o.file != "" {
		return fault.New(fault.Usage, "", "give the name of a policy, or a file, not both")
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	policy, err := p.policyToPreview(ctx, c, name, o.file)
	if err != nil {
		return err
	}
	result, err := previewPolicy(ctx, c, policy)
	if err != nil {
		return err
	}
	if err := o.format.Print(p.Out, result, result.write); err != nil {
		return err
	}
	return result.verdict()
}

func (p *Program) policyToPreview(ctx context.Context, c *kube.Cluster, name, file string) (*v1alpha1.ProtectionPolicy, error) {
	if file != "" {
		return p.policyFrom(file, c.Namespace)
	}
	if name != "" {
		policy := &v1alpha1.ProtectionPolicy{}
		err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, policy)
		if apierrors.IsNotFound(err) {
			return nil, findPolicy(ctx, c, c.Namespace, name)
		}
		return policy, err
	}
	var all v1alpha1.ProtectionPolicyList
	if err := c.List(ctx, &all, client.InNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("listing the ProtectionPolicies: %w", err)
	}
	switch len(all.Items) {
	case 1:
		return &all.Items[0], nil
	case 0:
		return nil, fault.New(fault.Absent, "Name another namespace with -n, or a file with -f.", "namespace %s has no ProtectionPolicy", c.Namespace)
	}
	names := make([]string, len(all.Items))
	for i := range all.Items {
		names[i] = all.Items[i].Name
	}
	return nil, fault.New(fault.Usage, "Name one of them.", "namespace %s has %d ProtectionPolicies: %s", c.Namespace, len(names), strings.Join(names, ", "))
}

// policyFrom reads the one policy of a file, in which there may be other objects.
func (p *Program) policyFrom(file, namespace string) (*v1alpha1.ProtectionPolicy, error) {
	in := p.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.New(fault.Usage, "", "%w", err)
		}
		defer f.Close()
		in = f
	}
	if in == nil {
		return nil, fault.New(fault.Usage, "", "there is no standard input")
	}
	var found *v1alpha1.ProtectionPolicy
	for d := yaml.NewYAMLOrJSONDecoder(in, 4096); ; {
		u := &unstructured.Unstructured{}
		err := d.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fault.New(fault.Usage, "", "reading %s: %w", file, err)
		}
		if u.GetKind() != "ProtectionPolicy" || u.GetAPIVersion() != v1alpha1.GroupVersion.String() {
			continue
		}
		if found != nil {
			return nil, fault.New(fault.Usage, "", "%s has several ProtectionPolicies", file)
		}
		found = &v1alpha1.ProtectionPolicy{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, found, true); err != nil {
			return nil, fault.New(fault.Usage, "", "reading %s: %w", file, err)
		}
	}
	if found == nil {
		return nil, fault.New(fault.Usage, "", "%s has no ProtectionPolicy", file)
	}
	found.Namespace = cmp.Or(found.Namespace, namespace)
	return found, nil
}

func previewPolicy(ctx context.Context, c *kube.Cluster, policy *v1alpha1.ProtectionPolicy) (*policyPreview, error) {
	var claims corev1.PersistentVolumeClaimList
	if err := c.List(ctx, &claims, client.InNamespace(policy.Namespace)); err != nil {
		return nil, fmt.Errorf("listing claims: %w", err)
	}
	verdicts, err := selection.Select(policy, claims.Items)
	if err != nil {
		return nil, fault.New(fault.Usage, "", "policy %q: %w", policy.Name, err)
	}
	known := map[object.Name]plan.ClaimFact{}
	for _, v := range verdicts {
		known[object.Name{Namespace: v.Claim.Namespace, Name: v.Claim.Name}] = plan.ClaimFact{Phase: corev1.ClaimBound} // others are used, too
	}
	consumers, err := facts.Consumers(ctx, c, known)
	if err != nil {
		return nil, fmt.Errorf("looking for what mounts the claims: %w", err)
	}
	var classes snapshotv1.VolumeSnapshotClassList
	if err := c.List(ctx, &classes); err != nil && !meta.IsNoMatchError(err) {
		return nil, fmt.Errorf("listing snapshot classes: %w", err)
	}
	result := &policyPreview{Namespace: policy.Namespace, Policy: policy.Name, Claims: make([]claimPreview, 0, len(verdicts))}
	for _, v := range verdicts {
		shown := claimPreview{Claim: v.Claim.Name, Taken: v.Taken, Why: v.Why, UsedBy: users(object.Name{Namespace: v.Claim.Namespace, Name: v.Claim.Name}, consumers)}
		if v.Taken {
			if err := shown.capture(ctx, c, policy, &v.Claim, classes.Items); err != nil {
				return nil, err
			}
		}
		result.Claims = append(result.Claims, shown)
	}
	return result, nil
}

// users are what mounts a claim, without what something else made for it.
func users(claim object.Name, consumers []plan.Consumer) []string {
	var out []string
	for _, c := range consumers {
		if slices.Contains(c.Claims, claim) && c.By.Kind == "" {
			out = append(out, strings.ToLower(c.Kind)+"/"+c.Name)
		}
	}
	slices.Sort(out)
	return out
}

// capture says how a claim would be saved, or why it could not be.
func (s *claimPreview) capture(
	ctx context.Context, c client.Client, policy *v1alpha1.ProtectionPolicy, claim *corev1.PersistentVolumeClaim, classes []snapshotv1.VolumeSnapshotClass,
) error {
	if err := selection.Ready(claim); err != nil {
		s.Problem = err.Error()
		return nil
	}
	pv := &corev1.PersistentVolume{}
	if err := c.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv); err != nil {
		return fmt.Errorf("reading volume %q of claim %q: %w", claim.Spec.VolumeName, claim.Name, err)
	}
	source, class, err := selection.Source(policy, claim, pv, classes)
	if err != nil {
		s.Problem = err.Error()
		return nil
	}
	s.Source, s.SnapshotClass = source, class
	return nil
}

func (r *policyPreview) write(w io.Writer) error {
	rows := make([][]string, len(r.Claims))
	for i, c := range r.Claims {
		taken, why := "yes", c.Why
		switch {
		case c.Problem != "":
			taken, why = "FAILS", c.Problem
		case !c.Taken:
			taken = "no"
		}
		rows[i] = []string{c.Claim, taken, cmp.Or(string(c.Source), "-"), cmp.Or(c.SnapshotClass, "-"), cmp.Or(strings.Join(c.UsedBy, ", "), "-"), output.Path(why)}
	}
	return output.Rows(w, []string{"CLAIM", "TAKEN", "SOURCE", "SNAPSHOT CLASS", "USED BY", "BECAUSE"}, rows)
}

func (r *policyPreview) verdict() error {
	taken, failing := 0, 0
	for _, c := range r.Claims {
		if c.Taken {
			taken++
		}
		if c.Problem != "" {
			failing++
		}
	}
	switch {
	case taken == 0:
		return fault.New(fault.Absent, "Look at volumes.selector, and at the labels of the claims.", "policy %q takes no claim of namespace %s", r.Policy, r.Namespace)
	case failing > 0:
		return fault.New(fault.Failed, "Mend it, or leave the claim out with the annotation "+v1alpha1.AnnotationExclude+".",
			"the next point would fail for %s", output.Count(failing, "claim", "claims"))
	}
	return nil
}
