package retention_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
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

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/retention"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

const namespace = "shop"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// manualClock stands still until it is moved.
type manualClock struct{ now time.Time }

func (c *manualClock) Now() time.Time                  { return c.now }
func (c *manualClock) Since(t time.Time) time.Duration { return c.now.Sub(t) }

// world is an API server with a vault in memory.
type world struct {
	t      *testing.T
	c      client.WithWatch
	clock  *manualClock
	store  *storetest.Memory
	vault  *volume.Vault
	opener *vaults.Opener
	tags   map[string][]string // nil: Git does not answer
	serial int
}

// Tags implements retention.Repository.
func (w *world) Tags(context.Context) (map[string][]string, error) {
	if w.tags == nil {
		return nil, git.ErrUnreachable
	}
	return w.tags, nil
}

// Close implements retention.Repository.
func (w *world) Close() error { return nil }

func newWorld(t *testing.T) *world {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme} {
		must(t, add(s))
	}
	_, c := testenv.Start(t, s)
	w := &world{t: t, c: c, clock: &manualClock{time.Now().Truncate(time.Second)}, store: storetest.NewMemory()}
	identity, err := age.GenerateX25519Identity()
	must(t, err)
	w.vault, err = volume.Create(t.Context(), w.store, identity.Recipient())
	must(t, err)
	w.opener = w.openerOf(w.store)
	must(t, c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}))
	must(t, c.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: mover.ServiceAccount}}))
	must(t, c.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "key"}, Data: map[string][]byte{"identity": []byte(identity.String())},
	}))
	must(t, c.Create(t.Context(), &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "primary"}, Spec: v1alpha1.VaultSpec{
		S3: &v1alpha1.S3Location{Bucket: "acme-dr"}, KeySecretRef: v1alpha1.SecretReference{Name: "key"},
	}}))
	return w
}

func (w *world) openerOf(s store.Store) *vaults.Opener {
	return &vaults.Opener{Reader: w.c, OpenStore: func(context.Context, string, backend.Credentials) (store.Store, error) { return s, nil }}
}

func (w *world) policy(name string, r v1alpha1.Retention) {
	w.t.Helper()
	must(w.t, w.c.Create(w.t.Context(), &v1alpha1.ProtectionPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary"}, Retention: &r},
	}))
}

// take puts points of a policy into the vault, an hour apart, the last of them now. They have objects, too.
func (w *world) take(policy string, n int) []string {
	w.t.Helper()
	var ids []string
	for i := range n {
		w.serial++
		taken := w.clock.now.Add(time.Duration(i-n+1) * time.Hour).UTC()
		r := point.Record{
			Version: point.Version, ID: fmt.Sprintf("%s-%08x", taken.Format("20060102-150405"), w.serial), Application: namespace + "/" + policy,
			Trigger: v1alpha1.TriggerManual, Taken: taken, Completed: taken,
			Revision: v1alpha1.Revision{Repository: "https://git.example/shop.git", Commit: fmt.Sprintf("%040d", w.serial), Path: ".", Tree: "7ee"},
		}
		must(w.t, catalog.Put(w.t.Context(), w.vault, r))
		o := &v1alpha1.RestorePoint{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%d", policy, w.serial)},
			Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: policy}},
		}
		must(w.t, w.c.Create(w.t.Context(), o))
		o.Status.ID = r.ID
		conditions.MarkTrue(o, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "done")
		must(w.t, w.c.Status().Update(w.t.Context(), o))
		ids = append(ids, r.ID)
	}
	return ids
}

func (w *world) reconciler() *retention.Reconciler {
	return &retention.Reconciler{
		Client: w.c, Reader: w.c, Events: record.NewFakeRecorder(1000), Clock: w.clock, Vaults: w.opener,
		OpenRepository: func(string, git.Options) (retention.Repository, error) { return w, nil },
	}
}

