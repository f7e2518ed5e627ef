package backup_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/backup"
	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/controller/internal/trees"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/residual"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

const namespace = "shop"

var commit = strings.Repeat("c", 40)

// world is an API server with an application of two volumes, a policy and a vault.
type world struct {
	t       *testing.T
	c       client.WithWatch
	cluster *cluster
	vault   *volume.Vault
	opener  *vaults.Opener
	clock   *manualClock
	kinds   residual.Discovery
	// exec runs hooks.
	exec backup.Executor
	// down makes the store unreachable.
	down bool
	// tree is what every path has in every repository; empty if Git does not answer.
	tree string
}

func (w *world) git(string, git.Options) (trees.Repository, error) {
	if w.tree == "" {
		return nil, git.ErrUnreachable
	}
	return repository{w.tree}, nil
}

// repository is a Git repository in which every path has one tree.
type repository struct{ tree string }

func (r repository) Resolve(_ context.Context, ref git.Ref, path string) (v1alpha1.Revision, error) {
	return v1alpha1.Revision{Commit: ref.Commit, Path: path, Tree: r.tree}, nil
}

func (repository) Close() error { return nil }

func newWorld(t *testing.T) *world {
	t.Helper()
	s := newScheme(t)
	cfg, c := testenv.Start(t, s, filepath.Join("..", "..", "..", "test", "standin", "crd"))
	kinds, err := discovery.NewDiscoveryClientForConfig(cfg)
	must(t, err)
	w := &world{t: t, c: withWatch(t, cfg, s), clock: &manualClock{now: time.Now()}, kinds: kinds}
	identity, err := age.GenerateX25519Identity()
	must(t, err)
	dir := t.TempDir()
	files, err := backend.Create(t.Context(), "file://"+dir, backend.Credentials{})
	must(t, err)
	w.vault, err = volume.Create(t.Context(), files, identity.Recipient())
	must(t, err)
	open := func(context.Context, string) (*volume.Vault, error) {
		return volume.Open(context.Background(), files, identity)
	}
	w.opener = &vaults.Opener{Reader: c, Pod: "controller", OpenStore: func(context.Context, string, backend.Credentials) (store.Store, error) {
		if w.down {
			return nil, fmt.Errorf("dialling: %w", store.ErrUnavailable)
		}
		return files, nil
	}}
	w.cluster = newCluster(t, c, open)
	w.create(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: mover.ServiceAccount}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "default"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "key"}, Data: map[string][]byte{"identity": []byte(identity.String())}},
		&v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "primary"}, Spec: v1alpha1.VaultSpec{
			Filesystem: &v1alpha1.FilesystemLocation{Path: dir}, KeySecretRef: v1alpha1.SecretReference{Name: "key"}}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "controller"}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "manager", Image: "none", VolumeMounts: []corev1.VolumeMount{{Name: "vault", MountPath: dir}}}},
			Volumes:    []corev1.Volume{{Name: "vault", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}}},
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: driver},
		&snapshotv1.VolumeSnapshotClass{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Driver: driver, DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete},
		&v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop", Annotations: map[string]string{
			v1alpha1.AnnotationRepository: "https://git.example/shop.git", v1alpha1.AnnotationPath: "deploy",
			v1alpha1.AnnotationRevision: "main@sha1:" + commit, v1alpha1.AnnotationTree: strings.Repeat("7", 40),
		}}, Spec: v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary"}}},
	)
	w.claim("db", "rows of the database")
	w.claim("cache", "keys of the cache")
	return w
}

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, snapshotv1.AddToScheme, groupv1.AddToScheme, v1alpha1.AddToScheme} {
		must(t, add(s))
	}
	return s
}

func withWatch(t *testing.T, cfg *rest.Config, s *runtime.Scheme) client.WithWatch {
	t.Helper()
	c, err := client.NewWithWatch(cfg, client.Options{Scheme: s})
	must(t, err)
	return c
}

func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		must(w.t, w.c.Create(w.t.Context(), o))
	}
}

// claim makes a bound claim whose volume holds one file.
func (w *world) claim(name, data string) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	dir := w.t.TempDir()
	must(w.t, os.WriteFile(filepath.Join(dir, "file"), []byte(data), 0o640))
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("fast"),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("500Mi")}},
		},
	}
	w.create(claim)
	w.cluster.bind(w.t.Context(), claim, dir, corev1.PersistentVolumeReclaimDelete)
	return claim
}

