package e2e

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// What is aimed at is a second, and 500 transactions a second: the log has what was measured. A machine that does much else at once is
// several times slower, and that is no failure.
const (
	longestFreeze = 10 * time.Second
	leastRate     = 50
)

// TestQuiesce takes a point of PostgreSQL and Redis under load, with the recipes of examples/quiesce, and brings it back on dr: every
// write that a client had been told of before the snapshots were asked for must be there.
func TestQuiesce(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	prod, dr := shared.prod, shared.dr
	repo, err := shop.Publish(ctx, shared.lab, fmt.Sprintf("quiesce-%d", time.Now().UnixNano()), t.TempDir())
	must(t, err)
	must(t, shop.CreateSecret(ctx, prod))
	lockstep(ctx, t, prod, "apply", "--repo", repo.URL, "--path", ".", "--tag", shop.V1)
	useRecipes(ctx, t, prod, shop.Namespace, shop.Policy, "postgresql", "redis")
	_, err = shop.SQL(ctx, prod, "create table ledger (writer int, n int, primary key (writer, n))")
	must(t, err)

	var writers []*writer
	for i := range 8 {
		writers = append(writers, writeTo(ctx, t, fmt.Sprintf("PostgreSQL %d", i), func(n int) string {
			return fmt.Sprintf("insert into ledger values (%d, %d) returning n;\n", i, n)
		}, shop.Namespace, "database-0", "psql", "-h", "/tmp", "-U", "shop", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-qtA"))
	}
	redis := writeTo(ctx, t, "Redis", func(n int) string { return fmt.Sprintf("set ledger:%d %d\n", n, n) },
		shop.Namespace, "cache-0", "redis-cli")
	writers = append(writers, redis)
	p := pointUnderLoad(ctx, t, shop.Namespace, shop.Policy, writers)
	if len(p.Status.Quiesce) != 2 {
		t.Errorf("held: %+v", p.Status.Quiesce)
	}
	frozen := measure(t, p, writers)
	rate := 0.0
	for _, w := range writers[:len(writers)-1] {
		rate += w.rate(frozen)
	}
	t.Logf("PostgreSQL committed %.0f transactions a second, Redis %.0f writes", rate, redis.rate(frozen))
	if rate < leastRate {
		t.Errorf("PostgreSQL committed %.0f transactions a second: that is no load", rate)
	}

	lockstep(ctx, t, dr, "restore", "--tag", shop.V1, "--repo", repo.URL, "--path", ".", "--vault", shared.vault, "--key-file", shared.key,
		"--image", shared.lab.Image())
	_, err = dr.PodReady(ctx, shop.Namespace, "cache-0")
	must(t, err)
	for i, w := range writers[:len(writers)-1] {
		out, err := shop.SQL(ctx, dr, fmt.Sprintf("select count(*), coalesce(max(n), 0) from ledger where writer = %d", i))
		must(t, err)
		rows, newest, _ := strings.Cut(strings.TrimSpace(out), "|")
		got, err := strconv.Atoi(newest)
		must(t, err)
		if told := w.toldBefore(frozen); got < told || rows != newest {
			t.Errorf("writer %d: %s rows up to %d came back; the client had been told of %d", i, rows, got, told)
		}
	}
	told := redis.toldBefore(frozen)
	out, err := dr.Exec(ctx, shop.Namespace, "cache-0", "redis-cli", "get", fmt.Sprintf("ledger:%d", told))
	must(t, err)
	if strings.TrimSpace(out) != strconv.Itoa(told) {
		t.Errorf("key %d of Redis is %q", told, out)
	}
	out, err = dr.Exec(ctx, shop.Namespace, "cache-0", "redis-cli", "dbsize")
	must(t, err)
	if size, err := strconv.Atoi(strings.TrimSpace(out)); err != nil || size < told {
		t.Errorf("%s keys came back; the client had been told of %d", out, told)
	}
	out, err = dr.Exec(ctx, shop.Namespace, "database-0", "pg_amcheck", "-h", "/tmp", "-U", "shop", "-d", "postgres", "--install-missing", "--heapallindexed")
	if err != nil {
		t.Errorf("pg_amcheck: %v\n%s", err, out)
	}
	forget(ctx, t, dr, shop.Namespace)
	forget(ctx, t, prod, shop.Namespace)
}

// pointUnderLoad takes the first point of a policy on prod while all writers write, and ends them afterwards.
func pointUnderLoad(ctx context.Context, t *testing.T, namespace, policy string, writers []*writer) *v1alpha1.RestorePoint {
	t.Helper()
	for _, w := range writers {
		must(t, lab.Eventually(ctx, patience, func(context.Context) (bool, error) { return w.count() > 500, w.failure() }))
	}
	lockstep(ctx, t, shared.prod, "backup", policy, "-n", namespace)
	for _, w := range writers {
		before := w.count() // and they go on
		must(t, lab.Eventually(ctx, patience, func(context.Context) (bool, error) { return w.count() > before, w.failure() }))
		w.stop()
	}
	var points v1alpha1.RestorePointList
	must(t, shared.prod.List(ctx, &points, client.InNamespace(namespace)))
	if len(points.Items) != 1 {
		t.Fatalf("%d points", len(points.Items))
	}
	p := &points.Items[0]
	for _, v := range p.Status.Volumes {
		if v.Consistency != v1alpha1.ConsistencyApplication {
			t.Errorf("claim %s: consistency %s", v.Claim, v.Consistency)
		}
	}
	return p
}

// measure logs how long what was held still by a point, and how long it kept its clients waiting; frozen is when the last was held, and
// snapshots were asked for.
func measure(t *testing.T, p *v1alpha1.RestorePoint, writers []*writer) (frozen time.Time) {
	t.Helper()
	if len(p.Status.Quiesce) == 0 {
		t.Fatalf("nothing was held: %+v", p.Status)
	}
	started, thawed := p.Status.Quiesce[0].StartedAt.Time, time.Time{}
	for _, q := range p.Status.Quiesce {
		if q.FrozenAt.After(frozen) {
			frozen = q.FrozenAt.Time
		}
		if q.ThawedAt.After(thawed) {
			thawed = q.ThawedAt.Time
		}
		held := q.ThawedAt.Sub(q.FrozenAt.Time)
		t.Logf("%s: pre hook %d ms, held %d ms", q.Pod, q.FrozenAt.Sub(q.StartedAt.Time).Milliseconds(), held.Milliseconds())
		if held > longestFreeze {
			t.Errorf("%s was held for %s", q.Pod, held)
		}
	}
	// Beside other work a client waits now and then without any point: the time before it is the measure.
	const around = 2 * time.Second
	from, to := started.Add(-around/2), thawed.Add(around/2)
	t.Logf("snapshots were asked for %d ms after the first pre hook began, all was let go %d ms later",
		frozen.Sub(started).Milliseconds(), thawed.Sub(frozen).Milliseconds())
	for _, w := range writers {
		t.Logf("%s: kept waiting for %d ms at most around the point, and for %d ms in as long before it",
			w.name, w.gap(from, to).Milliseconds(), w.gap(from.Add(-to.Sub(from)), from).Milliseconds())
	}
	return frozen
}

// TestQuiesceSurvivesKill kills prod's controller while an application is held still: the watchdog lets it go with no controller at all,
// and the next controller takes the point.
func TestQuiesceSurvivesKill(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	const ns = "kill-quiesce"
	newNotes(ctx, t, ns)
	pol := &v1alpha1.ProtectionPolicy{}
	must(t, shared.prod.Get(ctx, client.ObjectKey{Namespace: ns, Name: "notes"}, pol))
	hook := v1alpha1.QuiesceHook{
		// The first time it never gets done.
		Pre:  []string{"busybox", "sh", "-c", "busybox touch /data/held; [ -e /data/again ] || { busybox touch /data/again; exec busybox sleep 1000; }"},
		Post: []string{"busybox", "rm", "-f", "/data/held"},
	}
	hook.Selector.MatchLabels = map[string]string{"app": "notes"}
	hook.Timeout.Duration = 5 * time.Second
	pol.Spec.Quiesce = []v1alpha1.QuiesceHook{hook}
	must(t, shared.prod.Update(ctx, pol))
	held := func(want bool) {
		t.Helper()
		must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
			out, err := shared.prod.Exec(ctx, ns, "notes-0", "busybox", "ls", "/data")
			return strings.Contains(out, "held") == want, err
		}))
	}
	rig := newRig(ctx, t, shared.prod)
	p := &v1alpha1.RestorePoint{Spec: v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "notes"}}}
	p.Namespace, p.Name = ns, "killed"
	must(t, shared.prod.Create(ctx, p))
	held(true)
	rig.controller.Kill()
	must(t, shared.prod.Get(ctx, client.ObjectKeyFromObject(p), p))
	if len(p.Status.Quiesce) != 1 || !p.Status.Quiesce[0].PostHookDue {
		t.Errorf("the status does not owe the post hook: %+v", p.Status.Quiesce)
	}
	held(false) // nobody but the watchdog is there
	rig.start(t)
	rig.settle(ctx, t, p)
	held(false)
	if q := p.Status.Quiesce[0]; q.PostHookDue || q.ThawedAt == nil || q.Attempt != 1 {
		t.Errorf("the point ended with %+v", q)
	}
	nothingLeft(ctx, t, shared.prod, ns)
	forget(ctx, t, shared.prod, ns)
}

