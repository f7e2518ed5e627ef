package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// watchOver is for the beginning of each test: where it fails it explains why, and nothing of it stands in the way of the next.
func watchOver(t *testing.T) {
	t.Helper()
	sweepAfter(t)
	explain(t, shared.prod, shared.dr)
}

// sweepAfter has a test that fails leave clean clusters.
func sweepAfter(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		for _, c := range []*lab.Cluster{shared.prod, shared.dr} {
			if err := sweep(ctx, c); err != nil {
				t.Logf("what is left on %s may harm the next test: %v", c.Name, err)
			}
		}
	})
}

// sweep deletes every restore, and then every namespace that a new cluster with Lockstep does not have.
func sweep(ctx context.Context, c *lab.Cluster) error {
	var restores v1alpha1.RestoreList
	if err := c.List(ctx, &restores); meta.IsNoMatchError(err) {
		return nil // Lockstep was never installed
	} else if err != nil {
		return err
	}
	for i := range restores.Items {
		if err := client.IgnoreNotFound(c.Delete(ctx, &restores.Items[i])); err != nil {
			return err
		}
	}
	return lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		if err := c.List(ctx, &restores); err != nil || len(restores.Items) > 0 {
			return false, err
		}
		var namespaces corev1.NamespaceList
		if err := c.List(ctx, &namespaces); err != nil {
			return false, err
		}
		left := slices.DeleteFunc(namespaces.Items, func(n corev1.Namespace) bool {
			return n.Name == metav1.NamespaceDefault || n.Name == v1alpha1.SystemNamespace || strings.HasPrefix(n.Name, "kube-")
		})
		for i := range left {
			if err := client.IgnoreNotFound(c.Delete(ctx, &left[i])); err != nil {
				return false, err
			}
		}
		return len(left) == 0, nil
	})
}

// explain has a test that fails print what one needs to see why, before anything is cleared up: it is to be called after the last
// t.Cleanup. It is said again when all tests are over, since the end of a log is what people get to see first.
func explain(t *testing.T, clusters ...*lab.Cluster) {
	t.Helper()
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		for _, c := range clusters {
			state := stateOfCluster(ctx, c)
			t.Log(state)
			shared.failures = append(shared.failures, fmt.Sprintf("%s failed. %s", t.Name(), state))
		}
	})
}

// stateOfCluster is what stands in the way of the work on a cluster, as far as it shows.
func stateOfCluster(ctx context.Context, c *lab.Cluster) string {
	var b strings.Builder
	fmt.Fprintf(&b, "state of %s at %s\n", c.Name, time.Now().UTC().Format(time.TimeOnly))
	logs := []string{"-n", v1alpha1.SystemNamespace, "logs", "deployment/lockstep-controller"}
	for _, ask := range []struct {
		lines int
		args  []string
	}{
		{40, []string{"get", "restores,restorepoints,vaults", "-A", "-o", `jsonpath={range .items[*]}{.kind} {.metadata.name}: {.status}{"\n"}{end}`}},
		{80, []string{"get", "nodes,pods,jobs,pvc,pv,volumeattachments", "-A", "-o", "wide"}},
		{30, []string{"get", "events", "-A", "--sort-by=.lastTimestamp", "--no-headers"}},
		{15, append(logs[:len(logs):len(logs)], "--previous", "--tail=40")},
		{30, append(logs[:len(logs):len(logs)], "--tail=80")},
	} {
		out, err := c.Kubectl(ctx, ask.args...)
		if err != nil {
			out += err.Error()
		}
		fmt.Fprintf(&b, "--- kubectl %s\n%s\n", strings.Join(ask.args, " "), tail(strings.TrimSpace(out), ask.lines))
	}
	return b.String()
}
