package gate_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/runtime/conditions"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/lockstep-dr/lockstep/controller/internal/gate"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/standin"
)

// manualClock stands still until it is moved.
type manualClock struct{ now time.Time }

func (c *manualClock) Now() time.Time                  { return c.now }
func (c *manualClock) Since(t time.Time) time.Duration { return c.now.Sub(t) }

// withoutIndices asks the API server itself, which has none of the cache's indices: it gives more than was asked for, as they may.
func withoutIndices(c client.WithWatch) client.WithWatch {
	return interceptor.NewClient(c, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, o ...client.ListOption) error {
			options := (&client.ListOptions{}).ApplyOptions(o)
			options.FieldSelector = nil
			return c.List(ctx, l, options)
		},
	})
}

// life is a world in which one controller comes after the other; the first of them may die. It looks at the Kustomization only when a
// real one would: when it begins, when something has changed, and when it wanted to look again.
type life struct {
	world
	controller client.WithWatch // with the permissions that are installed
	m          *testenv.Mortal
	clock      *manualClock
	away       time.Duration // how long there is no controller after the death
	k          *kustomizev1.Kustomization
	p          *v1alpha1.ProtectionPolicy
	// may says whether a revision may be approved now.
	may func(revision string) bool
}

// look lets the controller look until it has nothing more to write, and says after what time it wants to look again.
func (l *life) look() time.Duration {
	l.t.Helper()
	for range 20 {
		written := len(l.m.Writes())
		c := l.m.Client(l.controller)
		r := &gate.Reconciler{Client: c, Reader: c, Events: record.NewFakeRecorder(100), Clock: l.clock}
		result, err := r.Reconcile(l.t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(l.k)})
		must(l.t, l.c.Get(l.t.Context(), client.ObjectKeyFromObject(l.k), l.k))
		if to := l.k.Annotations[v1alpha1.AnnotationApprovedRevision]; to != "" && !l.may(to) {
			l.t.Fatalf("%s is approved", to)
		}
		switch {
		case l.m.Dead():
			l.m = &testenv.Mortal{}
			l.clock.now = l.clock.now.Add(l.away)
		case err != nil:
			l.t.Fatal(err)
		case len(l.m.Writes()) == written:
			return result.RequeueAfter
		}
	}
	l.t.Fatal("the controller does not come to rest")
	return 0
}

// deploy has Flux try to deploy a revision until it may. In the meantime happens what the round wants, as long as anything does.
func (l *life) deploy(to string, meanwhile func() bool) {
	l.t.Helper()
	for range 50 {
		after := l.look()
		switch err := l.attempt(l.k, to); {
		case err == nil && !l.may(to):
			l.t.Fatalf("Flux may deploy %s", to)
		case err == nil:
			return
		case !standin.IsRefused(err):
			l.t.Fatal(err)
		case meanwhile():
		case after == 0:
			l.t.Fatalf("the gate stays closed, and nothing makes the controller look again: %v", l.k.Annotations)
		default:
			l.clock.now = l.clock.now.Add(after)
		}
	}
	l.t.Fatalf("the gate stays closed: %v", l.k.Annotations)
}

// saved says that there is a complete point from before the deploy of a revision.
func (l *life) saved(to string) bool {
	for _, p := range l.points(l.name) {
		if p.Spec.Trigger == v1alpha1.TriggerPreDeploy && strings.HasSuffix(to, p.Spec.Before) && conditions.IsReady(&p) {
			return true
		}
	}
	return false
}

// end does what the backup's reconciler does about each point that it has not ended yet, and says whether there was one. An empty
// failure is success.
func (l *life) end(failure string) bool {
	l.t.Helper()
	any := false
	for _, p := range l.points(l.name) {
		if conditions.IsReady(&p) || conditions.IsStalled(&p) {
			continue
		}
		any = true
		if failure == "" {
			l.finish(&p, "")
			continue
		}
		for kind, status := range map[string]metav1.ConditionStatus{v1alpha1.ConditionReady: metav1.ConditionFalse, v1alpha1.ConditionStalled: metav1.ConditionTrue} {
			p.Status.Conditions = append(p.Status.Conditions, metav1.Condition{
				Type: kind, Status: status, Reason: v1alpha1.ReasonSaveFailed, Message: failure, LastTransitionTime: metav1.NewTime(l.clock.now),
			})
		}
		must(l.t, l.c.Status().Update(l.t.Context(), &p))
	}
	return any
}

