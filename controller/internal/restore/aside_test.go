package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/runtime/conditions"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// olds are the parts of a world whose claim is to be replaced.

func oldTarget(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	return target(append([]func(*corev1.PersistentVolumeClaim){foreign, phase(corev1.ClaimBound), names("old"), func(c *corev1.PersistentVolumeClaim) { c.UID = "old" }}, change...)...)
}

func oldVolume(change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	return pv("old", append([]func(*corev1.PersistentVolume){func(v *corev1.PersistentVolume) { v.Name = "old" }}, change...)...)
}

func keptAside(v *corev1.PersistentVolume) {
	v.Labels[v1alpha1.LabelSetAside] = uid
	v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
}

func aside(w *world) {
	w.volumes[0].SetAside = &plan.SetAside{Volume: "old", ClaimUID: "old"}
	w.workloads = []workload{{Workload: plan.Workload{Object: plan.Object{Key: object.Key{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "db"},
		Manifest: &unstructured.Unstructured{Object: map[string]any{}}}, WaitsFor: []object.Name{w.volumes[0].Name}}}}
	w.objects = []thing{{Object: plan.Object{Key: object.Key{Kind: "ConfigMap", Namespace: "shop", Name: "settings"}}}}
}

func running(replicas int64) func(*world) {
	return func(w *world) {
		w.halted = []halted{{
			v1alpha1.StoppedWorkload{Kind: "Deployment", Namespace: "shop", Name: "db", Replicas: 3},
			&unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"replicas": replicas}}},
		}}
	}
}

func another(v volume) func(*world) {
	return func(w *world) {
		v.Claim = dataClaim()
		v.Name.Name, v.Index = "other", 1
		w.volumes = append(w.volumes, v)
	}
}

