package cmd

import (
	"context"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
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
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

type restoreOptions struct {
	tag, commit, point string
	before             string
	source             source
	pathSet            bool
	vault              vault.Flags
	setup              setupOptions
	application        string
	name               string
	verify             string
	timeout            time.Duration
	wait, dryRun       bool
	format             output.Format
}

func (o *restoreOptions) addFlags(cmd *cobra.Command, p *Program) {
	f := cmd.Flags()
	f.StringVar(&o.tag, "tag", "", "restore the commit of this tag")
	f.StringVar(&o.commit, "commit", "", "restore this commit")
	f.StringVar(&o.point, "point", "", "restore the point with this ID, and the commit that ran when it was taken")
	f.StringVar(&o.before, "before", "", "restore the newest point before this time, as 2026-01-02T15:04:05Z")
	cmd.MarkFlagsMutuallyExclusive("tag", "commit", "point", "before")
	cmd.MarkFlagsOneRequired("tag", "commit", "point", "before")
	o.source.addFlags(cmd)
	o.vault.AddFlags(f, false)
	o.setup.addFlags(f, p.Image)
	f.StringVar(&o.application, "application", "", "<namespace>/<policy>, where several fit")
	f.StringVar(&o.name, "name", "", "name of the Restore (default: made from what is restored)")
	f.StringVar(&o.verify, "verify", string(v1alpha1.VerifyReadback), "how a filled volume is proven: Readback or Write")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long workloads may take to become healthy once their volumes are bound")
	f.BoolVar(&o.wait, "wait", true, "wait until everything is back")
	f.BoolVar(&o.dryRun, "dry-run", false, "print what would be done, and why this point, and change nothing")
	o.format.AddFlag(cmd)
	// The error says that a flag does not exist, and they were added above.
	_ = cmd.RegisterFlagCompletionFunc("point", p.completePoints)
	_ = cmd.RegisterFlagCompletionFunc("vault", p.completeVaults)
	_ = cmd.RegisterFlagCompletionFunc("verify", cobra.FixedCompletions(
		[]string{string(v1alpha1.VerifyReadback), string(v1alpha1.VerifyWrite)}, cobra.ShellCompDirectiveNoFileComp))
}

func (p *Program) restoreCommand() *cobra.Command {
	var o restoreOptions
	cmd := &cobra.Command{
		Use:   "restore (--tag T | --commit C | --point ID | --before TIME)",
		Short: "Bring a commit back with its data",
		Long: `Bring a commit back with the data that belongs to it.

The point that fits the commit is found in the vault, the commit is applied, every volume is filled and verified, and each
workload starts when its own volumes are whole. A claim that is already bound is never written to.

On a cluster that knows nothing of Lockstep, name the vault by its URL and bring its key: Lockstep and the Vault are
installed first. Without --repo, repository and path are those of the points in the vault, if all agree.

The command may be interrupted: the restore goes on in the cluster, and the same command watches it again.`,
		Example: `  lockstep restore --tag v1.4.2 --repo https://git.example.com/shop.git --path deploy --dry-run
  lockstep restore --tag v1.4.2 --vault s3://acme-dr/prod --key-file vault.key --image IMAGE   # on a bare cluster`,
		Args:   cobra.NoArgs,
		PreRun: func(cmd *cobra.Command, _ []string) { o.pathSet = cmd.Flags().Changed("path") },
		RunE:   runs(func(ctx context.Context, _ []string) error { return p.restore(ctx, o) }),
	}
	o.addFlags(cmd, p)
	return cmd
}

func (p *Program) restore(ctx context.Context, o restoreOptions) error {
	from, err := o.from()
	if err != nil {
		return err
	}
	if err := o.source.check(); err != nil {
		return err
	}
	o.vault.Complete(p.Getenv)
	c, err := p.connect()
	if err != nil {
		return err
	}
	if p.cluster.Namespace == "" {
		c.Namespace = v1alpha1.SystemNamespace
	}
	if o.dryRun {
		return p.dryRun(ctx, c, from, o)
	}
	if err := p.completeSource(ctx, c, &o); err != nil {
		return err
	}
	if from.Vault, err = p.vaultInCluster(ctx, c, o); err != nil {
		return err
	}
	restore, err := p.createRestore(ctx, c, o.object(c.Namespace, from))
	if err != nil {
		return err
	}
	if !o.wait {
		return o.format.Print(p.Out, named(restore, "Restore"), func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "restore/%s\n", restore.Name)
			return err
		})
	}
	// How long the volumes take is nobody's promise: only the controller's own bounds end a restore.
	waitErr := p.waitForRestore(ctx, p.waiter(c, 0), restore)
	if waitErr != nil && !finished(restore) {
		return waitErr
	}
	err = o.format.Print(p.Out, named(restore, "Restore"), func(w io.Writer) error { return writeTimeline(w, restore) })
	if waitErr != nil {
		return waitErr
	}
	return err
}