// count is how many points were asked for, before deploys and after them.
func (l *life) count(before, after int) {
	l.t.Helper()
	points := l.points(l.name)
	for _, p := range points {
		if p.Spec.Trigger == v1alpha1.TriggerPreDeploy {
			before--
		} else {
			after--
		}
	}
	if before != 0 || after != 0 {
		var names []string
		for _, p := range points {
			names = append(names, p.Name)
		}
		l.t.Errorf("points %q: %d before a deploy and %d after one are missing", names, before, after)
	}
}

// forget deletes all points.
func (l *life) forget(ctx context.Context) {
	l.t.Helper()
	must(l.t, l.c.DeleteAllOf(ctx, &v1alpha1.RestorePoint{}, client.InNamespace("shop"), client.MatchingLabels{v1alpha1.LabelPolicy: l.name}))
}

// rested proves that nothing is said to wait any more, and that the policy says that the gate is in order.
func (l *life) rested() {
	l.t.Helper()
	l.look()
	if text := l.k.Annotations[v1alpha1.AnnotationWaiting]; text != "" {
		l.t.Errorf("it is still said to wait: %s", text)
	}
	must(l.t, l.c.Get(l.t.Context(), client.ObjectKeyFromObject(l.p), l.p))
	if c := conditions.Get(l.p, v1alpha1.ConditionDeployGate); c == nil || c.Status != metav1.ConditionTrue || c.Reason != v1alpha1.ReasonGateOpen {
		l.t.Errorf("the policy says %+v", c)
	}
}

