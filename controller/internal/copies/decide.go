package copies

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/lockstep-dr/lockstep/controller/internal/movers"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
)

// step is the next thing to do for one copy.
type step int

const (
	stepWait  step = iota
	stepStart      // make the mover of the next attempt, or of this one again if somebody removed it
	stepEnd        // end a mover for which there is no hope
	stepNote       // keep in the status that the copy is verified
)

// work is one copy, and what there is of it.
type work struct {
	copy *v1alpha1.PointCopy // in the status of the point
	// unready says why a vault that is needed cannot be used now; empty if it can.
	unready string
	job     *batchv1.Job // of the last attempt
	mover   mover.State
}

// decision is a step, what to show, and when to look again.
type decision struct {
	step    step
	state   v1alpha1.CopyState
	message string
	again   time.Duration
}

// Limits pace copies.
type Limits struct {
	// Max is how many movers copy at once. They are among those that all points and restores share.
	Max int
	// RetryAfter is the wait after the first failure; it doubles with each further one, up to RetryMax. There is no last attempt: a point
	// that is not copied is a promise that is not kept.
	RetryAfter, RetryMax time.Duration
	// Copy bounds one attempt, Poll is how often a mover is looked at.
	Copy, Poll time.Duration
}

// DefaultLimits suit real clusters.
func DefaultLimits() Limits {
	return Limits{Max: 2, RetryAfter: 30 * time.Second, RetryMax: time.Hour, Copy: 24 * time.Hour, Poll: 2 * time.Second}
}

// decide finds the next step of a copy.
func decide(w *work, l Limits, now time.Time) decision {
	result, _ := w.mover.CopyResult()
	switch {
	case w.job != nil && result.Reason == mover.ReasonRemoved:
		return decision{state: v1alpha1.CopyRemoved, message: result.Error, again: atOnce}
	case w.job != nil && w.mover.Phase == mover.PhaseSucceeded:
		return decision{step: stepNote, state: v1alpha1.CopyVerified}
	case w.job != nil && w.mover.Phase != mover.PhaseFailed:
		if why := w.mover.Hopeless(now); why != "" {
			return decision{step: stepEnd, state: v1alpha1.CopyCopying, message: why, again: l.Poll}
		}
		return decision{state: v1alpha1.CopyCopying, message: w.mover.Message, again: l.Poll}
	case w.job != nil && movers.Ended(w.job).IsZero(): // its image cannot be had, or it is about to end
		d := decision{step: stepEnd, state: v1alpha1.CopyFailed, message: w.mover.Message, again: l.Poll}
		if w.mover.Abandoned {
			d.step = stepWait
		}
		return d
	case w.job != nil:
		if left := movers.Ended(w.job).Add(backoff(l, w.copy.Attempts)).Sub(now); left > 0 {
			return decision{state: v1alpha1.CopyFailed, message: w.mover.Message, again: left}
		}
	}
	if w.unready != "" {
		return decision{state: v1alpha1.CopyPending, message: w.unready, again: l.RetryAfter}
	}
	return decision{step: stepStart, state: v1alpha1.CopyCopying, again: l.Poll}
}

// backoff doubles with each attempt.
func backoff(l Limits, attempts int32) time.Duration {
	wait := l.RetryAfter
	for ; attempts > 1 && wait < l.RetryMax; attempts-- {
		wait *= 2
	}
	return min(wait, l.RetryMax)
}

// reconcileCopies has the status name every vault that the policy names, and none that holds nothing and is not named any more. It
// returns the vault to copy from, empty if none holds the point.
func reconcileCopies(p *v1alpha1.RestorePoint, vaults []string) (from string) {
	p.Status.Copies = slices.DeleteFunc(p.Status.Copies, func(c v1alpha1.PointCopy) bool {
		return c.VerifiedAt == nil && !slices.Contains(vaults, c.Vault)
	})
	for _, c := range p.Status.Copies {
		if c.VerifiedAt != nil {
			from = c.Vault
			break
		}
	}
	for _, name := range vaults {
		if !slices.ContainsFunc(p.Status.Copies, func(c v1alpha1.PointCopy) bool { return c.Vault == name }) {
			p.Status.Copies = append(p.Status.Copies, v1alpha1.PointCopy{Vault: name, State: v1alpha1.CopyPending})
		}
	}
	return from
}

// settled says whether a point is in all these vaults, or not to be there any more, and nothing is left of its movers. It may change the
// status.
func settled(p *v1alpha1.RestorePoint, vaults []string) bool {
	before := len(p.Status.Copies)
	reconcileCopies(p, vaults)
	return len(p.Status.Copies) == before && !pending(p) && !controllerutil.ContainsFinalizer(p, v1alpha1.FinalizerCopies)
}

// lacking says whether a vault is to hold the point and does not yet.
func lacking(c *v1alpha1.PointCopy) bool {
	return c.VerifiedAt == nil && c.State != v1alpha1.CopyRemoved
}

// pending says whether any vault is to hold the point and does not yet.
func pending(p *v1alpha1.RestorePoint) bool {
	return slices.ContainsFunc(p.Status.Copies, func(c v1alpha1.PointCopy) bool { return lacking(&c) })
}
