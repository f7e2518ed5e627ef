package copies_test

import (
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

// live reconciles a point as run does, by a controller that may die: then by the next one. At every moment what is said of the copy is
// held against the vault.
func (w *world) live(p *v1alpha1.RestorePoint, m *testenv.Mortal, done func(*v1alpha1.RestorePoint) bool) {
	w.t.Helper()
	c := m.Client(w.c)
	for range 200 {
		if err := w.reconcile(c, p); m.Dead() {
			c = w.c
		} else {
			must(w.t, err)
		}
		w.refresh(p)
		w.honest(p)
		if done(p) {
			return
		}
		w.runJobs()
		w.clock.now = w.clock.now.Add(5 * time.Second)
	}
	w.t.Fatalf("point %s does not get there: %+v, finalizers %q, %d movers", p.Name, p.Status.Copies, p.Finalizers, len(w.jobs()))
}

// honest finds a copy that counts and is not there, and an object that may go before its copy is there.
func (w *world) honest(p *v1alpha1.RestorePoint) {
	w.t.Helper()
	_, err := catalog.Get(w.t.Context(), w.places["s3://offsite"].vault, p.Status.ID)
	if err == nil {
		return
	}
	if !errors.Is(err, catalog.ErrPointNotFound) {
		w.t.Fatal(err)
	}
	if c := offsite(p); c.VerifiedAt != nil || c.State == v1alpha1.CopyVerified {
		w.t.Fatalf("a copy counts that is not there: %+v", c)
	}
	if free(p) && (len(w.jobs()) > 0 || p.DeletionTimestamp != nil) {
		w.t.Fatalf("nothing keeps the object, its copy is not there, and there are %d movers", len(w.jobs()))
	}
}

func (w *world) copied(p *v1alpha1.RestorePoint) bool {
	return offsite(p).VerifiedAt != nil && free(p) && len(w.jobs()) == 0
}

// verify proves what a round must leave.
func (w *world) verify(p *v1alpha1.RestorePoint, attempts int32) {
	w.t.Helper()
	w.runJobs() // removes the pods of movers that are gone
	if c := offsite(p); c.State != v1alpha1.CopyVerified || c.Attempts != attempts || c.Message != "" || len(p.Status.Copies) != 2 {
		w.t.Errorf("status %+v", p.Status.Copies)
	}
	w.expectData(p)
}

func testDeaths(t *testing.T, w *world) {
	defer func() { w.t = t }()
	testenv.Deaths(t, func(t *testing.T, m *testenv.Mortal) {
		w.t, w.clock.now = t, time.Now() // by which the API server says when a mover was made
		p := w.point()
		w.live(p, m, w.copied)
		w.verify(p, 1)
	})
}

// testDeathsAfterFailure: the first attempt fails, which nobody forgets; the second one copies.
func testDeathsAfterFailure(t *testing.T, w *world) {
	target := w.places["s3://offsite"].store
	defer func() { w.t = t }()
	testenv.Deaths(t, func(t *testing.T, m *testenv.Mortal) {
		w.t, w.clock.now = t, time.Now() // by which the API server says when a mover was made
		p := w.point()
		target.SetFaults(storetest.On(storetest.Put, "snapshots/", storetest.Fault{Err: store.ErrUnavailable}))
		defer target.SetFaults(nil)
		w.live(p, m, func(p *v1alpha1.RestorePoint) bool {
			if offsite(p).Attempts > 0 && offsite(p).State == v1alpha1.CopyFailed {
				target.SetFaults(nil)
			}
			return w.copied(p)
		})
		w.verify(p, 2)
	})
}

// testDeathsInDeletion: an object that is deleted while its copy is made goes when the copy is there.
func testDeathsInDeletion(t *testing.T, w *world) {
	defer func() { w.t = t }()
	testenv.Deaths(t, func(t *testing.T, m *testenv.Mortal) {
		w.t, w.clock.now = t, time.Now() // by which the API server says when a mover was made
		p := w.point()
		w.run(p, is(v1alpha1.CopyCopying))
		must(t, w.c.Delete(t.Context(), p))
		gone := func(p *v1alpha1.RestorePoint) bool {
			return apierrors.IsNotFound(w.c.Get(t.Context(), client.ObjectKeyFromObject(p), &v1alpha1.RestorePoint{}))
		}
		w.live(p, m, gone)
		w.runJobs()
		w.expectData(p)
	})
}
