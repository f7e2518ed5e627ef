package restore

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

func manifests(objects []plan.Object) []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, o := range objects {
		out = append(out, o.Manifest)
	}
	return out
}

// apply applies one object. That the API server refuses it is noted, and is no failure of the restore's other work.
func (s scope) apply(ctx context.Context, key object.Key) {
	i := slices.IndexFunc(s.world.objects, func(o thing) bool { return o.Key == key })
	s.replay.ledger.note(key, s.engine.bring(ctx, s.world.objects[i].Manifest), s.world.now)
}

// release applies a workload. That the API server refuses it is noted, too.
func (s scope) release(ctx context.Context, key object.Key) {
	i := slices.IndexFunc(s.world.workloads, func(l workload) bool { return l.Key == key })
	s.replay.ledger.note(key, s.engine.release(ctx, s.world.workloads[i]), s.world.now)
}