// TestAside walks one volume whose claim is to be replaced, through what a death between two writes can leave.
func TestAside(t *testing.T) {
	ready := func(v volume) volume {
		v.staging, v.pv = staging(), pv("staging", adopted, filled)
		return v
	}
	other := func(w *world) {
		w.groups = append(w.groups, group{Group: plan.Group{Index: 1}})
		w.volumes[1].Group = 1
	}
	tests := []struct {
		name  string
		world *world
		want  string
		state v1alpha1.HydrationState
		says  string
	}{
		{"nothing is stopped while nothing is filled", worldOf(volume{target: oldTarget(), old: oldVolume()}, aside, running(3)), "stage shop/data", v1alpha1.HydrationPlanned, ""},
		{"adopted", worldOf(volume{staging: staging(), pv: pv("staging"), target: oldTarget(), old: oldVolume()}, aside, running(3)), "adopt shop/data", v1alpha1.HydrationStaging, ""},
		{"it is filled behind the old claim", worldOf(volume{staging: staging(), pv: pv("staging", adopted), target: oldTarget(), old: oldVolume()}, aside, running(3)),
			"fill group 0, attempt 0", v1alpha1.HydrationReserved, ""},
		{"filled, and the mover is there", worldOf(ready(volume{target: oldTarget(), old: oldVolume()}), aside, running(3), jobs(attempt(0, true, whole()))),
			"dismiss group 0", v1alpha1.HydrationDetaching, ""},
		{"failed for good, everything runs on", worldOf(volume{staging: staging(), pv: pv("staging", adopted, filledOtherwise), target: oldTarget(), old: oldVolume()}, aside, running(3)),
			"", v1alpha1.HydrationFailed, "other data"},
		{"another volume is not filled", worldOf(ready(volume{target: oldTarget(), old: oldVolume()}), aside, running(3),
			another(volume{staging: staging(), pv: pv("staging", adopted, func(v *corev1.PersistentVolume) {
				v.Annotations[v1alpha1.AnnotationTarget] = "shop/other"
			}), target: target()}), other, func(w *world) { w.room = 0 }),
			"", v1alpha1.HydrationReplacing, "waits for the other volumes"},
		{"filled", worldOf(ready(volume{target: oldTarget(), old: oldVolume()}), aside, running(3)), "keep shop/data", v1alpha1.HydrationReplacing, ""},
		{"kept", worldOf(ready(volume{target: oldTarget(), old: oldVolume(keptAside)}), aside, running(3)), "stop Deployment shop/db", v1alpha1.HydrationReplacing, ""},
		{"a point has it at zero", worldOf(ready(volume{target: oldTarget(), old: oldVolume(keptAside)}), aside, running(0), func(w *world) {
			w.halted[0].live.SetAnnotations(map[string]string{v1alpha1.AnnotationScaledBy: "nightly"})
		}), "", v1alpha1.HydrationReplacing, "waits for restore point nightly"},
		{"somebody took the policy back", worldOf(ready(volume{target: oldTarget(), old: oldVolume(keptAside, func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		})}), aside, running(0)), "keep shop/data", v1alpha1.HydrationReplacing, ""},
		{"a pod has not ended", worldOf(ready(volume{target: oldTarget(), old: oldVolume(keptAside), users: []string{"pod shop/db-0"}}), aside, running(0)),
			"", v1alpha1.HydrationReplacing, "waits for pod shop/db-0 to end"},
		{"nobody uses it", worldOf(ready(volume{target: oldTarget(), old: oldVolume(keptAside)}), aside, running(0)), "vacate shop/data", v1alpha1.HydrationReplacing, ""},
		{"the workload is gone", worldOf(ready(volume{target: oldTarget(), old: oldVolume(keptAside)}), aside, func(w *world) { w.halted = []halted{{}} }),
			"vacate shop/data", v1alpha1.HydrationReplacing, ""},
		{"it is being deleted", worldOf(ready(volume{target: oldTarget(deleting), old: oldVolume(keptAside)}), aside, running(0)), "", v1alpha1.HydrationReplacing, ""},
		{"the old volume is gone", worldOf(ready(volume{target: oldTarget()}), aside, running(3)), "", v1alpha1.HydrationFailed, "volume old, which is to be set aside, is gone"},
		{"the old volume is another claim's", worldOf(ready(volume{target: oldTarget(), old: oldVolume(func(v *corev1.PersistentVolume) { v.Spec.ClaimRef.UID = "x" })}), aside, running(3)),
			"", v1alpha1.HydrationFailed, "no longer that of claim"},
		{"another restore hands it over", worldOf(ready(volume{target: oldTarget(), old: oldVolume(func(v *corev1.PersistentVolume) { v.Labels[v1alpha1.LabelRestore] = "x" })}), aside, running(3)),
			"", v1alpha1.HydrationPlanned, "another restore"},
		{"the old claim is gone", worldOf(ready(volume{}), aside, running(0)), "reserve shop/data, apply ConfigMap shop/settings", v1alpha1.HydrationStaging, ""},
		{"a claim of this restore is there", worldOf(ready(volume{target: target()}), aside, running(0), func(w *world) { w.objects = nil }),
			"repoint shop/data, release Deployment shop/db", v1alpha1.HydrationRebinding, ""},
		{"Git leaves the replicas to others", worldOf(volume{pv: pv("target", filled), target: target(phase(corev1.ClaimBound))}, aside, running(0), func(w *world) {
			w.objects, w.workloads[0].released = nil, true
		}), "resume Deployment shop/db", v1alpha1.HydrationBound, ""},
		{"Git says how many", worldOf(volume{pv: pv("target", filled), target: target(phase(corev1.ClaimBound))}, aside, running(0), func(w *world) {
			w.objects, w.workloads[0].released = nil, true
			w.workloads[0].Manifest.Object["spec"] = map[string]any{"replicas": int64(1)}
		}), "", v1alpha1.HydrationBound, ""},
		{"they run again", worldOf(volume{pv: pv("target", filled), target: target(phase(corev1.ClaimBound))}, aside, running(3), func(w *world) {
			w.objects, w.workloads[0].released = nil, true
		}), "", v1alpha1.HydrationBound, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := join(decide(tt.world)); got != tt.want {
				t.Errorf("got actions %q, want %q", got, tt.want)
			}
			state, says := tt.world.stateOf(tt.world.volumes[0], tt.world.groups[0])
			if state != tt.state || !strings.Contains(says, tt.says) {
				t.Errorf("got state %s %q, want %s with %q", state, says, tt.state, tt.says)
			}
		})
	}
}

