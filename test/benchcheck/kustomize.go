package main

import (
	"bufio"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/openapi"
)

// yardstick is the argument with which this program does what lockstep is held against.
const yardstick = "kustomize"

// buildAll builds the directories that it reads the names of, on all cores, with the options with which Flux does.
func buildAll(names io.Reader) error {
	openapi.Schema() // kustomize does not guard the loading of it against itself
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	lines := bufio.NewScanner(names)
	for lines.Scan() {
		dir := lines.Text()
		group.Go(func() error {
			options := &krusty.Options{LoadRestrictions: types.LoadRestrictionsNone, PluginConfig: types.DisabledPluginConfig()}
			_, err := krusty.MakeKustomizer(options).Run(filesys.MakeFsOnDisk(), dir)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return lines.Err()
}
