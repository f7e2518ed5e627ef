package policy_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/policy"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

const namespace = "shop"

// manualClock stands still until it is moved.
type manualClock struct{ now time.Time }

func (c *manualClock) Now() time.Time                  { return c.now }
func (c *manualClock) Since(t time.Time) time.Duration { return c.now.Sub(t) }

type world struct {
	t     *testing.T
	c     client.Client
	clock *manualClock
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) create(o client.Object) {
	w.t.Helper()
	must(w.t, w.c.Create(w.t.Context(), o))
}

// reconcile lets the controller look at the policy and returns what it then says.
func (w *world) reconcile(name string) *v1alpha1.ProtectionPolicy {
	w.t.Helper()
	r := &policy.Reconciler{Client: w.c, Events: record.NewFakeRecorder(100), Clock: w.clock}
	key := client.ObjectKey{Namespace: namespace, Name: name}
	result, err := r.Reconcile(w.t.Context(), ctrl.Request{NamespacedName: key})
	must(w.t, err)
	if result.RequeueAfter <= 0 {
		w.t.Error("the policy is not looked at again")
	}
	p := &v1alpha1.ProtectionPolicy{}
	must(w.t, w.c.Get(w.t.Context(), key, p))
	return p
}

func (w *world) points(name string) []v1alpha1.RestorePoint {
	w.t.Helper()
	var list v1alpha1.RestorePointList
	must(w.t, w.c.List(w.t.Context(), &list, client.InNamespace(namespace), client.MatchingLabels{v1alpha1.LabelPolicy: name}))
	return list.Items
}

func (w *world) claim(name string, labels map[string]string) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("fast"),
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}},
		},
	}
	w.create(claim)
	return claim
}

func (w *world) policy(name string, spec v1alpha1.ProtectionPolicySpec) *v1alpha1.ProtectionPolicy {
	w.t.Helper()
	if spec.Vaults == nil {
		spec.Vaults = []string{"primary"}
	}
	p := &v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: spec}
	w.create(p)
	w.clock.now = p.CreationTimestamp.Time
	return p
}

func (w *world) vaultReady(status metav1.ConditionStatus) {
	w.t.Helper()
	v := &v1alpha1.Vault{}
	must(w.t, w.c.Get(w.t.Context(), client.ObjectKey{Name: "primary"}, v))
	conditions.Set(v, &metav1.Condition{Type: v1alpha1.ConditionReady, Status: status, Reason: "Test", Message: "as the test wants it"})
	must(w.t, w.c.Status().Update(w.t.Context(), v))
}

func expect(t *testing.T, p *v1alpha1.ProtectionPolicy, status metav1.ConditionStatus, reason, message string) {
	t.Helper()
	ready := conditions.Get(p, v1alpha1.ConditionReady)
	if ready == nil || ready.Status != status || ready.Reason != reason || !strings.Contains(ready.Message, message) {
		t.Errorf("got %+v, want %s, %s with %q", ready, status, reason, message)
	}
}

func TestPolicy(t *testing.T) {
	s := runtime.NewScheme()
	must(t, scheme.AddToScheme(s))
	must(t, v1alpha1.AddToScheme(s))
	_, c := testenv.Start(t, s)
	w := &world{t: t, c: c, clock: &manualClock{}}
	w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	w.create(&v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "primary"}, Spec: v1alpha1.VaultSpec{
		S3: &v1alpha1.S3Location{Bucket: "bucket"}, KeySecretRef: v1alpha1.SecretReference{Name: "key"}}})
	w.vaultReady(metav1.ConditionTrue)
	for _, sub := range []struct {
		name string
		test func(*testing.T, *world)
	}{
		{"selects nothing", testNoVolumes},
		{"selects claims", testSelects},
		{"impossible schedules", testInvalid},
		{"vault not ready", testVault},
		{"schedule", testSchedule},
		{"no overlap", testOverlap},
		{"suspended", testSuspended},
		{"a running restore", testRestoring},
		{"last point", testLastPoint},
		{"jitter and deadline", testJitter},
		{"a clock that was wrong", testWrongClock},
		{"objective", testObjective},
		{"copies", testCopies},
	} {
		t.Run(sub.name, func(t *testing.T) { w.t = t; sub.test(t, w) })
	}
}

