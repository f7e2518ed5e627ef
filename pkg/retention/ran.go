package retention

import (
	"time"

	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// deployed is what makes two points be of the same deployment.
func deployed(p Point) string {
	if p.Tree != "" {
		return "tree " + p.Tree
	}
	return "commit " + p.Commit
}

// ran keeps the newest point of what was deployed for long: from its first point to its last, whatever was deployed in between. What tells
// so stays as well, or a later decision would be another: also the oldest point of what is deployed now, from which it will be known.
//
// All complete points count, those of a time to come too, so that the answer does not depend on the time.
func (d *decision) ran() {
	if d.Rules.RanLonger == 0 {
		return
	}
	of := map[string][]int{}
	var names []string
	for _, i := range d.good {
		name := deployed(d.points[i])
		if of[name] == nil {
			names = append(names, name)
		}
		of[name] = append(of[name], i)
	}
	for _, name := range names {
		newest, oldest := of[name][0], of[name][len(of[name])-1]
		switch ran := d.points[newest].Taken.Sub(d.points[oldest].Taken); {
		case ran > d.Rules.RanLonger:
			d.keep(newest, RanLonger, "for at least "+spelling.Duration(ran.Round(time.Minute)))
			d.keep(oldest, RanLonger, "how long is known from it")
		case newest != oldest && d.current(name):
			d.keep(oldest, RanLonger, "how long will be known from it")
		}
	}
}

// current tells whether a deployment is the newest there is a point of. One of a time to come, from when a clock was wrong, hides no other.
func (d *decision) current(name string) bool {
	for _, points := range [][]int{d.good, d.counted} {
		if len(points) > 0 && deployed(d.points[points[0]]) == name {
			return true
		}
	}
	return false
}
