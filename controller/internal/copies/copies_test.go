package copies_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/copies"
	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

const namespace = "shop"

type manualClock struct{ now time.Time }

func (c *manualClock) Now() time.Time                  { return c.now }
func (c *manualClock) Since(t time.Time) time.Duration { return c.now.Sub(t) }

// place is a vault in memory.
type place struct {
	store *storetest.Memory
	key   *age.X25519Identity
	vault *volume.Vault
}

// world is an API server with two vaults and a policy that names both. What it lacks, the Job controller and the kubelet, it stands in for;
// movers really copy.
type world struct {
	t      *testing.T
	c      client.WithWatch
	clock  *manualClock
	places map[string]*place
	points int
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) create(objects ...client.Object) {
	w.t.Helper()
	for _, o := range objects {
		must(w.t, w.c.Create(w.t.Context(), o))
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	s := runtime.NewScheme()
	must(t, scheme.AddToScheme(s))
	must(t, v1alpha1.AddToScheme(s))
	_, c := testenv.Start(t, s)
	w := &world{t: t, c: c, clock: &manualClock{now: time.Now()}, places: map[string]*place{}}
	w.create(
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: mover.ServiceAccount}},
		&v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop"},
			Spec: v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary", "offsite"}}},
	)
	for _, name := range []string{"primary", "offsite"} {
		key, err := age.GenerateX25519Identity()
		must(t, err)
		p := &place{store: storetest.NewMemory(), key: key}
		p.vault, err = volume.Create(t.Context(), p.store, key.Recipient())
		must(t, err)
		w.places["s3://"+name] = p
		w.create(
			&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name + "-key"}, Data: map[string][]byte{"identity": []byte(key.String())}},
			&v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.VaultSpec{
				S3:           &v1alpha1.S3Location{Bucket: name, CredentialsSecretRef: &v1alpha1.SecretReference{Name: name + "-credentials"}},
				KeySecretRef: v1alpha1.SecretReference{Name: name + "-key"}}},
		)
		w.vaultReady(name, metav1.ConditionTrue)
	}
	return w
}

func (w *world) vaultReady(name string, status metav1.ConditionStatus) {
	w.t.Helper()
	v := &v1alpha1.Vault{}
	must(w.t, w.c.Get(w.t.Context(), client.ObjectKey{Name: name}, v))
	conditions.Set(v, &metav1.Condition{Type: v1alpha1.ConditionReady, Status: status, Reason: "Test", Message: "as the test wants it"})
	must(w.t, w.c.Status().Update(w.t.Context(), v))
}

// point makes a Ready point whose data is in the first vault.
func (w *world) point() *v1alpha1.RestorePoint {
	w.t.Helper()
	w.points++
	p := &v1alpha1.RestorePoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("point-%d", w.points)},
		Spec: v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "shop"}}}
	w.create(p)
	dir := w.t.TempDir()
	must(w.t, os.WriteFile(filepath.Join(dir, "rows"), []byte(p.Name), 0o600))
	from := w.places["s3://primary"].vault
	s, err := from.Save(w.t.Context(), dir, volume.SaveOptions{})
	must(w.t, err)
	at := metav1.Now().Rfc3339Copy()
	r := point.Record{
		Version: point.Version, ID: point.NewID(at.Time, string(p.UID)), Application: "shop/shop", Trigger: v1alpha1.TriggerManual, Taken: at.UTC(), Completed: at.UTC(),
		Revision: v1alpha1.Revision{Repository: "https://git.example/shop.git", Commit: strings.Repeat("c", 40), Path: ".", Tree: strings.Repeat("7", 40)},
		Volumes: []point.Volume{{
			Namespace: namespace, Claim: "db", Taken: at.UTC(), Snapshot: s.ID, ContentRoot: s.Roots.Content.String(), MetaRoot: s.Roots.Meta.String(),
		}},
	}
	must(w.t, catalog.Put(w.t.Context(), from, r))
	p.Status.ID, p.Status.Taken, p.Status.CompletedAt = r.ID, &at, &at
	p.Status.Copies = []v1alpha1.PointCopy{{Vault: "primary", State: v1alpha1.CopyVerified, VerifiedAt: &at}}
	conditions.MarkTrue(p, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "done")
	must(w.t, w.c.Status().Update(w.t.Context(), p))
	return p
}

// run reconciles a point in turn with the stand-in, a second each time, until done is true of it. Every time it is another controller.
func (w *world) run(p *v1alpha1.RestorePoint, done func(*v1alpha1.RestorePoint) bool) {
	w.t.Helper()
	for range 100 {
		must(w.t, w.reconcile(w.c, p))
		w.refresh(p)
		if done(p) {
			return
		}
		w.runJobs()
		w.clock.now = w.clock.now.Add(time.Second)
	}
	w.t.Fatalf("point %s does not get there: %+v", p.Name, p.Status.Copies)
}

