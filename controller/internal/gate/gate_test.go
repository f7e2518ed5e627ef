package gate_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/lockstep-dr/lockstep/controller/internal/gate"
	"github.com/lockstep-dr/lockstep/controller/internal/setup"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/manifests"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/standin"
)

const flux = "flux-system"

// revision makes a revision of Flux out of one letter.
func revision(letter string) string { return "main@sha1:" + strings.Repeat(letter, 40) }

// world is an API server with Flux's real definitions, the gate's policies and a manager that runs the reconciler as the controller's
// account. Flux and the backups are the test's own doing: it writes the same status as they do.
type world struct {
	t *testing.T
	// c is the administrator, as is Flux here.
	c client.Client
	// someone may do everything with Kustomizations, and is neither.
	someone client.Client
	name    string
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestGate(t *testing.T) {
	s, err := setup.Scheme()
	must(t, err)
	must(t, kustomizev1.AddToScheme(s))
	must(t, sourcev1.AddToScheme(s))
	definitions := t.TempDir()
	must(t, standin.WriteDefinitions(t.Context(), definitions))
	cfg, c := testenv.Start(t, s, definitions)
	objects, err := manifests.Objects("image")
	must(t, err)
	for _, o := range objects {
		if k := o.GetKind(); k == "Namespace" || k == "CustomResourceDefinition" || k == "Deployment" {
			continue
		}
		must(t, c.Create(t.Context(), o))
	}
	for _, name := range []string{flux, "shop"} {
		must(t, c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}))
	}
	must(t, c.Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "someone"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "someone"}},
	}))
	stop := begin(t, cfg)
	someone, err := client.New(as(cfg, "someone"), client.Options{Scheme: s})
	must(t, err)
	w := &world{t: t, c: c, someone: someone}
	w.enforced()
	for name, test := range map[string]func(*testing.T, world){
		"approval":   testApproval,
		"first":      testFirst,
		"deploy":     testDeploy,
		"failure":    testFailure,
		"allow":      testAllow,
		"mistake":    testMistake,
		"no-policy":  testNoPolicy,
		"superseded": testSuperseded,
		"restored":   testRestored,
		"half":       testHalf,
		"suspended":  testSuspended,
		"after":      testAfter,
		"not-gated":  testNotGated,
	} {
		t.Run(name, func(t *testing.T) {
			w := *w
			w.t, w.name = t, name
			test(t, w)
		})
	}
	stop()
	controller, err := client.NewWithWatch(as(cfg, account), client.Options{Scheme: s})
	must(t, err)
	t.Run("deaths", func(t *testing.T) { testDeaths(t, *w, controller) })
}

// account is the controller's.
const account = "system:serviceaccount:lockstep-system:lockstep-controller"

func as(cfg *rest.Config, user string) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}}
	return cfg
}

// begin runs the reconciler with the permissions that are installed with it, and no others, until it is stopped or the test ends.
func begin(t *testing.T, cfg *rest.Config) (stop func()) {
	t.Helper()
	s, err := setup.Scheme()
	must(t, err)
	must(t, scheme.AddToScheme(s))
	mgr, err := ctrl.NewManager(as(cfg, account), ctrl.Options{
		Scheme: s, Metrics: metricsserver.Options{BindAddress: "0"},
	})
	must(t, err)
	r := &gate.Reconciler{
		Client: mgr.GetClient(), Reader: mgr.GetAPIReader(), Events: mgr.GetEventRecorderFor("lockstep-controller"), //nolint:staticcheck // as the controller's own
		Clock: clock.RealClock{}, Look: 100 * time.Millisecond,
	}
	must(t, r.SetupWithManager(mgr))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the manager ended: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// uninstall removes what keeps Flux from deploying.
func (w *world) uninstall() {
	w.t.Helper()
	objects, err := manifests.Objects("image")
	must(w.t, err)
	for _, o := range objects {
		if strings.HasPrefix(o.GetKind(), "ValidatingAdmissionPolicy") {
			must(w.t, w.c.Delete(w.t.Context(), o))
		}
	}
}

// enforced waits until the API server has read the admission policies, which it does a moment after they were made.
func (w *world) enforced() {
	w.name = "canary"
	k := w.kustomization(map[string]string{v1alpha1.AnnotationPreDeploy: "never"})
	next, other := revision("e"), revision("f") // the same once more is not refused
	w.until("the policies are in force", func() bool {
		next, other = other, next
		return w.attempt(k, next) != nil
	})
}

func (w *world) until(what string, done func() bool) {
	w.t.Helper()
	err := wait.PollUntilContextTimeout(w.t.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) { return done(), nil })
	if err != nil {
		k := &kustomizev1.Kustomization{}
		_ = w.c.Get(w.t.Context(), client.ObjectKey{Namespace: flux, Name: w.name}, k)
		w.t.Fatalf("waiting until %s: %v\n%v %v %+v", what, err, k.Annotations, k.Labels, k.Status)
	}
}

