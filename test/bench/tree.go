package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// entry is what a path below a directory is: type, mode, owner, size and digest of its content; and the time it was modified.
type entry struct{ what, when string }

type tree map[string]entry

// same fails unless both directories hold the same tree, and prints a line if only times differ.
func same(ctx context.Context, a, b string) error {
	want, err := readTree(ctx, a)
	if err != nil {
		return err
	}
	got, err := readTree(ctx, b)
	if err != nil {
		return err
	}
	if err := want.differs(got, func(e entry) string { return e.what }); err != nil {
		return err
	}
	if err := want.differs(got, func(e entry) string { return e.when }); err != nil {
		fmt.Printf("times differ: %v\n", err)
	}
	return nil
}

func readTree(ctx context.Context, root string) (tree, error) {
	var mu sync.Mutex
	t := tree{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g.Go(func() error {
			e, err := describe(path, d)
			mu.Lock()
			defer mu.Unlock()
			t[path[len(root)+1:]] = e
			return err
		})
		return nil
	})
	if waitErr := g.Wait(); waitErr != nil {
		return nil, waitErr
	}
	return t, err
}

func describe(path string, d fs.DirEntry) (entry, error) {
	info, err := d.Info()
	if err != nil {
		return entry{}, err
	}
	e := entry{what: info.Mode().String(), when: info.ModTime().UTC().String()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		e.what += fmt.Sprintf(" %d:%d", st.Uid, st.Gid)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		e.what += " " + target
		return e, err
	case !info.Mode().IsRegular():
		return e, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return entry{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	e.what += fmt.Sprintf(" %d %x", n, h.Sum(nil))
	return e, err
}

// differs names one path that is not the same in both, and how many there are.
func (t tree) differs(got tree, aspect func(entry) string) error {
	var paths []string
	for path, want := range t {
		if aspect(got[path]) != aspect(want) {
			paths = append(paths, path)
		}
	}
	for path := range got {
		if _, ok := t[path]; !ok {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		return nil
	}
	first := slices.Min(paths)
	return fmt.Errorf("%d paths, the first %q: was %q, is %q", len(paths), first, aspect(t[first]), aspect(got[first]))
}

// size counts the regular files below a directory, their bytes, and those that take place on the disk.
func size(root string) (files, bytes, allocated int64, err error) {
	err = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files++
		bytes += info.Size()
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			allocated += st.Blocks * 512
		}
		return nil
	})
	return files, bytes, allocated, err
}
