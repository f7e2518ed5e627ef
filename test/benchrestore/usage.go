package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/client-go/kubernetes"
)

// usage is what was used of the machine and asked of the API server. Unlike the time by the clock it is nearly the same whatever
// else runs.
type usage struct {
	// Processor is in seconds, by program, of all processes of the cluster and the lab's servers. What has ended is counted for the
	// program that it was a child of.
	Processor map[string]float64
	// Requests to the API server, by verb and resource; its own are among them.
	Requests map[string]float64
}

// use is how much of both something took.
func (b *bench) use(ctx context.Context, do func() error) (usage, error) {
	before, err := b.used(ctx)
	if err != nil {
		return usage{}, err
	}
	if err := do(); err != nil {
		return usage{}, err
	}
	after, err := b.used(ctx)
	return usage{less(after.Processor, before.Processor), less(after.Requests, before.Requests)}, err
}

func (b *bench) used(ctx context.Context) (usage, error) {
	requests, err := b.requests(ctx)
	if err != nil {
		return usage{}, err
	}
	processor, err := processorTime(b.cluster.PID, b.lab.PID)
	return usage{processor, requests}, err
}

// requests reads the API server's own count, watches left out: they last.
func (b *bench) requests(ctx context.Context) (map[string]float64, error) {
	k, err := kubernetes.NewForConfig(b.cluster.Config)
	if err != nil {
		return nil, err
	}
	text, err := k.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	counts := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		labels, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "apiserver_request_total{"), "} ")
		if !ok || !strings.HasPrefix(line, "apiserver_request_total{") {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("reading the API server's metrics: %w", err)
		}
		if verb := label(labels, "verb"); verb != "WATCH" {
			counts[verb+" "+strings.Trim(label(labels, "resource")+"/"+label(labels, "subresource"), "/")] += n
		}
	}
	return counts, nil
}

func label(labels, name string) string {
	_, rest, _ := strings.Cut(","+labels, ","+name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

// ticksPerSecond is what Linux counts processor time in.
const ticksPerSecond = 100

// processorTime is what each program below the roots has used, children that have ended included.
func processorTime(roots ...int) (map[string]float64, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	type process struct {
		name   string
		parent int
		ticks  float64
	}
	all := map[int]process{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended meanwhile; its parent has its time
		}
		// pid (name) state ppid …; utime, stime, and both of the children, are the 14th to 17th.
		open, end := strings.IndexByte(string(data), '('), strings.LastIndexByte(string(data), ')')
		fields := strings.Fields(string(data[end+1:]))
		pid, err := strconv.Atoi(string(data[:open-1]))
		if err != nil {
			return nil, err
		}
		p := process{name: string(data[open+1 : end])}
		if p.parent, err = strconv.Atoi(fields[1]); err != nil {
			return nil, err
		}
		for _, ticks := range fields[11:15] {
			n, err := strconv.ParseFloat(ticks, 64)
			if err != nil {
				return nil, err
			}
			p.ticks += n
		}
		all[pid] = p
	}
	used := map[string]float64{}
	for pid, p := range all {
		for at := pid; at > 1; at = all[at].parent {
			if slices.Contains(roots, at) {
				used[p.name] += p.ticks / ticksPerSecond
				break
			}
		}
	}
	return used, nil
}

func less(a, b map[string]float64) map[string]float64 {
	out := maps.Clone(a)
	for k, v := range b {
		out[k] -= v
	}
	return out
}

func sum(of map[string]float64) float64 {
	total := 0.0
	for _, v := range of {
		total += v
	}
	return total
}

// largest names the n largest, with their sizes.
func largest(of map[string]float64, n int) string {
	keys := slices.SortedFunc(maps.Keys(of), func(a, b string) int {
		switch {
		case of[a] > of[b]:
			return -1
		case of[a] < of[b]:
			return 1
		}
		return strings.Compare(a, b)
	})
	var parts []string
	for _, k := range keys[:min(n, len(keys))] {
		if of[k] <= 0 {
			break
		}
		parts = append(parts, fmt.Sprintf("%s %.4g", k, of[k]))
	}
	return strings.Join(parts, ", ")
}
