package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/runtime/conditions"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// askVolumes makes a Restore of volumes alone. No repository answers.
func (b *bench) askVolumes(ctx context.Context, volumes ...v1alpha1.VolumeRequest) {
	b.t.Helper()
	b.commit.err = errors.New("nobody may ask Git")
	ns := b.commit.namespace
	if err := b.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); !apierrors.IsAlreadyExists(err) {
		b.must(err)
	}
	restore := &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "volumes-" + ns},
		Spec: v1alpha1.RestoreSpec{
			From: v1alpha1.RestoreFrom{Vault: ns, Commit: commitID}, Verify: v1alpha1.VerifyReadback, Volumes: volumes,
		},
	}
	b.must(b.Create(ctx, restore))
	b.request = ctrl.Request{NamespacedName: client.ObjectKeyFromObject(restore)}
}

// holds proves that a claim is bound to a volume with the data of another.
func (b *bench) holds(ctx context.Context, claim, of string) *corev1.PersistentVolumeClaim {
	b.t.Helper()
	got := &corev1.PersistentVolumeClaim{}
	b.must(b.Get(ctx, client.ObjectKey{Namespace: b.commit.namespace, Name: claim}, got))
	if data := b.contents[got.Spec.VolumeName]; got.Status.Phase != corev1.ClaimBound || data != "snapshot-of-"+of {
		b.t.Errorf("claim %s is %s and holds %q", claim, got.Status.Phase, data)
	}
	return got
}

// replayVolumes fills a claim under a new name and one that waits, and nothing else.
func replayVolumes(ctx context.Context, t *testing.T, c *cluster, namespace string) {
	t.Helper()
	b := newBench(ctx, t, c, namespace)
	b.save(ctx)
	b.askVolumes(ctx, v1alpha1.VolumeRequest{Claim: namespace + "/data-db-0", As: namespace + "/look"},
		v1alpha1.VolumeRequest{Claim: namespace + "/cache"})
	waiting := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "cache"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("wait"),
			DataSourceRef: &corev1.TypedObjectReference{APIGroup: new("lockstep.dev"), Kind: "ProtectionPolicy", Name: "shop"},
			Resources:     corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	b.must(b.Create(ctx, waiting))
	b.run(ctx, isReady)
	b.holds(ctx, "cache", "cache")
	if look := b.holds(ctx, "look", "data-db-0"); look.Labels[v1alpha1.LabelRestore] == "" || len(look.Labels) != 1 {
		t.Errorf("labels of the new claim: %v", look.Labels)
	}
	b.nothingLeft(ctx)
	for _, o := range []client.Object{
		&v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "shop"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "login"}},
		&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "wal-db-0"}},
	} {
		if err := b.Get(ctx, client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			t.Errorf("%T %s came along: %v", o, o.GetName(), err)
		}
	}
	r := b.restore(ctx)
	if r.Status.Revision != nil || len(r.Status.Volumes) != 2 || r.Status.BoundAt == nil ||
		!strings.Contains(conditions.GetMessage(r, v1alpha1.ConditionReady), "the claims hold the data of point") {
		t.Errorf("status %+v", r.Status)
	}
}

func TestVolumesOnly(t *testing.T) {
	replayVolumes(t.Context(), t, newFakeCluster(t), "shop")
}

// TestVolumesOnlyNeverOverwrites: a claim that is bound, to whatever, is refused before anything is made.
func TestVolumesOnlyNeverOverwrites(t *testing.T) {
	ctx := t.Context()
	b := newBench(ctx, t, newFakeCluster(t), "shop")
	b.save(ctx)
	b.askVolumes(ctx, v1alpha1.VolumeRequest{Claim: "shop/data-db-0", As: "shop/cache"})
	bound := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cache"},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "live", StorageClassName: new("fast")},
	}
	b.must(b.Create(ctx, bound))
	bound.Status.Phase = corev1.ClaimBound
	b.must(b.Status().Update(ctx, bound))
	b.run(ctx, isStalled)
	if r := b.restore(ctx); conditions.GetReason(r, v1alpha1.ConditionReady) != v1alpha1.ReasonRefused {
		t.Errorf("conditions %+v", r.Status.Conditions)
	}
	if n := len(b.claims(ctx)); n != 1 {
		t.Errorf("%d claims, want the one that was there", n)
	}
}

