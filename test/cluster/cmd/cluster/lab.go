//go:build linux

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/lab"
)

func (a *app) labCommand() *cobra.Command {
	c := &cobra.Command{Use: "lab", Short: "The network of the clusters, with a Git and an S3 server"}
	c.AddCommand(a.labUpCommand(), a.labDownCommand(), a.labInfoCommand(), a.labRepoCommand(), a.labBucketCommand())
	return c
}

func (a *app) labUpCommand() *cobra.Command {
	var output string
	c := asRoot(&cobra.Command{
		Use: "up", Short: "Start the lab and wait until its S3 server takes requests", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.builder().Packages(cmd.Context()); err != nil {
				return err
			}
			l, err := lab.Up(cmd.Context(), a.home)
			if err != nil {
				return err
			}
			if err := l.AwaitS3(cmd.Context()); err != nil {
				return err
			}
			return printLab(cmd.OutOrStdout(), output, l)
		},
	})
	addLabOutput(c, &output)
	return c
}

func (a *app) labDownCommand() *cobra.Command {
	return asRoot(&cobra.Command{
		Use: "down", Short: "End the lab; no cluster may be up", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return lab.Down(cmd.Context(), a.home) },
	})
}

func (a *app) labInfoCommand() *cobra.Command {
	var output string
	var wait bool
	c := asRoot(&cobra.Command{
		Use: "info", Short: "Print where the lab's servers are", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := lab.Load(a.home)
			if err != nil {
				return err
			}
			if wait {
				if err := l.AwaitS3(cmd.Context()); err != nil {
					return err
				}
			}
			return printLab(cmd.OutOrStdout(), output, l)
		},
	})
	addLabOutput(c, &output)
	c.Flags().BoolVar(&wait, "wait", false, "wait until the S3 server takes requests")
	return c
}

func (a *app) labRepoCommand() *cobra.Command {
	return asRoot(&cobra.Command{
		Use: "repo NAME", Short: "Make an empty bare Git repository and print its URL", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Load(a.home)
			if err != nil {
				return err
			}
			url, err := l.MakeRepo(cmd.Context(), args[0])
			if err == nil {
				fmt.Fprintln(cmd.OutOrStdout(), url)
			}
			return err
		},
	})
}

func (a *app) labBucketCommand() *cobra.Command {
	var lock bool
	c := asRoot(&cobra.Command{
		Use: "bucket NAME", Short: "Make an S3 bucket", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Load(a.home)
			if err != nil {
				return err
			}
			return l.MakeBucket(cmd.Context(), args[0], lock)
		},
	})
	c.Flags().BoolVar(&lock, "object-lock", false, "objects in it can be made undeletable for a time")
	return c
}

func addLabOutput(c *cobra.Command, output *string) {
	c.Flags().StringVarP(output, "output", "o", "table", "table, json, or env: the S3 server for a shell")
}

func printLab(w io.Writer, output string, l lab.Lab) error {
	info := struct {
		Address string  `json:"address"`
		Git     lab.Git `json:"git"`
		S3      lab.S3  `json:"s3"`
		PID     int     `json:"pid"`
	}{l.Address, l.Git, l.S3, l.PID}
	switch output {
	case "json":
		return printJSON(w, info)
	case "env":
		_, err := fmt.Fprintf(w, "export AWS_ENDPOINT_URL_S3=%s AWS_REGION=%s AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s\n",
			l.S3.Endpoint, l.S3.Region, l.S3.AccessKey, l.S3.SecretKey)
		return err
	case "table":
		_, err := fmt.Fprintf(w, "address  %s\ngit      %s  (%s)\ns3       %s  region %s\n", l.Address, l.Git.URL, l.Git.Dir, l.S3.Endpoint, l.S3.Region)
		return err
	}
	return fmt.Errorf("output %q: want table, json or env", output)
}
