// The scale benchmark fills a real API server with policies, claims and points, lets the controller run on it as a process of its
// own, and measures what that takes: memory, processor time while nothing happens, and how soon it sees what is new.
// docs/benchmarks.md tells what exactly is measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lockstep-dr/lockstep/test/lab"
)

type options struct {
	policies, points, volumes, bystanders int
	rest                                  time.Duration
	samples                               int
	profiles                              string
}

func main() {
	var o options
	flag.IntVar(&o.policies, "policies", 1000, "number of policies, each in a namespace of its own")
	flag.IntVar(&o.points, "points", 10, "finished points of each policy")
	flag.IntVar(&o.volumes, "volumes", 2, "bound claims of each policy")
	flag.IntVar(&o.bystanders, "bystanders", 1000, "number of Secrets, of Pods and of ConfigMaps that are no business of Lockstep's")
	flag.DurationVar(&o.rest, "rest", 11*time.Minute, "how long the controller is watched at rest; everything periodic comes round within 10 minutes")
	flag.IntVar(&o.samples, "samples", 25, "how often each thing that the controller is to notice is done")
	flag.StringVar(&o.profiles, "profiles", "", "directory for profiles of the controller's memory and processor time at rest")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	switch {
	case errors.Is(err, lab.ErrCannotRun):
		fmt.Fprintln(os.Stderr, "benchscale:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "benchscale: FAILED:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	b, err := begin(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.end()) }()
	for _, step := range []func(context.Context) error{b.fillBoth, b.startController, b.measureRest, b.measureNotice} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	b.report.print(os.Stdout, o)
	return nil
}

func (b *bench) sayf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7.1f s  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
}
