// Package checker goes the way from a repository to what is found in it: it reads a commit, or the files that lie in a work tree, and
// the commit to compare with, renders both, and judges. It needs no cluster, runs nothing of what it reads, and changes nothing.
package checker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/coverage/report"
	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/render"
)

// Errors of Check.
var (
	// ErrNoCommits means that commits were asked for, and what is judged lies in no repository that can be read.
	ErrNoCommits = errors.New("there are no commits")
	// ErrNothing means that there is nothing to judge: an empty answer would be taken for a good one.
	ErrNothing = errors.New("there is nothing here that would be deployed: no manifest, no kustomization, no chart")
)

// BaselineName is the file at the root of what is judged that knows what was found before.
const BaselineName = ".lockstep-baseline.json"

// Request says what is to be judged.
type Request struct {
	// Path is a directory, of a work tree or of none, or a bare repository. Nothing outside of it is read. Empty means the whole
	// work tree around the current directory.
	Path string
	// Head is the commit to judge, as git names commits; empty for the files of the work tree as they lie, committed or not.
	Head string
	// Base is the commit to compare with, at the place where head has left it; empty for none.
	Base string
	// Branch is the one that the commit is on or for, where something else than the repository knows it; empty if nothing does.
	Branch string
	// Config and Baseline are files; empty for those in what is judged, if they are there.
	Config, Baseline string
	// Live is what a cluster has; nil if none was asked.
	Live *coverage.Live
	// Points asks a vault for points of the commit that is judged; nil if none is asked. Its errors are passed on as they are.
	Points func(context.Context, Commit) ([]coverage.PointFacts, error)
	// Anew says that the baseline is about to be written, so that none is read.
	Anew bool
	Now  time.Time
	// Limits are what it may take.
	Limits Limits
}

// Commit is the one that is judged, with the policies that it deploys. Of a work tree it is the one that is checked out.
type Commit struct {
	Repository *git.Repository
	Hash       string
	Policies   []Policy
}

// Policy is one that a commit deploys.
type Policy struct {
	object.Name
	// Owner deploys it, from Path; both are empty if it is the only one of that name. In a repository of several clusters each may have
	// its own.
	Owner, Path string
}

// Result is what came of it.
type Result struct {
	Document *report.Document
	// Baseline is the file to write a baseline into; empty where there is none, as in a bare repository.
	Baseline string
}

// Check judges. An error means that it could not be judged at all; what could not be rendered is in the document. After a LimitError
// something may still run, and the process should end.
func Check(ctx context.Context, q Request) (*Result, error) {
	p, err := open(q.Path)
	if err != nil {
		return nil, err
	}
	var result *Result
	err = q.Limits.hold(ctx, func(ctx context.Context) error {
		var err error
		result, err = p.check(ctx, q)
		return err
	})
	if err = errors.Join(err, p.close()); err != nil {
		return nil, err
	}
	return result, nil
}

