//go:build linux

// Package cgroup makes and removes the cgroups a kubelet works below, with
// either version of the kernel's interface. It touches no cgroup that it did
// not make.
package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const mountpoint = "/sys/fs/cgroup"

// Make makes the cgroup /name in every hierarchy.
func Make(name string) error {
	if unified() {
		return makeUnified(name)
	}
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making cgroup: %w", err)
		}
		// A cpuset without processors and memory takes no process.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if err := copyFile(filepath.Join(dir, f), filepath.Join(root, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("filling cgroup: %w", err)
			}
		}
	}
	return nil
}

// Remove removes the cgroup /name and all below it, from every hierarchy,
// waiting for processes in them that are about to end.
func Remove(ctx context.Context, name string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := removeTree(ctx, filepath.Join(root, name)); err != nil {
			return fmt.Errorf("removing cgroup: %w", err)
		}
	}
	return nil
}

func removeTree(ctx context.Context, dir string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := removeOnce(dir)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func removeOnce(dir string) error {
	children, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, c := range children {
		if c.IsDir() {
			if err := removeOnce(filepath.Join(dir, c.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

func unified() bool {
	var st unix.Statfs_t
	return unix.Statfs(mountpoint, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// makeUnified also hands the controllers that the kubelet wants down to the
// cgroup; the root's own list is only ever added to.
func makeUnified(name string) error {
	dir := filepath.Join(mountpoint, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making cgroup: %w", err)
	}
	for _, d := range []string{mountpoint, dir} {
		have, err := os.ReadFile(filepath.Join(d, "cgroup.controllers"))
		if err != nil {
			return err
		}
		var add []string
		for _, c := range strings.Fields(string(have)) {
			add = append(add, "+"+c)
		}
		if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte(strings.Join(add, " ")), 0); err != nil {
			return fmt.Errorf("enabling controllers in %q: %w", d, err)
		}
	}
	return nil
}

// hierarchies returns the roots of all hierarchies.
func hierarchies() ([]string, error) {
	if unified() {
		return []string{mountpoint}, nil
	}
	dirs, err := os.ReadDir(mountpoint)
	if err != nil {
		return nil, fmt.Errorf("listing cgroup hierarchies: %w", err)
	}
	var roots []string
	for _, d := range dirs {
		root := filepath.Join(mountpoint, d.Name())
		var st unix.Statfs_t
		// Links such as cpu,cpuacct lead to a hierarchy that is listed anyway.
		// The unified one may be mounted beside the others.
		if d.IsDir() && unix.Statfs(root, &st) == nil && (st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC) {
			roots = append(roots, root)
		}
	}
	return roots, nil
}

func copyFile(dst, src string) error {
	b, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, bytes.TrimSpace(b), 0)
}