// reconcile lets a controller that has no memory look at a point once.
func (w *world) reconcile(c client.Client, p *v1alpha1.RestorePoint) error {
	r := &copies.Reconciler{
		Client: c, Reader: c, Events: record.NewFakeRecorder(100), Clock: w.clock, Image: "lockstep.test/controller:dev",
		Vaults: &vaults.Opener{Reader: c}, Limits: copies.DefaultLimits(),
		Movers: &movers.Room{Reader: c, Client: c, Limits: movers.Limits{Max: 4, PerNode: 4}},
	}
	_, err := r.Reconcile(w.t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
	return err
}

// refresh reads a point again. One that is gone has no copies.
func (w *world) refresh(p *v1alpha1.RestorePoint) {
	w.t.Helper()
	err := w.c.Get(w.t.Context(), client.ObjectKeyFromObject(p), p)
	if apierrors.IsNotFound(err) {
		p.Status.Copies, p.Finalizers = nil, nil
		return
	}
	must(w.t, err)
}

func (w *world) jobs() []batchv1.Job {
	w.t.Helper()
	var jobs batchv1.JobList
	must(w.t, w.c.List(w.t.Context(), &jobs, client.InNamespace(v1alpha1.SystemNamespace)))
	return jobs.Items
}

// runJobs runs movers to their end, and removes the pods of those that are gone.
func (w *world) runJobs() {
	w.t.Helper()
	alive := map[string]bool{}
	defer func() {
		var pods corev1.PodList
		must(w.t, w.c.List(w.t.Context(), &pods, client.InNamespace(v1alpha1.SystemNamespace)))
		for i := range pods.Items {
			if !alive[pods.Items[i].Name] {
				must(w.t, client.IgnoreNotFound(w.c.Delete(w.t.Context(), &pods.Items[i], client.GracePeriodSeconds(0))))
			}
		}
	}()
	for _, job := range w.jobs() {
		alive[job.Name] = true
		if done, _ := mover.Finished(&job); done || job.DeletionTimestamp != nil {
			continue
		}
		container := job.Spec.Template.Spec.Containers[0]
		tasks, err := mover.ParseTasks(container.Env[0].Value)
		must(w.t, err)
		results, err := mover.Run(w.t.Context(), tasks, w.open, io.Discard, func(mover.Results) error { return nil })
		must(w.t, err)
		w.end(&job, results[0], string(results.Encode(tasks)))
	}
}

func (w *world) open(ctx context.Context, url string) (*volume.Vault, error) {
	p := w.places[url]
	return volume.Open(ctx, p.store, p.key)
}

func (w *world) end(job *batchv1.Job, result mover.Result, message string) {
	w.t.Helper()
	labels := map[string]string{batchv1.JobNameLabel: job.Name, batchv1.ControllerUidLabel: string(job.UID)}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: job.Namespace, Name: job.Name, Labels: labels}, Spec: job.Spec.Template.Spec}
	w.create(pod)
	ended := &corev1.ContainerStateTerminated{Message: message, Reason: "Completed"}
	now := metav1.Time{Time: w.clock.now}
	job.Status.StartTime = &now
	conditions := []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete}
	if result.Error != "" {
		ended.ExitCode, ended.Reason = 1, "Error"
		conditions = []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobFailed}
	} else {
		job.Status.CompletionTime = &now
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: pod.Spec.Containers[0].Name, State: corev1.ContainerState{Terminated: ended}}}
	must(w.t, w.c.Status().Update(w.t.Context(), pod))
	for _, c := range conditions {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now, Reason: "StandIn"})
	}
	must(w.t, w.c.Status().Update(w.t.Context(), job))
}

// offsite is the status of the copy in the second vault.
func offsite(p *v1alpha1.RestorePoint) v1alpha1.PointCopy {
	for _, c := range p.Status.Copies {
		if c.Vault == "offsite" {
			return c
		}
	}
	return v1alpha1.PointCopy{}
}

func free(p *v1alpha1.RestorePoint) bool {
	return !controllerutil.ContainsFinalizer(p, v1alpha1.FinalizerCopies)
}

func is(state v1alpha1.CopyState) func(*v1alpha1.RestorePoint) bool {
	return func(p *v1alpha1.RestorePoint) bool { return offsite(p).State == state }
}

