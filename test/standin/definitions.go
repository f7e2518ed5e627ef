package standin

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed crd/argocd.yaml
var argoDefinitions []byte

// WriteDefinitions writes the engines' definitions into a directory. Flux's are the real ones: its API modules hold the Go types only, so
// they are generated from these, with the program that Flux generates them with. Argo CD's have the shape that is relied on.
func WriteDefinitions(ctx context.Context, dir string) error {
	out, err := exec.CommandContext(ctx, "go", "tool", "controller-gen", "crd", "paths=github.com/fluxcd/kustomize-controller/api/v1",
		"paths=github.com/fluxcd/source-controller/api/v1", "output:crd:dir="+dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("generating Flux's definitions: %w\n%s", err, out)
	}
	return os.WriteFile(filepath.Join(dir, "argocd.yaml"), argoDefinitions, 0o600)
}
