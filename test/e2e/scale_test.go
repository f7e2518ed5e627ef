package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// ledger is an application that nothing can hold still: what it knows is on its volume only when it has ended well, which takes a while.
const ledger = `apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ledger, namespace: NAME}
spec:
  serviceName: ledger
  selector: {matchLabels: {app: ledger}}
  template:
    metadata: {labels: {app: ledger}}
    spec:
      terminationGracePeriodSeconds: 60
      containers:
        - name: ledger
          image: lockstep.test/busybox:1
          command:
            - busybox
            - sh
            - -c
            - |
              n=0
              trap 'busybox sleep 3; echo "$n entries" >/data/ledger; exit 0' TERM
              while :; do n=$((n+1)); busybox sleep 1 & wait $!; done
          volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
    - metadata: {name: data}
      spec:
        accessModes: [ReadWriteOnce]
        resources: {requests: {storage: 64Mi}}
`

// TestScaleToZero takes a point of an application that is away meanwhile, and brings it back on dr with what the application wrote when it
// ended. Then it kills the controller while the application is away: the next one brings it back.
func TestScaleToZero(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	const ns = "scale"
	repo, digest := newNotes(ctx, t, ns, ledger)
	_, err := shared.prod.PodReady(ctx, ns, "ledger-0")
	must(t, err)
	pol := &v1alpha1.ProtectionPolicy{}
	must(t, shared.prod.Get(ctx, client.ObjectKey{Namespace: ns, Name: "notes"}, pol))
	pol.Spec.ScaleToZero = &v1alpha1.ScaleToZero{Timeout: metav1.Duration{Duration: patience}}
	must(t, shared.prod.Update(ctx, pol))

	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", ns)
	var points v1alpha1.RestorePointList
	must(t, shared.prod.List(ctx, &points, client.InNamespace(ns)))
	p := points.Items[0]
	s := p.Status.ScaleToZero
	if len(points.Items) != 1 || s == nil || len(s.Workloads) != 3 || p.Status.Consistency != v1alpha1.ConsistencyApplication {
		t.Fatalf("%d points, %+v", len(points.Items), p.Status)
	}
	for _, v := range p.Status.Volumes {
		if v.Taken.Time.Before(s.GoneAt.Truncate(time.Second)) || v.Taken.After(s.CutAt.Time) {
			t.Errorf("claim %s was snapshotted at %s, and everything was away from %s to %s", v.Claim, v.Taken, s.GoneAt, s.CutAt)
		}
	}
	for _, w := range s.Workloads {
		if w.ScaleBackDue || w.ScaledBackAt.After(p.Status.CompletedAt.Add(time.Second)) {
			t.Errorf("%+v, and the data was saved at %s", w, p.Status.CompletedAt)
		}
		t.Logf("%s %s was at zero for %s", w.Kind, w.Name, w.ScaledBackAt.Sub(w.ScaledAt.Time).Round(time.Millisecond))
	}
	runs(ctx, t, ns)
	written := lastEntries(ctx, t, shared.prod, ns)
	if got := notesDigest(ctx, t, shared.prod, ns); got != digest || written == "" {
		t.Errorf("prod has %s and %q afterwards, and had %s", got, written, digest)
	}
	lockstep(ctx, t, shared.dr, "restore", "--tag", tag, "--repo", repo.URL, "--path", ".", "--vault", shared.vault, "--key-file", shared.key, "--image", shared.lab.Image())
	_, err = shared.dr.PodReady(ctx, ns, "ledger-0")
	must(t, err)
	if got, entries := notesDigest(ctx, t, shared.dr, ns), lastEntries(ctx, t, shared.dr, ns); got != digest || entries != written {
		t.Errorf("dr has %s and %q, want %s and %q", got, entries, digest, written)
	}
	forget(ctx, t, shared.dr, ns)

	rig := newRig(ctx, t, shared.prod)
	killed := &v1alpha1.RestorePoint{Spec: v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "notes"}}}
	killed.Namespace, killed.Name = ns, "killed"
	must(t, shared.prod.Create(ctx, killed))
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		err := shared.prod.Get(ctx, client.ObjectKeyFromObject(killed), killed)
		return killed.Status.ScaleToZero != nil && killed.Status.ScaleToZero.Workloads[2].ScaledAt != nil, err
	}))
	rig.controller.Kill()
	must(t, shared.prod.Get(ctx, client.ObjectKeyFromObject(killed), killed))
	for _, w := range killed.Status.ScaleToZero.Workloads {
		if !w.ScaleBackDue {
			t.Errorf("the status does not owe %s %s its replicas", w.Kind, w.Name)
		}
	}
	rig.start(t)
	rig.settle(ctx, t, killed)
	runs(ctx, t, ns)
	nothingLeft(ctx, t, shared.prod, ns)
	forget(ctx, t, shared.prod, ns)
}

// runs wants all of the application's workloads to have the one replica that they have in Git, and no mark.
func runs(ctx context.Context, t *testing.T, ns string) {
	t.Helper()
	var deployments appsv1.DeploymentList
	var sets appsv1.StatefulSetList
	must(t, shared.prod.List(ctx, &deployments, client.InNamespace(ns)))
	must(t, shared.prod.List(ctx, &sets, client.InNamespace(ns)))
	for _, d := range deployments.Items {
		if *d.Spec.Replicas != 1 || d.Annotations[v1alpha1.AnnotationScaledBy] != "" {
			t.Errorf("Deployment %s: %d replicas, %v", d.Name, *d.Spec.Replicas, d.Annotations)
		}
	}
	for _, s := range sets.Items {
		if *s.Spec.Replicas != 1 || s.Annotations[v1alpha1.AnnotationScaledBy] != "" {
			t.Errorf("StatefulSet %s: %d replicas, %v", s.Name, *s.Spec.Replicas, s.Annotations)
		}
	}
	if n := len(deployments.Items) + len(sets.Items); n != 3 {
		t.Errorf("%d workloads", n)
	}
	_, err := shared.prod.PodReady(ctx, ns, "ledger-0")
	must(t, err)
}

// lastEntries is what the ledger wrote when it ended last.
func lastEntries(ctx context.Context, t *testing.T, c *lab.Cluster, ns string) string {
	t.Helper()
	out, err := c.Exec(ctx, ns, "ledger-0", "busybox", "cat", "/data/ledger")
	must(t, err)
	return strings.TrimSpace(out)
}
