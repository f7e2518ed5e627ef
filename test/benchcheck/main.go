// The check benchmark lets `lockstep check --base` compare two commits of a large repository, as a whole process, and beside it lets
// kustomize's library build the applications that changed, each once in each commit, on all cores. docs/benchmarks.md tells what exactly
// is measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/lockstep-dr/lockstep/test/lab"
)

type options struct {
	lockstep              string
	applications, objects int
	changed               []int
	rounds                int
	labelled              bool
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == yardstick {
		if err := buildAll(os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "benchcheck:", err)
			os.Exit(1)
		}
		return
	}
	o := options{changed: []int{0, 10, 100, 1000}}
	flag.StringVar(&o.lockstep, "lockstep", "bin/lockstep", "program to measure")
	flag.IntVar(&o.applications, "applications", 1000, "number of applications in the repository")
	flag.IntVar(&o.objects, "objects", 20, "objects of each application, each in a file of its own")
	flag.Func("changed", "how many applications change, a list (default 0,10,100,1000)", func(s string) (err error) {
		o.changed, err = numbers(s)
		return err
	})
	flag.IntVar(&o.rounds, "rounds", 5, "how often each pair is run")
	flag.BoolVar(&o.labelled, "labelled", false, "let the kustomizations add a label, too, so that lockstep must leave them to kustomize")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchcheck: FAILED:", err)
		os.Exit(1)
	}
}

func numbers(list string) ([]int, error) {
	var all []int
	for _, s := range strings.Split(list, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "lockstep-benchcheck-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.lockstep, err = filepath.Abs(o.lockstep); err != nil {
		return err
	}
	r, err := generate(ctx, dir, o)
	if err != nil {
		return err
	}
	fmt.Printf("%s\n\n%d applications of %d objects; medians of %d pairs.\n\n", lab.Machine(), o.applications, o.objects, o.rounds)
	fmt.Println("| changed | files of head | lockstep check: CPU, wall, peak | kustomize alone: CPU, wall, peak | ratio of CPU | of wall |")
	fmt.Println("| --- | --- | --- | --- | --- | --- |")
	for _, changed := range o.changed {
		if err := r.checkOut(ctx, changed); err != nil {
			return err
		}
		for _, where := range []string{"work tree", "commit"} {
			row, err := r.compare(ctx, where, changed)
			if err != nil {
				return err
			}
			fmt.Println(row)
		}
	}
	return nil
}
