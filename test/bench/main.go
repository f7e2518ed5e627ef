// The bench measures Lockstep against restic and kopia: it makes data once, runs the tools in turn, round by round, on the
// same stores, and prints the medians, their ratios, and which of the wanted figures are reached. docs/benchmarks.md tells
// what exactly is measured.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Modes: the two that are asked for, and those in which the program serves itself, as a process that is measured or that
// must not weigh on one that is.
const (
	modeCompare  = "compare"
	modeFiles2M  = "files2m"
	modeMake     = "make"
	modeServe    = "serve"
	modeCompress = "compress"
	modeSame     = "same"
)

type options struct {
	mode               string
	rounds             int
	data, work         string
	only, stores, with list
	all                bool
	limit              time.Duration
	lockstep, json     string
	delay              time.Duration
	codec              string
}

// list is a flag of names with commas between them; empty means all.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

// Set reads the flag.
func (l *list) Set(s string) error {
	*l = strings.Split(s, ",")
	return nil
}

func (l list) has(name string) bool { return len(l) == 0 || slices.Contains(l, name) }

func main() {
	var o options
	flag.StringVar(&o.mode, "mode", modeCompare, "compare: the tools; files2m: memory of lockstep with 2 million files (others are its own)")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each thing is measured")
	flag.StringVar(&o.data, "data", "/var/tmp/lockstep-bench", "directory where the data is kept; user postgres must be able to enter it")
	flag.StringVar(&o.work, "work", "", "directory for repositories and restored trees (default: beside the data)")
	flag.Var(&o.only, "only", "datasets: pg,small,media,mix,image (default: all)")
	flag.Var(&o.stores, "stores", "stores: local,s3,s3-20ms (default: all)")
	flag.Var(&o.with, "tools", "tools, by their names in the table (default: all that are found)")
	flag.BoolVar(&o.all, "all", false, "every dataset on every store in every round: hours")
	flag.DurationVar(&o.limit, "limit", 90*time.Second, "end an operation that takes longer")
	flag.StringVar(&o.lockstep, "lockstep", "bin/lockstep", "the lockstep that is measured")
	flag.StringVar(&o.json, "json", "", "file for every single measurement")
	flag.DurationVar(&o.delay, "delay", 0, "mode serve: wait before each request")
	flag.StringVar(&o.codec, "codec", "s2", "mode compress: s2 or zstd")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, args []string) error {
	switch {
	case o.mode == modeMake && len(args) == 1:
		return makeDataset(ctx, o.data, args[0])
	case o.mode == modeServe:
		return serve(ctx, o.delay)
	case o.mode == modeCompress && len(args) == 1:
		return compress(ctx, o.codec, args[0])
	case o.mode == modeSame && len(args) == 2:
		note, err := same(ctx, args[0], args[1])
		if err == nil && note != "" {
			fmt.Println("times differ:", note)
		}
		return err
	case o.mode == modeCompare && len(args) == 0:
		return compare(ctx, o)
	case o.mode == modeFiles2M && len(args) == 0:
		return files2M(ctx, o)
	}
	return fmt.Errorf("mode %q with %d arguments: see -help", o.mode, len(args))
}

// compare is the benchmark. Interrupted, it prints what it has.
func compare(ctx context.Context, o options) error {
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.clean()
	runErr := b.run(ctx)
	floor, _, err := measure(context.WithoutCancel(ctx), command{args: []string{"true"}}, time.Minute)
	if err != nil {
		return errors.Join(runErr, err)
	}
	rep := report{machine: b.machine(), floor: floor.RSS, rounds: o.rounds, tools: b.tools, missing: b.missing, data: b.made, results: b.results}
	rep.print(os.Stdout)
	if errors.Is(runErr, context.Canceled) {
		runErr = errors.New("interrupted: this is not all")
	}
	return errors.Join(runErr, writeJSON(o.json, b.results))
}

func writeJSON(path string, v any) error {
	if path == "" {
		return nil
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Clean(path), append(data, '\n'), 0o644)
}

// progress tells on standard error what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
