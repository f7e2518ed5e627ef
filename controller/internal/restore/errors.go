package restore

import (
	"errors"

	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/planner"
)

// answer is why a restore does not go on, in the three ways that differ: unknown, which may mend itself; final, which a
// person must mend; and neither, a failure to be tried again.
type answer struct {
	reason string
	// final says that nothing changes without a person.
	final bool
	err   error
}

func (a *answer) Error() string { return a.err.Error() }

// Unwrap returns the cause.
func (a *answer) Unwrap() error { return a.err }

func unknown(reason string, err error) error { return &answer{reason: reason, err: err} }

func final(reason string, err error) error { return &answer{reason: reason, final: true, err: err} }

// fromPlanner sorts what stood in the way to a plan.
func fromPlanner(err error) error {
	var e *planner.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Step {
	case planner.StepVault:
		return fromVault(e.Err)
	case planner.StepRender:
		return final(v1alpha1.ReasonRenderFailed, e.Err)
	}
	return fromAnswer(e)
}

// fromVault: whatever a vault fails with, it proves nothing about the points in it.
func fromVault(err error) error {
	reason := v1alpha1.ReasonPointUnknown
	if e := (*vaults.Error)(nil); errors.As(err, &e) && !e.Unknown() {
		reason = v1alpha1.ReasonVaultNotReady
	}
	return unknown(reason, err)
}

// fromGit is fromPlanner for a repository that could not be opened.
func fromGit(err error) error { return fromAnswer(&planner.Error{Step: planner.StepGit, Err: err}) }

// fromAnswer tells what Git or the vault has proven from what they did not answer.
func fromAnswer(e *planner.Error) error {
	switch answer := planner.AnswerOf(e); {
	case answer == planner.Unknown:
		return unknown(v1alpha1.ReasonSourceUnknown, e.Err)
	case answer == planner.Mismatch:
		return final(v1alpha1.ReasonRefused, e.Err)
	case answer == planner.Absent && e.Step == planner.StepMatch:
		return final(v1alpha1.ReasonPointNotFound, e.Err)
	case answer == planner.Absent:
		return final(v1alpha1.ReasonSourceUnknown, e.Err)
	case answer == planner.Unusable && e.Step == planner.StepGit:
		return final(v1alpha1.ReasonSourceUnusable, e.Err)
	}
	return final(v1alpha1.ReasonInvalidSpec, e.Err)
}
