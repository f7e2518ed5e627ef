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
		Name:    name(os.Args[0]),
		Version: buildVersion(),
		Image:   image,
		Out:     os.Stdout,
		Err:     os.Stderr,
		Getenv:  os.Getenv,
		Now:     time.Now,
		Width:   terminalWidth(os.Stderr),
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

// terminalWidth is the width of the terminal that f is, or 0 where lines must not be redrawn: in files and pipes, in
// terminals without cursor movement, in CI, and in Windows consoles, which need not understand it.
func terminalWidth(f *os.File) int {
	if runtime.GOOS == "windows" || os.Getenv("TERM") == "dumb" || os.Getenv("CI") != "" {
		return 0
	}
	fd := int(f.Fd())
	if !term.IsTerminal(fd) {
		return 0
	}
	width, _, err := term.GetSize(fd)
	if err != nil || width <= 0 {
		return 80
	}
	return width
}
