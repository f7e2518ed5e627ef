package match

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// limit is how many points or names an error lists.
const limit = 3

// AbsentError is the proof that the vault holds no point for what was asked.
type AbsentError struct {
	// Wanted says in words what was looked for.
	Wanted string
	// Nearest are up to three points that come closest, the best first.
	Nearest []point.Record
	// empty says that the vault holds no point at all.
	empty bool
	query Query
}

// OfCommit says that a point was looked for by its commit, and those before it do not count.
func (e *AbsentError) OfCommit() bool {
	return e.query.PointID == "" && e.query.Before == nil && len(e.query.Ancestors) == 0
}

// Error names what was looked for, that the vault was asked and has none, and what comes closest.
func (e *AbsentError) Error() string {
	s := "there is no restore point for " + e.Wanted
	switch {
	case e.query.PointID != "":
		s = "there is no " + e.Wanted
	case e.query.Before != nil:
		s = "there is no " + strings.TrimPrefix(e.Wanted, "a ")
	case len(e.query.Ancestors) > 0:
		s += fmt.Sprintf(", nor for any of the %s before it", count(len(e.query.Ancestors), "commit"))
	}
	if e.empty {
		return s + ": the vault answered and holds no point at all"
	}
	s += ": the vault answered and holds none"
	if len(e.Nearest) == 0 {
		return s + ", nor anything of this repository or application"
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
		s += atPlace(r.Revision)
	}
	if !e.query.ofApplication(r) {
		s += fmt.Sprintf(" for application %q", r.Application)
	}
	return s
}

func absent(records []point.Record, q Query) error {
	e := &AbsentError{Wanted: q.String(), empty: len(records) == 0, query: q}
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

// MismatchError says that the point that was found holds data which the commit may not understand: the commit that ran
// when it was taken deploys something else.
type MismatchError struct {
	Point point.Record
	// Target is the commit that the data would run under.
	Target v1alpha1.Revision
	// Match is how the point was found.
	Match string
}

// Error explains both commits, and what can be done.
func (e *MismatchError) Error() string {
	was, target := e.Point.Revision, e.Target
	s := fmt.Sprintf("point %s holds the data of %s, taken %s, and %s may expect another schema: ",
		e.Point.ID, commit(was), moment(e.Point.Taken), commit(target))
	if revision.CleanPath(was.Path) == revision.CleanPath(target.Path) {
		s += fmt.Sprintf("at path %q the tree of the first is %s, that of the second %s",
			revision.CleanPath(target.Path), tree(was), tree(target))
	} else {
		s += fmt.Sprintf("the first was deployed from path %q of %s, the second is at path %q of %s",
			revision.CleanPath(was.Path), revision.StripCredentials(was.Repository),
			revision.CleanPath(target.Path), revision.StripCredentials(target.Repository))
	}
	return s + fmt.Sprintf("; restore commit %s with this point, or allow the mismatch "+
		"(--allow-mismatch, spec.from.allowMismatch)", revision.Short(was.Commit))
}

func tree(r v1alpha1.Revision) string {
	if r.Tree == "" {
		return "not known"
	}
	return revision.Short(r.Tree)
}

// AmbiguousError says that several points or applications fit, and that choosing one would be guessing.
type AmbiguousError struct {
	// Wanted says in words what was looked for.
	Wanted string
	// Applications are those whose points fit, sorted. With a prefix of an ID, Points are IDs that fit, sorted.
	Applications, Points []string
	// More says that more points fit than Points has.
	More bool
}

// Error names what fits and how to say which is meant.
func (e *AmbiguousError) Error() string {
	if len(e.Points) > 0 {
		least := ""
		if e.More {
			least = "more than "
		}
		return fmt.Sprintf("%s fits %s%s: %s; give more of the ID", e.Wanted, least, count(len(e.Points), "point"), list(e.Points))
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
