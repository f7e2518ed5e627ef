package backup_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
)

// settleWorkloads makes and deletes one pod of each Deployment and StatefulSet, and says in their status what their controllers would.
func (k *cluster) settleWorkloads(ctx context.Context) {
	k.t.Helper()
	var deployments appsv1.DeploymentList
	k.check(k.c.List(ctx, &deployments))
	for i := range deployments.Items {
		d := &deployments.Items[i]
		d.Status.Replicas, d.Status.ObservedGeneration = *d.Spec.Replicas, d.Generation
		k.settlePod(ctx, d, d.Spec.Template, *d.Spec.Replicas)
		k.check(k.c.Status().Update(ctx, d))
	}
	var sets appsv1.StatefulSetList
	k.check(k.c.List(ctx, &sets))
	for i := range sets.Items {
		s := &sets.Items[i]
		s.Status.Replicas, s.Status.ObservedGeneration = *s.Spec.Replicas, s.Generation
		k.settlePod(ctx, s, s.Spec.Template, *s.Spec.Replicas)
		k.check(k.c.Status().Update(ctx, s))
	}
}

func (k *cluster) settlePod(ctx context.Context, o client.Object, template corev1.PodTemplateSpec, replicas int32) {
	k.t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: o.GetNamespace(), Name: o.GetName() + "-0", Labels: template.Labels}, Spec: template.Spec}
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kindOf(o), Name: o.GetName(), UID: o.GetUID(), Controller: new(true)}}
	if replicas == 0 {
		k.check(client.IgnoreNotFound(k.c.Delete(ctx, pod, client.GracePeriodSeconds(0))))
		return
	}
	k.check(client.IgnoreAlreadyExists(k.c.Create(ctx, pod)))
}

func kindOf(o client.Object) string {
	if _, ok := o.(*appsv1.Deployment); ok {
		return "Deployment"
	}
	return "StatefulSet"
}

// workloads are a Deployment that has the claim "db" and a StatefulSet that has "cache", both applied by an engine, and a policy that
// scales them to zero.
type workloads struct {
	deployment *appsv1.Deployment
	set        *appsv1.StatefulSet
	policy     *v1alpha1.ProtectionPolicy
}

func podOf(name, claim string) corev1.PodTemplateSpec {
	p := pod(name, "none", map[string]string{"app": name})
	p.Spec.Containers[0].EnvFrom = nil
	p.Spec.TerminationGracePeriodSeconds = new(int64)
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec}
}

func (w *world) workloads(t *testing.T) *workloads {
	t.Helper()
	a := &workloads{
		deployment: &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"},
			Spec: appsv1.DeploymentSpec{Replicas: new(int32(3)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: podOf("web", "db")}},
		set: &appsv1.StatefulSet{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "keys"},
			Spec: appsv1.StatefulSetSpec{Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "keys"}}, Template: podOf("keys", "cache")}},
		policy: &v1alpha1.ProtectionPolicy{},
	}
	must(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "shop"}, a.policy))
	a.policy.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: "away", Annotations: a.policy.Annotations}
	a.policy.Spec.ScaleToZero = &v1alpha1.ScaleToZero{Timeout: metav1.Duration{Duration: time.Minute}}
	w.apply(t, a.deployment)
	w.apply(t, a.set)
	w.create(a.policy)
	w.cluster.step(t.Context())
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		for _, o := range []client.Object{a.deployment, a.set, a.policy} {
			must(t, client.IgnoreNotFound(w.c.Delete(ctx, o)))
		}
		must(t, w.c.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(namespace), client.GracePeriodSeconds(0)))
	})
	return a
}

// apply is what an engine of GitOps does.
func (w *world) apply(t *testing.T, o client.Object) {
	t.Helper()
	o = o.DeepCopyObject().(client.Object)
	o.SetResourceVersion("")
	o.SetManagedFields(nil)
	data, err := json.Marshal(o)
	must(t, err)
	must(t, w.c.Patch(t.Context(), o, client.RawPatch(types.ApplyPatchType, data), client.ForceOwnership, client.FieldOwner("kustomize-controller")))
}