// step lets a controller that was just started take one step, and returns what it then says.
func (w *world) step(name string) *v1alpha1.ProtectionPolicy {
	w.t.Helper()
	must(w.t, w.reconcile(name, w.c, w.opener))
	return w.read(name)
}

// reconcile lets a controller that was just started take one step, by ways to the world that it may die on.
func (w *world) reconcile(name string, c client.Client, opener *vaults.Opener) error {
	r := w.reconciler()
	r.Client, r.Reader, r.Vaults = c, c, opener
	_, err := r.Reconcile(w.t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: name}})
	return err
}

func (w *world) read(name string) *v1alpha1.ProtectionPolicy {
	w.t.Helper()
	p := &v1alpha1.ProtectionPolicy{}
	must(w.t, w.c.Get(w.t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, p))
	return p
}

// days lets days pass, with four steps each.
func (w *world) days(name string, n int) *v1alpha1.ProtectionPolicy {
	w.t.Helper()
	var p *v1alpha1.ProtectionPolicy
	for range 4 * n {
		w.clock.now = w.clock.now.Add(6 * time.Hour)
		p = w.step(name)
	}
	return p
}

// left are the points of a policy in the vault, as letters: '1' is there.
func (w *world) left(policy string, ids []string) string {
	w.t.Helper()
	records, err := catalog.OfApplication(w.t.Context(), w.vault, namespace+"/"+policy)
	must(w.t, err)
	there := map[string]bool{}
	for _, r := range records {
		there[r.ID] = true
	}
	var b strings.Builder
	for _, id := range ids {
		b.WriteByte("01"[map[bool]int{true: 1}[there[id]]])
	}
	return b.String()
}

func (w *world) wantLeft(policy string, ids []string, want string) {
	w.t.Helper()
	if got := w.left(policy, ids); got != want {
		w.t.Fatalf("left %s, want %s", got, want)
	}
}

func refused(p *v1alpha1.ProtectionPolicy) string {
	c := conditions.Get(p, v1alpha1.ConditionRetentionRefused)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason + " " + c.Message
}

