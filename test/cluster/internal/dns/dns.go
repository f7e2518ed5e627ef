// Package dns answers for the Services of a cluster: A records of
// NAME.NAMESPACE.svc.cluster.local, for headless Services those of their
// endpoints, and of the pods of a StatefulSet by host name. It forwards
// nothing: any other name does not exist.
package dns

import (
	"net"
	"strings"

	"github.com/miekg/dns"
)

// Zone is the domain that the server answers for.
const Zone = "cluster.local."

// ttl is short, in seconds, since tests move Services about.
const ttl = 2

// Services knows the addresses behind names.
type Services interface {
	// Lookup returns the IPv4 addresses of a Service, or of the one endpoint
	// with this host name when it is not empty; exists is false when there is
	// no such Service or endpoint.
	Lookup(namespace, service, hostname string) (ips []string, exists bool)
}

// Answer makes the reply to a query.
func Answer(query *dns.Msg, services Services) *dns.Msg {
	reply := new(dns.Msg)
	reply.SetReply(query)
	reply.Authoritative = true
	if len(query.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
		return reply
	}
	q := query.Question[0]
	namespace, service, hostname, ok := parse(q.Name)
	var ips []string
	if ok {
		ips, ok = services.Lookup(namespace, service, hostname)
	}
	if !ok {
		reply.Rcode = dns.RcodeNameError
		return reply
	}
	// A name without records of the asked type exists all the same.
	if q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY {
		for _, ip := range ips {
			if v4 := net.ParseIP(ip).To4(); v4 != nil {
				reply.Answer = append(reply.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: v4})
			}
		}
	}
	return reply
}

// parse splits [HOSTNAME.]SERVICE.NAMESPACE.svc.cluster.local.
func parse(name string) (namespace, service, hostname string, ok bool) {
	head, ok := strings.CutSuffix(strings.ToLower(name), ".svc."+Zone)
	if !ok {
		return "", "", "", false
	}
	labels := strings.Split(head, ".")
	switch len(labels) {
	case 2:
		return labels[1], labels[0], "", true
	case 3:
		return labels[2], labels[1], labels[0], true
	}
	return "", "", "", false
}
