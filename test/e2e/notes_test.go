package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// notes is a small application with both kinds of claim: one from a StatefulSet's template in the default class, one of its own in
// the class that waits for its first consumer.
const notes = `apiVersion: v1
kind: Namespace
metadata: {name: NAME}
---
apiVersion: lockstep.dev/v1alpha1
kind: ProtectionPolicy
metadata: {name: notes, namespace: NAME}
spec: {vaults: [primary]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: notes, namespace: NAME}
spec:
  serviceName: notes
  selector: {matchLabels: {app: notes}}
  template:
    metadata: {labels: {app: notes}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: notes
          image: lockstep.test/busybox:1
          command: [busybox, sleep, "1000000"]
          envFrom: [{secretRef: {name: seal}}]
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 256Mi}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: drafts, namespace: NAME}
spec:
  storageClassName: lockstep-wait
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 128Mi}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: drafts, namespace: NAME}
spec:
  strategy: {type: Recreate}
  selector: {matchLabels: {app: drafts}}
  template:
    metadata: {labels: {app: drafts}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: drafts
          image: lockstep.test/busybox:1
          command: [busybox, sleep, "1000000"]
          volumeMounts: [{name: data, mountPath: /data}]
      volumes:
        - name: data
          persistentVolumeClaim: {claimName: drafts}
`

const tag = "v1.0.0"

// newNotes publishes the application in a repository of its own, with whatever other objects are given, and deploys it onto
// prod with some data in both volumes and a Secret that Git does not hold.
func newNotes(ctx context.Context, t *testing.T, name string, others ...string) (repo *shop.Repository, digest string) {
	t.Helper()
	return newNotesAt(ctx, t, ".", name, others...)
}

// newNotesAt is newNotes in a directory of its repository.
func newNotesAt(ctx context.Context, t *testing.T, path, name string, others ...string) (repo *shop.Repository, digest string) {
	t.Helper()
	must(t, shared.prod.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	must(t, shared.prod.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "seal"}, Data: map[string][]byte{"SEAL": []byte(rand.Text())},
	}))
	repo, err := shop.NewRepository(ctx, shared.lab, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()), t.TempDir())
	must(t, err)
	publish(ctx, t, repo, tag, filepath.Join(path, "notes.yaml"), strings.ReplaceAll(strings.Join(append([]string{notes}, others...), "---\n"), "NAME", name))
	lockstep(ctx, t, shared.prod, "apply", "--repo", repo.URL, "--path", path, "--tag", tag)
	return repo, fillNotes(ctx, t, name)
}

// publish commits one file, under a tag.
func publish(ctx context.Context, t *testing.T, repo *shop.Repository, tag, file, content string) {
	t.Helper()
	must(t, repo.Commit(ctx, tag, func(dir string) error {
		file := filepath.Join(dir, file)
		return errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o644))
	}))
	must(t, repo.Tag(ctx, tag))
}

// fillNotes writes data into both volumes of the application on prod, and returns its digest.
func fillNotes(ctx context.Context, t *testing.T, name string) (digest string) {
	t.Helper()
	for _, pod := range notesPods(ctx, t, shared.prod, name) {
		_, err := shared.prod.Exec(ctx, name, pod, "busybox", "sh", "-ec", `cd /data; mkdir -p a/b; busybox dd if=/dev/urandom of=a/big bs=1M count=24 2>/dev/null
			for i in $(busybox seq 200); do echo "note $i of $(busybox hostname)" >a/b/$i; done; busybox ln -s b/7 a/link; busybox sync`)
		must(t, err)
	}
	return notesDigest(ctx, t, shared.prod, name)
}

// notesPods waits for both pods and returns their names, the StatefulSet's first.
func notesPods(ctx context.Context, t *testing.T, c *lab.Cluster, namespace string) []string {
	t.Helper()
	names := make([]string, 2)
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		var pods corev1.PodList
		if err := c.List(ctx, &pods, client.InNamespace(namespace)); err != nil {
			return false, err
		}
		names = make([]string, 2)
		for _, p := range pods.Items {
			if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning {
				switch p.Labels["app"] {
				case "notes":
					names[0] = p.Name
				case "drafts":
					names[1] = p.Name
				}
			}
		}
		return names[0] != "" && names[1] != "", nil
	})
	if err != nil {
		out, _ := c.Kubectl(ctx, "get", "all,pvc,restores,restorepoints", "-A")
		t.Fatalf("pods of %s do not run on %s: %v\n%s", namespace, c.Name, err, out)
	}
	return names
}

// notesDigest is a digest over names, modes and bytes of both volumes, made by the tools in the pods.
func notesDigest(ctx context.Context, t *testing.T, c *lab.Cluster, namespace string) string {
	t.Helper()
	var all []string
	for _, pod := range notesPods(ctx, t, c, namespace) {
		all = append(all, digestOfNotes(ctx, t, c, namespace, pod))
	}
	return strings.Join(all, " ")
}

// digestOfNotes is that of the volume that one pod has at /data.
func digestOfNotes(ctx context.Context, t *testing.T, c *lab.Cluster, namespace, pod string) string {
	t.Helper()
	out, err := c.Exec(ctx, namespace, pod, "busybox", "sh", "-ec",
		`cd /data; (busybox find . -type f | busybox sort | busybox xargs busybox sha256sum; busybox find . | busybox sort | busybox xargs busybox stat -c '%n %a %u %g %F') | busybox sha256sum`)
	must(t, err)
	return strings.Fields(out)[0]
}

// forget removes the application and its restores from a cluster.
func forget(ctx context.Context, t *testing.T, c *lab.Cluster, namespace string) {
	t.Helper()
	err := c.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	must(t, client.IgnoreNotFound(err))
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		err := c.Get(ctx, client.ObjectKey{Name: namespace}, &corev1.Namespace{})
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	}))
}

func lockstep(ctx context.Context, t *testing.T, c *lab.Cluster, args ...string) string {
	t.Helper()
	out, err := shared.lab.Lockstep(ctx, c, args...)
	must(t, err)
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