// from says which point, without the vault.
func (o *restoreOptions) from() (v1alpha1.RestoreFrom, error) {
	from := v1alpha1.RestoreFrom{Application: o.application, Tag: o.tag, Commit: o.commit, RestorePoint: o.point}
	if o.before != "" {
		at, err := time.Parse(time.RFC3339, o.before)
		if err != nil {
			return from, fault.New(fault.Usage, "Write it as 2026-01-02T15:04:05Z.", "--before %q is not a time", o.before)
		}
		from.Before = &metav1.Time{Time: at}
	}
	if v := v1alpha1.Verify(o.verify); v != v1alpha1.VerifyReadback && v != v1alpha1.VerifyWrite {
		return from, fault.New(fault.Usage, "Use Readback or Write.", "unknown way to verify %q", o.verify)
	}
	if o.tag == "" && o.commit == "" && o.point == "" && from.Before == nil {
		return from, fault.New(fault.Usage, "", "--tag, --commit, --point and --before must not be empty")
	}
	return from, nil
}

func (o *restoreOptions) object(namespace string, from v1alpha1.RestoreFrom) *v1alpha1.Restore {
	r := &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: o.name},
		Spec: v1alpha1.RestoreSpec{
			From:    from,
			Source:  v1alpha1.GitSource{URL: o.source.repository, Path: o.source.path},
			Engine:  v1alpha1.EngineAuto,
			Verify:  v1alpha1.Verify(o.verify),
			Timeout: &metav1.Duration{Duration: o.timeout},
		},
	}
	if o.source.secret != "" {
		r.Spec.Source.SecretRef = &v1alpha1.SecretReference{Name: o.source.secret}
	}
	if r.Name == "" {
		r.GenerateName = "restore-" + nameOf(from) + "-"
	}
	return r
}

var notInNames = regexp.MustCompile(`[^a-z0-9.]+`)

// nameOf makes a part of an object's name of what is restored.
func nameOf(from v1alpha1.RestoreFrom) string {
	what := from.Tag + from.RestorePoint
	if from.Commit != "" {
		what = short(from.Commit)
	}
	if from.Before != nil {
		what = from.Before.UTC().Format("20060102-150405")
	}
	what = notInNames.ReplaceAllString(strings.ToLower(what), "-")
	return strings.Trim(what[:min(len(what), 40)], ".-")
}

// completeSource finds the repository's URL: of a local work tree it is that of its origin, and without any it is what
// the points in the vault agree upon.
func (p *Program) completeSource(ctx context.Context, c *kube.Cluster, o *restoreOptions) error {
	if o.source.repository == "" {
		v, err := o.vault.Open(ctx, func() (*kube.Cluster, error) { return c, nil })
		if err != nil {
			return err
		}
		return o.sourceFrom(ctx, v.Vault)
	}
	if _, err := os.Stat(o.source.repository); err != nil {
		return nil // a URL
	}
	r, err := o.source.open(ctx, c, c.Namespace)
	if err != nil {
		return err
	}
	o.source.repository = r.URL()
	return r.Close()
}

// sourceFrom takes repository and path from the points of the vault that may be meant, if they agree.
func (o *restoreOptions) sourceFrom(ctx context.Context, v *volume.Vault) error {
	records, err := catalog.List(ctx, v)
	if err != nil {
		return vault.Explain(err)
	}
	type place struct{ repository, path string }
	places := map[place]string{}
	for _, r := range records {
		if o.application != "" && r.Application != o.application || !strings.HasPrefix(r.ID, o.point) ||
			o.pathSet && r.Revision.Path != o.source.path {
			continue
		}
		places[place{revision.NormalizeURL(r.Revision.Repository), r.Revision.Path}] = r.Revision.Repository
	}
	if len(places) != 1 {
		var names []string
		for at, url := range places {
			names = append(names, "--repo "+url+" --path "+at.path)
		}
		slices.Sort(names)
		hint := "The vault has no point that could tell."
		if len(names) > 0 {
			hint = "The vault has points of: " + strings.Join(names[:min(len(names), 5)], "; ")
		}
		return fault.New(fault.Usage, hint, "no repository: name it with --repo and --path")
	}
	for at, url := range places {
		o.source.repository, o.source.path = url, at.path
	}
	return nil
}

