package restore

import (
	"testing"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// TestRefusedObject: an object that is not taken is named and holds up only what needs it. The rest comes back, and all of it once
// the object is taken.
func TestRefusedObject(t *testing.T) {
	for _, tt := range []struct{ refused, says, waiting string }{
		{"scratch", "PersistentVolumeClaim shop/scratch: the webhook is not up", "redis"}, // which mounts it
		{"web", "Deployment shop/web: the webhook is not up", "web"},
	} {
		t.Run(tt.refused, func(t *testing.T) {
			ctx := t.Context()
			b := newBench(ctx, t, newFakeCluster(t), "shop")
			record := b.save(ctx)
			b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
			b.refused = tt.refused
			b.run(ctx, func(r *v1alpha1.Restore) bool {
				healthy := 0
				for _, l := range r.Status.Workloads {
					if l.State == v1alpha1.WorkloadHealthy {
						healthy++
					}
				}
				return healthy == 2 && r.Status.BoundAt != nil
			})
			r := b.restore(ctx)
			if got := conditions.GetReason(r, v1alpha1.ConditionReady); got != v1alpha1.ReasonApplyFailed {
				t.Errorf("reason %s", got)
			}
			if got := conditions.GetMessage(r, v1alpha1.ConditionReady); got != tt.says {
				t.Errorf("got message %q, want %q", got, tt.says)
			}
			for _, l := range r.Status.Workloads {
				if l.Name == tt.waiting && (l.State != v1alpha1.WorkloadWaiting || l.Message == "") {
					t.Errorf("%s is %s, %q", l.Name, l.State, l.Message)
				}
			}
			b.refused = ""
			b.run(ctx, isReady)
			b.restored(ctx, record)
		})
	}
}
