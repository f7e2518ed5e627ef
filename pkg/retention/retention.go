// Package retention decides which points of an application are kept and which may go, and when. It is pure: points, tags and
// the time come in as values, and the same values always give the same answer, whatever their order.
//
// What a rule keeps does not depend on the time: periods are counted from the points that there are. A clock that is wrong, a
// schedule that stood still and the change to summer time therefore remove nothing that would have stayed without them.
package retention

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// ErrInvalid is matched by the error about a question that cannot be meant. Nothing may be removed then.
var ErrInvalid = errors.New("not a retention that can be decided")

// Point is what must be known of a point.
type Point struct {
	ID string
	// Taken is the moment of its data.
	Taken time.Time
	// Commit is what ran then, and Tree its tree at the application's path: commits of one tree are one deployment. Tree may be
	// empty.
	Commit, Tree string
	// Trigger is what asked for the point. It is shown, and decides nothing.
	Trigger string
	// Complete says that every volume is in the vault and was not found damaged.
	Complete bool
	// Hold, unless empty, is why a person wants to keep the point.
	Hold string
	// Use, unless empty, is what needs the point now, as a Restore.
	Use string
	// Size is that of its volumes, in bytes. It is shown, and decides nothing.
	Size int64
	// LockedUntil is when the store would delete it at the earliest; zero if it is not locked.
	LockedUntil time.Time
}

// Rules say which points are kept. Of points that are not complete none is counted.
type Rules struct {
	// Last is how many of the newest points are kept.
	Last int
	// Hourly, Daily, Weekly and Monthly are for how many hours, days, ISO weeks and months that have points the newest is kept.
	Hourly, Daily, Weekly, Monthly int
	// Tags are patterns as of path.Match. The newest point of each commit with a Git tag that matches one is kept.
	Tags []string
	// RanLonger, unless zero, keeps the newest point of whatever was deployed for longer.
	RanLonger time.Duration
}

// RulesOf are the rules of a policy; without any, everything is kept.
func RulesOf(r *v1alpha1.Retention) Rules {
	if r == nil {
		return Rules{}
	}
	rules := Rules{
		Last: int(r.Last), Hourly: int(r.Hourly), Daily: int(r.Daily), Weekly: int(r.Weekly), Monthly: int(r.Monthly), Tags: r.Tags,
	}
	if r.RanLonger != nil {
		rules.RanLonger = r.RanLonger.Duration
	}
	return rules
}

// LimitsOf are the limits of a policy.
func LimitsOf(r *v1alpha1.Retention) Limits {
	l := Limits{Grace: Grace, Share: Share, Least: Least}
	if r == nil {
		return l
	}
	if r.Grace != nil {
		l.Grace = r.Grace.Duration
	}
	if r.AtOnce != nil {
		l.Share, l.Least = float64(r.AtOnce.Percent)/100, int(r.AtOnce.Points)
	}
	return l
}

// PointOf is a record as Decide sees it. A record is written when everything of its point is durable.
func PointOf(r point.Record) Point {
	p := Point{
		ID: r.ID, Taken: r.Taken, Commit: r.Revision.Commit, Tree: r.Revision.Tree, Trigger: string(r.Trigger), Complete: true,
	}
	for _, v := range r.Volumes {
		p.Size += v.Bytes
	}
	return p
}

// keepNothing tells whether no rule is set. Such rules keep everything: to keep nothing is never meant.
func (r Rules) keepNothing() bool {
	return r.Last+r.Hourly+r.Daily+r.Weekly+r.Monthly == 0 && len(r.Tags) == 0 && r.RanLonger == 0
}

func (r Rules) validate() error {
	if min(r.Last, r.Hourly, r.Daily, r.Weekly, r.Monthly) < 0 || r.RanLonger < 0 {
		return fmt.Errorf("%w: a negative number of points or of time", ErrInvalid)
	}
	for _, pattern := range r.Tags {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("%w: pattern %q of tags: %w", ErrInvalid, pattern, err)
		}
	}
	return nil
}