// live deploys the application with newer data than the point's.
func (b *bench) live(ctx context.Context) {
	b.t.Helper()
	ns := b.commit.namespace
	b.must(b.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
	for _, claim := range []struct{ name, class string }{{"cache", "fast"}, {"data-db-0", "fast"}, {"wal-db-0", "wait"}} {
		b.must(b.Create(ctx, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: claim.name},
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: &claim.class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			},
		}))
	}
	labels := func(app string) map[string]string { return map[string]string{"app": app} }
	template := func(app string, claims ...string) corev1.PodTemplateSpec {
		spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}
		for _, name := range claims {
			spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		}
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels(app)}, Spec: spec}
	}
	selector := func(app string) *metav1.LabelSelector { return &metav1.LabelSelector{MatchLabels: labels(app)} }
	claim := func(name string, class *string) corev1.PersistentVolumeClaim {
		return corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		}}
	}
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: new(int32(1)), ServiceName: "db", Selector: selector("db"), Template: template("db"),
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{claim("data", nil), claim("wal", new("wait"))}}}
	redis := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "redis"}, Spec: appsv1.DeploymentSpec{
		Replicas: new(int32(2)), Selector: selector("redis"), Template: template("redis", "cache")}}
	b.must(b.Create(ctx, set))
	b.must(b.Create(ctx, redis))
	for name, owner := range map[string]*metav1.OwnerReference{
		"db-0":    metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet")),
		"redis-0": metav1.NewControllerRef(redis, appsv1.SchemeGroupVersion.WithKind("Deployment")),
	} {
		claims := []string{"data-db-0", "wal-db-0"}
		if name == "redis-0" {
			claims = []string{"cache"}
		}
		b.must(b.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, OwnerReferences: []metav1.OwnerReference{*owner}}, Spec: template("x", claims...).Spec}))
	}
	b.settle(ctx)
	for name, pv := range b.volumes(ctx) {
		if pv.Spec.ClaimRef.Namespace == ns {
			b.contents[name] = "newer data of " + pv.Spec.ClaimRef.Name
		}
	}
}

// replicas are those of the application's workloads.
func (b *bench) replicas(ctx context.Context) string {
	b.t.Helper()
	set, redis := &appsv1.StatefulSet{}, &appsv1.Deployment{}
	b.must(b.Get(ctx, client.ObjectKey{Namespace: b.commit.namespace, Name: "db"}, set))
	b.must(b.Get(ctx, client.ObjectKey{Namespace: b.commit.namespace, Name: "redis"}, redis))
	return fmt.Sprintf("db %d, redis %d", *set.Spec.Replicas, *redis.Spec.Replicas)
}

func (b *bench) askRollback(ctx context.Context) {
	b.t.Helper()
	b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(r *v1alpha1.Restore) { r.Spec.ExistingClaims = v1alpha1.ExistingSetAside })
}

// rolledBack proves that the point's data is back and that what was there before is kept.
func (b *bench) rolledBack(ctx context.Context, record point.Record) {
	b.t.Helper()
	b.restored(ctx, record)
	s := b.restore(ctx).Status
	pvs := b.volumes(ctx)
	for _, v := range s.Volumes {
		old, kept := pvs[v.SetAside]
		if !kept || old.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain || b.contents[v.SetAside] != "newer data of "+v.Claim {
			b.t.Errorf("the old volume %q of claim %s is %+v with %q", v.SetAside, v.Claim, old.Spec, b.contents[v.SetAside])
		}
		want := map[string]string{
			v1alpha1.AnnotationSetAsideClaim: v.Namespace + "/" + v.Claim, v1alpha1.AnnotationReclaimPolicy: "Delete",
			v1alpha1.AnnotationSetAsideBy: v1alpha1.SystemNamespace + "/" + b.request.Name,
		}
		for k, value := range want {
			if old.Annotations[k] != value {
				b.t.Errorf("the old volume of %s says %s: %q, want %q", v.Claim, k, old.Annotations[k], value)
			}
		}
	}
	// The commit leaves the replicas of redis to others; those of db are in it, and it is for the applier to set them.
	if got := b.replicas(ctx); got != "db 0, redis 2" {
		b.t.Errorf("after the rollback there are replicas %s", got)
	}
}

// rollBack runs a whole rollback.
func rollBack(ctx context.Context, t *testing.T, c *cluster, namespace string) {
	t.Helper()
	b := newBench(ctx, t, c, namespace)
	record := b.save(ctx)
	b.live(ctx)
	b.askRollback(ctx)
	b.run(ctx, func(r *v1alpha1.Restore) bool {
		filled := !slices.ContainsFunc(r.Status.Volumes, func(v v1alpha1.VolumeRestore) bool { return v.HydratedAt == nil })
		if got := b.replicas(ctx); !filled && got != "db 1, redis 2" {
			t.Fatalf("something was stopped before all volumes were filled: %s", got)
		}
		return isReady(r)
	})
	b.rolledBack(ctx, record)
	if got := len(b.restore(ctx).Status.Stopped); got != 2 {
		t.Errorf("%d workloads were stopped", got)
	}
	b.must(b.Delete(ctx, b.restore(ctx)))
	b.finalized(ctx)
	b.restored(ctx, record)
}

func TestRollback(t *testing.T) {
	rollBack(t.Context(), t, newFakeCluster(t), "shop")
}

