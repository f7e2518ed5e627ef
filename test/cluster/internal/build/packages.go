//go:build linux

package build

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/proc"
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
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this machine lacks the packages %q, and apt-get to install them: %w", missing, err)
	}
	err := b.Step("installing packages: "+strings.Join(missing, " "), func() error {
		return aptGet(ctx, append([]string{"install", "-y", "-q", "--no-install-recommends"}, missing...)...)
	})
	if err != nil {
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
		wait := []string{"-o", "DPkg::Lock::Timeout=300"} // another invocation may be at it
		_, err := run(ctx, "", []string{"DEBIAN_FRONTEND=noninteractive"}, "apt-get", append(wait, args...)...)
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
		if !installed(program) {
			missing = append(missing, pkg)
		}
	}
	sort.Strings(missing)
	return slices.Compact(missing)
}

// installed looks where clusters will look, which is not the user's PATH.
func installed(program string) bool {
	if filepath.IsAbs(program) {
		return exists(program)
	}
	return slices.ContainsFunc(filepath.SplitList(proc.Path), func(dir string) bool {
		return exists(filepath.Join(dir, program))
	})
}
