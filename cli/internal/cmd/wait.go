package cmd

import (
	"context"
	"fmt"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// How the program waits for the controller.
const (
	lookEvery = time.Second
	// silentFor is how long the API server may fail to answer, and the controller may say nothing or be unable to find out
	// what it needs, before waiting ends as unknown. The controller itself keeps trying.
	silentFor = 60 * time.Second
)

// waiter waits for an object that the controller works on.
type waiter struct {
	client client.Client
	now    func() time.Time
	// every and silent are lookEvery and silentFor, but for tests.
	every, silent time.Duration
	timeout       time.Duration // 0 is for ever
}

func (p *Program) waiter(c client.Client, timeout time.Duration) waiter {
	return waiter{client: c, now: p.Now, every: lookEvery, silent: silentFor, timeout: timeout}
}

type watched interface {
	client.Object
	conditioned
}

// wait reads o until it is finished, and calls look after every reading. Its errors say why waiting ended early; how the
// object ended is for the caller to see.
func (w waiter) wait(ctx context.Context, what string, o watched, look func()) error {
	started := w.now()
	heard, known := started, started
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		err := w.client.Get(ctx, client.ObjectKeyFromObject(o), o)
		now := w.now()
		switch {
		case err == nil:
			heard = now
			if len(o.GetConditions()) > 0 && !unknowable(o) {
				known = now
			}
			look()
			if finished(o) {
				return nil
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case !kube.Unreachable(err) || now.Sub(heard) > w.silent:
			return kube.Explain(fmt.Errorf("reading %s: %w", what, err))
		}
		c := ready(o)
		switch {
		case now.Sub(known) > w.silent:
			return fault.New(fault.Unknown, "The controller, if it runs, keeps trying. See: lockstep describe "+what,
				"%s: %s", what, sentence(c.Reason, c.Message))
		case w.timeout > 0 && now.Sub(started) > w.timeout:
			code := fault.Failed
			if unknowable(o) {
				code = fault.Unknown
			}
			return fault.New(code, "The controller goes on. See: lockstep describe "+what,
				"%s: not finished within %s: %s", what, spelling.Duration(w.timeout), sentence(c.Reason, c.Message))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
