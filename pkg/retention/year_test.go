package retention_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/retention"
	"github.com/lockstep-dr/lockstep/test/seed"
)

// year is a simulated year of one application. True is when a point was really taken, whatever its clock said.
type year struct {
	*rand.Rand
	in     retention.Input
	limits retention.Limits
	marks  retention.Marks
	truth  map[string]time.Time
	// spans are the times of the complete points of each commit.
	spans  map[int][]time.Time
	now    time.Time     // really
	wrong  time.Duration // by how much the clock is
	commit int
	serial int
	// jumps says that the clock does.
	jumps bool
	// skipped is how long no point was taken, refused whether a step was.
	skipped time.Duration
	refused error
	removed int
}

func (y *year) clock() time.Time { return y.now.Add(y.wrong) }

func (y *year) deploy() {
	y.commit++
	name := fmt.Sprintf("c%d", y.commit)
	if y.commit%10 == 0 {
		y.in.Tags[name] = []string{fmt.Sprintf("v%d", y.commit/10)}
	}
}

func (y *year) take() {
	y.serial++
	id := fmt.Sprintf("p%05d", y.serial)
	complete := !chance(y.Rand, 2)
	y.in.Points = append(y.in.Points, retention.Point{ID: id, Taken: y.clock(), Commit: fmt.Sprintf("c%d", y.commit), Complete: complete})
	y.truth[id] = y.now
	if complete {
		y.skipped = 0
		y.spans[y.commit] = append(y.spans[y.commit], y.clock())
	}
}

// retain decides, and removes what is due, now and then only a part of it.
func (y *year) retain(t *testing.T) {
	y.in.Now = y.clock()
	verdicts := decide(t, y.in)
	before := y.marks
	p := retention.Next(verdicts, y.marks, y.limits, "", y.clock())
	if p.Refused != nil {
		y.refused = p.Refused
	}
	y.marks = p.Marks
	if chance(y.Rand, 1) {
		y.marks = before // the controller died before it wrote them, and removed nothing
		return
	}
	for _, id := range p.Remove {
		if chance(y.Rand, 5) {
			break // or died here
		}
		// A clock that jumps makes a quarter of the grace time out of one hour.
		if age := y.now.Sub(y.truth[id]); age < y.limits.Grace && !y.jumps || age < 4*3*time.Hour {
			t.Errorf("%v: point %s is removed %v after it was taken", y.now, id, y.now.Sub(y.truth[id]))
		}
		y.in.Points = slices.DeleteFunc(y.in.Points, func(p retention.Point) bool { return p.ID == id })
		y.removed++
	}
}

// hour lives an hour.
func (y *year) hour(t *testing.T) {
	y.now = y.now.Add(time.Hour)
	y.skipped += time.Hour
	if y.IntN(300) == 0 {
		away := time.Duration(y.IntN(100)) * time.Hour // the controller or the vault is
		y.skipped, y.now = y.skipped+away, y.now.Add(away)
	}
	if y.jumps && chance(y.Rand, 1) {
		y.wrong = []time.Duration{0, 0, 90 * time.Minute, -26 * time.Hour, 400 * 24 * time.Hour, -400 * 24 * time.Hour}[y.IntN(6)]
	}
	if chance(y.Rand, 3) {
		y.deploy()
	}
	if !chance(y.Rand, 2) {
		y.take()
	}
	if y.now.Hour()%3 == 0 {
		y.retain(t)
		y.check(t)
	}
}

// check finds a complete point that is as new as any could be, whatever the clock says.
func (y *year) check(t *testing.T) {
	t.Helper()
	for _, p := range y.in.Points {
		if p.Complete && y.now.Sub(y.truth[p.ID]) <= y.skipped {
			return
		}
	}
	t.Fatalf("%v: of the last %v no complete point is left", y.now, y.skipped)
}

func newYear(r *rand.Rand, place *time.Location) *year {
	start := time.Date(2026, 1, 1, 0, 30, 0, 0, place)
	y := &year{
		Rand: r, truth: map[string]time.Time{}, spans: map[int][]time.Time{}, now: start,
		limits: retention.Limits{Grace: retention.Grace, Share: retention.Share, Least: retention.Least},
		in: retention.Input{Zone: place, Tags: map[string][]string{}, Rules: retention.Rules{
			Last: 5, Hourly: 24, Daily: 7, Weekly: 4, Monthly: 12, Tags: []string{"v*"}, RanLonger: 96 * time.Hour}},
	}
	y.deploy()
	y.take()
	return y
}

func TestAYear(t *testing.T) {
	for _, name := range []string{"Europe/Berlin", "America/New_York"} {
		t.Run(name, func(t *testing.T) {
			place := zone(t, name)
			y := newYear(rand.New(rand.NewPCG(seed.First(t), 0)), place)
			for y.now.Before(time.Date(2027, 1, 1, 0, 0, 0, 0, place)) {
				y.hour(t)
			}
			if y.refused != nil {
				t.Errorf("an ordinary year is refused: %v", y.refused)
			}
			y.in.Now = y.clock()
			found := map[retention.Rule]int{}
			for _, v := range decide(t, y.in) {
				for _, reason := range v.Reasons {
					found[reason.Rule]++
				}
			}
			tagged, ran := y.promised()
			for rule, want := range map[retention.Rule]int{
				retention.Last: 5, retention.Hourly: 24, retention.Daily: 7, retention.Weekly: 4, retention.Monthly: 12,
				retention.Tag: tagged, retention.RanLonger: ran, retention.LastGood: 1,
			} {
				if found[rule] != want {
					t.Errorf("%d points are kept for %q, want %d", found[rule], rule, want)
				}
			}
			if len(y.in.Points) > 130+tagged+ran || y.removed+len(y.in.Points) != y.serial {
				t.Errorf("of %d points %d are left, %d were removed", y.serial, len(y.in.Points), y.removed)
			}
		})
	}
}

// promised counts the points that must be left for their tag, and for how long something ran: the newest and the oldest of it, and the oldest
// of what is deployed now.
func (y *year) promised() (tagged, ran int) {
	for commit, times := range y.spans {
		tagged += len(y.in.Tags[fmt.Sprintf("c%d", commit)])
		switch {
		case times[len(times)-1].Sub(times[0]) > y.in.Rules.RanLonger:
			ran += 2
		case commit == y.commit && len(times) > 1:
			ran++
		}
	}
	return tagged, ran
}

// TestWrongClocks has the clock jump hours, days and years, back and forth.
func TestWrongClocks(t *testing.T) {
	y := newYear(rand.New(rand.NewPCG(seed.First(t), 0)), zone(t, "Europe/Berlin"))
	y.jumps = true
	y.limits.Least = 1000 // it is the marks and the rules that are looked at
	for y.now.Before(time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)) {
		y.hour(t)
	}
}
