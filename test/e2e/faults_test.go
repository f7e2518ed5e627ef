package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// fault is one thing that goes wrong during a restore onto dr. Each ends in one of two ways: the restore gets over it, or
// stops with a name, does no harm, and goes on once it is mended.
type fault struct {
	name string
	// store, git say how requests to them go wrong from the beginning; nil: they do not.
	store, git func(*http.Request) lab.Trouble
	// before breaks something before the restore begins, filling when its movers wait for the store in the middle of filling.
	before, filling func(context.Context, *testing.T, *site)
	// stop is the reason that Ready shows, or one of two; says is what its message holds. No stop: the restore gets over it.
	stop []string
	says string
	// nothing: at the stop the application has no claims.
	nothing bool
	// mend is what a person does; requests are let through again in any case. ask: the person also asks to look again.
	mend func(context.Context, *testing.T, *site)
	ask  bool
	// proof says that the fault has really struck.
	proof func(*v1alpha1.Restore) error
}

// faults is docs/reliability.md, carried out. What takes too long here or can be proven nearer to the code is not in it: a store
// that falls silent (TestSilence in pkg/store/s3), every single bit (TestEveryBitCounts in pkg/volume), each way to cut a
// listing (TestCutListing in pkg/store/s3).
var faults = []fault{
	{name: "the store answers 503 now and then", store: every(3, objects, lab.Unavailable)},
	{name: "the store closes connections", store: every(4, objects, lab.Hangup)},
	{name: "bodies break off", store: every(3, packs, lab.HalfBody)},
	{name: "the store fails until the mover gives up", store: atFirst(3, packs, lab.Unavailable), proof: attempts(1)},
	{
		name: "the store does not answer", store: always(objects, lab.Unavailable),
		stop: []string{v1alpha1.ReasonPointUnknown}, nothing: true,
	},
	{
		name: "a listing is cut short", store: always(listings, lab.CutListing),
		stop: []string{v1alpha1.ReasonPointUnknown}, says: "cut short", nothing: true,
	},
	{name: "a bit is flipped once on the way", store: atFirst(1, packs, lab.BitFlip), proof: reread},
	{
		name: "a bit of every pack is flipped", store: always(packs, lab.BitFlip),
		stop: []string{v1alpha1.ReasonHydrateFailed}, ask: true,
	},
	{
		name: "packs are missing", store: always(packs, lab.Gone),
		stop: []string{v1alpha1.ReasonHydrateFailed}, ask: true,
	},
	{
		name: "Git does not answer", git: always(everything, lab.Hangup),
		stop: []string{v1alpha1.ReasonSourceUnknown}, nothing: true,
	},
	{name: "the API server dies", filling: func(ctx context.Context, t *testing.T, _ *site) {
		must(t, shared.dr.KillAPIServer())
		must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
			return shared.dr.Get(ctx, client.ObjectKey{Name: "default"}, &corev1.Namespace{}) == nil, nil
		}))
	}},
	{name: "the node dies", filling: func(_ context.Context, t *testing.T, _ *site) { must(t, shared.dr.KillNode()) }, proof: attempts(2)},
	{
		name: "the storage is full", filling: fillStorage, stop: []string{v1alpha1.ReasonHydrateFailed}, says: "no space left",
		mend: func(ctx context.Context, t *testing.T, _ *site) { forget(ctx, t, shared.dr, "filler") }, ask: true,
	},
	{
		name: "a quota is used up", before: setQuota("1Mi"), says: "quota",
		// It is refused where the plan already sees it, and not taken by the API server where the quota is used up only then.
		stop: []string{v1alpha1.ReasonRefused, v1alpha1.ReasonApplyFailed},
		mend: func(ctx context.Context, t *testing.T, s *site) { setQuota("10Gi")(ctx, t, s) }, ask: true,
	},
}

// site is what the faults strike: an application in a repository and a vault that are both reached through proxies.
type site struct {
	store, git *lab.Flaky
	url        string // of the repository
	digest     string
}

const faultsNamespace = "faults"

