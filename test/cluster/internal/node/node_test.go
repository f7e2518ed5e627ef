//go:build linux

package node

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
)

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "prod", "dr-2", "abcdefghijklmnopqrst"} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q refused: %v", good, err)
		}
	}
	for _, bad := range []string{"", "A", "1a", "a-", "a.b", "a/b", "..", "abcdefghijklmnopqrstu"} {
		if err := CheckName(bad); err == nil {
			t.Errorf("%q taken", bad)
		}
	}
}

func TestFreeNumber(t *testing.T) {
	if n, err := freeNumber([]Cluster{{Number: 2}, {Number: 4}}); err != nil || n != 3 {
		t.Errorf("got %d, %v; want the gap, 3", n, err)
	}
	var full []Cluster
	for i := range 256 {
		full = append(full, Cluster{Number: i})
	}
	if n, err := freeNumber(full); err == nil {
		t.Errorf("got %d of a full network", n)
	}
}

func TestLinkNameFits(t *testing.T) {
	c := Cluster{Number: 254, Lab: Lab{Bridge: "lslab15"}}
	if l := c.link(); len(l) > 15 {
		t.Errorf("%q has %d characters, and the kernel takes 15", l, len(l))
	}
}

func TestConfigFiles(t *testing.T) {
	c := Cluster{Name: "a", PodCIDR: "10.100.2.0/24", Lab: Lab{Bridge: "lslab0"}}
	b, err := configFile(c, "kubelet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var kubelet struct {
		CgroupRoot string
		ClusterDNS []string
	}
	if err := yaml.Unmarshal(b, &kubelet); err != nil {
		t.Fatal(err)
	}
	if kubelet.CgroupRoot != "/lslab0-a" || len(kubelet.ClusterDNS) != 1 || kubelet.ClusterDNS[0] != dnsIP {
		t.Errorf("kubelet: %+v", kubelet)
	}
	b, err = configFile(c, "cni.conflist")
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(b) || !strings.Contains(string(b), c.PodCIDR) {
		t.Errorf("cni.conflist:\n%s", b)
	}
}

func TestComponentsAreTold(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range components(Cluster{Name: "a", Node: "a-node", Address: "10.77.0.2", PodCIDR: "10.100.2.0/24", Bin: "/bin"}) {
		if seen[p.Name] {
			t.Errorf("%s twice", p.Name)
		}
		seen[p.Name] = true
		// All but the two that everything stands on wait for something.
		if first := p.Name == "etcd" || p.Name == "containerd"; first != (p.Wait == nil) {
			t.Errorf("%s: waits: %t", p.Name, p.Wait != nil)
		}
	}
}

func TestLoadUnknown(t *testing.T) {
	h := home.Home{Dir: t.TempDir()}
	if _, err := Load(h, "a"); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	if all, err := List(h); err != nil || len(all) > 0 {
		t.Errorf("got %v, %v of an empty home", all, err)
	}
}
