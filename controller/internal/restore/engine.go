package restore

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/gitops"
	"github.com/lockstep-dr/lockstep/pkg/gitops/ruler"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// deployer is what brings a commit into the cluster: Lockstep itself, which releases workloads, or an engine of GitOps, which
// deploys in larger units. Every call may be repeated, and may die half way, without harm; what changes something may be called
// for several objects at once.
type deployer interface {
	// observe adds to the world what is known of the commit in the cluster: who else may act on it; its objects, applied or not;
	// its workloads and the units that bring them, released or not, and their health.
	observe(ctx context.Context, w *world) error
	// hold keeps everybody else from deploying; pin makes the engine deploy the commit, once it is released.
	hold(ctx context.Context) error
	pin(ctx context.Context) error
	// bring applies an object that is no workload. An error is said to people, and the object is tried again.
	bring(ctx context.Context, o *unstructured.Unstructured) error
	// release lets a workload, or a unit of them, start. An error is said to people, and it is tried again.
	release(ctx context.Context, l workload) error
}

// deployerOf is what brings the commit of a restore.
func (r *Reconciler) deployerOf(restore *v1alpha1.Restore, replay *replay) deployer {
	jobs := func(ctx context.Context, w *world) error { return r.observeJobs(ctx, restore, w) }
	own := direct{applier: r.applier(replay), replay: replay, jobs: jobs}
	chosen := restore.Status.Engine
	if chosen == nil || chosen.Name == v1alpha1.EngineDirect {
		return own
	}
	return managed{
		direct: own, client: r.Client, driver: ruler.Driver(r.engines(), chosen.Name),
		task: gitops.Task{Owner: ownerOf(restore), Objects: chosen.Objects, Revision: replay.plan.Revision, Now: r.Now()},
	}
}

func (r *Reconciler) engines() gitops.Cluster {
	return gitops.Cluster{Client: r.Client, Reader: r.Reader}
}

func ownerOf(restore *v1alpha1.Restore) gitops.Owner {
	return gitops.Owner{Name: object.Name{Namespace: restore.Namespace, Name: restore.Name}, UID: string(restore.UID)}
}

// direct is Lockstep itself: it applies the commit's objects one by one.
type direct struct {
	applier Applier
	replay  *replay
	// jobs looks at Jobs that failed.
	jobs func(ctx context.Context, w *world) error
}

func (d direct) observe(ctx context.Context, w *world) error {
	if err := d.observeObjects(ctx, w, d.replay.plan.Definitions, d.replay.plan.Base); err != nil {
		return err
	}
	var released []*unstructured.Unstructured
	for _, l := range d.replay.plan.Workloads {
		applied, _, refused := d.replay.ledger.of(l.Key)
		w.workloads = append(w.workloads, workload{Workload: l, released: applied, refused: refused})
		if applied {
			released = append(released, l.Manifest)
		}
	}
	health, err := healthOf(ctx, d.applier, released)
	if err != nil {
		return err
	}
	for i, l := range w.workloads {
		w.workloads[i].status = health[l.Key]
	}
	return d.jobs(ctx, w)
}

// observeObjects says what is there of the objects, and looks at definitions that are not usable yet.
func (d direct) observeObjects(ctx context.Context, w *world, definitions, base []plan.Object) error {
	w.there = make(map[object.Key]bool, len(definitions)+len(base))
	for _, definition := range definitions {
		applied, usable, refused := d.replay.ledger.of(definition.Key)
		if applied && !usable {
			var err error
			if usable, err = d.applier.Usable(ctx, definition.Manifest); err != nil {
				return fmt.Errorf("reading the state of %s: %w", definition.Key, err)
			}
			if usable {
				d.replay.ledger.serve(definition.Key)
			}
		}
		w.objects = append(w.objects, thing{Object: definition, applied: applied, usable: usable, refused: refused})
		w.there[definition.Key] = usable
	}
	for _, o := range base {
		applied, _, refused := d.replay.ledger.of(o.Key)
		w.objects = append(w.objects, thing{Object: o, applied: applied, usable: applied, refused: refused})
		w.there[o.Key] = applied
	}
	return nil
}

func (d direct) hold(context.Context) error { return nil }

func (d direct) pin(context.Context) error { return nil }

func (d direct) bring(ctx context.Context, o *unstructured.Unstructured) error {
	return d.applier.Put(ctx, o)
}

func (d direct) release(ctx context.Context, l workload) error { return d.applier.Put(ctx, l.Manifest) }

// healthOf says how workloads that have been applied fare.
func healthOf(ctx context.Context, applier Applier, released []*unstructured.Unstructured) (map[object.Key]apply.Status, error) {
	if len(released) == 0 {
		return nil, nil
	}
	health, err := applier.Health(ctx, released)
	if err != nil {
		return nil, fmt.Errorf("reading the workloads' health: %w", err)
	}
	apply.FinishJobs(released, health)
	return health, nil
}
