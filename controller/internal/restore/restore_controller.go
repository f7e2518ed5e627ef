// Package restore replays a commit with its data: it observes the world, decides purely what is next, and does it in small
// steps that may be interrupted anywhere.
package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/fluxcd/pkg/runtime/controller"
	"github.com/fluxcd/pkg/runtime/patch"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	engine "github.com/lockstep-dr/lockstep/pkg/volume"
)

// +kubebuilder:rbac:groups=lockstep.dev,resources=restores,verbs=get;list;watch;update;patch
// +kubebuilder:rbac:groups=lockstep.dev,resources=restores/status;restores/finalizers,verbs=get;update;patch
// +kubebuilder:rbac:groups="",resources=persistentvolumeclaims;persistentvolumes,verbs=get;list;watch;create;update;patch;delete
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=pods/log,verbs=get
// +kubebuilder:rbac:groups="",resources=namespaces;secrets,verbs=get
// +kubebuilder:rbac:groups="",resources=events,verbs=create;patch
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups=storage.k8s.io,resources=storageclasses;volumeattachments,verbs=get;list;watch
// +kubebuilder:rbac:groups=storage.k8s.io,resources=csidrivers;csistoragecapacities,verbs=get;list
// +kubebuilder:rbac:groups="",resources=resourcequotas;serviceaccounts,verbs=get;list
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=selfsubjectaccessreviews,verbs=create

// Vaults opens vaults by the names of their Vault objects; *vaults.Opener does.
type Vaults interface {
	Open(ctx context.Context, name string) (*engine.Vault, error)
	Access(ctx context.Context, name string) (mover.VaultAccess, error)
}

// Repository is an open Git repository; *git.Repository is one.
type Repository interface {
	planner.Repository
	Close() error
}

// Applier brings objects into the cluster; *apply.Applier does.
type Applier interface {
	Put(ctx context.Context, o *unstructured.Unstructured) error
	Usable(ctx context.Context, definition *unstructured.Unstructured) (bool, error)
	Health(ctx context.Context, objects []*unstructured.Unstructured) (map[object.Key]apply.Status, error)
	StampRevision(ctx context.Context, policy types.NamespacedName, revision v1alpha1.Revision) error
}

// Deps are what a Reconciler works with.
type Deps struct {
	// Client writes; what it reads may come from a cache.
	Client client.Client
	// Reader reads from the API server itself: a decision about a volume is never taken on a memory of it.
	Reader client.Reader
	// Kube reads the movers' logs.
	Kube    kubernetes.Interface
	Events  record.EventRecorder
	Metrics controller.Metrics
	Vaults  Vaults
	// OpenRepository is git.Open if nil.
	OpenRepository func(url string, o git.Options) (Repository, error)
	// NewApplier is apply.New with Client if nil.
	NewApplier func(application types.NamespacedName) Applier
	// Image is the movers' image: the controller's own.
	Image string
	// Movers is where they run, shared with backups.
	Movers *movers.Room
	// Parallel bounds what one restore does at once; 1 if 0, and then what it does has an order.
	Parallel int
	// Now is time.Now if nil.
	Now func() time.Time
}

// Reconciler reconciles Restores.
type Reconciler struct {
	Deps
	replays *replays
}

// New makes a Reconciler.
func New(d Deps) *Reconciler {
	if d.OpenRepository == nil {
		d.OpenRepository = func(url string, o git.Options) (Repository, error) { return git.Open(url, o) }
	}
	if d.NewApplier == nil {
		d.NewApplier = func(application types.NamespacedName) Applier { return apply.New(d.Client, application) }
	}
	d.Parallel = max(d.Parallel, 1)
	if d.Now == nil {
		d.Now = time.Now
	}
	return &Reconciler{Deps: d, replays: newReplays()}
}

// How soon to look again: something was done and its effect is to be seen; something is under way; something waits for a
// person and would be seen through a watch or not at all.
const (
	soon  = 100 * time.Millisecond
	busy  = time.Second
	later = 15 * time.Second
)