// expectData proves that the second vault by itself gives back the point.
func (w *world) expectData(p *v1alpha1.RestorePoint) {
	w.t.Helper()
	v := w.places["s3://offsite"].vault
	r, err := catalog.Get(w.t.Context(), v, p.Status.ID)
	must(w.t, err)
	dir := w.t.TempDir()
	_, err = v.Load(w.t.Context(), r.Volumes[0].Snapshot, dir, volume.LoadOptions{Verify: volume.VerifyReadback})
	must(w.t, err)
	if data, err := os.ReadFile(filepath.Join(dir, "rows")); err != nil || string(data) != p.Name {
		w.t.Errorf("got %q, %v", data, err)
	}
}

// The subtests share one API server and run one after the other; each leaves no mover behind.
func TestCopies(t *testing.T) {
	w := newWorld(t)
	for _, sub := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"copies, verifies and cleans", testCopies},
		{"a point that has its copies is not read live", testSettled},
		{"leaves a point alone that does not say yet what holds it", testUnsaid},
		{"a failure is told and tried again", testFailure},
		{"a vault that is not ready is waited for", testUnready},
		{"what was removed is not wanted", testRemoved},
		{"a vault that is not named any more is not waited for", testUnnamed},
		{"more than may run at once wait", testMax},
		{"a controller that dies while it copies", testDeaths},
		{"a controller that dies when a copy has failed", testDeathsAfterFailure},
		{"a controller that dies while an object is deleted", testDeathsInDeletion},
		{"nobody holds a point without its policy", testNoPolicy},
	} {
		t.Run(sub.name, func(t *testing.T) {
			w.t = t
			sub.test(t, w)
			if left := w.jobs(); len(left) > 0 {
				t.Errorf("%d movers are left", len(left))
			}
		})
	}
}

// testUnsaid is the moment in which the conditions of a point are written and the rest of its status is not.
func testUnsaid(t *testing.T, w *world) {
	p := w.point()
	p.Status.Copies = nil
	must(t, w.c.Status().Update(t.Context(), p))
	w.run(p, func(*v1alpha1.RestorePoint) bool { return true })
	if len(p.Status.Copies) > 0 || !free(p) || len(w.jobs()) > 0 {
		t.Errorf("status %+v, finalizers %q, %d movers", p.Status.Copies, p.Finalizers, len(w.jobs()))
	}
}

func testCopies(t *testing.T, w *world) {
	p := w.point()
	w.run(p, is(v1alpha1.CopyCopying))
	if free(p) {
		t.Error("the object may go before its copy is there")
	}
	jobs := w.jobs()
	if len(jobs) != 1 {
		t.Fatalf("%d movers", len(jobs))
	}
	text := fmt.Sprint(jobs[0].Spec.Template.Spec)
	for _, secret := range []string{"primary-key", "offsite-key", "primary-credentials", "offsite-credentials"} {
		if !strings.Contains(text, secret) {
			t.Errorf("the mover lacks %s", secret)
		}
	}
	for _, e := range jobs[0].Spec.Template.Spec.Containers[0].Env {
		if strings.HasPrefix(e.Name, "AWS_") {
			t.Errorf("credentials of one vault would be tried on the other: %s", e.Name)
		}
	}
	w.run(p, func(p *v1alpha1.RestorePoint) bool {
		return is(v1alpha1.CopyVerified)(p) && len(w.jobs()) == 0 && free(p)
	})
	if c := offsite(p); c.VerifiedAt == nil || c.Attempts != 1 || c.Message != "" || c.Bytes == 0 {
		t.Errorf("status %+v", c)
	}
	w.expectData(p)
}

// unread is the API server where nobody is to ask it.
type unread struct{ client.Reader }

var errRead = errors.New("the API server was asked")

func (unread) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return errRead
}

