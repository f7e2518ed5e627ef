package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// rivals are the tools that Lockstep is compared with.
var rivals = []string{"restic", "kopia-velero", "kopia-tuned"}

type report struct {
	machine string
	floor   int64 // the peak of a program that does nothing, which is that of the benchmark
	rounds  int
	tools   []tool
	missing []string
	data    []madeData
	results []result
}

// figure is the median of one operation of one tool.
type figure struct {
	cost
	stored   int64
	requests int64
	over     bool
	fault    string
}

// figure finds the medians of what was measured; ok is false if nothing was.
func (r report) figure(dataset, store, tool, op string) (f figure, ok bool) {
	var wall, cpu, rss, stored, requests []float64
	for _, m := range r.results {
		if m.Dataset != dataset || m.Store != store || m.Tool != tool || m.Operation != op {
			continue
		}
		if m.Fault != "" {
			f.fault = m.Fault
		}
		f.over = f.over || m.Over
		wall, cpu = append(wall, m.Wall), append(cpu, m.CPU)
		rss, stored, requests = append(rss, float64(m.RSS)), append(stored, float64(m.Stored)), append(requests, float64(m.Requests))
	}
	if len(wall) == 0 {
		return f, false
	}
	f.Wall, f.CPU, f.RSS = median(wall), median(cpu), int64(median(rss))
	f.stored, f.requests = int64(median(stored)), int64(median(requests))
	return f, true
}

// good finds what is usable as the measure of another.
func (r report) good(dataset, store, tool, op string) (figure, bool) {
	f, ok := r.figure(dataset, store, tool, op)
	return f, ok && f.fault == ""
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v)%2 == 1 {
		return v[len(v)/2]
	}
	return (v[len(v)/2-1] + v[len(v)/2]) / 2
}

func (r report) print(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", r.machine)
	for _, t := range r.tools {
		if t.version != "" {
			fmt.Fprintf(w, "- %s: %s\n", t.name, t.version)
		}
	}
	for _, m := range r.missing {
		fmt.Fprintf(w, "- not measured: %s\n", m)
	}
	for _, d := range r.data {
		fmt.Fprintf(w, "- %s: %s; %d files, %s, %s on the disk\n", d.name, d.what, d.files, megabytes(d.bytes), megabytes(d.allocated))
	}
	fmt.Fprintf(w, "\nMedians of up to %d rounds: wall time, × lockstep's time (processor time, peak memory, bytes added to the repository, requests). "+
		"Peaks below %s cannot be seen.\n\n", r.rounds, megabytes(r.floor))
	r.table(w)
	fmt.Fprint(w, "\n")
	r.targets(w)
	r.faults(w)
}

// table prints a row for each dataset, store and operation, with a column for each tool and one for the yardsticks.
func (r report) table(w io.Writer) {
	header := []string{"data", "store", "operation"}
	var columns []string
	for _, t := range r.tools {
		if !t.beside {
			columns = append(columns, t.name)
		}
	}
	header = append(append(header, columns...), "beside")
	row(w, header)
	row(w, slices.Repeat([]string{"---"}, len(header)))
	for _, d := range r.data {
		for _, store := range stores {
			for _, op := range operations {
				cells, any := []string{d.name, store, op}, false
				for _, c := range columns {
					text := r.cell(d.name, store, c, op)
					cells, any = append(cells, text), any || text != ""
				}
				var beside []string
				for _, t := range r.tools {
					if text := r.cell(d.name, store, t.name, op); t.beside && text != "" {
						beside = append(beside, t.name+" "+text)
					}
				}
				if any || len(beside) > 0 {
					row(w, append(cells, strings.Join(beside, "; ")))
				}
			}
		}
	}
}

func row(w io.Writer, cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }

func (r report) cell(dataset, store, tool, op string) string {
	f, ok := r.figure(dataset, store, tool, op)
	switch {
	case !ok:
		return ""
	case f.fault != "":
		return "failed"
	}
	text := fmt.Sprintf("%.2f s", f.Wall)
	if f.over {
		text = "> " + text
	}
	if own, ok := r.good(dataset, store, "lockstep", op); ok && tool != "lockstep" {
		text += fmt.Sprintf(" %.2f×", f.Wall/own.Wall)
	}
	text += fmt.Sprintf(" (%.1f s, %s", f.CPU, megabytes(f.RSS))
	if isSave(op) && f.stored > 0 {
		text += ", +" + megabytes(f.stored)
	}
	if f.requests > 0 {
		text += fmt.Sprintf(", %d requests", f.requests)
	}
	return text + ")"
}

func megabytes(n int64) string {
	if n < 10_000_000 {
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.0f MB", float64(n)/1e6)
}

// faults names what failed, and what came back almost as it was.
func (r report) faults(w io.Writer) {
	for _, m := range r.results {
		if m.Fault != "" {
			fmt.Fprintf(w, "\nFailed: %s, %s, %s, %s: %s\n", m.Tool, m.Dataset, m.Store, m.Operation, m.Fault)
		}
		if m.Note != "" {
			fmt.Fprintf(w, "\n%s, %s, %s, %s: %s\n", m.Tool, m.Dataset, m.Store, m.Operation, m.Note)
		}
	}
}