func (p *place) check(ctx context.Context, q Request) (*Result, error) {
	d := &report.Document{}
	head, err := p.head(ctx, q.Head, d)
	if err != nil {
		return nil, err
	}
	if err := bring(head, coverage.ConfigName, BaselineName); err != nil {
		return nil, err
	}
	config, err := settings(head.Root, q.Config)
	if err != nil {
		return nil, err
	}
	in := coverage.Input{Config: config, Now: q.Now, Facts: coverage.Facts{Live: q.Live}}
	before := in
	var base render.Commit
	if q.Base != "" {
		if base, err = p.base(ctx, q.Base, d); err != nil {
			return nil, err
		}
		if before.Config, err = settingsBefore(base, q.Config, config); err != nil {
			return nil, err
		}
	}
	o := render.Options{URLs: p.urls(), Revisions: p.revisions(q), Blobs: render.NewBlobs(git.BlobHash)}
	c, err := begin(ctx, head, base, o)
	if err != nil {
		return nil, err
	}
	if err := c.judge(ctx, &in, &before, d); err != nil {
		return nil, err
	}
	if len(c.head.Owners())+len(d.NotRendered) == 0 && (c.base == nil || len(c.base.Owners()) == 0) && q.Live == nil {
		return nil, ErrNothing
	}
	if len(in.Head.Objects) == 0 && len(d.NotRendered) > 0 && q.Live == nil {
		some, err := c.head.Renders(ctx)
		if err != nil {
			return nil, err
		}
		d.Unchecked = !some
	}
	if in.Facts.Unstable, err = unstable(ctx, head, in.Head, o); err != nil {
		return nil, err
	}
	if q.Points != nil {
		if d.Head == "" {
			return nil, errors.Join(errors.New("a vault has points of commits, and there is none"), p.noGit)
		}
		if in.Facts.Points, err = q.Points(ctx, Commit{p.repository, d.Head, policies(in.Head)}); err != nil {
			return nil, err
		}
	}
	if in.Facts.Unstable != nil || in.Facts.Points != nil {
		d.Report = coverage.Check(in)
	}
	result := &Result{Document: d, Baseline: q.Baseline}
	if result.Baseline == "" && q.Head == "" && !p.bare() {
		result.Baseline = filepath.Join(p.root, BaselineName)
	}
	if !q.Anew {
		if err := applyBaseline(&d.Report, head.Root, q.Baseline); err != nil {
			return nil, err
		}
	}
	if len(d.Findings) > 0 && before.Head != nil {
		if in.Facts.Unstable != nil {
			if before.Facts.Unstable, err = unstable(ctx, base, before.Head, o); err != nil {
				return nil, err
			}
			c.before = coverage.Check(before)
		}
		d.Since(c.before)
	}
	relocate(d, p.below)
	return result, nil
}

// place is where what is judged lies.
type place struct {
	// repository is nil for a directory outside of Git.
	repository *git.Repository
	// noGit says why, to whoever asks for a commit.
	noGit error
	// root is the directory to judge, below is where that is in its repository, with slashes; "." for the root.
	root, below string
	// scratch is where commits are written out to, files are those of them. A check that was given up may add to them.
	mu      sync.Mutex
	scratch []string
	files   []*git.Files
}

func open(dir string) (*place, error) {
	whole := dir == ""
	if whole {
		dir = "."
	}
	root, err := filepath.Abs(dir)
	if err == nil {
		root, err = filepath.EvalSymlinks(root)
	}
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", dir, err)
	}
	if info, err := os.Stat(root); err != nil || !info.IsDir() {
		return nil, errors.Join(fmt.Errorf("%q is not a directory", dir), err)
	}
	p := &place{root: root, below: "."}
	p.repository, err = git.Open(root, git.Options{})
	if errors.Is(err, git.ErrUnsupported) {
		return nil, err
	}
	if err != nil {
		p.repository, p.noGit = nil, fmt.Errorf("%w: %w", ErrNoCommits, err)
		return p, nil
	}
	top := p.repository.WorkTree()
	if top == "" {
		return p, nil
	}
	if top, err = filepath.EvalSymlinks(top); err != nil {
		return nil, fmt.Errorf("opening %q: %w", dir, err)
	}
	if whole {
		p.root = top
		return p, nil
	}
	below, err := filepath.Rel(top, root)
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", dir, err)
	}
	p.below = filepath.ToSlash(below)
	return p, nil
}

func (p *place) bare() bool { return p.repository != nil && p.repository.WorkTree() == "" }

func (p *place) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []error
	for _, f := range p.files {
		all = append(all, f.Close())
	}
	for _, dir := range p.scratch {
		all = append(all, os.RemoveAll(dir))
	}
	if p.repository != nil {
		all = append(all, p.repository.Close())
	}
	return errors.Join(all...)
}

