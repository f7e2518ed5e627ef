package cmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

type rollbackOptions struct {
	restoreOptions
	yes, backupFirst bool
}

func (p *Program) rollbackCommand() *cobra.Command {
	var o rollbackOptions
	cmd := &cobra.Command{
		Use:   "rollback [APPLICATION] (--tag T | --commit C | --branch B | --point ID | --before TIME)",
		Short: "Bring an earlier commit back with its data in the cluster where the application runs",
		Long: `Bring an earlier commit back with its data in the cluster where the application runs, and keep the data that it has now.

The plan is shown and asked about first. Then the present data becomes a point of its own; every volume of the earlier point is
filled and verified while the application runs on; and only when nothing can fail any more are its workloads stopped and its
claims replaced. The volumes that they had stay, with their data: nothing is overwritten or deleted.

APPLICATION is <namespace>/<policy>, needed where the vault has points of several.

The command may be interrupted: what has begun goes on in the cluster, and the same command watches it again.`,
		Example: `  lockstep rollback shop/shop --tag v1.4.1
  lockstep rollback shop/shop --before 2026-03-01T03:00:00Z --dry-run`,
		Args:   cobra.MaximumNArgs(1),
		PreRun: func(cmd *cobra.Command, _ []string) { o.pathSet = cmd.Flags().Changed("path") },
		RunE: runs(func(ctx context.Context, args []string) error {
			o.application = strings.Join(args, "")
			return p.rollback(ctx, o)
		}),
	}
	o.setAside = true
	o.addPointFlags(cmd)
	o.source.addFlags(cmd)
	o.addWayFlags(cmd, p)
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&o.backupFirst, "backup-first", true, "make a point of the present data before anything else")
	return cmd
}

func (p *Program) rollback(ctx context.Context, o rollbackOptions) error {
	from, c, err := p.checkAndConnect(&o.restoreOptions)
	if err != nil {
		return err
	}
	if o.dryRun {
		return p.dryRun(ctx, c, from, o.restoreOptions)
	}
	if vault.IsURL(o.vault.Vault) {
		return fault.New(fault.Usage, "Name the Vault of the cluster, or leave --vault out where there is one.", "an application that runs here has its Vault here")
	}
	if err := p.completeSource(ctx, c, &o.restoreOptions); err != nil {
		return err
	}
	restore, err := p.rollbackUnderWay(ctx, c, o)
	if err != nil {
		return err
	}
	if restore == nil {
		if restore, err = p.beginRollback(ctx, c, from, o); err != nil {
			return err
		}
	}
	return p.followRestore(ctx, c, restore, o.format)
}

// rollbackUnderWay finds the rollback of the same application that has not ended; nil if there is none.
func (p *Program) rollbackUnderWay(ctx context.Context, c *kube.Cluster, o rollbackOptions) (*v1alpha1.Restore, error) {
	var list v1alpha1.RestoreList
	if err := c.List(ctx, &list, client.InNamespace(c.Namespace)); err != nil {
		return nil, fmt.Errorf("looking for a rollback that is under way: %w", err)
	}
	for i := range list.Items {
		r := &list.Items[i]
		same := r.Spec.ExistingClaims == v1alpha1.ExistingSetAside && r.Spec.Source.Path == o.source.path &&
			revision.NormalizeURL(r.Spec.Source.URL) == revision.NormalizeURL(o.source.repository) &&
			(o.application == "" || r.Spec.From.Application == o.application)
		if same && !finished(r) && r.DeletionTimestamp == nil {
			p.note("a rollback is already under way: restore/%s -n %s", r.Name, r.Namespace)
			return r, nil
		}
	}
	return nil, nil
}

