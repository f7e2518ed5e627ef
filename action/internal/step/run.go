package step

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Command is one run of the lockstep program.
type Command struct {
	Args []string
	Env  []string
	// Out gets what it prints, Err how it goes on.
	Out, Err io.Writer
}

// Runner runs the program and gives its exit code. An error means that it did not run or did not end by itself.
type Runner func(context.Context, Command) (int, error)

// ended is how the program ended.
type ended struct {
	code     int
	out, log bytes.Buffer
}

// why is the last of what the program said before it failed: its error, and the hint below it.
func (e *ended) why() string {
	lines := strings.Split(strings.TrimSpace(e.log.String()), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if text, ok := strings.CutPrefix(lines[i], "lockstep: "); ok {
			return strings.Join(append([]string{text}, lines[i+1:]...), " ")
		}
	}
	return lines[len(lines)-1]
}

// Program runs the program of a path, or of a name on the PATH. A job that is cancelled lets it end in order.
func Program(path string) Runner {
	return func(ctx context.Context, c Command) (int, error) {
		run := exec.CommandContext(ctx, path, c.Args...)
		run.Env, run.Stdout, run.Stderr = c.Env, c.Out, c.Err
		run.Cancel = func() error { return run.Process.Signal(syscall.SIGTERM) }
		run.WaitDelay = 10 * time.Second
		err := run.Run()
		var exit *exec.ExitError
		if errors.As(err, &exit) && ctx.Err() == nil && exit.ExitCode() >= 0 {
			return exit.ExitCode(), nil
		}
		return run.ProcessState.ExitCode(), err
	}
}