// urls are what sources call the repository by.
func (p *place) urls() []string {
	if p.repository == nil {
		return nil
	}
	return []string{p.repository.URL()}
}

// revisions are what sources that follow what is judged may call it by: its own name, the branch that it is on or that it is for, and the
// default one, which most call HEAD.
func (p *place) revisions(q Request) []string {
	all := []string{q.Head, q.Branch}
	if p.repository != nil {
		all = append(all, p.repository.Branch(cmp.Or(q.Head, "HEAD")), p.repository.Branch(q.Base), p.repository.Branch("origin"))
	}
	return slices.DeleteFunc(all, func(name string) bool { return name == "" })
}

// head is the directory with what is judged.
func (p *place) head(ctx context.Context, name string, d *report.Document) (render.Commit, error) {
	if p.repository == nil {
		if name != "" {
			return render.Commit{}, p.noGit
		}
		return render.Commit{Root: p.root}, nil
	}
	tree := name == "" && !p.bare()
	if name == "" {
		name = "HEAD"
	}
	commit, err := p.repository.Parse(ctx, name)
	switch {
	case err == nil:
		d.Head, d.WorkTree = commit, tree
	case !tree:
		return render.Commit{}, err
	default: // nothing was ever committed
		d.WorkTree = true
	}
	if tree {
		return render.Commit{Root: p.root}, nil
	}
	return p.writeOut(ctx, commit, true)
}

// base is the directory with the commit to compare with.
func (p *place) base(ctx context.Context, name string, d *report.Document) (render.Commit, error) {
	if p.repository == nil {
		return render.Commit{}, p.noGit
	}
	head := d.Head
	if head == "" {
		head = "HEAD"
	}
	commit, err := p.repository.MergeBase(ctx, name, head)
	if err != nil {
		return render.Commit{}, err
	}
	d.Base = commit
	return p.writeOut(ctx, commit, false)
}

// writeOut prepares a directory of its own for a commit, and gives that in it which is judged. It must be there in a head; a base
// without it deploys nothing.
func (p *place) writeOut(ctx context.Context, commit string, must bool) (render.Commit, error) {
	dir, err := p.temporary()
	if err != nil {
		return render.Commit{}, err
	}
	files, err := p.repository.Files(ctx, commit, dir)
	if err != nil {
		return render.Commit{}, err
	}
	p.mu.Lock()
	p.files = append(p.files, files)
	p.mu.Unlock()
	if err := files.Dir(p.below); err != nil {
		return render.Commit{}, err
	}
	// Links on the way would lead elsewhere than the path says.
	root := dir
	for _, name := range strings.Split(p.below, "/") {
		root = filepath.Join(root, name)
		info, err := os.Lstat(root)
		switch {
		case err == nil && info.IsDir():
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return render.Commit{}, err
		case must:
			return render.Commit{}, fmt.Errorf("the commit has no directory %q", p.below)
		default:
			empty, err := p.temporary()
			return render.Commit{Root: empty}, err
		}
	}
	if files.Whole() {
		return render.Commit{Root: root}, nil
	}
	return render.Commit{Root: root, Files: newFilesBelow(files, p.below)}, nil
}

// temporary is a directory that is gone when the check is over.
func (p *place) temporary() (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dir, err := os.MkdirTemp("", "lockstep-check-")
	if err != nil {
		return "", fmt.Errorf("making a directory: %w", err)
	}
	p.scratch = append(p.scratch, dir)
	return dir, nil
}

// policies are those of a state.
func policies(s *desired.State) []Policy {
	var found []Policy
	named := map[object.Name]int{}
	for _, o := range s.Objects {
		p := Policy{Name: object.Name{Namespace: o.GetNamespace(), Name: o.GetName()}, Owner: o.Owner}
		if gvk := o.GroupVersionKind(); gvk.Group == v1alpha1.GroupVersion.Group && gvk.Kind == "ProtectionPolicy" && !slices.Contains(found, p) {
			found = append(found, p)
			named[p.Name]++
		}
	}
	for i := range found {
		if named[found[i].Name] == 1 {
			found[i].Owner = ""
		} else {
			found[i].Path = deployedFrom(s, found[i].Owner)
		}
	}
	return found
}