// useRecipes gives a policy the hooks of examples/quiesce.
func useRecipes(ctx context.Context, t *testing.T, c *lab.Cluster, namespace, policy string, names ...string) {
	t.Helper()
	pol := &v1alpha1.ProtectionPolicy{}
	must(t, c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: policy}, pol))
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join("..", "..", "examples", "quiesce", name, "policy.yaml"))
		must(t, err)
		var recipe v1alpha1.ProtectionPolicy
		must(t, yaml.UnmarshalStrict(data, &recipe))
		pol.Spec.Quiesce = append(pol.Spec.Quiesce, recipe.Spec.Quiesce...)
	}
	must(t, c.Update(ctx, pol))
}

// writer is a client that writes as fast as it is answered, and keeps outside of the cluster when it was.
type writer struct {
	name string
	end  func()
	done chan struct{}

	mu   sync.Mutex
	told []time.Time // when the answer to each write came
	err  error
}

// writeTo starts a client in a pod on prod. Each write gets one line of answer.
func writeTo(ctx context.Context, t *testing.T, name string, statement func(n int) string, namespace, pod string, command ...string) *writer {
	t.Helper()
	kubectl, err := shared.lab.Kubectl(ctx)
	must(t, err)
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, kubectl, append([]string{"--kubeconfig", shared.prod.Kubeconfig, "exec", "-i", "-n", namespace, pod, "--"}, command...)...)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	w := &writer{name: name, end: cancel, done: make(chan struct{})}
	t.Cleanup(w.stop)
	ahead := make(chan struct{}, 8) // writes without an answer
	go func() {
		for n := 1; ; n++ {
			select {
			case ahead <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if _, err := in.Write([]byte(statement(n))); err != nil {
				return // the reader tells
			}
		}
	}()
	go func() {
		defer close(w.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			w.mu.Lock()
			if n := len(w.told) + 1; lines.Text() != "OK" && lines.Text() != strconv.Itoa(n) {
				w.err = fmt.Errorf("%s: write %d was answered with %q", name, n, lines.Text())
			}
			w.told = append(w.told, time.Now())
			w.mu.Unlock()
			<-ahead
		}
		err := cmd.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if ctx.Err() == nil {
			w.err = fmt.Errorf("%s ended: %w", name, err)
		}
	}()
	return w
}

func (w *writer) stop() {
	w.end()
	<-w.done
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.told)
}

func (w *writer) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// toldBefore is the number of the last write that the client had been told of at a moment.
func (w *writer) toldBefore(at time.Time) (n int) {
	for n < len(w.told) && w.told[n].Before(at) {
		n++
	}
	return n
}

// rate is how many writes a second there were in the two seconds before a moment.
func (w *writer) rate(at time.Time) float64 {
	const over = 2 * time.Second
	return float64(w.toldBefore(at)-w.toldBefore(at.Add(-over))) / over.Seconds()
}

// gap is the longest that the client was kept waiting between two moments.
func (w *writer) gap(from, to time.Time) (longest time.Duration) {
	for i := 1; i < len(w.told); i++ {
		if w.told[i].After(from) && w.told[i-1].Before(to) {
			longest = max(longest, w.told[i].Sub(w.told[i-1]))
		}
	}
	return longest
}
