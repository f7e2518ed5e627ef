package planner

import (
	"errors"

	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
)

// Answer is what an error says about what was asked for. Only Unknown may pass by itself: all others are proofs, and a person
// has to ask for something else.
type Answer string

// Answers.
const (
	// Unknown: the vault or Git did not answer, or not wholly. Nothing follows from that.
	Unknown Answer = "Unknown"
	// Absent: the vault and Git have answered, and do not hold what was asked for.
	Absent Answer = "Absent"
	// Ambiguous: several fit, and it is for a person to say which is meant.
	Ambiguous Answer = "Ambiguous"
	// Mismatch: there is a point, and its data may have another schema than the commit expects.
	Mismatch Answer = "Mismatch"
	// Unusable: what was asked for is there and cannot be restored: the commit is of a kind that is not supported, cannot be
	// written out safely, or does not render; or the question makes no sense.
	Unusable Answer = "Unusable"
)

// AnswerOf is the one place that says which errors of pkg/match and pkg/git are proofs. What it does not know is Unknown.
func AnswerOf(err error) Answer {
	var (
		absent    *match.AbsentError
		ambiguous *match.AmbiguousError
		mismatch  *match.MismatchError
		failed    *Error
	)
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case is(git.ErrUnreachable): // also beside a proof: then that is not one
		return Unknown
	case errors.As(err, &absent), is(git.ErrRefNotFound), is(git.ErrPathNotFound):
		return Absent
	case errors.As(err, &ambiguous), is(git.ErrAmbiguous):
		return Ambiguous
	case errors.As(err, &mismatch):
		return Mismatch
	case is(match.ErrInvalid), is(git.ErrUnsupported), is(git.ErrUnsafe):
		return Unusable
	case errors.As(err, &failed) && failed.Step == StepRender:
		return Unusable
	}
	return Unknown
}

// answered says whether the vault has answered.
func answered(err error) bool { return AnswerOf(err) != Unknown }