// kustomization makes a GitRepository and a Kustomization of it, which has applied revision a.
func (w *world) kustomization(annotations map[string]string) *kustomizev1.Kustomization {
	w.t.Helper()
	ctx := w.t.Context()
	must(w.t, w.c.Create(ctx, &sourcev1.GitRepository{
		ObjectMeta: metav1.ObjectMeta{Namespace: flux, Name: w.name}, Spec: sourcev1.GitRepositorySpec{URL: "https://git.example/shop", Interval: metav1.Duration{Duration: time.Minute}},
	}))
	k := &kustomizev1.Kustomization{
		ObjectMeta: metav1.ObjectMeta{Namespace: flux, Name: w.name},
		Spec: kustomizev1.KustomizationSpec{
			Path: "./deploy", Prune: true, Interval: metav1.Duration{Duration: time.Minute}, SourceRef: kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: w.name},
		},
	}
	must(w.t, w.c.Create(ctx, k))
	k.Status.LastAppliedRevision, k.Status.LastAttemptedRevision = revision("a"), revision("a")
	must(w.t, w.c.Status().Update(ctx, k))
	k.Annotations = annotations
	must(w.t, w.c.Update(ctx, k))
	return k
}

// policy makes a policy that the Kustomization of the test deploys.
func (w *world) policy(name string, on v1alpha1.OnDeploy) *v1alpha1.ProtectionPolicy {
	w.t.Helper()
	p := &v1alpha1.ProtectionPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{
			"kustomize.toolkit.fluxcd.io/name": w.name, "kustomize.toolkit.fluxcd.io/namespace": flux,
		}},
		Spec: v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary"}, OnDeploy: on},
	}
	must(w.t, w.c.Create(w.t.Context(), p))
	return p
}

// publish lets the source have a revision.
func (w *world) publish(revision string) {
	w.t.Helper()
	s := &sourcev1.GitRepository{}
	must(w.t, w.c.Get(w.t.Context(), client.ObjectKey{Namespace: flux, Name: w.name}, s))
	s.Status.Artifact = &meta.Artifact{
		Revision: revision, LastUpdateTime: metav1.Now(), URL: "http://source.test/a.tar.gz", Path: "a.tar.gz", Digest: "sha256:" + strings.Repeat("0", 64),
	}
	must(w.t, w.c.Status().Update(w.t.Context(), s))
}

// attempt does what kustomize-controller does before it builds a revision.
func (w *world) attempt(k *kustomizev1.Kustomization, revision string) error {
	must(w.t, w.c.Get(w.t.Context(), client.ObjectKeyFromObject(k), k))
	before := k.DeepCopy()
	k.Status.LastAttemptedRevision = revision
	return w.c.Status().Patch(w.t.Context(), k, client.MergeFrom(before))
}

// apply does what kustomize-controller does when all that was attempted is healthy.
func (w *world) apply(k *kustomizev1.Kustomization, revision, digest string) {
	w.t.Helper()
	w.until("Flux may deploy "+revision, func() bool { return w.attempt(k, revision) == nil })
	before := k.DeepCopy()
	k.Status.LastAppliedRevision = revision
	k.Status.History = meta.History{{Digest: digest, FirstReconciled: metav1.Now(), LastReconciled: metav1.Now(), TotalReconciliations: 1,
		LastReconciledStatus: "ReconciliationSucceeded", Metadata: map[string]string{"revision": revision}}}
	must(w.t, w.c.Status().Patch(w.t.Context(), k, client.MergeFrom(before)))
}

