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
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// claimKinds is an application with one claim of every kind: bound at once and by its first consumer, files and a device, of one
// pod and of several, of nobody, and of a CronJob alone.
const claimKinds = `apiVersion: v1
kind: Namespace
metadata: {name: claims}
---
apiVersion: lockstep.dev/v1alpha1
kind: ProtectionPolicy
metadata: {name: claims, namespace: claims}
spec: {vaults: [primary]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: disks, namespace: claims}
spec:
  serviceName: disks
  selector: {matchLabels: {app: disks}}
  template:
    metadata: {labels: {app: disks}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: disks
          image: lockstep.test/busybox:1
          command: [busybox, sleep, "1000000"]
          volumeDevices:
            - {name: raw, devicePath: /dev/raw-now}
            - {name: late, devicePath: /dev/raw-late}
          volumeMounts: [{name: files, mountPath: /files}]
  volumeClaimTemplates:
    - metadata: {name: raw}
      spec: {volumeMode: Block, accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
    - metadata: {name: late}
      spec: {storageClassName: lockstep-wait, volumeMode: Block, accessModes: [ReadWriteOnce], resources: {requests: {storage: 32Mi}}}
    - metadata: {name: files}
      spec: {storageClassName: lockstep-wait, accessModes: [ReadWriteOncePod], resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shared, namespace: claims}
spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: nightly, namespace: claims}
spec: {storageClassName: lockstep-wait, accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: bare, namespace: claims}
spec: {storageClassName: lockstep-wait, accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: bare-disk, namespace: claims}
spec: {volumeMode: Block, accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: readers, namespace: claims}
spec:
  replicas: 2
  selector: {matchLabels: {app: readers}}
  template:
    metadata: {labels: {app: readers}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: readers
          image: lockstep.test/busybox:1
          command: [busybox, sleep, "1000000"]
          volumeMounts: [{name: data, mountPath: /shared}]
      volumes:
        - {name: data, persistentVolumeClaim: {claimName: shared}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly, namespace: claims}
spec:
  schedule: "0 3 29 2 *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: nightly
              image: lockstep.test/busybox:1
              command: [busybox, "true"]
              volumeMounts: [{name: data, mountPath: /data}]
          volumes:
            - {name: data, persistentVolumeClaim: {claimName: nightly}}
`

// servers is one pod with two databases, each on a claim of another kind: PostgreSQL on one of one pod that waits for its first
// consumer, Redis on one that is bound at once.
const servers = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: servers, namespace: claims}
spec:
  serviceName: servers
  selector: {matchLabels: {app: servers}}
  template:
    metadata: {labels: {app: servers}}
    spec:
      securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999, fsGroupChangePolicy: OnRootMismatch}
      containers:
        - name: postgres
          image: lockstep.test/postgres:15
          command: [sh, -ec]
          args:
            - |
              [ -s /rows/pg/PG_VERSION ] || initdb --pgdata=/rows/pg --username=shop --auth=trust --encoding=UTF8 --locale=C
              exec postgres -D /rows/pg -c listen_addresses= -c unix_socket_directories=/tmp
          readinessProbe: {exec: {command: [psql, -h, /tmp, -U, shop, -d, postgres, -qtc, "select 1"]}, periodSeconds: 1}
          volumeMounts: [{name: rows, mountPath: /rows}, {name: tmp, mountPath: /tmp}]
        - name: redis
          image: lockstep.test/redis:7
          command: [redis-server, --dir, /keys, --appendonly, "yes", --appendfsync, always]
          readinessProbe: {exec: {command: [redis-cli, ping]}, periodSeconds: 1}
          volumeMounts: [{name: keys, mountPath: /keys}]
      volumes: [{name: tmp, emptyDir: {}}]
  volumeClaimTemplates:
    - metadata: {name: rows}
      spec: {storageClassName: lockstep-wait, accessModes: [ReadWriteOncePod], resources: {requests: {storage: 256Mi}}}
    - metadata: {name: keys}
      spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
