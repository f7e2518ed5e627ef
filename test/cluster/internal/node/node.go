//go:build linux

// Package node runs one-node Kubernetes clusters, each in network, mount and
// PID namespaces of its own. The first process of the PID namespace is this
// program again (see Init): to end it is to end the cluster.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/cgroup"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/namespace"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/network"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/proc"
)

const (
	inside = namespace.Dir

	serviceCIDR = "10.96.0.0/16"
	serviceIP   = "10.96.0.1"    // of the API server
	dnsIP       = "169.254.53.1" // of the cluster's DNS server
	stateFile   = "state.json"
)

// Cluster is one cluster: what is recorded of it, and what users are told.
type Cluster struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"`
	Node       string `json:"node"`
	Address    string `json:"address"`
	PodCIDR    string `json:"podCIDR"`
	PID        int    `json:"pid"`

	Dir     string  `json:"dir"`
	Number  int     `json:"number"` // in its lab, from 2
	Lab     Lab     `json:"lab"`
	Bin     string  `json:"bin"` // the Kubernetes binaries it runs
	PoolMiB int     `json:"poolMiB"`
	Init    proc.ID `json:"init"`
	Ready   bool    `json:"ready"`
}

// Lab is the network that clusters are joined by.
type Lab struct {
	Bridge  string `json:"bridge"`
	Index   int    `json:"index"`
	Gateway string `json:"gateway"`
}

// ErrNotFound says that there is no cluster of this name.
var ErrNotFound = errors.New("no such cluster")

var validName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$`)

// CheckName refuses names that would not do as part of a host name, a cgroup
// and a path.
func CheckName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("cluster name %q: want up to 20 lower-case letters, digits and dashes, a letter first", name)
	}
	return nil
}

// Load reads what is recorded of a cluster. A cluster whose processes are
// gone, say because the machine was restarted, is returned too: see Running.
func Load(h home.Home, name string) (Cluster, error) {
	if err := CheckName(name); err != nil {
		return Cluster{}, err
	}
	var c Cluster
	err := home.ReadJSON(filepath.Join(h.Cluster(name), stateFile), &c)
	if errors.Is(err, fs.ErrNotExist) {
		return Cluster{}, fmt.Errorf("%w: %q", ErrNotFound, name)
	}
	return c, err
}

// List returns every recorded cluster, sorted by name.
func List(h home.Home) ([]Cluster, error) {
	dirs, err := os.ReadDir(h.Clusters())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Cluster
	for _, d := range dirs {
		c, err := Load(h, d.Name())
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Name < all[j].Name })
	return all, nil
}

// Running says whether the cluster's processes are there.
func (c Cluster) Running() bool { return c.Init.Alive() }

// Log opens the log of one of its components.
func (c Cluster) Log(component string) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(c.Dir, "log", filepath.Base(component)+".log"))
	if errors.Is(err, fs.ErrNotExist) {
		names, globErr := filepath.Glob(filepath.Join(c.Dir, "log", "*.log"))
		for i, n := range names {
			names[i] = filepath.Base(n[:len(n)-len(".log")])
		}
		return nil, errors.Join(fmt.Errorf("cluster %q has no component %q, but %q", c.Name, component, names), globErr)
	}
	return f, err
}

// Down ends a cluster at once and removes everything it made. A cluster that
// does not exist is no error.
func Down(ctx context.Context, h home.Home, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	unlock, err := h.Lock(ctx, "cluster-"+name)
	if err != nil {
		return err
	}
	defer unlock()
	return remove(ctx, h, name)
}

// remove is Down for who holds the cluster's lock.
func remove(ctx context.Context, h home.Home, name string) error {
	c, err := Load(h, name)
	if errors.Is(err, ErrNotFound) {
		return os.RemoveAll(h.Cluster(name)) // a start that was cut short before it made anything else
	}
	if err != nil {
		return err
	}
	var blocks []string
	if c.Running() {
		if blocks, err = c.blockLoops(); err != nil {
			return fmt.Errorf("looking for loop devices of cluster %q: %w", name, err)
		}
	}
	if err := c.Init.Kill(ctx); err != nil {
		return err
	}
	if err := detach(blocks); err != nil {
		return err
	}
	if err := network.Remove(c.link()); err != nil {
		return err
	}
	if err := cgroup.Remove(ctx, c.cgroup()); err != nil {
		return err
	}
	return removeAll(ctx, c.Dir)
}

func (c Cluster) cgroup() string { return c.Lab.Bridge + "-" + c.Name }

// link is the cable's end on the machine; 15 characters are allowed.
func (c Cluster) link() string { return fmt.Sprintf("%sn%d", c.Lab.Bridge, c.Number) }

func (c Cluster) path(parts ...string) string {
	return filepath.Join(append([]string{c.Dir}, parts...)...)
}
