package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// result is one measurement of one operation.
type result struct {
	Dataset   string `json:"dataset"`
	Store     string `json:"store"`
	Tool      string `json:"tool"`
	Operation string `json:"operation"`
	Round     int    `json:"round"`
	cost
	// Stored is what the repository grew by.
	Stored   int64 `json:"storedBytes"`
	Requests int64 `json:"requests,omitempty"`
	// Over says that the operation was ended at the limit: it takes longer than this.
	Over bool `json:"overLimit,omitempty"`
	// Note is what was not right, but is not a failure: times that did not come back.
	Note string `json:"note,omitempty"`
	// Fault is how it failed, or how the loaded tree differs.
	Fault string `json:"fault,omitempty"`
}

// madeData is a dataset on the disk.
type madeData struct {
	dataset
	dir                     string
	files, bytes, allocated int64
}

type bench struct {
	options
	self    string
	tools   []tool
	missing []string
	made    []madeData
	results []result
	// given are operations that went over the limit or failed: they are not tried again.
	given map[string]bool
}

func newBench(ctx context.Context, o options) (*bench, error) {
	b := &bench{options: o, given: map[string]bool{}}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if b.lockstep, err = filepath.Abs(o.lockstep); err != nil {
		return nil, err
	}
	found, missing := findTools(ctx, b.lockstep, b.self)
	b.missing = missing
	b.tools = slices.DeleteFunc(found, func(t tool) bool { return !o.with.has(t.name) })
	if o.work == "" {
		b.work = o.data
	}
	if err := os.MkdirAll(b.data, 0o755); err != nil {
		return nil, err
	}
	if b.work, err = os.MkdirTemp(b.work, "work-"); err != nil {
		return nil, err
	}
	return b, nil
}

func (b *bench) clean() {
	if err := os.RemoveAll(b.work); err != nil {
		progress("removing %s: %v", b.work, err)
	}
}