// Reconcile brings one restore a step further. It reads the restore itself live, too: the chosen point must not be older
// than what was made for it.
func (r *Reconciler) Reconcile(ctx context.Context, request ctrl.Request) (result ctrl.Result, err error) {
	restore := &v1alpha1.Restore{}
	if err := r.Reader.Get(ctx, request.NamespacedName, restore); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	start := r.Now()
	defer func() {
		r.Metrics.RecordReadiness(ctx, restore)
		r.Metrics.RecordDuration(ctx, restore, start)
	}()
	if !restore.DeletionTimestamp.IsZero() {
		return r.finalize(ctx, restore)
	}
	if over(restore) {
		r.replays.drop(restore.UID)
		return r.release(ctx, restore)
	}
	if known := r.replays.get(restore.UID); known != nil && start.Before(known.rest) {
		return ctrl.Result{RequeueAfter: known.rest.Sub(start)}, nil
	}
	return r.advance(ctx, restore)
}

// breathe leaves the API server alone for twice as long as a look at the world took: with many volumes there is always something
// new, and what looks all the time takes from the movers what they need.
func (r *replay) breathe(began, now time.Time) {
	r.rest = now.Add(min(2*now.Sub(began), busy))
}

// advance observes, decides and acts once.
func (r *Reconciler) advance(ctx context.Context, restore *v1alpha1.Restore) (result ctrl.Result, err error) {
	if err := r.addFinalizer(ctx, restore); err != nil {
		return ctrl.Result{}, err
	}
	before := restore.DeepCopy()
	patcher := patch.NewSerialPatcher(restore, r.Client)
	defer func() { err = errors.Join(err, r.writeStatus(ctx, patcher, before, restore)) }()

	replay, err := r.prepare(ctx, restore, patcher)
	if err != nil {
		return r.explain(ctx, restore, err)
	}
	promise(restore, replay.plan.Objective())
	began := r.Now()
	defer func() { replay.breathe(began, r.Now()) }()
	w, err := r.observe(ctx, restore, replay)
	if err != nil {
		return ctrl.Result{}, err
	}
	actions := decide(w)
	failure := r.actAll(ctx, restore, replay, w, actions)
	r.report(restore, w, errors.Join(failure, replay.ledger.failure()))
	if complete(w) {
		err := r.finish(ctx, restore, replay)
		if err == nil && asksForRelease(restore) {
			return ctrl.Result{RequeueAfter: soon}, nil
		}
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: pause(restore, actions, failure)}, nil
}

// over says that nothing is left to do: the restore is complete, or was stopped by what only a person can mend before it had
// begun, and nobody has asked to look again.
func over(restore *v1alpha1.Restore) bool {
	if restore.Status.CompletedAt != nil {
		return true
	}
	if restore.Annotations[v1alpha1.AnnotationReconcileAt] != restore.Status.LastHandledReconcileAt {
		return false
	}
	return conditions.IsStalled(restore) && restore.Status.StartedAt == nil
}

func pause(restore *v1alpha1.Restore, actions []action, failure error) time.Duration {
	switch {
	case failure != nil:
		return 5 * busy
	case len(actions) > 0:
		return soon
	case conditions.IsStalled(restore):
		return later
	}
	return busy
}

func (r *Reconciler) addFinalizer(ctx context.Context, restore *v1alpha1.Restore) error {
	before := restore.DeepCopy()
	if !controllerutil.AddFinalizer(restore, v1alpha1.Finalizer) {
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, restore, patch, client.FieldOwner(v1alpha1.FieldManager)); err != nil {
		return fmt.Errorf("adding the finalizer: %w", err)
	}
	return nil
}

// finish stamps the revision that is running now, which is what the next restore point will be tagged with.
func (r *Reconciler) finish(ctx context.Context, restore *v1alpha1.Restore, replay *replay) error {
	applier := r.applier(replay)
	for _, policy := range apply.Policies(manifests(replay.plan.Base)) {
		if err := applier.StampRevision(ctx, policy, replay.plan.Revision); err != nil {
			return fmt.Errorf("recording the running revision on policy %q: %w", policy, err)
		}
	}
	markComplete(restore, r.Now())
	r.replays.drop(restore.UID)
	return nil
}
