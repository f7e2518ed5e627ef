// Package testenv starts a real API server with the kinds of Lockstep and of CSI snapshots, for the tests of reconcilers. Nothing
// else of a cluster is there: what kubelets, provisioners and the snapshot controller would do, a test must do itself, and say so.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Start starts an API server that lives as long as the test, with the namespace lockstep-system. The test is skipped where the
// programs are missing. More definitions are taken from the directories given.
func Start(t *testing.T, scheme *kruntime.Scheme, more ...string) (*rest.Config, client.WithWatch) {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Skip("NOT RUN: KUBEBUILDER_ASSETS names no directory with etcd and kube-apiserver; `make test` builds them and sets it")
	}
	env := &envtest.Environment{
		Scheme: scheme,
		CRDDirectoryPaths: append(more, definitions(t),
			filepath.Join(module(t, "github.com/kubernetes-csi/external-snapshotter/client/v8"), "config", "crd")),
		ErrorIfCRDPathMissing: true,
		CRDInstallOptions:     envtest.CRDInstallOptions{MaxTime: 5 * time.Minute},
		// Machines that test are busy ones.
		ControlPlaneStartTimeout: 5 * time.Minute, ControlPlaneStopTimeout: 5 * time.Minute,
	}
	env.ControlPlane.Etcd = &envtest.Etcd{}
	env.ControlPlane.Etcd.Configure().Set("unsafe-no-fsync", "true") // nobody needs this cluster after a power failure
	// A list from the watch cache waits until the cache has caught up with etcd, a tenth of a second each time.
	env.ControlPlane.APIServer = &envtest.APIServer{}
	env.ControlPlane.APIServer.Configure().Set("watch-cache", "false")
	cfg, err := env.Start()
	if err != nil {
		t.Fatalf("starting the API server: %v", err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Errorf("stopping the API server: %v", err)
		}
	})
	cfg.QPS = -1 // the API server has its own flow control
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.SystemNamespace}}
	if err := c.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	return cfg, c
}

func definitions(t *testing.T) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("the place of this file is not known")
	}
	return filepath.Join(filepath.Dir(file), "..", "..", "..", "manifests", "crd")
}

func module(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", path).Output()
	if err != nil {
		t.Fatalf("finding module %s: %v", path, err)
	}
	return strings.TrimSpace(string(out))
}
