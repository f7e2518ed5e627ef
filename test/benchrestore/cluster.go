package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/pkg/volume"
	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// bench is a cluster with Lockstep, a vault and a repository.
type bench struct {
	options
	lab        *lab.Lab
	cluster    *lab.Cluster
	dir        string
	key, vault string
	repository *shop.Repository
	kubectl    string
	started    time.Time
	report     report
}

// wayLimit bounds the wait for any one thing.
const wayLimit = 10 * time.Minute

func begin(o options) (*bench, error) {
	if err := lab.Check(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "lockstep-bench-")
	if err != nil {
		return nil, err
	}
	return &bench{
		options: o, started: time.Now(), dir: dir, key: filepath.Join(dir, "vault.key"), report: report{options: o, machine: lab.Machine()},
	}, nil
}

// prepare brings up everything that is there before anything is measured.
func (b *bench) prepare(ctx context.Context) error {
	tools, err := lab.Built()
	if err != nil {
		return err
	}
	b.sayf("a cluster, an S3 server and a Git server")
	if b.lab, err = lab.Start(ctx, tools); err != nil {
		return err
	}
	clusters, err := b.lab.Up(ctx, "bench")
	if err != nil {
		return err
	}
	b.cluster = clusters[0]
	if b.kubectl, err = b.lab.Kubectl(ctx); err != nil {
		return err
	}
	run := fmt.Sprintf("bench-%d", time.Now().Unix())
	if b.vault, err = b.lab.Bucket(ctx, run, "vault"); err != nil {
		return err
	}
	work := filepath.Join(b.dir, "repository")
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	if b.repository, err = shop.NewRepository(ctx, b.lab, run, work); err != nil {
		return err
	}
	if _, err := b.lab.Lockstep(ctx, nil, "vault", "init", b.vault, "--key-file", b.key); err != nil {
		return err
	}
	_, err = b.lab.Lockstep(ctx, b.cluster, "install", "--image", b.lab.Image(), "--vault", b.vault, "--key-file", b.key)
	return err
}

func (b *bench) end(ctx context.Context) {
	if b.cluster != nil {
		if err := b.cluster.Down(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "benchrestore:", err)
		}
	}
	_ = os.RemoveAll(b.dir) // a directory for temporary things
}

// publish commits an application's manifests to a directory of the repository, and resolves the commit.
func (b *bench) publish(ctx context.Context, path, manifests string) (v1alpha1.Revision, error) {
	err := b.repository.Commit(ctx, "Deploy "+path, func(dir string) error {
		if err := os.Mkdir(filepath.Join(dir, path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, path, "all.yaml"), []byte(manifests), 0o644)
	})
	if err != nil {
		return v1alpha1.Revision{}, err
	}
	r, err := git.Open(b.repository.URL, git.Options{})
	if err != nil {
		return v1alpha1.Revision{}, err
	}
	defer func() { _ = r.Close() }() // it was only read
	return r.Resolve(ctx, git.Ref{Branch: "main"}, path)
}

// openVault opens the vault from here.
func (b *bench) openVault(ctx context.Context) (*volume.Vault, error) {
	f, err := os.Open(b.key)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	identities, err := age.ParseIdentities(f)
	if err != nil {
		return nil, err
	}
	s, err := backend.Open(ctx, b.vault, backend.Credentials{AccessKeyID: b.lab.S3.AccessKey, SecretAccessKey: b.lab.S3.SecretKey})
	if err != nil {
		return nil, err
	}
	return volume.Open(ctx, s, identities...)
}

// remove deletes a namespace, and waits until it and its volumes are gone.
func (b *bench) remove(ctx context.Context, name string) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := b.cluster.Delete(ctx, namespace); err != nil {
		return client.IgnoreNotFound(err)
	}
	err := lab.Eventually(ctx, wayLimit, func(ctx context.Context) (bool, error) {
		err := b.cluster.Get(ctx, client.ObjectKeyFromObject(namespace), namespace)
		if client.IgnoreNotFound(err) != nil || err == nil {
			return false, err
		}
		var volumes corev1.PersistentVolumeList
		if err := b.cluster.List(ctx, &volumes); err != nil {
			return false, err
		}
		for _, v := range volumes.Items {
			if v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Namespace == name {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("removing namespace %s: %w", name, err)
	}
	return nil
}

// restored is how long a restore took until it had come so far.
type restored struct {
	Reserved, Bound, Healthy float64
}

// restore asks for one and watches it by the clock of this program; the status has whole seconds only.
func (b *bench) restore(ctx context.Context, name string, revision v1alpha1.Revision, application string) (restored, error) {
	var times restored
	r := &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name},
		Spec: v1alpha1.RestoreSpec{
			From:   v1alpha1.RestoreFrom{Vault: "primary", Commit: revision.Commit, Application: application},
			Source: v1alpha1.GitSource{URL: b.repository.URL, Path: revision.Path},
		},
	}
	start := time.Now()
	if err := b.cluster.Create(ctx, r); err != nil {
		return times, err
	}
	took := func(into *float64, at *metav1.Time) {
		if at != nil && *into == 0 {
			*into = time.Since(start).Seconds()
		}
	}
	err := lab.Eventually(ctx, wayLimit, func(ctx context.Context) (bool, error) {
		if err := b.cluster.Get(ctx, client.ObjectKeyFromObject(r), r); err != nil {
			return false, err
		}
		took(&times.Reserved, r.Status.ReservedAt)
		took(&times.Bound, r.Status.BoundAt)
		took(&times.Healthy, r.Status.CompletedAt)
		for _, c := range r.Status.Conditions {
			if c.Type == v1alpha1.ConditionStalled && c.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("stalled: %s: %s", c.Reason, c.Message)
			}
		}
		return times.Healthy > 0, nil
	})
	if err != nil {
		return times, fmt.Errorf("restore %s: %w", name, err)
	}
	return times, b.cluster.Delete(ctx, r)
}