// testDeaths kills the controller after each of its writes along deploys, and lets the next one begin at once, or when all limits are over.
func testDeaths(t *testing.T, w world, controller client.WithWatch) {
	serial := 0
	begin := func(t *testing.T, m *testenv.Mortal, away time.Duration, on v1alpha1.OnDeploy, annotations map[string]string) *life {
		serial++
		l := &life{world: w, controller: withoutIndices(controller), m: m, away: away, clock: &manualClock{time.Now().Truncate(time.Second)}}
		l.t, l.name, l.may = t, fmt.Sprintf("mortal-%d", serial), l.saved
		l.p = l.policy(l.name, on)
		l.p.Status.LastDeploy = &v1alpha1.Deploy{Revision: revision("a"), Digest: "sha256:a"}
		must(t, l.c.Status().Update(t.Context(), l.p))
		l.k = l.kustomization(annotations)
		l.publish(revision("b"))
		t.Cleanup(func() { // the next round has not to read it
			ctx := context.WithoutCancel(t.Context())
			l.forget(ctx)
			must(t, l.c.Delete(ctx, l.p))
		})
		return l
	}
	deaths := func(name string, round func(t *testing.T, m *testenv.Mortal)) {
		t.Run(name, func(t *testing.T) { testenv.Deaths(t, round) })
	}

	// The first point fails, the second one opens the gate; the deploy itself is saved once, and the next revision has to wait again.
	deaths("a deploy", func(t *testing.T, m *testenv.Mortal) {
		l := begin(t, m, 0, v1alpha1.OnDeployBoth, required())
		failure := "the disk is on fire"
		l.deploy(revision("b"), func() bool {
			some := l.end(failure)
			if some {
				failure = ""
			}
			return some
		})
		l.count(2, 0)
		l.apply(l.k, revision("b"), "sha256:b")
		l.look()
		l.end("")
		l.rested()
		l.count(2, 1)
		if l.p.Status.LastDeploy.Revision != revision("b") {
			t.Errorf("the last deploy is said to be that of %s", l.p.Status.LastDeploy.Revision)
		}
		l.refused(l.k, revision("c"))
	})

	// The next controller begins when the time limit is long over: the point that is complete then opens the gate all the same.
	deaths("a deploy, and nobody comes for hours", func(t *testing.T, m *testenv.Mortal) {
		l := begin(t, m, 5*time.Hour, v1alpha1.OnDeployBefore, required())
		l.deploy(revision("b"), func() bool { return l.end("") })
		l.rested()
		l.count(1, 0)
	})

	// With Block the gate is closed when the point has failed, and says so. It opens when somebody has mended the cause and deleted it.
	deaths("Block", func(t *testing.T, m *testenv.Mortal) {
		l := begin(t, m, 0, v1alpha1.OnDeployBefore, required(v1alpha1.AnnotationPreDeployTimeout, "30s"))
		l.may = func(string) bool { return false }
		for after := l.look(); after > 0; after = l.look() {
			if !l.end("the disk is on fire") {
				l.clock.now = l.clock.now.Add(after)
			}
			l.refused(l.k, revision("b"))
		}
		l.count(1, 0)
		must(t, l.c.Get(t.Context(), client.ObjectKeyFromObject(l.p), l.p))
		if c := conditions.Get(l.p, v1alpha1.ConditionDeployGate); c == nil || c.Reason != v1alpha1.ReasonBackupFailed || !strings.Contains(c.Message, "delete the failed point") {
			t.Errorf("the policy says %+v", c)
		}
		l.forget(t.Context())
		l.may = l.saved
		l.deploy(revision("b"), func() bool { return l.end("") })
		l.rested()
		l.count(1, 0)
	})

	// With Allow the deploy goes on when the first point has failed, and not before.
	deaths("Allow", func(t *testing.T, m *testenv.Mortal) {
		l := begin(t, m, 0, v1alpha1.OnDeployBefore, required(v1alpha1.AnnotationOnBackupFailure, v1alpha1.BackupFailureAllow))
		failed := false
		l.may = func(string) bool { return failed }
		l.deploy(revision("b"), func() bool {
			failed = true
			return l.end("the disk is on fire")
		})
		l.rested()
		l.count(1, 0)
	})

	// A revision is approved, and before Flux begins another one comes: from when on a point is taken for that, the older is not deployed.
	deaths("another revision", func(t *testing.T, m *testenv.Mortal) {
		l := begin(t, m, 0, v1alpha1.OnDeployBefore, required())
		l.look()
		l.end("")
		l.look()
		l.publish(revision("c"))
		l.look()
		l.refused(l.k, revision("b"))
		l.deploy(revision("c"), func() bool { return l.end("") })
		l.rested()
		l.count(2, 0)
	})

	// An approval does not outlive a suspension, and what comes after that has a point of its own.
	deaths("a suspension", func(t *testing.T, m *testenv.Mortal) {
		l := begin(t, m, 0, v1alpha1.OnDeployBefore, required())
		suspend := func(yes bool) {
			l.k.Spec.Suspend = yes
			must(t, l.c.Update(t.Context(), l.k))
			l.clock.now = l.clock.now.Add(time.Hour)
			l.look()
		}
		l.look()
		l.end("")
		l.look()
		suspend(true)
		l.refused(l.k, revision("b"))
		suspend(false)
		l.refused(l.k, revision("b"))
		l.deploy(revision("b"), func() bool { return l.end("") })
		l.rested()
		l.count(2, 0)
	})

	// The controller dies and never comes back: what `lockstep uninstall` removes first opens all gates, wherever it died.
	var left []*life
	deaths("for good", func(t *testing.T, m *testenv.Mortal) {
		l := begin(t, m, 0, v1alpha1.OnDeployBoth, required())
		c := m.Client(l.controller)
		for range 6 {
			r := &gate.Reconciler{Client: c, Reader: c, Events: record.NewFakeRecorder(100), Clock: l.clock}
			if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(l.k)}); err != nil && !m.Dead() {
				t.Fatal(err)
			}
			if m.Dead() {
				break
			}
			l.end("the disk is on fire")
		}
		l.refused(l.k, revision("b"))
		left = append(left, l)
	})
	w.uninstall()
	for _, l := range left {
		l.t = t
		l.until("the gate is open", func() bool { return l.attempt(l.k, revision("b")) == nil })
	}
}
