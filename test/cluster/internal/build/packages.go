//go:build linux

package build

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"sort"
	"strings"
)

// needed maps each program or file that a cluster or the lab uses to the
// package of Debian that has it.
func needed() map[string]string {
	return map[string]string{
		"containerd":                         "containerd",
		"runc":                               "runc",
		"/usr/lib/cni/ptp":                   "containernetworking-plugins",
		"iptables":                           "iptables",
		"mkfs.btrfs":                         "btrfs-progs",
		"mount":                              "mount",
		"nsenter":                            "util-linux",
		"git":                                "git",
		"/usr/lib/git-core/git-http-backend": "git",
		"ceph-mon":                           "ceph-mon",
		"ceph-osd":                           "ceph-osd",
		"radosgw":                            "radosgw",
		"ceph":                               "ceph-common",
	}
}

// Packages installs what is missing on this machine. It needs root, and a
// system with apt only when something is missing.
func (b Builder) Packages(ctx context.Context) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	defer b.Say("installing packages: " + strings.Join(missing, " "))()
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this machine lacks the packages %q, and apt-get to install them: %w", missing, err)
	}
	if err := aptGet(ctx, append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)...); err != nil {
		return fmt.Errorf("installing packages: %w", err)
	}
	if still := missingPackages(); len(still) > 0 {
		return fmt.Errorf("the packages %q are installed, but not what they should hold", still)
	}
	return nil
}

// aptGet runs apt-get, a second time with fresh lists of packages when those
// it has do not do.
func aptGet(ctx context.Context, args ...string) error {
	try := func(args ...string) error {
		_, err := run(ctx, "", []string{"DEBIAN_FRONTEND=noninteractive"}, "apt-get", args...)
		return err
	}
	first := try(args...)
	if first == nil {
		return nil
	}
	if err := try("update", "-q"); err != nil {
		return errors.Join(first, err)
	}
	return try(args...)
}

func missingPackages() []string {
	var missing []string
	for program, pkg := range needed() {
		if strings.HasPrefix(program, "/") {
			if exists(program) {
				continue
			}
		} else if _, err := exec.LookPath(program); err == nil {
			continue
		}
		missing = append(missing, pkg)
	}
	sort.Strings(missing)
	return slices.Compact(missing)
}
