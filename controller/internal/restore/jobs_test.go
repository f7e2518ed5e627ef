package restore

import (
	"context"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/apply"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// early is a migration that failed at a moment, of a restore whose data was bound now and whose database was healthy a little later.
func early(failed time.Time) (*v1alpha1.Restore, *world, *batchv1.Job) {
	bound, healthy := metav1.NewTime(now), metav1.NewTime(now.Add(10*time.Second))
	restore := &v1alpha1.Restore{Status: v1alpha1.RestoreStatus{BoundAt: &bound, Workloads: []v1alpha1.WorkloadRestore{
		{Kind: "StatefulSet", Namespace: "shop", Name: "db", State: v1alpha1.WorkloadHealthy, HealthyAt: &healthy},
		{Kind: "Job", Namespace: "shop", Name: "migrate", State: v1alpha1.WorkloadReleased},
	}}}
	db, migrate := workload{released: true}, workload{released: true}
	db.Key = object.Key{Group: "apps", Kind: "StatefulSet", Namespace: "shop", Name: "db"}
	db.WaitsFor, db.status.Health = []object.Name{{Namespace: "shop", Name: "data"}}, apply.Current
	migrate.Key = object.Key{Group: "batch", Kind: "Job", Namespace: "shop", Name: "migrate"}
	migrate.status.Health = apply.Failed
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "migrate", UID: "first"}}
	job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(failed)}}
	return restore, &world{now: now.Add(20 * time.Second), broughtBack: true, workloads: []workload{db, migrate}}, job
}

func observeEarly(t *testing.T, restore *v1alpha1.Restore, w *world, job *batchv1.Job) client.Client {
	t.Helper()
	builder := fake.NewClientBuilder().WithScheme(newScheme(t))
	if job != nil {
		builder.WithObjects(job)
	}
	c := builder.Build()
	r := New(Deps{Client: c, Reader: c})
	if err := r.observeJobs(t.Context(), restore, w); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestJobFailedTooEarly(t *testing.T) {
	tests := []struct {
		name   string
		failed time.Duration // after the volumes were bound
		change func(*v1alpha1.Restore, *world)
		want   bool
	}{
		{"before the volumes were bound", -time.Second, nil, true},
		{"while the database started", 5 * time.Second, nil, true},
		{"afterwards", 11 * time.Second, nil, false},
		{"not everything is bound", -time.Second, func(r *v1alpha1.Restore, _ *world) { r.Status.BoundAt = nil }, false},
		{"the database still starts", -time.Second, func(r *v1alpha1.Restore, _ *world) { r.Status.Workloads[0].HealthyAt = nil }, false},
		{"the database does not start", -time.Second, func(r *v1alpha1.Restore, w *world) {
			r.Status.Workloads[0].HealthyAt, w.now = nil, now.Add(settling)
		}, true},
		{"once is enough", -time.Second, func(r *v1alpha1.Restore, _ *world) { r.Status.Workloads[1].Replaces = "another" }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			restore, w, job := early(now.Add(tt.failed))
			if tt.change != nil {
				tt.change(restore, w)
			}
			observeEarly(t, restore, w, job)
			if got := w.replaceDue(w.workloads[1]); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if got := join(decide(w)); got != "" {
				t.Errorf("before the status says which Job: %s", got)
			}
		})
	}
}

// TestJobIsMadeAgain walks through the steps, with a controller that forgets everything between any two of them.
func TestJobIsMadeAgain(t *testing.T) {
	for _, forgetful := range []bool{false, true} {
		restore, w, job := early(now)
		observeEarly(t, restore, w, job)
		report := func(w *world) {
			restore.Status.Workloads = reportWorkloads(restore.Status.Workloads, w, metav1.NewTime(w.now))
		}
		report(w)
		if got := restore.Status.Workloads[1].Replaces; got != "first" {
			t.Fatalf("the status says that %q is replaced", got)
		}
		next := func(live *batchv1.Job, released bool) (*world, client.Client) {
			_, w, _ := early(now)
			w.workloads[1].released = released && !forgetful
			w.workloads[0].released = true
			if !w.workloads[1].released {
				w.workloads[1].status = apply.Status{}
			}
			return w, observeEarly(t, restore, w, live)
		}
		w, c := next(job, true)
		if got := join(decide(w)); got != "replace Job shop/migrate" {
			t.Fatalf("with the failed Job there: %q", got)
		}
		s := scope{Reconciler: New(Deps{Client: c, Reader: c}), replay: &replay{ledger: newLedger(), plan: &plan.Plan{}}, world: w}
		s.replay.ledger.note(w.workloads[1].Key, nil, now)
		if err := s.replace(context.Background(), w.workloads[1].Key); err != nil {
			t.Fatal(err)
		}
		if applied, _, _ := s.replay.ledger.of(w.workloads[1].Key); applied {
			t.Error("the deleted Job still counts as applied")
		}
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(job), &batchv1.Job{}); client.IgnoreNotFound(err) != nil || err == nil {
			t.Errorf("the failed Job is still there: %v", err)
		}
		w, _ = next(nil, false)
		if got := join(decide(w)); got != "release Job shop/migrate" {
			t.Fatalf("with the failed Job gone: %q", got)
		}
		again := job.DeepCopy()
		again.UID = types.UID("second")
		w, _ = next(again, true)
		report(w)
		if got := restore.Status.Workloads[1].Replaces; got != "first" || w.replaceDue(w.workloads[1]) {
			t.Errorf("the second Job is to be replaced, too: %q", got)
		}
		for _, a := range decide(w) {
			if a.verb == doReplace {
				t.Error("the second Job would be deleted")
			}
		}
	}
}