func (w *world) points(policy string) []v1alpha1.RestorePoint {
	w.t.Helper()
	var list v1alpha1.RestorePointList
	must(w.t, w.c.List(w.t.Context(), &list, client.InNamespace("shop"), client.MatchingLabels{v1alpha1.LabelPolicy: policy}))
	return list.Items
}

// point waits until there are so many points of a policy, and returns the one that was made last.
func (w *world) point(policy string, n int) *v1alpha1.RestorePoint {
	w.t.Helper()
	var found []v1alpha1.RestorePoint
	w.until(fmt.Sprintf("policy %s has %d points", policy, n), func() bool { found = w.points(policy); return len(found) >= n })
	if len(found) != n {
		w.t.Fatalf("%d points, want %d", len(found), n)
	}
	last := &found[0]
	for i := range found {
		if !conditions.IsReady(&found[i]) && !conditions.IsStalled(&found[i]) {
			last = &found[i]
		}
	}
	return last
}

// finish does what the backup's reconciler does.
func (w *world) finish(p *v1alpha1.RestorePoint, failure string) {
	w.t.Helper()
	if failure == "" {
		p.Status.Taken, p.Status.Revision = new(metav1.Now()), &v1alpha1.Revision{Commit: strings.Repeat("a", 40)}
		conditions.MarkTrue(p, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "done")
	} else {
		conditions.MarkStalled(p, v1alpha1.ReasonSaveFailed, "%s", failure)
		conditions.MarkFalse(p, v1alpha1.ConditionReady, v1alpha1.ReasonSaveFailed, "%s", failure)
	}
	must(w.t, w.c.Status().Update(w.t.Context(), p))
}

// refused proves that Flux may not begin, and is told why.
func (w *world) refused(k *kustomizev1.Kustomization, revision string) {
	w.t.Helper()
	if err := w.attempt(k, revision); !standin.IsRefused(err) || !strings.Contains(err.Error(), "Lockstep holds revision "+revision) {
		w.t.Errorf("to attempt %s: %v", revision, err)
	}
}

// told waits for an event about the Kustomization.
func (w *world) told(reason, message string) {
	w.t.Helper()
	w.until("an event says "+reason+": "+message, func() bool {
		var list corev1.EventList
		must(w.t, w.c.List(w.t.Context(), &list, client.InNamespace(flux)))
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == "Kustomization" && e.InvolvedObject.Name == w.name && e.Reason == reason && strings.Contains(e.Message, message) {
				return true
			}
		}
		return false
	})
}

// says waits until the policy's condition is as wanted; an empty reason wants none.
func (w *world) says(policy string, status metav1.ConditionStatus, reason, message string) {
	w.t.Helper()
	w.until(fmt.Sprintf("policy %s says %s, %s: %s", policy, status, reason, message), func() bool {
		p := &v1alpha1.ProtectionPolicy{}
		must(w.t, w.c.Get(w.t.Context(), client.ObjectKey{Namespace: "shop", Name: policy}, p))
		c := conditions.Get(p, v1alpha1.ConditionDeployGate)
		return c != nil && c.Status == status && c.Reason == reason && strings.Contains(c.Message, message)
	})
}