// TestDeathOfVolumesOnly kills the controller after each of its writes.
func TestDeathOfVolumesOnly(t *testing.T) {
	for n := 1; ; n++ {
		ctx := t.Context()
		c := newFakeCluster(t)
		b := newBench(ctx, t, c, "shop")
		b.save(ctx)
		b.askVolumes(ctx, v1alpha1.VolumeRequest{Claim: "shop/data-db-0", As: "shop/look"})
		m := &testenv.Mortal{At: n}
		b.startWith(m.Client(c.Client.(client.WithWatch)))
		for range 200 {
			result, err := b.reconciler.Reconcile(ctx, b.request)
			if m.Dead() || isReady(b.restore(ctx)) {
				break
			}
			b.must(err)
			b.settle(ctx)
			b.now = b.now.Add(result.RequeueAfter)
		}
		if !m.Dead() {
			return
		}
		b.settle(ctx)
		b.start()
		b.run(ctx, isReady)
		b.holds(ctx, "look", "data-db-0")
		b.nothingLeft(ctx)
		if t.Failed() {
			t.Fatalf("after death at write %d: %s", n, m.Writes()[len(m.Writes())-1])
		}
	}
}

// volumesOnAPIServer says what the API server lets pass, and what it says where not.
func volumesOnAPIServer(ctx context.Context, t *testing.T, c *cluster) {
	t.Helper()
	source := v1alpha1.GitSource{URL: "https://git.example.org/shop", Path: "."}
	volumes := []v1alpha1.VolumeRequest{{Claim: "shop/data"}}
	at := metav1.Now()
	for i, tt := range []struct {
		spec v1alpha1.RestoreSpec
		want string
	}{
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{RestorePoint: "x"}, Volumes: volumes}, ""},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Commit: commitID}, Volumes: volumes}, ""},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Before: &at, Application: "shop/shop"}, Volumes: volumes}, ""},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{RestorePoint: "x"}, Source: source}, ""},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{RestorePoint: "x"}}, "say what comes back"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Tag: "v1"}, Source: source, Only: []v1alpha1.WorkloadReference{{Kind: "Pod", Namespace: "a", Name: "b"}}}, ""},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{RestorePoint: "x"}, Volumes: volumes, Only: []v1alpha1.WorkloadReference{{Kind: "Pod", Namespace: "a", Name: "b"}}}, "say which with source"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Tag: "v1"}, Source: source, Only: []v1alpha1.WorkloadReference{{Kind: "Database", Namespace: "a", Name: "b"}}}, "spec.only[0].kind"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{RestorePoint: "x"}, Source: source, Volumes: volumes}, "say what comes back"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Tag: "v1"}, Volumes: volumes}, "which a tag or branch needs"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Branch: "main"}, Volumes: volumes}, "which a tag or branch needs"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Commit: commitID, AllowAncestor: true}, Volumes: volumes}, "paired with no commit"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Commit: "0123456"}, Volumes: volumes}, "give from.commit in full"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{Before: &at}, Volumes: volumes}, "from.before needs from.application"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{RestorePoint: "x"}, Volumes: []v1alpha1.VolumeRequest{{Claim: "data"}}}, "spec.volumes[0].claim"},
		{v1alpha1.RestoreSpec{From: v1alpha1.RestoreFrom{RestorePoint: "x"}, Volumes: append(volumes, volumes...)}, "Duplicate value"},
	} {
		tt.spec.From.Vault = "primary"
		err := c.Create(ctx, &v1alpha1.Restore{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: fmt.Sprintf("spec-%d", i)}, Spec: tt.spec,
		}, client.DryRunAll)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%+v: got %v, want %q", tt.spec, err, tt.want)
		}
	}
}

// startEmpty gives a claim that waits a volume without data, and no mover.
func startEmpty(ctx context.Context, t *testing.T, c *cluster, namespace string) {
	t.Helper()
	b := newBench(ctx, t, c, namespace)
	b.askVolumes(ctx, v1alpha1.VolumeRequest{Claim: namespace + "/first", Empty: true})
	b.must(b.Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "first"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new("fast"),
			DataSourceRef: &corev1.TypedObjectReference{APIGroup: new("lockstep.dev"), Kind: "ProtectionPolicy", Name: "shop"},
			Resources:     corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}},
		},
	}))
	b.run(ctx, isReady)
	claim := &corev1.PersistentVolumeClaim{}
	b.must(b.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "first"}, claim))
	pv := b.volumes(ctx)[claim.Spec.VolumeName]
	if data, written := b.contents[pv.Name]; claim.Status.Phase != corev1.ClaimBound || written || pv.Spec.Capacity.Storage().String() != "2Gi" ||
		pv.Annotations[v1alpha1.AnnotationHydrated] == "" || claim.Annotations[v1alpha1.AnnotationRestoredFrom] != "" {
		t.Errorf("claim %+v with volume %+v that holds %q", claim, pv, data)
	}
	b.nothingLeft(ctx)
}

func TestStartEmpty(t *testing.T) { startEmpty(t.Context(), t, newFakeCluster(t), "shop") }
