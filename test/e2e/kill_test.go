package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// The crash tests kill the controller with SIGKILL on both sides of every write of a backup and of a restore. Nobody lists the
// writes: an undisturbed run is recorded, and its writes must all have been hit, before the API server heard of them and after it
// carried them out. Along one backup or restore the controller dies dozens of times. What only happens when nothing was in the
// way is hit in a further round.
//
// Some writes come only by the way things fall: the policy's own reconciler, say, tells that there are no claims yet, if it looks in
// that moment. A test would wait for such a one for ever. So it is over, too, after a round in which nobody died: the trap strikes at
// every write that it has not hit on both sides, so that whatever was written in that round was hit before.
//
// Every write counts, those too that only tell how far the work is, each with the fields it sets. Three kinds do not: Events,
// on which nothing depends; the Lease, which says who may write; and the status of the Vault, which is looked at every five
// minutes whatever else goes on.

// maxRounds bounds the rounds that a crash test may take to hit everything.
const maxRounds = 8

// TestBackupSurvivesKill kills prod's controller along backups; the next one must finish the same point each time.
func TestBackupSurvivesKill(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	const ns = "kill-backup"
	_, digest := newNotes(ctx, t, ns)
	point := func(round int) *v1alpha1.RestorePoint {
		return &v1alpha1.RestorePoint{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprintf("crash-%d", round)},
			Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "notes"}},
		}
	}
	roots := map[string]bool{}
	// The first point stores the data, and sets some fields that those after it leave out.
	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", ns)
	clearedUp(ctx, t, ns)
	rig := newRig(ctx, t, shared.prod)
	rounds := rig.crash(ctx, t, crashes{
		begin: func(round int) conditioned {
			p := point(round)
			must(t, shared.prod.Create(ctx, p))
			return p
		},
		check: func(round int) {
			p := point(round)
			must(t, shared.prod.Get(ctx, client.ObjectKeyFromObject(p), p))
			saved := fmt.Sprintf("%d volumes", len(p.Status.Volumes))
			for _, v := range p.Status.Volumes {
				saved += " " + v.Claim + " " + v.ContentRoot + " " + v.MetaRoot
			}
			if roots[saved] = true; len(roots) != 1 || len(p.Status.Volumes) != 2 {
				t.Errorf("points of the same data differ: %v", roots)
			}
			nothingLeft(ctx, t, shared.prod, ns)
			if got := notesDigest(ctx, t, shared.prod, ns); got != digest {
				t.Errorf("the live data changed: %s, was %s", got, digest)
			}
		},
	})
	out := lockstep(ctx, t, nil, "points", "--vault", shared.vault, "--key-file", shared.key, "--application", ns+"/notes", "-o", "json")
	if n := strings.Count(out, `"id"`); n != 1+rounds {
		t.Errorf("the vault holds %d points after %d backups:\n%s", n, 1+rounds, out)
	}
	forget(ctx, t, shared.prod, ns)
}

// clearedUp waits until the points of a namespace are through with all of their work: a point is Ready before it has cleared up.
func clearedUp(ctx context.Context, t *testing.T, namespace string) {
	t.Helper()
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		var points v1alpha1.RestorePointList
		err := shared.prod.List(ctx, &points, client.InNamespace(namespace))
		return !slices.ContainsFunc(points.Items, func(p v1alpha1.RestorePoint) bool { return len(p.Finalizers) > 0 }), err
	}))
}

