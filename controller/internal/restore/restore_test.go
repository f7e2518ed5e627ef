package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/runtime/conditions"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	k8sfake "k8s.io/client-go/kubernetes/fake"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/residual"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

func isReady(r *v1alpha1.Restore) bool { return conditions.IsReady(r) }

func isStalled(r *v1alpha1.Restore) bool { return conditions.IsStalled(r) }

func isUnknown(r *v1alpha1.Restore) bool {
	return conditions.IsUnknown(r, v1alpha1.ConditionReady) && conditions.GetReason(r, v1alpha1.ConditionReady) != v1alpha1.ReasonProgressing
}

// restored proves that every claim has its data, that the commit runs, and that nothing of the restore is left.
func (b *bench) restored(ctx context.Context, record point.Record) {
	b.t.Helper()
	pvs := b.volumes(ctx)
	for _, v := range record.Volumes {
		claim := &corev1.PersistentVolumeClaim{}
		b.must(b.Get(ctx, client.ObjectKey{Namespace: v.Namespace, Name: v.Claim}, claim))
		pv := pvs[claim.Spec.VolumeName]
		if claim.Status.Phase != corev1.ClaimBound || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
			b.t.Errorf("claim %s is %s, its volume is claimed by %+v", v.Claim, claim.Status.Phase, pv.Spec.ClaimRef)
		}
		if got := b.contents[pv.Name]; got != v.Snapshot {
			b.t.Errorf("claim %s holds %q", v.Claim, got)
		}
		if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || pv.Annotations[v1alpha1.AnnotationReclaimPolicy] != "" {
			b.t.Errorf("volume of %s has policy %s, annotations %v", v.Claim, pv.Spec.PersistentVolumeReclaimPolicy, pv.Annotations)
		}
	}
	b.nothingLeft(ctx)
	policy := &v1alpha1.ProtectionPolicy{}
	b.must(b.Get(ctx, client.ObjectKey{Namespace: b.commit.namespace, Name: "shop"}, policy))
	if policy.Annotations[v1alpha1.AnnotationRevision] != commitID {
		b.t.Errorf("the running revision is %q", policy.Annotations[v1alpha1.AnnotationRevision])
	}
	for name, o := range map[string]client.Object{"db": &appsv1.StatefulSet{}, "web": &appsv1.Deployment{}, "login": &corev1.Secret{}, "by-hand": &appsv1.Deployment{}} {
		if err := b.Get(ctx, client.ObjectKey{Namespace: b.commit.namespace, Name: name}, o); err != nil {
			b.t.Errorf("%T %s: %v", o, name, err)
		}
	}
}

func (b *bench) nothingLeft(ctx context.Context) {
	b.t.Helper()
	for _, claim := range b.claims(ctx) {
		if claim.Namespace == v1alpha1.SystemNamespace {
			b.t.Errorf("staging claim %s is left", claim.Name)
		}
	}
	var jobs batchv1.JobList
	b.must(b.List(ctx, &jobs))
	if len(jobs.Items) > 0 {
		b.t.Errorf("%d movers are left", len(jobs.Items))
	}
}

// replayWhole runs a whole restore.
func replayWhole(ctx context.Context, t *testing.T, c *cluster, namespace string) {
	t.Helper()
	b := newBench(ctx, t, c, namespace)
	record := b.save(ctx)
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	frontFirst := false
	b.run(ctx, func(r *v1alpha1.Restore) bool {
		front := slices.ContainsFunc(r.Status.Workloads, func(w v1alpha1.WorkloadRestore) bool {
			return w.Name == "web" && w.State == v1alpha1.WorkloadHealthy
		})
		frontFirst = frontFirst || front && r.Status.BoundAt == nil
		return isReady(r)
	})
	b.restored(ctx, record)
	if !frontFirst {
		t.Error("the stateless front waited for volumes that are not its own")
	}
	s := b.restore(ctx).Status
	if s.Point == nil || s.Point.ID != record.ID || s.Point.Match != "Exact" || s.Revision == nil || s.Revision.Commit != commitID {
		t.Errorf("status says point %+v, revision %+v", s.Point, s.Revision)
	}
	if s.StartedAt == nil || s.ReservedAt == nil || s.BoundAt == nil || s.CompletedAt == nil || conditions.IsReconciling(b.restore(ctx)) {
		t.Errorf("times or conditions are missing: %+v", s)
	}
	for _, v := range s.Volumes {
		if v.State != v1alpha1.HydrationBound || v.ReservedAt == nil || v.HydratedAt == nil || v.BoundAt == nil || v.Progress != v.Bytes || v.Message != "" {
			t.Errorf("volume %+v", v)
		}
	}
	// Deleting the restore afterwards leaves everything as it is.
	b.must(b.Delete(ctx, b.restore(ctx)))
	b.finalized(ctx)
	b.restored(ctx, record)
}

