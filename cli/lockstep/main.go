// Lockstep is the command line of the disaster recovery system of the same name. Called kubectl-lockstep, it is a
// plugin of kubectl.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/term"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/lockstep-dr/lockstep/cli/internal/cmd"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
)

// Set by the linker for releases: the version, and the controller's image that belongs to it.
var version, image string

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal ends the work in order; with the handler gone, a second one kills.
	context.AfterFunc(ctx, stop)

	log.SetLogger(logr.Discard()) // what matters is in errors; the libraries' logs would spoil the progress
	p := &cmd.Program{
		Name:     name(os.Args[0]),
		Version:  buildVersion(),
		Image:    image,
		In:       os.Stdin,
		Out:      os.Stdout,
		Err:      os.Stderr,
		Getenv:   os.Getenv,
		Now:      time.Now,
		Terminal: terminal(os.Stderr),
		Colour:   terminal(os.Stdout).Colour,
	}
	return int(p.Run(ctx, os.Args[1:]))
}

func name(arg0 string) string {
	if strings.HasPrefix(filepath.Base(arg0), "kubectl-") {
		return "kubectl lockstep"
	}
	return "lockstep"
}

// buildVersion is the version of a release, else what the Go toolchain knows of the build.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// terminal is what f is, or none where lines must not be redrawn: in files and pipes, in terminals without cursor movement,
// in CI, and in Windows consoles, which need not understand it.
func terminal(f *os.File) progress.Terminal {
	fd := int(f.Fd())
	if runtime.GOOS == "windows" || os.Getenv("TERM") == "dumb" || os.Getenv("CI") != "" || !term.IsTerminal(fd) {
		return progress.Terminal{}
	}
	return progress.Terminal{
		Colour: os.Getenv("NO_COLOR") == "",
		Size: func() (columns, rows int) {
			columns, rows, err := term.GetSize(fd)
			if err != nil || columns <= 0 || rows <= 0 {
				return 80, 24
			}
			return columns, rows
		},
	}
}
