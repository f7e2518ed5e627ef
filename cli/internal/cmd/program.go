// Package cmd holds the commands of the program, one file each: a constructor, the options with their flags, and what
// the command does.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/kube"
	"github.com/lockstep-dr/lockstep/cli/internal/progress"
)

// Program is what the commands get from the world around them.
type Program struct {
	// Name is how the program was called: "lockstep", or "kubectl lockstep" as a plugin.
	Name string
	// Version of this build, and the image of the controller that belongs to it; the image may be unknown.
	Version string
	Image   string
	In      io.Reader // answers; nil where nobody can be asked
	Out     io.Writer // results
	Err     io.Writer // progress and errors
	Getenv  func(string) string
	Now     func() time.Time
	// Terminal is the one that Err is, if it is one.
	Terminal progress.Terminal
	// Colour says that Out is one that shows colours.
	Colour bool

	cluster kube.Flags
	quiet   bool
}

// Run runs the program and returns its exit code.
func (p *Program) Run(ctx context.Context, args []string) fault.Code {
	root := p.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return fault.Done
	}
	var known *fault.Error
	switch {
	case !errors.As(err, &known): // cobra's own complaint about the command line
		err = &fault.Error{Code: fault.Usage, Err: err, Hint: "See: " + cmd.CommandPath() + " --help"}
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = fault.New(fault.Interrupted, "", "interrupted")
	}
	fmt.Fprintf(p.Err, "%s: %v\n", p.Name, err)
	if hint := fault.HintOf(err); hint != "" {
		fmt.Fprintf(p.Err, "  %s\n", hint)
	}
	return fault.CodeOf(err)
}

// board shows progress, unless the user wants none.
func (p *Program) board() *progress.Board {
	w := p.Err
	if p.quiet {
		w = io.Discard
	}
	return progress.New(w, p.Terminal, p.Now)
}

// note tells something beside the result.
func (p *Program) note(format string, args ...any) {
	if !p.quiet {
		fmt.Fprintf(p.Err, format+"\n", args...)
	}
}

// connect opens the cluster that the flags name.
func (p *Program) connect() (*kube.Cluster, error) { return p.cluster.Connect() }

// runs makes what a command does out of run. What run returns without a code has been tried and failed, unlike what
// cobra itself says of the command line, which is wrong usage.
func runs(run func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := kube.Explain(run(cmd.Context(), args))
		var known *fault.Error
		if err == nil || errors.As(err, &known) {
			return err
		}
		return &fault.Error{Code: fault.CodeOf(err), Err: err}
	}
}