func newSite(ctx context.Context, t *testing.T, namespace string) *site {
	t.Helper()
	repo, digest := newNotes(ctx, t, namespace)
	s := &site{digest: digest}
	var err error
	s.store, err = shared.lab.NewFlaky(ctx, shared.lab.S3.Endpoint)
	must(t, err)
	s.git, err = shared.lab.NewFlaky(ctx, shared.lab.Git.URL)
	must(t, err)
	t.Cleanup(func() {
		_ = s.store.Close()
		_ = s.git.Close()
	})
	s.url = s.git.URL + strings.TrimPrefix(repo.URL, shared.lab.Git.URL)
	// Points are found by the repository's URL, too: it must have been deployed from there.
	lockstep(ctx, t, shared.prod, "apply", "--repo", s.url, "--path", ".", "--tag", tag)
	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", namespace)
	lockstep(ctx, t, shared.dr, "install", "--image", shared.lab.Image(), "--vault", shared.vault, "--key-file", shared.key)
	var vault v1alpha1.Vault
	must(t, shared.dr.Get(ctx, client.ObjectKey{Name: "primary"}, &vault))
	vault.Spec.S3.Endpoint = s.store.URL
	flaky := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "flaky"}, Spec: vault.Spec}
	must(t, shared.dr.Create(ctx, flaky))
	t.Cleanup(func() { must(t, shared.dr.Delete(context.WithoutCancel(ctx), flaky)) })
	return s
}

// TestFaults lets one thing after another go wrong during a restore, each time with a vault that is new to the controller.
func TestFaults(t *testing.T) {
	ctx := t.Context()
	sweepAfter(t)
	s := newSite(ctx, t, faultsNamespace)
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) { s.suffer(t.Context(), t, f, "fault-"+strconv.Itoa(i)) })
	}
	if got := notesDigest(ctx, t, shared.prod, faultsNamespace); got != s.digest {
		t.Errorf("the original changed: %s, was %s", got, s.digest)
	}
	forget(ctx, t, shared.prod, faultsNamespace)
}

func (s *site) suffer(ctx context.Context, t *testing.T, f fault, name string) {
	restore := s.restore(name)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		s.store.Heal()
		s.git.Heal()
		must(t, client.IgnoreNotFound(shared.dr.Delete(ctx, restore)))
		forget(ctx, t, shared.dr, faultsNamespace)
	})
	explain(t, shared.dr)
	if f.before != nil {
		f.before(ctx, t, s)
	}
	if f.filling != nil {
		f.store = always(packs, lab.Held)
	}
	s.store.Break(f.store)
	s.git.Break(f.git)
	must(t, shared.dr.Create(ctx, restore.DeepCopy()))
	if f.filling != nil {
		s.strike(ctx, t, func() bool { return s.store.Hit() > 0 && moversRun(ctx, t) })
		f.filling(ctx, t, s)
		s.store.Heal()
	}
	if len(f.stop) > 0 {
		s.stopped(ctx, t, f, restore)
		if f.mend != nil {
			f.mend(ctx, t, s)
		}
		s.store.Heal()
		s.git.Heal()
		if f.ask {
			out, err := shared.dr.Kubectl(ctx, "-n", restore.Namespace, "annotate", "restore", restore.Name, v1alpha1.AnnotationReconcileAt+"=now")
			if err != nil {
				t.Fatal(err, out)
			}
		}
	}
	s.whole(ctx, t, f, restore)
}

// restore is one of the site's application.
func (s *site) restore(name string) *v1alpha1.Restore {
	return &v1alpha1.Restore{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name},
		Spec: v1alpha1.RestoreSpec{
			From:   v1alpha1.RestoreFrom{Vault: "flaky", Tag: tag},
			Source: v1alpha1.GitSource{URL: s.url, Path: "."},
		},
	}
}

// strike waits until the fault has struck.
func (s *site) strike(ctx context.Context, t *testing.T, struck func() bool) {
	t.Helper()
	must(t, lab.Eventually(ctx, patience, func(context.Context) (bool, error) { return struck(), nil }))
}

