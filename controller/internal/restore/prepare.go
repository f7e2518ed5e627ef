package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/fluxcd/pkg/runtime/patch"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

// replay is what a restore works from: its plan and what it took from the vault. It can be made anew at any time.
type replay struct {
	plan   *plan.Plan
	access mover.VaultAccess
	// residual is what Git does not hold; returning and following say how far its two parts have come.
	residual             residual.Set
	returning, following returning
	// ledger and broughtBack remember what has been applied.
	ledger      *ledger
	broughtBack bool
	// rest is until when the API server is left alone, shown when the movers were last asked how far they are.
	rest, shown time.Time
	// seen is when each mover was first seen, by its UID.
	seen sync.Map
}

// firstSeen is when the mover was seen first. How long it has not started is measured by one clock: that of the API server, which dates
// the Job, may be another one than the controller's.
func (r *replay) firstSeen(mover types.UID, now time.Time) time.Time {
	at, _ := r.seen.LoadOrStore(mover, now)
	return at.(time.Time)
}

// prepare asks the vault and Git, and plans. Nothing in the cluster is changed, except that the chosen point is written
// into the status, before anything depends on it. An error is an *answer, unless the API server failed.
func (r *Reconciler) prepare(ctx context.Context, restore *v1alpha1.Restore, patcher *patch.SerialPatcher) (*replay, error) {
	if known := r.replays.get(restore.UID); known != nil {
		return known, nil
	}
	if err := r.awaitOthers(ctx, restore); err != nil {
		return nil, err
	}
	vault, err := r.Vaults.Open(ctx, restore.Spec.From.Vault)
	if err != nil {
		return nil, fromVault(err)
	}
	access, err := r.Vaults.Access(ctx, restore.Spec.From.Vault)
	if err != nil {
		return nil, fromVault(err)
	}
	keys, err := r.decryptionKeys(ctx, restore)
	if err != nil {
		return nil, err
	}
	way := planner.Planner{
		Vault: vault, Keys: keys, IgnoreMAC: restore.Spec.Decryption != nil && restore.Spec.Decryption.IgnoreMAC,
		Remember: func(ctx context.Context, c planner.Choice) error { return r.remember(ctx, restore, patcher, c) },
		Facts: func(ctx context.Context, c match.Choice, objects []*unstructured.Unstructured) (plan.Facts, error) {
			known, err := facts.Read(ctx, r.Reader, r.Client.RESTMapper(), c, objects)
			known.RestoreUID, known.RestoreNamespace = string(restore.UID), restore.Namespace
			return known, err
		},
		Engine: func(ctx context.Context) (*planner.Engine, error) { return r.chooseEngine(ctx, restore) },
		Values: func(ctx context.Context, key object.Key) (map[string]string, error) {
			return planner.ReadValues(ctx, r.Reader, key)
		},
		Existing: func(ctx context.Context, objects []*unstructured.Unstructured) (map[object.Key]bool, error) {
			return facts.Existing(ctx, r.Reader, objects)
		},
		Consumers: func(ctx context.Context, claims map[object.Name]plan.ClaimFact) ([]plan.Consumer, error) {
			return facts.Consumers(ctx, r.Reader, claims)
		},
	}
	if len(restore.Spec.Volumes) == 0 {
		repository, err := r.openRepository(ctx, restore)
		if err != nil {
			return nil, fromGit(err)
		}
		defer func() { _ = repository.Close() }() // what it leaves is in a temporary directory
		way.Repository = repository
	}
	inspector := facts.Inspector{Reader: r.Reader, Mapper: r.Client.RESTMapper(), Allowed: facts.Self(r.Client), Try: facts.Trial(r.Client)}
	way.Preflight = planner.Inspect(inspector, string(restore.UID), restore.Spec.CheckImages)
	made, err := way.Plan(ctx, planner.Request{
		From: restore.Spec.From, Path: restore.Spec.Source.Path, Volumes: restore.Spec.Volumes, Only: restore.Spec.Only,
		Mapping:  planner.Mapping(restore.Spec.Map),
		SetAside: restore.Spec.ExistingClaims == v1alpha1.ExistingSetAside, Aside: asideOf(restore),
		Point: restore.Status.Point, Revision: restore.Status.Revision,
	})
	if err != nil {
		return nil, fromPlanner(err)
	}
	if refusals := made.Plan.Refusals; len(refusals) > 0 {
		restore.Status.NotChecked = made.Plan.NotChecked
		return nil, final(v1alpha1.ReasonRefused, errors.New(strings.Join(refusals, "; ")))
	}
	if err := r.rememberEngine(ctx, restore, patcher, made.Plan); err != nil {
		return nil, err
	}
	restore.Status.NotChecked = made.Plan.NotChecked
	fresh := &replay{plan: made.Plan, access: access, residual: made.Residual, ledger: newLedger()}
	fresh.returning.pending, fresh.following.pending = !made.Residual.Empty(), !made.Residual.Empty()
	r.replays.put(restore.UID, fresh)
	return fresh, nil
}

// remember writes the choice into the status.
func (r *Reconciler) remember(ctx context.Context, restore *v1alpha1.Restore, patcher *patch.SerialPatcher, choice planner.Choice) error {
	before := restore.DeepCopy()
	if choice.Revision.Commit != "" {
		restore.Status.Revision = &choice.Revision
	}
	restore.Status.Point = &v1alpha1.ChosenPoint{
		ID: choice.Record.ID, Match: choice.Match, Message: choice.Reason,
		Taken: metav1.NewTime(choice.Record.Taken), Commit: choice.Record.Revision.Commit,
	}
	// The lock makes a stale read of the restore fail here instead of choosing a second time.
	locked := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Status().Patch(ctx, restore, locked, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("recording the chosen point: %w", err)
	}
	*patcher = *patch.NewSerialPatcher(restore, r.Client)
	return nil
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
		options.Auth = planner.Auth(secret.Data)
	}
	return r.OpenRepository(restore.Spec.Source.URL, options)
}