func testNoVolumes(t *testing.T, w *world) {
	w.policy("empty", v1alpha1.ProtectionPolicySpec{})
	p := w.reconcile("empty")
	expect(t, p, metav1.ConditionFalse, v1alpha1.ReasonNoVolumes, `no claim in namespace "shop" is selected`)
	if conditions.IsStalled(p) || !conditions.IsReconciling(p) {
		t.Errorf("claims come after their policy, and it says at once that somebody must act: %+v", p.Status.Conditions)
	}
	w.clock.now = w.clock.now.Add(11 * time.Minute)
	p = w.reconcile("empty")
	if !conditions.IsStalled(p) || p.Status.ObservedGeneration != p.Generation {
		t.Errorf("no claim has come, and it does not say that somebody must act: %+v", p.Status)
	}
}

func testSelects(t *testing.T, w *world) {
	w.claim("db", map[string]string{"tier": "gold"})
	w.claim("cache", nil)
	out := w.claim("scratch", map[string]string{"tier": "gold"})
	out.Annotations = map[string]string{v1alpha1.AnnotationExclude: "made again"}
	must(t, w.c.Update(t.Context(), out))
	w.policy("all", v1alpha1.ProtectionPolicySpec{})
	p := w.reconcile("all")
	expect(t, p, metav1.ConditionTrue, v1alpha1.ReasonProtecting, "protects 2 claims")
	if got := strings.Join(p.Status.Claims, " "); got != "cache db" {
		t.Errorf("claims %q", got)
	}
	w.policy("gold", v1alpha1.ProtectionPolicySpec{Volumes: v1alpha1.VolumeSelection{
		Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "gold"}}}})
	if got := strings.Join(w.reconcile("gold").Status.Claims, " "); got != "db" {
		t.Errorf("claims %q", got)
	}
}

func testInvalid(t *testing.T, w *world) {
	for name, tt := range map[string]struct {
		spec    v1alpha1.ProtectionPolicySpec
		message string
	}{
		"cron":     {v1alpha1.ProtectionPolicySpec{Schedule: "often"}, `schedule "often" is not a cron line`},
		"zone":     {v1alpha1.ProtectionPolicySpec{Schedule: "0 * * * *", TimeZone: "Mars/Olympus"}, `time zone "Mars/Olympus"`},
		"never":    {v1alpha1.ProtectionPolicySpec{Schedule: "0 0 30 2 *"}, "never comes"},
		"selector": {v1alpha1.ProtectionPolicySpec{Volumes: v1alpha1.VolumeSelection{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}}}, "volumes.selector"},
	} {
		w.policy(name, tt.spec)
		p := w.reconcile(name)
		expect(t, p, metav1.ConditionFalse, v1alpha1.ReasonInvalidSpec, tt.message)
		if !conditions.IsStalled(p) {
			t.Errorf("%s: not stalled", name)
		}
	}
}

func testVault(t *testing.T, w *world) {
	w.policy("novault", v1alpha1.ProtectionPolicySpec{Vaults: []string{"absent"}, Schedule: "* * * * *"})
	w.clock.now = w.clock.now.Add(time.Hour)
	expect(t, w.reconcile("novault"), metav1.ConditionFalse, v1alpha1.ReasonVaultNotReady, `there is no Vault "absent"`)
	// A vault that cannot be reached makes no heap of failed points, and one point when it is back.
	w.policy("outage", v1alpha1.ProtectionPolicySpec{Schedule: "* * * * *"})
	w.vaultReady(metav1.ConditionUnknown)
	for range 5 {
		w.clock.now = w.clock.now.Add(10 * time.Minute)
		expect(t, w.reconcile("outage"), metav1.ConditionUnknown, v1alpha1.ReasonVaultNotReady, "as the test wants it")
	}
	if got := w.points("outage"); len(got) != 0 {
		t.Errorf("%d points were asked for", len(got))
	}
	w.vaultReady(metav1.ConditionTrue)
	w.reconcile("outage")
	if got := w.points("outage"); len(got) != 1 {
		t.Errorf("%d points after the outage, want 1", len(got))
	}
}

