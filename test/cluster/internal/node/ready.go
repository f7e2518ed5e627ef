//go:build linux

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

// driverName is the CSI driver's, see the package csi.
const driverName = "csi.lockstep.test"

// awaitAPI waits for the API server, applies what every cluster has, and waits
// until the node takes pods with volumes.
func (c Cluster) awaitAPI(ctx context.Context, o Options) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1 // one user, and the server has its own limits
	config.Proxy = direct
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	wait := func(what string, ready func(context.Context) error) error {
		if err := supervise.Poll(ctx, 50*time.Millisecond, ready); err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		o.Step(c.Name, what)
		return nil
	}
	if err := wait("API server ready", func(ctx context.Context) error {
		return clients.Discovery().RESTClient().Get().AbsPath("/readyz").Timeout(2 * time.Second).Do(ctx).Error()
	}); err != nil {
		return err
	}
	if err := applyCRDs(ctx, objects, o.CRDs); err != nil {
		return err
	}
	// Its last object waits for one of the kinds just made to be served.
	if err := wait("storage classes made", func(ctx context.Context) error { return applyFile(ctx, objects, "manifests/storage.yaml") }); err != nil {
		return err
	}
	for _, step := range []struct {
		what  string
		ready func(context.Context, kubernetes.Interface) error
	}{
		{"node ready", c.nodeReady},
		{"CSI driver registered", c.driverReady},
		{"default service account made", accountReady},
		{"Services reachable by name", c.servicesReady},
	} {
		if err := wait(step.what, func(ctx context.Context) error { return step.ready(ctx, clients) }); err != nil {
			return err
		}
	}
	return nil
}

func (c Cluster) nodeReady(ctx context.Context, k kubernetes.Interface) error {
	n, err := k.CoreV1().Nodes().Get(ctx, c.Node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			if cond.Status == corev1.ConditionTrue {
				return nil
			}
			return errors.New(cond.Message)
		}
	}
	return errors.New("the kubelet has not said")
}

func (c Cluster) driverReady(ctx context.Context, k kubernetes.Interface) error {
	csi, err := k.StorageV1().CSINodes().Get(ctx, c.Node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if len(csi.Spec.Drivers) == 0 || csi.Spec.Drivers[0].Name != driverName {
		return fmt.Errorf("driver %q is not registered", driverName)
	}
	return nil
}

// accountReady waits for what pods run as: those made before it are refused.
func accountReady(ctx context.Context, k kubernetes.Interface) error {
	_, err := k.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
	return err
}

func (c Cluster) servicesReady(ctx context.Context, _ kubernetes.Interface) error {
	if err := supervise.HTTP(ctx, "http://"+net.JoinHostPort(c.Address, proxyPort)+"/healthz"); err != nil {
		return fmt.Errorf("the proxy has not set up Services: %w", err)
	}
	// Made by the DNS server once it answers.
	_, err := os.Stat(c.path("run", dnsReadyFile))
	return err
}

// dnsReadyFile tells that the DNS server knows the Services and answers.
const dnsReadyFile = "dns-ready"

// DNSReadyPath is where the cluster's DNS server, inside its namespaces, is to
// make a file once it answers.
const DNSReadyPath = inside + "/run/" + dnsReadyFile

// direct is for servers on this machine, where no proxy leads to.
func direct(*http.Request) (*url.URL, error) { return nil, nil }

// applyCRDs makes the snapshot kinds.
func applyCRDs(ctx context.Context, d dynamic.Interface, dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "snapshot.storage.k8s.io_*.yaml"))
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("no snapshot kinds in %q", dir)
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			return err
		}
		if err := apply(ctx, d, b); err != nil {
			return err
		}
	}
	return nil
}

func applyFile(ctx context.Context, d dynamic.Interface, name string) error {
	b, err := files.ReadFile(name)
	if err != nil {
		return err
	}
	return apply(ctx, d, b)
}

// apply makes the cluster-scoped objects of a YAML stream.
func apply(ctx context.Context, d dynamic.Interface, manifest []byte) error {
	docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096)
	for {
		var u unstructured.Unstructured
		if err := docs.Decode(&u.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(u.Object) == 0 {
			continue
		}
		resource, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
		_, err := d.Resource(resource).Create(ctx, &u, metav1.CreateOptions{FieldManager: "lockstep-test-cluster"})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("making %s %q: %w", u.GetKind(), u.GetName(), err)
		}
	}
}