func TestRetention(t *testing.T) {
	w := newWorld(t)

	t.Run("points that nothing keeps are marked, and removed after the grace time", func(t *testing.T) {
		w.t = t
		w.policy("plain", v1alpha1.Retention{Last: 2})
		ids := w.take("plain", 4)
		p := w.step("plain")
		s := p.Status.Retention[0]
		if s.Kept != 2 || s.Leaving != 2 || s.Next == nil || len(s.Marks) != 2 || !strings.HasPrefix(refused(p), "False WithinLimits") {
			t.Fatalf("%+v, %s", s, refused(p))
		}
		again := w.step("plain") // nothing has happened since
		if again.ResourceVersion != p.ResourceVersion {
			t.Error("the status is written without need")
		}
		w.wantLeft("plain", ids, "1111")
		w.days("plain", 1)
		w.wantLeft("plain", ids, "0011")
		p = w.days("plain", 1)
		if s := p.Status.Retention[0]; s.Leaving != 0 || s.Next != nil || s.Kept != 2 {
			t.Errorf("%+v", s)
		}
		// The objects are projections of the records.
		var list v1alpha1.RestorePointList
		must(t, w.c.List(t.Context(), &list, client.InNamespace(namespace)))
		if len(list.Items) != 2 {
			t.Errorf("%d objects are left, want 2", len(list.Items))
		}
		w.clock.now = w.clock.now.AddDate(10, 0, 0)
		w.days("plain", 2)
		w.wantLeft("plain", ids, "0011")
	})

	t.Run("what the store locks stays, is not tried again and again, and goes when its time is over", func(t *testing.T) {
		w.t = t
		w.policy("locked", v1alpha1.Retention{Last: 1})
		// The engine locks by the real time, of which the clock here is years ahead.
		w.store.SetClock(w.clock.Now)
		defer w.store.SetClock(time.Now)
		w.store.SetRetention(20 * 365 * 24 * time.Hour)
		ids := w.take("locked", 3)
		until, err := catalog.LockedUntil(t.Context(), w.vault, ids[0])
		must(t, err)
		r := w.reconciler()
		w.store.SetFaults(storetest.On(storetest.Locked, "documents/point/", storetest.Fault{Err: store.ErrUnavailable}))
		_, err = r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: "locked"}})
		must(t, err)
		w.store.SetFaults(nil)
		for range 12 {
			w.clock.now = w.clock.now.Add(6 * time.Hour)
			_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: namespace, Name: "locked"}})
			must(t, err)
		}
		w.wantLeft("locked", ids, "111")
		if asked, tried := w.store.Count(storetest.Locked), w.store.Count(storetest.Delete); asked != 2 || tried != 0 {
			t.Errorf("in 12 steps the store was asked for %d locks and %d deletions, want 2 and 0", asked, tried)
		}
		var p v1alpha1.ProtectionPolicy
		must(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "locked"}, &p))
		if s := p.Status.Retention[0]; s.Kept != 3 || s.Leaving != 0 {
			t.Errorf("%+v", s)
		}
		w.clock.now = until.Add(time.Minute)
		w.days("locked", 3)
		w.wantLeft("locked", ids, "001")
		w.store.SetRetention(0)
	})

	t.Run("what somebody holds or a Restore needs stays", func(t *testing.T) {
		w.t = t
		w.policy("held", v1alpha1.Retention{Last: 1})
		ids := w.take("held", 5)
		must(t, catalog.PutHold(t.Context(), w.vault, catalog.Hold{Point: ids[0], Reason: "audit", Since: w.clock.now}))
		restore := func(name string, from v1alpha1.RestoreFrom) *v1alpha1.Restore {
			from.Vault = "primary"
			o := &v1alpha1.Restore{
				ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}, Spec: v1alpha1.RestoreSpec{From: from, Volumes: []v1alpha1.VolumeRequest{{Claim: "shop/data"}}},
			}
			must(t, w.c.Create(t.Context(), o))
			return o
		}
		named := restore("named", v1alpha1.RestoreFrom{RestorePoint: ids[1]})
		restore("other", v1alpha1.RestoreFrom{Commit: strings.Repeat("a", 40), Application: "shop/other"})
		chosen := restore("chosen", v1alpha1.RestoreFrom{Commit: strings.Repeat("a", 40)})
		// As long as one may choose any point, nothing goes.
		p := w.days("held", 2)
		w.wantLeft("held", ids, "11111")
		if got := refused(p); !strings.HasPrefix(got, "Unknown FactsUnknown") || !strings.Contains(got, `"lockstep-system/chosen" has not chosen`) {
			t.Error(got)
		}
		chosen.Status.Point = &v1alpha1.ChosenPoint{ID: ids[2], Match: "Exact", Message: "m", Taken: metav1.Now(), Commit: "c"}
		must(t, w.c.Status().Update(t.Context(), chosen))
		w.days("held", 3)
		w.wantLeft("held", ids, "11101")
		// When they are done, what they named goes its way.
		must(t, w.c.Delete(t.Context(), named))
		must(t, w.c.Delete(t.Context(), chosen))
		_, err := catalog.Release(t.Context(), w.vault, ids[0])
		must(t, err)
		w.days("held", 3)
		w.wantLeft("held", ids, "00001")
	})

	t.Run("more than a share needs a person's word for exactly these points", func(t *testing.T) {
		w.t = t
		w.policy("many", v1alpha1.Retention{Last: 30})
		ids := w.take("many", 30)
		w.days("many", 2)
		p := w.step("many")
		p.Spec.Retention.Last = 3
		must(t, w.c.Update(t.Context(), p))
		p = w.days("many", 3)
		w.wantLeft("many", ids, strings.Repeat("1", 30))
		got := refused(p)
		s := p.Status.Retention[0]
		if !strings.HasPrefix(got, "True TooManyAtOnce") || !strings.Contains(got, "27 fewer") || s.Refused == nil || s.Refused.Count != 27 || len(s.Marks) > 0 {
			t.Fatalf("%s, %+v", got, s)
		}
		say := func(word string) {
			before := p.DeepCopy()
			metav1.SetMetaDataAnnotation(&p.ObjectMeta, v1alpha1.AnnotationApprovedRemoval, word)
			must(t, w.c.Patch(t.Context(), p, client.MergeFrom(before)))
		}
		say("0123456789abcdef") // of other points
		p = w.days("many", 2)
		w.wantLeft("many", ids, strings.Repeat("1", 30))
		say("0123456789abcdef, " + s.Refused.Digest)
		p = w.days("many", 2)
		w.wantLeft("many", ids, strings.Repeat("0", 27)+"111")
		if !strings.HasPrefix(refused(p), "False") {
			t.Error(refused(p))
		}
	})

	t.Run("nothing goes while something is not known", func(t *testing.T) {
		w.t = t
		w.policy("unknown", v1alpha1.Retention{Last: 1, Tags: []string{"v*"}})
		ids := w.take("unknown", 3)
		p := w.days("unknown", 3)
		if got := refused(p); !strings.HasPrefix(got, "Unknown FactsUnknown nothing is removed") || !strings.Contains(got, "tags") {
			t.Error(got)
		}
		w.tags = map[string][]string{fmt.Sprintf("%040d", w.serial-2): {"v1.0.0"}}
		defer func() { w.tags = nil }()
		w.step("unknown")
		w.store.SetFaults(storetest.On(storetest.List, "", storetest.Fault{Err: store.ErrUnavailable}))
		p = w.days("unknown", 3)
		w.store.SetFaults(nil)
		w.wantLeft("unknown", ids, "111")
		if got := refused(p); !strings.HasPrefix(got, "Unknown FactsUnknown") {
			t.Error(got)
		}
		w.days("unknown", 2)
		w.wantLeft("unknown", ids, "101")
	})

	t.Run("a clock that jumps removes nothing early", func(t *testing.T) {
		w.t = t
		w.policy("jumps", v1alpha1.Retention{Last: 1})
		ids := w.take("jumps", 3)
		w.step("jumps")
		for _, years := range []int{5, -10, 5} {
			w.clock.now = w.clock.now.AddDate(years, 0, 0)
			w.step("jumps")
			w.wantLeft("jumps", ids, "111")
		}
	})

	t.Run("a retention that keeps nothing is refused", func(t *testing.T) {
		for _, r := range []v1alpha1.Retention{{}, {RanLonger: &metav1.Duration{Duration: -time.Hour}}, {Last: 1, Grace: &metav1.Duration{}}} {
			err := w.c.Create(t.Context(), &v1alpha1.ProtectionPolicy{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nothing"},
				Spec:       v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary"}, Retention: &r},
			})
			if !apierrors.IsInvalid(err) {
				t.Errorf("%+v: %v", r, err)
			}
		}
	})

	t.Run("a controller that dies", func(t *testing.T) { testDeaths(t, w) })

	t.Run("a vault is pruned when its schedule says so", func(t *testing.T) {
		w.t = t
		w.prunes()
	})

	t.Run("a controller that dies along a prune", func(t *testing.T) { testDeathsInPrune(t, w) })
}