`

// otherSizes are claims that the StatefulSet finds instead of making them from its templates: a device that is half of what Git asks
// for, and files on twice as much.
const otherSizes = `apiVersion: v1
kind: Namespace
metadata: {name: claims}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: late-disks-0, namespace: claims, labels: {app: disks}}
spec: {storageClassName: lockstep-wait, volumeMode: Block, accessModes: [ReadWriteOnce], resources: {requests: {storage: 16Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files-disks-0, namespace: claims, labels: {app: disks}}
spec: {storageClassName: lockstep-wait, accessModes: [ReadWriteOncePod], resources: {requests: {storage: 128Mi}}}
`

// visitor mounts claims that nobody else does, to write into them and to look at them.
const visitor = `apiVersion: v1
kind: Pod
metadata: {name: visitor, namespace: claims}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: visitor
      image: lockstep.test/busybox:1
      command: [busybox, sleep, "1000000"]
      volumeDevices: [{name: disk, devicePath: /dev/bare-disk}]
      volumeMounts: [{name: nightly, mountPath: /nightly}, {name: bare, mountPath: /bare}]
  volumes:
    - {name: disk, persistentVolumeClaim: {claimName: bare-disk}}
    - {name: nightly, persistentVolumeClaim: {claimName: nightly}}
    - {name: bare, persistentVolumeClaim: {claimName: bare}}
`

// places are where each claim is seen, by the label or the name of a pod.
var places = []struct{ claim, pod, path string }{
	{"raw-disks-0", "disks", "/dev/raw-now"}, {"late-disks-0", "disks", "/dev/raw-late"}, {"files-disks-0", "disks", "/files"},
	{"shared", "readers", "/shared"},
	{"nightly", "visitor", "/nightly"}, {"bare", "visitor", "/bare"}, {"bare-disk", "visitor", "/dev/bare-disk"},
}

// inServers are the claims of the databases.
var inServers = []string{"rows-servers-0", "keys-servers-0"}

// TestEveryKindOfClaim: what each kind of claim held is in it again, to the last byte, on another cluster; and databases go on with what
// they had.
func TestEveryKindOfClaim(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	prod, dr := shared.prod, shared.dr
	repo, err := shop.NewRepository(ctx, shared.lab, fmt.Sprintf("claims-%d", time.Now().UnixNano()), t.TempDir())
	must(t, err)
	must(t, repo.Commit(ctx, "Begin", func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "claims.yaml"), []byte(claimKinds+"---\n"+servers), 0o644)
	}))
	must(t, repo.Tag(ctx, tag))
	create(ctx, t, prod, otherSizes)
	defer forget(context.WithoutCancel(ctx), t, prod, "claims")
	// The claim that waits for its first consumer has none yet: the workloads are healthy without it.
	lockstep(ctx, t, prod, "apply", "--repo", repo.URL, "--path", ".", "--tag", tag)
	visit(ctx, t, prod)
	for i, p := range places {
		pod := podNamed(ctx, t, prod, p.pod)
		script := `busybox dd if=/dev/urandom of=DEST bs=64k count=40 conv=notrunc 2>/dev/null; busybox dd if=/dev/urandom of=DEST bs=64k seek=200 count=3 conv=notrunc 2>/dev/null; busybox sync`
		if !strings.HasPrefix(p.path, "/dev/") {
			script = strings.ReplaceAll(`busybox mkdir -p DIR/d; echo kept >DIR/d/NUMBER; busybox ln DIR/d/NUMBER DIR/again; `, "DIR", p.path) + strings.ReplaceAll(script, "DEST", p.path+"/big")
		}
		script = strings.NewReplacer("DEST", p.path, "NUMBER", fmt.Sprint(i)).Replace(script)
		_, err := prod.Exec(ctx, "claims", pod, "busybox", "sh", "-ec", script)
		must(t, err)
	}
	sell(ctx, t, prod)
	rows, keys := sold(ctx, t, prod)
	held := map[string]string{}
	for _, p := range places {
		held[p.claim] = digestAt(ctx, t, prod, p.pod, p.path)
	}
	lockstep(ctx, t, prod, "backup", "claims", "-n", "claims")

	lockstep(ctx, t, dr, "restore", "--tag", tag, "--repo", repo.URL, "--path", ".", "--vault", shared.vault, "--key-file", shared.key,
		"--image", shared.lab.Image())
	defer forget(context.WithoutCancel(ctx), t, dr, "claims")
	var claims corev1.PersistentVolumeClaimList
	must(t, dr.List(ctx, &claims, client.InNamespace("claims")))
	if len(claims.Items) != len(places)+len(inServers) {
		t.Errorf("%d claims, want %d", len(claims.Items), len(places)+len(inServers))
	}
	for _, c := range claims.Items {
		if c.Status.Phase != corev1.ClaimBound {
			t.Errorf("claim %s is %s when the restore is done", c.Name, c.Status.Phase)
		}
	}
	nothingLeft(ctx, t, dr, "claims")
	if gotRows, gotKeys := sold(ctx, t, dr); gotRows != rows || gotKeys != keys {
		t.Errorf("the databases hold %s and %s, want %s and %s", gotRows, gotKeys, rows, keys)
	}
	visit(ctx, t, dr)
	for _, p := range places {
		if got := digestAt(ctx, t, dr, p.pod, p.path); got != held[p.claim] {
			t.Errorf("claim %s did not come back as it was: %s, want %s", p.claim, got, held[p.claim])
		}
	}
	for _, name := range []string{"files-disks-0", "rows-servers-0"} {
		files := &corev1.PersistentVolumeClaim{}
		must(t, dr.Get(ctx, client.ObjectKey{Namespace: "claims", Name: name}, files))
		if len(files.Status.AccessModes) != 1 || files.Status.AccessModes[0] != corev1.ReadWriteOncePod {
			t.Errorf("access modes %v of claim %s, which is of one pod", files.Status.AccessModes, name)
		}
	}
	checkSizes(ctx, t, dr)
}

// inContainer runs a command beside one of the databases.
func inContainer(ctx context.Context, t *testing.T, c *lab.Cluster, container string, command ...string) string {
	t.Helper()
	_, err := c.PodReady(ctx, "claims", "servers-0")
	must(t, err)
	out, err := c.Kubectl(ctx, append([]string{"-n", "claims", "exec", "servers-0", "-c", container, "--"}, command...)...)
	if err != nil {
		t.Fatal(err, out)
	}
	return strings.TrimSpace(out)
}

func query(ctx context.Context, t *testing.T, c *lab.Cluster, sql string) string {
	t.Helper()
	return inContainer(ctx, t, c, "postgres", "psql", "-h", "/tmp", "-U", "shop", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-qtAc", sql)
}

// sell fills both databases.
func sell(ctx context.Context, t *testing.T, c *lab.Cluster) {
	t.Helper()
	query(ctx, t, c, `create table orders (id serial primary key, item text); insert into orders (item) select md5(n::text) || random() from generate_series(1, 5000) n`)
	inContainer(ctx, t, c, "redis", "redis-cli", "eval", `for i = 1, 500 do redis.call('set', 'key:' .. i, redis.sha1hex('a' .. i)) end return 'ok'`, "0")
}

// sold counts and digests what the databases hold, as they tell it.
func sold(ctx context.Context, t *testing.T, c *lab.Cluster) (rows, keys string) {
	t.Helper()
	rows = query(ctx, t, c, `select count(*) || ' rows ' || md5(string_agg(o::text, ',' order by id)) from orders o`)
	keys = inContainer(ctx, t, c, "redis", "redis-cli", "eval",
		`local all = redis.call('keys', '*'); table.sort(all); local text = ''
		for _, k in ipairs(all) do text = text .. k .. redis.call('get', k) end return #all .. ' keys ' .. redis.sha1hex(text)`, "0")
	if !strings.HasPrefix(rows, "5000 ") || !strings.HasPrefix(keys, "500 ") {
		t.Errorf("the databases hold %s and %s", rows, keys)
	}
	return rows, keys
}

// checkSizes: a volume is as large as Git asks for and as the data needs, and a device is empty behind its data.
func checkSizes(ctx context.Context, t *testing.T, c *lab.Cluster) {
	t.Helper()
	for name, want := range map[string]string{"late-disks-0": "32Mi", "files-disks-0": "128Mi", "raw-disks-0": "64Mi"} {
		claim := &corev1.PersistentVolumeClaim{}
		must(t, c.Get(ctx, client.ObjectKey{Namespace: "claims", Name: name}, claim))
		if got := claim.Status.Capacity[corev1.ResourceStorage]; got.Cmp(resource.MustParse(want)) != 0 {
			t.Errorf("claim %s has %s, want %s", name, got.String(), want)
		}
	}
	out, err := c.Exec(ctx, "claims", podNamed(ctx, t, c, "disks"), "busybox", "sh", "-ec",
		`busybox tail -c +16777217 /dev/raw-late | busybox wc -c; busybox tail -c +16777217 /dev/raw-late | busybox tr -d "\\000" | busybox wc -c`)
	must(t, err)
	if fields := strings.Fields(out); len(fields) != 2 || fields[0] != "16777216" || fields[1] != "0" {
		t.Errorf("bytes behind the image, and those of them that are not zero: %v", fields)
	}
}

// visit starts the visitor.
func visit(ctx context.Context, t *testing.T, c *lab.Cluster) {
	t.Helper()
	create(ctx, t, c, visitor)
	_, err := c.PodReady(ctx, "claims", "visitor")
	must(t, err)
}

func create(ctx context.Context, t *testing.T, c *lab.Cluster, objects string) {
	t.Helper()
	manifest := filepath.Join(t.TempDir(), "objects.yaml")
	must(t, os.WriteFile(manifest, []byte(objects), 0o644))
	_, err := c.Kubectl(ctx, "apply", "-f", manifest)
	must(t, err)
}

// podNamed waits for a pod that runs, by its label "app" or its name.
func podNamed(ctx context.Context, t *testing.T, c *lab.Cluster, name string) string {
	t.Helper()
	found := ""
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		var pods corev1.PodList
		if err := c.List(ctx, &pods, client.InNamespace("claims")); err != nil {
			return false, err
		}
		for _, p := range pods.Items {
			if p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning && (p.Name == name || p.Labels["app"] == name) {
				found = p.Name
			}
		}
		return found != "", nil
	}))
	return found
}

// digestAt is a digest over the first 16 MiB of a device, which is all that some of them have, or over names, modes and bytes of a directory, made by the tools in the pod.
func digestAt(ctx context.Context, t *testing.T, c *lab.Cluster, pod, path string) string {
	t.Helper()
	script := "busybox head -c 16777216 " + path + " | busybox sha256sum"
	if !strings.HasPrefix(path, "/dev/") {
		script = "cd " + path + `; (busybox find . -type f | busybox sort | busybox xargs busybox sha256sum
			busybox find . | busybox sort | busybox xargs busybox stat -c '%n %a %u %g %h %F') | busybox sha256sum`
	}
	out, err := c.Exec(ctx, "claims", podNamed(ctx, t, c, pod), "busybox", "sh", "-ec", script)
	must(t, err)
	return strings.Fields(out)[0]
}
