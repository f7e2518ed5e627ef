// Package setup puts the manager together: scheme, cache, probes, metrics, leader election, and the reconcilers.
package setup

import (
	"fmt"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	runtimemetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/fluxcd/pkg/runtime/controller"
	"github.com/fluxcd/pkg/runtime/events"
	"github.com/fluxcd/pkg/runtime/leaderelection"
	"github.com/fluxcd/pkg/runtime/metrics"

	"github.com/lockstep-dr/lockstep/controller/internal/backup"
	"github.com/lockstep-dr/lockstep/controller/internal/copies"
	"github.com/lockstep-dr/lockstep/controller/internal/gate"
	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/podexec"
	"github.com/lockstep-dr/lockstep/controller/internal/points"
	"github.com/lockstep-dr/lockstep/controller/internal/policy"
	"github.com/lockstep-dr/lockstep/controller/internal/populator"
	"github.com/lockstep-dr/lockstep/controller/internal/restore"
	"github.com/lockstep-dr/lockstep/controller/internal/retention"
	"github.com/lockstep-dr/lockstep/controller/internal/trees"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=lockstep-system,resources=leases,verbs=get;create;update;patch

// name is the controller's, in events, logs and its lease.
const name = "lockstep-controller"

// Options of the manager.
type Options struct {
	// Image is the movers' image.
	Image string
	// Pod is the controller's own pod; empty outside of a cluster.
	Pod string
	// Movers bounds the movers of all points and restores together.
	Movers movers.Limits

	MetricsAddr, HealthAddr, ProfileAddr string
	// EventsAddr is the URL that events are posted to beside the API server, as Flux's notification-controller takes them; empty for nowhere.
	EventsAddr     string
	LeaderElection leaderelection.Options
}

// Scheme holds the kinds that the controller speaks.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		scheme.AddToScheme, apiextensionsv1.AddToScheme, snapshotv1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("building the scheme: %w", err)
		}
	}
	return s, nil
}

// parallelWrites bounds what one restore asks of the API server at once.
const parallelWrites = 16

// NewManager makes a manager with every reconciler.
func NewManager(cfg *rest.Config, o Options) (ctrl.Manager, error) {
	if o.Image == "" {
		return nil, fmt.Errorf("no image for movers: set --image to the controller's own")
	}
	if o.Movers.Max < 1 || o.Movers.PerNode < 1 {
		return nil, fmt.Errorf("at most %d movers, and %d on a node: nothing could ever be saved", o.Movers.Max, o.Movers.PerNode)
	}
	s, err := Scheme()
	if err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1 // the API server's own priorities and fairness rule; a client's five requests a second would make every step crawl
	mgr, err := ctrl.NewManager(cfg, managerOptions(s, o))
	if err != nil {
		return nil, fmt.Errorf("making the manager: %w", err)
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("adding the liveness probe: %w", err)
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("adding the readiness probe: %w", err)
	}
	return mgr, addReconcilers(mgr, o)
}

func managerOptions(s *runtime.Scheme, o Options) ctrl.Options {
	system := cache.ByObject{Namespaces: map[string]cache.Config{v1alpha1.SystemNamespace: {}}}
	return ctrl.Options{
		Scheme:                        s,
		Logger:                        ctrl.Log,
		Metrics:                       metricsserver.Options{BindAddress: o.MetricsAddr},
		HealthProbeBindAddress:        o.HealthAddr,
		PprofBindAddress:              o.ProfileAddr,
		LeaderElection:                o.LeaderElection.Enable,
		LeaderElectionID:              name,
		LeaderElectionNamespace:       v1alpha1.SystemNamespace,
		LeaderElectionReleaseOnCancel: o.LeaderElection.ReleaseOnCancel,
		LeaseDuration:                 &o.LeaderElection.LeaseDuration,
		RenewDeadline:                 &o.LeaderElection.RenewDeadline,
		RetryPeriod:                   &o.LeaderElection.RetryPeriod,
		GracefulShutdownTimeout:       new(10 * time.Second),
		// What belongs to others is not kept: Jobs, pods and the metadata of Secrets only of our own namespace.
		Cache: cache.Options{
			DefaultTransform: slim,
			ByObject: map[client.Object]cache.ByObject{
				&batchv1.Job{}: system,
				&corev1.Pod{}:  system,
				&corev1.Node{}: {Transform: withoutStatus},
				&metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"}}: system,
			},
		},
		// Secrets are never kept in memory. Snapshots may not be served at all, and a watch on them would end the manager.
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{
			&corev1.Secret{}, &corev1.ConfigMap{},
			&snapshotv1.VolumeSnapshot{}, &snapshotv1.VolumeSnapshotContent{}, &snapshotv1.VolumeSnapshotClass{},
		}}},
	}
}

