// Package kube connects the program to a cluster by the same rules and flags as kubectl.
package kube

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// answerWithin bounds one request, so that a cluster that is gone does not hold the program for minutes.
const answerWithin = 30 * time.Second

// Flags say which cluster.
type Flags struct {
	Kubeconfig string
	Context    string
	Namespace  string
}

// AddFlags adds the flags to a set.
func (f *Flags) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.Kubeconfig, "kubeconfig", "", "path of the kubeconfig file (default: as kubectl)")
	fs.StringVar(&f.Context, "context", "", "context in the kubeconfig")
	fs.StringVarP(&f.Namespace, "namespace", "n", "", "namespace (default: that of the context)")
}

// Cluster is a connection. Making one does not yet ask the cluster anything.
type Cluster struct {
	client.Client
	Config *rest.Config
	// Namespace is the one of the flags, else of the context.
	Namespace string
}

// Connect reads the kubeconfig.
func (f *Flags) Connect() (*Cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: f.Context}
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	cfg, err := loader.ClientConfig()
	if err != nil {
		return nil, fault.New(fault.Usage, "Name a cluster with --kubeconfig, --context or $KUBECONFIG.",
			"reading the kubeconfig: %w", err)
	}
	cfg.Timeout = answerWithin
	cfg.QPS, cfg.Burst = 50, 100
	cfg.UserAgent = "lockstep"
	namespace := f.Namespace
	if namespace == "" {
		if namespace, _, err = loader.Namespace(); err != nil {
			return nil, fault.New(fault.Usage, "", "reading the kubeconfig: %w", err)
		}
	}
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	c.Namespace = namespace
	return c, nil
}

// New connects with a configuration that is already at hand.
func New(cfg *rest.Config) (*Cluster, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), snapshotv1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("making the scheme: %w", err)
	}
	c, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, Explain(err)
	}
	return &Cluster{Client: c, Config: cfg, Namespace: "default"}, nil
}

// Explain gives an error of a request to a cluster its exit code and hint. It leaves others as they are.
func Explain(err error) error {
	var already *fault.Error
	switch {
	case err == nil, errors.As(err, &already), errors.Is(err, context.Canceled):
		return err
	case meta.IsNoMatchError(err):
		return fault.New(fault.Usage, "Install Lockstep into this cluster: lockstep install --help",
			"this cluster does not know the kind: %w", err)
	case apierrors.IsUnauthorized(err), apierrors.IsForbidden(err):
		return fault.New(fault.Failed, "Use a kubeconfig context that may do this.", "the cluster refuses: %w", err)
	case Unreachable(err):
		return fault.New(fault.Unknown, "Check the network, and --kubeconfig and --context.",
			"the cluster does not answer: %w", err)
	default:
		return err
	}
}

// Unreachable reports whether err says that the API server did not answer properly, so that asking again may help.
func Unreachable(err error) bool {
	var request *url.Error
	return errors.As(err, &request) || apierrors.IsServerTimeout(err) ||
		apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsInternalError(err)
}
