package cmd

import (
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
)

type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Image    string `json:"image,omitempty"`
}

func (p *Program) versionCommand() *cobra.Command {
	var format output.Format
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version of this program",
		Args:  cobra.NoArgs,
		RunE: runs(func(context.Context, []string) error {
			v := versionInfo{p.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, p.Image}
			return format.Print(p.Out, v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "lockstep %s (%s, %s)\n", v.Version, v.Go, v.Platform)
				return err
			})
		}),
	}
	format.AddFlag(cmd)
	return cmd
}
