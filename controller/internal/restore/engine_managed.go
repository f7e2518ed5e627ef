package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// managed is an engine of GitOps: it is held, pinned to the commit, and released unit by unit when every claim is reserved. It
// brings all objects of the commit itself.
type managed struct {
	direct
	client client.Client
	driver gitops.Driver
	task   gitops.Task
}

func (m managed) hold(ctx context.Context) error { return m.driver.Hold(ctx, m.task) }

func (m managed) pin(ctx context.Context) error { return m.driver.Pin(ctx, m.task) }

// observe puts the units before the workloads that they bring.
func (m managed) observe(ctx context.Context, w *world) error {
	state, err := m.driver.Observe(ctx, m.task)
	switch {
	case errors.Is(err, gitops.ErrLost):
		state = gitops.State{Unquiet: err.Error()}
	case err != nil:
		return fmt.Errorf("reading where the engine stands: %w", err)
	}
	w.engine = state
	var namespaces []plan.Object
	for _, o := range m.replay.plan.Definitions {
		if o.GroupKind() == object.Namespace {
			namespaces = append(namespaces, o)
		}
	}
	if err := m.observeObjects(ctx, w, namespaces, nil); err != nil {
		return err
	}
	released := true
	for _, o := range m.units() {
		u := m.unit(o, state)
		released = released && u.released
		w.workloads = append(w.workloads, u)
	}
	return m.observeBrought(ctx, w, released)
}

// unit is one of the engine's objects as a workload: it brings everything, and so waits for every claim, for all that the point
// brings back, and for the units that it depends on. Flux would look again at those only after a while.
func (m managed) unit(o v1alpha1.EngineObject, state gitops.State) workload {
	var u workload
	u.Key = m.driver.Key(o)
	u.Needs = m.replay.residual.Keys()
	for _, c := range m.replay.plan.Claims {
		u.WaitsFor = append(u.WaitsFor, c.Name)
	}
	for _, other := range m.units() {
		if slices.Contains(o.After, gitops.Name(other).String()) {
			u.After = append(u.After, m.driver.Key(other))
		}
	}
	found := state.Units[u.Key]
	_, _, u.refused = m.replay.ledger.of(u.Key)
	u.released, u.status = found.Released, apply.Status{Health: apply.InProgress, Message: found.Message}
	if found.Ready {
		u.status.Health = apply.Current
	}
	return u
}

// observeBrought adds the workloads that the units bring; they count as released when all units are.
func (m managed) observeBrought(ctx context.Context, w *world, released bool) error {
	var units []object.Key
	for _, l := range w.workloads {
		units = append(units, l.Key)
	}
	var manifests []*unstructured.Unstructured
	for _, l := range m.replay.plan.Workloads {
		if released {
			manifests = append(manifests, l.Manifest)
		}
	}
	health, err := healthOf(ctx, m.applier, manifests)
	if err != nil {
		return err
	}
	for _, l := range m.replay.plan.Workloads {
		l.Needs, l.After = nil, units
		w.workloads = append(w.workloads, workload{Workload: l, released: released, status: health[l.Key]})
	}
	return nil
}

func (m managed) units() []v1alpha1.EngineObject {
	return slices.DeleteFunc(slices.Clone(m.task.Objects), func(o v1alpha1.EngineObject) bool { return o.Role != v1alpha1.RoleUnit })
}

// bring makes the commit's namespaces, since claims are reserved in them before the engine may begin. From then on they are the
// engine's, as everything else is.
func (m managed) bring(ctx context.Context, o *unstructured.Unstructured) error {
	err := m.client.Create(ctx, o.DeepCopy(), client.FieldOwner(v1alpha1.FieldManager))
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	live := o.DeepCopy()
	if err := m.client.Get(ctx, client.ObjectKeyFromObject(o), live); err != nil {
		return err
	}
	if live.GetDeletionTimestamp() != nil {
		return &apply.ObjectError{Key: object.KeyOf(o), Err: apply.ErrDeleting}
	}
	return nil
}

func (m managed) release(ctx context.Context, l workload) error {
	for _, o := range m.units() {
		if o.Kind == l.Kind && gitops.Name(o) == l.NamespacedName() {
			return m.driver.Release(ctx, m.task, o)
		}
	}
	return nil
}
