// Lockstep-action is what the steps of the GitHub Action run. It reads its inputs from the environment, runs the lockstep program
// beside it, and tells the runner what came of it.
package main

import (
	"cmp"
	"context"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lockstep-dr/lockstep/action/internal/github"
	"github.com/lockstep-dr/lockstep/action/internal/step"
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	j := &step.Job{
		Out:     os.Stdout,
		Err:     os.Stderr,
		Getenv:  os.Getenv,
		Environ: os.Environ,
		Run:     step.Program(cmp.Or(os.Getenv("LOCKSTEP"), "lockstep")),
		HTTP:    &http.Client{Timeout: 30 * time.Second},
		Wait:    github.Wait,
	}
	return j.Main(ctx, os.Args[1:])
}