func testSchedule(t *testing.T, w *world) {
	w.policy("hourly", v1alpha1.ProtectionPolicySpec{Schedule: "0 * * * *", TimeZone: "Asia/Kolkata"})
	start := w.clock.now
	w.reconcile("hourly")
	if got := w.points("hourly"); len(got) != 0 {
		t.Fatalf("a point was asked for at once: %s", got[0].Name)
	}
	w.clock.now = start.Add(66 * time.Minute) // an hour and the most jitter
	p := w.reconcile("hourly")
	points := w.points("hourly")
	if len(points) != 1 {
		t.Fatalf("%d points, want 1", len(points))
	}
	scheduled, err := time.Parse("20060102-150405", strings.TrimPrefix(points[0].Name, "hourly-"))
	must(t, err)
	if scheduled.Minute() != 30 || scheduled.Before(start.Truncate(time.Second)) || points[0].Spec.Trigger != v1alpha1.TriggerSchedule {
		t.Errorf("point %q, %+v", points[0].Name, points[0].Spec)
	}
	if !p.Status.LastRun.Time.Equal(scheduled) || !p.Status.NextRun.After(w.clock.now) {
		t.Errorf("last run %v, next run %v at %v", p.Status.LastRun, p.Status.NextRun, w.clock.now)
	}
	// A controller that died after making the point and before saying so finds the same point.
	p.Status.LastRun = nil
	must(t, w.c.Status().Update(t.Context(), p))
	w.finish(&points[0], nil)
	w.reconcile("hourly")
	if got := w.points("hourly"); len(got) != 1 {
		t.Errorf("%d points after a restart, want 1", len(got))
	}
}

// finish marks a point as Ready, as the backup controller would, or as failed.
func (w *world) finish(p *v1alpha1.RestorePoint, taken *metav1.Time) {
	w.t.Helper()
	p.Status.Taken = taken
	p.Status.Revision = &v1alpha1.Revision{Repository: "r", Commit: "abc", Path: ".", Tree: "t"}
	if taken != nil {
		conditions.MarkTrue(p, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "done")
	} else {
		conditions.MarkStalled(p, v1alpha1.ReasonSaveFailed, "failed")
		conditions.MarkFalse(p, v1alpha1.ConditionReady, v1alpha1.ReasonSaveFailed, "failed")
	}
	must(w.t, w.c.Status().Update(w.t.Context(), p))
}

func testOverlap(t *testing.T, w *world) {
	w.policy("busy", v1alpha1.ProtectionPolicySpec{Schedule: "* * * * *"})
	for range 5 {
		w.clock.now = w.clock.now.Add(2 * time.Minute)
		w.reconcile("busy")
	}
	points := w.points("busy")
	if len(points) != 1 {
		t.Fatalf("%d points while the first is unfinished, want 1", len(points))
	}
	w.finish(&points[0], nil)
	w.reconcile("busy")
	if got := w.points("busy"); len(got) != 2 {
		t.Errorf("%d points after the first was finished, want 2: what was missed is made up for once", len(got))
	}
}

func testSuspended(t *testing.T, w *world) {
	w.policy("asleep", v1alpha1.ProtectionPolicySpec{Schedule: "* * * * *", Suspend: true})
	w.clock.now = w.clock.now.Add(time.Hour)
	p := w.reconcile("asleep")
	expect(t, p, metav1.ConditionTrue, v1alpha1.ReasonSuspended, "suspended")
	if len(w.points("asleep")) != 0 || p.Status.NextRun != nil {
		t.Errorf("a suspended policy runs: next %v", p.Status.NextRun)
	}
}

