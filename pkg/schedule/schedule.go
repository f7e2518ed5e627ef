// Package schedule says when runs are due. It is pure: everything follows from the moment it is asked at and the moment that was
// acted upon last, so that a controller may die at any time and each controller comes to the same answer.
//
// A scheduled moment is a minute whose date and time in the schedule's time zone fit its cron line. When the clocks go forward, the
// times that are left out do not come that day; when they go back, the times that come twice are two moments. So does a Kubernetes
// CronJob.
package schedule

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Options of a schedule.
type Options struct {
	// Cron is a line of five fields.
	Cron string
	// Zone is a name of the IANA time zone database; empty is UTC.
	Zone string
	// Seed fixes the jitter: the same seed always gives the same.
	Seed string
	// Jitter is less than how much a run begins late, but at most half the time to the next moment. Nil is a tenth of that, and at
	// most DefaultJitter.
	Jitter *time.Duration
	// Deadline is how much later than that a run may begin at most; after it, the run is left out. 0 is no limit.
	Deadline time.Duration
}

const (
	// DefaultJitter bounds the jitter if nothing else is said, and defaultShare is its share of the time to the next moment.
	DefaultJitter = 5 * time.Minute
	defaultShare  = 10
)

// Schedule is a parsed schedule. It has no state.
type Schedule struct {
	cron     *cron.SpecSchedule
	zone     *time.Location
	seed     uint64
	jitter   *time.Duration
	deadline time.Duration
}

// Parse reads a schedule. A line that fits no moment is refused.
func Parse(o Options) (*Schedule, error) {
	if strings.Contains(o.Cron, "TZ=") {
		return nil, fmt.Errorf("schedule %q: put the time zone into spec.timeZone", o.Cron)
	}
	location, err := time.LoadLocation(o.Zone)
	if err != nil || o.Zone == "Local" {
		return nil, fmt.Errorf("time zone %q is not one of the IANA database", o.Zone)
	}
	parsed, err := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(o.Cron)
	if err != nil {
		return nil, fmt.Errorf("schedule %q is not a cron line of five fields: %w", o.Cron, err)
	}
	fields, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return nil, fmt.Errorf("schedule %q is not a cron line of five fields", o.Cron)
	}
	if o.Jitter != nil && *o.Jitter < 0 || o.Deadline < 0 {
		return nil, fmt.Errorf("schedule %q: jitter and deadline must not be negative", o.Cron)
	}
	h := fnv.New64a()
	h.Write([]byte(o.Seed))
	s := &Schedule{cron: fields, zone: location, seed: h.Sum64(), jitter: o.Jitter, deadline: o.Deadline}
	if !s.comes() {
		return nil, fmt.Errorf("schedule %q never comes", o.Cron)
	}
	return s, nil
}

// State is what a schedule is asked with.
type State struct {
	Now time.Time
	// Last is the scheduled moment that was acted upon last, or that from which on moments count.
	Last time.Time
	// Busy says that no run may begin now, because the last one has not ended or for another reason.
	Busy bool
}

// Answer is what follows.
type Answer struct {
	// Due is the scheduled moment to act upon now, zero if there is none. However many were missed, it is the newest alone.
	Due time.Time
	// Begins is when the next run begins of those that are not due yet.
	Begins time.Time
	// Last is what must be remembered as State.Last if nothing is due, or it is due and not acted upon. It differs from that if that
	// is of a time to come, from when a clock was wrong: to wait for it could take years.
	Last time.Time
}

// Next says what is due, and when to ask again.
func (s *Schedule) Next(st State) Answer {
	a := Answer{Begins: s.begins(st.Now), Last: st.Last}
	if soon := s.after(st.Now); !soon.IsZero() && st.Last.After(soon) {
		a.Last = st.Now
	}
	if st.Busy {
		return a
	}
	a.Due = s.due(a.Last, st.Now)
	if !a.Due.IsZero() && s.deadline > 0 && st.Now.Sub(s.fires(a.Due)) > s.deadline {
		a.Due = time.Time{}
	}
	return a
}