func required(more ...string) map[string]string {
	m := map[string]string{v1alpha1.AnnotationPreDeploy: v1alpha1.PreDeployRequired}
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

// testApproval: only the controller approves; anybody who may change the object may take the approval away.
func testApproval(t *testing.T, w world) {
	ctx := t.Context()
	k := w.kustomization(nil)
	approve := func(c client.Client, value string) error {
		must(t, c.Get(ctx, client.ObjectKeyFromObject(k), k))
		k.Annotations = map[string]string{v1alpha1.AnnotationApprovedRevision: value, v1alpha1.AnnotationPreDeploy: v1alpha1.PreDeployRequired}
		return c.Update(ctx, k)
	}
	if err := approve(w.someone, revision("b")); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "only Lockstep's controller approves") {
		t.Errorf("somebody approves: %v", err)
	}
	born := k.DeepCopy()
	born.Name, born.ResourceVersion, born.UID = "born-approved", "", ""
	born.Annotations = map[string]string{v1alpha1.AnnotationApprovedRevision: revision("b")}
	if err := w.someone.Create(ctx, born); !apierrors.IsInvalid(err) {
		t.Errorf("somebody makes an approved one: %v", err)
	}
	must(t, approve(w.c, revision("b"))) // whom no permission restricts
	if err := approve(w.someone, revision("c")); !apierrors.IsInvalid(err) {
		t.Errorf("somebody alters the approval: %v", err)
	}
	must(t, w.someone.Get(ctx, client.ObjectKeyFromObject(k), k))
	k.Spec.Path = "./other"
	must(t, w.someone.Update(ctx, k)) // an approval that stays does not keep others from their work
	delete(k.Annotations, v1alpha1.AnnotationApprovedRevision)
	must(t, w.someone.Update(ctx, k))
	w.refused(k, revision("b"))
}

// testFirst: nothing was deployed, nothing is to be saved.
func testFirst(t *testing.T, w world) {
	k := w.kustomization(required())
	k.Status.LastAppliedRevision, k.Status.LastAttemptedRevision = "", ""
	must(t, w.c.Status().Update(t.Context(), k))
	w.publish(revision("b"))
	w.apply(k, revision("b"), "sha256:b")
	w.told(v1alpha1.ReasonApproved, "nothing was deployed before")
}

// testDeploy: a deploy waits for the points of all policies that ask for one, and goes on.
func testDeploy(t *testing.T, w world) {
	w.policy("deploy", v1alpha1.OnDeployBefore)
	w.policy("deploy-too", v1alpha1.OnDeployBoth)
	w.policy("deploy-not", v1alpha1.OnDeployNone)
	k := w.kustomization(required())
	w.says("deploy", metav1.ConditionTrue, v1alpha1.ReasonGateOpen, "deploys only after a restore point")
	w.publish(revision("b"))
	first, second := w.point("deploy", 1), w.point("deploy-too", 2) // one of what runs, for onDeploy is Both
	for _, p := range w.points("deploy-too") {
		if p.Spec.Trigger == v1alpha1.TriggerPreDeploy {
			second = &p
		}
	}
	if first.Spec.Trigger != v1alpha1.TriggerPreDeploy || first.Spec.Before != strings.Repeat("b", 40) {
		t.Errorf("the point is %+v", first.Spec)
	}
	w.told(v1alpha1.ReasonTakingPoint, "main@bbbbbbb waits to be deployed")
	w.says("deploy", metav1.ConditionTrue, v1alpha1.ReasonTakingPoint, "waits to deploy main@bbbbbbb")
	w.refused(k, revision("b"))
	w.finish(first, "")
	w.refused(k, revision("b"))
	w.finish(second, "")
	w.apply(k, revision("b"), "sha256:b")
	w.told(v1alpha1.ReasonApproved, "is complete")
	w.says("deploy", metav1.ConditionTrue, v1alpha1.ReasonGateOpen, "")
	if k.Annotations[meta.ReconcileRequestAnnotation] == "" {
		t.Error("Flux was not asked to go on")
	}
	if len(w.points("deploy-not")) != 0 {
		t.Error("a policy that asks for nothing got a point beside one that does")
	}
	if text := k.Annotations[v1alpha1.AnnotationWaiting]; text != "" {
		t.Errorf("it is still said to wait: %s", text)
	}
}

// testFailure: a failed point blocks and says so; when it is deleted, another is taken.
func testFailure(t *testing.T, w world) {
	w.policy("failure", v1alpha1.OnDeployBefore)
	k := w.kustomization(required(v1alpha1.AnnotationPreDeployTimeout, "1s"))
	w.publish(revision("b"))
	p := w.point("failure", 1)
	w.finish(p, "the disk is on fire")
	w.told(v1alpha1.ReasonBackupFailed, "the disk is on fire")
	w.says("failure", metav1.ConditionFalse, v1alpha1.ReasonBackupFailed, "delete the failed point to try again")
	w.refused(k, revision("b"))
	must(t, w.c.Delete(t.Context(), p))
	w.finish(w.point("failure", 1), "")
	w.apply(k, revision("b"), "sha256:b")
}

