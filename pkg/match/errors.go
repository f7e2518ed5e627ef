package match

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// limit is how many points or names an error lists.
const limit = 3

// AbsentError is the proof that the vault holds no point for what was asked.
type AbsentError struct {
	// Wanted says in words what was looked for.
	Wanted string
	// Total is the number of points in the vault, all of which were looked at.
	Total int
	// Nearest are up to three points that come closest, the best first.
	Nearest []point.Record
	query   Query
}

// Error names what was looked for, that the whole vault was, and what comes closest.
func (e *AbsentError) Error() string {
	s := "there is no restore point for " + e.Wanted
	if e.query.PointID != "" {
		s = "there is no " + e.Wanted
	}
	if e.query.Before != nil {
		s = "there is no " + strings.TrimPrefix(e.Wanted, "a ")
	}
	if e.Total == 0 {
		return s + ": the vault was read whole and holds no point at all"
	}
	s += fmt.Sprintf(": the vault was read whole (%s)", count(e.Total, "point"))
	if len(e.Nearest) == 0 {
		return s + " and holds nothing of this repository or application"
	}
	near := make([]string, 0, len(e.Nearest))
	for _, r := range e.Nearest {
		near = append(near, e.describe(r))
	}
	return s + "; nearest: " + strings.Join(near, "; ")
}

// describe says which point it is and, where that is not what was asked for, of what.
func (e *AbsentError) describe(r point.Record) string {
	s := fmt.Sprintf("%s of %s, taken %s", r.ID, commit(r.Revision), moment(r.Taken))
	if q := e.query; q.Revision.Repository == "" || !q.ofPath(r) {
		s += fmt.Sprintf(" at path %q of %s", clean(r.Revision.Path), revision.StripCredentials(r.Revision.Repository))
	}
	if !e.query.ofApplication(r) {
		s += fmt.Sprintf(" for application %q", r.Application)
	}
	return s
}

func absent(records []point.Record, q Query) error {
	e := &AbsentError{Wanted: q.String(), Total: len(records), query: q}
	e.Nearest = filter(records, func(r point.Record) bool { return q.distance(r) < far })
	slices.SortFunc(e.Nearest, func(a, b point.Record) int {
		if d := q.distance(a) - q.distance(b); d != 0 {
			return d
		}
		if q.Before != nil {
			return byTime(a, b)
		}
		return byTime(b, a)
	})
	e.Nearest = e.Nearest[:min(limit, len(e.Nearest))]
	return e
}

// far is the distance of a point that has nothing to do with the query.
const far = 4

// distance ranks points that do not fit: the very commit elsewhere, the same path, the application, the repository.
func (q Query) distance(r point.Record) int {
	switch repository := q.Revision.Repository; {
	case q.Revision.Commit != "" && r.Revision.Commit == q.Revision.Commit:
		return 0
	case q.ofApplication(r) && (q.PointID != "" || repository != "" && q.ofPath(r)):
		return 1
	case q.Application != "" && q.ofApplication(r):
		return 2
	case repository != "" && revision.SameRepository(r.Revision.Repository, repository):
		return 3
	}
	return far
}

// AmbiguousError says that several points or applications fit, and that choosing one would be guessing.
type AmbiguousError struct {
	// Wanted says in words what was looked for.
	Wanted string
	// Applications are those whose points fit, sorted. With a prefix of an ID, Points are the IDs that fit, sorted.
	Applications, Points []string
}

// Error names what fits and how to say which is meant.
func (e *AmbiguousError) Error() string {
	if len(e.Points) > 0 {
		return fmt.Sprintf("%s fits %s: %s; give more of the ID", e.Wanted, count(len(e.Points), "point"), list(e.Points))
	}
	return fmt.Sprintf("%s fits points of %s: %s; say which application is meant",
		e.Wanted, count(len(e.Applications), "application"), list(e.Applications))
}

func list(names []string) string {
	shown := strings.Join(names[:min(limit, len(names))], ", ")
	if more := len(names) - limit; more > 0 {
		shown += fmt.Sprintf(" and %d more", more)
	}
	return shown
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