// beginRollback shows what would be done, asks, makes a point of the present data, and makes the Restore.
func (p *Program) beginRollback(ctx context.Context, c *kube.Cluster, from v1alpha1.RestoreFrom, o rollbackOptions) (*v1alpha1.Restore, error) {
	made, err := p.plan(ctx, c, from, o.restoreOptions)
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(p.Err, made.Plan.Text()); err != nil {
		return nil, err
	}
	if n := len(made.Plan.Refusals); n > 0 {
		return nil, fault.New(fault.Refused, "", "the rollback would be refused: %s", output.Count(n, "reason", "reasons"))
	}
	if from, err = o.pinned(from, made.Plan); err != nil {
		return nil, err
	}
	fmt.Fprintf(p.Err, "\nWhat was written since %s, %s ago, is not in the point. It stays in the volumes that are set aside.\n",
		output.Time(made.Plan.Point.Taken), output.Duration(p.Now().Sub(made.Plan.Point.Taken)))
	if err := p.confirm(made.Plan.Application, o.yes); err != nil {
		return nil, err
	}
	if err := p.backupBefore(ctx, c, made.Plan.Application, o.backupFirst); err != nil {
		return nil, err
	}
	if from.Vault, err = p.vaultInCluster(ctx, c, o.restoreOptions); err != nil {
		return nil, err
	}
	return p.createRestore(ctx, c, o.object(c.Namespace, from))
}

// pinned asks for the very point of the plan that is confirmed: one that is made meanwhile, as that of the present data, might fit, too.
func (o *rollbackOptions) pinned(from v1alpha1.RestoreFrom, p *plan.Plan) (v1alpha1.RestoreFrom, error) {
	if p.Point.Match == match.Ancestor {
		if o.backupFirst {
			return from, fault.New(fault.Usage, "Make a point with lockstep backup before, then add --backup-first=false.",
				"with --allow-ancestor, a point that is made now could be taken instead of the one that was shown")
		}
		return from, nil
	}
	return v1alpha1.RestoreFrom{Application: p.Application, RestorePoint: p.Point.ID, AllowMismatch: from.AllowMismatch}, nil
}

// confirm lets a person type the name of the application.
func (p *Program) confirm(application string, yes bool) error {
	if yes {
		return nil
	}
	const hint = "To go on without being asked, add --yes."
	if p.In == nil {
		return fault.New(fault.Refused, hint, "nobody can be asked whether to go on; nothing was changed")
	}
	fmt.Fprintf(p.Err, "To go on, type the name of the application, %s: ", application)
	answer, err := bufio.NewReader(p.In).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if strings.TrimSpace(answer) != application {
		return fault.New(fault.Refused, hint, "that is not %s; nothing was changed", application)
	}
	return nil
}

// backupBefore makes a point of the present data, where a policy says how.
func (p *Program) backupBefore(ctx context.Context, c *kube.Cluster, application string, wanted bool) error {
	name, err := object.ParseName(application)
	if err != nil || !wanted {
		return nil // without a policy's full name there is none
	}
	err = c.Get(ctx, client.ObjectKey(name), &v1alpha1.ProtectionPolicy{})
	if apierrors.IsNotFound(err) {
		p.note("no point is made of the present data: there is no ProtectionPolicy %s", application)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the ProtectionPolicy: %w", err)
	}
	made, err := p.createPoint(ctx, c, name.Namespace, name.Name, "")
	if err != nil {
		return err
	}
	if err := p.waitForPoint(ctx, p.waiter(c, 0), made); err != nil {
		return fault.New(fault.CodeOf(err), "Nothing was stopped. To roll back without a point of the present data: --backup-first=false. "+
			"The volumes are kept either way.", "%w", err)
	}
	return nil
}

// asideRows are the claims that were replaced, and the volumes that they had.
func asideRows(r *v1alpha1.Restore) [][]string {
	var rows [][]string
	for _, v := range r.Status.Volumes {
		if v.SetAside != "" {
			rows = append(rows, []string{v.Namespace + "/" + v.Claim, v.SetAside})
		}
	}
	return rows
}

// writeAside says where the old volumes are, and how to be rid of them.
func writeAside(w io.Writer, r *v1alpha1.Restore) error {
	rows := asideRows(r)
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(w, "\nThe volumes that the claims had before are kept, with their data:")
	if err := output.Rows(w, nil, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, `To go back to them: docs/restore.md, "Back to the newer data". When they are not needed any more:
  for pv in $(kubectl get pv -l %s=%s -o name); do kubectl patch $pv -p '{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}'; done
`, v1alpha1.LabelSetAside, r.UID)
	return err
}
