package cmd

import (
	"errors"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/planner"
)

// answerError gives what Git or the index of points answered its exit code, and a hint.
func answerError(err error) error {
	if err == nil {
		return nil
	}
	switch planner.AnswerOf(err) {
	case planner.Absent:
		return fault.New(fault.Absent, absentHint(err), "%w", err)
	case planner.Ambiguous:
		return fault.New(fault.Usage, ambiguousHint(err), "%w", err)
	case planner.Mismatch:
		return fault.New(fault.Refused, "", "%w", err)
	case planner.Unusable:
		return fault.New(fault.Failed, unusableHint(err), "%w", err)
	}
	if errors.Is(err, git.ErrUnreachable) {
		return fault.New(fault.Unknown, "Check the URL, the network and the credentials (--git-secret, or your SSH agent).", "%w", err)
	}
	return err
}

func absentHint(err error) string {
	var gone *git.GoneError
	switch absent := (*match.AbsentError)(nil); {
	case errors.As(err, &absent) && absent.OfCommit():
		return "See all: lockstep points. To make do with the nearest earlier commit that has a point: --allow-ancestor"
	case errors.As(err, &absent):
		return "See all: lockstep points"
	case errors.As(err, &gone) && gone.Same != "":
		return "Restore the commit that deploys the same thing: --commit " + gone.Same
	case errors.As(err, &gone):
		return "If another clone of the repository has the commit still, push it again or give that clone's URL with --repo."
	}
	return ""
}

func ambiguousHint(err error) string {
	if errors.Is(err, git.ErrAmbiguous) {
		return "Give more digits."
	}
	if e := (*match.AmbiguousError)(nil); errors.As(err, &e) && len(e.Applications) > 0 {
		return "Name one with --application."
	}
	return ""
}

func unusableHint(err error) string {
	if errors.Is(err, git.ErrUnsupported) {
		return "Nothing is proven about the points of this repository. lockstep volume load brings back single volumes without Git."
	}
	return ""
}
