package points_test

import (
	"context"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"github.com/lockstep-dr/lockstep/controller/internal/points"
	"github.com/lockstep-dr/lockstep/controller/internal/testenv"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A Job finds the point that it serves for as long as that is not done with it.
func TestOf(t *testing.T) {
	s := runtime.NewScheme()
	must(t, scheme.AddToScheme(s))
	must(t, v1alpha1.AddToScheme(s))
	cfg, c := testenv.Start(t, s)
	known, err := cache.New(cfg, cache.Options{Scheme: s})
	must(t, err)
	must(t, points.Index(known))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- known.Start(ctx) }()
	defer func() {
		stop()
		must(t, <-ended)
	}()

	busy, idle := point("busy", v1alpha1.Finalizer), point("idle")
	must(t, c.Create(ctx, busy))
	must(t, c.Create(ctx, idle))
	found := func(namespace string, p *v1alpha1.RestorePoint) int {
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Labels: map[string]string{v1alpha1.LabelRestorePoint: string(p.UID)}}}
		all := points.Of(ctx, known, job)
		for _, r := range all {
			if r.Namespace != p.Namespace || r.Name != p.Name {
				t.Errorf("found %s for a Job of %s", r, p.Name)
			}
		}
		return len(all)
	}
	until := func(what string, done func() bool) {
		t.Helper()
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) { return done(), nil })
		if err != nil {
			t.Fatalf("waiting until %s: %v", what, err)
		}
	}
	until("the point is found", func() bool { return found(v1alpha1.SystemNamespace, busy) == 1 })
	if n := found("default", busy); n != 0 {
		t.Errorf("found %d points for a Job of somebody else's", n)
	}
	if n := found(v1alpha1.SystemNamespace, idle); n != 0 {
		t.Errorf("found %d points of which nothing is left", n)
	}
	busy.Finalizers = nil
	must(t, c.Update(ctx, busy))
	until("the point is done with", func() bool { return found(v1alpha1.SystemNamespace, busy) == 0 })
}

func point(name string, finalizers ...string) *v1alpha1.RestorePoint {
	return &v1alpha1.RestorePoint{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Finalizers: finalizers},
		Spec:       v1alpha1.RestorePointSpec{PolicyRef: v1alpha1.PolicyReference{Name: "shop"}, Trigger: v1alpha1.TriggerManual},
	}
}
