package backup_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// plain makes a claim that is bound to a directory of a node, and a policy of it alone. What it returns removes them.
func (w *world) plain(name string, source corev1.PersistentVolumeSource, affinity *corev1.VolumeNodeAffinity, consistency v1alpha1.Consistency) (remove func()) {
	w.t.Helper()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("100Mi")}
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: new(""), VolumeName: name,
			Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"pv.kubernetes.io/provisioned-by": "rancher.io/local-path"}},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete, AccessModes: claim.Spec.AccessModes, Capacity: size,
			PersistentVolumeSource: source, NodeAffinity: affinity, ClaimRef: &corev1.ObjectReference{Namespace: namespace, Name: name},
		},
	}
	pol := &v1alpha1.ProtectionPolicy{}
	must(w.t, w.c.Get(w.t.Context(), client.ObjectKey{Namespace: namespace, Name: "shop"}, pol))
	pol.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: pol.Annotations}
	pol.Spec.Volumes.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	pol.Spec.Consistency = consistency
	w.create(claim, pv, pol)
	claim.Status.Phase, claim.Status.Capacity = corev1.ClaimBound, size
	must(w.t, w.c.Status().Update(w.t.Context(), claim))
	return func() {
		for _, o := range []client.Object{claim, pv, pol} {
			must(w.t, w.c.Get(context.Background(), client.ObjectKeyFromObject(o), o))
			o.SetFinalizers(nil)
			must(w.t, w.c.Update(context.Background(), o))
			must(w.t, w.c.Delete(context.Background(), o))
		}
	}
}

var onNode = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
	MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"one"}}}}}}}