// replicas reads how many each is to have, and refuses marks that were left.
func (w *world) replicas(t *testing.T, a *workloads) (deployment, set int32) {
	t.Helper()
	d, s := &appsv1.Deployment{}, &appsv1.StatefulSet{}
	must(t, w.c.Get(t.Context(), client.ObjectKeyFromObject(a.deployment), d))
	must(t, w.c.Get(t.Context(), client.ObjectKeyFromObject(a.set), s))
	for _, o := range []client.Object{d, s} {
		if o.GetAnnotations()[v1alpha1.AnnotationScaledBy]+o.GetAnnotations()[v1alpha1.AnnotationReplicas] != "" {
			t.Errorf("%s has %v", o.GetName(), o.GetAnnotations())
		}
	}
	return *d.Spec.Replicas, *s.Spec.Replicas
}

// isAway is true of a point whose workloads are all away.
func isAway(p *v1alpha1.RestorePoint) bool {
	return p.Status.ScaleToZero != nil && p.Status.ScaleToZero.GoneAt != nil
}

func testAway(t *testing.T, w *world) {
	a := w.workloads(t)
	var snapshotted []string
	w.cluster.beside = func(claim string) {
		snapshotted = append(snapshotted, claim)
		var pods corev1.PodList
		must(t, w.c.List(t.Context(), &pods, client.InNamespace(namespace)))
		if len(pods.Items) > 0 {
			t.Errorf("pod %s is there while claim %s is snapshotted", pods.Items[0].Name, claim)
		}
	}
	defer func() { w.cluster.beside = nil }()
	p := w.requestOf("away", "away")
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.StartedAt != nil }))
	s := p.Status.ScaleToZero
	if s == nil || len(s.Workloads) != 2 || !s.Workloads[0].ScaleBackDue || s.Workloads[0].Replicas != 3 || s.Workloads[0].ScaledAt != nil || s.Workloads[1].Replicas != 1 {
		t.Fatalf("before anything is scaled: %+v", s)
	}
	if d, k := w.replicas(t, a); d != 3 || k != 1 {
		t.Errorf("%d and %d replicas before the status says what there was", d, k)
	}
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.Taken != nil }))
	if d, k := w.replicas(t, a); d != 3 || k != 1 || p.Status.Volumes[0].Attempts > 0 {
		t.Errorf("%d and %d replicas when the snapshots are taken, %+v", d, k, p.Status.Volumes[0])
	}
	must(t, w.run(w.c, p, cleaned))
	if len(snapshotted) != 2 || len(p.Status.Copies) != 1 || p.Status.Consistency != v1alpha1.ConsistencyApplication {
		t.Errorf("snapshots of %v, %+v", snapshotted, p.Status)
	}
	for _, x := range p.Status.ScaleToZero.Workloads {
		if x.ScaleBackDue || x.Message != "" || x.ScaledBackAt == nil || x.ScaledBackAt.Before(p.Status.ScaleToZero.CutAt) {
			t.Errorf("%+v", x)
		}
	}
	record, err := catalog.Get(t.Context(), w.vault, p.Status.ID)
	must(t, err)
	for _, v := range record.Volumes {
		if v.Consistency != v1alpha1.ConsistencyApplication {
			t.Errorf("claim %s is recorded as %q", v.Claim, v.Consistency)
		}
	}
}

