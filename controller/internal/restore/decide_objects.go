package restore

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// thing is an object of the commit that is neither a workload nor a claim with data.
type thing struct {
	plan.Object
	applied bool
	// usable says of a definition that what it defines can be created, of everything else that it is applied.
	usable  bool
	refused refusal
}

// atOnce bounds how many objects are applied between two looks at the world, so that a large commit does not hold up its volumes.
const atOnce = 500

// decideObjects applies each object for itself, as soon as what it needs is there.
func (w *world) decideObjects() []action {
	var out []action
	for _, o := range w.objects {
		if w.comes(o) && o.refused.due(w.now) && len(out) < atOnce && (!o.judges() || !w.releasing()) {
			out = append(out, action{verb: doApply, object: o.Key})
		}
	}
	return out
}

// comes says that nothing is missing for an object that is not applied.
func (w *world) comes(o thing) bool {
	return !o.applied && len(w.missing(o.Needs)) == 0 && !w.mayMakeMore(o) && (!w.replacing() || o.GroupKind() == object.Namespace)
}

// decideWorkloads releases the workloads that wait for nothing any more. Each object that could be tried is tried before the
// first of them: what sets limits and defaults, or checks pods, should be there if it can be.
func (w *world) decideWorkloads() []action {
	if w.untried() || !w.engine.Pinned() {
		return nil
	}
	var out []action
	for _, l := range w.workloads {
		if !l.released && l.refused.due(w.now) && len(out) < atOnce && w.ready(l) {
			out = append(out, action{verb: doRelease, object: l.Key})
		}
	}
	return out
}

func (w *world) ready(l workload) bool {
	return !l.replaced() && len(w.missing(l.Needs)) == 0 && len(w.unhealthy(l.After)) == 0 && w.reservedAll(l.WaitsFor)
}

// judges says that the object lets others be judged by something which may well be among the workloads itself. It comes when
// all that can be released has been tried: whoever is to judge should be there.
func (o thing) judges() bool {
	return o.Group == "admissionregistration.k8s.io" && strings.HasSuffix(o.Kind, "WebhookConfiguration")
}

// releasing says that there are workloads which could be released and have not been tried yet.
func (w *world) releasing() bool {
	return slices.ContainsFunc(w.workloads, func(l workload) bool { return !l.released && l.refused.err == nil && w.ready(l) })
}

// untried says that there are objects which have not been applied yet and nothing speaks against.
func (w *world) untried() bool {
	return slices.ContainsFunc(w.objects, func(o thing) bool {
		return w.comes(o) && !o.judges() && o.refused.err == nil
	})
}

// missing are the needs that are not there yet.
func (w *world) missing(needs []object.Key) []object.Key {
	var out []object.Key
	for _, key := range needs {
		if there, ours := w.there[key]; ours && !there || !ours && !w.broughtBack {
			out = append(out, key)
		}
	}
	return out
}

// unhealthy are those of the workloads that are not healthy.
func (w *world) unhealthy(keys []object.Key) []object.Key {
	var out []object.Key
	for _, key := range keys {
		if !slices.ContainsFunc(w.workloads, func(l workload) bool { return l.Key == key && l.status.Health == apply.Current }) {
			out = append(out, key)
		}
	}
	return out
}

// namespacesUsable says that the commit's namespaces are there.
func (w *world) namespacesUsable() bool {
	return !slices.ContainsFunc(w.objects, func(o thing) bool { return o.GroupKind() == object.Namespace && !o.usable })
}

// namespaceUsable says that a namespace is not still to be made by this restore.
func (w *world) namespaceUsable(name string) bool {
	there, ours := w.there[object.Key{Kind: object.Namespace.Kind, Name: name}]
	return there || !ours
}

// allApplied says that every object is where it belongs, workloads aside.
func (w *world) allApplied() bool {
	return w.broughtBack && !w.returning.pending && !w.following.pending && !slices.ContainsFunc(w.objects, func(o thing) bool { return !o.usable })
}

// waiting says in words why a workload is not released, beside its volumes.
func (w *world) waiting(l workload) string {
	if l.refused.err != nil {
		return l.refused.err.Error()
	}
	var parts []string
	for _, key := range append(w.missing(l.Needs), w.unhealthy(l.After)...) {
		if len(parts) == maxNamed {
			parts = append(parts, "and others")
			break
		}
		parts = append(parts, key.String())
	}
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf("waits for %s", strings.Join(parts, ", "))
}
