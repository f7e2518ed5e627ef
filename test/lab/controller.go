package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Controller is the controller's manager as a process of this machine, so that a test can kill it.
type Controller struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

// RunController starts the manager with a kubeconfig; its log goes to a file in dir. The cluster must have none of its own running.
func (l *Lab) RunController(kubeconfig, dir string) (*Controller, error) {
	log, err := os.OpenFile(filepath.Join(dir, "controller.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &Controller{done: make(chan struct{}), log: log.Name()}
	// It ends by Kill, whatever becomes of the test's context.
	c.cmd = exec.CommandContext(context.Background(), l.Controller(), "manager", "--kubeconfig", kubeconfig, "--image", l.Image(), "--leader-elect=false",
		"--metrics-addr=127.0.0.1:0", "--health-addr=127.0.0.1:0")
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the controller: %w", err)
	}
	go func() {
		_ = c.cmd.Wait() // however it ended: a test kills it
		close(c.done)
	}()
	return c, nil
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (c *Controller) Kill() {
	_ = c.cmd.Process.Kill()
	<-c.done
}

// Dead waits until the process has ended.
func (c *Controller) Dead(ctx context.Context) error {
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the controller still runs: %w", ctx.Err())
	}
}

// Ended says whether the process has ended.
func (c *Controller) Ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Log is what the process has logged, those before it in the same directory included.
func (c *Controller) Log() string {
	data, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}