// testAwayAndKilled ends the controller after each of its writes until everything is back. What comes after it is testKilled's.
func testAwayAndKilled(t *testing.T, w *world) {
	a := w.workloads(t)
	for n := 1; ; n++ {
		p := w.requestOf(fmt.Sprintf("away-killed-%d", n), "away")
		taken := func(p *v1alpha1.RestorePoint) bool { return p.Status.Taken != nil }
		err := w.run((&testenv.Mortal{At: n}).Client(w.c), p, taken)
		if err != nil && !errors.Is(err, testenv.ErrDead) {
			t.Fatalf("killed after write %d: %v", n, err)
		}
		w.cluster.step(t.Context())
		must(t, w.run(w.c, p, taken))
		if d, s := w.replicas(t, a); d != 3 || s != 1 || p.Status.Consistency != v1alpha1.ConsistencyApplication {
			t.Fatalf("killed after write %d: %d and %d replicas; %+v", n, d, s, p.Status)
		}
		must(t, w.c.Delete(t.Context(), p))
		if err := w.run(w.c, p, func(*v1alpha1.RestorePoint) bool { return false }); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		w.expectNothingLeft()
		if err == nil {
			t.Logf("killed after each of %d writes", n-1)
			return
		}
	}
}

// testAwayAndDisturbed has what others may do meanwhile. The point fails, and what they have done stays.
func testAwayAndDisturbed(t *testing.T, w *world) {
	scale := func(n int32) func(*testing.T, *workloads, *v1alpha1.RestorePoint) {
		return func(t *testing.T, a *workloads, _ *v1alpha1.RestorePoint) {
			a.deployment.Spec.Replicas = new(n)
			w.apply(t, a.deployment)
		}
	}
	defer func() { w.t, w.cluster.t = t, t }()
	for name, tt := range map[string]struct {
		do              func(*testing.T, *workloads, *v1alpha1.RestorePoint)
		says            string
		deployment, set int32
	}{
		"the engine scales it up":  {scale(3), `Deployment "web" was scaled to 3 meanwhile by kustomize-controller`, 3, 1},
		"somebody wants more":      {scale(5), `Deployment "web" was scaled to 5 meanwhile`, 5, 1},
		"it was up for a moment":   {func(t *testing.T, a *workloads, p *v1alpha1.RestorePoint) { scale(2)(t, a, p); scale(0)(t, a, p) }, "it may have run meanwhile", 0, 1},
		"a snapshot does not come": {func(*testing.T, *workloads, *v1alpha1.RestorePoint) { w.cluster.broken["db"] = "the pool is full" }, "not taken within 1m", 3, 1},
		"the point is deleted":     {func(t *testing.T, _ *workloads, p *v1alpha1.RestorePoint) { must(t, w.c.Delete(t.Context(), p)) }, "", 3, 1},
		"another pod has the claim": {func(t *testing.T, _ *workloads, _ *v1alpha1.RestorePoint) {
			p := podOf("guest", "db")
			must(t, w.c.Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "guest"}, Spec: p.Spec}))
		}, `pod "guest" had a claim that nobody was to have`, 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w.t, w.cluster.t = t, t
			a := w.workloads(t)
			p := w.requestOf("disturbed-"+strings.ReplaceAll(name, " ", "-"), "away")
			must(t, w.run(w.c, p, isAway))
			tt.do(t, a, p)
			err := w.run(w.c, p, cleaned)
			delete(w.cluster.broken, "db")
			if tt.says == "" {
				must(t, client.IgnoreNotFound(err))
			} else {
				must(t, err)
				w.expectFailure(p, v1alpha1.ReasonScaleDownFailed, tt.says)
			}
			if d, s := w.replicas(t, a); d != tt.deployment || s != tt.set {
				t.Errorf("%d and %d replicas in the end, want %d and %d", d, s, tt.deployment, tt.set)
			}
			w.expectNothingLeft()
		})
	}
}