// createRestore makes the Restore, or finds the same one that is still under way: the user may have interrupted this
// program, and a second restore of the same claims would be refused.
func (p *Program) createRestore(ctx context.Context, c client.Client, want *v1alpha1.Restore) (*v1alpha1.Restore, error) {
	var list v1alpha1.RestoreList
	if err := c.List(ctx, &list, client.InNamespace(want.Namespace)); err != nil {
		return nil, fmt.Errorf("looking for a restore that is under way: %w", err)
	}
	for i := range list.Items {
		r := &list.Items[i]
		if !finished(r) && r.DeletionTimestamp == nil && (want.Name == "" || want.Name == r.Name) && reflect.DeepEqual(r.Spec, want.Spec) {
			p.note("this restore is already under way: restore/%s -n %s", r.Name, r.Namespace)
			return r, nil
		}
	}
	err := c.Create(ctx, want)
	if apierrors.IsAlreadyExists(err) {
		return nil, fault.New(fault.Refused, "Give another --name, or delete it: kubectl -n "+want.Namespace+" delete restore "+want.Name,
			"there is another Restore %q", want.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("making the Restore: %w", err)
	}
	p.note("made Restore %s/%s", want.Namespace, want.Name)
	return want, nil
}

// waitForRestore shows the volumes and workloads of a restore until it is Ready; any other end is an error.
func (p *Program) waitForRestore(ctx context.Context, w waiter, r *v1alpha1.Restore) error {
	board := p.board()
	told := false
	err := w.wait(ctx, "restore/"+r.Name+" -n "+r.Namespace, r, func() {
		if c := r.Status.Point; c != nil && !told {
			told = true
			board.Say("point %s, taken %s at commit %s", c.ID, output.Time(c.Taken.Time), short(c.Commit))
			board.Say("chosen: %s: %s", c.Match, c.Message)
		}
		board.Show(restoreItems(r)...)
	})
	board.Close()
	if ctx.Err() != nil {
		p.note("The restore goes on in the cluster. Watch it with the same command; stop it with: kubectl -n %s delete restore %s",
			r.Namespace, r.Name)
	}
	if err != nil {
		return err
	}
	if c := ready(r); c.Status != metav1.ConditionTrue {
		return fault.New(endCode(c.Reason), "", "the restore ended: %s", sentence(c.Reason, c.Message))
	}
	return nil
}

func restoreItems(r *v1alpha1.Restore) []progress.Item {
	var items []progress.Item
	for _, v := range r.Status.Volumes {
		it := progress.Item{Name: "volume " + v.Namespace + "/" + v.Claim, State: string(v.State), Note: v.Message}
		switch v.State {
		case v1alpha1.HydrationHydrating:
			it.Done, it.Total = v.Progress, v.Bytes
		case v1alpha1.HydrationBound:
			it.Done, it.Total = v.Bytes, v.Bytes
		}
		items = append(items, it)
	}
	for _, l := range r.Status.Workloads {
		items = append(items, progress.Item{Name: workloadName(l), State: string(l.State), Note: l.Message})
	}
	if c := ready(r); c.Status != metav1.ConditionTrue {
		items = append(items, progress.Item{Name: "restore", State: c.Reason, Note: c.Message})
	}
	return items
}

func writeTimeline(w io.Writer, r *v1alpha1.Restore) error {
	var rows [][]string
	for _, e := range timeline(r) {
		rows = append(rows, []string{e.after(r), e.what})
	}
	if err := output.Rows(w, nil, rows); err != nil {
		return err
	}
	if rto, ok := recoveryTime(r); ok && r.Status.Revision != nil {
		_, err := fmt.Fprintf(w, "commit %s%s is back with its data; RTO %d s\n", short(r.Status.Revision.Commit),
			parenthesised(r.Status.Revision.Ref), int(rto.Seconds()))
		return err
	}
	return nil
}
