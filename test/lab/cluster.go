package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// Cluster is one running cluster and a client of its administrator.
type Cluster struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"`
	Node       string `json:"node"`
	Address    string `json:"address"`
	// PID is the cluster's first process, in which all others end.
	PID int `json:"pid"`

	client.WithWatch `json:"-"`
	Config           *rest.Config `json:"-"`
	lab              *Lab
}

func (c *Cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return fmt.Errorf("reading kubeconfig of %s: %w", c.Name, err)
	}
	config.QPS, config.Burst = -1, -1
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme, snapshotv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	c.Config = config
	c.WithWatch, err = client.NewWithWatch(config, client.Options{Scheme: scheme})
	return err
}

// Down ends the cluster in good order, Kill pulls its plug.
func (c *Cluster) Down(ctx context.Context) error {
	_, err := c.lab.cluster(ctx, "down", c.Name)
	return err
}

// Kill ends every process of the cluster at once, as a power cut would.
func (c *Cluster) Kill(ctx context.Context) error {
	_, err := c.lab.cluster(ctx, "kill", c.Name)
	return err
}

// Kubectl runs kubectl as the administrator.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	path, err := c.lab.Kubectl(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	return run(ctx, cmd)
}

// Exec runs a command in a pod and returns its standard output.
func (c *Cluster) Exec(ctx context.Context, namespace, pod string, command ...string) (string, error) {
	return c.Kubectl(ctx, append([]string{"exec", "-n", namespace, pod, "--"}, command...)...)
}

// PodReady waits until the pod is Ready and returns it.
func (c *Cluster) PodReady(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	err := Eventually(ctx, 5*time.Minute, func(ctx context.Context) (bool, error) {
		if err := c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod); err != nil {
			return false, client.IgnoreNotFound(err)
		}
		for _, cond := range pod.Status.Conditions {
			if cond.Type == corev1.PodReady {
				return cond.Status == corev1.ConditionTrue, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return nil, fmt.Errorf("waiting for pod %s/%s: %w", namespace, name, err)
	}
	return pod, nil
}

// Eventually asks until the answer is yes, an error, or the time is over.
func Eventually(ctx context.Context, limit time.Duration, ask func(context.Context) (bool, error)) error {
	return wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, limit, true, ask)
}

func trim(b []byte) string {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r') {
		b = b[:len(b)-1]
	}
	return string(b)
}

// Pool is the file that holds the disk under the cluster's volumes; most of it is holes.
func (c *Cluster) Pool() string { return filepath.Join(filepath.Dir(c.Kubeconfig), "pool.img") }
