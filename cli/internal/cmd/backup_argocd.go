package cmd

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/argocd"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// argocdOptions are the flags of "backup" for Argo CD.
type argocdOptions struct {
	presync, postsync, approve bool
	application                string

	// approves is the Application that the point lets through to the revisions.
	approves  object.Name
	revisions []string
}

func (o *argocdOptions) check(before string) error {
	asked := o.presync || o.postsync || o.approve
	if o.application != "" && !asked {
		return fault.New(fault.Usage, "", "--argocd-application is for --argocd-presync, --argocd-postsync and --argocd-approve")
	}
	if (o.presync || o.postsync) && before != "" {
		return fault.New(fault.Usage, "Leave --before out.", "Argo CD says which commit is about to be deployed")
	}
	return nil
}

// hookAttempts bounds how often points for the same sync are made anew after one has failed.
const hookAttempts = 10

// syncPoint makes the point that a hook of Argo CD asks for, or finds the one that an earlier pod of the same hook made. It is nil if
// there is nothing to save yet.
func (p *Program) syncPoint(ctx context.Context, c *kube.Cluster, policy string, o backupOptions) (*v1alpha1.RestorePoint, error) {
	found := &v1alpha1.ProtectionPolicy{}
	err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: policy}, found)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("reading the ProtectionPolicy: %w", err)
	}
	absent := err != nil
	name := applicationName(o.argocd.application, found)
	if name.Name == "" && absent {
		return nil, fault.New(fault.Usage, "Name it with --argocd-application.", "namespace %s has no ProtectionPolicy %q, and nothing says which Application syncs", c.Namespace, policy)
	}
	if name.Name == "" {
		return nil, fault.New(fault.Usage, "Name it with --argocd-application.", "ProtectionPolicy %q does not say which Application it came from", policy)
	}
	sync, err := p.waitForSync(ctx, c, name, o.timeout)
	if err != nil {
		return nil, err
	}
	if sync.Restore != "" {
		p.note("this sync of Application %s is a part of restore %s, whose data is in the vault: there is nothing to save", name, sync.Restore)
		return nil, nil
	}
	if absent {
		if sync.First {
			p.note("the first sync of Application %s: there is nothing to save yet", name)
			return nil, nil
		}
		return nil, fault.New(fault.Absent, "If this sync is to bring the policy, let a commit without the hook bring it first.",
			"Application %s was synced before, and namespace %s has no ProtectionPolicy %q: what runs would not be saved", name, c.Namespace, policy)
	}
	trigger, before := v1alpha1.TriggerPreDeploy, sync.Commit
	if o.argocd.postsync {
		trigger, before = v1alpha1.TriggerPostDeploy, ""
	} else if sync.First && found.Annotations[v1alpha1.AnnotationRevision] == "" {
		// A first sync that failed has left the policy behind. What another tool deployed before is noted on it.
		p.note("no sync of Application %s has succeeded yet: no commit runs that a point could be of", name)
		return nil, nil
	}
	return p.pointOfSync(ctx, c, policy, sync, trigger, before)
}

// applicationName is the Application that is named, or the one that the policy came from.
func applicationName(named string, policy *v1alpha1.ProtectionPolicy) object.Name {
	if named == "" {
		return argocd.Applied(policy)
	}
	if name, err := object.ParseName(named); err == nil {
		return name
	}
	return object.Name{Namespace: argocd.Namespace, Name: named}
}

