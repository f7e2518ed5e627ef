package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/fluxcd/pkg/runtime/patch"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/render"
	"github.com/lockstep-dr/lockstep/pkg/residual"
	engine "github.com/lockstep-dr/lockstep/pkg/volume"
)

// replay is what a restore works from: its plan and what it took from the vault. It can be made anew at any time.
type replay struct {
	plan    *plan.Plan
	access  mover.VaultAccess
	secrets residual.Set
	// defined, based and released remember what has been applied.
	defined, based bool
	released       map[object.Key]bool
}

// prepare asks the vault and Git, and plans. Nothing in the cluster is changed, except that the chosen point is written
// into the status, before anything depends on it. An error is an *answer, unless the API server failed.
func (r *Reconciler) prepare(ctx context.Context, restore *v1alpha1.Restore, patcher *patch.SerialPatcher) (*replay, error) {
	if known := r.replays.get(restore.UID); known != nil {
		return known, nil
	}
	vault, err := r.Vaults.Open(ctx, restore.Spec.From.Vault)
	if err != nil {
		return nil, fromVault(err)
	}
	access, err := r.Vaults.Access(ctx, restore.Spec.From.Vault)
	if err != nil {
		return nil, fromVault(err)
	}
	repository, err := r.openRepository(ctx, restore)
	if err != nil {
		return nil, fromGit(err)
	}
	defer func() { _ = repository.Close() }() // what it leaves is in a temporary directory

	choice, err := r.choose(ctx, restore, patcher, vault, repository)
	if err != nil {
		return nil, err
	}
	objects, err := renderCommit(ctx, repository, *restore.Status.Revision)
	if err != nil {
		return nil, err
	}
	p, err := r.plan(ctx, restore, choice, objects)
	if err != nil {
		return nil, err
	}
	secrets, err := readResidual(ctx, restore, vault, choice)
	if err != nil {
		return nil, err
	}
	fresh := &replay{plan: p, access: access, secrets: secrets, released: map[object.Key]bool{}}
	r.replays.put(restore.UID, fresh)
	return fresh, nil
}

// choose finds the point and the commit. Once they are in the status they are never chosen again.
func (r *Reconciler) choose(
	ctx context.Context, restore *v1alpha1.Restore, patcher *patch.SerialPatcher, vault *engine.Vault, repository Repository,
) (match.Choice, error) {
	if p := restore.Status.Point; p != nil && restore.Status.Revision != nil {
		record, err := catalog.Get(ctx, vault, p.ID)
		if err != nil {
			return match.Choice{}, fromVault(err)
		}
		return match.Choice{Record: record, Match: p.Match, Reason: p.Message}, nil
	}
	choice, revision, err := find(ctx, restore, vault, repository)
	if err != nil {
		return match.Choice{}, err
	}
	before := restore.DeepCopy()
	restore.Status.Revision = &revision
	restore.Status.Point = &v1alpha1.ChosenPoint{
		ID: choice.Record.ID, Match: choice.Match, Message: choice.Reason,
		Taken: metav1.NewTime(choice.Record.Taken), Commit: choice.Record.Revision.Commit,
	}
	// The lock makes a stale read of the restore fail here instead of choosing a second time.
	locked := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Status().Patch(ctx, restore, locked, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return match.Choice{}, fmt.Errorf("recording the chosen point: %w", err)
	}
	*patcher = *patch.NewSerialPatcher(restore, r.Client)
	return choice, nil
}

