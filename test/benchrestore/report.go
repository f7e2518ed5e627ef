package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
)

// The gaps that are wanted, as ratios to what is needed without Lockstep. That of the volumes is for the largest number.
const (
	wantedVolumes = 1.5
	wantedObjects = 1.3
)

// report gathers what was measured.
type report struct {
	options options
	machine string
	single  []measurement
}

// measurement is one thing measured once, in seconds.
type measurement struct {
	Volumes int    `json:"volumes,omitempty"`
	Objects int    `json:"objects,omitempty"`
	Who     string `json:"who"`
	restored
	usage
}

func (r *report) volumes(n int, who string, took restored, used usage) {
	r.single = append(r.single, measurement{Volumes: n, Who: who, restored: took, usage: used})
}

func (r *report) objects(who string, seconds float64) {
	r.single = append(r.single, measurement{Objects: r.options.objects, Who: who, restored: restored{Healthy: seconds}})
}

// both is a figure of the restores, and in brackets that of what they are held against.
func (r *report) both(volumes int, other, format string, of func(measurement) float64) string {
	return fmt.Sprintf(format+" ("+other+" "+format+")", r.medianOf(volumes, "restore", of), r.medianOf(volumes, other, of))
}

func (r *report) median(volumes int, who string, of func(restored) float64) float64 {
	return r.medianOf(volumes, who, func(m measurement) float64 { return of(m.restored) })
}

// medianOf is the median of one figure of those that fit; zero if there are none.
func (r *report) medianOf(volumes int, who string, of func(measurement) float64) float64 {
	var all []float64
	for _, m := range r.single {
		if m.Volumes == volumes && m.Who == who && of(m) > 0 {
			all = append(all, of(m))
		}
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	if len(all)%2 == 1 {
		return all[len(all)/2]
	}
	return (all[len(all)/2-1] + all[len(all)/2]) / 2
}

func (r *report) print(out io.Writer) {
	o := r.options
	fmt.Fprintf(out, "%s\n\nMedians of %d rounds, in seconds; %d copies at once.\n\n", r.machine, o.rounds, o.parallel)
	reserved := func(t restored) float64 { return t.Reserved }
	bound := func(t restored) float64 { return t.Bound }
	healthy := func(t restored) float64 { return t.Healthy }
	fmt.Fprintln(out, "| what | reserved | bound | RTO | without Lockstep | gap | processor | requests |")
	fmt.Fprintln(out, "| --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, n := range o.volumes {
		floor, ours := r.median(n, "copy", bound), r.median(n, "restore", bound)
		fmt.Fprintf(out, "| %s of %d MiB in %d files | %.1f | %.1f | %.1f | copy %.1f | %s | %s | %s |\n", plural(n, "volume"), o.bytes>>20, o.files,
			r.median(n, "restore", reserved), ours, r.median(n, "restore", healthy), floor, gap(ours, floor),
			r.both(n, "copy", "%.1f s", func(m measurement) float64 { return sum(m.Processor) }),
			r.both(n, "copy", "%.0f", func(m measurement) float64 { return sum(m.Requests) }))
	}
	if o.objects > 0 {
		floor, ours := r.median(0, "kubectl", healthy), r.median(0, "restore", healthy)
		fmt.Fprintf(out, "| %s without volumes | | | %.1f | kubectl %.1f | %s | | |\n", plural(o.objects, "object"), ours, floor, gap(ours, floor))
	}
	r.verdicts(out, bound, healthy)
}

// verdicts says which of the wanted gaps are reached.
func (r *report) verdicts(out io.Writer, bound, healthy func(restored) float64) {
	fmt.Fprintln(out)
	if len(r.options.volumes) > 0 {
		n := slices.Max(r.options.volumes)
		verdict(out, fmt.Sprintf("hydration of %s", plural(n, "volume")), r.median(n, "restore", bound), r.median(n, "copy", bound), wantedVolumes)
	}
	if r.options.objects > 0 {
		verdict(out, plural(r.options.objects, "object"), r.median(0, "restore", healthy), r.median(0, "kubectl", healthy), wantedObjects)
	}
}

func verdict(out io.Writer, what string, ours, floor, wanted float64) {
	switch {
	case ours == 0 || floor == 0:
		fmt.Fprintf(out, "- %s: not measured\n", what)
	case ours <= wanted*floor:
		fmt.Fprintf(out, "- %s: reached, %s (wanted at most %.1f×)\n", what, gap(ours, floor), wanted)
	default:
		fmt.Fprintf(out, "- %s: MISSED, %s (wanted at most %.1f×)\n", what, gap(ours, floor), wanted)
	}
}

func gap(ours, floor float64) string {
	if ours == 0 || floor == 0 {
		return "not measured"
	}
	return fmt.Sprintf("%.2f×, %+.1f s", ours/floor, ours-floor)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (r *report) save(path string) error {
	data, err := json.MarshalIndent(r.single, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
