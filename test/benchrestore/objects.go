package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// many is an application of n objects without volumes, in the mixture that large applications have. Its Deployments have no
// replicas: what pods take to start is not the restore's.
func many(namespace string, n int) string {
	docs := []string{
		fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %s}}`, namespace),
		fmt.Sprintf(`{apiVersion: lockstep.dev/v1alpha1, kind: ProtectionPolicy, metadata: {name: app, namespace: %s}, spec: {vaults: [primary]}}`, namespace),
	}
	kinds := []string{
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: c-%[2]d, namespace: %[1]s}, data: {text: "%[3]s"}}`,
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: c-%[2]d, namespace: %[1]s}, data: {text: "%[3]s"}}`,
		`{apiVersion: v1, kind: Secret, metadata: {name: s-%[2]d, namespace: %[1]s}, stringData: {token: "%[3]s"}}`,
		`{apiVersion: v1, kind: ServiceAccount, metadata: {name: a-%[2]d, namespace: %[1]s}}`,
		`{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: r-%[2]d, namespace: %[1]s}, rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}`,
		`{apiVersion: v1, kind: Service, metadata: {name: v-%[2]d, namespace: %[1]s}, spec: {clusterIP: None, selector: {app: d-%[2]d}, ports: [{port: 80}]}}`,
		`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: n-%[2]d, namespace: %[1]s}, spec: {podSelector: {matchLabels: {app: d-%[2]d}}}}`,
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: d-%[2]d, namespace: %[1]s}, spec: {replicas: 0, selector: {matchLabels: {app: d-%[2]d}},
 template: {metadata: {labels: {app: d-%[2]d}}, spec: {containers: [{name: c, image: lockstep.test/busybox:1}]}}}}`,
	}
	for i := range n - len(docs) {
		docs = append(docs, fmt.Sprintf(kinds[i%len(kinds)], namespace, i, strings.Repeat("0123456789abcdef", 16)))
	}
	return strings.Join(docs, "\n---\n")
}

// measureObjects restores an application of many objects, and applies the same file with kubectl.
func (b *bench) measureObjects(ctx context.Context) error {
	const namespace = "many"
	manifests := many(namespace, b.objects)
	file := filepath.Join(b.dir, "many.yaml")
	if err := os.WriteFile(file, []byte(manifests), 0o600); err != nil {
		return err
	}
	revision, err := b.publish(ctx, namespace, manifests)
	if err != nil {
		return err
	}
	if err := b.recordPoint(ctx, revision, namespace+"/app"); err != nil {
		return err
	}
	restore := func(round int) error {
		if err := b.remove(ctx, namespace); err != nil {
			return err
		}
		took, err := b.restore(ctx, fmt.Sprintf("%s-%d", namespace, round), revision, namespace+"/app")
		b.sayf("restored: %.1f s", took.Healthy)
		b.report.objects("restore", took.Healthy)
		return err
	}
	plain := func(int) error {
		if err := b.remove(ctx, namespace); err != nil {
			return err
		}
		start := time.Now()
		cmd := exec.CommandContext(ctx, b.kubectl, "apply", "--server-side", "-f", file)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+b.cluster.Kubeconfig)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl apply: %w\n%s", err, out)
		}
		took := time.Since(start).Seconds()
		b.sayf("applied with kubectl: %.1f s", took)
		b.report.objects("kubectl", took)
		return nil
	}
	if err := turns(b.rounds, restore, plain); err != nil {
		return err
	}
	return b.remove(ctx, namespace)
}

// recordPoint writes a point without volumes into the vault, which no backup would make: it would have nothing to save.
func (b *bench) recordPoint(ctx context.Context, revision v1alpha1.Revision, application string) error {
	vault, err := b.openVault(ctx)
	if err != nil {
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	return catalog.Put(ctx, vault, point.Record{
		Version: point.Version, ID: now.Format("20060102-150405") + "-00000001", Application: application, Revision: revision,
		Trigger: v1alpha1.TriggerManual, Taken: now, Completed: now, Volumes: []point.Volume{},
	})
}