// deployedFrom is the directory that an owner deploys; for a chart, that of what deploys its release, as a point has it.
func deployedFrom(s *desired.State, id string) string {
	for {
		i := slices.IndexFunc(s.Owners, func(o desired.Owner) bool { return o.ID == id })
		if i < 0 {
			return ""
		}
		if o := s.Owners[i]; o.Kind != desired.HelmRelease || o.Parent == "" {
			return o.Path
		}
		id = s.Owners[i].Parent
	}
}

// comparison is what both commits deploy, rendered as far as somebody asks.
type comparison struct {
	// base is nil if there is none.
	head, base *render.Repository
	// before is what is found in base by itself.
	before coverage.Report
}

func begin(ctx context.Context, head, base render.Commit, o render.Options) (*comparison, error) {
	c := &comparison{}
	var err, baseErr error
	read := make(chan struct{})
	together(func() {
		first := o
		first.OnRead = sync.OnceFunc(func() { close(read) })
		defer first.OnRead()
		if c.head, err = render.Discover(ctx, head, first); err != nil {
			err = fmt.Errorf("reading what is deployed: %w", err)
		}
	}, func() {
		if <-read; base.Root == "" { // what both hold is read once
			return
		}
		if c.base, baseErr = render.Discover(ctx, base, o); baseErr != nil {
			baseErr = fmt.Errorf("reading what the commit to compare with deploys: %w", baseErr)
		}
	})
	if err = cmp.Or(err, baseErr); err != nil {
		return nil, err
	}
	return c, nil
}

// together runs both at the same time, and panics where one of them does.
func together(one, other func()) {
	ended := make(chan any)
	go func() {
		defer func() { ended <- recover() }()
		other()
	}()
	defer func() {
		if p := <-ended; p != nil {
			panic(p)
		}
	}()
	one()
}

// judge renders what is not the same in both commits, and of the rest what the rules ask for, until they ask for no more: of head, and
// of base by itself, in before, which counts only where something is found in head.
func (c *comparison) judge(ctx context.Context, in, before *coverage.Input, d *report.Document) (err error) {
	same := map[string]bool{}
	if c.base != nil {
		same = render.Same(c.base, c.head)
	}
	skip := func(o desired.Owner) bool { return same[o.ID] }
	for {
		if in.Head, err = c.head.Render(ctx, skip); err != nil {
			return err
		}
		if c.base != nil {
			if in.Base, err = c.base.Render(ctx, skip); err != nil {
				return err
			}
			before.Head = in.Base
		}
		together(func() { d.Report = coverage.Check(*in) }, func() {
			if c.base != nil {
				c.before = coverage.Check(*before)
			}
		})
		wanted := d.Wanted
		if len(d.Findings) > 0 {
			wanted = slices.Concat(wanted, c.before.Wanted)
		}
		more := false
		for _, id := range wanted {
			more = more || same[id]
			delete(same, id)
		}
		if !more {
			return nil
		}
	}
}

// relocate makes files relative to the repository's root.
func relocate(d *report.Document, below string) {
	if below == "." {
		return
	}
	at := func(o *desired.Origin) {
		if o.File != "" {
			o.File = path.Join(below, o.File)
		}
	}
	for i := range d.Findings {
		at(&d.Findings[i].Origin)
	}
	for i := range d.Existing {
		at(&d.Existing[i].Origin)
	}
	for i := range d.Suppressed {
		at(&d.Suppressed[i].Origin)
	}
	for i := range d.Coverage {
		at(&d.Coverage[i].Origin)
	}
	for i := range d.NotRendered {
		at(&d.NotRendered[i].Origin)
	}
}
