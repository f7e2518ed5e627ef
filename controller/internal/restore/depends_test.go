package restore

import (
	"errors"
	"testing"

	"github.com/fluxcd/pkg/runtime/conditions"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func TestARestoreWaitsForOthers(t *testing.T) {
	restore := func(name string, dependsOn ...string) *v1alpha1.Restore {
		r := &v1alpha1.Restore{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, d := range dependsOn {
			r.Spec.DependsOn = append(r.Spec.DependsOn, v1alpha1.RestoreReference{Name: d})
		}
		return r
	}
	done := restore("done")
	conditions.MarkTrue(done, v1alpha1.ConditionReady, v1alpha1.ReasonSucceeded, "done")
	stopped := restore("stopped")
	markStalled(stopped, v1alpha1.ReasonRefused, "a claim is bound")
	others := map[string]*v1alpha1.Restore{
		"done": done, "stopped": stopped, "working": restore("working"), "a": restore("a", "b"), "b": restore("b", "c", "working"), "c": restore("c", "b"),
	}
	for _, test := range []struct {
		name    string
		restore *v1alpha1.Restore
		reason  string
		final   bool
		message string
	}{
		{"nothing", restore("x"), "", false, ""},
		{"what is done", restore("x", "done"), "", false, ""},
		{"what is under way", restore("x", "done", "working"), "Progressing", false, `waits for Restore "working"`},
		{"what has stopped", restore("x", "working", "stopped"), "DependencyNotReady", false, `waits for Restore "stopped", which has stopped: Refused`},
		{"what is missing", restore("x", "nobody"), "DependencyNotReady", false, `waits for Restore "nobody", which does not exist`},
		{"itself", restore("x", "x"), "InvalidSpec", true, "this restore waits for itself: x waits for x; make one of them anew without it"},
		{"a circle", others["b"], "InvalidSpec", true, "this restore waits for itself: b waits for c waits for b; make one of them anew without it"},
		{"a circle of others", others["a"], "Progressing", false, `waits for Restore "b"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			others[test.restore.Name] = test.restore
			err := heldBy(test.restore, others)
			var a *answer
			if !errors.As(err, &a) {
				a = &answer{err: errors.New("")}
			}
			if a.reason != test.reason || a.final != test.final || a.Error() != test.message {
				t.Errorf("%s, final %v: %s", a.reason, a.final, a.Error())
			}
		})
	}
}
