package retention_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/fluxcd/pkg/runtime/conditions"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/controller/internal/retention"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/mover"

	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// live lets two grace times pass, in steps of a controller that may die, then of the next one.
func (w *world) live(m *testenv.Mortal, name string, check func()) {
	w.t.Helper()
	c, opener := client.Client(m.Client(w.c)), w.openerOf(m.Store(w.store))
	if m.Dead() {
		c, opener = w.c, w.opener
	}
	for range 8 {
		w.clock.now = w.clock.now.Add(6 * time.Hour)
		err := w.reconcile(name, c, opener)
		if m.Dead() && c != w.c {
			c, opener = w.c, w.opener
			check()
			err = w.reconcile(name, c, opener) // at once: the next one is there a moment later
		}
		must(w.t, err)
		check()
	}
}

// objects is how many RestorePoints a policy has.
func (w *world) objects(policy string) int {
	w.t.Helper()
	var list v1alpha1.RestorePointList
	must(w.t, w.c.List(w.t.Context(), &list, client.InNamespace(namespace)))
	n := 0
	for _, o := range list.Items {
		if o.Spec.PolicyRef.Name == policy {
			n++
		}
	}
	return n
}

// testDeaths kills the controller after each of its writes to the API server and to the vault.
func testDeaths(t *testing.T, w *world) {
	defer func() { w.t = t }()
	serial := 0
	begin := func(t *testing.T, r v1alpha1.Retention, n int) (string, []string) {
		w.t = t
		serial++
		name := fmt.Sprintf("mortal-%d", serial)
		w.policy(name, r)
		return name, w.take(name, n)
	}

	// Four points, of which one is held and one is the last: two go, when they have waited for the grace time and not before.
	t.Run("while points go", func(t *testing.T) {
		testenv.Deaths(t, func(t *testing.T, m *testenv.Mortal) {
			name, ids := begin(t, v1alpha1.Retention{Last: 1}, 4)
			must(t, catalog.PutHold(t.Context(), w.vault, catalog.Hold{Point: ids[1], Reason: "audit", Since: w.clock.now}))
			marked := w.clock.now
			w.live(m, name, func() {
				left := w.left(name, ids)
				if left[1] != '1' || left[3] != '1' {
					t.Fatalf("left %s: what must stay is gone", left)
				}
				if strings.Contains(left, "0") && w.clock.now.Sub(marked) < 24*time.Hour {
					t.Fatalf("left %s after %s", left, w.clock.now.Sub(marked))
				}
			})
			w.wantLeft(name, ids, "0101")
			holds, err := catalog.Holds(t.Context(), w.vault, w.clock.now)
			must(t, err)
			if holds[ids[1]].Reason != "audit" {
				t.Errorf("the hold is lost: %v", holds)
			}
			p := w.read(name)
			if s := p.Status.Retention[0]; s.Kept != 2 || s.Leaving != 0 || len(s.Marks) != 0 || w.objects(name) != 2 {
				t.Errorf("%+v, %d objects", s, w.objects(name))
			}
			w.forget(name)
		})
	})

	// One may go at once. Of four points one goes by a change of the rules, and one more would by the next one, before a grace time is
	// over: nobody forgets the first, and so both wait for a person.
	t.Run("while too many would go", func(t *testing.T) {
		testenv.Deaths(t, func(t *testing.T, m *testenv.Mortal) {
			name, ids := begin(t, v1alpha1.Retention{Last: 4, AtOnce: &v1alpha1.RetentionAtOnce{Percent: 1, Points: 1}}, 4)
			c, opener := m.Client(w.c), w.openerOf(m.Store(w.store))
			for n := int32(4); n >= 2; n-- {
				p := w.read(name)
				p.Spec.Retention.Last = n
				must(t, w.c.Update(t.Context(), p))
				err := w.reconcile(name, c, opener)
				if m.Dead() {
					c, opener = w.c, w.opener
					err = w.reconcile(name, c, opener)
				}
				must(t, err)
			}
			p := w.read(name)
			s := p.Status.Retention[0]
			if !strings.HasPrefix(refused(p), "True TooManyAtOnce") || s.Refused == nil {
				t.Fatalf("two of four may go: %s, %+v", refused(p), s)
			}
			before := p.DeepCopy()
			p.Annotations = map[string]string{v1alpha1.AnnotationApprovedRemoval: s.Refused.Digest}
			must(t, w.c.Patch(t.Context(), p, client.MergeFrom(before)))
			w.live(m, name, func() {
				if left := w.left(name, ids); !strings.HasSuffix(left, "11") {
					t.Fatalf("left %s", left)
				}
			})
			w.wantLeft(name, ids, "0011")
			w.forget(name)
		})
	})
}

