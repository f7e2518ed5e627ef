package cmd

import (
	"cmp"
	"context"
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
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

type describeOptions struct {
	vault  vault.Flags
	format output.Format
}

func (p *Program) describeCommand() *cobra.Command {
	var o describeOptions
	cmd := &cobra.Command{
		Use:   "describe POINT-ID | KIND/NAME | KIND NAME",
		Short: "Tell everything about a point, policy, restore or vault",
		Long: `Tell everything about one thing.

A point is described from the vault by its ID, or the beginning of one. Objects of the cluster are described by kind and
name, point/NAME, policy/NAME, restore/NAME or vault/NAME; restores are looked for in ` + v1alpha1.SystemNamespace + ` unless -n says otherwise.`,
		Example: `  lockstep describe 20260102-150405-1a2b3c4d --vault s3://acme-dr/prod --key-file vault.key
  lockstep describe restore/shop-v1.4.2`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: p.completeObjects,
		RunE:              runs(func(ctx context.Context, args []string) error { return p.describe(ctx, strings.Join(args, "/"), o) }),
	}
	o.vault.AddFlags(cmd.Flags(), false)
	o.format.AddFlag(cmd)
	return cmd
}

func (p *Program) describe(ctx context.Context, what string, o describeOptions) error {
	kind, name, isObject := strings.Cut(what, "/")
	if !isObject {
		return p.describeRecord(ctx, what, o)
	}
	c, err := p.connect()
	if err != nil {
		return err
	}
	d := &description{now: p.Now()}
	var o2 client.Object
	var kindName string
	var write func()
	switch kind {
	case "policy", "protectionpolicy":
		x := &v1alpha1.ProtectionPolicy{}
		o2, kindName, write = x, "ProtectionPolicy", func() { d.policy(x) }
	case "point", "restorepoint":
		x := &v1alpha1.RestorePoint{}
		o2, kindName, write = x, "RestorePoint", func() { d.point(x) }
	case "restore":
		x := &v1alpha1.Restore{}
		o2, kindName, write = x, "Restore", func() { d.restore(x) }
	case "vault":
		x := &v1alpha1.Vault{}
		o2, kindName, write = x, "Vault", func() { d.vault(x) }
	default:
		return fault.New(fault.Usage, "Kinds are point, policy, restore and vault; the ID of a point has no slash.", "unknown kind %q", kind)
	}
	key := client.ObjectKey{Namespace: p.namespaceFor(c, kind), Name: name}
	if err := c.Get(ctx, key, o2); apierrors.IsNotFound(err) {
		return fault.New(fault.Absent, "", "the cluster has no %s%s", what, inNamespace(key.Namespace))
	} else if err != nil {
		return fmt.Errorf("reading %s: %w", what, err)
	}
	var document any = named(o2, kindName)
	if r, ok := o2.(*v1alpha1.Restore); ok {
		document = reportRestore(r)
	}
	return o.format.Print(p.Out, document, func(w io.Writer) error {
		write()
		return d.write(w)
	})
}

// namespaceFor is where an object of the kind is looked for.
func (p *Program) namespaceFor(c *kube.Cluster, kind string) string {
	switch {
	case kind == "vault":
		return ""
	case kind == "restore" && p.cluster.Namespace == "":
		return v1alpha1.SystemNamespace
	default:
		return c.Namespace
	}
}

func inNamespace(namespace string) string {
	if namespace == "" {
		return ""
	}
	return " in namespace " + namespace
}

func (p *Program) describeRecord(ctx context.Context, id string, o describeOptions) error {
	v, err := p.openVault(ctx, o.vault)
	if err != nil {
		return err
	}
	choice, err := p.findPoint(ctx, v, id)
	if err != nil {
		return err
	}
	return o.format.Print(p.Out, choice.Record, func(w io.Writer) error {
		d := &description{now: p.Now()}
		d.record(choice.Record)
		return d.write(w)
	})
}

// findPoint finds the point with an ID, or whose ID begins so.
func (p *Program) findPoint(ctx context.Context, v *vault.Opened, id string) (match.Choice, error) {
	choice, err := catalog.Find(ctx, v.Vault, match.Query{PointID: id}, nil)
	if err != nil && planner.AnswerOf(err) == planner.Unknown {
		return choice, vault.Explain(err)
	}
	return choice, answerError(err)
}

func (d *description) record(r point.Record) {
	d.field("Point", r.ID)
	d.field("Application", r.Application)
	d.revision(&r.Revision)
	d.field("Taken", d.when(r.Taken))
	if r.Group {
		d.field("One moment", "all volumes, by a group snapshot")
	}
	d.field("Completed", d.when(r.Completed))
	d.field("Trigger", string(r.Trigger))
	if r.Before != "" {
		d.field("Before", r.Before)
	}
	if r.Residual != nil {
		d.residual(r.Residual.Secrets, r.Residual.Objects)
	}
	rows := make([][]string, len(r.Volumes))
	for i, v := range r.Volumes {
		class := "-"
		if v.Spec.StorageClassName != nil {
			class = *v.Spec.StorageClassName
		}
		rows[i] = []string{
			v.Key(), output.Bytes(v.Bytes), fmt.Sprint(v.Files), output.Bytes(v.Capacity), class, cmp.Or(v.Provisioner, "-"),
			output.Time(v.Taken), string(cmp.Or(v.Consistency, v1alpha1.ConsistencyCrash)), v.Snapshot,
		}
	}
	d.table("Volumes", []string{"CLAIM", "DATA", "FILES", "CAPACITY", "CLASS", "PROVISIONER", "TAKEN", "CONSISTENCY", "SNAPSHOT"}, rows)
	d.field("Restore it", "lockstep restore --point "+r.ID)
}
