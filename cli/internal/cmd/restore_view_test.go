package cmd

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/progress"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

var restoreStart = time.Date(2026, 1, 2, 4, 0, 0, 0, time.UTC)

func secondsIn(seconds int) *metav1.Time {
	return &metav1.Time{Time: restoreStart.Add(time.Duration(seconds) * time.Second)}
}

// underWay is a restore in the middle of its work.
func underWay() *v1alpha1.Restore {
	return &v1alpha1.Restore{Status: v1alpha1.RestoreStatus{
		StartedAt: secondsIn(0), ReservedAt: secondsIn(2), Objective: &metav1.Duration{Duration: 10 * time.Minute},
		Summary: "1/4 volumes, 1/3 workloads",
		Volumes: []v1alpha1.VolumeRestore{
			{Namespace: "shop", Claim: "a", State: v1alpha1.HydrationBound, Bytes: 100, Progress: 100, HydratedAt: secondsIn(9), BoundAt: secondsIn(11)},
			{Namespace: "shop", Claim: "b", State: v1alpha1.HydrationHydrating, Bytes: 400, Progress: 100, Attempts: 2, Message: "FailedMount"},
			{Namespace: "shop", Claim: "c", State: v1alpha1.HydrationVerifying, Bytes: 300, Progress: 30},
			{Namespace: "shop", Claim: "d", State: v1alpha1.HydrationReserved, Bytes: 200, Message: "waiting for a free mover"},
		},
		Workloads: []v1alpha1.WorkloadRestore{
			{Kind: "Deployment", Namespace: "shop", Name: "front", State: v1alpha1.WorkloadHealthy, ReleasedAt: secondsIn(1), HealthyAt: secondsIn(5)},
			{Kind: "StatefulSet", Namespace: "shop", Name: "db", State: v1alpha1.WorkloadReleased, WaitsFor: []string{"shop/a", "shop/b"}, ReleasedAt: secondsIn(3)},
			{Kind: "Job", Namespace: "shop", Name: "seed", State: v1alpha1.WorkloadWaiting, WaitsFor: []string{"shop/d", "Secret shop/seed", "Secret shop/there"}, Message: "waits for Secret shop/seed"},
		},
		Conditions: []metav1.Condition{condition(v1alpha1.ConditionReady, metav1.ConditionUnknown, v1alpha1.ReasonProgressing, "hydrating shop/b")},
	}}
}

func TestBoardOfARestore(t *testing.T) {
	want := []progress.Item{
		{Name: "volume shop/a", State: "Bound", Done: 100, Total: 100, Tone: progress.Good},
		{Name: "volume shop/b", State: "Hydrating", Done: 100, Total: 400, Note: "FailedMount, attempt 2"},
		{Name: "volume shop/c", State: "Verifying", Done: 30, Total: 300},
		{Name: "volume shop/d", State: "Reserved", Note: "waiting for a free mover", Tone: progress.Waiting},
		{Name: "deployment shop/front", State: "Healthy", Tone: progress.Good},
		{Name: "statefulset shop/db", State: "Released", Note: "waits for shop/b (hydrating)", Tone: progress.Waiting},
		{Name: "job shop/seed", State: "Waiting", Note: "waits for shop/d (reserved); waits for Secret shop/seed", Tone: progress.Waiting},
		{
			Name: "restore", State: "Progressing", Done: 500, Total: 1000, Since: restoreStart,
			Note: "1/4 volumes, 1/3 workloads, 10 min 00 s promised",
		},
	}
	if diff := cmp.Diff(want, restoreItems(underWay())); diff != "" {
		t.Errorf("items (-want +got):\n%s", diff)
	}
}

func TestBoardSaysWhyARestoreStands(t *testing.T) {
	r := underWay()
	r.Status.Conditions = hasStalled(v1alpha1.ReasonHydrateFailed, "claim shop/b: digest differs")
	items := restoreItems(r)
	want := progress.Item{Name: "restore", State: "HydrateFailed", Done: 500, Total: 1000, Since: restoreStart, Note: "claim shop/b: digest differs", Tone: progress.Bad}
	if diff := cmp.Diff(want, items[len(items)-1]); diff != "" {
		t.Errorf("item (-want +got):\n%s", diff)
	}
	empty := restoreItems(&v1alpha1.Restore{})
	if len(empty) != 1 || empty[0].Note != "the controller has not looked at it yet" {
		t.Errorf("a restore that nobody has looked at: %+v", empty)
	}
}

func TestTimelineHoldsTheRTOAgainstThePromise(t *testing.T) {
	for _, test := range []struct {
		name     string
		promised time.Duration
		end      int // 0: not at the end
		text     string
		met      *bool
	}{
		{"met", time.Minute, 31, "objective: 1 min 00 s, met with 29 s to spare\n", new(true)},
		{"to the second", 31 * time.Second, 31, "objective: 31 s, met with 0 s to spare\n", new(true)},
		{"missed", 20 * time.Second, 31, "objective: 20 s, MISSED by 11 s\n", new(false)},
		{"not yet", 20 * time.Second, 0, "objective: 20 s\n", nil},
		{"no promise", 0, 31, "RTO 31 s\n", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := underWay()
			r.Status.Revision = &v1alpha1.Revision{Commit: commit}
			r.Status.Objective = nil
			if test.promised > 0 {
				r.Status.Objective = &metav1.Duration{Duration: test.promised}
			}
			if test.end > 0 {
				r.Status.CompletedAt = secondsIn(test.end)
			}
			var out strings.Builder
			if err := writeTimeline(&out, r); err != nil || !strings.HasSuffix(out.String(), test.text) {
				t.Errorf("%v; got the text\n%swant the end %q", err, out.String(), test.text)
			}
			if diff := cmp.Diff(test.met, reportRestore(r).ObjectiveMet); diff != "" {
				t.Errorf("met (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDocumentOfARestore holds the names in the document still: scripts read them.
func TestDocumentOfARestore(t *testing.T) {
	r := underWay()
	r.Status.CompletedAt = secondsIn(31)
	data, err := json.Marshal(reportRestore(r))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Kind             string           `json:"kind"`
		Timeline         []map[string]any `json:"timeline"`
		RTOSeconds       int              `json:"rtoSeconds"`
		ObjectiveSeconds int              `json:"objectiveSeconds"`
		ObjectiveMet     bool             `json:"objectiveMet"`
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Kind != "Restore" || got.RTOSeconds != 31 || got.ObjectiveSeconds != 600 || !got.ObjectiveMet {
		t.Errorf("the document: %s", data)
	}
	var first []any
	for _, m := range got.Timeline {
		first = append(first, m["seconds"], m["what"], m["object"])
	}
	want := []any{
		0.0, "Begun", nil, 1.0, "WorkloadReleased", "deployment shop/front", 2.0, "ClaimsReserved", nil, 3.0, "WorkloadReleased", "statefulset shop/db",
		5.0, "WorkloadHealthy", "deployment shop/front", 9.0, "VolumeFilled", "shop/a", 11.0, "VolumeBound", "shop/a", 31.0, "Completed", nil,
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("timeline (-want +got):\n%s", diff)
	}
}