func testRestoring(t *testing.T, w *world) {
	restore := &v1alpha1.Restore{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tonight"}, Spec: v1alpha1.RestoreSpec{
		From: v1alpha1.RestoreFrom{Vault: "primary", Tag: "v1"}, Source: v1alpha1.GitSource{URL: "https://git.example/shop.git"}}}
	w.create(restore)
	claim := w.claim("filling", map[string]string{v1alpha1.LabelRestore: string(restore.UID)})
	w.policy("paused", v1alpha1.ProtectionPolicySpec{Schedule: "* * * * *"})
	w.clock.now = w.clock.now.Add(time.Hour)
	w.reconcile("paused")
	if got := w.points("paused"); len(got) != 0 {
		t.Error("a point was asked for while a restore runs")
	}
	conditions.MarkTrue(restore, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "done")
	must(t, w.c.Status().Update(t.Context(), restore))
	w.reconcile("paused")
	if got := w.points("paused"); len(got) != 1 {
		t.Errorf("%d points after the restore, want 1", len(got))
	}
	must(t, w.c.Delete(t.Context(), claim))
}

func testLastPoint(t *testing.T, w *world) {
	w.policy("seen", v1alpha1.ProtectionPolicySpec{})
	moment := metav1.NewTime(time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC))
	earlier := metav1.NewTime(moment.Add(-time.Hour))
	for name, taken := range map[string]*metav1.Time{"a": &earlier, "b": &moment, "failed": nil} {
		point := &v1alpha1.RestorePoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1alpha1.RestorePointSpec{
			PolicyRef: v1alpha1.PolicyReference{Name: "seen"}}}
		w.create(point)
		w.finish(point, taken)
	}
	last := w.reconcile("seen").Status.LastPoint
	if last == nil || last.Name != "b" || !last.Taken.Equal(&moment) || last.Commit != "abc" {
		t.Errorf("last point %+v", last)
	}
}

func testJitter(t *testing.T, w *world) {
	w.policy("prompt", v1alpha1.ProtectionPolicySpec{Schedule: "0 * * * *", Jitter: &metav1.Duration{}, StartingDeadline: &metav1.Duration{Duration: 10 * time.Minute}})
	next := w.reconcile("prompt").Status.NextRun
	if next == nil || next.Minute() != 0 || next.Second() != 0 {
		t.Fatalf("without jitter the next run is at %v", next)
	}
	w.clock.now = next.Add(10*time.Minute + time.Second)
	w.reconcile("prompt")
	if got := w.points("prompt"); len(got) != 0 {
		t.Errorf("%d points were asked for after the deadline", len(got))
	}
	w.clock.now = next.Add(time.Hour)
	w.reconcile("prompt")
	if got := w.points("prompt"); len(got) != 1 {
		t.Errorf("%d points at the next moment, want 1", len(got))
	}
	for name, spec := range map[string]v1alpha1.ProtectionPolicySpec{
		"jitter must not be negative":          {Jitter: &metav1.Duration{Duration: -time.Second}},
		"startingDeadline must be at least 1m": {StartingDeadline: &metav1.Duration{Duration: time.Second}},
	} {
		spec.Vaults = []string{"primary"}
		p := &v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "bad"}, Spec: spec}
		if err := w.c.Create(t.Context(), p); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %q", err, name)
		}
	}
}

func testWrongClock(t *testing.T, w *world) {
	w.policy("ahead", v1alpha1.ProtectionPolicySpec{Schedule: "0 * * * *", Jitter: &metav1.Duration{}})
	start := w.clock.now
	w.clock.now = start.AddDate(5, 0, 0)
	w.reconcile("ahead")
	points := w.points("ahead")
	if len(points) != 1 {
		t.Fatalf("%d points five years ahead, want 1", len(points))
	}
	w.finish(&points[0], nil)
	w.clock.now = start
	w.reconcile("ahead")
	w.clock.now = start.Add(time.Hour)
	w.reconcile("ahead")
	if got := w.points("ahead"); len(got) != 2 {
		t.Errorf("%d points an hour after the clock was right again, want 2", len(got))
	}
}

