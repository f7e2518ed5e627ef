//go:build linux

// Package supervise is the init of a PID namespace: it starts a set of
// processes, restarts those that end, and reaps orphans.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// Process is one supervised program.
type Process struct {
	Name string
	Argv []string // Argv[0] is the path of the program
	Env  []string // added to the environment
	// Wait returns when the process may start; nil means at once.
	Wait func(context.Context) error
}

// restartAfter is how long an ended process stays down: long enough that a
// process that cannot start does not eat the machine.
const restartAfter = time.Second

// Run supervises the processes until the context ends. It must be called by
// process 1 of a PID namespace, and nothing else there may start or wait for
// processes meanwhile: Run reaps every child.
func Run(ctx context.Context, logDir string, procs []Process) error {
	s := &supervisor{logDir: logDir, running: map[int]chan<- syscall.WaitStatus{}}
	child := make(chan os.Signal, 1)
	signal.Notify(child, syscall.SIGCHLD)
	defer signal.Stop(child)

	var wg sync.WaitGroup
	for _, p := range procs {
		wg.Go(func() { s.keep(ctx, p) })
	}
	for {
		select {
		case <-ctx.Done():
			s.killAll()
			wg.Wait()
			return nil
		case <-child:
			s.reap()
		}
	}
}

type supervisor struct {
	logDir  string
	mu      sync.Mutex // held while starting, so that no exit is missed
	running map[int]chan<- syscall.WaitStatus
}

// keep starts the process, again and again, until the context ends.
func (s *supervisor) keep(ctx context.Context, p Process) {
	log, err := os.OpenFile(filepath.Join(s.logDir, p.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		return
	}
	defer func() { _ = log.Close() }()
	if p.Wait != nil {
		if err := p.Wait(ctx); err != nil {
			fmt.Fprintf(log, "supervise: not started: %v\n", err)
			return
		}
	}
	for {
		ended, err := s.start(p, log)
		if err != nil {
			fmt.Fprintf(log, "supervise: starting: %v\n", err)
		} else {
			select {
			case <-ctx.Done():
				return
			case status := <-ended:
				fmt.Fprintf(log, "supervise: %s ended: %s\n", p.Name, describe(status))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(restartAfter):
		}
	}
}

func (s *supervisor) start(p Process, log *os.File) (<-chan syscall.WaitStatus, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }()
	s.mu.Lock()
	defer s.mu.Unlock()
	proc, err := os.StartProcess(p.Argv[0], p.Argv, &os.ProcAttr{
		Dir: "/", Env: append(os.Environ(), p.Env...), Files: []*os.File{null, log, log},
	})
	if err != nil {
		return nil, err
	}
	ended := make(chan syscall.WaitStatus, 1)
	s.running[proc.Pid] = ended
	return ended, proc.Release()
}

// reap collects every child that has ended, ours and the orphans.
func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		s.mu.Lock()
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		ended := s.running[pid]
		delete(s.running, pid)
		s.mu.Unlock()
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ended != nil {
			ended <- status
		}
	}
}

func (s *supervisor) killAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pid := range s.running {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func describe(s syscall.WaitStatus) string {
	if s.Signaled() {
		return "signal " + s.Signal().String()
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}