// finalized reconciles until the restore is gone.
func (b *bench) finalized(ctx context.Context) {
	b.t.Helper()
	for range 50 {
		if _, err := b.reconciler.Reconcile(ctx, b.request); err != nil {
			b.t.Fatal(err)
		}
		if apierrors.IsNotFound(b.Get(ctx, b.request.NamespacedName, &v1alpha1.Restore{})) {
			return
		}
		b.settle(ctx)
	}
	b.t.Fatal("the restore does not go")
}

func TestRestore(t *testing.T) {
	replayWhole(t.Context(), t, newFakeCluster(t), "shop")
}

// TestDeath kills the controller after each of its writes; the next one, which remembers nothing, must finish the same restore
// without writing onto a volume twice.
func TestDeath(t *testing.T) {
	for n := 1; ; n++ {
		done := false
		t.Run(fmt.Sprintf("write %d", n), func(t *testing.T) { done = dieAt(t, n, false) })
		if done || t.Failed() {
			break
		}
	}
}

// TestDeathTogether does the same where one mover fills all volumes, from when they are reserved.
func TestDeathTogether(t *testing.T) {
	for n := 1; ; n++ {
		done := false
		t.Run(fmt.Sprintf("write %d", n), func(t *testing.T) { done = dieAt(t, n, true) })
		if done || t.Failed() {
			break
		}
	}
}