func (w *world) reconciler(c client.Client) *backup.Reconciler {
	return &backup.Reconciler{
		Client: c, Reader: c, Kube: fake.NewClientset(), Discovery: w.kinds, Events: record.NewFakeRecorder(1000), Clock: w.clock, Vaults: w.opener, Exec: w.exec,
		Image: "lockstep.test/controller:dev", Movers: &movers.Room{Reader: c, Client: c, Limits: movers.Limits{Max: 4, PerNode: 4}}, Limits: backup.DefaultLimits(),
		Trees: &trees.Trees{Reader: c, Open: w.git},
	}
}

// request makes a RestorePoint of both volumes.
func (w *world) request(name string) *v1alpha1.RestorePoint {
	w.t.Helper()
	return w.requestOf(name, "shop")
}

func (w *world) requestOf(name, policy string) *v1alpha1.RestorePoint {
	w.t.Helper()
	p := &v1alpha1.RestorePoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1alpha1.RestorePointSpec{
		PolicyRef: v1alpha1.PolicyReference{Name: policy}}}
	w.create(p)
	w.clock.now = time.Now() // tests before this one may have moved it far
	return p
}

// run reconciles in turn with the stand-ins, a second each time, until done is true of the point.
func (w *world) run(c client.Client, p *v1alpha1.RestorePoint, done func(*v1alpha1.RestorePoint) bool) error {
	w.t.Helper()
	r := w.reconciler(c)
	for range 400 {
		if err := w.c.Get(w.t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if done(p) {
			return nil
		}
		if _, err := r.Reconcile(w.t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)}); err != nil {
			return err
		}
		w.cluster.step(w.t.Context())
		w.clock.now = w.clock.now.Add(time.Second)
	}
	w.t.Fatalf("point %s does not get there: %+v", p.Name, p.Status)
	return nil
}

// cleaned is true of a point that is finished and has left nothing behind.
func cleaned(p *v1alpha1.RestorePoint) bool {
	return (conditions.IsReady(p) || conditions.IsStalled(p)) && len(p.Finalizers) == 0
}

func (w *world) expectNothingLeft() {
	w.t.Helper()
	if left := w.cluster.leftovers(w.t.Context()); len(left) > 0 {
		w.t.Fatalf("left behind: %s", strings.Join(left, ", "))
	}
}

