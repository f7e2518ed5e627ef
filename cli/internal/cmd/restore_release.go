package cmd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// releaseInterval is how often it is looked whether an engine follows its branch again.
const releaseInterval = time.Second

func (p *Program) restoreReleaseCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "release NAME",
		Short: "Let Flux or Argo CD follow Git's branch again after a restore",
		Long: `Let Flux or Argo CD follow Git's branch again after a restore.

A restore through Flux or Argo CD leaves them at the restored commit, so that the branch's newest commit does not meet the
restored data unasked. This gives back what the restore pinned and holds. They then deploy the branch as it is now: see to it
first that it goes with the data.

It also gives back what a Restore holds that was removed without clearing up.`,
		Args: cobra.ExactArgs(1),
		RunE: runs(func(ctx context.Context, args []string) error { return p.releaseRestore(ctx, args[0], timeout) }),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait for it")
	return cmd
}

func (p *Program) releaseRestore(ctx context.Context, name string, timeout time.Duration) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	if p.cluster.Namespace == "" {
		c.Namespace = v1alpha1.SystemNamespace
	}
	restore := &v1alpha1.Restore{}
	err = c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, restore)
	if apierrors.IsNotFound(err) {
		return p.releaseOrphans(ctx, c, object.Name{Namespace: c.Namespace, Name: name}, timeout)
	}
	if err != nil {
		return fmt.Errorf("reading restore %q: %w", name, err)
	}
	engine := restore.Status.Engine
	switch {
	case engine == nil || engine.Name == v1alpha1.EngineDirect || engine.ReleasedAt != nil:
		p.note("restore/%s holds nothing of Flux or Argo CD", name)
		return nil
	case restore.Status.CompletedAt == nil:
		return fault.New(fault.Refused, "Wait for it, or delete it to give up: kubectl -n "+c.Namespace+" delete restore "+name,
			"restore %q is not complete", name)
	}
	before := restore.DeepCopy()
	metav1.SetMetaDataAnnotation(&restore.ObjectMeta, v1alpha1.AnnotationRelease, time.Now().UTC().Format(time.RFC3339))
	if err := c.Patch(ctx, restore, client.MergeFrom(before)); err != nil {
		return fmt.Errorf("asking for the release of restore %q: %w", name, err)
	}
	return p.waitForRelease(ctx, timeout, func() (string, error) {
		if err := c.Get(ctx, client.ObjectKeyFromObject(restore), restore); err != nil {
			return "", fmt.Errorf("reading restore %q: %w", name, err)
		}
		if restore.Status.Engine.ReleasedAt != nil {
			return "", nil
		}
		return "the controller has not done it yet: " + cmp.Or(restore.Status.Engine.Message, "it has said nothing yet"), nil
	})
}

// releaseOrphans gives back what a Restore holds that is gone.
func (p *Program) releaseOrphans(ctx context.Context, c *kube.Cluster, name object.Name, timeout time.Duration) error {
	engines := gitops.Cluster{Client: c, Reader: c}
	all, err := ruler.Holdings(ctx, engines)
	if err != nil {
		return err
	}
	var uids []string
	for _, h := range all {
		if h.Gone && h.Restore == name && !slices.Contains(uids, h.UID) {
			uids = append(uids, h.UID)
		}
	}
	if len(uids) == 0 {
		return fault.New(fault.Absent, "List them: kubectl get restores -A", "there is no restore %q, and nothing is held in its name", name)
	}
	for _, uid := range uids {
		if err := p.waitForRelease(ctx, timeout, func() (string, error) { return ruler.Undo(ctx, engines, uid, time.Now()) }); err != nil {
			return err
		}
	}
	return nil
}

// waitForRelease asks until nothing is waited for any more.
func (p *Program) waitForRelease(ctx context.Context, timeout time.Duration, ask func() (waits string, err error)) error {
	tick, late := time.NewTicker(releaseInterval), time.NewTimer(timeout)
	defer tick.Stop()
	defer late.Stop()
	for told := ""; ; {
		waits, err := ask()
		if err != nil {
			return err
		}
		if waits == "" {
			p.note("Flux or Argo CD follow Git's branch again")
			return nil
		}
		if waits != told {
			p.note("%s", waits)
			told = waits
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			return fault.New(fault.Failed, "Ask again when that is mended; the same command goes on.", "not released within %s: %s", spelling.Duration(timeout), waits)
		case <-tick.C:
		}
	}
}
