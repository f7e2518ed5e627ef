package retention_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/retention"
	"github.com/lockstep-dr/lockstep/test/seed"
)

// each calls the check with a number of random worlds. A failure names the seed, with which the world comes again.
func each(t *testing.T, check func(t *testing.T, r *rand.Rand)) {
	t.Helper()
	first := seed.First(t)
	for n := range uint64(60) {
		if ok := t.Run(fmt.Sprintf("seed %d", first+n), func(t *testing.T) { check(t, rand.New(rand.NewPCG(first+n, 0))) }); !ok {
			return
		}
	}
}

func chance(r *rand.Rand, percent int) bool { return r.IntN(100) < percent }

// input makes up a world: bursts and gaps, rollbacks, failures, clocks that were wrong.
func input(r *rand.Rand) retention.Input {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"}
	place, err := time.LoadLocation(zones[r.IntN(len(zones))])
	if err != nil {
		panic(err)
	}
	in := retention.Input{Now: noon, Zone: place, Rules: retention.Rules{
		Last: r.IntN(6), Hourly: r.IntN(30), Daily: r.IntN(10), Weekly: r.IntN(6), Monthly: r.IntN(14),
		RanLonger: time.Duration(r.IntN(4)) * 24 * time.Hour,
	}}
	if chance(r, 50) {
		in.Rules.Tags = []string{"v*"}
	}
	if chance(r, 90) {
		in.Tags = map[string][]string{"c1": {"v1"}, "c5": {"other"}, "c9": {"v2", "v2.0"}}
	}
	moment, commit := noon, 1+r.IntN(12)
	if chance(r, 20) {
		moment = noon.Add(time.Duration(r.IntN(72)) * time.Hour)
	}
	for i := range r.IntN(150) {
		moment = moment.Add(-time.Duration(r.IntN([]int{1, 60, 3600, 90000, 900000}[r.IntN(5)])) * time.Second)
		if chance(r, 15) {
			commit = 1 + r.IntN(12)
		}
		p := retention.Point{ID: fmt.Sprintf("p%03d", i), Taken: moment, Commit: fmt.Sprintf("c%d", commit), Complete: chance(r, 85)}
		if commit < 8 {
			p.Tree = fmt.Sprintf("t%d", commit/2)
		}
		if chance(r, 3) {
			p.Hold = "for a reason"
		}
		if chance(r, 5) {
			p.LockedUntil = noon.Add(time.Duration(r.IntN(100)-50) * time.Hour)
		}
		in.Points = append(in.Points, p)
	}
	return in
}

func kept(verdicts []retention.Verdict) map[string]bool {
	all := map[string]bool{}
	for _, v := range verdicts {
		if v.Keep {
			all[v.Point.ID] = true
		}
	}
	return all
}

// missing are the IDs of a that are not in b.
func missing(a, b map[string]bool) []string {
	var all []string
	for id := range a {
		if !b[id] {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	return all
}

func TestWhatAlwaysHolds(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand) {
		in := input(r)
		verdicts := decide(t, in)
		if len(verdicts) != len(in.Points) {
			t.Fatalf("%d verdicts on %d points", len(verdicts), len(in.Points))
		}
		var newestGood, newestFuture *retention.Verdict
		for i, v := range verdicts {
			p := v.Point
			switch {
			case len(v.Reasons) == 0, !v.Keep && len(v.Reasons) != 1:
				t.Errorf("%s: %q", p.ID, v)
			case !v.Keep && (p.Hold != "" || p.LockedUntil.After(in.Now) || p.Taken.After(in.Now)):
				t.Errorf("%s goes: %+v", p.ID, p)
			case v.Keep && !p.Complete && slices.ContainsFunc(v.Reasons, counts):
				t.Errorf("%s is not complete: %q", p.ID, v)
			}
			if p.Complete && p.Taken.After(in.Now) && newestFuture == nil {
				newestFuture = &verdicts[i]
			}
			if p.Complete && !p.Taken.After(in.Now) && newestGood == nil {
				newestGood = &verdicts[i]
			}
		}
		for _, v := range []*retention.Verdict{newestGood, newestFuture} {
			if v != nil && !v.Keep {
				t.Errorf("the last good point %s goes", v.Point.ID)
			}
		}
	})
}

// counts are the reasons that only a complete point can have.
func counts(r retention.Reason) bool {
	switch r.Rule {
	case retention.Held, retention.Locked, retention.Future, retention.Unfinished, retention.NoRules:
		return false
	}
	return true
}

func TestTheOrderDoesNotMatter(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand) {
		in := input(r)
		want := decide(t, in)
		r.Shuffle(len(in.Points), func(i, j int) { in.Points[i], in.Points[j] = in.Points[j], in.Points[i] })
		if diff := cmp.Diff(want, decide(t, in)); diff != "" {
			t.Error(diff)
		}
	})
}

// TestDecidingAgainRemovesNothing decides about what a decision left.
func TestDecidingAgainRemovesNothing(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand) {
		in := input(r)
		first := kept(decide(t, in))
		in.Points = slices.DeleteFunc(in.Points, func(p retention.Point) bool { return !first[p.ID] })
		if gone := missing(first, kept(decide(t, in))); len(gone) > 0 {
			t.Errorf("%v go at the second look", gone)
		}
	})
}