func (w *world) expectFailure(p *v1alpha1.RestorePoint, reason, message string) {
	w.t.Helper()
	ready := conditions.Get(p, v1alpha1.ConditionReady)
	if ready == nil || ready.Status != metav1.ConditionFalse || ready.Reason != reason || !strings.Contains(ready.Message, message) {
		w.t.Fatalf("got %+v, want it False with reason %s and a message with %q", ready, reason, message)
	}
	if !conditions.IsStalled(p) {
		w.t.Error("the point is not stalled")
	}
	if _, err := catalog.Get(w.t.Context(), w.vault, point.NewID(p.CreationTimestamp.Time, string(p.UID))); !errors.Is(err, catalog.ErrPointNotFound) {
		w.t.Errorf("a failed point is in the vault: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The subtests share one API server and run one after the other; each leaves nothing behind.
func TestRestorePoint(t *testing.T) {
	w := newWorld(t)
	for name, test := range map[string]func(*testing.T, *world){
		"saves, records and cleans":              testSaves,
		"killed at every write":                  testKilled,
		"a mover that was killed is tried again": testRetry,
		"an unreadable file fails and is named":  testUnreadable,
		"a snapshot that fails is named":         testSnapshotFails,
		"another revision deployed meanwhile":    testRevisionChanged,
		"no revision":                            testNoRevision,
		"Argo CD says what runs":                 testArgoCD,
		"an unbound claim":                       testUnbound,
		"a claim that is being restored":         testRestoring,
		"an excluded claim":                      testExcluded,
		"a volume without snapshots":             testNoSnapshots,
		"a volume that is read while in use":     testFuzzy,
		"a volume of a node that nobody names":   testHostPath,
		"a missing Secret":                       testMissingSecret,
		"too much that Git does not hold":        testResidualTooLarge,
		"an API that does not answer":            testUnansweredAPI,
		"an unreachable store makes nothing":     testUnreachable,
		"a vault that is known to be down":       testDown,
		"no more movers than allowed":            testMaxMovers,
		"deleted while it is saved":              testDeleted,
		"held still by a hook":                   testHeld,
		"held still by one that was killed":      testHeldAndKilled,
		"a hook that cannot be relied on":        testHookRefuses,
		"deleted while it is held still":         testHeldAndDeleted,
		"a hook without a pod, as is meant":      testNobodyToHold,
		"one snapshot of all volumes":            testGroup,
		"one snapshot of all, and killed":        testGroupKilled,
		"no snapshot of all volumes":             testGroupRefuses,
		"scaled to zero":                         testAway,
		"scaled to zero and killed":              testAwayAndKilled,
		"scaled to zero and disturbed":           testAwayAndDisturbed,
		"what cannot be scaled to zero":          testAwayRefuses,
	} {
		t.Run(name, func(t *testing.T) {
			w.t, w.cluster.t = t, t
			test(t, w)
			w.expectNothingLeft()
		})
	}
}

func testSaves(t *testing.T, w *world) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "login"}, Data: map[string][]byte{"password": []byte("not in git")}}
	ingress := pod("front", "login", nil)
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "settings"}, Data: map[string]string{"by": "hand"}}
	w.create(secret, ingress, settings)
	defer func() {
		for _, o := range []client.Object{secret, ingress, settings} {
			must(t, w.c.Delete(t.Context(), o))
		}
	}()
	p := w.request("good")
	must(t, w.run(w.c, p, cleaned))
	if !conditions.IsReady(p) || len(p.Status.Volumes) != 2 || *p.Status.Residual != (v1alpha1.ResidualSummary{Secrets: 1, Objects: 1}) || p.Status.Copies[0].Vault != "primary" {
		t.Fatalf("status %+v", p.Status)
	}
	records, err := catalog.List(t.Context(), w.vault)
	must(t, err)
	record := records[len(records)-1]
	if record.ID != p.Status.ID || record.Revision.Commit != commit || record.Revision.Ref != "main" || record.Application != "shop/shop" {
		t.Errorf("record %+v", record)
	}
	for _, v := range record.Volumes {
		dir := t.TempDir()
		if _, err := w.vault.Load(t.Context(), v.Snapshot, dir, volume.LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "file"))
		must(t, err)
		if want := map[string]string{"db": "rows of the database", "cache": "keys of the cache"}[v.Claim]; string(data) != want {
			t.Errorf("claim %s: saved %q, want %q", v.Claim, data, want)
		}
		if v.Labels["app"] != v.Claim || v.Spec.VolumeName != "" || v.Capacity != 1<<30 || v.Provisioner != driver {
			t.Errorf("record of claim %s: %+v", v.Claim, v)
		}
	}
	data, err := catalog.Residual(t.Context(), w.vault, record)
	must(t, err)
	set, err := residual.Decode(data)
	must(t, err)
	if len(set.Secrets) != 1 || string(set.Secrets[0].Data["password"]) != "not in git" || len(set.Objects) != 1 || set.Objects[0].GetName() != "settings" {
		t.Errorf("residual %+v", set)
	}
}

// testKilled ends the controller after each of its writes, and lets a new one take over. To be killed before a write is the same
// as to be killed after the one before it. One volume will do: what is written for another is written in the same way.
func testKilled(t *testing.T, w *world) {
	single := &v1alpha1.ProtectionPolicy{}
	must(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "shop"}, single))
	single.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: "single", Annotations: single.Annotations}
	single.Spec.Volumes.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
	d := w.database(t)
	single.Spec.Quiesce = d.policy.Spec.Quiesce
	w.create(single)
	for n := 1; ; n++ {
		p := w.requestOf(fmt.Sprintf("killed-%d", n), "single")
		err := w.run((&testenv.Mortal{At: n}).Client(w.c), p, cleaned)
		if err == nil {
			t.Logf("killed after each of %d writes", n-1)
			return // this one was never killed: all writes have been tried
		}
		if !errors.Is(err, testenv.ErrDead) {
			t.Fatalf("killed after write %d: %v", n, err)
		}
		w.cluster.step(t.Context())
		must(t, w.run(w.c, p, cleaned))
		if !conditions.IsReady(p) {
			t.Fatalf("killed after write %d: %+v", n, p.Status)
		}
		if _, err := catalog.Get(t.Context(), w.vault, p.Status.ID); err != nil {
			t.Fatal(err)
		}
		d.heldAndFree(t)
		w.expectNothingLeft()
	}
}

