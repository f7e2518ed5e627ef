package checker

import (
	"context"
	"reflect"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/render"
)

// unstable renders once more what may come out otherwise each time: charts can ask for random values and for the time, kustomizations
// cannot.
func unstable(ctx context.Context, head render.Commit, first *desired.State, o render.Options) ([]coverage.Unstable, error) {
	charts := map[string]bool{}
	for _, o := range first.Owners {
		if o.Kind == desired.HelmRelease || o.Kind == desired.Application {
			charts[o.ID] = true
		}
	}
	if len(charts) == 0 {
		return nil, nil
	}
	r, err := render.Discover(ctx, head, o)
	if err != nil {
		return nil, err
	}
	second, err := r.Render(ctx, func(o desired.Owner) bool { return !charts[o.ID] })
	if err != nil {
		return nil, err
	}
	type key struct{ owner, group, kind, namespace, name string }
	keyOf := func(o desired.Object) key {
		gvk := o.GroupVersionKind()
		return key{o.Owner, gvk.Group, gvk.Kind, o.GetNamespace(), o.GetName()}
	}
	again := map[key]desired.Object{}
	for _, o := range second.Objects {
		again[keyOf(o)] = o
	}
	var found []coverage.Unstable
	for _, o := range first.Objects {
		if !charts[o.Owner] {
			continue
		}
		if other, ok := again[keyOf(o)]; !ok || !reflect.DeepEqual(o.Object, other.Object) {
			found = append(found, coverage.Unstable{Owner: o.Owner, Object: coverage.Object{
				APIVersion: o.GetAPIVersion(), Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName(),
			}})
		}
	}
	return found, nil
}
