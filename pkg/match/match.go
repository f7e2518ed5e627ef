// Package match finds the restore point that belongs to a revision. It is pure: the records are all that a vault
// holds, read before, and every answer is either a point, a proof that there is none, or a question back.
package match

import (
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/point"
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

// AbsentError is the proof that the vault holds no point for what was asked.
type AbsentError struct {
	// Wanted says what was looked for.
	Wanted string
	// Total is the number of points in the vault, all of which were looked at.
	Total int
	// Nearest are up to three points that come closest, the best first.
	Nearest []point.Record
	hint    string
}

func (e *AbsentError) Error() string { return "" }

// AmbiguousError: several points or applications fit, and choosing one would be guessing.
type AmbiguousError struct {
	// Wanted says what was looked for.
	Wanted string
	// Applications are those whose points fit, sorted; with a PointID prefix Points are the IDs that fit, sorted.
	Applications, Points []string
}

func (e *AmbiguousError) Error() string { return "" }

// Choose finds the point that q asks for. Records must be all that the vault holds: only then an AbsentError is a proof.
func Choose(records []point.Record, q Query) (Choice, error) {
	return Choice{}, nil
}
