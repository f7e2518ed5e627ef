//go:build linux

package build

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	cluster "github.com/lockstep-dr/lockstep/test/cluster"
)

// kubernetes is the version that the binaries say they are; go.mod has the
// modules they are made of.
const kubernetes = "v1.36.1"

const snapshotter = "github.com/kubernetes-csi/external-snapshotter/v8/cmd/"

// callNames are the names under which the multi-call binary is several.
var callNames = []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"}

// Binaries is a directory of the cache.
type Binaries struct{ dir string }

// Bin is the directory of the programs: etcd, kube-apiserver, kubectl and the
// other parts of Kubernetes, csi-snapshotter, snapshot-controller, csi-sanity,
// and pause.
func (b Binaries) Bin() string { return filepath.Join(b.dir, "bin") }

// CRDs is the directory of the snapshot kinds.
func (b Binaries) CRDs() string { return filepath.Join(b.dir, "crd") }

// Binaries builds the programs. It needs Go and no privileges.
func (b Builder) Binaries(ctx context.Context) (Binaries, error) {
	key, err := binariesKey(ctx)
	if err != nil {
		return Binaries{}, err
	}
	dir, err := b.once(ctx, "bin", key, b.buildBinaries)
	return Binaries{dir: dir}, err
}

func binariesKey(ctx context.Context) (string, error) {
	version, err := run(ctx, "", []string{"GOTOOLCHAIN=local"}, "go", "env", "GOVERSION", "GOOS", "GOARCH")
	if err != nil {
		return "", fmt.Errorf("looking for Go: %w", err)
	}
	inputs := []string{string(version), strings.Join(linkerFlags(), " ")}
	err = fs.WalkDir(cluster.Sources, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := cluster.Sources.ReadFile(p)
		inputs = append(inputs, p, string(content))
		return err
	})
	return keyOf(inputs...), err
}

func linkerFlags() []string {
	major, minor, _ := strings.Cut(strings.TrimPrefix(kubernetes, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	const pkg = "k8s.io/component-base/version."
	return []string{"-s", "-w",
		"-X", pkg + "gitVersion=" + kubernetes, "-X", pkg + "gitMajor=" + major, "-X", pkg + "gitMinor=" + minor}
}

func (b Builder) buildBinaries(ctx context.Context, dir string) error {
	src, bin := filepath.Join(dir, "src"), filepath.Join(dir, "bin")
	if err := os.CopyFS(src, cluster.Sources); err != nil {
		return fmt.Errorf("writing sources: %w", err)
	}
	// GOFLAGS of the user might ask for a vendor directory or another mode.
	env := []string{"GOFLAGS=-mod=readonly -trimpath -buildvcs=false", "GOWORK=off", "CGO_ENABLED=0"}
	goCommand := func(args ...string) func() error {
		return func() error {
			_, err := run(ctx, src, env, "go", args...)
			return err
		}
	}
	if err := b.Step("downloading modules", goCommand("mod", "download")); err != nil {
		return err
	}
	for _, t := range []struct{ what, ldflags, pkgs string }{
		{"building Kubernetes " + kubernetes + " and etcd (12 processor minutes the first time)", strings.Join(linkerFlags(), " "), "./cmd/kube"},
		{"building csi-snapshotter, snapshot-controller, csi-sanity and pause", "-s -w",
			snapshotter + "csi-snapshotter " + snapshotter + "snapshot-controller github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity ./cmd/pause"},
	} {
		args := append([]string{"build", "-ldflags", t.ldflags, "-o", bin + "/"}, strings.Fields(t.pkgs)...)
		if err := b.Step(t.what, goCommand(args...)); err != nil {
			return err
		}
	}
	for _, n := range callNames {
		if err := os.Symlink("kube", filepath.Join(bin, n)); err != nil {
			return err
		}
	}
	return copyCRDs(ctx, src, env, filepath.Join(dir, "crd"))
}

// copyCRDs copies the kinds from the module that defines them.
func copyCRDs(ctx context.Context, src string, env []string, to string) error {
	module, err := run(ctx, src, env, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/kubernetes-csi/external-snapshotter/client/v8")
	if err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(filepath.Join(strings.TrimSpace(string(module)), "config", "crd")))
}