// testFuzzy saves a directory of a node, killed after each write; nothing touches the application's own volume.
func testFuzzy(t *testing.T, w *world) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("orders"), 0o640))
	defer w.plain("files", corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: dir}}, onNode, v1alpha1.ConsistencyFuzzy)()
	for n := 1; ; n++ {
		p := w.requestOf(fmt.Sprintf("fuzzy-%d", n), "files")
		err := w.run((&testenv.Mortal{At: n}).Client(w.c), p, cleaned)
		if err != nil {
			w.cluster.step(t.Context())
			must(t, w.run(w.c, p, cleaned))
		}
		if !conditions.IsReady(p) || p.Status.Consistency != v1alpha1.ConsistencyFuzzy || p.Status.Volumes[0].Source != v1alpha1.SourceVolume {
			t.Fatalf("killed after write %d: %+v", n, p.Status)
		}
		w.holdsOrders(p)
		w.expectNothingLeft()
		if err == nil {
			t.Logf("killed after each of %d writes", n-1)
			break
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "orders" {
		t.Errorf("the application's data: %q, %v", data, err)
	}
	pv := &corev1.PersistentVolume{}
	must(t, w.c.Get(t.Context(), client.ObjectKey{Name: "files"}, pv))
	if pv.DeletionTimestamp != nil || pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete || pv.Spec.ClaimRef.Namespace != namespace {
		t.Errorf("the application's volume was changed: %+v", pv)
	}

	t.Run("the second name is for reading only, and retains", func(t *testing.T) { w.t, w.cluster.t = t, t; testAliasShape(t, w) })
	t.Run("what changed is named", func(t *testing.T) { w.t, w.cluster.t = t, t; testChangedNamed(t, w) })
	t.Run("another revision deployed while it was read", func(t *testing.T) { w.t, w.cluster.t = t, t; testRedeployedWhileRead(t, w) })
	t.Run("deleted meanwhile, and told to delete the storage", func(t *testing.T) { w.t, w.cluster.t = t, t; testAliasMeddled(t, w) })
	w.t, w.cluster.t = t, t
}

func (w *world) holdsOrders(p *v1alpha1.RestorePoint) {
	w.t.Helper()
	record, err := catalog.Get(w.t.Context(), w.vault, p.Status.ID)
	must(w.t, err)
	if record.Consistency() != v1alpha1.ConsistencyFuzzy || record.Volumes[0].Consistency != v1alpha1.ConsistencyFuzzy {
		w.t.Errorf("the record does not say that it is fuzzy: %+v", record)
	}
	dir := w.t.TempDir()
	if _, err := w.vault.Load(w.t.Context(), record.Volumes[0].Snapshot, dir, volume.LoadOptions{}); err != nil {
		w.t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(data) != "orders" {
		w.t.Errorf("saved %q, %v", data, err)
	}
}

// alias goes on until the volume has its second name.
func (w *world) alias(p *v1alpha1.RestorePoint) *corev1.PersistentVolume {
	w.t.Helper()
	var alias *corev1.PersistentVolume
	must(w.t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool {
		pv := &corev1.PersistentVolume{}
		err := w.c.Get(w.t.Context(), client.ObjectKey{Name: "ls-" + string(p.UID) + "-0"}, pv)
		must(w.t, client.IgnoreNotFound(err))
		if err == nil {
			alias = pv
		}
		return err == nil
	}))
	return alias
}

func testAliasShape(t *testing.T, w *world) {
	p := w.requestOf("shape", "files")
	pv := w.alias(p)
	if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain || len(pv.Annotations) > 0 || pv.Spec.StorageClassName != "" ||
		pv.Spec.ClaimRef.Namespace != v1alpha1.SystemNamespace || len(pv.Spec.AccessModes) != 1 || pv.Spec.AccessModes[0] != corev1.ReadOnlyMany ||
		pv.Spec.NodeAffinity == nil || pv.Labels[v1alpha1.LabelRestorePoint] != string(p.UID) {
		t.Errorf("%+v", pv)
	}
	must(t, w.run(w.c, p, cleaned))
}

func testChangedNamed(t *testing.T, w *world) {
	w.cluster.fail = func(*batchv1.Job) (*mover.Result, bool) {
		return &mover.Result{Snapshot: "s", ContentRoot: "c", MetaRoot: "m", Changed: []string{`"wal/7"`, `"."`}, More: 3}, true
	}
	defer func() { w.cluster.fail = nil }()
	p := w.requestOf("busy", "files")
	must(t, w.run(w.c, p, cleaned))
	v := p.Status.Volumes[0]
	record, err := catalog.Get(t.Context(), w.vault, p.Status.ID)
	if err != nil || len(v.Changed) != 2 || v.Changed[0] != `"wal/7"` || v.MoreChanged != 3 || record.Volumes[0].Changed != 5 {
		t.Errorf("status %+v, record %+v, %v", v, record, err)
	}
}

func testRedeployedWhileRead(t *testing.T, w *world) {
	p := w.requestOf("redeployed", "files")
	must(t, w.run(w.c, p, func(p *v1alpha1.RestorePoint) bool { return p.Status.Taken != nil }))
	pol := &v1alpha1.ProtectionPolicy{}
	set := func(commit string) {
		must(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: "files"}, pol))
		pol.Annotations[v1alpha1.AnnotationRevision] = "main@sha1:" + commit
		must(t, w.c.Update(t.Context(), pol))
	}
	set(strings.Repeat("d", 40))
	defer set(commit)
	must(t, w.run(w.c, p, cleaned))
	w.expectFailure(p, v1alpha1.ReasonRevisionChanged, "while volumes in use were read")
	w.expectNothingLeft()
}

// testAliasMeddled has somebody let the storage go with the second name, and then the point deleted.
func testAliasMeddled(t *testing.T, w *world) {
	p := w.requestOf("meddled", "files")
	pv := w.alias(p)
	pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	must(t, w.c.Update(t.Context(), pv))
	must(t, w.c.Delete(t.Context(), p))
	err := w.run(w.c, p, func(*v1alpha1.RestorePoint) bool { return false }) // the stand-ins end the test when a provisioner would delete data
	must(t, client.IgnoreNotFound(err))
	w.expectNothingLeft()
}

// testHostPath: a directory of a node that does not say of which is read where its pods are, or not at all.
func testHostPath(t *testing.T, w *world) {
	source := corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv/files"}}
	defer w.plain("loose", source, nil, v1alpha1.ConsistencyFuzzy)()
	p := w.requestOf("nowhere", "loose")
	must(t, w.run(w.c, p, cleaned))
	w.expectFailure(p, v1alpha1.ReasonVolumeNotReady, "no pod that uses it tells")
	remove := w.plain("strict", source, onNode, "")
	defer remove()
	p = w.requestOf("strict", "strict")
	must(t, w.run(w.c, p, cleaned))
	w.expectFailure(p, v1alpha1.ReasonVolumeNotReady, `with consistency: Fuzzy in the policy "strict"`)
}
