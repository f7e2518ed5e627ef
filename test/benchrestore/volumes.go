package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/test/lab"
)

const image = "lockstep.test/busybox:1"

// application has n Deployments with a claim each, which their pods fill when they find it empty.
func (b *bench) application(namespace string, n int) string {
	docs := []string{
		fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %s}}`, namespace),
		fmt.Sprintf(`{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: app, namespace: %s}, spec: {vaults: [primary]}}`, namespace),
	}
	for i := range n {
		docs = append(docs, fmt.Sprintf(`apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data-%[2]d, namespace: %[1]s}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: %[3]s}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app-%[2]d, namespace: %[1]s}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: app-%[2]d}}
  template:
    metadata: {labels: {app: app-%[2]d}}
    spec:
      terminationGracePeriodSeconds: 0
      initContainers:
      - name: fill
        image: %[4]s
        command: [sh, -ec, '[ -e /data/filled ] || { %[5]s; touch /data/filled; sync; }']
        volumeMounts: [{name: data, mountPath: /data}]
      containers:
      - name: app
        image: %[4]s
        command: [sleep, "1000000"]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data-%[2]d}}]
`, namespace, i, b.size(), image, b.fill("/data")))
	}
	return strings.Join(docs, "\n---\n")
}

// size is that of a volume: half as much again as its bytes, and what a file system needs.
func (b *bench) size() string { return fmt.Sprintf("%dMi", b.bytes*3/2>>20+64) }

// fill is a shell command that makes the files of a volume, which nothing can compress.
func (b *bench) fill(dir string) string {
	return fmt.Sprintf(`for f in $(seq %d); do head -c %d /dev/urandom > %s/file-$f; done`, b.files, b.bytes/int64(b.files), dir)
}

// measureVolumes restores an application of n volumes, and copies as many bytes into as many fresh volumes.
func (b *bench) measureVolumes(ctx context.Context, n int) error {
	namespace := fmt.Sprintf("app-%d", n)
	b.sayf("an application with %d volumes of %d MiB", n, b.bytes>>20)
	revision, err := b.publish(ctx, namespace, b.application(namespace, n))
	if err != nil {
		return err
	}
	_, err = b.lab.Lockstep(ctx, b.cluster, "apply", "--repo", b.repository.URL, "--path", namespace, "--commit", revision.Commit, "--timeout", wayLimit.String())
	if err != nil {
		return err
	}
	b.sayf("its restore point")
	if _, err := b.lab.Lockstep(ctx, b.cluster, "backup", "app", "-n", namespace, "--timeout", wayLimit.String()); err != nil {
		return err
	}
	if err := b.source(ctx, namespace+"-copy", n); err != nil {
		return fmt.Errorf("making the source of the copy: %w", err)
	}
	restore := func(round int) error {
		if err := b.remove(ctx, namespace); err != nil {
			return err
		}
		var took restored
		used, err := b.use(ctx, func() (err error) {
			took, err = b.restore(ctx, fmt.Sprintf("%s-%d", namespace, round), revision, namespace+"/app")
			return err
		})
		b.sayf("restored: reserved after %.1f s, bound %.1f s, healthy %.1f s", took.Reserved, took.Bound, took.Healthy)
		b.sayUsage(used)
		b.report.volumes(n, "restore", took, used)
		return err
	}
	plain := func(int) error {
		var took time.Duration
		used, err := b.use(ctx, func() (err error) {
			took, err = b.copyAll(ctx, namespace+"-copy", n)
			return err
		})
		b.sayf("copied: %.1f s", took.Seconds())
		b.sayUsage(used)
		b.report.volumes(n, "copy", restored{Bound: took.Seconds()}, used)
		return errors.Join(err, b.removeCopies(ctx, namespace+"-copy", n))
	}
	if err := turns(b.rounds, restore, plain); err != nil {
		return err
	}
	return errors.Join(b.remove(ctx, namespace), b.remove(ctx, namespace+"-copy"))
}

// source makes a volume with the same files as each of the application's has, in a directory for each.
func (b *bench) source(ctx context.Context, namespace string, n int) error {
	if err := b.cluster.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}); err != nil {
		return err
	}
	size := resource.MustParse(fmt.Sprintf("%dMi", int64(n)*b.bytes*5/4>>20+256))
	if err := b.cluster.Create(ctx, claim(namespace, "source", size)); err != nil {
		return err
	}
	script := fmt.Sprintf(`for v in $(seq 0 %d); do mkdir -p /to/$v; %s; done; sync`, n-1, b.fill("/to/$v"))
	return b.runPod(ctx, pod(namespace, "source", script, map[string]string{"/to": "source"}))
}

// copyAll makes n claims at once, and copies into them with as many pods at once as there are movers.
func (b *bench) copyAll(ctx context.Context, namespace string, n int) (time.Duration, error) {
	start := time.Now()
	all, over := context.WithTimeout(ctx, wayLimit)
	defer over()
	group, all := errgroup.WithContext(all)
	group.SetLimit(b.parallel)
	for i := range n {
		if err := b.cluster.Create(all, claim(namespace, fmt.Sprintf("to-%d", i), resource.MustParse(b.size()))); err != nil {
			return 0, err
		}
	}
	for i := range n {
		name := fmt.Sprintf("to-%d", i)
		group.Go(func() error {
			return b.runPod(all, pod(namespace, name, fmt.Sprintf("cp -a /from/%d/. /to/ && sync", i), map[string]string{"/from": "source", "/to": name}))
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// removeCopies deletes what was copied into, and waits until it is gone.
func (b *bench) removeCopies(ctx context.Context, namespace string, n int) error {
	for i := range n {
		if err := b.cluster.Delete(ctx, claim(namespace, fmt.Sprintf("to-%d", i), resource.Quantity{})); err != nil {
			return err
		}
	}
	return lab.Eventually(ctx, wayLimit, func(ctx context.Context) (bool, error) {
		var volumes corev1.PersistentVolumeList
		err := b.cluster.List(ctx, &volumes)
		left := 0
		for _, v := range volumes.Items {
			if v.Spec.ClaimRef.Namespace == namespace {
				left++
			}
		}
		return left == 1, err
	})
}

func claim(namespace, name string, size resource.Quantity) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: size}},
		},
	}
}

// pod runs a shell script with claims mounted.
func pod(namespace, name, script string, mounts map[string]string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{Name: "run", Image: image, Command: []string{"sh", "-ec", script}}},
		},
	}
	for path, claim := range mounts {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: claim, MountPath: path})
	}
	return p
}

// runPod runs a pod to its end and deletes it.
func (b *bench) runPod(ctx context.Context, p *corev1.Pod) error {
	if err := b.cluster.Create(ctx, p); err != nil {
		return err
	}
	err := lab.Eventually(ctx, wayLimit, func(ctx context.Context) (bool, error) {
		if err := b.cluster.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return false, err
		}
		if p.Status.Phase == corev1.PodFailed {
			return false, fmt.Errorf("pod %s failed", p.Name)
		}
		return p.Status.Phase == corev1.PodSucceeded, nil
	})
	if err != nil {
		return fmt.Errorf("running pod %s: %w", p.Name, err)
	}
	return client.IgnoreNotFound(b.cluster.Delete(ctx, p))
}
