// The demo runs Lockstep's main job on real parts: a shop is deployed from Git and saved at two releases, its cluster is
// lost, and each release comes back on a fresh cluster with its own data. It exits with 0 only if everything was proven.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// orders is the number of rows that each release sells: about 200 MB in the database at the end.
const orders = 200_000

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	switch {
	case errors.Is(err, lab.ErrCannotRun):
		fmt.Fprint(os.Stderr, "demo: ", err, "\n", elsewhere)
		os.Exit(2)
	case err != nil:
		fmt.Fprint(os.Stderr, "\ndemo: FAILED: ", err, "\n")
		os.Exit(1)
	}
}

const elsewhere = `
What runs here:

  # save and load a directory, encrypted and deduplicated, with no cluster
  make build
  bin/lockstep vault init file:///tmp/vault --key-file vault.key
  bin/lockstep volume save --vault file:///tmp/vault --key-file vault.key DIR
  bin/lockstep volume load --vault file:///tmp/vault --key-file vault.key ID NEWDIR

  # install on any cluster with CSI snapshots and an S3 bucket
  bin/lockstep install --vault 's3://BUCKET/PREFIX?region=REGION' --key-file vault.key
`

type demo struct {
	timeline
	lab   *lab.Lab
	vault string
	key   string
	repo  *shop.Repository
}

func run(ctx context.Context) error {
	if err := lab.Check(); err != nil {
		return err
	}
	tools, err := lab.Built()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "lockstep-demo-")
	if err != nil {
		return err
	}
	d := &demo{timeline: newTimeline(os.Stdout), key: filepath.Join(dir, "vault.key")}
	prod, dr, err := d.prepare(ctx, tools, dir)
	if err != nil {
		return err
	}
	before, err := d.live(ctx, prod)
	if err != nil {
		return err
	}
	d.say("prod is lost: every process of it is killed, its disks are gone")
	if err := prod.Kill(ctx); err != nil {
		return err
	}
	first, err := d.recover(ctx, dr, shop.V1, before[shop.V1])
	if err != nil {
		return err
	}
	d.say("the same for %s, on a fresh cluster again", shop.V2)
	clusters, err := d.lab.Up(ctx, "dr")
	if err != nil {
		return err
	}
	second, err := d.recover(ctx, clusters[0], shop.V2, before[shop.V2])
	if err != nil {
		return err
	}
	d.print()
	fmt.Printf(`
Look around:
  export KUBECONFIG=%s
  kubectl -n shop get pods,pvc,restorepoints         (bin/cluster kubectl dr … where there is no kubectl)
  bin/lockstep status
  bin/lockstep points
  bin/lockstep describe restore/shop-%s -n lockstep-system
  make demo-down                                     ends everything

`, clusters[0].Kubeconfig, shop.V2)
	fmt.Printf("demo: passed; RTO v1.0.0 %.0f s, v2.0.0 %.0f s\n", first.Seconds(), second.Seconds())
	return nil
}

// prepare brings up everything that is there before the story begins.
func (d *demo) prepare(ctx context.Context, tools lab.Tools, dir string) (prod, dr *lab.Cluster, err error) {
	d.say("bringing up clusters prod and dr, an S3 server and a Git server")
	if d.lab, err = lab.Start(ctx, tools); err != nil {
		return nil, nil, err
	}
	clusters, err := d.lab.Up(ctx, "prod", "dr")
	if err != nil {
		return nil, nil, err
	}
	run := fmt.Sprintf("demo-%d", time.Now().Unix())
	if d.vault, err = d.lab.Bucket(ctx, run, "prod"); err != nil {
		return nil, nil, err
	}
	work := filepath.Join(dir, "shop")
	if err := os.Mkdir(work, 0o755); err != nil {
		return nil, nil, err
	}
	if d.repo, err = shop.Publish(ctx, d.lab, run, work); err != nil {
		return nil, nil, err
	}
	return clusters[0], clusters[1], nil
}

