package cmd

import (
	"context"
	"errors"
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
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

type restoreOptions struct {
	tag, commit, branch, point string
	before                     string
	ancestor, mismatch         bool
	schema                     []string
	source                     source
	pathSet                    bool
	scope                      scope
	vault                      vault.Flags
	setup                      setupOptions
	application                string
	applications               []string
	all                        bool
	mapNamespaces, mapClasses  map[string]string
	name                       string
	verify                     string
	engine, decryption         string
	ignoreMAC                  bool
	checkImages                bool
	timeout                    time.Duration
	wait, dryRun               bool
	setAside                   bool // what is in the way, instead of refusing
	format                     output.Format
}

func (o *restoreOptions) addFlags(cmd *cobra.Command, p *Program) {
	f := cmd.Flags()
	o.addPointFlags(cmd)
	o.source.addFlags(cmd)
	o.scope.addFlags(cmd, p)
	o.setup.addFlags(f, p.Image)
	f.StringArrayVar(&o.applications, "application", nil,
		"<namespace>/<policy>, where several fit; given several times, they are restored one after the other in this order")
	f.BoolVar(&o.all, "all", false, "restore every application that the vault has points of, all at once")
	cmd.MarkFlagsMutuallyExclusive("application", "all")
	o.addWayFlags(cmd, p)
	f.StringToStringVar(&o.mapNamespaces, "map-namespace", nil, "restore a namespace under another name, as shop=shop-clone; may be repeated")
	f.StringToStringVar(&o.mapClasses, "map-storage-class", nil, "restore claims of a storage class with another one, as gp3=standard; may be repeated")
	cmd.MarkFlagsMutuallyExclusive("volume", "map-namespace")
	f.BoolVar(&o.wait, "wait", true, "wait until everything is back")
}

// addPointFlags adds the flags that say what is restored.
func (o *restoreOptions) addPointFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.tag, "tag", "", "restore the commit of this tag")
	f.StringVar(&o.commit, "commit", "", "restore this commit")
	f.StringVar(&o.branch, "branch", "", "restore the commit that this branch is at")
	f.StringVar(&o.point, "point", "", "restore the point with this ID, and the commit that ran when it was taken")
	f.StringVar(&o.before, "before", "", "restore the newest point before this time, as 2026-01-02T15:04:05Z")
	cmd.MarkFlagsMutuallyExclusive("tag", "commit", "branch", "point", "before")
	cmd.MarkFlagsOneRequired("tag", "commit", "branch", "point", "before")
	f.BoolVar(&o.ancestor, "allow-ancestor", false, "take the point of the nearest earlier commit where none fits the commit itself")
	f.StringArrayVar(&o.schema, "schema-path", nil,
		"with --allow-ancestor: file or directory of the repository that tells which schema the data has, as migrations")
	f.BoolVar(&o.mismatch, "allow-mismatch", false, "take a point whose data may have another schema than the commit expects")
}

