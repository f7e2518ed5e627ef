//go:build linux

// Package csi is a small CSI driver for tests with volumes and snapshots on a
// btrfs, together with the provisioners of a cluster's storage classes. It
// registers itself with the kubelet and provisions claims itself, so that of
// the usual sidecars only csi-snapshotter is needed.
package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
	reg "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Name is the driver's name, and TopologyKey the node label that its volumes
// are bound to.
const (
	Name        = "csi.lockstep.test"
	TopologyKey = "topology.csi.lockstep.test/node"
)

// Driver serves the identity, controller and node services for one pool.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer

	node string
	pool *pool
	// mu makes each change of the pool whole before the next: calls for one
	// volume may come twice at once.
	mu sync.Mutex
	// loops are the devices of published block volumes, by volume.
	loops map[string]*loop
}

// New returns a driver with its volumes in poolDir, a mounted btrfs.
func New(poolDir, node string) (*Driver, error) {
	p, err := openPool(poolDir)
	if err != nil {
		return nil, err
	}
	return &Driver{node: node, pool: p, loops: map[string]*loop{}}, nil
}

// Serve answers on the socket until the context ends. When registration is not
// empty, the kubelet finds the driver by that socket.
func (d *Driver) Serve(ctx context.Context, socket, registration string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return serve(ctx, socket, func(s *grpc.Server) {
			csi.RegisterIdentityServer(s, d)
			csi.RegisterControllerServer(s, d)
			csi.RegisterNodeServer(s, d)
		})
	})
	if registration != "" {
		g.Go(func() error {
			return serve(ctx, registration, func(s *grpc.Server) {
				reg.RegisterRegistrationServer(s, &registrar{endpoint: socket})
			})
		})
	}
	return g.Wait()
}

func serve(ctx context.Context, socket string, register func(*grpc.Server)) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	s := grpc.NewServer()
	register(s)
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	return s.Serve(l)
}

// registrar tells the kubelet about the driver.
type registrar struct {
	reg.UnsafeRegistrationServer
	endpoint string
}

// GetInfo implements the kubelet's plugin registration.
func (r *registrar) GetInfo(context.Context, *reg.InfoRequest) (*reg.PluginInfo, error) {
	return &reg.PluginInfo{Type: reg.CSIPlugin, Name: Name, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

// NotifyRegistrationStatus implements the kubelet's plugin registration.
func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *reg.RegistrationStatus) (*reg.RegistrationStatusResponse, error) {
	if !s.PluginRegistered {
		fmt.Fprintf(os.Stderr, "the kubelet refused the driver: %s\n", s.Error)
	}
	return &reg.RegistrationStatusResponse{}, nil
}

// GetPluginInfo implements the identity service.
func (d *Driver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: Name, VendorVersion: "1.0.0"}, nil
}

// Probe implements the identity service.
func (d *Driver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

// GetPluginCapabilities implements the identity service.
func (d *Driver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	service := func(t csi.PluginCapability_Service_Type) *csi.PluginCapability {
		return &csi.PluginCapability{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: t}}}
	}
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{
		service(csi.PluginCapability_Service_CONTROLLER_SERVICE),
		service(csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS),
	}}, nil
}

func (d *Driver) topology() *csi.Topology {
	return &csi.Topology{Segments: map[string]string{TopologyKey: d.node}}
}
