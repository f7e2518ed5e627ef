// Package planner goes the way from what is asked for to a plan: it finds the point and the commit, renders the one, reads
// what the other holds beside volumes, looks at the cluster, and plans. A dry run and the controller go this way, and there is
// no other, so that what the one prints is what the other does.
package planner

import (
	"context"
	"errors"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/render"
	"github.com/lockstep-dr/lockstep/pkg/residual"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// Repository is an open Git repository; *git.Repository is one.
type Repository interface {
	URL() string
	Resolve(ctx context.Context, ref git.Ref, path string) (v1alpha1.Revision, error)
	Materialise(ctx context.Context, revision v1alpha1.Revision, dir string) error
}

// Request says what is to be restored.
type Request struct {
	// From names a commit, a tag, a point or a moment. Which vault it names does not count: that is open already.
	From v1alpha1.RestoreFrom
	// Path is the directory of the repository that is deployed.
	Path string
	// Point and Revision are the choice of an earlier planning, if both are set: what was chosen once is never chosen again.
	Point    *v1alpha1.ChosenPoint
	Revision *v1alpha1.Revision
}

// Choice is a point, the reason why it was chosen, and the commit to replay with it.
type Choice struct {
	match.Choice
	Revision v1alpha1.Revision
}

// Replay is a plan and what it needs beside the volumes.
type Replay struct {
	Plan *plan.Plan
	// Residual is what the point holds and Git does not.
	Residual residual.Set
}

// Planner makes plans from one vault and one repository.
type Planner struct {
	Vault      *volume.Vault
	Repository Repository
	// Remember keeps a new choice, before anything follows from it; nil if nobody asks twice. Its errors are passed on as they
	// are.
	Remember func(context.Context, Choice) error
	// Facts says what is known of the cluster, and whose restore it is. Its errors are passed on as they are.
	Facts func(context.Context, match.Choice, []*unstructured.Unstructured) (plan.Facts, error)
}

// Step is a part of the way to a plan.
type Step string

// Steps that fail in a way of their own.
const (
	// StepVault: the vault cannot be read. Nothing follows about the points in it.
	StepVault Step = "Vault"
	// StepGit: the repository does not answer, or has proven that it does not hold what was asked for; the errors of
	// pkg/git tell.
	StepGit Step = "Git"
	// StepMatch: the vault has answered, and holds no one point for the request. The errors of pkg/match tell.
	StepMatch Step = "Match"
	// StepRender: the commit does not render, or not to objects of the shape of their kinds.
	StepRender Step = "Render"
)

// Error says which step failed. Its text is the cause's.
type Error struct {
	Step Step
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// failed is an Error, unless nothing failed.
func failed(step Step, err error) error {
	if err == nil {
		return nil
	}
	return &Error{step, err}
}

// Plan makes the plan. Whatever speaks against the restore is in the plan's Refusals; an error means that there is no plan, and
// is an *Error unless it came from Remember, Facts or the machine itself.
func (p *Planner) Plan(ctx context.Context, q Request) (*Replay, error) {
	choice, err := p.choose(ctx, q)
	if err != nil {
		return nil, err
	}
	objects, err := Render(ctx, p.Repository, choice.Revision)
	if err != nil {
		return nil, err
	}
	set, err := p.residual(ctx, choice)
	if err != nil {
		return nil, err
	}
	known, err := p.Facts(ctx, choice.Choice, objects)
	if err != nil {
		return nil, err
	}
	made, err := plan.New(plan.Input{
		Choice: choice.Choice, Revision: choice.Revision, Objects: objects, Residual: set.Keys(), Facts: known,
	})
	if err != nil {
		return nil, failed(StepRender, err)
	}
	return &Replay{Plan: made, Residual: set}, nil
}

// choose takes the earlier choice, or makes one and has it remembered.
func (p *Planner) choose(ctx context.Context, q Request) (Choice, error) {
	if q.Point != nil && q.Revision != nil {
		record, err := catalog.Get(ctx, p.Vault, q.Point.ID)
		earlier := match.Choice{Record: record, Match: q.Point.Match, Reason: q.Point.Message}
		return Choice{earlier, *q.Revision}, failed(StepVault, err)
	}
	choice, err := p.find(ctx, q)
	if err != nil || p.Remember == nil {
		return choice, err
	}
	return choice, p.Remember(ctx, choice)
}

// find asks Git for the commit and the vault for its point; or the vault for the point and Git for the commit that ran when it
// was taken.
func (p *Planner) find(ctx context.Context, q Request) (Choice, error) {
	query := match.Query{Application: q.From.Application, PointID: q.From.RestorePoint}
	byCommit := q.From.Commit != "" || q.From.Tag != ""
	switch {
	case byCommit:
		resolved, err := p.Repository.Resolve(ctx, git.Ref{Commit: q.From.Commit, Tag: q.From.Tag}, q.Path)
		if err != nil {
			return Choice{}, failed(StepGit, err)
		}
		query.Revision = resolved
	case q.From.Before != nil:
		query.Before = &q.From.Before.Time
		query.Revision = v1alpha1.Revision{Repository: p.Repository.URL(), Path: q.Path}
	}
	choice, err := p.match(ctx, query)
	if err != nil || byCommit {
		return Choice{choice, query.Revision}, err
	}
	ran := choice.Record.Revision
	resolved, err := p.Repository.Resolve(ctx, git.Ref{Commit: ran.Commit}, q.Path)
	resolved.Ref = ran.Ref
	return Choice{choice, resolved}, failed(StepGit, err)
}

// match finds the point in the vault.
func (p *Planner) match(ctx context.Context, query match.Query) (match.Choice, error) {
	records, err := catalog.List(ctx, p.Vault)
	if err != nil {
		return match.Choice{}, failed(StepVault, err)
	}
	choice, err := match.Choose(records, query)
	return choice, failed(StepMatch, err)
}

// Render gives the objects of a commit. An error is an *Error, unless the machine has no room for the commit's files.
func Render(ctx context.Context, repository Repository, at v1alpha1.Revision) (_ []*unstructured.Unstructured, err error) {
	dir, err := os.MkdirTemp("", "lockstep-commit-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the commit: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := repository.Materialise(ctx, at, dir); err != nil {
		return nil, failed(StepGit, err)
	}
	objects, err := render.Render(ctx, dir, at.Path)
	if err != nil {
		return nil, failed(StepRender, fmt.Errorf("rendering commit %s: %w", revision.Short(at.Commit), err))
	}
	return objects, nil
}

// residual reads what the point holds beside volumes.
func (p *Planner) residual(ctx context.Context, choice Choice) (residual.Set, error) {
	data, err := catalog.Residual(ctx, p.Vault, choice.Record)
	if err != nil || data == nil {
		return residual.Set{}, failed(StepVault, err)
	}
	set, err := residual.Decode(data)
	return set, failed(StepVault, err)
}

// Auth reads the credentials of a repository from the data of a Secret, whose keys are those of Flux.
func Auth(data map[string][]byte) git.Auth {
	return git.Auth{
		Username: string(data["username"]), Password: string(data["password"]), BearerToken: string(data["bearerToken"]),
		Identity: data["identity"], Passphrase: string(data["password"]), KnownHosts: data["known_hosts"], CA: data["ca.crt"],
	}
}