// addWayFlags adds those that say how.
func (o *restoreOptions) addWayFlags(cmd *cobra.Command, p *Program) {
	f := cmd.Flags()
	o.vault.AddFlags(f, false)
	f.StringVar(&o.name, "name", "", "name of the Restore (default: made from what is restored)")
	f.StringVar(&o.verify, "verify", string(v1alpha1.VerifyReadback), "how a filled volume is proven: Readback or Write")
	f.StringVar(&o.engine, "engine", string(v1alpha1.EngineAuto), "what applies the commit: Auto (whichever deploys the path), Flux, ArgoCD or Direct")
	f.BoolVar(&o.checkImages, "check-images", false, "before anything is made, ask the registries whether the commit's images can be had")
	f.BoolVar(&o.ignoreMAC, "ignore-mac", false, "open also files that were changed after they were encrypted with SOPS, as Flux does")
	f.StringVar(&o.decryption, "decryption-secret", "", "Secret with the age key (*.agekey) of objects encrypted with SOPS, where Lockstep applies the commit")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "how long workloads may take to become healthy once their volumes are bound")
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
		Use:   "restore (--tag T | --commit C | --branch B | --point ID | --before TIME)",
		Short: "Bring a commit back with its data",
		Long: `Bring a commit back with the data that belongs to it.

The point that fits the commit is found in the vault, the commit is applied, every volume is filled and verified, and each
workload starts when its own volumes are whole. A claim that is already bound is never written to.

On a cluster that knows nothing of Lockstep, name the vault by its URL and bring its key: Lockstep and the Vault are
installed first. Without --repo, repository and path are those of the points in the vault, if all agree.

With --volume nothing but these volumes comes back, each into a claim of its own name, which must be absent or pending, or of
another. No commit is replayed, so that no repository is needed.

The command may be interrupted: the restore goes on in the cluster, and the same command watches it again.`,
		Example: `  lockstep restore --tag v1.4.2 --repo https://git.example.com/shop.git --path deploy --dry-run
  lockstep restore --tag v1.4.2 --vault s3://acme-dr/prod --key-file vault.key --image IMAGE   # on a bare cluster
  lockstep restore --point 20260301-040000-1a2b3c4d --volume shop/data-db-0=shop/data-look     # one volume, beside the running one`,
		Args:   cobra.NoArgs,
		PreRun: func(cmd *cobra.Command, _ []string) { o.pathSet = cmd.Flags().Changed("path") },
		RunE:   runs(func(ctx context.Context, _ []string) error { return p.restore(ctx, o) }),
	}
	o.addFlags(cmd, p)
	cmd.AddCommand(p.restoreReleaseCommand())
	return cmd
}