func testSettled(t *testing.T, w *world) {
	copied, fresh := w.point(), w.point()
	copied.Status.Copies = append(copied.Status.Copies, v1alpha1.PointCopy{Vault: "offsite", State: v1alpha1.CopyVerified, VerifiedAt: copied.Status.Taken})
	must(t, w.c.Status().Update(t.Context(), copied))
	for name, want := range map[string]error{copied.Name: nil, fresh.Name: errRead, "gone": nil} {
		r := &copies.Reconciler{Client: w.c, Reader: unread{}}
		_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

func testFailure(t *testing.T, w *world) {
	p := w.point()
	target := w.places["s3://offsite"].store
	target.SetFaults(storetest.On(storetest.Put, "snapshots/", storetest.Fault{Err: store.ErrUnavailable}))
	w.run(p, is(v1alpha1.CopyFailed))
	if c := offsite(p); c.Attempts != 1 || !strings.Contains(c.Message, store.ErrUnavailable.Error()) || c.VerifiedAt != nil || free(p) {
		t.Errorf("status %+v", c)
	}
	began := w.clock.now
	w.run(p, func(p *v1alpha1.RestorePoint) bool { return offsite(p).Attempts == 2 })
	if waited := w.clock.now.Sub(began); waited < 25*time.Second {
		t.Errorf("tried again after %s", waited)
	}
	target.SetFaults(nil)
	w.run(p, func(p *v1alpha1.RestorePoint) bool { return is(v1alpha1.CopyVerified)(p) && len(w.jobs()) == 0 })
	w.expectData(p)
}

func testUnready(t *testing.T, w *world) {
	w.vaultReady("offsite", metav1.ConditionUnknown)
	p := w.point()
	w.run(p, func(p *v1alpha1.RestorePoint) bool { return offsite(p).Message != "" })
	if c := offsite(p); c.State != v1alpha1.CopyPending || !strings.Contains(c.Message, `vault "offsite" is not ready: as the test wants it`) || len(w.jobs()) > 0 {
		t.Errorf("status %+v, %d movers", c, len(w.jobs()))
	}
	must(t, w.c.Delete(t.Context(), p))
	w.run(p, func(p *v1alpha1.RestorePoint) bool { return p.DeletionTimestamp != nil })
	w.vaultReady("offsite", metav1.ConditionTrue)
	w.run(p, func(p *v1alpha1.RestorePoint) bool { return len(p.Status.Copies) == 0 })
	w.expectData(p)
}

func testRemoved(t *testing.T, w *world) {
	p := w.point()
	w.run(p, func(p *v1alpha1.RestorePoint) bool { return is(v1alpha1.CopyVerified)(p) && len(w.jobs()) == 0 })
	w.runJobs()
	must(t, w.remove(p.Status.ID))
	p.Status.Copies = p.Status.Copies[:1]
	must(t, w.c.Status().Update(t.Context(), p))
	w.run(p, func(p *v1alpha1.RestorePoint) bool {
		return is(v1alpha1.CopyRemoved)(p) && len(w.jobs()) == 0 && free(p)
	})
	if c := offsite(p); c.VerifiedAt != nil || !strings.Contains(c.Message, "removed") {
		t.Errorf("status %+v", c)
	}
}

func testUnnamed(t *testing.T, w *world) {
	w.vaultReady("offsite", metav1.ConditionUnknown)
	defer w.vaultReady("offsite", metav1.ConditionTrue)
	p := w.point()
	w.run(p, func(p *v1alpha1.RestorePoint) bool { return !free(p) })
	w.policy([]string{"primary"})
	defer w.policy([]string{"primary", "offsite"})
	w.run(p, free)
	if len(p.Status.Copies) != 1 {
		t.Errorf("status %+v", p.Status.Copies)
	}
}

func (w *world) policy(vaults []string) {
	w.t.Helper()
	pol := &v1alpha1.ProtectionPolicy{}
	must(w.t, w.c.Get(w.t.Context(), client.ObjectKey{Namespace: namespace, Name: "shop"}, pol))
	pol.Spec.Vaults = vaults
	must(w.t, w.c.Update(w.t.Context(), pol))
}

func testMax(t *testing.T, w *world) {
	points := []*v1alpha1.RestorePoint{w.point(), w.point(), w.point()}
	for _, p := range points {
		w.run(p, func(p *v1alpha1.RestorePoint) bool { return !free(p) })
	}
	for i, p := range points[:2] {
		w.run(p, is(v1alpha1.CopyCopying))
		if n := len(w.jobs()); n != i+1 {
			t.Errorf("%d movers", n)
		}
	}
	w.run(points[2], func(p *v1alpha1.RestorePoint) bool { return offsite(p).Message != "" })
	if c := offsite(points[2]); c.State != v1alpha1.CopyPending || len(w.jobs()) != 2 {
		t.Errorf("status %+v, %d movers", c, len(w.jobs()))
	}
	for _, p := range points {
		w.run(p, is(v1alpha1.CopyVerified))
		w.run(p, free)
		w.expectData(p)
	}
}

func testNoPolicy(t *testing.T, w *world) {
	w.vaultReady("offsite", metav1.ConditionFalse)
	p := w.point()
	w.run(p, func(p *v1alpha1.RestorePoint) bool { return !free(p) })
	must(t, w.c.Delete(t.Context(), &v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop"}}))
	w.run(p, free)
}

// remove removes a point from the second vault, as retention does.
func (w *world) remove(id string) error {
	return catalog.Remove(w.t.Context(), w.places["s3://offsite"].vault, id, catalog.RemoveOptions{Why: "test", Grace: time.Hour, Now: time.Now()})
}
