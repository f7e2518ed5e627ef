package retention_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // the tests do not depend on the zones of the machine

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/retention"
)

func at(t testing.TB, s string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// good makes a complete point of commit c1, whose ID is its time.
func good(t testing.TB, taken string) retention.Point {
	return retention.Point{ID: taken, Taken: at(t, taken), Commit: "c1", Complete: true}
}

func with(p retention.Point, change func(*retention.Point)) retention.Point {
	change(&p)
	return p
}

func of(p retention.Point, commit, tree string) retention.Point {
	p.Commit, p.Tree = commit, tree
	return p
}

func decide(t testing.TB, in retention.Input) []retention.Verdict {
	t.Helper()
	verdicts, err := retention.Decide(in)
	if err != nil {
		t.Fatal(err)
	}
	return verdicts
}

func TestDecide(t *testing.T) {
	partial := func(p *retention.Point) { p.Complete = false }
	tests := []struct {
		name string
		in   retention.Input
		// want are the verdicts, the newest point first.
		want []string
	}{
		{name: "no point", in: retention.Input{Rules: retention.Rules{Last: 1}}},
		{
			name: "no rules",
			in:   retention.Input{Points: []retention.Point{good(t, "2026-11-01T00:00:00Z"), good(t, "2020-11-01T00:00:00Z")}},
			want: []string{"Kept: no rule says what may go, last good", "Kept: no rule says what may go"},
		},
		{
			name: "last",
			in: retention.Input{Rules: retention.Rules{Last: 2}, Points: []retention.Point{
				good(t, "2026-11-01T01:00:00Z"), good(t, "2026-11-01T03:00:00Z"), good(t, "2026-11-01T02:00:00Z")}},
			want: []string{"Kept: last good, last 1 of 2", "Kept: last 2 of 2", "Goes: no rule keeps it"},
		},
		{
			name: "the newest of each period that has points",
			in: retention.Input{Rules: retention.Rules{Hourly: 2, Daily: 2, Weekly: 2, Monthly: 3}, Points: []retention.Point{
				good(t, "2026-11-20T10:50:00Z"), good(t, "2026-11-20T10:10:00Z"), good(t, "2026-11-20T03:10:00Z"),
				good(t, "2026-11-18T20:00:00Z"), good(t, "2026-11-18T10:00:00Z"), good(t, "2026-10-31T10:00:00Z"),
				good(t, "2025-12-31T10:00:00Z"), good(t, "2025-11-30T10:00:00Z")}},
			want: []string{
				"Kept: last good, hourly 2026-11-20 10h +00:00, daily 2026-11-20, weekly 2026-W47, monthly 2026-11",
				"Goes: no rule keeps it",
				"Kept: hourly 2026-11-20 03h +00:00",
				"Kept: daily 2026-11-18",
				"Goes: no rule keeps it",
				"Kept: weekly 2026-W44, monthly 2026-10",
				"Kept: monthly 2025-12",
				"Goes: no rule keeps it",
			},
		},
		{
			name: "days begin where the zone says",
			in: retention.Input{Rules: retention.Rules{Daily: 2}, Zone: zone(t, "America/New_York"), Points: []retention.Point{
				good(t, "2026-11-20T06:00:00Z"), good(t, "2026-11-20T04:00:00Z"), good(t, "2026-11-19T06:00:00Z")}},
			want: []string{"Kept: last good, daily 2026-11-20", "Kept: daily 2026-11-19", "Goes: no rule keeps it"},
		},
		{
			name: "the hour that is there twice",
			in: retention.Input{Rules: retention.Rules{Hourly: 3}, Zone: zone(t, "Europe/Berlin"), Points: []retention.Point{
				good(t, "2026-10-25T02:30:00Z"), good(t, "2026-10-25T01:30:00Z"), good(t, "2026-10-25T00:30:00Z")}},
			want: []string{"Kept: last good, hourly 2026-10-25 03h +01:00", "Kept: hourly 2026-10-25 02h +01:00", "Kept: hourly 2026-10-25 02h +02:00"},
		},
		{
			name: "the newest point of a tagged commit",
			in: retention.Input{Rules: retention.Rules{Tags: []string{"v*", "keep"}},
				Tags: map[string][]string{"c2": {"v1.1", "nightly", "keep"}, "c3": {"nightly"}, "c4": {"release/v1"}},
				Points: []retention.Point{
					good(t, "2026-11-20T10:00:00Z"),
					of(good(t, "2026-10-20T10:00:00Z"), "c2", ""), of(good(t, "2026-10-20T09:00:00Z"), "c2", ""),
					of(good(t, "2026-09-20T10:00:00Z"), "c3", ""), of(good(t, "2026-08-20T10:00:00Z"), "c4", "")}},
			want: []string{"Kept: last good", "Kept: tag keep, tag v1.1", "Goes: no rule keeps it", "Goes: no rule keeps it", "Goes: no rule keeps it"},
		},
		{
			name: "tags are not known",
			in: retention.Input{Rules: retention.Rules{Tags: []string{"v*"}}, Points: []retention.Point{
				good(t, "2026-11-20T10:00:00Z"), good(t, "2026-11-19T10:00:00Z"), with(good(t, "2026-11-18T10:00:00Z"), partial)}},
			want: []string{
				"Kept: last good, the tags of its commit are not known", "Kept: the tags of its commit are not known",
				"Goes: not complete, and a later point is"},
		},
		{
			name: "there are no tags",
			in: retention.Input{Rules: retention.Rules{Tags: []string{"v*"}}, Tags: map[string][]string{}, Points: []retention.Point{
				good(t, "2026-11-20T10:00:00Z"), good(t, "2026-11-19T10:00:00Z")}},
			want: []string{"Kept: last good", "Goes: no rule keeps it"},
		},
		{
			name: "held and locked",
			in: retention.Input{Rules: retention.Rules{Last: 1}, Points: []retention.Point{
				good(t, "2026-11-20T10:00:00Z"),
				with(good(t, "2026-11-19T10:00:00Z"), func(p *retention.Point) { p.Hold = "before the audit" }),
				with(good(t, "2026-11-18T10:00:00Z"), func(p *retention.Point) { p.LockedUntil = at(t, "2026-12-24T00:00:00Z") }),
				with(good(t, "2026-11-17T10:00:00Z"), func(p *retention.Point) { p.LockedUntil = at(t, "2026-11-21T00:00:00Z") }),
				with(good(t, "2026-11-16T10:00:00Z"), func(p *retention.Point) { p.Complete, p.Hold = false, "to look at" })}},
			want: []string{
				"Kept: last good, last 1 of 1", `Kept: hold "before the audit"`, "Kept: locked until 2026-12-24T00:00:00Z", "Goes: no rule keeps it",
				`Kept: hold "to look at"`},
		},
		{
			name: "a partial point never stands for a good one",
			in: retention.Input{Rules: retention.Rules{Last: 1, Daily: 5}, Points: []retention.Point{
				with(good(t, "2026-11-20T10:00:00Z"), partial), good(t, "2026-11-19T10:00:00Z"), with(good(t, "2026-11-18T10:00:00Z"), partial)}},
			want: []string{"Kept: not complete, and no later point is", "Kept: last good, last 1 of 1, daily 2026-11-19", "Goes: not complete, and a later point is"},
		},
		{
			name: "points of a time to come do not push others out",
			in: retention.Input{Rules: retention.Rules{Last: 1}, Points: []retention.Point{
				good(t, "2031-01-01T00:00:00Z"), good(t, "2030-01-01T00:00:00Z"), good(t, "2026-11-19T10:00:00Z"), good(t, "2026-11-18T10:00:00Z")}},
			want: []string{"Kept: of a time to come", "Kept: of a time to come", "Kept: last good, last 1 of 1", "Goes: no rule keeps it"},
		},
		{
			name: "a schedule that stands still loses nothing",
			in: retention.Input{Rules: retention.Rules{Hourly: 2}, Points: []retention.Point{
				good(t, "2019-11-19T10:00:00Z"), good(t, "2019-11-19T09:00:00Z")}},
			want: []string{"Kept: last good, hourly 2019-11-19 10h +00:00", "Kept: hourly 2019-11-19 09h +00:00"},
		},
		{
			name: "same time, decided by ID",
			in: retention.Input{Rules: retention.Rules{Last: 1}, Points: []retention.Point{
				with(good(t, "2026-11-19T10:00:00Z"), func(p *retention.Point) { p.ID = "b" }),
				with(good(t, "2026-11-19T10:00:00Z"), func(p *retention.Point) { p.ID = "a" })}},
			want: []string{"Kept: last good, last 1 of 1", "Goes: no rule keeps it"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Now = at(t, "2026-11-21T12:00:00Z")
			check(t, tt.in, tt.want)
		})
	}
}

func check(t *testing.T, in retention.Input, want []string) {
	t.Helper()
	var got []string
	for _, v := range decide(t, in) {
		got = append(got, v.String())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestRanLonger(t *testing.T) {
	const week = 7 * 24 * time.Hour
	tests := []struct {
		name   string
		points []retention.Point
		want   []string
	}{
		{
			name: "from points alone: the newest stays, and the oldest that tells so",
			points: []retention.Point{
				of(good(t, "2026-11-20T00:00:00Z"), "c3", ""),
				of(good(t, "2026-11-19T00:00:00Z"), "c2", ""), of(good(t, "2026-11-18T00:00:00Z"), "c2", ""),
				of(good(t, "2026-11-17T00:00:00Z"), "c1", ""), of(good(t, "2026-11-10T00:00:00Z"), "c1", ""), of(good(t, "2026-11-08T00:00:00Z"), "c1", "")},
			want: []string{"Kept: last good", "Goes: no rule keeps it", "Goes: no rule keeps it",
				"Kept: ran for at least 216h", "Goes: no rule keeps it", "Kept: ran how long is known from it"},
		},
		{
			name: "commits of one tree are one deployment",
			points: []retention.Point{
				of(good(t, "2026-11-20T00:00:00Z"), "c3", "t2"),
				of(good(t, "2026-11-19T00:00:00Z"), "c2", "t1"), of(good(t, "2026-11-01T00:00:00Z"), "c1", "t1")},
			want: []string{"Kept: last good", "Kept: ran for at least 432h", "Kept: ran how long is known from it"},
		},
		{
			name: "deployed twice: from the first time to the last",
			points: []retention.Point{
				of(good(t, "2026-11-20T00:00:00Z"), "c1", ""), of(good(t, "2026-11-10T00:00:00Z"), "c2", ""), of(good(t, "2026-11-01T00:00:00Z"), "c1", "")},
			want: []string{"Kept: last good, ran for at least 456h", "Goes: no rule keeps it", "Kept: ran how long is known from it"},
		},
		{
			name: "what is deployed now: the oldest stays, which will tell",
			points: []retention.Point{
				of(good(t, "2026-11-20T00:00:00Z"), "c2", ""), of(good(t, "2026-11-18T00:00:00Z"), "c2", ""), of(good(t, "2026-11-16T00:00:00Z"), "c2", ""),
				of(good(t, "2026-11-12T00:00:00Z"), "c1", ""), of(good(t, "2026-11-11T00:00:00Z"), "c1", "")},
			want: []string{"Kept: last good", "Goes: no rule keeps it", "Kept: ran how long will be known from it",
				"Goes: no rule keeps it", "Goes: no rule keeps it"},
		},
		{
			name: "also when a clock was ahead",
			points: []retention.Point{
				of(good(t, "2027-01-01T00:00:00Z"), "c1", ""),
				of(good(t, "2026-11-20T00:00:00Z"), "c2", ""), of(good(t, "2026-11-18T00:00:00Z"), "c2", ""), of(good(t, "2026-11-16T00:00:00Z"), "c2", "")},
			want: []string{"Kept: of a time to come", "Kept: last good", "Goes: no rule keeps it", "Kept: ran how long will be known from it"},
		},
		{
			name:   "no longer than wanted",
			points: []retention.Point{of(good(t, "2026-11-20T00:00:00Z"), "c2", ""), of(good(t, "2026-11-08T00:00:00Z"), "c1", ""), of(good(t, "2026-11-01T00:00:00Z"), "c1", "")},
			want:   []string{"Kept: last good", "Goes: no rule keeps it", "Goes: no rule keeps it"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check(t, retention.Input{
				Rules: retention.Rules{RanLonger: week}, Points: tt.points, Now: at(t, "2026-11-21T12:00:00Z"),
			}, tt.want)
		})
	}
}

// TestRanLongerOverTime keeps one point beside, so that the points of a deployment go one after the other while it runs.
func TestRanLongerOverTime(t *testing.T) {
	const day = 24 * time.Hour
	in := retention.Input{Rules: retention.Rules{Last: 1, RanLonger: 7 * day}, Now: at(t, "2026-11-01T00:00:00Z")}
	for _, deploy := range []struct {
		commit string
		days   int
	}{{"short", 6}, {"long", 9}, {"last", 3}} {
		for range deploy.days {
			in.Now = in.Now.Add(day)
			in.Points = append(in.Points, of(good(t, in.Now.Format(time.RFC3339)), deploy.commit, ""))
			left := kept(decide(t, in))
			in.Points = slices.DeleteFunc(in.Points, func(p retention.Point) bool { return !left[p.ID] })
		}
	}
	check(t, in, []string{"Kept: last good, last 1 of 1", "Kept: ran how long will be known from it",
		"Kept: ran for at least 192h", "Kept: ran how long is known from it"})
}

func TestDecideRefuses(t *testing.T) {
	now := at(t, "2026-11-21T12:00:00Z")
	point := good(t, "2026-11-01T00:00:00Z")
	tests := map[string]retention.Input{
		"no time":                {Rules: retention.Rules{Last: 1}},
		"a negative count":       {Now: now, Rules: retention.Rules{Last: 5, Daily: -1}},
		"a negative time":        {Now: now, Rules: retention.Rules{RanLonger: -1}},
		"a broken pattern":       {Now: now, Rules: retention.Rules{Tags: []string{"v["}}},
		"a point twice":          {Now: now, Points: []retention.Point{point, point}},
		"a point without ID":     {Now: now, Points: []retention.Point{{Taken: now}}},
		"a point without a time": {Now: now, Points: []retention.Point{{ID: "a"}}},
	}
	for name, in := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := retention.Decide(in); !errors.Is(err, retention.ErrInvalid) || got != nil {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func ExampleVerdict() {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	verdicts, err := retention.Decide(retention.Input{
		Rules: retention.Rules{Last: 1, Tags: []string{"v*"}}, Now: now,
		Points: []retention.Point{
			{ID: "a", Taken: now.Add(-3 * time.Hour), Commit: "c1", Complete: true},
			{ID: "b", Taken: now.Add(-2 * time.Hour), Commit: "c2", Complete: true},
			{ID: "c", Taken: now.Add(-1 * time.Hour), Commit: "c3", Complete: true},
		},
		Tags: map[string][]string{"c1": {"v1.2"}},
	})
	if err != nil {
		panic(err)
	}
	for _, v := range verdicts {
		fmt.Println(v.Point.ID, v)
	}
	// Output:
	// c Kept: last good, last 1 of 1
	// b Goes: no rule keeps it
	// a Kept: tag v1.2
}
