//go:build linux

package main

import "github.com/spf13/cobra"

func (a *app) sanityCommand() *cobra.Command { return &cobra.Command{Use: "sanity", Hidden: true} }