// moversRun says that both volumes are being filled: it is another matter when a node dies that is just starting a mover (TestHalted in
// pkg/mover).
func moversRun(ctx context.Context, t *testing.T) bool {
	t.Helper()
	var pods corev1.PodList
	must(t, shared.dr.List(ctx, &pods, client.InNamespace(v1alpha1.SystemNamespace), client.HasLabels{v1alpha1.LabelRestore}))
	running := 0
	for _, p := range pods.Items {
		if p.Status.Phase == corev1.PodRunning {
			running++
		}
	}
	return running == 2
}

// stopped waits for the named stop.
func (s *site) stopped(ctx context.Context, t *testing.T, f fault, restore *v1alpha1.Restore) {
	t.Helper()
	var ready *metav1.Condition
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		if err := shared.dr.Get(ctx, client.ObjectKeyFromObject(restore), restore); err != nil {
			return false, err
		}
		ready = conditionOf(restore, v1alpha1.ConditionReady)
		if isReady(restore) {
			return false, errors.New("it is Ready")
		}
		return ready != nil && slices.Contains(f.stop, ready.Reason), nil
	})
	if err != nil {
		t.Fatalf("%v; want reason %q, conditions %+v", err, f.stop, restore.Status.Conditions)
	}
	t.Logf("stopped: %s: %s", ready.Reason, ready.Message)
	if !strings.Contains(ready.Message, f.says) {
		t.Errorf("the message does not say %q", f.says)
	}
	var claims corev1.PersistentVolumeClaimList
	must(t, shared.dr.List(ctx, &claims, client.InNamespace(faultsNamespace)))
	for _, c := range claims.Items {
		if c.Status.Phase == corev1.ClaimBound && stateOf(restore, c.Name) == v1alpha1.HydrationFailed {
			t.Errorf("claim %s is bound without its data", c.Name)
		}
	}
	if f.nothing && len(claims.Items) > 0 {
		t.Errorf("%d claims were made", len(claims.Items))
	}
}

// whole waits until the restore is Ready and judges what came of it.
func (s *site) whole(ctx context.Context, t *testing.T, f fault, restore *v1alpha1.Restore) {
	t.Helper()
	err := lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		if err := shared.dr.Get(ctx, client.ObjectKeyFromObject(restore), restore); err != nil {
			return false, err
		}
		if c := conditionOf(restore, v1alpha1.ConditionStalled); c != nil && !f.ask && f.mend == nil {
			return false, fmt.Errorf("stalled: %s: %s", c.Reason, c.Message)
		}
		return isReady(restore), nil
	})
	if err != nil {
		t.Fatalf("%v; conditions %+v, volumes %+v", err, restore.Status.Conditions, restore.Status.Volumes)
	}
	if len(f.stop) == 0 && f.filling == nil && s.store.Hit() == 0 {
		t.Error("nothing went wrong: the test proves nothing")
	}
	if f.proof != nil {
		if err := f.proof(restore); err != nil {
			t.Error(err)
		}
	}
	if got := notesDigest(ctx, t, shared.dr, faultsNamespace); got != s.digest {
		t.Errorf("the data is not what was saved: %s, want %s", got, s.digest)
	}
	nothingLeft(ctx, t, shared.dr, faultsNamespace)
	boundVolumesHaveTheirPolicyBack(ctx, t, shared.dr, faultsNamespace)
	noVolumeAdrift(ctx, t, shared.dr)
}

func conditionOf(o conditioned, kind string) *metav1.Condition {
	for _, c := range o.GetConditions() {
		if c.Type == kind {
			return &c
		}
	}
	return nil
}

func stateOf(restore *v1alpha1.Restore, claim string) v1alpha1.HydrationState {
	for _, v := range restore.Status.Volumes {
		if v.Claim == claim {
			return v.State
		}
	}
	return ""
}

// attempts wants a volume for which a mover was started so often at least.
func attempts(n int32) func(*v1alpha1.Restore) error {
	return func(r *v1alpha1.Restore) error {
		for _, v := range r.Status.Volumes {
			if v.Attempts >= n {
				return nil
			}
		}
		return fmt.Errorf("no volume took %d attempts: %+v", n, r.Status.Volumes)
	}
}

