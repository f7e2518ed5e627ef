package e2e

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	batchv1 "k8s.io/api/batch/v1"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// moment is when the controller is killed: right after the API server has carried out a write that matches.
type moment struct {
	name  string
	match func(lab.Write) bool
}

// write matches requests by method, a part of the path, and a part of the body, which is JSON only in patches.
func write(method, path, body string) func(lab.Write) bool {
	return func(w lab.Write) bool {
		return w.Method == method && strings.Contains(w.Path, path) && bytes.Contains(w.Body, []byte(body))
	}
}

const system = "/namespaces/" + v1alpha1.SystemNamespace

// TestBackupSurvivesKill kills prod's controller at the steps of a backup; the next one must finish the same point.
func TestBackupSurvivesKill(t *testing.T) {
	ctx := t.Context()
	const ns = "kill-backup"
	_, digest := newNotes(ctx, t, ns)
	rig := newRig(ctx, t, shared.prod)
	moments := []moment{
		{"after the expected volumes are fixed", write(http.MethodPatch, "/restorepoints/", `"uid"`)},
		{"after the first snapshot", write(http.MethodPost, "/namespaces/"+ns+"/volumesnapshots", "")},
		{"after a snapshot is exposed", write(http.MethodPost, "/volumesnapshotcontents", "")},
		{"after an original content is kept", write(http.MethodPatch, "/volumesnapshotcontents/", "Retain")},
		{"after an original snapshot is deleted", write(http.MethodDelete, "/namespaces/"+ns+"/volumesnapshots/", "")},
		{"when the upload begins", write(http.MethodPost, system+"/jobs", "")},
		{"after a mover is removed", write(http.MethodDelete, system+"/jobs/", "")},
		{"at a random write", nth(1 + rand.IntN(20))},
	}
	for i, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			name := fmt.Sprintf("point-%d", i)
			rig.killAt(ctx, t, m, func() {
				must(t, shared.prod.Create(ctx, &v1alpha1.RestorePoint{
					ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
					Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "notes"}},
				}))
			})
			point := awaitReady(ctx, t, rig, shared.prod, &v1alpha1.RestorePoint{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}})
			if n := len(point.(*v1alpha1.RestorePoint).Status.Volumes); n != 2 {
				t.Errorf("the point holds %d volumes, want 2", n)
			}
			nothingLeft(ctx, t, shared.prod, ns)
			if got := notesDigest(ctx, t, shared.prod, ns); got != digest {
				t.Errorf("the live data changed: %s, was %s", got, digest)
			}
		})
	}
}

// TestRestoreSurvivesKill kills dr's controller at the steps of a restore; the next one must finish the same restore.
func TestRestoreSurvivesKill(t *testing.T) {
	ctx := t.Context()
	const ns = "kill-restore"
	repo, digest := newNotes(ctx, t, ns)
	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", ns)
	rig := newRig(ctx, t, shared.dr)
	moments := []moment{
		{"after the point is chosen", write(http.MethodPatch, "/restores/", `"point"`)},
		{"after staging", write(http.MethodPost, system+"/persistentvolumeclaims", "")},
		{"after a claim is reserved", write(http.MethodPost, "/namespaces/"+ns+"/persistentvolumeclaims", "")},
		{"when hydration begins", write(http.MethodPost, system+"/jobs", "")},
		{"after a volume is known to be whole", write(http.MethodPatch, "/persistentvolumes/", v1alpha1.AnnotationHydrated)},
		{"after a mover is removed", write(http.MethodDelete, system+"/jobs/", "")},
		{"after a volume is kept", write(http.MethodPatch, "/persistentvolumes/", "Retain")},
		{"after a volume is given to its claim", write(http.MethodPatch, "/persistentvolumes/", "claimRef")},
		{"after the reclaim policy is given back", write(http.MethodPatch, "/persistentvolumes/", `"persistentVolumeReclaimPolicy":"Delete"`)},
		{"after the staging claim is deleted", write(http.MethodDelete, system+"/persistentvolumeclaims/", "")},
		{"at a random write", nth(1 + rand.IntN(40))},
	}
	for i, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			restore := &v1alpha1.Restore{
				ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: fmt.Sprintf("kill-%d", i)},
				Spec: v1alpha1.RestoreSpec{
					From:   v1alpha1.RestoreFrom{Vault: "primary", Tag: tag},
					Source: v1alpha1.GitSource{URL: repo.URL, Path: "."},
				},
			}
			t.Cleanup(func() {
				ctx := context.WithoutCancel(ctx)
				must(t, client.IgnoreNotFound(shared.dr.Delete(ctx, restore)))
				forget(ctx, t, shared.dr, ns)
			})
			rig.killAt(ctx, t, m, func() { must(t, shared.dr.Create(ctx, restore.DeepCopy())) })
			awaitReady(ctx, t, rig, shared.dr, restore)
			if got := notesDigest(ctx, t, shared.dr, ns); got != digest {
				t.Errorf("the data is not what was saved: %s, want %s", got, digest)
			}
			nothingLeft(ctx, t, shared.dr, ns)
			boundVolumesHaveTheirPolicyBack(ctx, t, shared.dr, ns)
		})
	}
}

