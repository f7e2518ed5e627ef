package retention_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/retention"
)

// year is a simulated year of one application. True is when a point was really taken, whatever its clock said.
type year struct {
	*rand.Rand
	in     retention.Input
	limits retention.Limits
	marks  retention.Marks
	truth  map[string]time.Time
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
	if n := len(y.in.Runs); n > 0 {
		y.in.Runs[n-1].To = y.clock()
	}
	y.in.Runs = append(y.in.Runs, retention.Run{Commit: name, From: y.clock()})
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
	y.forgetRuns()
}

// forgetRuns drops what is known of deployments that no point is left of.
func (y *year) forgetRuns() {
	left := map[string]bool{fmt.Sprintf("c%d", y.commit): true}
	for _, p := range y.in.Points {
		left[p.Commit] = true
	}
	y.in.Runs = slices.DeleteFunc(y.in.Runs, func(r retention.Run) bool { return !left[r.Commit] })
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
		Rand: r, truth: map[string]time.Time{}, now: start,
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
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			y := newYear(rand.New(rand.NewPCG(seed, 0)), place)
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
			tagged, long := y.promised()
			for rule, want := range map[retention.Rule]int{
				retention.Last: 5, retention.Hourly: 24, retention.Daily: 7, retention.Weekly: 4, retention.Monthly: 12,
				retention.Tag: tagged, retention.RanLonger: long, retention.LastGood: 1,
			} {
				if found[rule] != want {
					t.Errorf("%d points are kept for %q, want %d", found[rule], rule, want)
				}
			}
			if len(y.in.Points) > 130+tagged+long || y.removed+len(y.in.Points) != y.serial {
				t.Errorf("of %d points %d are left, %d were removed", y.serial, len(y.in.Points), y.removed)
			}
		})
	}
}

// promised counts what was tagged and what ran for long, of what has a complete point.
func (y *year) promised() (tagged, long int) {
	has := map[string]bool{}
	for _, p := range y.in.Points {
		has[p.Commit] = has[p.Commit] || p.Complete
	}
	for _, r := range y.in.Runs {
		if !has[r.Commit] {
			continue
		}
		tagged += len(y.in.Tags[r.Commit])
		end := r.To
		if end.IsZero() {
			for _, p := range y.in.Points {
				if p.Commit == r.Commit && p.Complete && p.Taken.After(end) {
					end = p.Taken
				}
			}
		}
		if end.Sub(r.From) > y.in.Rules.RanLonger {
			long++
		}
	}
	return tagged, long
}

// TestWrongClocks has the clock jump hours, days and years, back and forth.
func TestWrongClocks(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	y := newYear(rand.New(rand.NewPCG(seed, 0)), zone(t, "Europe/Berlin"))
	y.jumps = true
	y.limits.Least = 1000 // it is the marks and the rules that are looked at
	for y.now.Before(time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)) {
		y.hour(t)
	}
}
