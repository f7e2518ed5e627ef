//go:build linux

package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/image"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/node"
)

func (a *app) imageCommand() *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "Pack container images and load them into clusters"}
	c.AddCommand(a.imageLoadCommand(), imagePackCommand())
	return c
}

func (a *app) imageLoadCommand() *cobra.Command {
	return asRoot(&cobra.Command{
		Use: "load NAME TAR...", Short: "Load image archives into a running cluster", Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := node.Load(a.home, args[0])
			if err != nil {
				return err
			}
			if !c.Running() {
				return fmt.Errorf("cluster %q is not running", c.Name)
			}
			return c.ImportImages(cmd.Context(), args[1:]...)
		},
	})
}

func imagePackCommand() *cobra.Command {
	var out, tag string
	var config image.Config
	var links []string
	c := &cobra.Command{
		Use: "pack -o OUT.tar -t NAME:TAG [DST=SRC...]", Short: "Pack files and trees into an image archive",
		Long: `Packs files and trees into an image archive of one layer. SRC may be a file or a
directory; everything is owned by root. The same input gives the same bytes.`,
		Example: "  cluster image pack -o app.tar -t lockstep.test/app:1 -e /app /app=bin/app /etc/app=config",
		RunE: func(_ *cobra.Command, args []string) error {
			var l image.Layer
			for _, arg := range args {
				dst, src, ok := strings.Cut(arg, "=")
				if !ok || dst == "" || src == "" {
					return fmt.Errorf("file %q: want DST=SRC", arg)
				}
				if err := l.AddFile(dst, src); err != nil {
					return err
				}
			}
			for _, link := range links {
				dst, target, ok := strings.Cut(link, "=")
				if !ok {
					return fmt.Errorf("link %q: want NAME=TARGET", link)
				}
				l.AddLink(dst, target)
			}
			abs, err := filepath.Abs(out)
			if err != nil {
				return err
			}
			return image.Write(abs, tag, &l, config)
		},
	}
	f := c.Flags()
	f.StringVarP(&out, "out", "o", "", "archive to write")
	f.StringVarP(&tag, "tag", "t", "", "name and tag of the image")
	f.StringSliceVarP(&config.Entrypoint, "entrypoint", "e", nil, "program and arguments, separated by commas")
	f.StringSliceVarP(&config.Cmd, "cmd", "c", nil, "default arguments, separated by commas")
	f.StringArrayVar(&config.Env, "env", []string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}, "NAME=VALUE")
	f.StringVar(&config.User, "user", "", "user or user:group that containers run as")
	f.StringVar(&config.WorkingDir, "workdir", "", "directory that containers start in")
	f.StringArrayVarP(&links, "link", "l", nil, "symbolic link NAME=TARGET")
	for _, required := range []string{"out", "tag"} {
		if err := c.MarkFlagRequired(required); err != nil {
			panic(err) // the flag is named above
		}
	}
	return c
}
