// The restore benchmark measures, on a real cluster, how long Lockstep needs to bring an application back, beside what the
// same objects and bytes need without it: `kubectl apply --server-side` of the objects, and a plain parallel copy of the bytes
// into fresh volumes. It does both in turn, round by round, and prints the medians and the gap between them.
// docs/benchmarks.md tells what exactly is measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lockstep-dr/lockstep/test/lab"
)

type options struct {
	volumes  counts
	objects  int
	rounds   int
	bytes    int64
	files    int
	parallel int
	json     string
	verbose  bool
}

// counts is a flag of numbers with commas between them.
type counts []int

func (c *counts) String() string {
	parts := make([]string, len(*c))
	for i, n := range *c {
		parts[i] = strconv.Itoa(n)
	}
	return strings.Join(parts, ",")
}

// Set reads the flag.
func (c *counts) Set(s string) error {
	*c = nil
	if s == "" {
		return nil
	}
	for _, part := range strings.Split(s, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 {
			return fmt.Errorf("%q is no number of volumes", part)
		}
		*c = append(*c, n)
	}
	return nil
}

func main() {
	o := options{volumes: counts{1, 10, 40}}
	mib := flag.Int64("mib", 32, "MiB in each volume")
	flag.Var(&o.volumes, "volumes", "numbers of volumes; empty leaves them out")
	flag.IntVar(&o.objects, "objects", 2000, "number of objects without volumes; 0 leaves them out")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each thing is measured")
	flag.IntVar(&o.files, "files", 32, "files in each volume")
	flag.IntVar(&o.parallel, "parallel", 8, "copies that run at once: as many as Lockstep has movers on a node")
	flag.StringVar(&o.json, "json", "", "file for every single measurement")
	flag.BoolVar(&o.verbose, "v", false, "say what is being done")
	flag.Parse()
	o.bytes = *mib << 20

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	switch {
	case errors.Is(err, lab.ErrCannotRun):
		fmt.Fprintln(os.Stderr, "benchrestore:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "benchrestore: FAILED:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	b, err := begin(o)
	if err != nil {
		return err
	}
	defer b.end(context.WithoutCancel(ctx))
	if err := b.prepare(ctx); err != nil {
		return err
	}
	failure := b.measure(ctx)
	b.report.print(os.Stdout)
	if o.json != "" {
		return errors.Join(failure, b.report.save(o.json))
	}
	return failure
}

// measure does everything that is wanted. What was measured before something failed is reported all the same.
func (b *bench) measure(ctx context.Context) error {
	for _, n := range b.volumes {
		if err := b.measureVolumes(ctx, n); err != nil {
			return fmt.Errorf("%d volumes: %w", n, err)
		}
	}
	if b.objects > 0 {
		if err := b.measureObjects(ctx); err != nil {
			return fmt.Errorf("%d objects: %w", b.objects, err)
		}
	}
	return nil
}

// turns runs two things, of which another begins in each round.
func turns(rounds int, one, other func(round int) error) error {
	for round := range rounds {
		first, second := one, other
		if round%2 == 1 {
			first, second = other, one
		}
		if err := first(round); err != nil {
			return err
		}
		if err := second(round); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) sayf(format string, args ...any) {
	if b.verbose {
		fmt.Fprintf(os.Stderr, "%7.1f s  %s\n", time.Since(b.started).Seconds(), fmt.Sprintf(format, args...))
	}
}

func (b *bench) sayUsage(u usage) {
	b.sayf("  %.1f s of processor time: %s", sum(u.Processor), largest(u.Processor, 12))
	b.sayf("  %.0f requests: %s", sum(u.Requests), largest(u.Requests, 40))
}
