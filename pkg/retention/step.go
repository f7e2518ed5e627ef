package retention

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// What holds unless told otherwise.
const (
	// Grace is how long a point is marked before it is removed.
	Grace = 24 * time.Hour
	// Share of the points, or Least points, may go at once without a person's word, whichever is more.
	Share = 0.2
	Least = 5
)

// believed is the share of the grace time that may pass from one step to the next. What the clock says beyond that is not believed:
// a clock that jumps ahead ends no grace time.
const believed = 4

// Mark remembers a point that may go.
type Mark struct {
	ID string
	// Since is when it was marked.
	Since time.Time
	// Waited is how much of the grace time has passed.
	Waited time.Duration
}

// Marks are what one step leaves for the next. Who loses them begins anew, which is safe.
type Marks struct {
	// At is when the step was.
	At time.Time
	// Points may go. They are sorted by ID.
	Points []Mark
	// Level is how many points were kept, at most, in the grace time before. It sinks slowly to how many are kept now.
	Level float64
}

// Limits bound what goes. The zero value lets nothing go without a person's word.
type Limits struct {
	// Grace is how long a point is marked before it is removed. It goes by the time between steps, a quarter of it at most at once.
	Grace time.Duration
	// Share of the points that are kept, from 0 to 1, or Least points, if that is more: so many fewer may be kept than a grace time
	// before. Points that only make room for new ones do not count.
	Share float64
	Least int
}

// RefusedError says that more points would go at once than may without a person's word. None goes, and none is marked.
type RefusedError struct {
	// Kept of All points would be kept, Fewer fewer than before; only May fewer may be.
	Kept, All, Fewer, May int
	// Points are the IDs of those that would go, sorted.
	Points []string
}

// Digest names exactly the points that would go: a person's word for it is for no others.
func (e *RefusedError) Digest() string {
	sum := sha256.Sum256([]byte(strings.Join(e.Points, "\n")))
	return hex.EncodeToString(sum[:8])
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("of %d points %d would be kept, %d fewer than before, and only %d may go at once without a person's word: none is removed",
		e.All, e.Kept, e.Fewer, e.May)
}

// Pass is what one step does.
type Pass struct {
	// Marks must be durable before anything is removed, and are those of the next step.
	Marks Marks
	// Remove are the IDs of the points to remove now, the oldest point first. Each was marked by an earlier step.
	Remove []string
	// Refused, unless nil, says why nothing goes.
	Refused *RefusedError
}

// Next is one step on the way out: it marks the points that may go, takes the mark from those that are needed again, and removes
// those that were marked for the grace time. Old are the marks of the step before, word is the digest of the refusal that a person
// overruled, or empty. It may be repeated, and be late, and ask for the
// removal of a point again as long as that is there.
func Next(verdicts []Verdict, old Marks, l Limits, word string, now time.Time) Pass {
	p := Pass{Marks: Marks{At: now, Level: old.Level}}
	passed := old.passed(now, l.Grace)
	p.Refused = p.Marks.follow(verdicts, old, l, word, passed)
	marked := map[string]Mark{}
	for _, m := range old.Points {
		marked[m.ID] = m
	}
	for _, v := range slices.Backward(verdicts) { // the oldest first
		m, before := marked[v.Point.ID]
		if v.Keep || !before && p.Refused != nil {
			continue
		}
		if !before {
			m = Mark{ID: v.Point.ID, Since: now}
		} else if p.Refused == nil {
			m.Waited += passed
			if m.Waited >= l.Grace {
				p.Remove = append(p.Remove, m.ID)
			}
		}
		p.Marks.Points = append(p.Marks.Points, m)
	}
	slices.SortFunc(p.Marks.Points, func(a, b Mark) int { return strings.Compare(a.ID, b.ID) })
	return p
}

// passed is how much time is believed to have passed since the step.
func (m Marks) passed(now time.Time, grace time.Duration) time.Duration {
	if m.At.IsZero() {
		return 0
	}
	return min(max(now.Sub(m.At), 0), grace/believed)
}

// follow lets the level follow the number of points that are kept, or refuses that.
func (m *Marks) follow(verdicts []Verdict, old Marks, l Limits, word string, passed time.Duration) *RefusedError {
	kept := 0
	for _, v := range verdicts {
		if v.Keep {
			kept++
		}
	}
	if old.At.IsZero() { // all but what came in the last grace time, and may have made others go
		m.Level = float64(len(verdicts))
		for _, v := range verdicts {
			if v.Point.Taken.After(m.At.Add(-l.Grace)) && !v.Point.Taken.After(m.At) {
				m.Level--
			}
		}
	}
	may := max(l.Least, int(l.Share*m.Level))
	fewer := int(math.Ceil(m.Level)) - kept
	switch {
	case fewer <= may:
		sunk := m.Level
		if l.Grace > 0 {
			sunk -= float64(may) * float64(passed) / float64(l.Grace)
		}
		m.Level = max(float64(kept), sunk)
	default:
		refused := &RefusedError{Kept: kept, All: len(verdicts), Fewer: fewer, May: may}
		for _, v := range verdicts {
			if !v.Keep {
				refused.Points = append(refused.Points, v.Point.ID)
			}
		}
		slices.Sort(refused.Points)
		if word != refused.Digest() {
			return refused
		}
		m.Level = float64(kept)
	}
	return nil
}