// Input is what Decide decides by.
type Input struct {
	Rules Rules
	// Points are all points of one application that exist, in any order.
	Points []Point
	// Tags are the Git tags of commits. Nil says that they are not known now: then no complete point goes if there are rules about
	// tags.
	Tags map[string][]string
	Now  time.Time
	// Zone is where hours, days, weeks and months begin; nil is UTC.
	Zone *time.Location
}

func (in Input) validate() error {
	if in.Now.IsZero() {
		return fmt.Errorf("%w: no time is given", ErrInvalid)
	}
	seen := map[string]bool{}
	for _, p := range in.Points {
		switch {
		case p.ID == "":
			return fmt.Errorf("%w: a point has no ID", ErrInvalid)
		case p.Taken.IsZero():
			return fmt.Errorf("%w: point %q has no time", ErrInvalid, p.ID)
		case seen[p.ID]:
			return fmt.Errorf("%w: point %q is there twice", ErrInvalid, p.ID)
		}
		seen[p.ID] = true
	}
	return in.Rules.validate()
}

// Rule is what keeps a point, or why it may go.
type Rule string

// What keeps points.
const (
	Last      Rule = "last"
	Hourly    Rule = "hourly"
	Daily     Rule = "daily"
	Weekly    Rule = "weekly"
	Monthly   Rule = "monthly"
	Tag       Rule = "tag"
	RanLonger Rule = "ran"
	// LastGood is the newest complete point, which always stays.
	LastGood Rule = "last good"
	Held     Rule = "hold"
	Used     Rule = "needed by"
	Locked   Rule = "locked until"
	// Future is a point of a time to come: some clock is wrong, or was. It counts for no rule that counts.
	Future Rule = "of a time to come"
	// Unfinished is a point that is not complete, while no later one is.
	Unfinished Rule = "not complete, and no later point is"
	// TagsUnknown keeps all as long as it is not known which commits have tags.
	TagsUnknown Rule = "the tags of its commit are not known"
	// NoRules keeps all.
	NoRules Rule = "no rule says what may go"
)

// Why points go.
const (
	Needless   Rule = "no rule keeps it"
	Incomplete Rule = "not complete, and a later point is"
)

// Reason says why a point is kept or goes.
type Reason struct {
	Rule   Rule
	Detail string
}

// String implements fmt.Stringer.
func (r Reason) String() string { return strings.TrimSpace(string(r.Rule) + " " + r.Detail) }

// Verdict is what becomes of one point.
type Verdict struct {
	Point Point
	Keep  bool
	// Reasons are never empty, and always in the same order.
	Reasons []Reason
}

// String implements fmt.Stringer.
func (v Verdict) String() string {
	words := make([]string, len(v.Reasons))
	for i, r := range v.Reasons {
		words[i] = r.String()
	}
	if v.Keep {
		return "Kept: " + strings.Join(words, ", ")
	}
	return "Goes: " + strings.Join(words, ", ")
}

// Decide judges every point, the newest first. Its errors match ErrInvalid.
func Decide(in Input) ([]Verdict, error) {
	if err := in.validate(); err != nil {
		return nil, err
	}
	d := newDecision(in)
	for _, rule := range []func(){d.safe, d.last, d.periods, d.tags, d.ran} {
		rule()
	}
	return d.verdicts(), nil
}

// decision collects what keeps points.
type decision struct {
	Input
	points  []Point // the newest first
	reasons [][]Reason
	// good are the complete points, counted those of them that are not of a time to come: numbers of points, the newest first.
	good, counted []int
}

func newDecision(in Input) *decision {
	if in.Zone == nil {
		in.Zone = time.UTC
	}
	d := &decision{Input: in, points: slices.Clone(in.Points), reasons: make([][]Reason, len(in.Points))}
	slices.SortFunc(d.points, func(a, b Point) int { return cmp.Or(b.Taken.Compare(a.Taken), cmp.Compare(b.ID, a.ID)) })
	for i, p := range d.points {
		if !p.Complete {
			continue
		}
		d.good = append(d.good, i)
		if !p.Taken.After(in.Now) {
			d.counted = append(d.counted, i)
		}
	}
	return d
}