func testRetry(t *testing.T, w *world) {
	killed := map[string]bool{}
	w.cluster.fail = func(job *batchv1.Job) (*mover.Result, bool) {
		first := strings.HasSuffix(job.Name, "-1")
		killed[job.Name] = first
		return nil, first
	}
	defer func() { w.cluster.fail = nil }()
	p := w.request("retried")
	must(t, w.run(w.c, p, cleaned))
	if !conditions.IsReady(p) || len(killed) != 4 {
		t.Fatalf("movers %v, status %+v", killed, p.Status)
	}
	for _, v := range p.Status.Volumes {
		if v.Attempts != 2 {
			t.Errorf("claim %s took %d attempts, want 2", v.Claim, v.Attempts)
		}
	}
}

func testUnreadable(t *testing.T, w *world) {
	w.cluster.fail = func(job *batchv1.Job) (*mover.Result, bool) {
		return &mover.Result{Error: `saving "/volume": 1 file failed: "secret.db": input/output error`, Reason: mover.ReasonFiles,
			Unreadable: []string{`"secret.db"`}}, strings.HasSuffix(job.Name, "-0-1")
	}
	defer func() { w.cluster.fail = nil }()
	p := w.request("unreadable")
	must(t, w.run(w.c, p, cleaned))
	w.expectFailure(p, v1alpha1.ReasonSaveFailed, `claim "cache": saving "/volume": 1 file failed: "secret.db"`)
	if p.Status.Volumes[0].Attempts != 1 {
		t.Errorf("%d attempts at what no attempt can mend", p.Status.Volumes[0].Attempts)
	}
}

func testSnapshotFails(t *testing.T, w *world) {
	w.cluster.broken["db"] = "pool is full"
	defer delete(w.cluster.broken, "db")
	p := w.request("broken")
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.StartedAt != nil }))
	w.clock.now = w.clock.now.Add(backup.DefaultLimits().Cut)
	must(t, w.run(w.c, p, cleaned))
	w.expectFailure(p, v1alpha1.ReasonSnapshotFailed, `claim "db": pool is full`)
}

func testRevisionChanged(t *testing.T, w *world) {
	p := w.request("changed")
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.StartedAt != nil }))
	w.annotate(v1alpha1.AnnotationRevision, "main@sha1:"+strings.Repeat("d", 40))
	defer w.annotate(v1alpha1.AnnotationRevision, "main@sha1:"+commit)
	must(t, w.run(w.c, p, cleaned))
	w.expectFailure(p, v1alpha1.ReasonRevisionChanged, "another commit was deployed")
}

func testNoRevision(t *testing.T, w *world) {
	w.annotate(v1alpha1.AnnotationTree, "")
	defer w.annotate(v1alpha1.AnnotationTree, strings.Repeat("7", 40))
	p := w.request("norevision")
	w.expectGivingUp(p, v1alpha1.ReasonRevisionUnknown, v1alpha1.AnnotationTree)
}