// reread wants a volume of which something was altered on the way, and good at once when it was read again.
func reread(r *v1alpha1.Restore) error {
	for _, v := range r.Status.Volumes {
		if v.Reread > 0 && v.Attempts == 1 {
			return nil
		}
	}
	return fmt.Errorf("nothing was read once more: %+v", r.Status.Volumes)
}

// What requests a fault is about.
func everything(*http.Request) bool { return true }
func objects(r *http.Request) bool  { return r.Method == http.MethodGet }
func listings(r *http.Request) bool { return r.URL.Query().Get("list-type") == "2" }
func packs(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/packs/")
}

func always(about func(*http.Request) bool, trouble lab.Trouble) func(*http.Request) lab.Trouble {
	return every(1, about, trouble)
}

// every lets every n-th of the requests go wrong.
func every(n int, about func(*http.Request) bool, trouble lab.Trouble) func(*http.Request) lab.Trouble {
	seen := 0
	return func(r *http.Request) lab.Trouble {
		if !about(r) {
			return lab.Fine
		}
		if seen++; seen%n != 0 {
			return lab.Fine
		}
		return trouble
	}
}

// atFirst lets the first n of the requests go wrong.
func atFirst(n int, about func(*http.Request) bool, trouble lab.Trouble) func(*http.Request) lab.Trouble {
	return func(r *http.Request) lab.Trouble {
		if !about(r) || n == 0 {
			return lab.Fine
		}
		n--
		return trouble
	}
}

// fillStorage takes all space that the storage under dr's volumes has.
func fillStorage(ctx context.Context, t *testing.T, _ *site) {
	t.Helper()
	// Volumes of earlier faults are deleted at the storage's leisure, and would give room back afterwards.
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		var volumes corev1.PersistentVolumeList
		err := shared.dr.List(ctx, &volumes)
		return !slices.ContainsFunc(volumes.Items, func(v corev1.PersistentVolume) bool { return v.Status.Phase == corev1.VolumeReleased }), err
	}))
	must(t, shared.dr.SettleStorage(ctx))
	file := filepath.Join(t.TempDir(), "filler.yaml")
	must(t, os.WriteFile(file, []byte(filler), 0o644))
	_, err := shared.dr.Kubectl(ctx, "apply", "-f", file)
	must(t, err)
	_, err = shared.dr.PodReady(ctx, "filler", "filler")
	must(t, err)
	_, err = shared.dr.Exec(ctx, "filler", "filler", "busybox", "sh", "-c",
		`n=0; for mib in 1024 256 64 16 4 1; do while busybox fallocate -l ${mib}M /data/$n 2>/dev/null; do n=$((n+1)); done; done; busybox sync`)
	must(t, err)
}

const filler = `apiVersion: v1
kind: Namespace
metadata: {name: filler}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: filler, namespace: filler}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: filler, namespace: filler}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: filler
      image: lockstep.test/busybox:1
      command: [busybox, sleep, "1000000"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes:
    - name: data
      persistentVolumeClaim: {claimName: filler}
`

// setQuota lets the application's claims have so much storage together.
func setQuota(storage string) func(context.Context, *testing.T, *site) {
	return func(ctx context.Context, t *testing.T, _ *site) {
		t.Helper()
		err := shared.dr.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: faultsNamespace}})
		must(t, client.IgnoreAlreadyExists(err))
		hard := corev1.ResourceList{corev1.ResourceRequestsStorage: resource.MustParse(storage)}
		quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: faultsNamespace, Name: "storage"}}
		err = shared.dr.Get(ctx, client.ObjectKeyFromObject(quota), quota)
		must(t, client.IgnoreNotFound(err))
		quota.Spec.Hard = hard
		if err != nil {
			must(t, shared.dr.Create(ctx, quota))
		} else {
			must(t, shared.dr.Update(ctx, quota))
		}
	}
}
