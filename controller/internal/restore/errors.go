package restore

import (
	"errors"

	"github.com/lockstep-dr/lockstep/controller/internal/vaults"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
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
	case planner.StepGit:
		return fromGit(e.Err)
	case planner.StepMatch:
		return fromMatch(e.Err)
	}
	return final(v1alpha1.ReasonRenderFailed, e.Err)
}

// fromVault: whatever a vault fails with, it proves nothing about the points in it.
func fromVault(err error) error {
	reason := v1alpha1.ReasonPointUnknown
	if e := (*vaults.Error)(nil); errors.As(err, &e) && !e.Unknown() {
		reason = v1alpha1.ReasonVaultNotReady
	}
	return unknown(reason, err)
}

// fromMatch: the vault has answered, and its answers are proofs.
func fromMatch(err error) error {
	if e := (*match.AbsentError)(nil); errors.As(err, &e) {
		return final(v1alpha1.ReasonPointNotFound, err)
	}
	if e := (*match.MismatchError)(nil); errors.As(err, &e) {
		return final(v1alpha1.ReasonRefused, err)
	}
	return final(v1alpha1.ReasonInvalidSpec, err)
}

// fromGit tells what the repository has proven from what it did not answer.
func fromGit(err error) error {
	for _, proof := range []error{git.ErrRefNotFound, git.ErrAmbiguous, git.ErrPathNotFound, git.ErrUnsafe} {
		if errors.Is(err, proof) {
			return final(v1alpha1.ReasonSourceUnknown, err)
		}
	}
	return unknown(v1alpha1.ReasonSourceUnknown, err)
}