func testAwayRefuses(t *testing.T, w *world) {
	labels := map[string]string{"app": "more"}
	defer func() { w.t, w.cluster.t = t, t }()
	for name, tt := range map[string]struct {
		more   client.Object
		change func(*workloads)
		reason string
		says   string
	}{
		"a DaemonSet": {more: &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "more"}, Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: podOf("more", "db")}},
			reason: v1alpha1.ReasonScaleDownFailed, says: `DaemonSet shop/more mounts claim "db", and only`},
		"a bare pod": {more: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "more"}, Spec: podOf("more", "db").Spec},
			reason: v1alpha1.ReasonScaleDownFailed, says: `Pod shop/more mounts claim "db", and only`},
		"a Job": {more: &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "more"}, Spec: batchv1.JobSpec{Template: once(podOf("more", "db"))}},
			reason: v1alpha1.ReasonScaleDownFailed, says: `mounts claim "db" and is not complete`},
		"a StatefulSet that deletes its claims": {more: &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "more"}, Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: podOf("more", "db"),
			PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType}}},
			reason: v1alpha1.ReasonScaleDownFailed, says: `StatefulSet "more" deletes its claims when it is scaled`},
		"a selector of nothing": {change: func(a *workloads) {
			a.policy.Spec.ScaleToZero.Selector = &metav1.LabelSelector{MatchLabels: labels}
		}, reason: v1alpha1.ReasonInvalidSpec, says: "chooses none of the policy's claims"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t, w.cluster.t = t, t
			a := w.workloads(t)
			if tt.more != nil {
				w.create(tt.more)
				defer func() {
					must(t, client.IgnoreNotFound(w.c.Delete(t.Context(), tt.more, client.PropagationPolicy(metav1.DeletePropagationBackground))))
				}()
			}
			if tt.change != nil {
				tt.change(a)
				must(t, w.c.Update(t.Context(), a.policy))
			}
			p := w.requestOf("not-away-"+strings.ToLower(strings.ReplaceAll(name, " ", "-")), "away")
			must(t, w.run(w.c, p, cleaned))
			w.expectFailure(p, tt.reason, tt.says)
			if d, s := w.replicas(t, a); d != 3 || s != 1 || p.Status.ScaleToZero != nil {
				t.Errorf("%d and %d replicas, %+v", d, s, p.Status.ScaleToZero)
			}
		})
	}
	t.Run("a hook in a pod that goes", func(t *testing.T) {
		w.t, w.cluster.t = t, t
		a := w.workloads(t)
		web := &corev1.Pod{}
		must(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "web-0"}, web))
		w.runs(web, "containerd://1")
		a.policy.Spec.Quiesce = []v1alpha1.QuiesceHook{{Selector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Pre: []string{"true"}, Post: []string{"true"}, Timeout: metav1.Duration{Duration: 30 * time.Second}}}
		must(t, w.c.Update(t.Context(), a.policy))
		p := w.requestOf("hook-away", "away")
		must(t, w.run(w.c, p, cleaned))
		w.expectFailure(p, v1alpha1.ReasonInvalidSpec, `quiesce[0] holds pod "web-0" of Deployment shop/web still, which scaleToZero takes away`)
	})
	t.Run("no permission", func(t *testing.T) {
		w.t, w.cluster.t = t, t
		a := w.workloads(t)
		p := w.requestOf("not-allowed", "away")
		funcs := interceptor.Funcs{Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, opts ...client.PatchOption) error {
			if slices.Contains([]string{"web", "keys"}, o.GetName()) {
				return apierrors.NewForbidden(appsv1.Resource("deployments"), o.GetName(), errors.New("no role"))
			}
			return c.Patch(ctx, o, patch, opts...)
		}}
		must(t, w.run(interceptor.NewClient(w.c, funcs), p, cleaned))
		w.expectFailure(p, v1alpha1.ReasonScaleDownFailed, "is forbidden")
		if d, s := w.replicas(t, a); d != 3 || s != 1 {
			t.Errorf("%d and %d replicas", d, s)
		}
	})
}

func once(p corev1.PodTemplateSpec) corev1.PodTemplateSpec {
	p.Spec.RestartPolicy = corev1.RestartPolicyNever
	return p
}