// rig is a cluster whose controller is a process of the test, behind a proxy with traps.
type rig struct {
	cluster    *lab.Cluster
	proxy      *lab.Proxy
	kubeconfig string
	controller *lab.Controller
	dir        string
}

// newRig installs Lockstep, stops the controller that runs in the cluster, and gives it back at the end.
func newRig(ctx context.Context, t *testing.T, c *lab.Cluster) *rig {
	t.Helper()
	lockstep(ctx, t, c, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key)
	scale := func(ctx context.Context, replicas string) {
		_, err := c.Kubectl(ctx, "-n", v1alpha1.SystemNamespace, "scale", "deployment/lockstep-controller", "--replicas="+replicas)
		must(t, err)
		must(t, lab.Eventually(ctx, time.Minute, func(ctx context.Context) (bool, error) {
			out, err := c.Kubectl(ctx, "-n", v1alpha1.SystemNamespace, "get", "pods", "-l", "app.kubernetes.io/component=controller", "-o", "name")
			return (strings.TrimSpace(out) == "") == (replicas == "0"), err
		}))
	}
	scale(ctx, "0")
	r := &rig{cluster: c, dir: t.TempDir()}
	var err error
	r.proxy, err = c.NewProxy(ctx, r.dir)
	must(t, err)
	r.kubeconfig, err = r.proxy.Kubeconfig()
	must(t, err)
	r.start(t)
	t.Cleanup(func() {
		r.controller.Kill()
		_ = r.proxy.Close()
		if t.Failed() {
			t.Logf("the controller's log:\n%s", tail(r.controller.Log(), 80))
		}
		scale(context.WithoutCancel(ctx), "1")
	})
	return r
}

func (r *rig) start(t *testing.T) {
	t.Helper()
	var err error
	r.controller, err = shared.lab.RunController(r.kubeconfig, r.dir)
	must(t, err)
}

// killAt arms the trap, begins the work, waits for the death and starts a new controller.
func (r *rig) killAt(ctx context.Context, t *testing.T, m moment, begin func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	victim := r.controller
	r.proxy.ForgetWrites()
	r.proxy.Trap(m.match, victim.Kill)
	begin()
	if err := victim.Dead(ctx); err != nil {
		var seen []string
		for _, w := range r.proxy.Writes() {
			seen = append(seen, w.Method+" "+w.Path)
		}
		t.Fatalf("the moment never came: %v; writes:\n%s", err, strings.Join(seen, "\n"))
	}
	r.start(t)
}

// nth matches the n-th write to anything but events and leases.
func nth(n int) func(lab.Write) bool {
	return func(w lab.Write) bool {
		if strings.Contains(w.Path, "/events") || strings.Contains(w.Path, "/leases") {
			return false
		}
		n--
		return n == 0
	}
}