// testArgoCD: where the policy came from an Application, the point is of what Argo CD synced last, also while a sync is beginning; and
// of nothing as soon as that has applied something.
func testArgoCD(t *testing.T, w *world) {
	const old, next = "0123456789012345678901234567890123456789", "9876543210987654321098765432109876543210"
	app := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": map[string]any{"name": "shop-app", "namespace": "default"},
		"spec": map[string]any{
			"project": "default", "destination": map[string]any{"server": "https://kubernetes.default.svc"},
			"source": map[string]any{"repoURL": "https://git.example/shop.git", "path": "deploy", "targetRevision": "main"},
		},
		"status": map[string]any{
			"history":        []any{map[string]any{"id": int64(0), "revision": old, "deployedAt": "2026-01-01T00:00:00Z"}},
			"operationState": syncing(next, "PreSync"),
		},
	}}
	w.create(app)
	defer func() { must(t, w.c.Delete(t.Context(), app)) }()
	w.annotate("argocd.argoproj.io/tracking-id", "shop-app:lockstep.dev/ProtectionPolicy:shop/shop")
	defer w.annotate("argocd.argoproj.io/tracking-id", "")

	w.expectGivingUp(w.request("argocd-git-silent"), v1alpha1.ReasonRevisionUnknown, "which tree it has at path \"deploy\" only Git can tell")
	w.tree = strings.Repeat("8", 40)
	defer func() { w.tree = "" }()
	p := w.request("argocd")
	must(t, w.run(w.c, p, cleaned))
	want := v1alpha1.Revision{Repository: "https://git.example/shop.git", Ref: "main", Commit: old, Path: "deploy", Tree: w.tree}
	if !conditions.IsReady(p) || p.Status.Revision == nil || *p.Status.Revision != want {
		t.Errorf("the point is of %+v: %+v", p.Status.Revision, p.Status.Conditions)
	}

	begun := w.request("argocd-begun")
	must(t, w.run(w.c, begun, func(p *v1alpha1.RestorePoint) bool { return p.Status.StartedAt != nil }))
	app.Object["status"].(map[string]any)["operationState"] = syncing(next, "Sync")
	must(t, w.c.Update(t.Context(), app))
	must(t, w.run(w.c, begun, cleaned))
	w.expectFailure(begun, v1alpha1.ReasonRevisionChanged, "another commit was deployed")
	w.expectGivingUp(w.request("argocd-mixed"), v1alpha1.ReasonRevisionUnknown, "a sync of Application default/shop-app to commit 9876543 is Running and has applied something already")
}

// syncing is a sync that runs and has applied an object in a phase.
func syncing(commit, phase string) map[string]any {
	return map[string]any{"phase": "Running", "startedAt": "2026-01-02T00:00:00Z", "operation": map[string]any{"sync": map[string]any{"revision": commit}},
		"syncResult": map[string]any{"revision": commit, "resources": []any{
			map[string]any{"group": "batch", "version": "v1", "kind": "Job", "namespace": "shop", "name": "j", "status": "Synced", "syncPhase": phase}}}}
}

// expectGivingUp runs a point that waits for what it lacks, until it has waited long enough.
func (w *world) expectGivingUp(p *v1alpha1.RestorePoint, reason, message string) {
	w.t.Helper()
	must(w.t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return conditions.Has(p, v1alpha1.ConditionReady) }))
	if conditions.IsStalled(p) || conditions.GetReason(p, v1alpha1.ConditionReady) != reason {
		w.t.Fatalf("at once: %+v", p.Status.Conditions)
	}
	w.clock.now = w.clock.now.Add(2 * backup.DefaultLimits().Begin)
	must(w.t, w.run(w.c, p, cleaned))
	w.expectFailure(p, reason, message)
}

func (w *world) annotate(name, value string) {
	w.t.Helper()
	pol := &v1alpha1.ProtectionPolicy{}
	must(w.t, w.c.Get(w.t.Context(), client.ObjectKey{Namespace: namespace, Name: "shop"}, pol))
	metav1.SetMetaDataAnnotation(&pol.ObjectMeta, name, value)
	must(w.t, w.c.Update(w.t.Context(), pol))
}

func testUnbound(t *testing.T, w *world) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "unbound"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("fast"),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}}}}
	w.create(claim)
	defer w.drop(claim)
	w.expectGivingUp(w.request("unbound"), v1alpha1.ReasonVolumeNotReady, `claim "unbound" is not bound`)
}

func testRestoring(t *testing.T, w *world) {
	restore := &v1alpha1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "tonight"}, Spec: v1alpha1.RestoreSpec{
		From: v1alpha1.RestoreFrom{Vault: "primary", Tag: "v1"}, Source: v1alpha1.GitSource{URL: "https://git.example/shop.git"}}}
	w.create(restore)
	claim := w.claim("filling", "half")
	claim.Labels[v1alpha1.LabelRestore] = string(restore.UID)
	must(t, w.c.Update(t.Context(), claim))
	defer w.drop(claim)
	defer func() { must(t, w.c.Delete(t.Context(), restore)) }()
	w.expectGivingUp(w.request("filling"), v1alpha1.ReasonVolumeNotReady, `claim "filling" is being filled by restore "tonight"`)
}

