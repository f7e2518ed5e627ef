//go:build linux

package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the supervisor, which reaps all children of
// its process and so needs one of its own.
func TestMain(m *testing.M) {
	if dir := os.Getenv("SUPERVISE_TEST_DIR"); dir != "" {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		sh := func(name, script string, wait func(context.Context) error) Process {
			return Process{Name: name, Argv: []string{"/bin/sh", "-c", script}, Env: []string{"D=" + dir}, Wait: wait}
		}
		err := Run(ctx, dir, []Process{
			sh("ends", `echo run >>$D/runs; (sleep 0.1 & ) ; exit 3`, nil),
			sh("waits", `test -s $D/runs && echo ok >$D/waited; exec sleep 1000`, File(filepath.Join(dir, "runs"))),
			{Name: "missing", Argv: []string{"/no/such/program"}},
		})
		fmt.Println(err)
		return
	}
	os.Exit(m.Run())
}

func TestRunRestartsAndOrders(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SUPERVISE_TEST_DIR="+dir)
	// A group of its own takes the place of the PID namespace.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Errorf("ending the supervisor: %v", err)
		}
		_ = cmd.Wait() // "signal: killed"
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := Poll(ctx, 20*time.Millisecond, func(context.Context) error {
		runs, _ := os.ReadFile(filepath.Join(dir, "runs"))
		log, _ := os.ReadFile(filepath.Join(dir, "ends.log"))
		missing, _ := os.ReadFile(filepath.Join(dir, "missing.log"))
		waited, _ := os.ReadFile(filepath.Join(dir, "waited"))
		if bytes.Count(runs, []byte("run")) < 2 || !bytes.Contains(log, []byte("exit code 3")) ||
			!bytes.Contains(missing, []byte("no such file")) || len(waited) == 0 {
			return fmt.Errorf("runs %q, log %q, missing %q, waited %q", runs, log, missing, waited)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestPollTellsTheLastError(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Millisecond, errors.New("too long"))
	defer cancel()
	want := errors.New("not yet")
	err := Poll(ctx, time.Millisecond, func(context.Context) error { return want })
	if !errors.Is(err, want) || err.Error() != "too long: not yet" {
		t.Errorf("got %v", err)
	}
}