type conditioned interface {
	client.Object
	GetConditions() []metav1.Condition
}

func awaitReady(ctx context.Context, t *testing.T, r *rig, c *lab.Cluster, obj conditioned) conditioned {
	t.Helper()
	err := lab.Eventually(ctx, 2*time.Minute, func(ctx context.Context) (bool, error) {
		if err := c.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
			return false, err
		}
		for _, cond := range obj.GetConditions() {
			if cond.Type == v1alpha1.ConditionStalled && cond.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("stalled: %s: %s", cond.Reason, cond.Message)
			}
			if cond.Type == v1alpha1.ConditionReady && cond.Status == metav1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		t.Fatalf("%s did not become Ready: %v; conditions %+v\nthe controller's log:\n%s", obj.GetName(), err, obj.GetConditions(), tail(r.controller.Log(), 60))
	}
	return obj
}

// nothingLeft proves that no temporary object of a backup or restore is left, nor a storage snapshot.
func nothingLeft(ctx context.Context, t *testing.T, c *lab.Cluster, namespace string) {
	t.Helper()
	var left []string
	err := lab.Eventually(ctx, 30*time.Second, func(ctx context.Context) (bool, error) {
		left = nil
		for _, k := range []struct {
			list client.ObjectList
			in   []string
		}{
			{&batchv1.JobList{}, []string{v1alpha1.SystemNamespace}},
			{&corev1.PersistentVolumeClaimList{}, []string{v1alpha1.SystemNamespace}},
			{&snapshotv1.VolumeSnapshotList{}, []string{v1alpha1.SystemNamespace, namespace}},
			{&snapshotv1.VolumeSnapshotContentList{}, []string{""}},
		} {
			for _, in := range k.in {
				if err := c.List(ctx, k.list, client.InNamespace(in)); err != nil {
					return false, err
				}
				left = append(left, names(k.list)...)
			}
		}
		return len(left) == 0, nil
	})
	if err != nil {
		t.Errorf("left behind: %s", strings.Join(left, ", "))
	}
}

// boundVolumesHaveTheirPolicyBack proves that the volumes of the restored claims are the application's alone.
func boundVolumesHaveTheirPolicyBack(ctx context.Context, t *testing.T, c *lab.Cluster, namespace string) {
	t.Helper()
	var claims corev1.PersistentVolumeClaimList
	must(t, c.List(ctx, &claims, client.InNamespace(namespace)))
	if len(claims.Items) != 2 {
		t.Errorf("%d claims in %s, want 2", len(claims.Items), namespace)
	}
	for _, claim := range claims.Items {
		var pv corev1.PersistentVolume
		must(t, c.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &pv))
		var class storagev1.StorageClass
		must(t, c.Get(ctx, client.ObjectKey{Name: pv.Spec.StorageClassName}, &class))
		if pv.Spec.PersistentVolumeReclaimPolicy != *class.ReclaimPolicy {
			t.Errorf("volume of %s has reclaim policy %s, its class has %s", claim.Name, pv.Spec.PersistentVolumeReclaimPolicy, *class.ReclaimPolicy)
		}
		if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
			t.Errorf("volume of %s is claimed by %+v", claim.Name, pv.Spec.ClaimRef)
		}
	}
}

func names(list client.ObjectList) []string {
	var all []string
	switch l := list.(type) {
	case *batchv1.JobList:
		for _, o := range l.Items {
			all = append(all, "job "+o.Name)
		}
	case *corev1.PersistentVolumeClaimList:
		for _, o := range l.Items {
			all = append(all, "claim "+o.Name)
		}
	case *snapshotv1.VolumeSnapshotList:
		for _, o := range l.Items {
			all = append(all, "snapshot "+o.Namespace+"/"+o.Name)
		}
	case *snapshotv1.VolumeSnapshotContentList:
		for _, o := range l.Items {
			all = append(all, "content "+o.Name)
		}
	}
	return all
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
