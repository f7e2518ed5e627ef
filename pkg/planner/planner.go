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
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/render"
	"github.com/lockstep-dr/lockstep/pkg/residual"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/sops"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// Repository is an open Git repository; *git.Repository is one.
type Repository interface {
	URL() string
	Resolve(ctx context.Context, ref git.Ref, path string) (v1alpha1.Revision, error)
	Recall(ctx context.Context, recorded v1alpha1.Revision, path string) (v1alpha1.Revision, error)
	Ancestors(ctx context.Context, of v1alpha1.Revision, limit int, schema ...string) ([]revision.Ancestor, error)
	Materialise(ctx context.Context, revision v1alpha1.Revision, dir string) error
}

// Request says what is to be restored.
type Request struct {
	// From names a commit, a tag, a branch, a point or a moment, and what is allowed. Which vault it names does not count: that is open already.
	From v1alpha1.RestoreFrom
	// Path is the directory of the repository that is deployed.
	Path string
	// Volumes are the only claims to bring back, without a commit; no repository is asked then.
	Volumes []v1alpha1.VolumeRequest
	// Only are the workloads of the commit to bring back; empty for all that it renders.
	Only []v1alpha1.WorkloadReference
	// Mapping gives namespaces and storage classes other names.
	Mapping object.Mapping
	// SetAside allows that bound claims are replaced, and their volumes kept; Aside is what an earlier planning has decided of it.
	SetAside bool
	Aside    *plan.Aside
	// Point and Revision are the choice of an earlier planning, if both are set: what was chosen once is never chosen again.
	Point    *v1alpha1.ChosenPoint
	Revision *v1alpha1.Revision
}

// Choice is a point, the reason why it was chosen, and the commit to replay with it.
type Choice struct {
	match.Choice
	// Revision is empty where only volumes come back.
	Revision v1alpha1.Revision
}

// Replay is a plan and what it needs beside the volumes.
type Replay struct {
	Plan *plan.Plan
	// Residual is what the point holds and the commit does not.
	Residual residual.Set
	// Leftovers are the text in it that may still lead into a namespace by its old name. They are not in the plan, which names none
	// of these objects.
	Leftovers map[object.Key][]object.Leftover
}