// live is prod's life: two releases, rows in each, a restore point of each. It returns what each release held.
func (d *demo) live(ctx context.Context, prod *lab.Cluster) (map[string]shop.Fingerprint, error) {
	steps := []struct {
		say string
		do  func() error
	}{
		{"a vault in the bucket, and its key", func() error { return d.lockstep(ctx, nil, "vault", "init", d.vault, "--key-file", d.key) }},
		{"Lockstep on prod", func() error {
			return d.lockstep(ctx, prod, "install", "--image", d.lab.Image(), "--vault", d.vault, "--key-file", d.key)
		}},
		{"a password that Git does not hold", func() error { return shop.CreateSecret(ctx, prod) }},
	}
	for _, s := range steps {
		d.say("%s", s.say)
		if err := s.do(); err != nil {
			return nil, err
		}
	}
	held := map[string]shop.Fingerprint{}
	for _, release := range []string{shop.V1, shop.V2} {
		if release == shop.V2 {
			if err := d.repo.ReleaseV2(ctx); err != nil {
				return nil, err
			}
		}
		f, err := d.sell(ctx, prod, release)
		if err != nil {
			return nil, fmt.Errorf("release %s on prod: %w", release, err)
		}
		held[release] = f
	}
	if held[shop.V1].Schema == held[shop.V2].Schema || held[shop.V1].OrdersDigest == held[shop.V2].OrdersDigest {
		return nil, errors.New("the two releases hold the same: the demo would prove nothing")
	}
	// What comes after the last point is what a disaster loses: it must not come back.
	return held, shop.Sell(ctx, prod, "after-the-last-point", 1000)
}

func (d *demo) sell(ctx context.Context, prod *lab.Cluster, release string) (shop.Fingerprint, error) {
	d.say("release %s from Git onto prod", release)
	if err := d.lockstep(ctx, prod, "apply", "--repo", d.repo.URL, "--path", ".", "--tag", release); err != nil {
		return shop.Fingerprint{}, err
	}
	if err := shop.Sell(ctx, prod, release, orders); err != nil {
		return shop.Fingerprint{}, err
	}
	f, err := shop.TakeFingerprint(ctx, prod)
	if err != nil {
		return f, err
	}
	d.say("%s orders, %s keys, schema %.8s; a restore point of %s", f.Orders, f.Keys, f.Schema, release)
	return f, d.lockstep(ctx, prod, "backup", shop.Policy, "-n", shop.Namespace)
}

// recover types the one command on a cluster that has nothing, and proves what it brought back.
func (d *demo) recover(ctx context.Context, dr *lab.Cluster, release string, want shop.Fingerprint) (time.Duration, error) {
	d.say("lockstep restore --tag %s on an empty cluster", release)
	start := time.Now()
	err := d.lockstep(ctx, dr, "restore", "--tag", release, "--repo", d.repo.URL, "--path", ".",
		"--vault", d.vault, "--key-file", d.key, "--image", d.lab.Image(), "--name", "shop-"+release)
	if err != nil {
		return 0, err
	}
	rto := time.Since(start)
	got, err := shop.TakeFingerprint(ctx, dr)
	if err != nil {
		return 0, err
	}
	if got != want {
		return 0, fmt.Errorf("%s did not come back as it was:\n want %+v\n  got %+v", release, want, got)
	}
	front, database, err := shop.FrontBeforeData(ctx, dr)
	if err != nil {
		return 0, err
	}
	d.say("%s is back after %.1f s: schema, %s orders, %s keys, the password and the page are the same; the front was up %.1f s before the database had its data",
		release, rto.Seconds(), got.Orders, got.Keys, database.Sub(front).Seconds())
	return rto, nil
}

func (d *demo) lockstep(ctx context.Context, c *lab.Cluster, args ...string) error {
	_, err := d.lab.Lockstep(lab.WithEcho(ctx, d.indented()), c, args...)
	return err
}
