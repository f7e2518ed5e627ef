package main

import (
	"fmt"
	"io"
	"slices"
)

// target is a figure that is wanted: how many times as much the other needs, of time or of room.
type target struct {
	what               string
	dataset, store, op string
	codec              string   // of Lockstep; empty for its default
	others             []string // the least of them counts
	value              func(figure) float64
	atLeast            float64
}

func wall(f figure) float64   { return f.Wall }
func stored(f figure) float64 { return float64(f.stored) }

// wanted are the figures that the engine was built for.
func wanted() []target {
	velero, tuned, resticOnly := []string{"kopia-velero"}, []string{"kopia-tuned"}, []string{"restic"}
	return []target{
		{"save ≥ 2× kopia as Velero sets it", "pg", storeLocal, opSave, "", velero, wall, 2},
		{"save ≥ 3.5× restic", "pg", storeLocal, opSave, "", resticOnly, wall, 3.5},
		{"save never behind a tuned kopia", "pg", storeLocal, opSave, "", tuned, wall, 1},
		{"save ≥ 85 % of the compressor alone (s2)", "pg", storeLocal, opSave, "s2", []string{"s2 alone"}, wall, 0.85},
		{"save ≥ 85 % of the compressor alone (zstd)", "pg", storeLocal, opSave, "zstd", []string{"zstd alone"}, wall, 0.85},
		{"load within 1.2× of cp -a", "pg", storeLocal, opLoad, "", []string{"cp -a"}, wall, 1 / 1.2},
		{"load within 1.2× of cp -a; sync", "pg", storeLocal, opLoad, "", []string{"cp -a; sync"}, wall, 1 / 1.2},
		{"load never behind any rival", "pg", storeLocal, opLoad, "", rivals, wall, 1},
		{"save ≥ 2.5× restic", "pg", storeFar, opSave, "", resticOnly, wall, 2.5},
		{"load ≥ 2× restic", "pg", storeFar, opLoad, "", resticOnly, wall, 2},
		{"load ≥ 10× kopia as Velero sets it", "pg", storeFar, opLoad, "", velero, wall, 10},
		{"load ≥ 4× the best rival", "small", storeFar, opLoad, "", rivals, wall, 4},
		{"1 % edit stores ≤ 1/4 of the best rival", "pg", storeLocal, opEdit, "", rivals, stored, 4},
		{"no-change save ≤ 1/5 of restic's time", "pg", storeLocal, opNoChange, "", resticOnly, wall, 5},
		{"no-change save ≤ 1/5 of restic's time", "small", storeLocal, opNoChange, "", resticOnly, wall, 5},
		{"repository within 5 % of restic's, both zstd", "pg", storeLocal, opSave, "zstd", resticOnly, stored, 1 / 1.05},
		{"save ≥ 1.5× the best rival", "small", storeLocal, opSave, "", rivals, wall, 1.5},
		{"load ≥ 1.5× the best rival", "small", storeLocal, opLoad, "", rivals, wall, 1.5},
	}
}

func (r report) targets(w io.Writer) {
	row(w, []string{"wanted", "data", "store", "measured", ""})
	row(w, []string{"---", "---", "---", "---", "---"})
	left := 0
	for _, t := range wanted() {
		inRun := func(m result) bool { return m.Dataset == t.dataset && m.Store == t.store }
		if !slices.ContainsFunc(r.results, inRun) {
			left++
			continue
		}
		measured, verdict := r.judge(t)
		row(w, []string{t.what, t.dataset, t.store, measured, verdict})
	}
	if left > 0 {
		fmt.Fprintf(w, "\n%d more are wanted of datasets and stores that were not in this run.\n", left)
	}
}

// judge holds one target against the medians.
func (r report) judge(t target) (measured, verdict string) {
	name := r.lockstep(t.codec)
	own, ok := r.good(t.dataset, t.store, name, t.op)
	if !ok || own.over || t.value(own) <= 0 {
		return name + ": not measured", "unknown"
	}
	var best figure
	name = ""
	for _, other := range t.others {
		f, ok := r.good(t.dataset, t.store, other, t.op)
		// A time that was cut off at the limit is a lower bound, which proves as much.
		if !ok || t.value(f) <= 0 {
			continue
		}
		if name == "" || t.value(f) < t.value(best) {
			name, best = other, f
		}
	}
	if name == "" {
		return "no rival measured", "unknown"
	}
	ratio := t.value(best) / t.value(own)
	measured = fmt.Sprintf("%.2f× of %s", ratio, name)
	if best.over {
		measured = "> " + measured
	}
	verdict = "reached"
	if ratio < t.atLeast {
		verdict = "**not reached**"
		if best.over {
			verdict = "unknown"
		}
	}
	return measured, verdict
}

// lockstep names the entry with the compressor, or the one as it comes.
func (r report) lockstep(codec string) string {
	for _, t := range r.tools {
		if codec != "" && t.codec == codec {
			return t.name
		}
	}
	if codec == "" {
		return "lockstep"
	}
	return "lockstep-" + codec
}
