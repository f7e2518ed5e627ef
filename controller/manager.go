package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fluxcd/pkg/runtime/logger"

	"github.com/lockstep-dr/lockstep/controller/internal/setup"
)

type managerOptions struct {
	setup.Options
	kubeconfig string
	log        logger.Options
}

func newManager() *cobra.Command {
	var o managerOptions
	cmd := &cobra.Command{
		Use: "manager", Short: "Run the reconcilers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", os.Getenv("KUBECONFIG"), "kubeconfig to use outside of a cluster")
	f.StringVar(&o.Image, "image", os.Getenv("LOCKSTEP_IMAGE"), "image of the movers: the controller's own")
	f.IntVar(&o.Movers.Max, "max-movers", 16, "most movers that run at once")
	f.IntVar(&o.Movers.PerNode, "max-movers-per-node", 8, "most movers that run at once on one node")
	f.StringVar(&o.MetricsAddr, "metrics-addr", ":8080", "where metrics are served; 0 for nowhere")
	f.StringVar(&o.HealthAddr, "health-addr", ":8081", "where /healthz and /readyz are served; 0 for nowhere")
	f.StringVar(&o.ProfileAddr, "pprof-addr", "0", "where profiles are served below /debug/pprof/; 0 for nowhere")
	f.StringVar(&o.EventsAddr, "events-addr", "", "URL of Flux's notification-controller, so that its alerts carry our events; empty for nowhere")
	o.LeaderElection.BindFlags(f)
	f.BoolVar(&o.LeaderElection.Enable, "leader-elect", true, "let only one of several controllers work")
	if err := f.MarkHidden("enable-leader-election"); err != nil {
		panic(err) // the flag is defined two lines above
	}
	o.log.BindFlags(f)
	return cmd
}

// garbage is how much may lie about, in percent of what is needed. Most of that is the cache, which hardly changes, so that it costs next to
// nothing to have less than Go's 100.
const garbage = 50

func (o *managerOptions) run(ctx context.Context) error {
	logger.SetLogger(logger.NewLogger(o.log))
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
	cfg, err := o.config()
	if err != nil {
		return err
	}
	o.Pod = os.Getenv("POD_NAME")
	mgr, err := setup.NewManager(cfg, o.Options)
	if err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("running the manager: %w", err)
	}
	return nil
}

func (o *managerOptions) config() (*rest.Config, error) {
	if o.kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, fmt.Errorf("finding the API server: %w; outside of a cluster pass --kubeconfig", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading kubeconfig %q: %w", o.kubeconfig, err)
	}
	return cfg, nil
}
