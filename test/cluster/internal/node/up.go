//go:build linux

package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/test/cluster/internal/cgroup"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/home"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/network"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/proc"
	"github.com/lockstep-dr/lockstep/test/cluster/internal/supervise"
)

// Options say what a new cluster is made of.
type Options struct {
	Lab     Lab
	Bin     string   // directory of the Kubernetes binaries
	CRDs    string   // directory of the snapshot kinds
	Images  []string // archives that every cluster starts with
	PoolMiB int      // size of the pool for volumes; only what is used takes space
	Step    func(cluster, what string)
}

// Up returns the cluster of this name once everything in it is ready, bringing
// it up unless it is. The cluster lives on when this process ends.
func Up(ctx context.Context, h home.Home, name string, o Options) (Cluster, error) {
	if err := CheckName(name); err != nil {
		return Cluster{}, err
	}
	unlock, err := h.Lock(ctx, "cluster-"+name)
	if err != nil {
		return Cluster{}, err
	}
	defer unlock()
	if c, err := Load(h, name); err == nil && c.Ready && c.Running() {
		o.Step(name, "is up")
		return c, nil
	}
	if err := remove(ctx, h, name); err != nil {
		return Cluster{}, fmt.Errorf("clearing what was left of cluster %q: %w", name, err)
	}
	c, err := reserve(ctx, h, name, o)
	if err != nil {
		return Cluster{}, err
	}
	if err := start(&c); err != nil {
		return Cluster{}, errors.Join(fmt.Errorf("starting cluster %q: %w%s", name, err, c.initLog()), remove(ctx, h, name))
	}
	if err := c.await(ctx, o); err != nil {
		return Cluster{}, fmt.Errorf("cluster %q did not become ready (see %s; remove it with `cluster down %s`): %w%s",
			name, c.path("log"), name, err, c.initLog())
	}
	c.Ready = true
	return c, c.save()
}

// reserve records a new cluster with an address that no other has.
func reserve(ctx context.Context, h home.Home, name string, o Options) (Cluster, error) {
	unlock, err := h.Lock(ctx, "addresses")
	if err != nil {
		return Cluster{}, err
	}
	defer unlock()
	all, err := List(h)
	if err != nil {
		return Cluster{}, err
	}
	number, err := freeNumber(all)
	if err != nil {
		return Cluster{}, err
	}
	dir := h.Cluster(name)
	c := Cluster{
		Name: name, Node: name + "-node", Dir: dir, Kubeconfig: filepath.Join(dir, "kubeconfig"),
		Number: number, Lab: o.Lab, Bin: o.Bin, PoolMiB: o.PoolMiB,
		Address: fmt.Sprintf("10.77.%d.%d", o.Lab.Index, number),
		PodCIDR: fmt.Sprintf("10.%d.%d.0/24", 100+o.Lab.Index, number),
	}
	return c, c.save()
}

// freeNumber returns the lowest number that no cluster has; 1 is the lab's.
func freeNumber(all []Cluster) (int, error) {
	taken := map[int]bool{}
	for _, c := range all {
		taken[c.Number] = true
	}
	for n := 2; n < 255; n++ {
		if !taken[n] {
			return n, nil
		}
	}
	return 0, errors.New("the lab's network is full")
}

func (c Cluster) save() error { return home.WriteJSON(c.path(stateFile), c) }

// start makes what the cluster needs on the machine and sets its first
// process going, which is recorded before it does anything.
func start(c *Cluster) error {
	if err := render(*c, time.Now()); err != nil {
		return err
	}
	if err := cgroup.Make(c.cgroup()); err != nil {
		return err
	}
	id, release, err := proc.Spawn(c.path("log", "init.log"), unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWPID, "internal", "node", c.Dir)
	if err != nil {
		return err
	}
	c.Init, c.PID = id, id.PID
	if err := c.save(); err != nil {
		return err
	}
	if err := network.Join(c.Lab.Bridge, c.link(), id.PID); err != nil {
		return err
	}
	return release()
}

// await waits until pods can run with volumes and find Services by name.
func (c Cluster) await(ctx context.Context, o Options) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("no success in 5 minutes"))
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.watchInit(ctx) })
	g.Go(func() error {
		defer cancel() // ends watchInit
		work, ctx := errgroup.WithContext(ctx)
		work.Go(func() error { return c.importBase(ctx, o) })
		work.Go(func() error { return c.awaitAPI(ctx, o) })
		return work.Wait()
	})
	return g.Wait()
}

// watchInit fails when the cluster's first process ends, so that nobody waits
// for a cluster that is gone.
func (c Cluster) watchInit(ctx context.Context) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if !c.Running() {
				return errors.New("its first process ended")
			}
		}
	}
}

func (c Cluster) initLog() string {
	b, err := os.ReadFile(c.path("log", "init.log"))
	if err != nil || len(b) == 0 {
		return ""
	}
	return ": " + string(bytes.TrimSpace(b))
}

func (c Cluster) importBase(ctx context.Context, o Options) error {
	err := supervise.Poll(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		_, err := c.ctr(ctx, nil, "version")
		return err
	})
	if err != nil {
		return fmt.Errorf("waiting for containerd: %w", err)
	}
	if err := c.ImportImages(ctx, o.Images...); err != nil {
		return err
	}
	o.Step(c.Name, "images imported")
	return nil
}

// removeAll deletes a cluster's directory, in which a mount namespace that is
// just ending may still hold mounts.
func removeAll(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return supervise.Poll(ctx, 20*time.Millisecond, func(context.Context) error { return os.RemoveAll(dir) })
}
