package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fluxcd/pkg/runtime/conditions"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

const (
	// startLimit bounds the wait for a controller that has judged everything.
	startLimit = 20 * time.Minute
	// slice is what the time at rest is divided into, to see whether the work comes in bursts.
	slice = 10 * time.Second
)

// startController starts it beside everything that is there, as after an upgrade, and waits until it has judged every policy and
// has nothing left to do.
func (b *bench) startController(ctx context.Context) error {
	b.sayf("the controller")
	start := time.Now()
	var err error
	if b.controller, err = startProcess(b.dir, filepath.Join(b.bin, "controller"), b.server.KubeConfig); err != nil {
		return err
	}
	err = wait.PollUntilContextTimeout(ctx, time.Second, startLimit, true, func(ctx context.Context) (bool, error) { // listing them takes the API server a while
		var policies v1alpha1.ProtectionPolicyList
		if err := b.client.List(ctx, &policies); err != nil {
			return false, err
		}
		ready := 0
		for i := range policies.Items {
			if conditions.IsReady(&policies.Items[i]) {
				ready++
			}
		}
		if _, err := b.controller.processor(); err != nil {
			return false, err
		}
		return ready == b.policies, nil
	})
	if err != nil {
		return fmt.Errorf("waiting until every policy is Ready: %w: %s", err, b.controller.lastWords())
	}
	b.report.judged = time.Since(start)
	err = lab.Eventually(ctx, startLimit, func(ctx context.Context) (bool, error) {
		depths, err := b.controller.counters(ctx, "workqueue_depth", "name")
		total := 0.0
		for _, n := range depths {
			total += n
		}
		return total == 0, err
	})
	if err != nil {
		return fmt.Errorf("waiting until nothing is to be done: %w", err)
	}
	b.report.idle = time.Since(start)
	if b.report.start, err = b.controller.processor(); err != nil {
		return err
	}
	b.report.startRequests, err = b.controller.counters(ctx, "rest_client_requests_total", "method")
	return err
}

// measureRest looks at the controller while nothing happens but what it does by itself.
func (b *bench) measureRest(ctx context.Context) error {
	b.sayf("at rest, for %v", b.rest)
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o755); err != nil {
			return err
		}
	}
	before, err := b.controller.counters(ctx, "rest_client_requests_total", "method")
	if err != nil {
		return err
	}
	reconciles, err := b.controller.counters(ctx, "controller_runtime_reconcile_total", "controller")
	if err != nil {
		return err
	}
	last, err := b.controller.processor()
	if err != nil {
		return err
	}
	first, begun := last, time.Now()
	for time.Since(begun) < b.rest {
		sliceBegun := time.Now()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(slice, b.rest)):
		}
		used, err := b.controller.processor()
		if err != nil {
			return err
		}
		b.report.busiest = max(b.report.busiest, (used-last)/time.Since(sliceBegun).Seconds())
		last = used
	}
	if b.report.memory, err = b.controller.memory(); err != nil {
		return err
	}
	b.report.rest = (last - first) / time.Since(begun).Seconds()
	if b.report.restRequests, err = b.since(ctx, "rest_client_requests_total", "method", before); err != nil {
		return err
	}
	if b.report.reconciles, err = b.since(ctx, "controller_runtime_reconcile_total", "controller", reconciles); err != nil {
		return err
	}
	if b.profiles == "" {
		return nil
	}
	for what, file := range map[string]string{"heap?gc=1": "heap.pprof", "allocs": "allocs.pprof", "goroutine": "goroutine.pprof", "profile?seconds=60": "cpu.pprof"} {
		if err := b.controller.profile(ctx, what, filepath.Join(b.profiles, file)); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) since(ctx context.Context, name, label string, before map[string]float64) (map[string]float64, error) {
	now, err := b.controller.counters(ctx, name, label)
	for key, n := range before {
		now[key] -= n
	}
	return now, err
}
