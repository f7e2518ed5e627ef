package restore

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func TestRTOIsHeldAgainstThePromise(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		promised, took time.Duration
		want           string
	}{
		{0, 31 * time.Second, ""},
		{time.Minute, 31*time.Second + 900*time.Millisecond, "ObjectiveMet: the RTO was 31s, and 1m are promised"},
		{30 * time.Second, 31 * time.Second, "ObjectiveMissed: the RTO was 31s, 1s more than the 30s that are promised"},
	} {
		r := &v1alpha1.Restore{Status: v1alpha1.RestoreStatus{StartedAt: &metav1.Time{Time: start}}}
		promise(r, test.promised)
		measure(r, start.Add(test.took))
		if r.Status.RTO.Duration != 31*time.Second {
			t.Errorf("RTO %s", r.Status.RTO.Duration)
		}
		got := ""
		if r.Status.ObjectiveMet != nil {
			e := objectiveMeasured(r.Status)
			got = e.reason + ": " + e.message
		}
		if got != test.want {
			t.Errorf("promised %s: %q, want %q", test.promised, got, test.want)
		}
	}
}