// dieAt reports whether the controller was done before its n-th write.
func dieAt(t *testing.T, n int, together bool) (done bool) {
	ctx := t.Context()
	c := newFakeCluster(t)
	b := newBench(ctx, t, c, "shop")
	record := b.save(ctx)
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	if together {
		b.together(ctx)
		b.run(ctx, func(r *v1alpha1.Restore) bool { return r.Status.ReservedAt != nil })
	}
	m := &testenv.Mortal{At: n}
	b.startWith(m.Client(c.Client.(client.WithWatch)))
	for range 200 {
		result, err := b.reconciler.Reconcile(ctx, b.request)
		if m.Dead() {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if isReady(b.restore(ctx)) {
			return true
		}
		b.settle(ctx)
		b.now = b.now.Add(result.RequeueAfter)
	}
	t.Logf("died at: %s", m.Writes()[len(m.Writes())-1])
	b.settle(ctx)
	b.start()
	b.run(ctx, isReady)
	b.restored(ctx, record)
	return false
}

// TestDeathWhileClearingUp kills the controller at each write of the clearing up of a restore that was given up half way.
func TestDeathWhileClearingUp(t *testing.T) {
	halfway := map[string]func(*v1alpha1.Restore) bool{
		"staged": func(r *v1alpha1.Restore) bool { return len(r.Status.Volumes) > 0 },
		"filled": func(r *v1alpha1.Restore) bool {
			return slices.ContainsFunc(r.Status.Volumes, func(v v1alpha1.VolumeRestore) bool { return v.HydratedAt != nil })
		},
		"handing": func(r *v1alpha1.Restore) bool {
			return slices.ContainsFunc(r.Status.Volumes, func(v v1alpha1.VolumeRestore) bool { return v.State == v1alpha1.HydrationRebinding })
		},
	}
	for name, at := range halfway {
		for n := 1; n < 40; n++ {
			done := false
			t.Run(fmt.Sprintf("%s, write %d", name, n), func(t *testing.T) {
				ctx := t.Context()
				c := newFakeCluster(t)
				b := newBench(ctx, t, c, "shop")
				record := b.save(ctx)
				b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
				b.run(ctx, at)
				b.must(b.Delete(ctx, b.restore(ctx)))
				m := &testenv.Mortal{At: n}
				b.startWith(m.Client(c.Client.(client.WithWatch)))
				for range 50 {
					_, err := b.reconciler.Reconcile(ctx, b.request)
					done = apierrors.IsNotFound(b.Get(ctx, b.request.NamespacedName, &v1alpha1.Restore{}))
					if m.Dead() || done {
						break
					}
					b.must(err)
					b.settle(ctx)
				}
				b.start()
				b.finalized(ctx)
				b.settle(ctx)
				b.nothingLeft(ctx)
				b.wholeOrAbsent(ctx, record)
			})
			if done || t.Failed() {
				break
			}
		}
	}
}

// wholeOrAbsent proves that no claim was left with a part of its data, and no volume without a claim.
func (b *bench) wholeOrAbsent(ctx context.Context, record point.Record) {
	b.t.Helper()
	alive := map[string]bool{}
	for _, claim := range b.claims(ctx) {
		alive[claim.Spec.VolumeName] = claim.Status.Phase == corev1.ClaimBound
		for _, v := range record.Volumes {
			if claim.Name == v.Claim && claim.Status.Phase == corev1.ClaimBound {
				if got := b.contents[claim.Spec.VolumeName]; got != v.Snapshot {
					b.t.Errorf("claim %s is bound and holds %q", claim.Name, got)
				}
			}
		}
	}
	for name := range b.volumes(ctx) {
		if !alive[name] {
			b.t.Errorf("volume %s is left", name)
		}
	}
}

// TestUnknownMakesNothing: a vault or a repository that does not answer proves nothing, and nothing is made.
func TestUnknownMakesNothing(t *testing.T) {
	unavailable := func(op storetest.Op, prefix string) func(context.Context, *bench) {
		return func(_ context.Context, b *bench) {
			b.store.SetFaults(storetest.On(op, prefix, storetest.Fault{Err: store.ErrUnavailable}))
		}
	}
	available := func(_ context.Context, b *bench) { b.store.SetFaults(nil) }
	tests := []struct {
		name   string
		break_ func(context.Context, *bench)
		mend   func(context.Context, *bench)
		reason string
	}{
		{"store does not list", unavailable(storetest.List, ""), available, ""},
		{"listing is cut short", unavailable(storetest.List, "documents/"), available, v1alpha1.ReasonPointUnknown},
		{"store does not read", unavailable(storetest.Get, ""), available, v1alpha1.ReasonPointUnknown},
		{"repository does not answer", func(_ context.Context, b *bench) { b.commit.err = git.ErrUnreachable },
			func(_ context.Context, b *bench) { b.commit.err = nil }, v1alpha1.ReasonSourceUnknown},
		{"key gone", func(ctx context.Context, b *bench) {
			b.must(b.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "key-shop"}}))
		}, nil, v1alpha1.ReasonVaultNotReady},
		{"vault gone", func(ctx context.Context, b *bench) {
			b.must(b.Delete(ctx, &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}))
		},
			nil, v1alpha1.ReasonVaultNotReady},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			b := newBench(ctx, t, newFakeCluster(t), "shop")
			record := b.save(ctx)
			b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
			tt.break_(ctx, b)
			for range 5 {
				b.run(ctx, isUnknown)
			}
			if got := conditions.GetReason(b.restore(ctx), v1alpha1.ConditionReady); tt.reason != "" && got != tt.reason {
				t.Errorf("reason %s, want %s", got, tt.reason)
			}
			if claims := b.claims(ctx); len(claims) > 0 {
				t.Errorf("%d claims were made", len(claims))
			}
			if tt.mend != nil {
				tt.mend(ctx, b)
				b.run(ctx, isReady)
				b.restored(ctx, record)
			}
		})
	}
}