func find(ctx context.Context, restore *v1alpha1.Restore, vault *engine.Vault, repository Repository) (match.Choice, v1alpha1.Revision, error) {
	from, path := restore.Spec.From, restore.Spec.Source.Path
	query := match.Query{Application: from.Application, PointID: from.RestorePoint}
	byCommit := from.Commit != "" || from.Tag != ""
	switch {
	case byCommit:
		revision, err := repository.Resolve(ctx, git.Ref{Commit: from.Commit, Tag: from.Tag}, path)
		if err != nil {
			return match.Choice{}, revision, fromGit(err)
		}
		query.Revision = revision
	case from.Before != nil:
		query.Before = &from.Before.Time
		query.Revision = v1alpha1.Revision{Repository: repository.URL(), Path: path}
	}
	records, err := catalog.List(ctx, vault)
	if err != nil {
		return match.Choice{}, v1alpha1.Revision{}, fromVault(err)
	}
	choice, err := match.Choose(records, query)
	if err != nil || byCommit {
		if err != nil {
			err = fromMatch(err)
		}
		return choice, query.Revision, err
	}
	// The point says which commit: the one that ran when it was taken.
	revision, err := repository.Resolve(ctx, git.Ref{Commit: choice.Record.Revision.Commit}, path)
	if err != nil {
		return choice, revision, fromGit(err)
	}
	revision.Ref = choice.Record.Revision.Ref
	return choice, revision, nil
}

func renderCommit(ctx context.Context, repository Repository, revision v1alpha1.Revision) ([]*unstructured.Unstructured, error) {
	dir, err := os.MkdirTemp("", "lockstep-commit-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the commit: %w", err)
	}
	defer os.RemoveAll(dir)
	if err := repository.Materialise(ctx, revision, dir); err != nil {
		return nil, fromGit(err)
	}
	objects, err := render.Render(ctx, dir, revision.Path)
	if err != nil {
		return nil, final(v1alpha1.ReasonRenderFailed, err)
	}
	return objects, nil
}

func (r *Reconciler) plan(ctx context.Context, restore *v1alpha1.Restore, choice match.Choice, objects []*unstructured.Unstructured) (*plan.Plan, error) {
	known, err := facts.Read(ctx, r.Reader, r.Client.RESTMapper(), choice, objects)
	if err != nil {
		return nil, err
	}
	known.RestoreUID, known.RestoreNamespace = string(restore.UID), restore.Namespace
	p, err := plan.New(plan.Input{Choice: choice, Revision: *restore.Status.Revision, Objects: objects, Facts: known})
	if err != nil {
		return nil, final(v1alpha1.ReasonRenderFailed, err)
	}
	if len(p.Refusals) > 0 {
		return nil, final(v1alpha1.ReasonRefused, errors.New(strings.Join(p.Refusals, "; ")))
	}
	return p, nil
}

// readResidual reads the Secrets of the point. A Restore outside lockstep-system gets only those of its own namespace.
func readResidual(ctx context.Context, restore *v1alpha1.Restore, vault *engine.Vault, choice match.Choice) (residual.Set, error) {
	data, err := catalog.Residual(ctx, vault, choice.Record)
	if err != nil {
		return residual.Set{}, fromVault(err)
	}
	if data == nil {
		return residual.Set{}, nil
	}
	set, err := residual.Decode(data)
	if err != nil {
		return residual.Set{}, fromVault(err)
	}
	for _, s := range set.Secrets {
		if restore.Namespace != v1alpha1.SystemNamespace && s.Namespace != restore.Namespace {
			return residual.Set{}, final(v1alpha1.ReasonRefused, fmt.Errorf("point %s holds Secrets of namespace %s; only a Restore in %s may reach there",
				choice.Record.ID, s.Namespace, v1alpha1.SystemNamespace))
		}
	}
	return set, nil
}

// openRepository reads the source's Secret, if it names one, and prepares to ask the repository.
func (r *Reconciler) openRepository(ctx context.Context, restore *v1alpha1.Restore) (Repository, error) {
	options := git.Options{}
	if ref := restore.Spec.Source.SecretRef; ref != nil {
		secret := &corev1.Secret{}
		key := client.ObjectKey{Namespace: restore.Namespace, Name: ref.Name}
		if err := r.Reader.Get(ctx, key, secret); err != nil {
			return nil, fmt.Errorf("reading the source's secret: %w", err)
		}
		options.Auth = git.Auth{
			Username: string(secret.Data["username"]), Password: string(secret.Data["password"]),
			BearerToken: string(secret.Data["bearerToken"]),
			Identity:    secret.Data["identity"], Passphrase: string(secret.Data["password"]), KnownHosts: secret.Data["known_hosts"], CA: secret.Data["ca.crt"],
		}
	}
	return r.OpenRepository(restore.Spec.Source.URL, options)
}
