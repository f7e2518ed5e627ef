package cmd

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

type backupOptions struct {
	before  string
	wait    bool
	timeout time.Duration
	argocd  argocdOptions
	format  output.Format
}

func (o *backupOptions) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.before, "before", "", "full commit that is about to be deployed, to be noted in the point")
	f.BoolVar(&o.wait, "wait", true, "wait until the point is durable in the vault")
	f.DurationVar(&o.timeout, "timeout", 0, "give up waiting after this time; the controller goes on (default: never)")
	f.BoolVar(&o.argocd.presync, "argocd-presync", false, "run as a PreSync hook of Argo CD: the point before the sync that is under way")
	f.BoolVar(&o.argocd.postsync, "argocd-postsync", false, "run as a PostSync hook of Argo CD: ask for the point after the sync that is under way, and do not wait for it")
	f.BoolVar(&o.argocd.approve, "argocd-approve", false, "when the point is complete, let the Application sync what it waits with (strict mode)")
	f.StringVar(&o.argocd.application, "argocd-application", "", "[NAMESPACE/]NAME of the Application (default: the one that the policy came from)")
	o.format.AddFlag(cmd)
	cmd.MarkFlagsMutuallyExclusive("argocd-presync", "argocd-postsync", "argocd-approve")
}

func (p *Program) backupCommand() *cobra.Command {
	var o backupOptions
	cmd := &cobra.Command{
		Use:   "backup POLICY",
		Short: "Make a restore point of an application now",
		Long: `Make a RestorePoint of the application that a ProtectionPolicy protects, tagged with the commit that is running.

The command is done when every volume and the record are durable in the vault.`,
		Example: `  lockstep backup shop -n shop
  lockstep backup shop -n shop --before "$(git rev-parse HEAD)"
  lockstep backup shop -n shop --argocd-approve`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.completePolicies,
		RunE:              runs(func(ctx context.Context, args []string) error { return p.backup(ctx, args[0], o) }),
	}
	o.addFlags(cmd)
	return cmd
}

func (p *Program) backup(ctx context.Context, policy string, o backupOptions) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	policy = strings.TrimPrefix(policy, "policy/")
	if err := o.argocd.check(o.before); err != nil {
		return err
	}
	o.wait = o.wait && !o.argocd.postsync || o.argocd.presync || o.argocd.approve
	point, err := p.askForPoint(ctx, c, policy, &o)
	if err != nil || point == nil {
		return err
	}
	if o.wait {
		if err := p.waitForPoint(ctx, p.waiter(c, o.timeout), point); err != nil {
			return err
		}
	}
	if o.argocd.approve {
		if err := p.approve(ctx, c, o.argocd.approves, o.argocd.revisions); err != nil {
			return err
		}
	}
	return o.format.Print(p.Out, named(point, "RestorePoint"), func(w io.Writer) error {
		if !o.wait {
			_, err := fmt.Fprintf(w, "point/%s\n", point.Name)
			return err
		}
		return pointSummary(w, point)
	})
}

// askForPoint makes the point that the flags ask for; nil if there is nothing to save.
func (p *Program) askForPoint(ctx context.Context, c *kube.Cluster, policy string, o *backupOptions) (*v1alpha1.RestorePoint, error) {
	if o.argocd.presync || o.argocd.postsync {
		return p.syncPoint(ctx, c, policy, *o)
	}
	if err := findPolicy(ctx, c, c.Namespace, policy); err != nil {
		return nil, err
	}
	if o.argocd.approve {
		if err := p.toApprove(ctx, c, policy, o); err != nil {
			return nil, err
		}
	}
	return p.createPoint(ctx, c, c.Namespace, policy, o.before)
}

// createPoint makes a RestorePoint. One before a commit is what a deploy asked for.
func (p *Program) createPoint(ctx context.Context, c client.Client, namespace, policy, before string) (*v1alpha1.RestorePoint, error) {
	trigger := v1alpha1.TriggerManual
	if before != "" {
		trigger = v1alpha1.TriggerPreDeploy
	}
	point := &v1alpha1.RestorePoint{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:    namespace,
			GenerateName: policy + "-" + p.Now().UTC().Format("20060102-150405") + "-",
			Labels:       map[string]string{v1alpha1.LabelPolicy: policy},
		},
		Spec: v1alpha1.RestorePointSpec{
			PolicyRef: v1alpha1.PolicyReference{Name: policy}, Trigger: trigger, Before: before,
		},
	}
	if err := c.Create(ctx, point); err != nil {
		return nil, fmt.Errorf("making the RestorePoint: %w", err)
	}
	p.note("made RestorePoint %s/%s", point.Namespace, point.Name)
	return point, nil
}

