package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// cost is what a whole process took: seconds, and MiB of its largest resident set.
type cost struct{ cpu, wall, peak float64 }

// pair is what both took, one right after the other.
type pair struct{ lockstep, kustomize cost }

// compare runs the pairs, and gives a row of the table. The files of head are those of the work tree, or of the commit itself.
func (r *repository) compare(ctx context.Context, where string, changed int) (string, error) {
	var pairs []pair
	for round := range r.rounds {
		var p pair
		steps := []func() error{
			func() (err error) { p.lockstep, err = r.check(ctx, where, changed); return err },
			func() (err error) { p.kustomize, err = r.build(ctx, changed); return err },
		}
		if round%2 == 1 {
			slices.Reverse(steps)
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return "", err
			}
		}
		pairs = append(pairs, p)
	}
	lockstep, kustomize := func(p pair) cost { return p.lockstep }, func(p pair) cost { return p.kustomize }
	ratios := "- | -"
	if changed > 0 {
		ratios = fmt.Sprintf("%.2f× | %.2f×",
			median(pairs, func(p pair) float64 { return p.lockstep.cpu / p.kustomize.cpu }),
			median(pairs, func(p pair) float64 { return p.lockstep.wall / p.kustomize.wall }))
	}
	return fmt.Sprintf("| %d | %s | %s | %s | %s |", changed, where, medians(pairs, lockstep), medians(pairs, kustomize), ratios), nil
}

func medians(pairs []pair, of func(pair) cost) string {
	return fmt.Sprintf("%.2f s, %.2f s, %.0f MiB",
		median(pairs, func(p pair) float64 { return of(p).cpu }),
		median(pairs, func(p pair) float64 { return of(p).wall }),
		median(pairs, func(p pair) float64 { return of(p).peak }))
}

func median(pairs []pair, of func(pair) float64) float64 {
	figures := make([]float64, len(pairs))
	for i, p := range pairs {
		figures[i] = of(p)
	}
	slices.SortFunc(figures, cmp.Compare)
	return figures[len(figures)/2]
}

// check runs lockstep, and looks whether it has judged what changed, all of it, and nothing else.
func (r *repository) check(ctx context.Context, where string, changed int) (cost, error) {
	out := filepath.Join(filepath.Dir(r.dir), "report.json")
	args := []string{"check", r.dir, "--base", "base", "--format", "json", "--output", out, "--fail-on", "off"}
	if where == "commit" {
		args = append(args, "--head", head(changed))
	}
	took, err := measure(exec.CommandContext(ctx, r.lockstep, args...))
	if err != nil {
		return cost{}, err
	}
	data, err := os.ReadFile(out)
	if err != nil {
		return cost{}, err
	}
	var report struct{ Coverage, NotRendered, Unchanged []any }
	if err := json.Unmarshal(data, &report); err != nil {
		return cost{}, err
	}
	if c, n, u := len(report.Coverage), len(report.NotRendered), len(report.Unchanged); c != changed || n != 0 || u < r.applications-changed {
		return cost{}, fmt.Errorf("the report has %d volumes, %d that are not rendered and %d unchanged applications of %d, of which %d changed", c, n, u, r.applications, changed)
	}
	return took, nil
}

// build lets kustomize build each changed application once in each commit.
func (r *repository) build(ctx context.Context, changed int) (cost, error) {
	self, err := os.Executable()
	if err != nil {
		return cost{}, err
	}
	var dirs strings.Builder
	for _, root := range []string{r.before, r.dir} {
		for n := range changed {
			fmt.Fprintln(&dirs, filepath.Join(root, "apps", application(n)))
		}
	}
	cmd := exec.CommandContext(ctx, self, yardstick)
	cmd.Stdin = strings.NewReader(dirs.String())
	return measure(cmd)
}

// measure runs a process to its end.
func measure(cmd *exec.Cmd) (cost, error) {
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return cost{}, fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return cost{}, fmt.Errorf("%s: this system does not say what it took", cmd)
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return cost{cpu: cpu.Seconds(), wall: time.Since(start).Seconds(), peak: float64(usage.Maxrss) / 1024}, nil
}
