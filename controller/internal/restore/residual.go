package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/residual"
)

// returning is how far a part of what Git does not hold has come back. It is remembered instead of observed; to forget it only
// means to look for each object again.
type returning struct {
	// pending says that something of it may be absent.
	pending bool
	// held says in words what that waits for; empty if nothing of it was held up.
	held string
	// tried is when it was tried last; zero if it was not.
	tried time.Time
}

// returnEvery is how often objects are tried again that could not be created: nobody tells when a kind is served.
const returnEvery = 5 * time.Second

func (r returning) due(now time.Time) bool { return r.pending && now.Sub(r.tried) >= returnEvery }

// decideResidual brings back what Git does not hold as soon as it may come: when the commit's namespaces are there, and what pods may
// follow from when none can be faster than its volume.
func (w *world) decideResidual() []action {
	switch {
	case !w.namespacesUsable():
		return nil
	case !w.broughtBack:
		return []action{{verb: doBringBack}}
	}
	var out []action
	if w.returning.due(w.now) {
		out = append(out, action{verb: doBringBack})
	}
	unreserved := slices.ContainsFunc(w.volumes, func(v volume) bool { return !v.reserved(w.uid) })
	if w.following.due(w.now) && !unreserved {
		out = append(out, action{verb: doFollow})
	}
	return out
}

// mayMakeMore says of an object of the commit that what its controller makes of it could take the place of what is still to come:
// a password of what Git does not hold, or an empty claim of one that the commit does not name.
func (w *world) mayMakeMore(o thing) bool {
	if !object.IsCustom(o.Group) {
		return false
	}
	return !w.broughtBack || slices.ContainsFunc(w.volumes, func(v volume) bool {
		return v.Name.Namespace == o.Namespace && v.Origin == plan.OriginPoint && !v.reserved(w.uid)
	})
}

// held says in words what objects that Git does not hold wait for; empty if none does.
func (w *world) held() string {
	var parts []string
	for _, r := range []returning{w.returning, w.following} {
		if r.pending && r.held != "" {
			parts = append(parts, r.held)
		}
	}
	return strings.Join(parts, "; ")
}

func (s scope) bringBack(ctx context.Context) error {
	err := s.replayResidual(ctx, residual.Replay, &s.replay.returning, &s.world.returning)
	s.replay.broughtBack = s.replay.broughtBack || err == nil
	return err
}

func (s scope) follow(ctx context.Context) error {
	err := s.replayResidual(ctx, residual.ReplayWorkloads, &s.replay.following, &s.world.following)
	if err != nil || s.replay.following.pending {
		return err
	}
	return s.awaitFollowing(ctx)
}

// awaitFollowing goes on asking while a workload that Git does not hold is not healthy. Like all of these it is not named.
func (s scope) awaitFollowing(ctx context.Context) error {
	var workloads []*unstructured.Unstructured
	for i := range s.replay.residual.Objects {
		if o := &s.replay.residual.Objects[i]; object.IsWorkload(o) {
			workloads = append(workloads, o)
		}
	}
	health, err := healthOf(ctx, s.applier(s.replay), workloads)
	if err != nil {
		return err
	}
	sick := 0
	for _, h := range health {
		if h.Health != apply.Current {
			sick++
		}
	}
	if following := &s.replay.following; sick > 0 {
		following.pending, following.held = true, "1 workload that Git does not hold is not healthy"
		if sick > 1 {
			following.held = fmt.Sprintf("%d workloads that Git does not hold are not healthy", sick)
		}
		s.world.following = *following
	}
	return nil
}

// replayResidual brings a part back. What is held up is no failure: the rest of the commit may be what brings its kind.
func (s scope) replayResidual(
	ctx context.Context, replay func(context.Context, client.Reader, client.Client, residual.Set, string) ([]residual.Step, error),
	part, seen *returning,
) error {
	if !part.pending {
		return nil
	}
	_, err := replay(ctx, s.Reader, s.Client, s.replay.residual, s.replay.plan.Point.ID)
	var held *residual.HeldError
	if err != nil && !errors.As(err, &held) {
		return err
	}
	*part = returning{pending: held != nil, tried: s.Now()}
	if held != nil {
		part.held = held.Error()
	}
	*seen = *part
	return nil
}