func findPolicy(ctx context.Context, c client.Client, namespace, name string) error {
	var policy v1alpha1.ProtectionPolicy
	err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &policy)
	if !apierrors.IsNotFound(err) {
		if err != nil {
			return fmt.Errorf("reading the ProtectionPolicy: %w", err)
		}
		return nil
	}
	var all v1alpha1.ProtectionPolicyList
	hint := "No namespace has one: add a ProtectionPolicy to the application in Git."
	err = c.List(ctx, &all)
	switch {
	case apierrors.IsForbidden(err): // a pipeline need not see those of others
		hint = ""
	case err != nil:
		return fmt.Errorf("listing the ProtectionPolicies: %w", err)
	case len(all.Items) > 0:
		names := make([]string, len(all.Items))
		for i, p := range all.Items {
			names[i] = p.Name + " -n " + p.Namespace
		}
		slices.Sort(names)
		hint = "There are: " + strings.Join(names[:min(len(names), 10)], ", ")
	}
	return fault.New(fault.Absent, hint, "namespace %s has no ProtectionPolicy %q", namespace, name)
}

// waitForPoint shows the volumes of a point until it is Ready; any other end is an error.
func (p *Program) waitForPoint(ctx context.Context, w waiter, point *v1alpha1.RestorePoint) error {
	board := p.board()
	err := w.wait(ctx, "point/"+point.Name+" -n "+point.Namespace, point, func() { board.Show(pointItems(point)...) })
	board.Close()
	if err != nil {
		return err
	}
	if c := ready(point); c.Status != metav1.ConditionTrue {
		return fault.New(endCode(c.Reason), "", "the point failed: %s", sentence(c.Reason, c.Message))
	}
	return nil
}

func pointItems(point *v1alpha1.RestorePoint) []progress.Item {
	items := make([]progress.Item, 0, len(point.Status.Volumes)+1)
	for _, v := range point.Status.Volumes {
		it := progress.Item{Name: "volume " + v.Claim, State: string(v.State), Note: v.Message, Done: v.Progress}
		if v.State == v1alpha1.VolumeSaved {
			it.Done, it.Total = v.Bytes, v.Bytes
		}
		items = append(items, it)
	}
	if c := ready(point); c.Status != metav1.ConditionTrue {
		items = append(items, progress.Item{Name: "point", State: c.Reason, Note: c.Message})
	}
	return items
}

// endCode is the exit code that belongs to the reason with which a point or a restore ended. An end is final: a source
// that ends a restore has been asked, and does not hold what is looked for.
func endCode(reason string) fault.Code {
	switch reason {
	case v1alpha1.ReasonPointNotFound, v1alpha1.ReasonPolicyNotFound, v1alpha1.ReasonSourceUnknown:
		return fault.Absent
	case v1alpha1.ReasonPointUnknown, v1alpha1.ReasonVaultNotReady:
		return fault.Unknown
	case v1alpha1.ReasonRefused:
		return fault.Refused
	case v1alpha1.ReasonInvalidSpec:
		return fault.Usage
	default:
		return fault.Failed
	}
}

func pointSummary(w io.Writer, point *v1alpha1.RestorePoint) error {
	s := point.Status
	commit, ref := "-", ""
	if s.Revision != nil {
		commit, ref = short(s.Revision.Commit), s.Revision.Ref
	}
	var bytes, stored int64
	for _, v := range s.Volumes {
		bytes, stored = bytes+v.Bytes, stored+v.Stored
	}
	took := moment(s.CompletedAt).Sub(moment(s.StartedAt))
	_, err := fmt.Fprintf(w, "point %s of commit %s%s: %s, %s (%s new in the vault), in %s\n", s.ID, commit, parenthesised(ref),
		output.Count(len(s.Volumes), "volume", "volumes"), output.Bytes(bytes), output.Bytes(stored), output.Duration(took))
	return err
}

func parenthesised(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
