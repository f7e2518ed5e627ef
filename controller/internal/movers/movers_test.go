package movers

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func job(name string, conditions ...batchv1.JobConditionType) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		Namespace: v1alpha1.SystemNamespace, Name: name, Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.FieldManager},
	}}
	for _, c := range conditions {
		j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{
			Type: c, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)),
		})
	}
	return j
}

func node(name string, cordoned bool) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Unschedulable: cordoned}}
}

func room(limits Limits, objects ...client.Object) *Room {
	c := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(objects...).Build()
	return &Room{Reader: c, Client: c, Limits: limits}
}

func TestStart(t *testing.T) {
	g := NewWithT(t)
	foreign := job("foreign")
	foreign.Labels = nil
	r := room(Limits{Max: 2, PerNode: 2}, node("a", false), job("complete", batchv1.JobComplete), job("failed", batchv1.JobFailed), job("suspended", batchv1.JobSuspended), foreign)
	g.Expect(r.Left(t.Context())).To(Equal(1), "the suspended one is not over")
	g.Expect(r.Start(t.Context(), job("first"))).To(BeTrue())
	g.Expect(r.Left(t.Context())).To(BeZero())
	g.Expect(r.Start(t.Context(), job("second"))).To(BeFalse())

	// A controller that died after it made the first finds it again, and not that there is no room for it.
	_, err := r.Start(t.Context(), job("first"))
	g.Expect(apierrors.IsAlreadyExists(err)).To(BeTrue(), "got %v", err)

	r.Limits.Max = 1
	g.Expect(r.Left(t.Context())).To(BeZero(), "more run than may")
}

// TestStartAtOnce: who counts and who adds never come between each other.
func TestStartAtOnce(t *testing.T) {
	r := room(Limits{Max: 3, PerNode: 8}, node("a", false))
	var started atomic.Int32
	var failed []error
	var mu sync.Mutex
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			ok, err := r.Start(t.Context(), job(fmt.Sprintf("mover-%d", i)))
			if ok {
				started.Add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			failed = append(failed, err)
		})
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil || started.Load() != 3 {
		t.Errorf("%d movers were started, want 3; %v", started.Load(), err)
	}
}

// TestOneLimit: whatever a mover is for, and however its Job was made, it takes from the room that all have together.
func TestOneLimit(t *testing.T) {
	g := NewWithT(t)
	r := room(Limits{Max: 4, PerNode: 8}, node("a", false))
	for i, label := range []string{v1alpha1.LabelRestorePoint, v1alpha1.LabelRestore, "lockstep.dev/prune", ""} {
		g.Expect(r.Left(t.Context())).To(Equal(4 - i))
		j := job(fmt.Sprintf("mover-%d", i))
		j.Labels = nil
		if label != "" {
			j.Labels = map[string]string{label: "uid"}
		}
		g.Expect(r.Start(t.Context(), j)).To(BeTrue(), "mover %d", i)
	}
	g.Expect(r.Start(t.Context(), job("fifth"))).To(BeFalse(), "there are four of others")
}

// TestPerNode: what the scheduler is told keeps each node's limit, wherever it puts the movers.
func TestPerNode(t *testing.T) {
	g := NewWithT(t)
	r := room(Limits{Max: 8, PerNode: 2}, node("a", false), node("b", false), node("cordoned", true))
	slots := map[string]int{}
	for i := range 4 {
		j := job(fmt.Sprintf("mover-%d", i))
		j.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
		g.Expect(r.Start(t.Context(), j)).To(BeTrue())
		slot := j.Spec.Template.Labels[labelSlot]
		slots[slot]++
		g.Expect(j.Labels[labelSlot]).To(Equal(slot))
		g.Expect(j.Spec.Template.Spec.Affinity.NodeAffinity).NotTo(BeNil(), "what was asked for stays")
		apart := j.Spec.Template.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
		g.Expect(apart).To(HaveLen(1))
		g.Expect(apart[0].TopologyKey).To(Equal(corev1.LabelHostname))
		g.Expect(apart[0].LabelSelector.MatchLabels).To(Equal(map[string]string{labelSlot: slot}))
	}
	g.Expect(slots).To(Equal(map[string]int{"0": 2, "1": 2}), "a slot for each mover that a node may have, evenly used")
	g.Expect(r.Start(t.Context(), job("fifth"))).To(BeFalse(), "two nodes take two each")
	g.Expect(r.Left(t.Context())).To(BeZero())
}

func TestNoNodeTakesPods(t *testing.T) {
	g := NewWithT(t)
	r := room(Limits{Max: 8, PerNode: 2}, node("cordoned", true))
	g.Expect(r.Start(t.Context(), job("first"))).To(BeTrue(), "one waits, and its status says why")
	g.Expect(r.Start(t.Context(), job("second"))).To(BeFalse())
}

func TestEnded(t *testing.T) {
	for _, tt := range []struct {
		job  *batchv1.Job
		over bool
	}{
		{job("running"), false}, {job("suspended", batchv1.JobSuspended), false}, {job("going to fail", batchv1.JobFailureTarget), false},
		{job("complete", batchv1.JobComplete), true}, {job("failed", batchv1.JobFailureTarget, batchv1.JobFailed), true},
	} {
		if got := !Ended(tt.job).IsZero(); got != tt.over {
			t.Errorf("%s: over %v", tt.job.Name, got)
		}
	}
}
