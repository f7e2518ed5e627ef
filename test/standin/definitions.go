package standin

import (
	"context"
	"embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed crd
var shapes embed.FS

// WriteDefinitions writes the engines' definitions into a directory. Flux's are the real ones: its API modules hold the Go types only, so
// they are generated from these, with the program that Flux generates them with. Those of HelmReleases and Argo CD have the shape that is
// relied on.
func WriteDefinitions(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "go", "tool", "controller-gen", "crd", "paths=github.com/fluxcd/kustomize-controller/api/v1",
		"paths=github.com/fluxcd/source-controller/api/v1", "output:crd:dir="+dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("generating Flux's definitions: %w\n%s", err, out)
	}
	for _, name := range []string{"argocd.yaml", "helmrelease.yaml"} {
		data, err := shapes.ReadFile("crd/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