// TestRefusals: what only a person can mend stops the restore before anything is made, and says what it is.
func TestRefusals(t *testing.T) {
	bound := func(ctx context.Context, b *bench) {
		class := "fast"
		b.must(b.Create(ctx, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data-db-0"},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
		}))
		b.settle(ctx)
	}
	tests := []struct {
		name   string
		from   v1alpha1.RestoreFrom
		before func(context.Context, *bench)
		reason string
		says   string
	}{
		{"bound claim", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, bound, v1alpha1.ReasonRefused, "claim shop/data-db-0 is bound"},
		{"tag without a point", v1alpha1.RestoreFrom{Tag: "v2.0.0"}, nil, v1alpha1.ReasonPointNotFound, ""},
		{"tag that is not there", v1alpha1.RestoreFrom{Tag: "v3.0.0"}, nil, v1alpha1.ReasonSourceUnknown, "v3.0.0"},
		{"only an ancestor has a point, of another schema", v1alpha1.RestoreFrom{Tag: "v2.0.0", AllowAncestor: true}, nil, v1alpha1.ReasonRefused,
			"commit fffffff (v2.0.0) may expect another schema"},
		{"repository with SHA-256 names", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(_ context.Context, b *bench) { b.commit.err = git.ErrUnsupported },
			v1alpha1.ReasonSourceUnusable, "not supported yet"},
		{"short name of several commits", v1alpha1.RestoreFrom{Commit: "0123456"}, func(_ context.Context, b *bench) { b.commit.err = git.ErrAmbiguous },
			v1alpha1.ReasonInvalidSpec, "ambiguous"},
		{"point that is not there", v1alpha1.RestoreFrom{RestorePoint: "20990101-000000-00000000"}, nil, v1alpha1.ReasonPointNotFound, ""},
		{"quota of storage", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(ctx context.Context, b *bench) {
			b.must(b.Create(ctx, &corev1.ResourceQuota{
				ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "limits"},
				Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePersistentVolumeClaims: resource.MustParse("1")}},
			}))
		}, v1alpha1.ReasonRefused, "namespace lockstep-system, where volumes are filled, needs "},
		{"class missing", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(ctx context.Context, b *bench) {
			b.must(b.Delete(ctx, className("wait")))
		}, v1alpha1.ReasonRefused, `needs storage class "wait"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := t.Context()
			b := newBench(ctx, t, newFakeCluster(t), "shop")
			b.save(ctx)
			b.ask(ctx, tt.from)
			if tt.before != nil {
				tt.before(ctx, b)
			}
			before := len(b.claims(ctx))
			b.run(ctx, isStalled)
			r := b.restore(ctx)
			if got := conditions.GetReason(r, v1alpha1.ConditionReady); got != tt.reason || !conditions.IsFalse(r, v1alpha1.ConditionReady) {
				t.Errorf("reason %s, want %s", got, tt.reason)
			}
			if got := conditions.GetMessage(r, v1alpha1.ConditionReady); !strings.Contains(got, tt.says) || got == "" {
				t.Errorf("message %q does not say %q", got, tt.says)
			}
			if got := len(b.claims(ctx)); got != before {
				t.Errorf("%d claims were made", got-before)
			}
			if err := b.Get(ctx, client.ObjectKey{Namespace: "shop", Name: "web"}, &appsv1.Deployment{}); !apierrors.IsNotFound(err) {
				t.Errorf("the commit was applied: %v", err)
			}
		})
	}
}

// TestRefusedOnlyUntilAsked: a refused restore does not spring to life by itself when the cluster changes, only when asked.
func TestRefusedOnlyUntilAsked(t *testing.T) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	b.run(ctx, isStalled)
	record := b.save(ctx)
	for range 3 {
		if _, err := b.reconciler.Reconcile(ctx, b.request); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.claims(ctx)) > 0 || !isStalled(b.restore(ctx)) {
		t.Error("the restore went on without being asked")
	}
	r := b.restore(ctx)
	metav1.SetMetaDataAnnotation(&r.ObjectMeta, v1alpha1.AnnotationReconcileAt, "now")
	b.must(b.Update(ctx, r))
	b.run(ctx, isReady)
	b.restored(ctx, record)
}

// TestHydrateFails: a volume that cannot be filled stops its own workload and no other, is named, and is never handed over.
// The restore goes on when the reason has passed, by itself or asked to.
func TestHydrateFails(t *testing.T) {
	for name, asked := range map[string]bool{"by itself": false, "asked": true} {
		t.Run(name, func(t *testing.T) { hydrateFails(t, asked, false) })
	}
	t.Run("among others in one mover", func(t *testing.T) { hydrateFails(t, false, true) })
}

// together lets one mover fill all volumes: no second may run, and none of the volumes waits for a consumer.
func (b *bench) together(ctx context.Context) {
	b.t.Helper()
	b.maxMovers = 1
	b.start()
	r := b.restore(ctx)
	r.Spec.Map = &v1alpha1.RestoreMap{StorageClasses: map[string]v1alpha1.StorageClassName{"wait": "fast"}}
	b.must(b.Update(ctx, r))
}

func hydrateFails(t *testing.T, asked, together bool) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	record := b.save(ctx)
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	if together {
		b.together(ctx)
	}
	b.broken["snapshot-of-wal-db-0"] = mover.Result{Error: "the store did not answer", Reason: mover.ReasonUnavailable}
	started := b.now
	b.run(ctx, isStalled)
	r := b.restore(ctx)
	if got := conditions.GetMessage(r, v1alpha1.ConditionReady); !strings.Contains(got, "shop/wal-db-0: the store did not answer; it is tried again") {
		t.Errorf("message %q", got)
	}
	for _, v := range r.Status.Volumes {
		want := v1alpha1.HydrationBound
		switch v.Claim {
		case "wal-db-0":
			want = v1alpha1.HydrationFailed
			if v.Attempts != patience {
				t.Errorf("%d attempts", v.Attempts)
			}
		case "data-db-0": // whole, and of no use to a pod that lacks the other
			if !together { // else their mover is gone, before the other gets its own
				want = v1alpha1.HydrationDetaching
			}
		}
		if v.State != want {
			t.Errorf("%s is %s, want %s", v.Claim, v.State, want)
		}
	}
	if waited := b.now.Sub(started); waited < backoff(0)+backoff(1) {
		t.Errorf("three attempts within %s", waited)
	}
	b.staysStalled(ctx, 6)
	delete(b.broken, "snapshot-of-wal-db-0")
	if asked {
		r = b.restore(ctx)
		metav1.SetMetaDataAnnotation(&r.ObjectMeta, v1alpha1.AnnotationReconcileAt, "now")
		b.must(b.Update(ctx, r))
	}
	b.run(ctx, isReady)
	b.restored(ctx, record)
}

// staysStalled lets a volume fail until that attempt: the restore says the same all the while, and does not keep every mover.
func (b *bench) staysStalled(ctx context.Context, attempt int32) {
	b.t.Helper()
	said := conditions.GetMessage(b.restore(ctx), v1alpha1.ConditionReady)
	b.run(ctx, func(r *v1alpha1.Restore) bool {
		if got := conditions.GetMessage(r, v1alpha1.ConditionReady); !isStalled(r) || got != said {
			b.t.Errorf("said %q, and now %q", said, got)
		}
		return slices.ContainsFunc(r.Status.Volumes, func(v v1alpha1.VolumeRestore) bool { return v.Attempts == attempt })
	})
	var jobs batchv1.JobList
	b.must(b.List(ctx, &jobs))
	if len(jobs.Items) > 2 {
		b.t.Errorf("%d movers are kept", len(jobs.Items))
	}
}

// TestUnhealthy: a workload that does not become healthy in time is named; if it does later, the restore is complete.
func TestUnhealthy(t *testing.T) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	record := b.save(ctx)
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	b.sick = "redis"
	b.run(ctx, isStalled)
	r := b.restore(ctx)
	if got := conditions.GetReason(r, v1alpha1.ConditionReady); got != v1alpha1.ReasonUnhealthy {
		t.Errorf("reason %s", got)
	}
	if got, want := conditions.GetMessage(r, v1alpha1.ConditionReady), "not healthy in time: Deployment shop/redis (crashes)"; got != want {
		t.Errorf("got message %q, want %q", got, want)
	}
	if waited := b.now.Sub(r.Status.BoundAt.Time); waited < time.Minute {
		t.Errorf("gave up after %s", waited)
	}
	b.sick = ""
	b.run(ctx, isReady)
	b.restored(ctx, record)
}

// TestNotProvisioned: a volume that is not made says why, in the provisioner's words, and the restore goes on when it is.
func TestNotProvisioned(t *testing.T) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	record := b.save(ctx)
	b.full = true
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	staged := func(claim string, r *v1alpha1.Restore) v1alpha1.VolumeRestore {
		i := slices.IndexFunc(r.Status.Volumes, func(v v1alpha1.VolumeRestore) bool { return v.Claim == claim })
		if i < 0 {
			return v1alpha1.VolumeRestore{}
		}
		return r.Status.Volumes[i]
	}
	b.run(ctx, func(r *v1alpha1.Restore) bool { return staged("cache", r).State == v1alpha1.HydrationStaging })
	events := k8sfake.NewClientset()
	for _, claim := range b.claims(ctx) {
		if claim.Annotations[v1alpha1.AnnotationTarget] != "shop/cache" {
			continue
		}
		_, err := events.CoreV1().Events(claim.Namespace).Create(ctx, &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: claim.Namespace, Name: "why"}, Type: corev1.EventTypeWarning,
			Reason: "ProvisioningFailed", Message: "1Gi is more than the quota of the pool", InvolvedObject: corev1.ObjectReference{UID: claim.UID},
		}, metav1.CreateOptions{})
		b.must(err)
	}
	b.reconciler.Kube = events
	const want = "waiting for a volume of class fast: ProvisioningFailed: 1Gi is more than the quota of the pool"
	b.run(ctx, func(r *v1alpha1.Restore) bool { return staged("cache", r).Message == want })
	if other := staged("data-db-0", b.restore(ctx)); strings.Contains(other.Message, "ProvisioningFailed") {
		t.Errorf("the message is about another claim: %+v", other)
	}
	for range 5 { // and does not come and go
		_, err := b.reconciler.Reconcile(ctx, b.request)
		b.must(err)
		if got := staged("cache", b.restore(ctx)).Message; got != want {
			t.Errorf("message %q", got)
		}
		b.now = b.now.Add(300 * time.Millisecond)
	}
	b.full = false
	b.run(ctx, isReady)
	b.restored(ctx, record)
}

// TestResidualHeld: what Git does not hold and cannot come back yet holds nothing else up, and the restore is not complete without
// it: it says what is missing, not which objects wait, and goes on by itself.
func TestResidualHeld(t *testing.T) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	record := b.save(ctx)
	kinds := b.RESTMapper().(*meta.DefaultRESTMapper)
	networkPolicy := networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy")
	data, err := residual.Encode(residual.Set{Objects: []unstructured.Unstructured{
		{Object: map[string]any{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": map[string]any{"namespace": "shop", "name": "by-hand"}}},
		{Object: map[string]any{"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": map[string]any{"namespace": "elsewhere", "name": "by-hand"}}},
	}})
	b.must(err)
	held := record
	held.ID, held.Residual = "20260302-040000-1a2b3c4d", &point.Residual{Document: "20260302-040000-1a2b3c4d", Objects: 2}
	b.must(catalog.PutResidual(ctx, b.vault, held.ID, data))
	b.must(catalog.Put(ctx, b.vault, held))
	b.ask(ctx, v1alpha1.RestoreFrom{RestorePoint: held.ID})
	b.run(ctx, isStalled)
	want := "1 object that Git does not hold waits: the cluster does not serve NetworkPolicy of networking.k8s.io/v1; " +
		"1 object that Git does not hold waits: the cluster does not serve DaemonSet of apps/v1"
	if r := b.restore(ctx); conditions.GetReason(r, v1alpha1.ConditionReady) != v1alpha1.ReasonResidualHeld || conditions.GetMessage(r, v1alpha1.ConditionReady) != want {
		t.Errorf("conditions %+v", r.Status.Conditions)
	}
	b.must(b.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "login"}}))
	b.must(b.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "by-hand"}}))
	b.start() // what was held is not forgotten with the controller's memory
	kinds.Add(networkPolicy, meta.RESTScopeNamespace)
	kinds.Add(appsv1.SchemeGroupVersion.WithKind("DaemonSet"), meta.RESTScopeNamespace)
	b.must(b.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}}))
	b.run(ctx, isReady)
	b.restored(ctx, held)
	for name, o := range map[string]client.Object{"shop": &networkingv1.NetworkPolicy{}, "elsewhere": &appsv1.DaemonSet{}} {
		b.must(b.Get(ctx, client.ObjectKey{Namespace: name, Name: "by-hand"}, o))
		if o.GetAnnotations()[v1alpha1.AnnotationRestoredFrom] != held.ID {
			t.Errorf("%T has annotations %v", o, o.GetAnnotations())
		}
	}
}

// TestResidualUnhealthy: a workload that Git does not hold is waited for as those of the commit are.
func TestResidualUnhealthy(t *testing.T) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	record := b.save(ctx)
	b.sick = "by-hand"
	b.ask(ctx, v1alpha1.RestoreFrom{RestorePoint: record.ID})
	b.run(ctx, isStalled)
	want := "1 workload that Git does not hold is not healthy"
	if r := b.restore(ctx); conditions.GetReason(r, v1alpha1.ConditionReady) != v1alpha1.ReasonResidualHeld || conditions.GetMessage(r, v1alpha1.ConditionReady) != want {
		t.Errorf("conditions %+v", r.Status.Conditions)
	}
	b.sick = ""
	b.run(ctx, isReady)
	b.restored(ctx, record)
}

// TestTwoAtOnce: of two restores of the same claims that begin at the same moment one restores them, and the other stops, says why, and
// takes nothing away when it is deleted.
func TestTwoAtOnce(t *testing.T) { restoreTwice(t.Context(), t, newFakeCluster(t), "shop") }

func restoreTwice(ctx context.Context, t *testing.T, c *cluster, namespace string) {
	b := newBench(ctx, t, c, namespace)
	record := b.save(ctx)
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	first := b.request
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(r *v1alpha1.Restore) { r.Name = "other-" + namespace })
	second := b.request
	for i := 0; ; i++ {
		for _, b.request = range []ctrl.Request{first, second} {
			result, err := b.reconciler.Reconcile(ctx, b.request)
			b.must(err)
			b.settle(ctx)
			b.now = b.now.Add(result.RequeueAfter)
		}
		b.request = first
		ready := isReady(b.restore(ctx))
		b.request = second
		if ready && isStalled(b.restore(ctx)) {
			break
		}
		if i == 100 {
			t.Fatalf("the first is ready: %v; the other: %+v", ready, b.restore(ctx).Status)
		}
	}
	loser := b.restore(ctx)
	if message := conditions.GetMessage(loser, v1alpha1.ConditionReady); !strings.Contains(message, "claim "+namespace+"/cache ") {
		t.Errorf("the other says %q", message)
	}
	b.must(b.Delete(ctx, loser))
	b.finalized(ctx)
	b.request = first
	b.restored(ctx, record)
}

// TestCancelledAndAskedAnew: a restore is deleted while volumes are filled, and made again under the same name. What is left is refused
// in words that lead on.
func TestCancelledAndAskedAnew(t *testing.T) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	record := b.save(ctx)
	b.hung = true
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	b.run(ctx, func(r *v1alpha1.Restore) bool {
		return slices.ContainsFunc(r.Status.Workloads, func(l v1alpha1.WorkloadRestore) bool { return l.Name == "db" && l.ReleasedAt != nil })
	})
	uid := string(b.restore(ctx).UID)
	b.must(b.Delete(ctx, b.restore(ctx)))
	b.finalized(ctx)
	b.nothingLeft(ctx)
	b.hung = false
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	b.run(ctx, isStalled)
	r := b.restore(ctx)
	for _, claim := range []string{"data-db-0", "wal-db-0"} {
		want := "claim shop/" + claim + " is reserved by a restore that is gone (UID " + uid + "), and holds no data: delete its workload and the claim"
		if message := conditions.GetMessage(r, v1alpha1.ConditionReady); !strings.Contains(message, want) {
			t.Errorf("message %q", message)
		}
	}
	b.must(b.Delete(ctx, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}}))
	b.must(client.IgnoreNotFound(b.Delete(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "redis"}})))
	for _, claim := range b.claims(ctx) {
		if claim.Namespace == "shop" && claim.Labels[v1alpha1.LabelRestore] == uid {
			b.must(b.Delete(ctx, &claim))
		}
	}
	r.Annotations = map[string]string{v1alpha1.AnnotationReconcileAt: "now"}
	b.must(b.Update(ctx, r))
	b.run(ctx, isReady)
	b.restored(ctx, record)
}

// TestClocksDiffer: a mover is given its time though the API server's clock is an hour behind the controller's, or ahead of it.
func TestClocksDiffer(t *testing.T) {
	for _, ahead := range []time.Duration{time.Hour, -time.Hour} {
		ctx := t.Context()
		b := newBench(ctx, t, newFakeCluster(t), "shop")
		record := b.save(ctx)
		b.now = b.now.Add(ahead)
		b.hung = true
		b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"})
		var jobs batchv1.JobList
		for range 30 {
			_, err := b.reconciler.Reconcile(ctx, b.request)
			b.must(err)
			b.settle(ctx)
			b.must(b.List(ctx, &jobs))
			for _, j := range jobs.Items {
				if why := j.Annotations[mover.AnnotationAbandoned]; why != "" {
					t.Fatalf("%s ahead: %s", ahead, why)
				}
			}
			b.now = b.now.Add(time.Second)
		}
		if len(jobs.Items) == 0 {
			t.Fatal("no mover was started")
		}
		b.hung = false
		b.run(ctx, isReady)
		b.restored(ctx, record)
	}
}

// TestDeadline: a mover gets time for its bytes.
func TestDeadline(t *testing.T) {
	for bytes, want := range map[int64]int64{100: 3600, 40 << 30: 3600 + 10*1024} {
		ctx := t.Context()
		b := newBench(ctx, t, newFakeCluster(t), "shop")
		record := b.save(ctx)
		record.ID, record.Volumes = "20260302-040000-1a2b3c4d", record.Volumes[:1]
		record.Volumes[0].Bytes = bytes
		b.must(catalog.Put(ctx, b.vault, record))
		b.hung = true
		b.ask(ctx, v1alpha1.RestoreFrom{RestorePoint: record.ID})
		var jobs batchv1.JobList
		b.run(ctx, func(*v1alpha1.Restore) bool {
			b.must(b.List(ctx, &jobs))
			return len(jobs.Items) > 0
		})
		if got := *jobs.Items[0].Spec.ActiveDeadlineSeconds; got != want {
			t.Errorf("for %d bytes a mover gets %d s, want %d", bytes, got, want)
		}
	}
}

// TestMoversAreLimited: no more movers run at once than allowed.
func TestMoversAreLimited(t *testing.T) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	b.save(ctx)
	b.hung = true
	b.ask(ctx, v1alpha1.RestoreFrom{RestorePoint: "20260301"})
	for range 30 {
		_, err := b.reconciler.Reconcile(ctx, b.request)
		b.must(err)
		b.settle(ctx)
		var jobs batchv1.JobList
		b.must(b.List(ctx, &jobs))
		if len(jobs.Items) > b.maxMovers {
			t.Fatalf("%d movers run", len(jobs.Items))
		}
	}
	b.hung = false
	b.run(ctx, isReady)
}

func className(name string) client.Object {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
}