// Planner makes plans from one vault and one repository.
type Planner struct {
	Vault *volume.Vault
	// Repository may be nil where only volumes are asked for.
	Repository Repository
	// Remember keeps a new choice, before anything follows from it; nil if nobody asks twice. Its errors are passed on as they
	// are.
	Remember func(context.Context, Choice) error
	// Keys open what is encrypted with SOPS, where Lockstep itself applies the commit. Without any it stays as it is, and is refused.
	Keys sops.Keys
	// IgnoreMAC opens also what is not as it was when it was encrypted, as Flux does.
	IgnoreMAC bool
	// Engine says what applies the commit, and how that builds the path; nil where nobody asks. Its errors are passed on as they are.
	Engine func(context.Context) (*Engine, error)
	// Values reads the entries of a ConfigMap or Secret of the cluster, from which an engine takes variables; nil means that there is
	// none. Its errors are passed on as they are.
	Values func(context.Context, object.Key) (map[string]string, error)
	// Facts says what is known of the cluster, and whose restore it is. Its errors are passed on as they are.
	Facts func(context.Context, match.Choice, []*unstructured.Unstructured) (plan.Facts, error)
	// Existing says which of the objects exist in the cluster. It is asked where namespaces are given other names, and its errors
	// are passed on as they are.
	Existing func(context.Context, []*unstructured.Unstructured) (map[object.Key]bool, error)
	// Consumers says what mounts the claims, and what made that. It is asked where claims may be set aside, and its errors are passed
	// on as they are.
	Consumers func(context.Context, map[object.Name]plan.ClaimFact) ([]plan.Consumer, error)
	// Preflight finds out what else may keep the plan from being carried out; nil if nobody asks. Its errors are passed on as they
	// are. Inspect makes one.
	Preflight func(context.Context, *plan.Plan, residual.Set) (plan.Preflight, error)
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
	// StepMatch: the vault has answered, and holds no one point that may be had. The errors of pkg/match tell.
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
	if len(q.Volumes) > 0 {
		return p.planVolumes(ctx, q)
	}
	choice, err := p.choose(ctx, q)
	if err != nil {
		return nil, err
	}
	set, err := p.residual(ctx, choice)
	if err != nil {
		return nil, err
	}
	engine, err := p.engine(ctx)
	if err != nil {
		return nil, err
	}
	objects, err := p.render(ctx, choice.Revision, engine, set)
	if err != nil {
		return nil, err
	}
	set = set.Without(brought(objects))
	var part *plan.Part
	if len(q.Only) > 0 {
		if part, err = plan.Only(objects, choice.Record, q.Only); err != nil {
			return nil, failed(StepRender, err)
		}
		objects, choice.Record = part.Objects, part.Record
		set = set.Without(func(key object.Key) bool { return !part.Needs(key) })
	}
	mapped := plan.Map(q.Mapping, choice.Record, objects)
	choice.Record, set = mapped.Record, set.Map(mapped.Mapping)
	known, err := p.facts(ctx, q, choice.Choice, mapped)
	if err != nil {
		return nil, err
	}
	if engine.Engine != nil {
		known.Engine = engine.Engine
	}
	// What the engines need is theirs, and beside a running application they have it.
	if home := known.RestoreNamespace; home != "" && home != v1alpha1.SystemNamespace || len(q.Mapping.Namespaces) > 0 {
		set = set.WithoutBootstrap()
	}
	if len(p.Keys) > 0 && !known.Engine.Manages() {
		for i, o := range objects {
			if objects[i], err = p.Keys.Decrypt(o); err != nil {
				return nil, failed(StepRender, fmt.Errorf("decrypting: %w", err))
			}
		}
	}
	leftovers, err := set.Leftovers(mapped.Mapping)
	if err != nil {
		return nil, failed(StepVault, err)
	}
	made, err := plan.New(plan.Input{
		Choice: choice.Choice, Revision: choice.Revision, Objects: mapped.Objects, Residual: set.Keys(), Leading: len(leftovers), Part: part,
		Mapped: mapped, Facts: known, SetAside: q.SetAside, Earlier: q.Aside,
	})
	if err != nil {
		return nil, failed(StepRender, err)
	}
	return p.inspected(ctx, &Replay{Plan: made, Residual: set, Leftovers: leftovers})
}

