package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// restoreSeveral restores applications, each by a Restore of its own. Those that were named wait for one another in their order.
func (p *Program) restoreSeveral(ctx context.Context, c *kube.Cluster, o restoreOptions) error {
	if o.point != "" {
		return fault.New(fault.Usage, "Restore each with its own --point.", "a point is of one application")
	}
	if len(o.scope.volumes)+len(o.scope.only) > 0 {
		return fault.New(fault.Usage, "Restore each application's volumes or workloads by a command of its own.", "--volume and --only are of one application")
	}
	if o.name != "" {
		return fault.New(fault.Usage, "Leave --name out.", "several restores cannot have one name")
	}
	each, err := p.eachApplication(ctx, c, o)
	if err != nil {
		return err
	}
	if o.dryRun {
		return p.dryRunSeveral(ctx, c, each, o)
	}
	vaultName, err := p.vaultInCluster(ctx, c, o)
	if err != nil {
		return err
	}
	var restores []*v1alpha1.Restore
	for i := range each {
		from, err := each[i].from()
		if err != nil {
			return err
		}
		from.Vault = vaultName
		if err := p.completeSource(ctx, c, &each[i]); err != nil {
			return err
		}
		want := each[i].object(c.Namespace, from)
		want.GenerateName = "restore-" + nameOf(v1alpha1.RestoreFrom{RestorePoint: each[i].application}) + "-"
		if i > 0 && !o.all {
			want.Spec.DependsOn = []v1alpha1.RestoreReference{{Name: restores[i-1].Name}}
		}
		made, err := p.createRestore(ctx, c, want)
		if err != nil {
			return err
		}
		restores = append(restores, made)
	}
	if o.wait {
		err = p.waitForRestores(ctx, p.waiter(c, 0), restores)
	}
	reports := make([]restoreReport, len(restores))
	for i, r := range restores {
		reports[i] = reportRestore(r)
	}
	printErr := o.format.Print(p.Out, reports, func(w io.Writer) error { return writeSeveral(w, restores, o.wait) })
	if err != nil {
		return err
	}
	return printErr
}

func writeSeveral(w io.Writer, restores []*v1alpha1.Restore, waited bool) error {
	for _, r := range restores {
		if !waited {
			fmt.Fprintf(w, "restore/%s\n", r.Name)
			continue
		}
		c := ready(r)
		fmt.Fprintf(w, "%s (restore/%s): %s\n", r.Spec.From.Application, r.Name, c.Reason)
		if err := writeTimeline(w, r); err != nil {
			return err
		}
	}
	return nil
}

// eachApplication makes the options for each application: its repository and path are those of its newest point, as far as no
// flag says them.
func (p *Program) eachApplication(ctx context.Context, c *kube.Cluster, o restoreOptions) ([]restoreOptions, error) {
	v, err := o.vault.Open(ctx, func() (*kube.Cluster, error) { return c, nil })
	if err != nil {
		return nil, err
	}
	records, err := catalog.List(ctx, v.Vault)
	if err != nil {
		return nil, vault.Explain(err)
	}
	newest := map[string]point.Record{}
	for _, r := range records {
		if have, ok := newest[r.Application]; !ok || r.Taken.After(have.Taken) {
			newest[r.Application] = r
		}
	}
	names := o.applications
	if o.all {
		for name := range newest {
			names = append(names, name)
		}
		slices.Sort(names)
	}
	if len(names) == 0 {
		return nil, fault.New(fault.Absent, "", "the vault holds no point of any application")
	}
	var each []restoreOptions
	for i, name := range names {
		r, ok := newest[name]
		if !ok {
			return nil, fault.New(fault.Absent, "See all: lockstep points", "the vault holds no point of application %q", name)
		}
		if slices.Contains(names[:i], name) {
			return nil, fault.New(fault.Usage, "", "application %q is named twice", name)
		}
		one := o
		one.application = name
		one.source.repository = cmp.Or(o.source.repository, r.Revision.Repository)
		if !o.pathSet {
			one.source.path = r.Revision.Path
		}
		each = append(each, one)
	}
	return each, nil
}

// dryRunSeveral prints the plans in the order in which they would be carried out.
func (p *Program) dryRunSeveral(ctx context.Context, c *kube.Cluster, each []restoreOptions, o restoreOptions) error {
	var made []*planner.Replay
	var plans []*plan.Plan
	refusals := 0
	for i := range each {
		from, err := each[i].from()
		if err != nil {
			return err
		}
		one, err := p.plan(ctx, c, from, each[i])
		if err != nil {
			return fmt.Errorf("application %s: %w", each[i].application, err)
		}
		made, plans, refusals = append(made, one), append(plans, one.Plan), refusals+len(one.Plan.Refusals)
	}
	err := o.format.Print(p.Out, plans, func(w io.Writer) error {
		for i, one := range made {
			order := "at once"
			if i > 0 && !o.all {
				order = "when the one before is back"
			}
			fmt.Fprintf(w, "%d. %s, %s\n\n", i+1, each[i].application, order)
			if err := writePlan(w, one); err != nil {
				return err
			}
			fmt.Fprintln(w)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if refusals > 0 {
		return fault.New(fault.Refused, "", "the restores would be refused: %s", output.Count(refusals, "reason", "reasons"))
	}
	return nil
}

// together shows several restores on one board.
type together struct {
	mu    sync.Mutex
	board *progress.Board
	items [][]progress.Item
}

func (t *together) show(i int, r *v1alpha1.Restore) {
	items := restoreItems(r)
	items[len(items)-1].Name = "restore " + r.Name
	t.mu.Lock()
	defer t.mu.Unlock()
	t.items[i] = items
	t.board.Show(slices.Concat(t.items...)...)
}

// waitForRestores shows several restores until all have come to an end, or one to a bad one: those that wait for it would wait
// for ever.
func (p *Program) waitForRestores(ctx context.Context, w waiter, restores []*v1alpha1.Restore) error {
	t := &together{board: p.board(), items: make([][]progress.Item, len(restores))}
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(restores))
	var wait sync.WaitGroup
	for i, r := range restores {
		wait.Go(func() {
			errs[i] = w.wait(waiting, "restore/"+r.Name+" -n "+r.Namespace, r, func() { t.show(i, r) })
			if c := ready(r); errs[i] == nil && c.Status != metav1.ConditionTrue {
				errs[i] = fault.New(endCode(c.Reason), "", "restore/%s ended: %s", r.Name, sentence(c.Reason, c.Message))
			}
			if errs[i] != nil {
				stop()
			}
		})
	}
	wait.Wait()
	t.board.Close()
	if ctx.Err() != nil {
		p.note("The restores go on in the cluster. Watch them with the same command; stop one with: kubectl -n %s delete restore NAME", restores[0].Namespace)
		return ctx.Err()
	}
	// The first that ended badly; the others were only not waited for any longer.
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return nil
}
