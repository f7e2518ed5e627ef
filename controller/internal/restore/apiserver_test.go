package restore

import (
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
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