// waitForSync waits until Argo CD says which commit it syncs: it starts its hooks before it has written that down.
func (p *Program) waitForSync(ctx context.Context, c *kube.Cluster, name object.Name, timeout time.Duration) (*argocd.Sync, error) {
	limit := silentFor
	if timeout > 0 {
		limit = min(limit, timeout)
	}
	argo := argocd.Argo{Cluster: gitops.Cluster{Client: c, Reader: c}}
	began := p.Now()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		sync, err := argo.Syncing(ctx, name)
		switch {
		case err == nil && sync == nil:
			return nil, fault.New(fault.Absent, "Name it with --argocd-application NAMESPACE/NAME.", "there is no Application %s", name)
		case err == nil && sync.Running:
			return sync, nil
		case err != nil && !kube.Unreachable(err):
			return nil, err
		case p.Now().Sub(began) > limit && err != nil:
			return nil, kube.Explain(err)
		case p.Now().Sub(began) > limit:
			return nil, fault.New(fault.Unknown, "This is for a hook of Argo CD. To save now: lockstep backup POLICY", "%s", sync.Waits)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

// pointOfSync makes the point of a sync. Its name is the sync's, so that a pod that is started anew finds it again; one that has failed
// is not tried again, but another is made.
func (p *Program) pointOfSync(
	ctx context.Context, c *kube.Cluster, policy string, sync *argocd.Sync, trigger v1alpha1.Trigger, before string,
) (*v1alpha1.RestorePoint, error) {
	digest := sha256.Sum256([]byte(sync.ID))
	base := fmt.Sprintf("%s-%s-%s", policy, strings.ToLower(string(trigger)), hex.EncodeToString(digest[:5]))
	for attempt := 1; attempt <= hookAttempts; attempt++ {
		point := &v1alpha1.RestorePoint{
			ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: base, Labels: map[string]string{v1alpha1.LabelPolicy: policy}},
			Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: policy}, Trigger: trigger, Before: before},
		}
		if attempt > 1 {
			point.Name = fmt.Sprintf("%s-%d", base, attempt)
		}
		err := c.Create(ctx, point)
		if err == nil {
			p.note("made RestorePoint %s/%s", point.Namespace, point.Name)
			return point, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("making the RestorePoint: %w", err)
		}
		if err := c.Get(ctx, client.ObjectKeyFromObject(point), point); err != nil {
			return nil, fmt.Errorf("reading the RestorePoint %s: %w", point.Name, err)
		}
		if !finished(point) || ready(point).Status == metav1.ConditionTrue {
			p.note("found RestorePoint %s/%s of the same sync", point.Namespace, point.Name)
			return point, nil
		}
	}
	return nil, fault.New(fault.Failed, "See why: lockstep status -n "+c.Namespace, "%d points of the same sync have failed", hookAttempts)
}

// toApprove finds out, before a point is taken, which revisions of which Application it lets through.
func (p *Program) toApprove(ctx context.Context, c *kube.Cluster, policy string, o *backupOptions) error {
	found := &v1alpha1.ProtectionPolicy{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: policy}, found); err != nil {
		return fmt.Errorf("reading the ProtectionPolicy: %w", err)
	}
	name := applicationName(o.argocd.application, found)
	if name.Name == "" {
		return fault.New(fault.Usage, "Name it with --argocd-application.", "ProtectionPolicy %q does not say which Application it came from", policy)
	}
	compared, err := argocd.Argo{Cluster: gitops.Cluster{Client: c, Reader: c}}.Compared(ctx, name)
	switch {
	case err != nil:
		return err
	case compared == nil:
		return fault.New(fault.Absent, "Name it with --argocd-application NAMESPACE/NAME, or refresh it.", "no Application %s says which commit it is to sync", name)
	case o.before != "" && !slices.Contains(compared.Revisions, o.before):
		return fault.New(fault.Refused, "Refresh the Application and try again.", "Application %s is to sync %s, not commit %s",
			name, shortAll(compared.Revisions), short(o.before))
	}
	o.before = cmp.Or(o.before, compared.Commit)
	o.argocd.approves, o.argocd.revisions = name, compared.Revisions
	return nil
}

func shortAll(revisions []string) string {
	out := make([]string, len(revisions))
	for i, r := range revisions {
		out[i] = revision.Short(r)
	}
	return strings.Join(out, ", ")
}

func (p *Program) approve(ctx context.Context, c *kube.Cluster, name object.Name, revisions []string) error {
	if err := (argocd.Argo{Cluster: gitops.Cluster{Client: c, Reader: c}}).Approve(ctx, name, revisions); err != nil {
		return err
	}
	p.note("Application %s may sync %s", name, shortAll(revisions))
	return nil
}