// testAllow: what an annotation allows goes on without a point, and says so.
func testAllow(t *testing.T, w world) {
	w.policy("allow", v1alpha1.OnDeployBefore)
	k := w.kustomization(required(v1alpha1.AnnotationOnBackupFailure, v1alpha1.BackupFailureAllow))
	w.publish(revision("b"))
	w.finish(w.point("allow", 1), "the disk is on fire")
	w.apply(k, revision("b"), "sha256:b")
	w.told(v1alpha1.ReasonApprovedWithoutPoint, "the disk is on fire")
	must(t, w.c.Get(t.Context(), client.ObjectKeyFromObject(k), k))
	k.Annotations[v1alpha1.AnnotationPreDeployTimeout] = "1s"
	must(t, w.c.Update(t.Context(), k))
	w.publish(revision("c")) // and nobody takes its point
	w.apply(k, revision("c"), "sha256:c")
	w.told(v1alpha1.ReasonApprovedWithoutPoint, "not there within 1s")
}

// testMistake: what cannot be understood keeps the gate closed.
func testMistake(t *testing.T, w world) {
	k := w.kustomization(map[string]string{v1alpha1.AnnotationPreDeploy: "yes"})
	w.publish(revision("b"))
	w.told(v1alpha1.ReasonInvalidAnnotation, `says "yes": its only value is required`)
	w.refused(k, revision("b"))
	for name, value := range map[string]string{v1alpha1.AnnotationPreDeployTimeout: "soon", v1alpha1.AnnotationOnBackupFailure: "allow"} {
		must(t, w.c.Get(t.Context(), client.ObjectKeyFromObject(k), k))
		k.Annotations = required(name, value)
		must(t, w.c.Update(t.Context(), k))
		w.told(v1alpha1.ReasonInvalidAnnotation, fmt.Sprintf("annotation %s says %q", name, value))
		w.refused(k, revision("b"))
	}
	must(t, w.c.Get(t.Context(), client.ObjectKeyFromObject(k), k))
	k.Annotations = nil
	must(t, w.c.Update(t.Context(), k))
	w.apply(k, revision("b"), "sha256:b")
}

// testNoPolicy: without a policy nothing is saved, and nothing deployed until there is one.
func testNoPolicy(t *testing.T, w world) {
	k := w.kustomization(required())
	w.publish(revision("b"))
	w.told(v1alpha1.ReasonNoPolicy, "no ProtectionPolicy is among what it deploys")
	w.refused(k, revision("b"))
	w.policy("no-policy", v1alpha1.OnDeployNone) // the annotation suffices
	w.finish(w.point("no-policy", 1), "")
	w.apply(k, revision("b"), "sha256:b")
}

// testSuperseded: a point before one commit does not open the gate to the next.
func testSuperseded(t *testing.T, w world) {
	w.policy("superseded", v1alpha1.OnDeployBefore)
	k := w.kustomization(required())
	w.publish(revision("b"))
	first := w.point("superseded", 1)
	w.publish(revision("c"))
	w.point("superseded", 2)
	w.finish(first, "")
	w.refused(k, revision("b"))
	w.refused(k, revision("c"))
	for _, p := range w.points("superseded") {
		if p.Spec.Before == strings.Repeat("c", 40) {
			w.finish(&p, "")
		}
	}
	w.apply(k, revision("c"), "sha256:c")
}

// testRestored: what a restore deploys has its data from a point, and waits for none.
func testRestored(t *testing.T, w world) {
	w.policy("restored", v1alpha1.OnDeployBefore)
	k := w.kustomization(required())
	k.Labels = map[string]string{v1alpha1.LabelRestore: "uid"}
	must(t, w.c.Update(t.Context(), k))
	w.publish(revision("b"))
	w.apply(k, revision("b"), "sha256:b")
	w.told(v1alpha1.ReasonApproved, "a restore deploys it")
	if len(w.points("restored")) != 0 {
		t.Error("a point was taken while a restore runs")
	}
}

