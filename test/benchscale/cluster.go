package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/standin"
)

// bench is an API server and a controller.
type bench struct {
	options
	started    time.Time
	root, bin  string
	dir        string
	server     *envtest.Environment
	client     client.WithWatch
	controller *process
	report     report
}

// begin starts an API server. No kubelet and no other controller is there: whatever a cluster would do, is not the controller's cost.
func begin(ctx context.Context, o options) (_ *bench, err error) {
	if err := lab.Check(); err != nil {
		return nil, err
	}
	b := &bench{options: o, started: time.Now(), report: report{machine: lab.Machine()}}
	if b.root, err = lab.Root(); err != nil {
		return nil, err
	}
	b.bin = filepath.Join(b.root, "bin")
	assets, err := output(ctx, filepath.Join(b.bin, "cluster"), "assets")
	if err != nil {
		return nil, err
	}
	snapshots, err := output(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/kubernetes-csi/external-snapshotter/client/v8")
	if err != nil {
		return nil, err
	}
	s := runtime.NewScheme()
	add := errors.Join(scheme.AddToScheme(s), snapshotv1.AddToScheme(s), v1alpha1.AddToScheme(s), kustomizev1.AddToScheme(s), sourcev1.AddToScheme(s))
	if add != nil {
		return nil, add
	}
	if b.dir, err = os.MkdirTemp("", "lockstep-bench-"); err != nil {
		return nil, err
	}
	engines := filepath.Join(b.dir, "engines")
	if err := errors.Join(os.Mkdir(engines, 0o700), standin.WriteDefinitions(ctx, engines)); err != nil {
		return nil, errors.Join(err, os.RemoveAll(b.dir))
	}
	b.server = &envtest.Environment{
		Scheme: s, BinaryAssetsDirectory: assets, ErrorIfCRDPathMissing: true,
		CRDDirectoryPaths: []string{filepath.Join(b.root, "manifests", "crd"), filepath.Join(snapshots, "config", "crd"), engines},
	}
	b.server.ControlPlane.Etcd = &envtest.Etcd{}
	b.server.ControlPlane.Etcd.Configure().Set("unsafe-no-fsync", "true") // how fast the disk is, is not asked
	b.server.ControlPlaneStartTimeout = startLimit
	cfg, err := b.server.Start()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the API server: %w", err), b.end())
	}
	cfg.QPS = -1
	if b.client, err = client.NewWithWatch(cfg, client.Options{Scheme: s}); err != nil {
		return nil, errors.Join(err, b.end())
	}
	for _, name := range []string{v1alpha1.SystemNamespace, argoNamespace} {
		if err := b.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			return nil, errors.Join(err, b.end())
		}
	}
	return b, nil
}

func (b *bench) end() error {
	var failed error
	if b.controller != nil {
		failed = b.controller.stop()
	}
	return errors.Join(failed, b.server.Stop(), os.RemoveAll(b.dir))
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