const (
	// horizon is how far is looked for a moment: from one 29 February to the next are up to eight years.
	horizon = 8*366*24*time.Hour + 24*time.Hour
	// margin is more than clocks are ever changed by, but where a country changes its date.
	margin = 3 * 60
)

// after is the first scheduled moment after t, zero if there is none within the horizon.
//
// It looks at real minutes one after the other, because arithmetic with times of day goes wrong where clocks change, at midnight
// above all. Of days that do not fit, most is left out.
func (s *Schedule) after(t time.Time) time.Time {
	for m := t.Truncate(time.Minute).Add(time.Minute); m.Sub(t) < horizon; {
		local := m.In(s.zone)
		hour, minute, _ := local.Clock()
		switch {
		case !s.fitsDay(local):
			m = m.Add(time.Duration(max(1, 24*60-hour*60-minute-margin)) * time.Minute)
		case has(s.cron.Hour, hour) && has(s.cron.Minute, minute):
			return local
		default:
			m = m.Add(time.Minute)
		}
	}
	return time.Time{}
}

func has(set uint64, n int) bool { return set&(1<<uint(n)) != 0 }

// anyDay marks a field of cron that began with a star.
const anyDay = 1 << 63

// fitsDay says whether month and day fit. Where both the day of the month and that of the week are set, one is enough.
func (s *Schedule) fitsDay(t time.Time) bool {
	_, month, day := t.Date()
	if !has(s.cron.Month, int(month)) {
		return false
	}
	ofMonth, ofWeek := has(s.cron.Dom, day), has(s.cron.Dow, int(t.Weekday()))
	if s.cron.Dom&anyDay != 0 || s.cron.Dow&anyDay != 0 {
		return ofMonth && ofWeek
	}
	return ofMonth || ofWeek
}

// comes says whether any day fits: there is no 30 February.
func (s *Schedule) comes() bool {
	for day := time.Date(2024, 1, 1, 12, 0, 0, 0, time.UTC); day.Year() < 2032; day = day.AddDate(0, 0, 1) {
		if s.fitsDay(day) {
			return true
		}
	}
	return false
}

// fires is when the run of a scheduled moment begins: the same for every controller, spread over the seeds, and before the next.
func (s *Schedule) fires(t time.Time) time.Time {
	next := s.after(t)
	if next.IsZero() {
		return t
	}
	span := min(next.Sub(t)/defaultShare, DefaultJitter)
	if s.jitter != nil {
		span = min(next.Sub(t)/2, *s.jitter)
	}
	if span <= 0 {
		return t
	}
	return t.Add(time.Duration(s.seed % uint64(span)).Truncate(time.Second))
}

// due is the newest scheduled moment after last whose run should have begun by now, zero if there is none.
func (s *Schedule) due(last, now time.Time) time.Time {
	const day = 24 * time.Hour
	for _, window := range []time.Duration{time.Hour, day, 31 * day, 366 * day, horizon} {
		from := now.Add(-window)
		if last.After(from) {
			from = last
		}
		var newest time.Time
		for t := s.after(from); !t.IsZero() && !t.After(now) && !s.fires(t).After(now); t = s.after(t) {
			newest = t
		}
		if !newest.IsZero() || from.Equal(last) {
			return newest
		}
	}
	return time.Time{}
}

// begins is when the next run begins that has not begun by now, zero if there is none.
func (s *Schedule) begins(now time.Time) time.Time {
	most := DefaultJitter
	if s.jitter != nil {
		most = *s.jitter
	}
	t := s.after(now.Add(-most))
	for !t.IsZero() && !s.fires(t).After(now) {
		t = s.after(t)
	}
	if t.IsZero() {
		return t
	}
	return s.fires(t)
}
