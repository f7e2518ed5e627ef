// Package match finds the restore point that belongs to a revision. It is pure: what the vault and Git say comes in as
// values, and every answer is either a point, a proof that there is none, or a question back. That something is not known
// never gets here: it is the error of who asked the vault or Git.
package match

import (
	"cmp"
	"errors"
	"fmt"
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
	// Ancestor: an earlier commit was running, and to make do with that was allowed.
	Ancestor = "Ancestor"
	// Named: the point was asked for by its ID.
	Named = "Named"
	// Before: the newest point before a moment was asked for.
	Before = "Before"
)

// ErrInvalid says that a query does not say what it asks for.
var ErrInvalid = errors.New("not a question that a vault can answer")

// Query says which point is wanted: PointID, or Before, or else the commit of Revision.
type Query struct {
	// Revision is the target. Its commit is what the data will run under; it may be empty with PointID or Before, and is then
	// that of the point. With Before its Repository and Path say of what. Without a Repository the commit may be of any.
	Revision v1alpha1.Revision
	// Application is "<namespace>/<policy>", empty for any. With Before it may stand for repository and path.
	Application string
	// PointID is the ID of a point or an unambiguous prefix of it.
	PointID string
	// Before asks for the newest point taken before this moment.
	Before *time.Time
	// Ancestors are the commits before that of Revision, the nearest first. Who gives them allows the newest point of
	// the nearest that has one, where no point fits better.
	Ancestors []revision.Ancestor
	// AllowMismatch allows a point whose commit may have data of another schema than the commit of Revision.
	AllowMismatch bool
}

// Choice is the chosen point.
type Choice struct {
	Record point.Record
	// Match is Exact, SameTree, Ancestor, Named or Before.
	Match string
	// Reason says in words why this point was chosen.
	Reason string
}

// Choose finds the point that q asks for. The records are all that the vault holds, or of them, for each application,
// the newest of those that fit best; if none fits, any that are near: only then an AbsentError is a proof. A record is written
// when everything else of its point is durable, so every one is of a complete point.
//
// Other errors are an AmbiguousError, a MismatchError, or ErrInvalid.
func Choose(records []point.Record, q Query) (Choice, error) {
	var c Choice
	var err error
	switch {
	case q.PointID != "":
		c, err = named(records, q)
	case q.Before != nil:
		c, err = before(records, q)
	case q.Revision.Commit != "":
		c, err = revised(records, q)
	default:
		err = fmt.Errorf("%w: it names neither a commit, nor a point, nor a moment", ErrInvalid)
	}
	if err != nil {
		return Choice{}, err
	}
	return Pair(c, q)
}

// allowed is what the reason of a choice says of a pair that would have been refused.
const allowed = "; that its data may not fit the commit was allowed"

// Pair keeps revision and data together: it returns the choice if its data may run under the commit of q, and otherwise a
// MismatchError, unless q allows the mismatch; the reason then says so. Choose pairs what it finds; who comes to know the commit
// only from the point, or has chosen before, asks here.
func Pair(c Choice, q Query) (Choice, error) {
	if q.fits(c.Record) {
		return c, nil
	}
	if !q.AllowMismatch {
		return Choice{}, &MismatchError{Point: c.Record, Target: q.Revision, Match: c.Match}
	}
	if !strings.HasSuffix(c.Reason, allowed) {
		c.Reason += allowed
	}
	return c, nil
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
		return Choice{}, fmt.Errorf("%w: a moment alone does not say of which application: give the repository and path, or the application", ErrInvalid)
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
	same := filter(here, q.sameTree)
	if len(same) > 0 {
		c, err := newest(same, q, SameTree, "")
		c.Reason = fmt.Sprintf("no point was taken at commit %s, but %s has the same tree at path %q and so deploys the same thing%s",
			revision.Short(q.Revision.Commit), commit(c.Record.Revision), revision.CleanPath(q.Revision.Path), amongEquals)
		return c, err
	}
	for _, a := range q.Ancestors {
		of := filter(here, func(r point.Record) bool { return r.Revision.Commit == a.Commit })
		if len(of) == 0 {
			continue
		}
		c, err := newest(of, q, Ancestor, "")
		c.Reason = fmt.Sprintf("no point was taken at commit %s or one that deploys the same thing, and %s is the nearest before it that has one%s",
			revision.Short(q.Revision.Commit), commit(c.Record.Revision), amongEquals)
		return c, err
	}
	return Choice{}, absent(records, q)
}

// amongEquals says why this point and none of its equals.
const amongEquals = "; the newest such point"

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
	return Choice{Record: slices.MaxFunc(fits, byTime), Match: match, Reason: reason + amongEquals}, nil
}

// fits says whether the data of r is such as the commit of the query expects: nothing was asked, it is the same commit, one
// that deploys the same thing, or an ancestor of which Git says that nothing differs that matters. By which address the
// repository is reached makes no difference: the names of commits and trees are made of what is in them.
func (q Query) fits(r point.Record) bool {
	if q.Revision.Commit == "" {
		return true
	}
	if q.Revision.Repository != "" && revision.CleanPath(r.Revision.Path) != revision.CleanPath(q.Revision.Path) {
		return false
	}
	return r.Revision.Commit == q.Revision.Commit || q.sameTree(r) || slices.Contains(q.Ancestors, revision.Ancestor{Commit: r.Revision.Commit})
}

func (q Query) sameTree(r point.Record) bool {
	return q.Revision.Tree != "" && r.Revision.Tree == q.Revision.Tree
}

func (q Query) ofApplication(r point.Record) bool {
	return q.Application == "" || r.Application == q.Application
}

func (q Query) ofPath(r point.Record) bool {
	return q.Revision.Repository == "" || samePlace(r.Revision, q.Revision)
}

func samePlace(a, b v1alpha1.Revision) bool {
	return revision.SameRepository(a.Repository, b.Repository) && revision.CleanPath(a.Path) == revision.CleanPath(b.Path)
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
		s += atPlace(q.Revision)
	}
	if q.Application != "" {
		s += fmt.Sprintf(" for application %q", q.Application)
	}
	return s
}

func atPlace(r v1alpha1.Revision) string {
	return fmt.Sprintf(" at path %q of %s", revision.CleanPath(r.Path), revision.StripCredentials(r.Repository))
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

func moment(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func commit(r v1alpha1.Revision) string {
	s := "commit " + revision.Short(r.Commit)
	if r.Ref != "" {
		s += " (" + r.Ref + ")"
	}
	return s
}