func testExcluded(t *testing.T, w *world) {
	claim := w.claim("scratch", "nothing of worth")
	claim.Annotations = map[string]string{v1alpha1.AnnotationExclude: "made again at each start"}
	must(t, w.c.Update(t.Context(), claim))
	defer w.drop(claim)
	p := w.request("excluding")
	must(t, w.run(w.c, p, cleaned))
	if !conditions.IsReady(p) || len(p.Status.Volumes) != 2 {
		t.Errorf("status %+v", p.Status)
	}
}

func testNoSnapshots(t *testing.T, w *world) {
	class := &snapshotv1.VolumeSnapshotClass{}
	must(t, w.c.Get(t.Context(), client.ObjectKey{Name: "b"}, class))
	must(t, w.c.Delete(t.Context(), class))
	defer w.create(&snapshotv1.VolumeSnapshotClass{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Driver: driver, DeletionPolicy: class.DeletionPolicy})
	p := w.request("nosnapshots")
	must(t, w.run(w.c, p, cleaned))
	w.expectFailure(p, v1alpha1.ReasonVolumeNotReady, `no VolumeSnapshotClass for the driver "csi.example.test" of claim "cache"`)
}

func testMissingSecret(t *testing.T, w *world) {
	front := pod("front", "nowhere", map[string]string{v1alpha1.LabelApplicationName: "shop"})
	w.create(front)
	defer func() { must(t, w.c.Delete(t.Context(), front)) }()
	p := w.request("nosecret")
	must(t, w.run(w.c, p, cleaned))
	w.expectFailure(p, v1alpha1.ReasonResidualMissing, `Pod front needs secret "shop/nowhere"`)
}

// testResidualTooLarge has more ConfigMaps made by hand than a document of the vault can hold.
func testResidualTooLarge(t *testing.T, w *world) {
	for i := range 18 {
		large := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("large-%d", i)},
			Data: map[string]string{"text": strings.Repeat("x", 1000<<10)}}
		w.create(large)
		defer func() { must(t, w.c.Delete(t.Context(), large)) }()
	}
	p := w.request("large")
	must(t, w.run(w.c, p, cleaned))
	w.expectFailure(p, v1alpha1.ReasonResidualTooLarge, "what Git does not hold is larger than 16 MiB; the largest of it is ConfigMap shop/large-")
}

// testUnansweredAPI: what an API serves that does not answer may be what the application needs, so the point waits.
func testUnansweredAPI(t *testing.T, w *world) {
	answers := w.kinds
	defer func() { w.kinds = answers }()
	w.kinds = silent{}
	p := w.request("unanswered")
	err := w.run(w.c, p, cleaned)
	if err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Fatalf("got %v", err)
	}
	must(t, w.c.Get(t.Context(), client.ObjectKeyFromObject(p), p))
	if ready := conditions.Get(p, v1alpha1.ConditionReady); ready.Status != metav1.ConditionUnknown || !strings.Contains(ready.Message, "no answer") {
		t.Errorf("got %+v", ready)
	}
	w.kinds = answers
	must(t, w.run(w.c, p, cleaned))
	if !conditions.IsReady(p) {
		t.Errorf("status %+v", p.Status)
	}
}

// silent is a cluster that does not say which kinds it serves.
type silent struct{}

func (silent) ServerPreferredNamespacedResources() ([]*metav1.APIResourceList, error) {
	return nil, errors.New("no answer")
}

func testUnreachable(t *testing.T, w *world) {
	w.down = true
	p := w.request("unknown")
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return conditions.Has(p, v1alpha1.ConditionReady) }))
	if !conditions.IsUnknown(p, v1alpha1.ConditionReady) || conditions.GetReason(p, v1alpha1.ConditionReady) != v1alpha1.ReasonUnreachable {
		t.Errorf("conditions %+v", p.Status.Conditions)
	}
	w.expectNothingLeft()
	w.down = false
	must(t, w.run(w.c, p, cleaned))
	if !conditions.IsReady(p) {
		t.Errorf("not saved although the store is back: %+v", p.Status.Conditions)
	}
}

