package dns

import (
	"context"
	"fmt"
	"slices"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
)

// Serve answers over UDP and TCP until the context ends. It calls ready once
// it knows the cluster's Services and listens.
func Serve(ctx context.Context, k kubernetes.Interface, address string, ready func() error) error {
	factory := informers.NewSharedInformerFactory(k, 0)
	services := &lister{
		services: factory.Core().V1().Services().Lister(),
		slices:   factory.Discovery().V1().EndpointSlices().Lister(),
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("listing %v: %w", kind, ctx.Err())
		}
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		// The asker may have gone away, which is no concern of ours.
		_ = w.WriteMsg(Answer(query, services))
	})
	g, ctx := errgroup.WithContext(ctx)
	listening := make(chan struct{}, 2)
	for _, proto := range []string{"udp", "tcp"} {
		s := &dns.Server{Addr: address, Net: proto, Handler: handler, NotifyStartedFunc: func() { listening <- struct{}{} }}
		g.Go(s.ListenAndServe)
		g.Go(func() error {
			<-ctx.Done()
			return s.Shutdown()
		})
	}
	g.Go(func() error {
		for range 2 {
			select {
			case <-listening:
			case <-ctx.Done():
				return nil
			}
		}
		return ready()
	})
	return g.Wait()
}

// lister answers from informers.
type lister struct {
	services corelisters.ServiceLister
	slices   discoverylisters.EndpointSliceLister
}

// Lookup implements Services.
func (l *lister) Lookup(namespace, service, hostname string) ([]string, bool) {
	s, err := l.services.Services(namespace).Get(service)
	if err != nil {
		return nil, false
	}
	if hostname == "" && s.Spec.ClusterIP != corev1.ClusterIPNone {
		return s.Spec.ClusterIPs, s.Spec.ClusterIP != ""
	}
	found, err := l.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
	if err != nil {
		return nil, false
	}
	ips := addresses(found, hostname)
	return ips, hostname == "" || len(ips) > 0
}

// addresses returns the sorted addresses of the ready endpoints, or of the one
// with this host name. The endpoints of a Service that publishes addresses
// which are not ready are marked as ready.
func addresses(found []*discoveryv1.EndpointSlice, hostname string) []string {
	var ips []string
	for _, slice := range found {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		for _, e := range slice.Endpoints {
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			named := hostname == "" || (e.Hostname != nil && *e.Hostname == hostname)
			if ready && named {
				ips = append(ips, e.Addresses...)
			}
		}
	}
	slices.Sort(ips)
	return slices.Compact(ips)
}
