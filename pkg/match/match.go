// Package match finds the restore point that belongs to a revision. It is pure: the records are all that a vault
// holds, read before, and every answer is either a point, a proof that there is none, or a question back.
package match

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
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// Ways in which a point can belong to what was asked for; the values of ChosenPoint.Match.
const (
	// Exact: the point was taken while the very commit was running.
	Exact = "Exact"
	// SameTree: another commit was running, with the same tree at the path, so that it deploys the same thing.
	SameTree = "SameTree"
	// Named: the point was asked for by its ID.
	Named = "Named"
	// Before: the newest point before a moment was asked for.
	Before = "Before"
)

// Query says which point is wanted: PointID, or Before, or else the commit of Revision.
type Query struct {
	// Revision is the target. With Before only Repository and Path count, with PointID nothing of it.
	Revision v1alpha1.Revision
	// Application is "<namespace>/<policy>", empty for any. With Before, Application may stand for repository and path.
	Application string
	// PointID is the ID of a point or an unambiguous prefix of it.
	PointID string
	// Before asks for the newest point taken before this moment.
	Before *time.Time
}

// Choice is the chosen point.
type Choice struct {
	Record point.Record
	// Match is Exact, SameTree, Named or Before.
	Match string
	// Reason says in words why this point was chosen.
	Reason string
}

// Choose finds the point that q asks for. Records must be all that the vault holds: only then an AbsentError is a proof.
// Other errors are an AmbiguousError, or a query that asks for nothing.
func Choose(records []point.Record, q Query) (Choice, error) {
	switch {
	case q.PointID != "":
		return named(records, q)
	case q.Before != nil:
		return before(records, q)
	case q.Revision.Commit != "":
		return revised(records, q)
	}
	return Choice{}, errors.New("the query names neither a commit, nor a point, nor a moment")
}

func named(records []point.Record, q Query) (Choice, error) {
	fits := filter(records, func(r point.Record) bool {
		return q.ofApplication(r) && strings.HasPrefix(r.ID, q.PointID)
	})
	if i := slices.IndexFunc(fits, func(r point.Record) bool { return r.ID == q.PointID }); i >= 0 {
		return Choice{Record: fits[i], Match: Named, Reason: "asked for by its ID"}, nil
	}
	switch len(fits) {
	case 0:
		return Choice{}, absent(records, q)
	case 1:
		return Choice{Record: fits[0], Match: Named, Reason: fmt.Sprintf("the only point whose ID begins with %q", q.PointID)}, nil
	}
	ids := make([]string, 0, len(fits))
	for _, r := range fits {
		ids = append(ids, r.ID)
	}
	slices.Sort(ids)
	return Choice{}, &AmbiguousError{Wanted: q.String(), Points: ids}
}

func before(records []point.Record, q Query) (Choice, error) {
	if q.Application == "" && q.Revision.Repository == "" {
		return Choice{}, errors.New("a moment alone does not say of which application: give the repository and path, or the application")
	}
	fits := filter(records, func(r point.Record) bool {
		return q.ofApplication(r) && (q.Revision.Repository == "" || q.ofPath(r)) && r.Taken.Before(*q.Before)
	})
	if len(fits) == 0 {
		return Choice{}, absent(records, q)
	}
	return newest(fits, q, Before, fmt.Sprintf("taken before %s", moment(*q.Before)))
}

func revised(records []point.Record, q Query) (Choice, error) {
	here := filter(records, func(r point.Record) bool { return q.ofApplication(r) && q.ofPath(r) })
	exact := filter(here, func(r point.Record) bool { return r.Revision.Commit == q.Revision.Commit })
	if len(exact) > 0 {
		return newest(exact, q, Exact, fmt.Sprintf("taken while commit %s was running", revision.Short(q.Revision.Commit)))
	}
	same := filter(here, func(r point.Record) bool { return q.Revision.Tree != "" && r.Revision.Tree == q.Revision.Tree })
	if len(same) == 0 {
		return Choice{}, absent(records, q)
	}
	c, err := newest(same, q, SameTree, "")
	if err != nil {
		return Choice{}, err
	}
	c.Reason = fmt.Sprintf("no point was taken at commit %s, but %s has the same tree at path %q and so deploys the same thing%s",
		revision.Short(q.Revision.Commit), commit(c.Record.Revision), clean(q.Revision.Path), among(len(same)))
	return c, nil
}

// newest takes the last of equals, unless they belong to several applications.
func newest(fits []point.Record, q Query, match, reason string) (Choice, error) {
	var applications []string
	for _, r := range fits {
		applications = append(applications, r.Application)
	}
	slices.Sort(applications)
	if applications = slices.Compact(applications); len(applications) > 1 {
		return Choice{}, &AmbiguousError{Wanted: q.String(), Applications: applications}
	}
	last := slices.MaxFunc(fits, byTime)
	return Choice{Record: last, Match: match, Reason: reason + among(len(fits))}, nil
}

func among(n int) string {
	if n == 1 {
		return "; the only such point"
	}
	return fmt.Sprintf("; the newest of %d such points", n)
}

func (q Query) ofApplication(r point.Record) bool {
	return q.Application == "" || r.Application == q.Application
}

func (q Query) ofPath(r point.Record) bool {
	return revision.SameRepository(r.Revision.Repository, q.Revision.Repository) && clean(r.Revision.Path) == clean(q.Revision.Path)
}

// String says in words what is asked for.
func (q Query) String() string {
	var s string
	switch {
	case q.PointID != "":
		s = fmt.Sprintf("point %q", q.PointID)
	case q.Before != nil:
		s = "a point before " + moment(*q.Before)
	default:
		s = commit(q.Revision)
	}
	if q.PointID == "" && q.Revision.Repository != "" {
		s += fmt.Sprintf(" at path %q of %s", clean(q.Revision.Path), revision.StripCredentials(q.Revision.Repository))
	}
	if q.Application != "" {
		s += fmt.Sprintf(" for application %q", q.Application)
	}
	return s
}

func filter(records []point.Record, keep func(point.Record) bool) []point.Record {
	var kept []point.Record
	for _, r := range records {
		if keep(r) {
			kept = append(kept, r)
		}
	}
	return kept
}

// byTime orders by the moment of the data; the ID makes it total.
func byTime(a, b point.Record) int {
	return cmp.Or(a.Taken.Compare(b.Taken), cmp.Compare(a.ID, b.ID))
}

func clean(p string) string { return path.Clean("./" + p) }

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func commit(r v1alpha1.Revision) string {
	s := "commit " + revision.Short(r.Commit)
	if r.Ref != "" {
		s += " (" + r.Ref + ")"
	}
	return s
}
