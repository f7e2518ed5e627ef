package dns

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	discoveryv1 "k8s.io/api/discovery/v1"
)

type table map[string][]string

func (t table) Lookup(namespace, service, hostname string) ([]string, bool) {
	ips, ok := t[namespace+"/"+service+"/"+hostname]
	return ips, ok
}

func TestAnswer(t *testing.T) {
	services := table{"shop/db/": {"10.96.1.1"}, "shop/pods/": {"10.1.0.2", "10.1.0.3"}, "shop/pods/db-0": {"10.1.0.2"}, "shop/none/": nil}
	for name, tc := range map[string]struct {
		question string
		qtype    uint16
		rcode    int
		want     []string
	}{
		"service":                  {"db.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.96.1.1"}},
		"case does not matter":     {"DB.shop.SVC.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.96.1.1"}},
		"headless":                 {"pods.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.1.0.2", "10.1.0.3"}},
		"pod of a StatefulSet":     {"db-0.pods.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, []string{"10.1.0.2"}},
		"no IPv6, but the name is": {"db.shop.svc.cluster.local.", dns.TypeAAAA, dns.RcodeSuccess, nil},
		"no endpoints":             {"none.shop.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, nil},
		"unknown pod":              {"db-9.pods.shop.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil},
		"unknown service":          {"x.shop.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil},
		"search list":              {"db.shop.svc.cluster.local.shop.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil},
		"elsewhere":                {"example.org.", dns.TypeA, dns.RcodeNameError, nil},
		"the zone itself":          {"svc.cluster.local.", dns.TypeA, dns.RcodeNameError, nil},
	} {
		t.Run(name, func(t *testing.T) {
			reply := Answer(new(dns.Msg).SetQuestion(tc.question, tc.qtype), services)
			if reply.Rcode != tc.rcode {
				t.Errorf("rcode %s, want %s", dns.RcodeToString[reply.Rcode], dns.RcodeToString[tc.rcode])
			}
			var got []string
			for _, rr := range reply.Answer {
				got = append(got, rr.(*dns.A).A.String())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddressesLeavesOutWhatIsNotReady(t *testing.T) {
	yes, no, host := true, false, "db-0"
	found := []*discoveryv1.EndpointSlice{
		{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.1.0.3"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}},
			{Addresses: []string{"10.1.0.2"}, Hostname: &host},
			{Addresses: []string{"10.1.0.4"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}},
		}},
		{AddressType: discoveryv1.AddressTypeIPv6, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"fd00::1"}}}},
		{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.1.0.3"}}}},
	}
	if diff := cmp.Diff([]string{"10.1.0.2", "10.1.0.3"}, addresses(found, "")); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"10.1.0.2"}, addresses(found, "db-0")); diff != "" {
		t.Errorf("by host name (-want +got):\n%s", diff)
	}
}
