// Package fault is how the program ends when something is wrong: what happened and why, how to mend it, and an exit
// code that a script can act upon.
package fault

import (
	"context"
	"errors"
	"fmt"
)

// Code is an exit code of the program. Scripts rely on the numbers: they never change.
type Code int

// The exit codes.
const (
	Done    Code = 0
	Failed  Code = 1 // it was tried and did not work
	Usage   Code = 2 // it could not begin: a flag, a file or a setting is wrong
	Unknown Code = 3 // the vault, Git or the cluster could not be asked; nothing follows from that
	Absent  Code = 4 // everything could be asked, and what was looked for does not exist
	Refused Code = 5 // it would overwrite something
	// Interrupted is what a shell reports of a program that ended on Ctrl-C.
	Interrupted Code = 130
)

// Error says what went wrong and how to mend it.
type Error struct {
	Code Code
	Err  error
	// Hint is one sentence that says what to do; it may be empty.
	Hint string
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// New makes an Error from a format as fmt.Errorf does.
func New(code Code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// CodeOf is the exit code that err means. What carries no code has simply failed.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return Done
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, context.Canceled):
		return Interrupted
	default:
		return Failed
	}
}

// HintOf is the hint of err, or an empty string.
func HintOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}
