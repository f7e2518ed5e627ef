package restore

import (
	"context"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// TestOnAPIServer replays a restore, and one whose controller dies again and again, on a real API server: it is the one that
// knows which fields of a claim and a volume may be changed when. What else acts in a cluster are stand-ins.
func TestOnAPIServer(t *testing.T) {
	scheme := newScheme(t)
	config, _ := testenv.Start(t, scheme)
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	t.Run("whole", func(t *testing.T) { replayWhole(t.Context(), t, newCluster(t, c), "whole") })
	t.Run("volumes", func(t *testing.T) { replayVolumes(t.Context(), t, newCluster(t, c), "volumes") })
	t.Run("empty", func(t *testing.T) { startEmpty(t.Context(), t, newCluster(t, c), "empty") })
	t.Run("rollback", func(t *testing.T) { rollBack(t.Context(), t, newCluster(t, c), "rollback") })
	t.Run("twice", func(t *testing.T) { restoreTwice(t.Context(), t, newCluster(t, c), "twice") })
	t.Run("ending", func(t *testing.T) { replayIntoEnding(t.Context(), t, newCluster(t, c), "ending") })
	t.Run("specs", func(t *testing.T) { volumesOnAPIServer(t.Context(), t, newCluster(t, c)) })
	t.Run("deaths", func(t *testing.T) {
		ctx := ctrl.LoggerInto(t.Context(), logr.Discard())
		b := newBench(ctx, t, newCluster(t, c), "deaths")
		record := b.save(ctx)
		b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
		lives := 0
		for ; !isReady(b.restore(ctx)); lives++ {
			if lives > 50 {
				t.Fatalf("not restored after %d lives: %+v", lives, b.restore(ctx).Status)
			}
			m := &testenv.Mortal{At: 4 + lives} // longer and longer, since each life begins by applying again
			b.startWith(m.Client(c))
			for i := 0; i < 100 && !m.Dead() && !isReady(b.restore(ctx)); i++ {
				result, err := b.reconciler.Reconcile(ctx, b.request)
				if err != nil && !m.Dead() {
					t.Fatal(err)
				}
				b.settle(ctx)
				b.now = b.now.Add(result.RequeueAfter)
			}
		}
		t.Logf("restored in %d lives", lives)
		b.restored(ctx, record)
	})
}

// applier is pkg/apply; only of health and revisions it knows no more than a creator, since nothing runs.
type applier struct {
	creator
	*apply.Applier
}

func (a applier) Put(ctx context.Context, o *unstructured.Unstructured) error {
	return a.Applier.Put(ctx, o)
}

func (a applier) Usable(ctx context.Context, o *unstructured.Unstructured) (bool, error) {
	return a.Applier.Usable(ctx, o)
}

func (a applier) Health(ctx context.Context, objects []*unstructured.Unstructured) (map[object.Key]apply.Status, error) {
	return a.creator.Health(ctx, objects)
}

func (a applier) StampRevision(ctx context.Context, policy types.NamespacedName, revision v1alpha1.Revision) error {
	return a.creator.StampRevision(ctx, policy, revision)
}

// replayIntoEnding restores into a namespace that somebody has just deleted: what is applied there while it goes would go with it.
func replayIntoEnding(ctx context.Context, t *testing.T, c *cluster, namespace string) {
	b := newBench(ctx, t, c, namespace)
	record := b.save(ctx)
	ending := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	b.must(b.Create(ctx, ending))
	b.must(b.Delete(ctx, ending)) // it stays until it is finalized, which nothing does here by itself
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	b.reconciler.NewApplier = func(name types.NamespacedName) Applier {
		return applier{creator{c, "", ""}, apply.New(c, name)}
	}
	b.run(ctx, func(r *v1alpha1.Restore) bool {
		return strings.Contains(conditions.GetMessage(r, v1alpha1.ConditionReady), "Namespace "+namespace+": it is being deleted")
	})
	if r := b.restore(ctx); conditions.GetReason(r, v1alpha1.ConditionReady) != v1alpha1.ReasonApplyFailed {
		t.Errorf("conditions %+v", r.Status.Conditions)
	}
	b.must(b.Get(ctx, client.ObjectKeyFromObject(ending), ending))
	ending.Spec.Finalizers = nil
	b.must(b.SubResource("finalize").Update(ctx, ending))
	b.run(ctx, isReady)
	b.restored(ctx, record)
}
