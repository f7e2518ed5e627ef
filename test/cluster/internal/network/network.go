//go:build linux

// Package network joins network namespaces to a bridge on the machine.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inner is what a namespace calls its end of the cable.
const inner = "eth0"

// ErrTaken says that a bridge of this name exists already.
var ErrTaken = errors.New("the bridge exists")

// AddBridge makes a bridge with an address in CIDR notation and brings it up.
func AddBridge(name, cidr string) error {
	err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}})
	if errors.Is(err, unix.EEXIST) {
		return ErrTaken
	}
	if err != nil {
		return fmt.Errorf("adding bridge %q: %w", name, err)
	}
	return configure(name, cidr)
}

// Join connects the network namespace of a process to the bridge: the cable's
// end here is called host, its other end eth0.
func Join(bridge, host string, pid int) error {
	b, err := netlink.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("finding bridge %q: %w", bridge, err)
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: host, MasterIndex: b.Attrs().Index, MTU: b.Attrs().MTU, Flags: net.FlagUp},
		PeerName:  inner, PeerNamespace: netlink.NsPid(pid),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("adding link %q: %w", host, err)
	}
	return nil
}

// Remove deletes a link, and with a cable its other end. One that is not
// there is no error.
func Remove(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding link %q: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing link %q: %w", name, err)
	}
	return nil
}

// Setup configures the namespace this process is in.
type Setup struct {
	Address  string // of this namespace on the bridge, in CIDR notation
	Gateway  string // everything that is not local goes here
	Loopback string // a further address, for a server that every pod reaches
	PodCIDR  string // hidden behind Address when it talks to the bridge
}

// Apply brings the links up and sets addresses, routes and translation.
func (s Setup) Apply(ctx context.Context) error {
	if err := configure("lo", s.Loopback+"/32"); err != nil {
		return err
	}
	if err := configure(inner, s.Address); err != nil {
		return err
	}
	if err := netlink.RouteReplace(&netlink.Route{Gw: net.ParseIP(s.Gateway)}); err != nil {
		return fmt.Errorf("routing by %q: %w", s.Gateway, err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("turning forwarding on: %w", err)
	}
	out, err := exec.CommandContext(ctx, "iptables", "-w", "-t", "nat", "-A", "POSTROUTING",
		"-s", s.PodCIDR, "-o", inner, "-j", "MASQUERADE").CombinedOutput()
	if err != nil {
		return fmt.Errorf("hiding the pods' addresses: %w: %s", err, out)
	}
	return nil
}

func configure(name, cidr string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("finding link %q: %w", name, err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("parsing address %q: %w", cidr, err)
	}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("giving %q to link %q: %w", cidr, name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing link %q up: %w", name, err)
	}
	return nil
}