// forget ends a policy and its objects.
func (w *world) forget(name string) {
	w.t.Helper()
	must(w.t, w.c.Delete(w.t.Context(), w.read(name)))
	must(w.t, w.c.DeleteAllOf(w.t.Context(), &v1alpha1.RestorePoint{}, client.InNamespace(namespace)))
}

// testDeathsInPrune kills the controller at each write of a night's prune: there is one, whatever happens, and what came of it is known.
func testDeathsInPrune(t *testing.T, w *world) {
	defer func() { w.t = t }()
	v := &v1alpha1.Vault{}
	must(t, w.c.Get(t.Context(), client.ObjectKey{Name: "primary"}, v))
	conditions.MarkTrue(v, v1alpha1.ConditionReady, v1alpha1.ReasonOpened, "open")
	must(t, w.c.Status().Update(t.Context(), v))
	testenv.Deaths(t, func(t *testing.T, m *testenv.Mortal) {
		w.t = t
		w.clock.now = w.clock.now.AddDate(0, 0, 1)
		night, runs := w.clock.now, map[string]bool{}
		look := func(c client.Client) (bool, error) {
			r := &retention.Pruner{
				Client: c, Reader: c, Events: record.NewFakeRecorder(100), Clock: w.clock, Vaults: w.openerOf(w.store), Image: "image",
				Movers: &movers.Room{Reader: c, Client: c, Limits: movers.Limits{Max: 1, PerNode: 1}},
			}
			_, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: "primary"}})
			v := &v1alpha1.Vault{}
			must(t, w.c.Get(t.Context(), client.ObjectKey{Name: "primary"}, v))
			s := v.Status.Prune
			return s != nil && s.Running == "" && s.Error == "" && s.PrunedAt != nil && !s.PrunedAt.Time.Before(night), err
		}
		c := m.Client(w.c)
		for rest := 3; rest > 0; {
			pruned, err := look(c)
			if m.Dead() {
				c = w.c
			} else {
				must(t, err)
			}
			var jobs batchv1.JobList
			must(t, w.c.List(t.Context(), &jobs, client.InNamespace(v1alpha1.SystemNamespace)))
			if len(jobs.Items) > 1 {
				t.Fatalf("%d prunes at once", len(jobs.Items))
			}
			for i := range jobs.Items {
				if job := &jobs.Items[i]; !runs[string(job.UID)] {
					runs[string(job.UID)] = true
					tasks, err := mover.ParseTasks(job.Spec.Template.Spec.Containers[0].Env[0].Value)
					must(t, err)
					open := func(context.Context, string) (*volume.Vault, error) { return w.vault, nil }
					results, err := mover.Run(t.Context(), tasks, open, os.Stderr, func(mover.Results) error { return nil })
					must(t, err)
					w.finish(job, string(results.Encode(tasks)))
				}
			}
			if pruned && len(jobs.Items) == 0 {
				rest--
			}
			if w.clock.now = w.clock.now.Add(time.Minute); w.clock.now.Sub(night) > 3*time.Hour {
				t.Fatal("the prune does not end")
			}
		}
		if len(runs) != 1 {
			t.Errorf("%d prunes in one night", len(runs))
		}
	})
}