func (d *decision) keep(i int, rule Rule, detail string) {
	d.reasons[i] = append(d.reasons[i], Reason{rule, detail})
}

// safe keeps what stays whatever the rules are.
func (d *decision) safe() {
	for i, p := range d.points {
		if p.Hold != "" {
			d.keep(i, Held, fmt.Sprintf("%q", p.Hold))
		}
		if p.Use != "" {
			d.keep(i, Used, p.Use)
		}
		if p.LockedUntil.After(d.Now) {
			d.keep(i, Locked, p.LockedUntil.UTC().Format(time.RFC3339))
		}
		if p.Taken.After(d.Now) {
			d.keep(i, Future, "")
		}
		if !p.Complete && (len(d.counted) == 0 || i < d.counted[0]) {
			d.keep(i, Unfinished, "")
		}
		if d.Rules.keepNothing() {
			d.keep(i, NoRules, "")
		}
	}
	if len(d.counted) > 0 {
		d.keep(d.counted[0], LastGood, "")
	}
}

func (d *decision) last() {
	for n, i := range d.counted[:min(d.Rules.Last, len(d.counted))] {
		d.keep(i, Last, fmt.Sprintf("%d of %d", n+1, d.Rules.Last))
	}
}

// periods keeps the newest point of each of the newest periods that have one.
func (d *decision) periods() {
	for _, p := range []struct {
		rule  Rule
		count int
		of    func(time.Time) string
	}{
		{Hourly, d.Rules.Hourly, hour}, {Daily, d.Rules.Daily, day}, {Weekly, d.Rules.Weekly, week}, {Monthly, d.Rules.Monthly, month},
	} {
		seen := map[string]bool{}
		for _, i := range d.counted {
			if len(seen) == p.count {
				break
			}
			if period := p.of(d.points[i].Taken.In(d.Zone)); !seen[period] {
				seen[period] = true
				d.keep(i, p.rule, period)
			}
		}
	}
}

// hour has the offset, because the hour in which summer time ends is there twice.
func hour(t time.Time) string  { return t.Format("2006-01-02 15h -07:00") }
func day(t time.Time) string   { return t.Format(time.DateOnly) }
func month(t time.Time) string { return t.Format("2006-01") }

func week(t time.Time) string {
	year, n := t.ISOWeek()
	return fmt.Sprintf("%d-W%02d", year, n)
}

// tags keeps the newest point of each commit that has a tag which matches.
func (d *decision) tags() {
	if len(d.Rules.Tags) == 0 {
		return
	}
	seen := map[string]bool{}
	for _, i := range d.good {
		if d.Tags == nil {
			d.keep(i, TagsUnknown, "")
			continue
		}
		commit := d.points[i].Commit
		if seen[commit] || d.points[i].Taken.After(d.Now) {
			continue
		}
		seen[commit] = true
		for _, tag := range d.matching(commit) {
			d.keep(i, Tag, tag)
		}
	}
}

// matching are the tags of a commit that a pattern matches, sorted.
func (d *decision) matching(commit string) []string {
	var found []string
	for _, tag := range slices.Compact(slices.Sorted(slices.Values(d.Tags[commit]))) {
		if slices.ContainsFunc(d.Rules.Tags, func(pattern string) bool {
			matched, err := path.Match(pattern, tag)
			return matched && err == nil // patterns were checked
		}) {
			found = append(found, tag)
		}
	}
	return found
}

func (d *decision) verdicts() []Verdict {
	all := make([]Verdict, len(d.points))
	for i, p := range d.points {
		all[i] = Verdict{Point: p, Keep: len(d.reasons[i]) > 0, Reasons: d.reasons[i]}
		switch {
		case all[i].Keep:
		case p.Complete:
			all[i].Reasons = []Reason{{Needless, ""}}
		default:
			all[i].Reasons = []Reason{{Incomplete, ""}}
		}
	}
	return all
}