func testObjective(t *testing.T, w *world) {
	w.policy("promise", v1alpha1.ProtectionPolicySpec{Objectives: &v1alpha1.Objectives{RPO: &metav1.Duration{Duration: time.Hour}}})
	start := w.clock.now
	expectObjective := func(status metav1.ConditionStatus, reason string) {
		t.Helper()
		c := conditions.Get(w.reconcile("promise"), v1alpha1.ConditionObjectiveMet)
		if c == nil || c.Status != status || c.Reason != reason {
			t.Errorf("got %+v, want %s, %s", c, status, reason)
		}
	}
	expectObjective(metav1.ConditionUnknown, v1alpha1.ReasonNoPointYet)
	w.clock.now = start.Add(61 * time.Minute)
	expectObjective(metav1.ConditionFalse, v1alpha1.ReasonObjectiveMissed)
	point := &v1alpha1.RestorePoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "promise-1"}, Spec: v1alpha1.RestorePointSpec{
		PolicyRef: v1alpha1.PolicyReference{Name: "promise"}}}
	w.create(point)
	w.finish(point, &metav1.Time{Time: w.clock.now})
	expectObjective(metav1.ConditionTrue, v1alpha1.ReasonWithinObjective)
	w.clock.now = w.clock.now.Add(61 * time.Minute)
	expectObjective(metav1.ConditionFalse, v1alpha1.ReasonObjectiveMissed)
	w.clock.now = start.AddDate(-1, 0, 0)
	expectObjective(metav1.ConditionUnknown, v1alpha1.ReasonClockWrong)

	p := &v1alpha1.ProtectionPolicy{}
	must(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "promise"}, p))
	p.Spec.Objectives = nil
	must(t, w.c.Update(t.Context(), p))
	if c := conditions.Get(w.reconcile("promise"), v1alpha1.ConditionObjectiveMet); c != nil {
		t.Errorf("without an RPO: %+v", c)
	}
}

func testCopies(t *testing.T, w *world) {
	w.policy("alone", v1alpha1.ProtectionPolicySpec{})
	if c := conditions.Get(w.reconcile("alone"), v1alpha1.ConditionCopiesBehind); c != nil {
		t.Errorf("with one vault: %+v", c)
	}
	w.policy("copied", v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary", "offsite"}})
	point := &v1alpha1.RestorePoint{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "copied-1"}, Spec: v1alpha1.RestorePointSpec{
		PolicyRef: v1alpha1.PolicyReference{Name: "copied"}}}
	w.create(point)
	taken := metav1.Time{Time: w.clock.now}
	w.finish(point, &taken)
	expectCopies := func(status metav1.ConditionStatus, message string) {
		t.Helper()
		c := conditions.Get(w.reconcile("copied"), v1alpha1.ConditionCopiesBehind)
		if c == nil || c.Status != status || !strings.Contains(c.Message, message) {
			t.Errorf("got %+v, want %s with %q", c, status, message)
		}
	}
	set := func(c v1alpha1.PointCopy) {
		t.Helper()
		c.Vault = "offsite"
		point.Status.Copies = []v1alpha1.PointCopy{{Vault: "primary", State: v1alpha1.CopyVerified, VerifiedAt: &taken}, c}
		must(t, w.c.Status().Update(t.Context(), point))
	}
	expectCopies(metav1.ConditionFalse, "about to")
	set(v1alpha1.PointCopy{State: v1alpha1.CopyFailed, Attempts: 1, Message: "no route"})
	expectCopies(metav1.ConditionTrue, `vault "offsite" lacks 1 point, the oldest copied-1, taken `)
	set(v1alpha1.PointCopy{State: v1alpha1.CopyPending, Message: `vault "offsite" is not ready`})
	expectCopies(metav1.ConditionTrue, "lacks 1 point")
	set(v1alpha1.PointCopy{State: v1alpha1.CopyCopying, Attempts: 1})
	expectCopies(metav1.ConditionFalse, "about to")
	w.clock.now = w.clock.now.Add(2 * time.Hour)
	expectCopies(metav1.ConditionTrue, "lacks 1 point")
	set(v1alpha1.PointCopy{State: v1alpha1.CopyVerified, VerifiedAt: &taken})
	expectCopies(metav1.ConditionFalse, "")
	set(v1alpha1.PointCopy{State: v1alpha1.CopyRemoved})
	expectCopies(metav1.ConditionFalse, "")
}
