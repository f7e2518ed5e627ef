//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/build"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/lab"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/node"
)

// everything is what the build commands make.
type everything struct {
	binaries build.Binaries
	images   []string
}

func (a *app) build(ctx context.Context) (everything, error) {
	b := a.builder()
	if err := b.Packages(ctx); err != nil {
		return everything{}, err
	}
	binaries, err := b.Binaries(ctx)
	if err != nil {
		return everything{}, err
	}
	images, err := b.Images(ctx, binaries)
	return everything{binaries: binaries, images: images}, err
}

func (a *app) buildCommand() *cobra.Command {
	return asRoot(&cobra.Command{
		Use: "build", Short: "Build and cache everything that clusters run from", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			made, err := a.build(cmd.Context())
			if err == nil {
				a.steps.say("everything is in %s", filepath.Dir(filepath.Dir(made.binaries.Bin())))
			}
			return err
		},
	})
}

func (a *app) assetsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "assets", Short: "Print the directory of etcd, kube-apiserver and kubectl, building them when absent", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			binaries, err := a.builder().Binaries(cmd.Context())
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), binaries.Bin())
			}
			return err
		},
	}
}

func (a *app) upCommand() *cobra.Command {
	var output string
	poolMiB := 32 << 10
	c := asRoot(&cobra.Command{
		Use: "up NAME...", Short: "Bring clusters up and wait until they are ready", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			for _, n := range names {
				if err := node.CheckName(n); err != nil {
					return err
				}
			}
			clusters, err := a.up(cmd.Context(), names, poolMiB)
			if err != nil {
				return err
			}
			return printClusters(cmd.OutOrStdout(), output, clusters)
		},
	})
	addOutput(c, &output)
	c.Flags().IntVar(&poolMiB, "pool-size", poolMiB, "size in MiB of the file system for volumes; only what is used takes space")
	return c
}

func (a *app) up(ctx context.Context, names []string, poolMiB int) ([]node.Cluster, error) {
	made, err := a.build(ctx)
	if err != nil {
		return nil, err
	}
	l, err := lab.Up(ctx, a.home)
	if err != nil {
		return nil, err
	}
	clusters := make([]node.Cluster, len(names))
	g, ctx := errgroup.WithContext(ctx)
	for i, n := range names {
		g.Go(func() (err error) {
			clusters[i], err = node.Up(ctx, a.home, n, node.Options{
				Lab: node.Lab{Bridge: l.Bridge, Index: l.Index, Gateway: l.Address},
				Bin: made.binaries.Bin(), CRDs: made.binaries.CRDs(), Images: made.images, PoolMiB: poolMiB,
				Step: func(cluster, what string) { a.steps.say("%s: %s", cluster, what) },
			})
			return err
		})
	}
	return clusters, g.Wait()
}

func (a *app) downCommand() *cobra.Command {
	var all bool
	c := asRoot(&cobra.Command{
		Use: "down {NAME... | --all}", Short: "End clusters and remove everything they made; --all also ends the lab",
		RunE: func(cmd *cobra.Command, names []string) error {
			if all != (len(names) == 0) {
				return errors.New("name the clusters, or say --all")
			}
			if all {
				clusters, err := os.ReadDir(a.home.Clusters())
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
				for _, c := range clusters {
					names = append(names, c.Name())
				}
			}
			if err := a.down(cmd.Context(), names); err != nil || !all {
				return err
			}
			return lab.Down(cmd.Context(), a.home)
		},
	})
	c.Flags().BoolVar(&all, "all", false, "every cluster, and the lab")
	return c
}

func (a *app) down(ctx context.Context, names []string) error {
	var g errgroup.Group // each is to be tried, whatever becomes of the others
	for _, n := range names {
		g.Go(func() error {
			if err := node.Down(ctx, a.home, n); err != nil {
				return err
			}
			a.steps.say("%s: down", n)
			return nil
		})
	}
	return g.Wait()
}

func (a *app) killCommand() *cobra.Command {
	return asRoot(&cobra.Command{
		Use: "kill NAME", Short: "Pull the plug of a running cluster: everything in it ends at once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			c, err := node.Load(a.home, names[0])
			if err != nil {
				return err
			}
			if !c.Running() {
				return fmt.Errorf("cluster %q is not running", c.Name)
			}
			return a.down(cmd.Context(), names)
		},
	})
}

func (a *app) statusCommand() *cobra.Command {
	var output string
	c := asRoot(&cobra.Command{
		Use: "status", Short: "List the clusters", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			clusters, err := node.List(a.home)
			if err != nil {
				return err
			}
			return printClusters(cmd.OutOrStdout(), output, clusters)
		},
	})
	addOutput(c, &output)
	return c
}

func (a *app) kubectlCommand() *cobra.Command {
	return asRoot(&cobra.Command{
		Use: "kubectl NAME ARG...", Short: "Run kubectl as the cluster's administrator", Args: cobra.MinimumNArgs(1), DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := node.Load(a.home, args[0])
			if err != nil {
				return err
			}
			k := exec.CommandContext(cmd.Context(), filepath.Join(c.Bin, "kubectl"), append([]string{"--kubeconfig=" + c.Kubeconfig}, args[1:]...)...)
			k.Env = append(os.Environ(), "NO_PROXY="+c.Address+","+os.Getenv("NO_PROXY"))
			k.Stdin, k.Stdout, k.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			err = k.Run()
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				return exitCode(exit.ExitCode())
			}
			return err
		},
	})
}

func (a *app) logsCommand() *cobra.Command {
	return asRoot(&cobra.Command{
		Use: "logs NAME COMPONENT", Short: "Print the log of a part of a cluster, say of kubelet", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := node.Load(a.home, args[0])
			if err != nil {
				return err
			}
			log, err := c.Log(args[1])
			if err != nil {
				return err
			}
			defer func() { _ = log.Close() }()
			_, err = io.Copy(cmd.OutOrStdout(), log)
			return err
		},
	})
}

func addOutput(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "table", "table or json")
}

func printClusters(w io.Writer, output string, clusters []node.Cluster) error {
	type row struct {
		Name       string `json:"name"`
		Kubeconfig string `json:"kubeconfig"`
		Node       string `json:"node"`
		Address    string `json:"address"`
		PodCIDR    string `json:"podCIDR"`
		PID        int    `json:"pid"`
		Status     string `json:"status"`
	}
	rows := make([]row, len(clusters))
	for i, c := range clusters {
		rows[i] = row{c.Name, c.Kubeconfig, c.Node, c.Address, c.PodCIDR, c.PID, status(c)}
	}
	switch output {
	case "json":
		return printJSON(w, rows)
	case "table":
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "NAME\tSTATUS\tADDRESS\tPODS\tKUBECONFIG")
		for _, r := range rows {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Name, r.Status, r.Address, r.PodCIDR, r.Kubeconfig)
		}
		return t.Flush()
	}
	return fmt.Errorf("output %q: want table or json", output)
}

func status(c node.Cluster) string {
	switch {
	case !c.Running():
		return "dead"
	case !c.Ready:
		return "starting"
	}
	return "ready"
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