// testDown: while the vault is known to be down, whoever asks for a point is told at once, and the schedule's point waits.
func testDown(t *testing.T, w *world) {
	w.down = true
	defer func() { w.down = false }()
	v := &v1alpha1.Vault{}
	setDown := func(since *metav1.Time) {
		t.Helper()
		must(t, w.c.Get(t.Context(), client.ObjectKey{Name: "primary"}, v))
		v.Status.DownSince = since
		must(t, w.c.Status().Update(t.Context(), v))
	}
	stalled := func(p *v1alpha1.RestorePoint) bool { return conditions.IsStalled(p) }
	late := w.request("late")
	must(t, w.run(w.c, late, stalled))
	w.expectFailure(late, v1alpha1.ReasonUnreachable, "store unavailable")
	if waited := w.clock.now.Sub(late.CreationTimestamp.Time); waited < backup.DefaultLimits().Begin {
		t.Errorf("it failed after %s, though nobody knew that the vault is down", waited)
	}
	setDown(&metav1.Time{Time: time.Now()})
	defer setDown(nil)
	p := w.request("asked")
	must(t, w.run(w.c, p, stalled))
	w.expectFailure(p, v1alpha1.ReasonUnreachable, "store unavailable")
	if waited := w.clock.now.Sub(p.CreationTimestamp.Time); waited > 10*time.Second {
		t.Errorf("it failed after %s", waited)
	}
	scheduled := &v1alpha1.RestorePoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "scheduled"}, Spec: v1alpha1.RestorePointSpec{
		PolicyRef: v1alpha1.PolicyReference{Name: "shop"}, Trigger: v1alpha1.TriggerSchedule}}
	w.create(scheduled)
	until := w.clock.now.Add(2 * time.Minute)
	must(t, w.run(w.c, scheduled, func(*v1alpha1.RestorePoint) bool { return w.clock.now.After(until) }))
	if conditions.IsStalled(scheduled) {
		t.Errorf("conditions %+v", scheduled.Status.Conditions)
	}
	w.down = false
	must(t, w.run(w.c, scheduled, cleaned))
	if !conditions.IsReady(scheduled) {
		t.Errorf("not saved although the store is back: %+v", scheduled.Status.Conditions)
	}
}

func testMaxMovers(t *testing.T, w *world) {
	most := 0
	w.cluster.fail = func(*batchv1.Job) (*mover.Result, bool) {
		var jobs batchv1.JobList
		must(t, w.c.List(t.Context(), &jobs))
		running := 0
		for i := range jobs.Items {
			if done, _ := mover.Finished(&jobs.Items[i]); !done {
				running++
			}
		}
		most = max(most, running)
		return nil, false
	}
	defer func() { w.cluster.fail = nil }()
	p := w.request("narrow")
	r := w.reconciler(w.c)
	r.Movers.Limits.Max = 1
	for range 400 {
		must(t, w.c.Get(t.Context(), client.ObjectKeyFromObject(p), p))
		if cleaned(p) {
			break
		}
		_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
		must(t, err)
		w.cluster.step(t.Context())
	}
	if !conditions.IsReady(p) || most != 1 {
		t.Errorf("%d movers ran at once, want 1; %+v", most, p.Status.Conditions)
	}
}

func testDeleted(t *testing.T, w *world) {
	p := w.request("deleted")
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool {
		return len(p.Status.Volumes) > 0 && p.Status.Volumes[0].Attempts > 0
	}))
	must(t, w.c.Delete(t.Context(), p))
	if err := w.run(w.c, p, func(*v1alpha1.RestorePoint) bool { return false }); client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
}

// drop deletes a claim and its volume, as the provisioner would.
func (w *world) drop(claim *corev1.PersistentVolumeClaim) {
	w.t.Helper()
	ctx := w.t.Context()
	must(w.t, w.c.Get(ctx, client.ObjectKeyFromObject(claim), claim))
	claim.Finalizers = nil
	must(w.t, w.c.Update(ctx, claim))
	must(w.t, w.c.Delete(ctx, claim))
	pv := &corev1.PersistentVolume{}
	if err := w.c.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, pv); err == nil {
		pv.Finalizers = nil
		must(w.t, w.c.Update(ctx, pv))
		must(w.t, client.IgnoreNotFound(w.c.Delete(ctx, pv)))
	}
}

func pod(name, secret string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, Spec: corev1.PodSpec{
		AutomountServiceAccountToken: new(false),
		Containers: []corev1.Container{{Name: "main", Image: "none", EnvFrom: []corev1.EnvFromSource{
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}}}}}},
	}}
}
