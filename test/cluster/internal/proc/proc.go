//go:build linux

// Package proc identifies processes so that a recorded one is never confused
// with a later one that got the same number.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ID names one process of one boot of the machine.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot
	Boot  string `json:"boot"`  // the kernel's boot id
}

// Identify returns the identity of the running process with this number.
func Identify(pid int) (ID, error) {
	start, state, err := stat(pid)
	if err != nil {
		return ID{}, err
	}
	if state == 'Z' {
		return ID{}, fmt.Errorf("process %d has ended", pid)
	}
	boot, err := bootID()
	if err != nil {
		return ID{}, err
	}
	return ID{PID: pid, Start: start, Boot: boot}, nil
}

// Alive says whether the process still runs. A zombie does not: whoever should
// reap it may be slow, but it holds nothing any more.
func (id ID) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	now, err := Identify(id.PID)
	return err == nil && now == id
}

// ThisBoot says whether the process was of the machine's current boot.
func (id ID) ThisBoot() bool {
	boot, err := bootID()
	return err == nil && id.Boot == boot
}

// Kill ends the process at once and waits until it is gone. For the first
// process of a PID namespace this ends every process in it. A process that is
// gone already is no error.
func (id ID) Kill(ctx context.Context) error {
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || !id.Alive() {
		if err == nil {
			_ = unix.Close(fd)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening process %d: %w", id.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("killing process %d: %w", id.PID, err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for id.Alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for process %d to end: %w", id.PID, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// Path is where the processes of clusters find programs.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Spawn starts this program again, with these arguments, as the first process
// of a new session and of the given new namespaces (unix.CLONE_NEW…), which
// outlives its parent. Its output goes to the file at log. It must read one
// byte from its standard input before it does anything: the parent writes it
// through the returned release function once it has recorded the process, so
// that no process is ever running that no state file names.
func Spawn(log string, namespaces uintptr, args ...string) (id ID, release func() error, err error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return ID{}, nil, err
	}
	defer func() { _ = out.Close() }()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = "/"
	// What a cluster does must not depend on its user's settings, say proxies,
	// and their secrets are none of its business.
	cmd.Env = []string{"PATH=" + Path, "HOME=/root", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return ID{}, nil, err
	}
	if err := cmd.Start(); err != nil {
		return ID{}, nil, fmt.Errorf("starting %q: %w", strings.Join(args, " "), err)
	}
	go func() { _ = cmd.Wait() }() // reaps it, should this process live longer
	if id, err = Identify(cmd.Process.Pid); err != nil {
		_ = in.Close()
		return ID{}, nil, err
	}
	return id, func() error {
		_, err := in.Write([]byte{1})
		return errors.Join(err, in.Close())
	}, nil
}

// AwaitRelease is the child's side of Spawn.
func AwaitRelease() error {
	var b [1]byte
	if n, err := os.Stdin.Read(b[:]); n != 1 {
		return fmt.Errorf("the starting process went away: %w", err)
	}
	return nil
}

func stat(pid int) (start uint64, state byte, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field is a name in parentheses that may itself hold spaces
	// and parentheses: count from the last one.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 20 {
		return 0, 0, fmt.Errorf("unexpected content of /proc/%d/stat", pid)
	}
	start, err = strconv.ParseUint(string(f[19]), 10, 64)
	return start, f[0][0], err
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