// definition is what makes a restore wait for a kind before it applies an object of it.
const definition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: inks.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Ink, plural: inks, singular: ink, listKind: InkList}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: example.com/v1
kind: Ink
metadata: {name: blue, namespace: NAME}
`

// TestRestoreSurvivesKill kills dr's controller along restores; the next one must finish the same restore each time, with
// the point that the first one chose.
func TestRestoreSurvivesKill(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	const ns = "kill-restore"
	repo, digest := newNotes(ctx, t, ns, definition)
	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", ns)
	rig := newRig(ctx, t, shared.dr)
	restore := func(round int) *v1alpha1.Restore {
		return &v1alpha1.Restore{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: fmt.Sprintf("crash-%d", round)},
			Spec: v1alpha1.RestoreSpec{
				From:   v1alpha1.RestoreFrom{Vault: "primary", Tag: tag},
				Source: v1alpha1.GitSource{URL: repo.URL, Path: "."},
			},
		}
	}
	var chosen string
	rig.crash(ctx, t, crashes{
		begin: func(round int) conditioned {
			o := restore(round)
			must(t, shared.dr.Create(ctx, o))
			if round == 1 { // a newer point of the same commit appears while the restore is under way
				must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
					err := shared.dr.Get(ctx, client.ObjectKeyFromObject(o), o)
					rig.revive(t)
					return o.Status.Point != nil, err
				}))
				chosen = o.Status.Point.ID
				lockstep(ctx, t, shared.prod, "backup", "notes", "-n", ns)
			}
			return o
		},
		check: func(round int) {
			o := restore(round)
			must(t, shared.dr.Get(ctx, client.ObjectKeyFromObject(o), o))
			if round == 1 && o.Status.Point.ID != chosen {
				t.Errorf("point %s was chosen first, %s at last", chosen, o.Status.Point.ID)
			}
			if got := notesDigest(ctx, t, shared.dr, ns); got != digest {
				t.Errorf("the data is not what was saved: %s, want %s", got, digest)
			}
			nothingLeft(ctx, t, shared.dr, ns)
			boundVolumesHaveTheirPolicyBack(ctx, t, shared.dr, ns)
			noVolumeAdrift(ctx, t, shared.dr)
			must(t, shared.dr.Delete(ctx, o))
			forget(ctx, t, shared.dr, ns)
			_, err := shared.dr.Kubectl(ctx, "delete", "crd", "inks.example.com")
			must(t, err)
		},
	})
	if got := notesDigest(ctx, t, shared.prod, ns); got != digest {
		t.Errorf("the original changed: %s, was %s", got, digest)
	}
	forget(ctx, t, shared.prod, ns)
}

// TestCancelSurvivesKill deletes restores whose movers wait for the store in the middle of filling, and kills dr's controller
// along the clearing up.
func TestCancelSurvivesKill(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	const ns = "kill-cancel"
	s := newSite(ctx, t, ns)
	rig := newRig(ctx, t, shared.dr)
	restore := func(round int) *v1alpha1.Restore { return s.restore(fmt.Sprintf("cancel-%d", round)) }
	rig.crash(ctx, t, crashes{
		undisturbed: func(round int) {
			s.store.Break(always(packs, lab.Held))
			must(t, shared.dr.Create(ctx, restore(round)))
			s.strike(ctx, t, func() bool { return s.store.Hit() > 0 && released(ctx, t, ns) })
		},
		begin: func(round int) conditioned {
			o := restore(round)
			must(t, shared.dr.Delete(ctx, o))
			must(t, shared.dr.Get(ctx, client.ObjectKeyFromObject(o), o))
			return o
		},
		// Clearing up writes no status: that is the last step of the restore itself.
		apart: func(w lab.Write) bool { return strings.HasSuffix(w.Path, "/status") },
		check: func(int) {
			s.store.Heal()
			nothingLeft(ctx, t, shared.dr, ns)
			forget(ctx, t, shared.dr, ns)
			noVolumeAdrift(ctx, t, shared.dr)
		},
	})
	forget(ctx, t, shared.prod, ns)
}

// released says that both volumes are being filled and both workloads wait for them: the restore has nothing else to write.
func released(ctx context.Context, t *testing.T, namespace string) bool {
	t.Helper()
	var movers batchv1.JobList
	must(t, shared.dr.List(ctx, &movers, client.InNamespace(v1alpha1.SystemNamespace)))
	var pods corev1.PodList
	must(t, shared.dr.List(ctx, &pods, client.InNamespace(namespace)))
	return len(movers.Items) == 2 && len(pods.Items) == 2
}

// rig is a cluster whose controller is a process of the test, behind a proxy with traps.
type rig struct {
	cluster    *lab.Cluster
	proxy      *lab.Proxy
	kubeconfig string
	controller *lab.Controller
	dir        string

	rearm  func() // sets the trap for the controller that runs now; nil: none is to be set
	deaths int
}

// newRig installs Lockstep, stops the controller that runs in the cluster, and gives it back at the end.
func newRig(ctx context.Context, t *testing.T, c *lab.Cluster) *rig {
	t.Helper()
	lockstep(ctx, t, c, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key)
	scale := func(ctx context.Context, replicas string) {
		_, err := c.Kubectl(ctx, "-n", v1alpha1.SystemNamespace, "scale", "deployment/lockstep-controller", "--replicas="+replicas)
		must(t, err)
		must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
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
			t.Logf("the controller's log:\n%s", tail(r.controller.Log(), 40))
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

// crashes is the work that a crash test does over and over.
type crashes struct {
	// undisturbed prepares a round before anything is killed; nil: nothing is to be prepared.
	undisturbed func(round int)
	// apart are writes that do not belong to the work; nil: all do.
	apart func(lab.Write) bool
	// begin starts a round's work and returns the object that becomes Ready, or goes away, by it.
	begin func(round int) conditioned
	// check judges what came of it and clears up.
	check func(round int)
}

// crash does the work once undisturbed, to learn of its writes, and then until the controller was killed on both sides of
// each, or nothing is written any more where it was not. It returns how many rounds that took, the first included.
func (r *rig) crash(ctx context.Context, t *testing.T, work crashes) (rounds int) {
	t.Helper()
	if work.undisturbed == nil {
		work.undisturbed = func(int) {}
	}
	work.undisturbed(0)
	r.proxy.ForgetWrites()
	r.settle(ctx, t, work.begin(0))
	census := r.proxy.Writes()
	if work.apart != nil {
		census = slices.DeleteFunc(census, work.apart)
	}
	work.check(0)
	t.Logf("undisturbed, these are the writes:\n%s", strings.Join(lab.Identities(census), "\n"))
	coverage := lab.NewCoverage()
	for round := 1; ; round++ {
		work.undisturbed(round)
		began := time.Now()
		r.deaths = 0
		r.proxy.ForgetWrites()
		r.arm(coverage)
		r.settle(ctx, t, work.begin(round))
		if r.proxy.Disarm() {
			r.bury(ctx, t)
		}
		missing, unhit := coverage.Missing(census), coverage.Missing(r.proxy.Writes())
		t.Logf("round %d: killed %d times in %.0f s; %d to go", round, r.deaths, time.Since(began).Seconds(), len(missing))
		work.check(round)
		switch {
		case len(missing) == 0:
			return round + 1
		case t.Failed():
			t.FailNow()
		case r.deaths == 0 && len(unhit) == 0:
			t.Logf("whatever is written now was hit before; these were not written again:\n%s", strings.Join(missing, "\n"))
			return round + 1
		case round == maxRounds:
			t.Fatalf("after %d rounds these were not hit:\n%s", round, strings.Join(missing, "\n"))
		}
	}
}

// arm sets the trap for the controller that runs now and for those that come after it.
func (r *rig) arm(coverage *lab.Coverage) {
	r.rearm = func() {
		victim := r.controller
		r.proxy.Trap(coverage.Kill, func() { victim.Kill() })
	}
	r.rearm()
}

// revive starts a new controller at once where the last one was killed.
func (r *rig) revive(t *testing.T) {
	t.Helper()
	if r.rearm == nil || !r.controller.Ended() {
		return
	}
	r.deaths++
	r.start(t)
	r.rearm()
}

// bury waits for the end of a controller that was killed when the work was done, and starts a new one.
func (r *rig) bury(ctx context.Context, t *testing.T) {
	t.Helper()
	must(t, r.controller.Dead(ctx))
	r.deaths++
	r.start(t)
	r.proxy.Trap(nil, nil)
}

// settle waits until the object is Ready, or gone if it is being deleted, and nobody has work to do for it any more: a finished
// point has no finalizer.
func (r *rig) settle(ctx context.Context, t *testing.T, obj conditioned) {
	t.Helper()
	r.await(ctx, t, obj, func() bool {
		_, isPoint := obj.(*v1alpha1.RestorePoint)
		return isReady(obj) && (!isPoint || len(obj.GetFinalizers()) == 0)
	})
}

type conditioned interface {
	client.Object
	GetConditions() []metav1.Condition
}

// await waits until it is done, and starts a new controller whenever one was killed.
func (r *rig) await(ctx context.Context, t *testing.T, obj conditioned, done func() bool) {
	t.Helper()
	err := lab.Eventually(ctx, 3*patience, func(ctx context.Context) (bool, error) {
		r.revive(t)
		deleted := obj.GetDeletionTimestamp() != nil
		if err := r.cluster.Get(ctx, client.ObjectKeyFromObject(obj), obj); err != nil {
			return deleted && apierrors.IsNotFound(err), client.IgnoreNotFound(err)
		}
		for _, cond := range obj.GetConditions() {
			if cond.Type == v1alpha1.ConditionStalled && cond.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("stalled: %s: %s", cond.Reason, cond.Message)
			}
		}
		return done(), nil
	})
	if err != nil {
		t.Fatalf("%s did not become Ready: %v; conditions %+v\nthe controller's log:\n%s", obj.GetName(), err, obj.GetConditions(), tail(r.controller.Log(), 60))
	}
}

func isReady(obj conditioned) bool {
	return slices.ContainsFunc(obj.GetConditions(), func(c metav1.Condition) bool {
		return c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionTrue
	})
}

// nothingLeft proves that no temporary object of a backup or restore is left, nor a storage snapshot.
func nothingLeft(ctx context.Context, t *testing.T, c *lab.Cluster, namespace string) {
	t.Helper()
	var left []string
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
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
	if len(claims.Items) == 0 {
		t.Errorf("there is no claim in %s", namespace)
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

// noVolumeAdrift proves that every volume of the cluster belongs to a claim that has it: none was lost, and none is kept that
// nobody will ever delete.
func noVolumeAdrift(ctx context.Context, t *testing.T, c *lab.Cluster) {
	t.Helper()
	var adrift []string
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		adrift = nil
		var volumes corev1.PersistentVolumeList
		if err := c.List(ctx, &volumes); err != nil {
			return false, err
		}
		for _, pv := range volumes.Items {
			if pv.Status.Phase != corev1.VolumeBound {
				adrift = append(adrift, fmt.Sprintf("%s (%s, %s)", pv.Name, pv.Status.Phase, pv.Spec.PersistentVolumeReclaimPolicy))
			}
		}
		return len(adrift) == 0, nil
	})
	if err != nil {
		t.Errorf("volumes that no claim has: %s", strings.Join(adrift, ", "))
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

// tail is the end of a log without what every start says.
func tail(s string, lines int) string {
	all := slices.DeleteFunc(strings.Split(s, "\n"), func(line string) bool {
		return strings.Contains(line, `"msg":"Starting `) || strings.Contains(line, `"msg":"Serving `) || strings.Contains(line, `"msg":"starting server"`)
	})
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