func (p *Program) restore(ctx context.Context, o restoreOptions) error {
	if len(o.applications) == 1 {
		o.application = o.applications[0]
	}
	from, c, err := p.checkAndConnect(&o)
	if err != nil {
		return err
	}
	if o.all || len(o.applications) > 1 {
		return p.restoreSeveral(ctx, c, o)
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
	return p.followRestore(ctx, c, restore, o.format)
}

// checkAndConnect checks what is asked for, and connects to the cluster.
func (p *Program) checkAndConnect(o *restoreOptions) (v1alpha1.RestoreFrom, *kube.Cluster, error) {
	from, err := o.from()
	if err != nil {
		return from, nil, err
	}
	if err := errors.Join(o.source.check(), o.scope.check(from)); err != nil {
		return from, nil, err
	}
	o.vault.Complete(p.Getenv)
	c, err := p.connect()
	if err != nil {
		return from, nil, err
	}
	if p.cluster.Namespace == "" {
		c.Namespace = v1alpha1.SystemNamespace
	}
	return from, c, nil
}

// followRestore watches a Restore to its end and reports it. How long the volumes take is nobody's promise: only the controller's own
// bounds end a restore.
func (p *Program) followRestore(ctx context.Context, c *kube.Cluster, restore *v1alpha1.Restore, format output.Format) error {
	waitErr := p.waitForRestore(ctx, p.waiter(c, 0), restore)
	if waitErr != nil && !finished(restore) {
		return waitErr
	}
	err := format.Print(p.Out, reportRestore(restore), func(w io.Writer) error {
		return errors.Join(writeTimeline(w, restore), writeAside(w, restore))
	})
	if waitErr != nil {
		return waitErr
	}
	return err
}

// from says which point, without the vault.
func (o *restoreOptions) from() (v1alpha1.RestoreFrom, error) {
	from := v1alpha1.RestoreFrom{
		Application: o.application, Tag: o.tag, Commit: o.commit, Branch: o.branch, RestorePoint: o.point,
		AllowAncestor: o.ancestor, SchemaPaths: o.schema, AllowMismatch: o.mismatch,
	}
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
	engines := []v1alpha1.Engine{v1alpha1.EngineAuto, v1alpha1.EngineFlux, v1alpha1.EngineArgoCD, v1alpha1.EngineDirect}
	if !slices.Contains(engines, v1alpha1.Engine(o.engine)) {
		return from, fault.New(fault.Usage, "Use Auto, Flux, ArgoCD or Direct.", "unknown engine %q", o.engine)
	}
	byCommit := o.tag != "" || o.commit != "" || o.branch != ""
	if !byCommit && o.point == "" && from.Before == nil {
		return from, fault.New(fault.Usage, "", "--tag, --commit, --branch, --point and --before must not be empty")
	}
	if len(o.schema) > 0 && !o.ancestor {
		return from, fault.New(fault.Usage, "Add --allow-ancestor.", "--schema-path tells whether an earlier commit fits")
	}
	if o.ancestor && !byCommit {
		return from, fault.New(fault.Usage, "Leave it out.", "--allow-ancestor is for --tag, --commit and --branch: a point or a moment says itself which point")
	}
	return from, nil
}

// mapping is nil if nothing is given another name.
func (o *restoreOptions) mapping() *v1alpha1.RestoreMap {
	if len(o.mapNamespaces)+len(o.mapClasses) == 0 {
		return nil
	}
	m := &v1alpha1.RestoreMap{}
	for from, to := range o.mapNamespaces {
		if m.Namespaces == nil {
			m.Namespaces = map[string]v1alpha1.NamespaceName{}
		}
		m.Namespaces[from] = v1alpha1.NamespaceName(to)
	}
	for from, to := range o.mapClasses {
		if m.StorageClasses == nil {
			m.StorageClasses = map[string]v1alpha1.StorageClassName{}
		}
		m.StorageClasses[from] = v1alpha1.StorageClassName(to)
	}
	return m
}

func (o *restoreOptions) object(namespace string, from v1alpha1.RestoreFrom) *v1alpha1.Restore {
	r := &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: o.name},
		Spec: v1alpha1.RestoreSpec{
			From:           from,
			Source:         v1alpha1.GitSource{URL: o.source.repository, Path: o.source.path},
			Engine:         v1alpha1.Engine(o.engine),
			Map:            o.mapping(),
			ExistingClaims: o.existing(),
			Verify:         v1alpha1.Verify(o.verify),
			Timeout:        &metav1.Duration{Duration: o.timeout},
			CheckImages:    o.checkImages,
		},
	}
	if o.decryption != "" {
		r.Spec.Decryption = &v1alpha1.Decryption{SecretRef: v1alpha1.SecretReference{Name: o.decryption}, IgnoreMAC: o.ignoreMAC}
	}
	if o.source.secret != "" {
		r.Spec.Source.SecretRef = &v1alpha1.SecretReference{Name: o.source.secret}
	}
	if o.scope.volumesOnly() {
		r.Spec.Source = v1alpha1.GitSource{}
		r.Spec.Volumes, _ = o.scope.requests() // checked before
	}
	r.Spec.Only, _ = o.scope.workloads() // checked before
	if r.Name == "" {
		r.GenerateName = o.verb() + "-" + nameOf(from) + "-"
	}
	return r
}

func (o *restoreOptions) existing() v1alpha1.ExistingClaims {
	if o.setAside {
		return v1alpha1.ExistingSetAside
	}
	return v1alpha1.ExistingRefuse
}

func (o *restoreOptions) verb() string {
	if o.setAside {
		return "rollback"
	}
	return "restore"
}

var notInNames = regexp.MustCompile(`[^a-z0-9.]+`)

// nameOf makes a part of an object's name of what is restored.
func nameOf(from v1alpha1.RestoreFrom) string {
	what := from.Tag + from.Branch + from.RestorePoint
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
	if o.scope.volumesOnly() {
		return nil
	}
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
	records, err := catalog.Places(ctx, v, o.application, o.point)
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