// slim leaves out of the cache what nobody asks it for: who wrote which field, and of what a GitOps engine deploys all but which source it
// comes from. That is read live when it decides, and its inventories would be most of the controller's memory.
func slim(o any) (any, error) {
	switch o := o.(type) {
	case *unstructured.Unstructured:
		kept := map[string]any{"apiVersion": o.Object["apiVersion"], "kind": o.Object["kind"], "metadata": o.Object["metadata"]}
		if source, ok, _ := unstructured.NestedMap(o.Object, "spec", "sourceRef"); ok {
			kept["spec"] = map[string]any{"sourceRef": source}
		}
		o.Object = kept
		o.SetManagedFields(nil)
		o.SetAnnotations(nil)
	case metav1.Object:
		o.SetManagedFields(nil)
	}
	return o, nil
}

// withoutStatus keeps of a node what is asked about: its labels, and whether it takes pods. The list of its images alone is larger
// than the rest.
func withoutStatus(o any) (any, error) {
	if n, ok := o.(*corev1.Node); ok {
		n.ManagedFields, n.Status = nil, corev1.NodeStatus{}
	}
	return o, nil
}

func addReconcilers(mgr ctrl.Manager, o Options) error {
	kube, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("making a client for logs: %w", err)
	}
	var recorder record.EventRecorder
	if recorder, err = events.NewRecorder(mgr, ctrl.Log, o.EventsAddr, name); err != nil {
		return fmt.Errorf("making the event recorder: %w", err)
	}
	collected := metrics.NewRecorder()
	for _, c := range collected.Collectors() {
		if err := runtimemetrics.Registry.Register(c); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	if err := points.Index(mgr.GetFieldIndexer()); err != nil {
		return err
	}
	measured := controller.NewMetrics(mgr, collected, v1alpha1.Finalizer)
	room := &movers.Room{Reader: mgr.GetAPIReader(), Client: mgr.GetClient(), Limits: o.Movers}
	opener := &vaults.Opener{Reader: mgr.GetAPIReader(), Pod: o.Pod}
	known := &trees.Trees{Reader: mgr.GetAPIReader()}
	for _, r := range []interface{ SetupWithManager(ctrl.Manager) error }{
		&vaults.Reconciler{Client: mgr.GetClient(), Events: recorder, Metrics: measured, Clock: clock.RealClock{}, Vaults: opener},
		&populator.Reconciler{Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: recorder, Vaults: opener, Now: time.Now, Trees: known},
		&policy.Reconciler{Client: mgr.GetClient(), Events: recorder, Metrics: measured, Clock: clock.RealClock{}},
		&gate.Reconciler{Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: recorder, Clock: clock.RealClock{}},
		&backup.Reconciler{
			Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Kube: kube, Discovery: kube.Discovery(), Events: recorder, Metrics: measured, Clock: clock.RealClock{},
			Vaults: opener, Exec: &podexec.Executor{Config: mgr.GetConfig(), Kube: kube}, Image: o.Image, Movers: room, Limits: backup.DefaultLimits(), Trees: known,
		},
		&copies.Reconciler{
			Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Kube: kube, Events: recorder, Clock: clock.RealClock{},
			Vaults: opener, Image: o.Image, Movers: room, Limits: copies.DefaultLimits(),
		},
		&retention.Reconciler{
			Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: recorder, Clock: clock.RealClock{}, Vaults: opener,
		},
		&retention.Pruner{
			Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: recorder, Clock: clock.RealClock{}, Vaults: opener, Image: o.Image, Movers: room,
		},
		restore.New(restore.Deps{
			Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Kube: kube, Events: recorder, Metrics: measured,
			Vaults: opener, Image: o.Image, Movers: room, Parallel: parallelWrites,
		}),
	} {
		if err := r.SetupWithManager(mgr); err != nil {
			return fmt.Errorf("setting up %T: %w", r, err)
		}
	}
	return nil
}