// run makes the data that is wanted and measures, round by round.
func (b *bench) run(ctx context.Context) error {
	var wanted list
	for _, d := range datasets() {
		if b.only.has(d.name) {
			wanted = append(wanted, append(need(d.name), d.name)...)
		}
	}
	for _, d := range datasets() {
		if !slices.Contains(wanted, d.name) {
			continue
		}
		dir, err := d.prepared(ctx, b.self, b.data)
		if err != nil {
			return err
		}
		if !b.only.has(d.name) {
			continue
		}
		m := madeData{dataset: d, dir: dir}
		if m.files, m.bytes, m.allocated, err = size(dir); err != nil {
			return err
		}
		b.made = append(b.made, m)
	}
	for round := range b.rounds {
		for _, d := range b.made {
			for _, kind := range stores {
				if !b.measured(d.name, kind, round) {
					continue
				}
				if err := b.turn(ctx, d, kind, round); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// measured is the usual choice of what is measured in a round, so that five of them take three quarters of an hour: what most figures are
// wanted of each time, what the others are wanted of every second time, and the rest once, to see that nothing is out of
// line. What is asked for by name is measured each time.
func (b *bench) measured(dataset, kind string, round int) bool {
	switch {
	case !b.stores.has(kind):
		return false
	case b.all, len(b.only) > 0, len(b.stores) > 0:
		return true
	}
	switch dataset + " " + kind {
	case "pg " + storeLocal:
		return true
	case "pg " + storeFar, "small " + storeLocal:
		return round%2 == 0
	case "pg " + storeS3, "small " + storeFar, "mix " + storeLocal, "media " + storeLocal, "image " + storeLocal:
		return round == 0
	}
	return false
}

// turn measures every tool once; another one begins in each round.
func (b *bench) turn(ctx context.Context, d madeData, kind string, round int) error {
	for i := range b.tools {
		t := b.tools[(i+round)%len(b.tools)]
		if t.beside && kind != storeLocal {
			continue
		}
		progress("round %d: %s, %s, %s", round+1, d.name, kind, t.name)
		if err := b.repeat(ctx, t, d, kind, round); err != nil {
			return err
		}
	}
	return nil
}

// repeat runs all operations of one tool with a repository of its own. Only what the benchmark itself fails at is an
// error: a tool's failure is a result.
func (b *bench) repeat(ctx context.Context, t tool, d madeData, kind string, round int) error {
	dir, err := os.MkdirTemp(b.work, "run-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := openStore(ctx, kind, dir)
	if err != nil {
		return err
	}
	defer s.close()
	if err := warm(ctx, d.dir); err != nil {
		return err
	}
	r := &repetition{tool: t, round: round, dir: dir, source: d.dir, store: s, sparse: d.allocated < d.bytes*9/10}
	for _, op := range operations {
		key := strings.Join([]string{t.name, d.name, kind, op}, "/")
		if len(t.command(r, op).args) == 0 || op == opLoad && b.given[key] {
			continue
		}
		if b.given[key] {
			return nil
		}
		res := result{Dataset: d.name, Store: kind, Tool: t.name, Operation: op, Round: round + 1}
		do := func() error { return b.operate(ctx, r, op, &res) }
		switch op {
		case opEdit:
			err = d.edited(d.dir, uint64(round), do)
		case opLoad:
			err = b.onVolume(ctx, r, d, do)
		default:
			err = do()
		}
		if err != nil {
			return err
		}
		b.results = append(b.results, res)
		if res.Over || res.Fault != "" {
			b.given[key] = true
			progress("%s: %s", key, cmp.Or(res.Fault, errOverLimit.Error()))
			if op != opLoad {
				return nil // the others need it
			}
		}
	}
	return nil
}

// operate measures one operation.
func (b *bench) operate(ctx context.Context, r *repetition, op string, res *result) error {
	fault := r.prepare(ctx, op)
	before, err := r.store.usage(ctx)
	if err != nil {
		return err
	}
	if fault == nil {
		fault = b.attempt(ctx, r, op, res)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	after, err := r.store.usage(ctx)
	if err != nil {
		return err
	}
	res.Stored, res.Requests = after.Bytes-before.Bytes, after.Requests-before.Requests
	switch {
	case errors.Is(fault, errOverLimit):
		res.Over = true
	case fault != nil:
		res.Fault = fault.Error()
	}
	return nil
}

// onVolume does what has a target, in a fresh file system.
func (b *bench) onVolume(ctx context.Context, r *repetition, d madeData, do func() error) error {
	v, err := mountVolume(ctx, b.data, r.dir, d.files, max(d.bytes, d.allocated))
	if err != nil {
		return err
	}
	r.target = filepath.Join(v.dir, "target")
	return errors.Join(do(), v.close())
}

// prepare does what is not measured.
func (r *repetition) prepare(ctx context.Context, op string) error {
	if r.tool.before != nil {
		if err := r.tool.before(ctx, r, op); err != nil {
			return err
		}
	}
	if op == opLoad && !r.tool.beside {
		return os.Mkdir(r.target, 0o755)
	}
	return nil
}

// attempt runs the operation and returns how it failed.
func (b *bench) attempt(ctx context.Context, r *repetition, op string, res *result) error {
	took, stdout, err := measure(ctx, r.tool.command(r, op), b.limit)
	res.cost = took
	switch {
	case err != nil:
		return err
	case isSave(op) && r.tool.saved != nil:
		return r.tool.saved(r, stdout)
	case op == opLoad && r.round == 0:
		res.Note, err = b.compareTrees(ctx, r)
	}
	return err
}

// warm reads the source, so that it comes from memory for every tool.
func warm(ctx context.Context, dir string) error {
	return walkFiles(dir, func(path string, _ int64) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(io.Discard, f)
		return err
	})
}

// compareTrees holds the loaded tree against the source, in a process of its own: what it needs would count as memory of
// every process started later.
func (b *bench) compareTrees(ctx context.Context, r *repetition) (note string, err error) {
	loaded := r.target
	if r.tool.loaded != nil {
		loaded = r.tool.loaded(r)
	}
	out, err := exec.CommandContext(ctx, b.self, "-mode", modeSame, r.source, loaded).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("comparing what was loaded: %w: %s", err, lastLines(string(out), 2))
	}
	return lastLines(string(out), 1), nil
}

// machine is what the figures hold for.
func (b *bench) machine() string {
	cpu := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				cpu = strings.TrimSpace(strings.TrimLeft(name, "\t :"))
				break
			}
		}
	}
	memory := ""
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		var total int64
		if _, err := fmt.Sscanf(string(info), "MemTotal: %d kB", &total); err == nil {
			memory = fmt.Sprintf(", %.0f GB of memory", float64(total)/1e6)
		}
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		kernel = []byte("unknown")
	}
	return fmt.Sprintf("%d cores of %s%s, Linux %s, %s, %s", runtime.NumCPU(), cpu, memory, strings.TrimSpace(string(kernel)),
		runtime.Version(), time.Now().Format(time.DateOnly))
}
