package retention

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Run is a stretch of time during which something was deployed, as an engine's history tells it.
type Run struct {
	// Commit and Tree are as of Point.
	Commit, Tree string
	From         time.Time
	// To is when something else was deployed; zero if that is not known, or it has not ended.
	To time.Time
}

// deployed is what makes two points or runs be of the same deployment.
func deployed(commit, tree string) string {
	if tree != "" {
		return "tree " + tree
	}
	return "commit " + commit
}

// stretch is a time for which something is known to have been deployed.
type stretch struct {
	length time.Duration
	// proof are the points without which the length would not be known.
	proof []int
}

// ran keeps the newest point of what was deployed for long. What tells so stays as well, or a later decision would be another: also the
// oldest point of what is deployed now, from which it will be known.
//
// All complete points count, those of a time to come too, so that the answer does not depend on the time.
func (d *decision) ran() {
	if d.Rules.RanLonger == 0 {
		return
	}
	of := map[string][]int{}
	var names []string
	for _, i := range d.good {
		name := deployed(d.points[i].Commit, d.points[i].Tree)
		if of[name] == nil {
			names = append(names, name)
		}
		of[name] = append(of[name], i)
	}
	runs := d.closedRuns()
	for _, name := range names {
		points := of[name]
		longest, left := d.longest(points, runs[name])
		if longest.length <= d.Rules.RanLonger {
			if d.current(name) && len(left) > 1 {
				d.keep(left[len(left)-1], RanLonger, "how long will be known from it")
			}
			continue
		}
		d.keep(points[0], RanLonger, fmt.Sprintf("for at least %v", longest.length.Round(time.Minute)))
		for _, i := range longest.proof {
			if i != points[0] {
				d.keep(i, RanLonger, "how long is known from it")
			}
		}
	}
}

// current tells whether a deployment is the newest there is a point of. One of a time to come, from when a clock was wrong, hides no other.
func (d *decision) current(name string) bool {
	for _, points := range [][]int{d.good, d.counted} {
		if len(points) > 0 {
			if p := d.points[points[0]]; deployed(p.Commit, p.Tree) == name {
				return true
			}
		}
	}
	return false
}

// run is a Run with its deployment, and the time to which its points may be.
type run struct {
	Run
	of    string
	until time.Time // zero for ever
}

// closedRuns are the runs of each deployment, each until the next of another begins.
func (d *decision) closedRuns() map[string][]run {
	all := make([]run, len(d.Runs))
	for i, r := range d.Runs {
		all[i] = run{r, deployed(r.Commit, r.Tree), r.To}
	}
	slices.SortFunc(all, func(a, b run) int {
		return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To), strings.Compare(a.of, b.of))
	})
	of := map[string][]run{}
	for i, r := range all {
		if r.until.IsZero() {
			next := slices.IndexFunc(all[i:], func(other run) bool { return other.of != r.of })
			if next >= 0 {
				r.until = all[i+next].From
			}
		}
		of[r.of] = append(of[r.of], r)
	}
	return of
}

// longest is the longest that the points of one deployment, the newest first, and its runs tell of. Points of no run tell that it was
// deployed from the first of them to the last; they are left, the newest first.
func (d *decision) longest(points []int, runs []run) (best stretch, left []int) {
	take := func(s stretch) {
		if s.length > best.length {
			best = s
		}
	}
	left = slices.Clone(points)
	for _, r := range slices.Backward(runs) {
		within := func(i int) bool {
			t := d.points[i].Taken
			return !t.Before(r.From) && (r.until.IsZero() || !t.After(r.until))
		}
		first := slices.IndexFunc(points, within)
		switch {
		case !r.To.IsZero():
			take(stretch{length: r.To.Sub(r.From)})
		case first >= 0:
			take(stretch{d.points[points[first]].Taken.Sub(r.From), points[first : first+1]})
		}
		left = slices.DeleteFunc(left, within)
	}
	if len(left) > 1 {
		newest, oldest := left[0], left[len(left)-1]
		take(stretch{d.points[newest].Taken.Sub(d.points[oldest].Taken), []int{newest, oldest}})
	}
	return best, left
}