// testHalf: what mends a deploy that failed half way does not wait for a point that no commit could have.
func testHalf(t *testing.T, w world) {
	w.policy("half", v1alpha1.OnDeployBefore)
	k := w.kustomization(required())
	w.publish(revision("b"))
	w.finish(w.point("half", 1), "")
	w.until("Flux may deploy b", func() bool { return w.attempt(k, revision("b")) == nil })
	k.Status.Conditions = []metav1.Condition{{Type: "Ready", Status: metav1.ConditionFalse, Reason: "ReconciliationFailed", LastTransitionTime: metav1.Now()}}
	must(t, w.c.Status().Update(t.Context(), k))
	w.publish(revision("c"))
	w.until("Flux may deploy c", func() bool { return w.attempt(k, revision("c")) == nil })
	w.told(v1alpha1.ReasonApproved, "the deploy of main@bbbbbbb has not ended")
	// What was to mend it fails half way, too.
	w.publish(revision("d"))
	w.apply(k, revision("d"), "sha256:d")
	w.told(v1alpha1.ReasonApproved, "the deploy of main@ccccccc has not ended")
	if n := len(w.points("half")); n != 1 {
		t.Errorf("%d points, want 1", n)
	}
}

// testSuspended: nothing is deployed, so nothing is saved before it; an approval does not outlive the suspension.
func testSuspended(t *testing.T, w world) {
	w.policy("suspended", v1alpha1.OnDeployBefore)
	k := w.kustomization(required())
	w.publish(revision("b"))
	w.finish(w.point("suspended", 1), "")
	w.until("b is approved", func() bool {
		must(t, w.c.Get(t.Context(), client.ObjectKeyFromObject(k), k))
		return k.Annotations[v1alpha1.AnnotationApprovedRevision] == revision("b")
	})
	k.Spec.Suspend = true
	must(t, w.c.Update(t.Context(), k))
	w.until("the approval is withdrawn", func() bool {
		must(t, w.c.Get(t.Context(), client.ObjectKeyFromObject(k), k))
		return k.Annotations[v1alpha1.AnnotationApprovedRevision] == ""
	})
	w.refused(k, revision("b"))
}

// testAfter: what changed is saved after a deploy, and what changed nothing is not.
func testAfter(t *testing.T, w world) {
	w.policy("after", v1alpha1.OnDeployAfter)
	k := w.kustomization(nil)
	w.publish(revision("a"))
	w.finish(w.point("after", 1), "") // of what runs when the policy comes
	w.publish(revision("b"))
	w.apply(k, revision("b"), "sha256:same")
	p := w.point("after", 2)
	if p.Spec.Trigger != v1alpha1.TriggerPostDeploy || p.Name != "after-after-bbbbbbbbbbbb-2" {
		t.Errorf("the point is %s, %+v", p.Name, p.Spec)
	}
	w.publish(revision("c"))
	w.apply(k, revision("c"), "sha256:same")
	w.until("the deploy of c is noted", func() bool {
		p := &v1alpha1.ProtectionPolicy{}
		must(t, w.c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "after"}, p))
		return p.Status.LastDeploy != nil && p.Status.LastDeploy.Revision == revision("c")
	})
	if n := len(w.points("after")); n != 2 {
		t.Errorf("%d points after a deploy that changed nothing, want 2", n)
	}
	w.publish(revision("d"))
	w.apply(k, revision("d"), "sha256:other")
	w.point("after", 3)
	w.publish(revision("b")) // the branch goes back
	w.apply(k, revision("b"), "sha256:same")
	w.point("after", 4)
}

// testNotGated: a policy that asks for points before each deploy says that nothing waits for them.
func testNotGated(t *testing.T, w world) {
	w.policy("not-gated", v1alpha1.OnDeployBefore)
	w.kustomization(nil)
	w.publish(revision("a"))
	w.says("not-gated", metav1.ConditionFalse, v1alpha1.ReasonNotGated, "give it the annotation lockstep.dev/pre-deploy: required")
}