// TestAWrongClockRemovesNothingMore decides at times that the clock may falsely tell.
func TestAWrongClockRemovesNothingMore(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand) {
		in := input(r)
		for i := range in.Points {
			in.Points[i].LockedUntil = time.Time{} // of that the store is judge
		}
		in.Now = noon.AddDate(0, 0, 5) // after all of them
		now := kept(decide(t, in))
		in.Now = in.Now.AddDate(r.IntN(20), 0, 0)
		if diff := cmp.Diff(now, kept(decide(t, in))); diff != "" {
			t.Errorf("the clock jumped ahead:\n%s", diff)
		}
		in.Now = noon.Add(-time.Duration(r.IntN(5000)) * time.Hour)
		if gone := missing(now, kept(decide(t, in))); len(gone) > 0 {
			t.Errorf("the clock jumped back: %v go", gone)
		}
	})
}

// TestOnePointPushesFewOut adds the newest point of all.
func TestOnePointPushesFewOut(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand) {
		in := input(r)
		in.Points = slices.DeleteFunc(in.Points, func(p retention.Point) bool { return !p.Complete || p.Taken.After(in.Now) })
		before := kept(decide(t, in))
		in.Points = append(in.Points, retention.Point{ID: "new", Taken: in.Now, Commit: "c1", Tree: "t0", Complete: true})
		// One for each rule that counts, the last good, the last of its tag, of its run with what tells of it, and what would have told of
		// the run that it ends.
		if gone := missing(before, kept(decide(t, in))); len(gone) > 10 {
			t.Errorf("%d points go for one that comes: %v", len(gone), gone)
		}
	})
}

func TestMoreRulesKeepMore(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand) {
		in := input(r)
		in.Rules.Last++ // so that there is a rule
		before := kept(decide(t, in))
		grow := []func(*retention.Rules){
			func(r *retention.Rules) { r.Last++ }, func(r *retention.Rules) { r.Hourly++ }, func(r *retention.Rules) { r.Daily++ },
			func(r *retention.Rules) { r.Weekly++ }, func(r *retention.Rules) { r.Monthly++ },
			func(r *retention.Rules) { r.Tags = append(slices.Clone(r.Tags), "o*") },
		}
		grow[r.IntN(len(grow))](&in.Rules)
		if gone := missing(before, kept(decide(t, in))); len(gone) > 0 {
			t.Errorf("%v go because of a rule more", gone)
		}
	})
}

// TestTheWayOut follows the marks over many steps whose verdicts, clocks and words are made up.
func TestTheWayOut(t *testing.T) {
	each(t, func(t *testing.T, r *rand.Rand) {
		limits := retention.Limits{Grace: time.Duration(1+r.IntN(48)) * time.Hour, Share: r.Float64() / 2, Least: r.IntN(10)}
		now, marks := noon, retention.Marks{}
		steps := map[string]int{} // in which a point was marked without a break
		mix := 20 + r.IntN(80)
		letters := func() string {
			var b strings.Builder
			for range 40 {
				b.WriteByte("kg"[b2i(chance(r, 100-mix))])
			}
			return b.String()
		}
		state, believed, begun := letters(), time.Duration(0), 40
		for range 60 {
			now = now.Add(time.Duration(r.IntN(180)) * time.Minute)
			switch r.IntN(20) {
			case 0:
				now = now.AddDate(1-r.IntN(3), 0, 0)
			case 1:
				state = letters()
			case 2:
				marks = retention.Marks{}
				clear(steps)
			}
			verdicts := row(state)
			p := retention.Next(verdicts, marks, limits, "", now)
			for _, id := range p.Remove {
				if steps[id] < 4 {
					t.Errorf("%s is removed when it was marked for %d steps", id, steps[id])
				}
				if slices.ContainsFunc(verdicts, func(v retention.Verdict) bool { return v.Keep && v.Point.ID == id }) {
					t.Errorf("%s is removed and needed", id)
				}
			}
			if p.Refused != nil && (len(p.Remove) > 0 || len(p.Marks.Points) > len(marks.Points)) {
				t.Errorf("removes %d, marks %d, and refused: %v", len(p.Remove), len(p.Marks.Points), p.Refused)
			}
			// Counted from where the marks began, a share may go at once, and as much again in each grace time.
			believed += max(0, min(now.Sub(marks.At), limits.Grace/4))
			if marks.At.IsZero() {
				believed, begun = 0, 40
			}
			begun = max(begun, strings.Count(state, "k"))
			most := float64(max(limits.Least, int(limits.Share*40))) * (1 + float64(believed)/float64(limits.Grace))
			if p.Refused == nil && float64(begun-strings.Count(state, "k")) > most+1 {
				t.Errorf("%d of %d points go in %v, want at most %v", begun-strings.Count(state, "k"), begun, believed, most)
			}
			next := map[string]int{}
			for _, m := range p.Marks.Points {
				next[m.ID] = steps[m.ID] + 1
			}
			steps, marks = next, p.Marks
		}
	})
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
