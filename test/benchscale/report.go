package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// What is wanted at rest: MiB resident, and the share of a core.
const (
	wantedMemory    = 200
	wantedProcessor = 0.02
)

type report struct {
	machine string
	// judged is when all policies were Ready after the start, idle when nothing was left to do; start the processor time until then.
	judged, idle time.Duration
	start        float64
	// rest and busiest are shares of a core, of the whole time at rest and of the busiest slice of it.
	rest, busiest float64
	memory        memory

	startRequests, restRequests, reconciles map[string]float64

	noticed []noticed
}

type noticed struct {
	what string
	took []time.Duration
}

func (r *report) print(out io.Writer, o options) {
	fmt.Fprintf(out, "%s\n\n%d policies, %d claims, %d points; %d Secrets, Pods and ConfigMaps of others; %v at rest.\n\n",
		r.machine, o.policies, o.policies*o.volumes, o.policies*o.points, o.bystanders, o.rest)
	row := func(what, format string, args ...any) {
		fmt.Fprintf(out, "| %s | %s |\n", what, fmt.Sprintf(format, args...))
	}
	row("what", "measured")
	row("---", "---")
	row("start: every policy is judged", "after %.1f s", r.judged.Seconds())
	row("start: nothing is left to do", "after %.1f s, %.1f s of processor time, %s", r.idle.Seconds(), r.start, listed(r.startRequests, "requests"))
	row("memory at rest: resident (RSS)", "%.0f MiB, proportional (PSS) %.0f MiB", r.memory.Resident, r.memory.Proportional)
	row("memory: most ever (VmHWM)", "%.0f MiB", r.memory.Most)
	row("processor at rest", "%.2f %% of a core; in the busiest %v %.1f %%", 100*r.rest, slice, 100*r.busiest)
	row("at rest it did", "%s; %s", listed(r.reconciles, "reconciliations"), listed(r.restRequests, "requests"))
	for _, n := range r.noticed {
		slices.Sort(n.took)
		row("noticing "+n.what, "median %d ms, slowest of %d %d ms", n.took[len(n.took)/2].Milliseconds(), len(n.took), n.took[len(n.took)-1].Milliseconds())
	}
	fmt.Fprintln(out)
	verdict(out, "resident memory at rest", "%.0f MiB", r.memory.Resident, wantedMemory)
	verdict(out, "processor at rest", "%.2f %% of a core", 100*r.rest, 100*wantedProcessor)
}

func verdict(out io.Writer, what, format string, measured, wanted float64) {
	word := "reached"
	if measured > wanted {
		word = "MISSED"
	}
	fmt.Fprintf(out, "- %s: %s, "+format+" (wanted at most "+format+")\n", what, word, measured, wanted)
}

// listed is the sum and its parts.
func listed(of map[string]float64, what string) string {
	total, parts := 0.0, []string{}
	for _, key := range slices.Sorted(maps.Keys(of)) {
		if of[key] > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f", key, of[key]))
			total += of[key]
		}
	}
	return fmt.Sprintf("%.0f %s (%s)", total, what, strings.Join(parts, ", "))
}
