package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is what one operation of one tool runs.
type command struct {
	args []string
	env  []string // beside PATH
}

// cost is what a whole process took.
type cost struct {
	Wall float64 `json:"wallSeconds"`
	CPU  float64 `json:"cpuSeconds"` // user and system
	RSS  int64   `json:"peakBytes"`  // the largest resident set, page cache not counted
}

// errOverLimit is returned for a process that was ended because it took too long.
var errOverLimit = errors.New("over the time limit")

// measure runs a command to its end and returns what it took and printed. Everything written before is on disk when it
// starts, so that it does not pay for others.
func measure(ctx context.Context, c command, limit time.Duration) (cost, []byte, error) {
	unix.Sync()
	limited, cancel := context.WithTimeoutCause(ctx, limit, errOverLimit)
	defer cancel()
	cmd := exec.CommandContext(limited, c.args[0], c.args[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}, c.env...)
	// A shell's children must end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	took := cost{Wall: time.Since(start).Seconds()}
	if state := cmd.ProcessState; state != nil {
		took.CPU = (state.UserTime() + state.SystemTime()).Seconds()
		if u, ok := state.SysUsage().(*syscall.Rusage); ok {
			took.RSS = u.Maxrss * 1024
		}
	}
	switch {
	case err == nil:
		return took, stdout.Bytes(), nil
	case limited.Err() != nil:
		return took, nil, context.Cause(limited)
	default:
		return took, nil, fmt.Errorf("%s: %w: %s", strings.Join(c.args, " "), err, lastLines(stderr.String(), 5))
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
