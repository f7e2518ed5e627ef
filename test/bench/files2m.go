package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

const (
	many = 2_000_000
	// wantedPeak is what no operation on so many files may exceed.
	wantedPeak = 512 * mib
)

func manyFiles() dataset {
	return dataset{name: "files2m", what: "2,000,000 files of 100 to 2,000 bytes", make: makeMany, pick: pickFiles}
}

// makeMany makes two million files of 100 to 2,000 bytes in 2,000 directories.
func makeMany(ctx context.Context, dir, _ string) error {
	r := rand.New(rand.NewPCG(4, 0))
	words := vocabulary(r)
	var buf []byte
	for i := range many {
		sub := filepath.Join(dir, fmt.Sprintf("d%02d", i/1000/50), fmt.Sprintf("s%02d", i/1000%50))
		if i%1000 == 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		buf = text(buf[:0], r, words, 100+r.IntN(1901))
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%07d", i)), buf, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// files2M measures how much memory lockstep needs for two million files, with nothing set to restrain it.
func files2M(ctx context.Context, o options) error {
	o.with, o.limit, o.rounds = list{"lockstep"}, 30*time.Minute, 1
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer b.clean()
	if len(b.tools) != 1 {
		return fmt.Errorf("there is no lockstep to measure: %v", b.missing)
	}
	d := manyFiles()
	dir, err := d.prepared(ctx, b.self, b.data)
	if err != nil {
		return err
	}
	m := madeData{dataset: d, dir: dir}
	if m.files, m.bytes, m.allocated, err = size(dir); err != nil {
		return err
	}
	runErr := b.turn(ctx, m, storeLocal, 0)
	fmt.Printf("%s\n\n%s: %d files, %s\n\n", b.machine(), d.what, m.files, megabytes(m.bytes))
	row(os.Stdout, []string{"operation", "wall", "processor", "peak memory", "under 512 MiB"})
	row(os.Stdout, []string{"---", "---", "---", "---", "---"})
	for _, r := range b.results {
		verdict := "yes"
		switch {
		case r.Fault != "" || r.Over:
			verdict = "did not finish"
		case r.RSS >= wantedPeak:
			verdict = "**no**"
		}
		row(os.Stdout, []string{r.Operation, fmt.Sprintf("%.1f s", r.Wall), fmt.Sprintf("%.1f s", r.CPU), megabytes(r.RSS), verdict})
		if r.Fault != "" {
			runErr = errors.Join(runErr, errors.New(r.Fault))
		}
	}
	return errors.Join(runErr, writeJSON(o.json, b.results))
}
