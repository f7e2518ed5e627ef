package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// scope is what an action works on.
type scope struct {
	*Reconciler
	restore *v1alpha1.Restore
	replay  *replay
	engine  deployer
	world   *world
}

// actAll does the actions, several at once: none of them needs another one. One that fails does not hold the others up.
func (r *Reconciler) actAll(ctx context.Context, restore *v1alpha1.Restore, replay *replay, w *world, actions []action) error {
	s := scope{Reconciler: r, restore: restore, replay: replay, engine: r.deployerOf(restore, replay), world: w}
	failed := make([]error, len(actions))
	var group sync.WaitGroup
	room := make(chan struct{}, r.Parallel)
	for i, a := range actions {
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			err := s.act(ctx, a)
			if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) { // else the world is not what was observed: look again
				failed[i] = fmt.Errorf("%s: %w", a, err)
			}
		})
	}
	group.Wait()
	s.noteReleased(actions)
	return errors.Join(failed...)
}

// noteReleased lets what was released now stand in the status before anything else: whether a claim may go depends on it.
func (s scope) noteReleased(actions []action) {
	for _, a := range actions {
		if a.verb != doRelease {
			continue
		}
		i := slices.IndexFunc(s.world.workloads, func(l workload) bool { return l.Key == a.object })
		s.world.workloads[i].released, _, _ = s.replay.ledger.of(a.object)
	}
}

func (s scope) act(ctx context.Context, a action) error {
	switch a.verb {
	case doHold:
		return s.engine.hold(ctx)
	case doPin:
		return s.engine.pin(ctx)
	case doApply:
		s.apply(ctx, a.object)
		return nil
	case doBringBack:
		return s.bringBack(ctx)
	case doFollow:
		return s.follow(ctx)
	case doReplace:
		return s.replace(ctx, a.object)
	case doStop:
		return s.stop(ctx, a.object)
	case doResume:
		return s.resume(ctx, a.object)
	case doRelease:
		s.release(ctx, a.object)
		return nil
	case doFill:
		return s.fill(ctx, append([]int{a.group}, a.with...), a.attempt)
	case doDismiss:
		return s.dismiss(ctx, a.group)
	case doAbandon:
		return s.abandon(ctx, a.group)
	}
	i := slices.IndexFunc(s.world.volumes, func(v volume) bool { return v.Name == a.claim })
	return map[verb]func(context.Context, volume) error{
		doStage: s.stage, doAdopt: s.adopt, doReserve: s.reserve, doRecord: s.record, doRepoint: s.repoint,
		doTouch: s.touch, doPart: s.part, doForget: s.forget, doGiveBack: s.giveBack, doUnstage: s.unstage,
		doKeep: s.keep, doVacate: s.vacate,
	}[a.verb](ctx, s.world.volumes[i])
}