// TestDeathInRollback kills the controller after each of its writes to what is there before.
func TestDeathInRollback(t *testing.T) {
	for n := 1; ; n++ {
		done := false
		t.Run(fmt.Sprintf("write %d", n), func(t *testing.T) {
			ctx := t.Context()
			c := newFakeCluster(t)
			b := newBench(ctx, t, c, "shop")
			record := b.save(ctx)
			b.live(ctx)
			b.askRollback(ctx)
			before := b.volumes(ctx)
			m := &testenv.Mortal{At: n, Counts: func(what string) bool {
				_, volume := before[strings.TrimPrefix(what, "patch *v1.PersistentVolume ")]
				return volume || strings.HasPrefix(what, "patch *unstructured") || strings.HasPrefix(what, "delete *v1.PersistentVolumeClaim") && !strings.Contains(what, " ls-")
			}}
			b.startWith(m.Client(c.Client.(client.WithWatch)))
			for range 200 {
				result, err := b.reconciler.Reconcile(ctx, b.request)
				if m.Dead() {
					t.Logf("died at: %s", m.Writes()[len(m.Writes())-1])
					break
				}
				b.must(err)
				if isReady(b.restore(ctx)) {
					if done = true; n < 9 { // three volumes and claims, two workloads, one that Git does not scale
						t.Errorf("only %d writes were counted", n-1)
					}
					return
				}
				b.settle(ctx)
				b.now = b.now.Add(result.RequeueAfter)
			}
			b.settle(ctx)
			b.start()
			b.run(ctx, isReady)
			b.rolledBack(ctx, record)
		})
		if done || t.Failed() {
			break
		}
	}
}

// TestRollbackIsCancelled deletes a rollback before an old claim is replaced: everything is as it was.
func TestRollbackIsCancelled(t *testing.T) {
	for name, at := range map[string]func(*v1alpha1.Restore) bool{
		"while it is filled": func(r *v1alpha1.Restore) bool { return len(r.Status.Volumes) > 0 && r.Status.Volumes[0].State != "" },
		"when it is stopped": func(r *v1alpha1.Restore) bool {
			return slices.ContainsFunc(r.Status.Volumes, func(v v1alpha1.VolumeRestore) bool { return strings.Contains(v.Message, "to end") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			b := newBench(ctx, t, newFakeCluster(t), "shop")
			b.save(ctx)
			b.live(ctx)
			before := b.volumes(ctx)
			b.stubborn = true
			b.askRollback(ctx)
			b.run(ctx, at)
			b.must(b.Delete(ctx, b.restore(ctx)))
			b.finalized(ctx)
			b.nothingLeft(ctx)
			if got := b.replicas(ctx); got != "db 1, redis 2" {
				t.Errorf("replicas are %s", got)
			}
			after := b.volumes(ctx)
			for name, pv := range before {
				now := after[name]
				if len(now.Labels) > 0 || len(now.Annotations) != len(pv.Annotations) || now.Spec.PersistentVolumeReclaimPolicy != pv.Spec.PersistentVolumeReclaimPolicy {
					t.Errorf("volume %s is %+v, was %+v", name, now, pv)
				}
				claim := &corev1.PersistentVolumeClaim{}
				b.must(b.Get(ctx, client.ObjectKey{Namespace: pv.Spec.ClaimRef.Namespace, Name: pv.Spec.ClaimRef.Name}, claim))
				if claim.UID != pv.Spec.ClaimRef.UID || claim.Status.Phase != corev1.ClaimBound {
					t.Errorf("claim %s was touched", claim.Name)
				}
			}
		})
	}
}

// TestRollbackIsRefused stops nothing where something uses a claim that cannot be stopped.
func TestRollbackIsRefused(t *testing.T) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	b.save(ctx)
	b.live(ctx)
	b.must(b.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "by-hand"}, Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "cache"}}}},
	}}))
	b.askRollback(ctx)
	b.run(ctx, isStalled)
	r := b.restore(ctx)
	if why := conditions.GetMessage(r, v1alpha1.ConditionReady); conditions.GetReason(r, v1alpha1.ConditionReady) != v1alpha1.ReasonRefused || !strings.Contains(why, "Pod shop/by-hand mounts claim shop/cache") {
		t.Errorf("it ended with %s", why)
	}
	if len(r.Status.Volumes)+len(r.Status.Stopped) > 0 || b.replicas(ctx) != "db 1, redis 2" {
		t.Errorf("status %+v, replicas %s", r.Status, b.replicas(ctx))
	}
}
