package policy

import (
	"testing"
	"time"
	_ "time/tzdata" // the tests do not depend on the zones of the machine

	"k8s.io/apimachinery/pkg/types"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

func TestScheduleRefuses(t *testing.T) {
	for _, bad := range []struct{ line, zone string }{
		{"* * * *", ""}, {"60 * * * *", ""}, {"@hourly", ""}, {"0 0 * * * *", ""}, {"TZ=UTC * * * * *", ""}, {"nonsense", ""},
		{"* * * * *", "Mars/Olympus"}, {"* * * * *", "Local"},
	} {
		if _, err := parseSchedule(bad.line, bad.zone, "uid"); err == nil {
			t.Errorf("%q in zone %q was accepted", bad.line, bad.zone)
		}
	}
}

func TestDue(t *testing.T) {
	tests := []struct{ name, line, zone, last, now, want string }{
		{"not yet", "0 * * * *", "", "2026-03-01T10:00:00Z", "2026-03-01T10:59:59Z", ""},
		{"just done", "0 * * * *", "", "2026-03-01T10:00:00Z", "2026-03-01T10:00:30Z", ""},
		{"due", "0 * * * *", "", "2026-03-01T10:00:00Z", "2026-03-01T11:06:00Z", "2026-03-01T11:00:00Z"},
		{"many missed are one", "*/5 * * * *", "", "2026-03-01T00:00:00Z", "2026-03-09T10:17:00Z", "2026-03-09T10:15:00Z"},
		{"a year down", "0 3 1 * *", "", "2025-03-15T00:00:00Z", "2026-03-09T10:17:00Z", "2026-03-01T03:00:00Z"},
		{"in its zone", "30 2 * * *", "Europe/Berlin", "2026-01-01T12:00:00Z", "2026-01-02T03:00:00Z", "2026-01-02T01:30:00Z"},
		{"a moment that the clock change leaves out", "30 2 29 3 *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", ""},
		{"the clock went backwards", "0 * * * *", "", "2026-03-01T12:00:00Z", "2026-03-01T10:30:00Z", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := parseSchedule(tt.line, tt.zone, "uid")
			if err != nil {
				t.Fatal(err)
			}
			got := s.due(at(t, tt.last), at(t, tt.now))
			if tt.want == "" && !got.IsZero() || tt.want != "" && !got.Equal(at(t, tt.want)) {
				t.Errorf("got %v, want %q", got.UTC(), tt.want)
			}
		})
	}
}

func TestJitterIsSteadyAndSmall(t *testing.T) {
	spread := map[time.Duration]bool{}
	for _, uid := range []string{"a", "b", "c", "d", "e", "f"} {
		for line, most := range map[string]time.Duration{"* * * * *": 6 * time.Second, "0 * * * *": 5 * time.Minute, "0 0 * * *": 5 * time.Minute} {
			s, err := parseSchedule(line, "", types.UID(uid))
			if err != nil {
				t.Fatal(err)
			}
			scheduled := s.next(at(t, "2026-03-01T10:00:30Z"))
			jitter := s.fires(scheduled).Sub(scheduled)
			if jitter < 0 || jitter >= most || jitter != s.fires(scheduled).Sub(scheduled) {
				t.Errorf("%s of %q: jitter %v, want less than %v", uid, line, jitter, most)
			}
			if line == "0 * * * *" {
				spread[jitter] = true
			}
			if got := s.due(scheduled.Add(-time.Second), s.fires(scheduled)); !got.Equal(scheduled) {
				t.Errorf("%s of %q: due %v when it fires, want %v", uid, line, got, scheduled)
			}
			if up := s.upcoming(scheduled.Add(-time.Second)); !up.Equal(s.fires(scheduled)) {
				t.Errorf("%s of %q: upcoming %v, want %v", uid, line, up, s.fires(scheduled))
			}
		}
	}
	if len(spread) < 4 {
		t.Errorf("six policies fire at %d different times", len(spread))
	}
}