// prunes follows a vault over two nights. No kubelet runs here: the test carries out the Jobs, with the movers' own code.
func (w *world) prunes() {
	t := w.t
	r := &retention.Pruner{
		Client: w.c, Reader: w.c, Events: record.NewFakeRecorder(100), Clock: w.clock, Vaults: w.opener, Image: "image",
		Movers: &movers.Room{Reader: w.c, Client: w.c, Limits: movers.Limits{Max: 1, PerNode: 1}},
	}
	look := func() *v1alpha1.Vault {
		t.Helper()
		_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: "primary"}})
		must(t, err)
		v := &v1alpha1.Vault{}
		must(t, w.c.Get(t.Context(), client.ObjectKey{Name: "primary"}, v))
		return v
	}
	jobs := func() []batchv1.Job {
		t.Helper()
		var list batchv1.JobList
		must(t, w.c.List(t.Context(), &list, client.InNamespace(v1alpha1.SystemNamespace)))
		return list.Items
	}
	v := look()
	w.clock.now = v.CreationTimestamp.AddDate(0, 0, 2)
	if v = look(); len(jobs()) != 0 {
		t.Fatal("a vault that is not ready is pruned")
	}
	conditions.MarkTrue(v, v1alpha1.ConditionReady, v1alpha1.ReasonOpened, "open")
	must(t, w.c.Status().Update(t.Context(), v))
	v.Spec.SuspendPrune = true
	must(t, w.c.Update(t.Context(), v))
	if v = look(); len(jobs()) != 0 || v.Status.Prune.NextRun != nil {
		t.Fatal("a vault whose prune is suspended is pruned")
	}
	v.Spec.SuspendPrune = false
	must(t, w.c.Update(t.Context(), v))
	if v = look(); len(jobs()) != 1 || v.Status.Prune.Running == "" || v.Status.Prune.LastRun == nil {
		t.Fatalf("%d jobs, %+v", len(jobs()), v.Status.Prune)
	}
	job := jobs()[0]
	c := job.Spec.Template.Spec.Containers[0]
	if limit := c.Resources.Limits.Memory(); limit.IsZero() || job.Spec.ActiveDeadlineSeconds == nil {
		t.Error("the prune is not bounded")
	}
	tasks, err := mover.ParseTasks(c.Env[0].Value)
	must(t, err)
	results, err := mover.Run(t.Context(), tasks, func(context.Context, string) (*volume.Vault, error) { return w.vault, nil }, os.Stderr,
		func(mover.Results) error { return nil })
	must(t, err)
	w.finish(&job, string(results.Encode(tasks)))
	w.clock.now = w.clock.now.Add(time.Minute)
	v = look()
	if s := v.Status.Prune; s.Running != "" || s.PrunedAt == nil || s.Error != "" || results[0].Pruned == nil {
		t.Fatalf("%+v, %+v", s, results[0])
	}
	if look(); len(jobs()) != 0 {
		t.Fatalf("%d jobs are left", len(jobs()))
	}
	done := v.Status.Prune.PrunedAt

	// The next night it fails, which is said, and what was known stays.
	w.clock.now = w.clock.now.AddDate(0, 0, 1)
	look()
	if n := len(jobs()); n != 1 {
		t.Fatalf("%d jobs on the second night", n)
	}
	job = jobs()[0]
	failed, err := json.Marshal(mover.Results{{Error: "store unavailable", Reason: mover.ReasonUnavailable}})
	must(t, err)
	w.finish(&job, string(failed))
	v = look()
	if s := v.Status.Prune; s.Error != "store unavailable" || !s.PrunedAt.Equal(done) {
		t.Errorf("%+v", s)
	}
}

// finish plays the kubelet and the Job controller: the Job is over, and its pod left a message.
func (w *world) finish(job *batchv1.Job, message string) {
	w.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: job.Namespace, Name: job.Name + fmt.Sprint(w.clock.now.Unix()), Labels: map[string]string{batchv1.ControllerUidLabel: string(job.UID)},
		},
		Spec: *job.Spec.Template.Spec.DeepCopy(),
	}
	must(w.t, w.c.Create(w.t.Context(), pod))
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{
		Name: pod.Spec.Containers[0].Name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: message}},
	}}
	must(w.t, w.c.Status().Update(w.t.Context(), pod))
	at := metav1.Now()
	job.Status.StartTime, job.Status.CompletionTime = &at, &at
	job.Status.Succeeded = 1
	job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	job.Status.Conditions = []batchv1.JobCondition{
		{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, LastTransitionTime: at},
		{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: at},
	}
	must(w.t, w.c.Status().Update(w.t.Context(), job))
}
