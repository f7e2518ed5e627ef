package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// plainFiles is an application on storage that knows no snapshots, which never stops writing.
const plainFiles = `apiVersion: v1
kind: Namespace
metadata: {name: plain}
---
apiVersion: lockstep.dev/v1alpha1
kind: ProtectionPolicy
metadata: {name: plain, namespace: plain}
spec: {vaults: [primary], CONSISTENCY}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files, namespace: plain}
spec: {storageClassName: lockstep-local, accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: plain, namespace: plain}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: plain}}
  template:
    metadata: {labels: {app: plain}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: plain
          image: lockstep.test/busybox:1
          command: [busybox, sh, -c, "while :; do busybox dd if=/dev/zero of=/files/log bs=1M count=24 conv=notrunc 2>/dev/null; done"]
          volumeMounts: [{name: files, mountPath: /files}]
      volumes: [{name: files, persistentVolumeClaim: {claimName: files}}]
`

// TestFuzzy saves a volume of a node's own directory while it is written to, which is refused unless the policy has it so, and brings it
// back on another cluster. The application's volume is as it was.
func TestFuzzy(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	prod, dr := shared.prod, shared.dr
	repo, err := shop.NewRepository(ctx, shared.lab, fmt.Sprintf("plain-%d", time.Now().UnixNano()), t.TempDir())
	must(t, err)
	for _, release := range [][2]string{{"strict", "Crash"}, {"fuzzy", "Fuzzy"}} {
		tag, consistency := release[0], "consistency: "+release[1]
		must(t, repo.Commit(ctx, tag, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "plain.yaml"), []byte(strings.ReplaceAll(plainFiles, "CONSISTENCY", consistency)), 0o644)
		}))
		must(t, repo.Tag(ctx, tag))
	}
	defer forget(context.WithoutCancel(ctx), t, prod, "plain")
	lockstep(ctx, t, prod, "apply", "--repo", repo.URL, "--path", ".", "--tag", "strict")
	const digest = `cd /files/still && busybox find . -type f | busybox sort | busybox xargs busybox sha256sum | busybox sha256sum`
	pod := podIn(ctx, t, prod)
	_, err = prod.Exec(ctx, "plain", pod, "busybox", "sh", "-ec", `cd /files; mkdir still; for i in $(busybox seq 50); do echo "file $i" >still/$i; done
		busybox dd if=/dev/urandom of=still/big bs=1M count=8 2>/dev/null; busybox ln still/1 still/again`)
	must(t, err)
	want, err := prod.Exec(ctx, "plain", pod, "busybox", "sh", "-ec", digest)
	must(t, err)
	refused(ctx, t, prod, 1, "consistency: Fuzzy", "backup", "plain", "-n", "plain")
	lockstep(ctx, t, prod, "apply", "--repo", repo.URL, "--path", ".", "--tag", "fuzzy")
	lockstep(ctx, t, prod, "backup", "plain", "-n", "plain")

	var points v1alpha1.RestorePointList
	must(t, prod.List(ctx, &points, client.InNamespace("plain")))
	fuzzy := 0
	for _, p := range points.Items {
		if p.Status.Consistency == v1alpha1.ConsistencyFuzzy && isReady(&p) && p.Status.Volumes[0].Source == v1alpha1.SourceVolume {
			fuzzy++
			// Whether a write falls into the moment of reading is chance here; that it is named is TestKeepGoingWithChanges in pkg/volume.
			t.Logf("changed while it was read: %q", p.Status.Volumes[0].Changed)
		}
	}
	if fuzzy != 1 {
		t.Errorf("%d points are Ready and fuzzy: %+v", fuzzy, points.Items)
	}
	nothingLeft(ctx, t, prod, "plain")
	if got, err := prod.Exec(ctx, "plain", podIn(ctx, t, prod), "busybox", "sh", "-ec", digest); err != nil || got != want {
		t.Errorf("the application's data after the backup: %q, %v", got, err)
	}

	lockstep(ctx, t, dr, "restore", "--tag", "fuzzy", "--repo", repo.URL, "--path", ".", "--vault", shared.vault, "--key-file", shared.key,
		"--image", shared.lab.Image())
	defer forget(context.WithoutCancel(ctx), t, dr, "plain")
	if got, err := dr.Exec(ctx, "plain", podIn(ctx, t, dr), "busybox", "sh", "-ec", digest); err != nil || got != want {
		t.Errorf("what came back: %q, %v, want %q", got, err, want)
	}
	nothingLeft(ctx, t, dr, "plain")
}

// podIn waits for the pod of the application.
func podIn(ctx context.Context, t *testing.T, c *lab.Cluster) (name string) {
	t.Helper()
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		var pods corev1.PodList
		err := c.List(ctx, &pods, client.InNamespace("plain"))
		for _, p := range pods.Items {
			if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
				name = p.Name
			}
		}
		return name != "", err
	}))
	return name
}
