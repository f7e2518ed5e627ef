package schedule

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests do not depend on the zones of the machine

	"github.com/lockstep-dr/lockstep/test/seed"
)

func at(t *testing.T, s string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

func parse(t *testing.T, o Options) *Schedule {
	t.Helper()
	s, err := Parse(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParseRefuses(t *testing.T) {
	for _, bad := range []struct{ line, zone string }{
		{"* * * *", ""}, {"60 * * * *", ""}, {"@hourly", ""}, {"@every 1h", ""}, {"0 0 * * * *", ""}, {"TZ=UTC * * * * *", ""}, {"CRON_TZ=UTC * * * * *", ""},
		{"nonsense", ""}, {"", ""}, {"* * * * *", "Mars/Olympus"}, {"* * * * *", "Local"}, {"0 0 30 2 *", ""},
	} {
		if _, err := Parse(Options{Cron: bad.line, Zone: bad.zone}); err == nil {
			t.Errorf("%q in zone %q was accepted", bad.line, bad.zone)
		}
	}
	if _, err := Parse(Options{Cron: "* * * * *", Jitter: new(-time.Second)}); err == nil {
		t.Error("a negative jitter was accepted")
	}
	if _, err := Parse(Options{Cron: "* * * * *", Deadline: -1}); err == nil {
		t.Error("a negative deadline was accepted")
	}
	parse(t, Options{Cron: "0 0 29 2 *"})
}

func TestDue(t *testing.T) {
	tests := []struct{ name, line, zone, last, now, want string }{
		{"not yet", "0 * * * *", "", "2026-03-01T10:00:00Z", "2026-03-01T10:59:59Z", ""},
		{"just done", "0 * * * *", "", "2026-03-01T10:00:00Z", "2026-03-01T10:00:30Z", ""},
		{"due", "0 * * * *", "", "2026-03-01T10:00:00Z", "2026-03-01T11:06:00Z", "2026-03-01T11:00:00Z"},
		{"many missed are one", "*/5 * * * *", "", "2026-03-01T00:00:00Z", "2026-03-09T10:17:00Z", "2026-03-09T10:15:00Z"},
		{"a year down", "0 3 1 * *", "", "2025-03-15T00:00:00Z", "2026-03-09T10:17:00Z", "2026-03-01T03:00:00Z"},
		{"years down", "0 3 29 2 *", "", "2023-03-15T00:00:00Z", "2026-03-09T10:17:00Z", "2024-02-29T03:00:00Z"},
		{"in its zone", "30 2 * * *", "Europe/Berlin", "2026-01-01T12:00:00Z", "2026-01-02T03:00:00Z", "2026-01-02T01:30:00Z"},
		{"a moment that the clock change leaves out", "30 2 29 3 *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z", ""},
		{"the clock went backwards", "0 * * * *", "", "2026-03-01T12:00:00Z", "2026-03-01T10:30:00Z", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := parse(t, Options{Cron: tt.line, Zone: tt.zone, Seed: "uid"})
			got := s.Next(State{Now: at(t, tt.now), Last: at(t, tt.last)}).Due
			if tt.want == "" && !got.IsZero() || tt.want != "" && !got.Equal(at(t, tt.want)) {
				t.Errorf("got %v, want %q", got.UTC(), tt.want)
			}
		})
	}
}

// TestClockChanges lists the moments of some hours.
func TestClockChanges(t *testing.T) {
	tests := []struct{ name, line, zone, from, until, want string }{
		{"forward: what is left out does not come", "30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", "2026-03-31T00:00:00Z",
			"28 01:30, 30 00:30"},
		{"forward: every hour is an hour", "0 * * * *", "Europe/Berlin", "2026-03-28T23:30:00Z", "2026-03-29T03:30:00Z",
			"29 00:00, 29 01:00, 29 02:00, 29 03:00"},
		{"back: what comes twice is twice", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z",
			"25 00:30, 25 01:30, 26 01:30"},
		{"back in New York", "30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", "2026-11-02T12:00:00Z",
			"01 05:30, 01 06:30, 02 06:30"},
		{"forward in New York", "30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", "2026-03-09T12:00:00Z", "09 06:30"},
		{"forward at midnight", "0 12 * * *", "America/Santiago", "2026-09-05T00:00:00Z", "2026-09-08T00:00:00Z",
			"05 16:00, 06 15:00, 07 15:00"},
		{"forward at midnight, and midnight is meant", "0 0 * * *", "America/Santiago", "2026-09-05T00:00:00Z", "2026-09-08T00:00:00Z",
			"05 04:00, 07 03:00"},
		{"back at midnight", "30 23 * * *", "America/Santiago", "2026-04-04T12:00:00Z", "2026-04-06T12:00:00Z",
			"05 02:30, 05 03:30, 06 03:30"},
		{"by half an hour", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", "2026-04-05T18:00:00Z",
			"04 14:45, 04 15:15, 05 15:15"},
		{"a whole day is left out", "0 12 * * *", "Pacific/Apia", "2011-12-29T00:00:00Z", "2012-01-01T00:00:00Z", "29 22:00, 30 22:00, 31 22:00"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := parse(t, Options{Cron: tt.line, Zone: tt.zone})
			var got []string
			for m := s.after(at(t, tt.from)); m.Before(at(t, tt.until)); m = s.after(m) {
				got = append(got, m.UTC().Format("02 15:04"))
			}
			if strings.Join(got, ", ") != tt.want {
				t.Errorf("got  %s\nwant %s", strings.Join(got, ", "), tt.want)
			}
		})
	}
}

// TestEveryMinuteThatFits looks for moments that are passed over around changes of clocks.
func TestEveryMinuteThatFits(t *testing.T) {
	for zone, changes := range map[string][]string{
		"Europe/Berlin": {"2026-03-29", "2026-10-25"}, "America/Santiago": {"2026-04-05", "2026-09-06"}, "Africa/Cairo": {"2026-04-24", "2026-10-30"},
		"Australia/Lord_Howe": {"2026-04-05", "2026-10-04"}, "America/Sao_Paulo": {"2018-11-04"}, "Pacific/Apia": {"2011-12-30"},
	} {
		for _, line := range []string{"0 0 * * *", "59 23 * * *", "30 0 * * 6,0", "15 2 5,29 * *", "*/20 1-3 * * *", "0 5 6 9 0"} {
			s := parse(t, Options{Cron: line, Zone: zone})
			for _, change := range changes {
				from := at(t, change+"T00:00:00Z").AddDate(0, 0, -2)
				next := s.after(from)
				for m := from.Add(time.Minute); m.Before(from.AddDate(0, 0, 4)); m = m.Add(time.Minute) {
					local := m.In(s.zone)
					fits := s.fitsDay(local) && has(s.cron.Hour, local.Hour()) && has(s.cron.Minute, local.Minute())
					if fits != m.Equal(next) {
						t.Fatalf("%q in %s at %v: fits %t, next is %v", line, zone, local, fits, next)
					}
					if fits {
						next = s.after(m)
					}
				}
			}
		}
	}
}

func TestJitterIsSteadyAndSmall(t *testing.T) {
	spread := map[time.Duration]bool{}
	for _, seed := range []string{"a", "b", "c", "d", "e", "f"} {
		for _, tt := range []struct {
			line   string
			jitter *time.Duration
			most   time.Duration
		}{
			{"* * * * *", nil, 6 * time.Second}, {"0 * * * *", nil, 5 * time.Minute}, {"0 0 * * *", nil, 5 * time.Minute},
			{"0 * * * *", new(time.Duration(0)), 1}, {"0 * * * *", new(time.Minute), time.Minute}, {"0 * * * *", new(24 * time.Hour), 30 * time.Minute},
		} {
			s := parse(t, Options{Cron: tt.line, Seed: seed, Jitter: tt.jitter})
			scheduled := s.after(at(t, "2026-03-01T10:00:30Z"))
			fires := s.fires(scheduled)
			jitter := fires.Sub(scheduled)
			if jitter < 0 || jitter >= tt.most || jitter != s.fires(scheduled).Sub(scheduled) {
				t.Errorf("%s of %q: jitter %v, want less than %v", seed, tt.line, jitter, tt.most)
			}
			if tt.line == "0 * * * *" && tt.jitter == nil {
				spread[jitter] = true
			}
			before := scheduled.Add(-time.Second)
			if got := s.Next(State{Now: fires, Last: before}).Due; !got.Equal(scheduled) {
				t.Errorf("%s of %q: due %v when it fires, want %v", seed, tt.line, got, scheduled)
			}
			if got := s.Next(State{Now: before, Last: before}); !got.Begins.Equal(fires) || !got.Due.IsZero() {
				t.Errorf("%s of %q: begins %v, want %v; due %v", seed, tt.line, got.Begins, fires, got.Due)
			}
		}
	}
	if len(spread) < 4 {
		t.Errorf("six schedules fire at %d different times", len(spread))
	}
}

func TestBusyAndLate(t *testing.T) {
	last, now := at(t, "2026-03-01T10:00:00Z"), at(t, "2026-03-01T13:20:00Z")
	s := parse(t, Options{Cron: "0 * * * *", Jitter: new(time.Duration(0))})
	if a := s.Next(State{Now: now, Last: last, Busy: true}); !a.Due.IsZero() || !a.Begins.Equal(at(t, "2026-03-01T14:00:00Z")) {
		t.Errorf("busy: %+v", a)
	}
	for deadline, want := range map[time.Duration]string{0: "2026-03-01T13:00:00Z", 20 * time.Minute: "2026-03-01T13:00:00Z", 19 * time.Minute: ""} {
		s := parse(t, Options{Cron: "0 * * * *", Jitter: new(time.Duration(0)), Deadline: deadline})
		got := s.Next(State{Now: now, Last: last}).Due
		if want == "" && !got.IsZero() || want != "" && !got.Equal(at(t, want)) {
			t.Errorf("with a deadline of %v: due %v, want %q", deadline, got, want)
		}
	}
}

// TestAClockThatWasWrong has acted upon a moment years ahead.
func TestAClockThatWasWrong(t *testing.T) {
	s := parse(t, Options{Cron: "0 * * * *", Jitter: new(time.Duration(0))})
	now := at(t, "2026-03-01T10:30:00Z")
	a := s.Next(State{Now: now, Last: at(t, "2031-03-01T10:00:00Z")})
	if !a.Due.IsZero() || !a.Last.Equal(now) {
		t.Fatalf("%+v", a)
	}
	if a = s.Next(State{Now: at(t, "2026-03-01T11:00:00Z"), Last: a.Last}); !a.Due.Equal(at(t, "2026-03-01T11:00:00Z")) {
		t.Errorf("%+v", a)
	}
	// One that was set back by seconds only does not run anything again.
	a = s.Next(State{Now: at(t, "2026-03-01T10:59:58Z"), Last: at(t, "2026-03-01T11:00:00Z")})
	if !a.Due.IsZero() || !a.Last.Equal(at(t, "2026-03-01T11:00:00Z")) {
		t.Errorf("%+v", a)
	}
}

// TestNoMomentIsActedUponTwice asks at random times, as a controller does that is busy, away or restarted.
func TestNoMomentIsActedUponTwice(t *testing.T) {
	lines := []string{"* * * * *", "*/7 * * * *", "0 * * * *", "30 2 * * *", "0 3 * * 1", "15,45 1-4 * * *"}
	zones := []string{"", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"}
	r := rand.New(rand.NewPCG(seed.First(t), 0))
	for range 60 {
		o := Options{Cron: lines[r.IntN(len(lines))], Zone: zones[r.IntN(len(zones))], Seed: fmt.Sprint(r.Uint64())}
		if r.IntN(2) == 0 {
			o.Jitter = new(time.Duration(r.IntN(120)) * time.Minute)
		}
		s := parse(t, o)
		now := at(t, "2026-03-20T00:00:00Z").AddDate(0, r.IntN(9), 0)
		last, done := now, map[int64]bool{}
		for range 80 {
			now = now.Add(time.Duration(r.IntN([]int{2, 60, 3600, 90000}[r.IntN(4)])+1) * time.Second)
			a := s.Next(State{Now: now, Last: last, Busy: r.IntN(4) == 0})
			if !a.Begins.After(now) {
				t.Fatalf("%+v at %v: begins %v", o, now, a.Begins)
			}
			if a.Due.IsZero() {
				continue
			}
			if done[a.Due.Unix()] || a.Due.After(now) || !a.Due.After(last) || s.due(a.Due, now) != (time.Time{}) {
				t.Fatalf("%+v at %v after %v: due %v", o, now, last, a.Due)
			}
			done[a.Due.Unix()] = true
			last = a.Due
		}
	}
}
