package retention

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/point"
	rules "github.com/lockstep-dr/lockstep/pkg/retention"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// +kubebuilder:rbac:groups="",resources=secrets,verbs=get
// +kubebuilder:rbac:groups=source.toolkit.fluxcd.io,resources=gitrepositories,verbs=get
// +kubebuilder:rbac:groups=kustomize.toolkit.fluxcd.io,resources=kustomizations,verbs=get
// +kubebuilder:rbac:groups=helm.toolkit.fluxcd.io,resources=helmreleases,verbs=get
// +kubebuilder:rbac:groups=argoproj.io,resources=applications,verbs=list

// facts are what decides about the points of one application in one vault.
type facts struct {
	points []rules.Point
	tags   map[string][]string
}

// observe collects the facts. An error says what is not known.
func (r *Reconciler) observe(ctx context.Context, p *v1alpha1.ProtectionPolicy, name string, v *volume.Vault, u uses) (facts, error) {
	application := p.Namespace + "/" + p.Name
	records, err := catalog.OfApplication(ctx, v, application)
	if err != nil {
		return facts{}, vaults.NewError(name, err)
	}
	holds, err := r.holds.of(ctx, v, r.Clock.Now())
	if err != nil {
		return facts{}, vaults.NewError(name, err)
	}
	var f facts
	for _, record := range records {
		fact := rules.PointOf(record)
		if hold, held := holds[record.ID]; held {
			fact.Hold = hold.String()
		}
		if fact.Use, err = u.of(name, record); err != nil {
			return facts{}, err
		}
		f.points = append(f.points, fact)
	}
	if len(p.Spec.Retention.Tags) > 0 && len(records) > 0 {
		if f.tags, err = r.tags(ctx, p, records[len(records)-1].Revision.Repository); err != nil {
			return facts{}, fmt.Errorf("which commits have tags is not known: %w", err)
		}
	}
	return f, nil
}

// uses is what needs points of an application.
type uses struct {
	application string
	vaults      []string
	restores    []v1alpha1.Restore
	copies      map[string]map[string]bool // the vaults that have a point, by its ID
}

// observeUses reads the Restores of the cluster, and how far the copies of the policy's points are.
func (r *Reconciler) observeUses(ctx context.Context, p *v1alpha1.ProtectionPolicy) (uses, error) {
	u := uses{application: p.Namespace + "/" + p.Name, vaults: p.Spec.Vaults, copies: map[string]map[string]bool{}}
	var restores v1alpha1.RestoreList
	if err := r.Reader.List(ctx, &restores); err != nil {
		return u, fmt.Errorf("listing restores: %w", err)
	}
	u.restores = restores.Items
	if len(u.vaults) < 2 {
		return u, nil
	}
	var points v1alpha1.RestorePointList
	if err := r.Reader.List(ctx, &points, client.InNamespace(p.Namespace)); err != nil {
		return u, fmt.Errorf("listing restore points: %w", err)
	}
	for i := range points.Items {
		o := &points.Items[i]
		if o.Spec.PolicyRef.Name != p.Name || o.Status.ID == "" {
			continue
		}
		have := map[string]bool{}
		for _, c := range o.Status.Copies {
			have[c.Vault] = !c.VerifiedAt.IsZero()
		}
		u.copies[o.Status.ID] = have
	}
	return u, nil
}

// undecidedError says that a Restore may yet choose any point.
type undecidedError struct{ restore string }

func (e *undecidedError) Error() string {
	return fmt.Sprintf("restore %q has not chosen its point yet", e.restore)
}

// of says what needs a point in a vault now, or that it is not known yet.
func (u uses) of(vault string, r point.Record) (string, error) {
	for i := range u.restores {
		o := &u.restores[i]
		from := &o.Spec.From
		if from.Vault != vault || from.Application != "" && from.Application != u.application {
			continue
		}
		name := o.Namespace + "/" + o.Name
		over := conditions.IsReady(o)
		switch {
		case from.RestorePoint != "" && strings.HasPrefix(r.ID, from.RestorePoint):
			return fmt.Sprintf("restore %q", name), nil // also when it is done: it names the point
		case o.Status.Point != nil && o.Status.Point.ID == r.ID && !over:
			return fmt.Sprintf("restore %q", name), nil
		case o.Status.Point == nil && from.RestorePoint == "" && !over && !conditions.IsStalled(o):
			return "", &undecidedError{name}
		}
	}
	if have, known := u.copies[r.ID]; known {
		for _, other := range u.vaults {
			if !have[other] {
				return fmt.Sprintf("the copy in vault %q", other), nil
			}
		}
	}
	return "", nil
}

// Repository answers questions about a Git repository; *git.Repository does.
type Repository interface {
	Tags(ctx context.Context) (map[string][]string, error)
	Close() error
}

// gitTimeout bounds one question to Git.
const gitTimeout = time.Minute

// tags asks the application's repository for its tags, with the credentials of the GitOps engine that deploys it.
func (r *Reconciler) tags(ctx context.Context, p *v1alpha1.ProtectionPolicy, url string) (tags map[string][]string, err error) {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	found, err := ruler.Deploying(ctx, gitops.Cluster{Client: r.Client, Reader: r.Reader}, p)
	if err != nil {
		return nil, err
	}
	var o git.Options
	if found != nil && found.Secret.Name != "" && revision.SameRepository(found.Revision.Repository, url) {
		secret := &corev1.Secret{}
		if err := r.Reader.Get(ctx, client.ObjectKey(found.Secret), secret); err != nil {
			return nil, fmt.Errorf("reading the secret of repository %s: %w", url, err)
		}
		o.Auth = planner.Auth(secret.Data)
	}
	open := r.OpenRepository
	if open == nil {
		open = func(url string, o git.Options) (Repository, error) { return git.Open(url, o) }
	}
	repository, err := open(url, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repository.Close()) }()
	tags, err = repository.Tags(ctx)
	if err == nil && tags == nil {
		tags = map[string][]string{} // there are none, which is known
	}
	return tags, err
}
