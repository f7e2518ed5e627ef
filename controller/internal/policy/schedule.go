package policy

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	"k8s.io/apimachinery/pkg/types"
)

// schedule says when points are due. It has no state: everything follows from the times it is asked with.
type schedule struct {
	cron cron.Schedule
	zone *time.Location
	seed uint64
}

// Jitter is a tenth of the time to the next run, and at most maxJitter.
const (
	jitterShare = 10
	maxJitter   = 5 * time.Minute
)

// parseSchedule reads a cron line of five fields in a time zone; the UID fixes the jitter.
func parseSchedule(line, zone string, uid types.UID) (*schedule, error) {
	if strings.Contains(line, "TZ=") {
		return nil, fmt.Errorf("schedule %q: put the time zone into spec.timeZone", line)
	}
	if zone == "Local" {
		return nil, fmt.Errorf("time zone %q is not one of the IANA database", zone)
	}
	location, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("time zone %q is not one of the IANA database", zone)
	}
	spec, err := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(line)
	if err != nil {
		return nil, fmt.Errorf("schedule %q is not a cron line of five fields: %w", line, err)
	}
	h := fnv.New64a()
	h.Write([]byte(uid))
	return &schedule{cron: spec, zone: location, seed: h.Sum64()}, nil
}

// next is the first scheduled moment after t, zero if there is none within five years.
func (s *schedule) next(t time.Time) time.Time { return s.cron.Next(t.In(s.zone)) }

// fires is when the run of a scheduled moment really begins: the same for every controller, and spread over policies.
func (s *schedule) fires(t time.Time) time.Time {
	span := min(s.next(t).Sub(t)/jitterShare, maxJitter)
	if span <= 0 {
		return t
	}
	return t.Add(time.Duration(s.seed % uint64(span)).Truncate(time.Second))
}

// due is the newest scheduled moment after last whose run should have begun by now, zero if there is none. However many were
// missed, they are made up for by one.
func (s *schedule) due(last, now time.Time) time.Time {
	for _, window := range []time.Duration{time.Hour, 24 * time.Hour, 31 * 24 * time.Hour, 366 * 24 * time.Hour} {
		from := now.Add(-window)
		if last.After(from) {
			from = last
		}
		var newest time.Time
		for t := s.next(from); !t.IsZero() && !s.fires(t).After(now); t = s.next(t) {
			newest = t
		}
		if !newest.IsZero() || from.Equal(last) {
			return newest
		}
	}
	return time.Time{}
}

// upcoming is when the next run begins that has not begun by now.
func (s *schedule) upcoming(now time.Time) time.Time {
	t := s.next(now.Add(-maxJitter))
	for !t.IsZero() && !s.fires(t).After(now) {
		t = s.next(t)
	}
	if t.IsZero() {
		return t
	}
	return s.fires(t)
}
