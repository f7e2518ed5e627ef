package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// ordersName is the namespace, the policy and the pod's label, which is that of the recipe.
const ordersName = "orders"

// ordersByMariaDB has its data on one volume and its binary log on another: each statement must be in both or in none. What a power cut
// has left of a table of MyISAM is not mended silently.
const ordersByMariaDB = `apiVersion: v1
kind: Namespace
metadata: {name: orders}
---
apiVersion: lockstep.dev/v1alpha1
kind: ProtectionPolicy
metadata: {name: orders, namespace: orders}
spec: {vaults: [primary]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: orders, namespace: orders}
spec:
  serviceName: orders
  selector: {matchLabels: {app: orders}}
  template:
    metadata: {labels: {app: orders}}
    spec:
      securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999, fsGroupChangePolicy: OnRootMismatch}
      containers:
        - name: mariadb
          image: lockstep.test/mariadb:10.11
          args: [--log-bin=/var/log/mysql/bin, --myisam-recover-options=OFF]
          envFrom: [{secretRef: {name: orders}}]
          readinessProbe:
            exec: {command: [sh, -c, 'MYSQL_PWD="$MARIADB_ROOT_PASSWORD" mariadb -u root -e "select 1"']}
            periodSeconds: 1
          volumeMounts:
            - {name: data, mountPath: /var/lib/mysql}
            - {name: log, mountPath: /var/log/mysql}
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 1Gi}}
    - metadata: {name: log}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 1Gi}}
`

// TestQuiesceMariaDB takes a point of MariaDB under load, with the recipe of examples/quiesce, and brings it back on dr: every write that a
// client had been told of before the snapshots were asked for is there, the binary log on its own volume has as many statements as the
// tables have rows, and all tables are whole.
func TestQuiesceMariaDB(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	prod, dr := shared.prod, shared.dr
	repo := deployOrders(ctx, t)
	useRecipes(ctx, t, prod, ordersName, ordersName, "mariadb")
	ordersSQL(ctx, t, prod, `create database ledger;
		create table ledger.innodb (writer int, n int, primary key (writer, n)) engine=innodb;
		create table ledger.myisam (writer int, n int, primary key (writer, n)) engine=myisam`)
	statements := binaryLog(ctx, t, prod)

	var writers []*writer
	for i := range 8 {
		table := "innodb"
		if i == 7 {
			table = "myisam"
		}
		writers = append(writers, writeTo(ctx, t, fmt.Sprintf("MariaDB %d, %s", i, table), func(n int) string {
			return fmt.Sprintf("insert into ledger.%s values (%d, %d) returning n;\n", table, i, n)
		}, ordersName, "orders-0", mariadb("-Nn")...))
	}
	p := pointUnderLoad(ctx, t, ordersName, ordersName, writers)
	frozen := measure(t, p, writers)
	rate := 0.0
	for _, w := range writers[:7] {
		rate += w.rate(frozen)
	}
	t.Logf("MariaDB committed %.0f transactions a second to InnoDB, and wrote %.0f rows a second to MyISAM", rate, writers[7].rate(frozen))
	if rate < leastRate {
		t.Errorf("MariaDB committed %.0f transactions a second: that is no load", rate)
	}
	thawed := p.Status.Quiesce[0].ThawedAt.Time
	if held, silent := thawed.Sub(frozen), silence(writers, frozen, thawed); silent < held/2 {
		t.Errorf("it was held for %s, and a client was told of a write after no more than %s of silence", held, silent)
	}

	lockstep(ctx, t, dr, "restore", "--tag", tag, "--repo", repo.URL, "--path", ".", "--vault", shared.vault, "--key-file", shared.key,
		"--image", shared.lab.Image())
	_, err := dr.PodReady(ctx, ordersName, "orders-0")
	must(t, err)
	all := 0
	for i, w := range writers {
		out := ordersSQL(ctx, t, dr, fmt.Sprintf(`select count(*), coalesce(max(n), 0) from (select * from ledger.innodb union all select * from ledger.myisam) ledger
			where writer = %d`, i))
		rows, newest, _ := strings.Cut(out, "\t")
		got, err := strconv.Atoi(newest)
		must(t, err)
		if told := w.toldBefore(frozen); got < told || rows != newest {
			t.Errorf("writer %d: %s rows up to %d came back; the client had been told of %d", i, rows, got, told)
		}
		all += got
	}
	if logged := binaryLog(ctx, t, dr) - statements; logged != all {
		t.Errorf("%d rows came back, and %d statements of the binary log", all, logged)
	}
	out, err := dr.Exec(ctx, ordersName, "orders-0", "sh", "-c", `MYSQL_PWD="$MARIADB_ROOT_PASSWORD" exec mariadb-check -u root --all-databases --check --extended`)
	must(t, err)
	for line := range strings.Lines(out) {
		if !strings.HasSuffix(strings.TrimSpace(line), " OK") {
			t.Errorf("mariadb-check: %s", line)
		}
	}
	t.Logf("%s: %d rows came back, %d tables are whole", ordersSQL(ctx, t, dr, "select version()"), all, strings.Count(out, "\n"))
	forget(ctx, t, dr, ordersName)
	forget(ctx, t, prod, ordersName)
}

// deployOrders deploys the application onto prod, with a password that Git does not hold.
func deployOrders(ctx context.Context, t *testing.T) *shop.Repository {
	t.Helper()
	must(t, shared.prod.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ordersName}}))
	must(t, shared.prod.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: ordersName, Name: ordersName}, StringData: map[string]string{"MARIADB_ROOT_PASSWORD": rand.Text()},
	}))
	repo, err := shop.NewRepository(ctx, shared.lab, fmt.Sprintf("%s-%d", ordersName, time.Now().UnixNano()), t.TempDir())
	must(t, err)
	must(t, repo.Commit(ctx, "Begin", func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "orders.yaml"), []byte(ordersByMariaDB), 0o644)
	}))
	must(t, repo.Tag(ctx, tag))
	lockstep(ctx, t, shared.prod, "apply", "--repo", repo.URL, "--path", ".", "--tag", tag)
	_, err = shared.prod.PodReady(ctx, ordersName, "orders-0")
	must(t, err)
	return repo
}

// mariadb is the client as root.
func mariadb(args ...string) []string {
	return append([]string{"sh", "-c", `MYSQL_PWD="$MARIADB_ROOT_PASSWORD" exec mariadb -u root "$@"`, "mariadb"}, args...)
}

func ordersSQL(ctx context.Context, t *testing.T, c *lab.Cluster, statements string) string {
	t.Helper()
	out, err := c.Exec(ctx, ordersName, "orders-0", mariadb("-Ne", statements)...)
	must(t, err)
	return strings.TrimSpace(out)
}

// binaryLog is how many statements the binary log has.
func binaryLog(ctx context.Context, t *testing.T, c *lab.Cluster) int {
	t.Helper()
	position := ordersSQL(ctx, t, c, "select @@gtid_binlog_pos") // domain-server-number
	n, err := strconv.Atoi(position[strings.LastIndexByte(position, '-')+1:])
	must(t, err)
	return n
}

// silence is the longest between two moments in which no writer was told of anything.
func silence(writers []*writer, from, to time.Time) time.Duration {
	all := &writer{}
	for _, w := range writers {
		all.told = append(all.told, w.told...)
	}
	slices.SortFunc(all.told, time.Time.Compare)
	return all.gap(from, to)
}
