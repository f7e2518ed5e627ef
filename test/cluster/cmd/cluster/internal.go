//go:build linux

package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/csi"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/dns"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/lab"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/node"
)

// internalCommand holds what this program starts itself as.
func internalCommand() *cobra.Command {
	c := &cobra.Command{Use: "internal", Hidden: true}
	c.AddCommand(
		&cobra.Command{Use: "node DIR", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			return node.Init(cmd.Context(), args[0])
		}},
		&cobra.Command{Use: "lab DIR", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			return lab.Init(cmd.Context(), args[0])
		}},
		&cobra.Command{Use: "ceph-osd DIR", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, _ []string) error {
			return lab.RunOSD(cmd.Context())
		}},
		&cobra.Command{Use: "radosgw DIR", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			return lab.RunGateway(cmd.Context(), args[0])
		}},
		gitCommand(), dnsCommand(), csiCommand(), internalSanityCommand())
	return c
}

func gitCommand() *cobra.Command {
	var listen, dir string
	c := &cobra.Command{Use: "git", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		return lab.ServeGit(cmd.Context(), listen, dir)
	}}
	c.Flags().StringVar(&listen, "listen", "", "")
	c.Flags().StringVar(&dir, "dir", "", "")
	return c
}

func dnsCommand() *cobra.Command {
	var kubeconfig, listen string
	c := &cobra.Command{Use: "dns", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return err
		}
		k, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		return dns.Serve(cmd.Context(), k, listen, func() error { return os.WriteFile(node.DNSReadyPath, nil, 0o644) })
	}}
	c.Flags().StringVar(&kubeconfig, "kubeconfig", "", "")
	c.Flags().StringVar(&listen, "listen", "", "")
	return c
}

func csiCommand() *cobra.Command {
	var kubeconfig, nodeName, pool, local, socket, registration string
	c := &cobra.Command{Use: "csi", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		driver, err := csi.New(pool, nodeName)
		if err != nil {
			return err
		}
		g, ctx := errgroup.WithContext(cmd.Context())
		g.Go(func() error {
			// The server ends for no good reason but the end of the context.
			return errors.Join(driver.Serve(ctx, socket, registration), ctx.Err())
		})
		if kubeconfig != "" {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			g.Go(func() error { return driver.Provision(ctx, unlimited(config), local) })
		}
		return g.Wait()
	}}
	for name, v := range map[string]*string{"kubeconfig": &kubeconfig, "node": &nodeName, "pool": &pool, "local": &local,
		"socket": &socket, "registration": &registration} {
		c.Flags().StringVar(v, name, "", "")
	}
	return c
}

// unlimited leaves it to the server to slow a client down.
func unlimited(c *rest.Config) *rest.Config {
	c.QPS = -1
	return c
}