// choose takes the earlier choice, or makes one and has it remembered.
func (p *Planner) choose(ctx context.Context, q Request) (Choice, error) {
	if q.Point != nil && q.Revision != nil {
		record, err := catalog.Get(ctx, p.Vault, q.Point.ID)
		if err != nil {
			return Choice{}, failed(StepVault, err)
		}
		return pair(match.Choice{Record: record, Match: q.Point.Match, Reason: q.Point.Message}, *q.Revision, q.From)
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
	query := match.Query{Application: q.From.Application, PointID: q.From.RestorePoint, AllowMismatch: q.From.AllowMismatch}
	if q.From.RestorePoint == "" && q.From.Before == nil {
		ref := git.Ref{Commit: q.From.Commit, Tag: q.From.Tag, Branch: q.From.Branch}
		resolved, err := p.Repository.Resolve(ctx, ref, q.Path)
		if err != nil {
			return Choice{}, failed(StepGit, err)
		}
		query.Revision = resolved
		choice, err := p.match(ctx, query, q.From)
		return Choice{choice, resolved}, err
	}
	if q.From.Before != nil {
		query.Before = &q.From.Before.Time
		query.Revision = v1alpha1.Revision{Repository: p.Repository.URL(), Path: q.Path}
	}
	choice, err := p.match(ctx, query, q.From)
	if err != nil {
		return Choice{}, err
	}
	recalled, err := p.Repository.Recall(ctx, choice.Record.Revision, q.Path)
	if err != nil {
		return Choice{}, failed(StepGit, err)
	}
	return pair(choice, recalled, q.From)
}

// match finds the point in the vault, where that is allowed of an earlier commit.
func (p *Planner) match(ctx context.Context, query match.Query, from v1alpha1.RestoreFrom) (match.Choice, error) {
	var ancestors func(context.Context) ([]revision.Ancestor, error)
	if from.AllowAncestor {
		ancestors = func(ctx context.Context) ([]revision.Ancestor, error) {
			found, err := p.Repository.Ancestors(ctx, query.Revision, 0, from.SchemaPaths...)
			return found, failed(StepGit, err)
		}
	}
	choice, err := catalog.Find(ctx, p.Vault, query, ancestors)
	var known *Error
	switch {
	case err == nil, errors.As(err, &known):
		return choice, err
	case answered(err):
		return choice, failed(StepMatch, err)
	}
	return choice, failed(StepVault, err)
}

// pair puts a point and a commit together, if they may be. That one commit is before the other was seen when the point was found.
func pair(c match.Choice, at v1alpha1.Revision, from v1alpha1.RestoreFrom) (Choice, error) {
	query := match.Query{Revision: at, AllowMismatch: from.AllowMismatch}
	if c.Match == match.Ancestor {
		query.Ancestors = []revision.Ancestor{{Commit: c.Record.Revision.Commit}}
	}
	paired, err := match.Pair(c, query)
	return Choice{paired, at}, failed(StepMatch, err)
}

// Render gives the objects of a commit. An error is an *Error, unless the machine has no room for the commit's files.
func Render(ctx context.Context, repository Repository, at v1alpha1.Revision) ([]*unstructured.Unstructured, error) {
	return renderAs(ctx, repository, at, render.As{Path: at.Path})
}

func renderAs(ctx context.Context, repository Repository, at v1alpha1.Revision, as render.As) (objects []*unstructured.Unstructured, err error) {
	err = withFiles(ctx, repository, at, func(dir string) error {
		objects, err = render.Build(ctx, dir, as)
		return err
	})
	return objects, err
}

// withFiles writes the commit out for as long as it is rendered.
func withFiles(ctx context.Context, repository Repository, at v1alpha1.Revision, do func(dir string) error) (err error) {
	dir, err := os.MkdirTemp("", "lockstep-commit-")
	if err != nil {
		return fmt.Errorf("making a directory for the commit: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := repository.Materialise(ctx, at, dir); err != nil {
		return failed(StepGit, err)
	}
	if err := do(dir); err != nil {
		var known *Error
		if errors.As(err, &known) {
			return err
		}
		return failed(StepRender, fmt.Errorf("rendering commit %s: %w", revision.Short(at.Commit), err))
	}
	return nil
}

// facts asks the cluster for all that a plan must know.
func (p *Planner) facts(ctx context.Context, q Request, choice match.Choice, mapped plan.Mapped) (plan.Facts, error) {
	known, err := p.Facts(ctx, choice, mapped.Objects)
	if err != nil {
		return known, err
	}
	if q.SetAside && q.Aside == nil {
		if known.Consumers, err = p.Consumers(ctx, known.Claims); err != nil {
			return known, err
		}
	}
	if apart := mapped.Apart(); len(apart) > 0 {
		known.Existing, err = p.Existing(ctx, apart)
	}
	return known, err
}

// brought tells of an object whether the commit itself brings it: Git may have come to hold what it did not.
func brought(objects []*unstructured.Unstructured) func(object.Key) bool {
	keys := make(map[object.Key]bool, len(objects))
	for _, u := range objects {
		keys[object.KeyOf(u)] = true
	}
	return func(key object.Key) bool { return keys[key] }
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

// Mapping is what a restore asks for under other names.
func Mapping(asked *v1alpha1.RestoreMap) object.Mapping {
	if asked == nil {
		return object.Mapping{}
	}
	m := object.Mapping{Namespaces: map[string]string{}, StorageClasses: map[string]string{}}
	for from, to := range asked.Namespaces {
		m.Namespaces[from] = string(to)
	}
	for from, to := range asked.StorageClasses {
		m.StorageClasses[from] = string(to)
	}
	return m
}

// Auth reads the credentials of a repository from the data of a Secret, whose keys are those of Flux.
func Auth(data map[string][]byte) git.Auth {
	return git.Auth{
		Username: string(data["username"]), Password: string(data["password"]), BearerToken: string(data["bearerToken"]),
		Identity: data["identity"], Passphrase: string(data["password"]), KnownHosts: data["known_hosts"], CA: data["ca.crt"],
	}
}
