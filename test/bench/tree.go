package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"
)

// entry is what a path is: type, mode, owner, size and digest of its content; and the time it was modified.
type entry struct{ what, when string }

// differences counts the paths that are not the same in two trees, and keeps the first.
type differences struct {
	mu    sync.Mutex
	count int
	first string
	text  string
}

func (d *differences) note(path, want, got string) {
	if want == got {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count++
	if d.count == 1 || path < d.first {
		d.first, d.text = path, fmt.Sprintf("was %q, is %q", want, got)
	}
}

func (d *differences) String() string {
	if d.count == 0 {
		return ""
	}
	return fmt.Sprintf("%d paths, the first %q: %s", d.count, d.first, d.text)
}

// same fails unless both directories hold the same tree; if only times differ, it says so.
func same(ctx context.Context, want, got string) (note string, err error) {
	var what, when differences
	g, walking := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	err = below(walking, want, func(path string) {
		g.Go(func() error {
			a, err := describe(filepath.Join(want, path))
			if err != nil {
				return err
			}
			b, err := describe(filepath.Join(got, path))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			what.note(path, a.what, b.what)
			when.note(path, a.when, b.when)
			return nil
		})
	})
	err = errors.Join(g.Wait(), err)
	if err != nil {
		return "", err
	}
	err = below(ctx, got, func(path string) {
		if _, err := os.Lstat(filepath.Join(want, path)); err != nil {
			what.note(path, "", "there")
		}
	})
	if err == nil && what.count > 0 {
		err = errors.New(what.String())
	}
	return when.String(), err
}

// below calls visit for everything below a directory, by its path from there.
func below(ctx context.Context, root string, visit func(path string)) error {
	return filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		visit(path[len(root)+1:])
		return context.Cause(ctx)
	})
}

func describe(path string) (entry, error) {
	info, err := os.Lstat(path)
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
