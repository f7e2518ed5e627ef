package render

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// Commit is one that is materialised.
type Commit struct {
	// Root is the directory with its files.
	Root string
	// Files bring those into the root that are wanted; nil if all are there.
	Files Files
}

// Options say what is known about a repository from elsewhere.
type Options struct {
	// URLs are where the repository is found: sources with one of them are the repository itself. The source of a cluster's own
	// Kustomization, one in whose path it lies, always is.
	URLs []string
	// Revisions are what the commit is called, or the branch that it is on or for: sources that follow one of them have the commit.
	Revisions []string
	// KubeVersion is what charts are told; empty for a recent one.
	KubeVersion string
	// Blobs are those of other commits, too; nil for none.
	Blobs *Blobs
	// OnRead is called when the files were read, which all cores did: from then on one is busy, and another commit may be begun with.
	// Nil for nobody who wants to know.
	OnRead func()
}

// Repository is what a commit of a repository deploys: known by its owners at once, and rendered where somebody wants to know.
// It is for one goroutine.
type Repository struct {
	commit  Commit
	options Options
	// fs is for looking; each build has one of its own.
	fs    *guardedFS
	index *index
	// owners are by their IDs.
	owners map[string]*owner
	gaps   []desired.Gap
	// urls are those of the repository.
	urls map[string]bool
	// branches are those of the clusters' own sources.
	branches map[string]bool
	// own are those sources.
	own map[*unstructured.Unstructured]bool
	// followedRevision is what most Applications of the repository follow; empty for what most call theirs.
	followedRevision string
	blobs            *Blobs
	// begun are the objects that are roots: ApplicationSets are no owners themselves.
	begun map[*unstructured.Unstructured]bool
	// sights are by what sources ignore.
	sights map[string]*sight
	// read is by where the reading begins.
	read map[string]*reads
	// declared are the ConfigMaps and Secrets in files.
	declared sync.Map
	bounds   bounds
}

// owner is a desired.Owner on its way.
type owner struct {
	desired.Owner
	// instance is the cluster that it is deployed in, to which its names belong.
	instance string
	// recipe renders it; nil if it cannot be.
	recipe recipe
	reads  *reads
	// sight is what Flux sees of the repository; nil for all.
	sight  *sight
	values *values
	// nested says that it may deploy further owners.
	nested, done bool
	objects      []desired.Object
	gaps         []desired.Gap
}

// recipe renders what an owner deploys. An error stands for all of it.
type recipe func(ctx context.Context) ([]desired.Object, []desired.Gap, error)

// Discover finds what a commit deploys, and renders what deploys more. An error means that the commit could not be read at all.
func Discover(ctx context.Context, commit Commit, o Options) (*Repository, error) {
	fs, err := guard(ctx.Err, commit.Root)
	if err != nil {
		return nil, err
	}
	r := &Repository{commit: commit, options: o, fs: fs, owners: map[string]*owner{}, urls: map[string]bool{}, branches: map[string]bool{}, own: map[*unstructured.Unstructured]bool{}, sights: map[string]*sight{}, read: map[string]*reads{}, begun: map[*unstructured.Unstructured]bool{}, bounds: defaultBounds}
	if r.blobs = o.Blobs; r.blobs == nil {
		r.blobs = contents()
	}
	if r.index, err = newIndex(fs, commit.Files, r.blobs); err != nil {
		return nil, err
	}
	if o.OnRead != nil {
		o.OnRead()
	}
	defer func() { fs.over = func() error { return nil } }() // the context is that of finding, not of rendering
	r.gaps = slices.Clone(r.index.gaps)
	for _, url := range o.URLs {
		r.urls[normalURL(url)] = true
	}
	for level := r.roots(); len(level) > 0; level = r.circles(ctx) {
		if err := r.descend(ctx, level); err != nil {
			return nil, err
		}
	}
	if err := r.findValues(ctx); err != nil {
		return nil, err
	}
	for _, o := range r.owners {
		o.Hash = r.hash(o.reads, o.Kind, o.Path, o.Target, o.specification(), o.values.hashed(), o.sight.hashed())
	}
	r.nameUnreached()
	return r, nil
}

const maxOwners = 50_000

// descend finds all that owners deploy, and what that deploys.
func (r *Repository) descend(ctx context.Context, level []*owner) error {
	for len(level) > 0 {
		if len(r.owners) > maxOwners {
			return tooMuch("the repository deploys more than %d owners", maxOwners)
		}
		if err := r.findValues(ctx); err != nil {
			return err
		}
		if err := r.renderAll(ctx, slices.DeleteFunc(slices.Clone(level), func(o *owner) bool { return !o.nested })); err != nil {
			return err
		}
		var next []*owner
		for _, o := range level {
			next = append(next, r.children(o)...)
		}
		level = next
	}
	return nil
}

// specification is what counts of an owner's object.
func (o *owner) specification() any {
	if o.Object == nil {
		return nil
	}
	return o.Object.Object["spec"]
}

// Owners are all that deploy, in the order of their IDs.
func (r *Repository) Owners() []desired.Owner {
	var owners []desired.Owner
	for _, o := range r.sorted() {
		owners = append(owners, o.Owner)
	}
	return owners
}

func (r *Repository) sorted() []*owner {
	owners := make([]*owner, 0, len(r.owners))
	for _, o := range r.owners {
		owners = append(owners, o)
	}
	slices.SortFunc(owners, func(a, b *owner) int { return strings.Compare(a.ID, b.ID) })
	return owners
}

// Render gives the objects of all owners but those that skip names, which are marked as skipped; nil skips none. What was rendered
// before is not rendered again, so that one may ask for more.
func (r *Repository) Render(ctx context.Context, skip func(desired.Owner) bool) (*desired.State, error) {
	var wanted []*owner
	for _, o := range r.sorted() {
		o.Skipped = skip != nil && skip(o.Owner)
		if !o.Skipped {
			wanted = append(wanted, o)
		}
	}
	if err := r.renderAll(ctx, wanted); err != nil {
		return nil, err
	}
	state := &desired.State{Gaps: slices.Clone(r.gaps)}
	for _, w := range r.index.written {
		if r.begun[w.Unstructured] && w.GetKind() == "ApplicationSet" {
			state.Makers = append(state.Makers, w)
		}
	}
	for _, o := range r.sorted() {
		state.Owners = append(state.Owners, o.Owner)
		if o.Skipped {
			continue
		}
		state.Objects = append(state.Objects, o.objects...)
		state.Gaps = append(state.Gaps, o.gaps...)
		if len(state.Objects) > r.bounds.objects {
			return nil, tooMuch("the repository deploys more than %d objects", r.bounds.objects)
		}
	}
	slices.SortStableFunc(state.Gaps, func(a, b desired.Gap) int {
		return cmp.Or(strings.Compare(a.Owner, b.Owner), strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.What, b.What))
	})
	return state, nil
}

// Renders says whether any owner can be rendered to objects.
func (r *Repository) Renders(ctx context.Context) (bool, error) {
	for _, o := range r.sorted() {
		if err := r.renderAll(ctx, []*owner{o}); err != nil {
			return false, err
		}
		if len(o.objects) > 0 {
			return true, nil
		}
	}
	return false, nil
}

// Same are the IDs of the owners that both have and that deploy the same in both: what one would render for nothing in a comparison.
// Unless everything is the same, those are not among them that had to be rendered to discover what else there is.
func Same(base, head *Repository) map[string]bool {
	same := map[string]bool{}
	for id, o := range head.owners {
		if there := base.owners[id]; there != nil && o.Hash != "" && there.Hash == o.Hash {
			same[id] = true
		}
	}
	if len(same) == len(head.owners) && len(same) == len(base.owners) {
		return same
	}
	for id := range same {
		if head.owners[id].done && base.owners[id].done {
			delete(same, id)
		}
	}
	return same
}

// renderAll renders owners beside one another, those that are not yet. What one cannot be rendered for is a gap of its own.
func (r *Repository) renderAll(ctx context.Context, owners []*owner) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, o := range owners {
		if o.done {
			continue
		}
		group.Go(func() error {
			o.render(ctx)
			return ctx.Err()
		})
	}
	return group.Wait()
}

func (o *owner) render(ctx context.Context) {
	defer func() {
		if p := recover(); p != nil {
			o.objects, o.gaps = nil, append(o.gaps, o.gap(fmt.Errorf("rendering it fails: %v", p)))
		}
		o.done = true
	}()
	if o.recipe == nil {
		return
	}
	objects, gaps, err := o.recipe(ctx)
	for i := range objects {
		objects[i].Owner = o.ID
	}
	slices.SortStableFunc(objects, func(a, b desired.Object) int {
		return cmp.Or(strings.Compare(a.GetKind(), b.GetKind()), strings.Compare(a.GetNamespace(), b.GetNamespace()),
			strings.Compare(a.GetName(), b.GetName()))
	})
	gaps = append(gaps, opaque(objects)...)
	for i := range gaps {
		gaps[i].Owner = o.ID
	}
	if err != nil {
		gaps = append(gaps, o.gap(err))
	}
	o.objects, o.gaps = objects, append(o.gaps, gaps...)
}

// opaque are the gaps that objects leave of which an operator makes whole applications, by templates or charts of its own.
func opaque(objects []desired.Object) []desired.Gap {
	var gaps []desired.Gap
	for _, o := range objects {
		switch o.GroupVersionKind().GroupKind().String() {
		case "ResourceSet.fluxcd.controlplane.io", "HelmChart.helm.cattle.io", "App.kappctrl.k14s.io", "PackageInstall.packaging.carvel.dev",
			"GitRepo.fleet.cattle.io", "Bundle.fleet.cattle.io", "HelmOp.fleet.cattle.io", "HelmRelease.helm.fluxcd.io", "KluctlDeployment.gitops.kluctl.io",
			"ClusterProfile.config.projectsveltos.io", "Profile.config.projectsveltos.io", "ManifestWork.work.open-cluster-management.io",
			"Application.core.oam.dev":
			gaps = append(gaps, desired.Gap{Origin: o.Origin, What: o.GetKind() + " " + path.Join(o.GetNamespace(), o.GetName()),
				Why: "what its operator deploys by it is not rendered"})
		}
	}
	return gaps
}

// gap says that an owner is not rendered.
func (o *owner) gap(err error) desired.Gap {
	return desired.Gap{Owner: o.ID, Origin: o.Origin, What: o.ID, Why: strings.TrimRight(err.Error(), ".\n")}
}

// build renders a directory with the origins of its objects.
func (r *Repository) build(ctx context.Context, as As, sight *sight) ([]desired.Object, []desired.Gap, error) {
	if objects, ok := r.plainly(ctx, as, sight); ok {
		return objects, nil, nil
	}
	return r.kustomized(ctx, as, sight)
}

// kustomized renders a directory with kustomize.
func (r *Repository) kustomized(ctx context.Context, as As, sight *sight) ([]desired.Object, []desired.Gap, error) {
	fs := r.guard(ctx.Err).seeing(sight)
	dir, err := fs.directory(as.Path)
	if err != nil {
		return nil, nil, &Error{File: as.Path, Err: err}
	}
	var gaps []desired.Gap
	fs.lenient = func(gap desired.Gap) {
		if !slices.Contains(gaps, gap) {
			gaps = append(gaps, gap)
		}
	}
	fs.origins, fs.contents, fs.documents = []origin{}, map[string][]byte{}, map[string][]document{}
	built, err := fs.make(ctx, dir, as)
	if err != nil {
		return nil, gaps, err
	}
	plain, err := convert(built)
	if err == nil {
		err = as.label(plain)
	}
	if err != nil {
		return nil, gaps, &Error{File: as.Path, Err: err}
	}
	setNamespaces(plain, cmp.Or(as.Namespace, defaultNamespace))
	objects := make([]desired.Object, len(plain))
	for i, u := range plain {
		objects[i] = desired.Object{Unstructured: u, Origin: fs.at(fs.origins[i]), Unknown: fs.unknown[i]}
	}
	return objects, gaps, nil
}

// add takes an owner in, unless there is one of its name.
func (r *Repository) add(o *owner) []*owner {
	if r.owners[o.ID] != nil {
		return nil
	}
	if o.reads == nil {
		o.reads = &reads{}
	}
	if o.values == nil {
		o.values = &values{}
	}
	o.nested = r.index.mention(o.reads) || o.nested
	r.owners[o.ID] = o
	return []*owner{o}
}

// children are the owners among the objects of one.
func (r *Repository) children(parent *owner) []*owner {
	var found []*owner
	for _, object := range parent.objects {
		all := []desired.Object{object}
		if isInstance(object.Unstructured) {
			made, err := synced(object)
			if err != nil {
				parent.gaps = append(parent.gaps, desired.Gap{Owner: parent.ID, Origin: object.Origin, What: "FluxInstance " + object.GetName(), Why: "its patches cannot be applied: " + err.Error()})
			}
			all = made
		}
		for _, object := range all {
			for _, o := range r.owner(object, parent.instance, parent) {
				found = append(found, r.add(o)...)
			}
		}
	}
	return found
}

// owner is what an object deploys; none if it deploys nothing. The parent is nil for one that nothing in the repository deploys.
func (r *Repository) owner(object desired.Object, instance string, parent *owner) []*owner {
	o := &owner{instance: instance, Owner: desired.Owner{
		Cluster: instance, Namespace: cmp.Or(object.GetNamespace(), defaultNamespace), Name: object.GetName(),
		Origin: object.Origin, Object: object.Unstructured,
	}}
	if parent != nil {
		o.Parent, o.Cluster = parent.ID, parent.Cluster
	}
	switch object.GroupVersionKind().GroupKind().String() {
	case "Kustomization." + fluxKustomize:
		o.Kind = desired.Kustomization
		o.ID = id(o.Kind, o.Namespace, o.Name, instance)
		r.kustomization(o)
	case "HelmRelease." + fluxHelm:
		o.Kind = desired.HelmRelease
		o.ID = id(o.Kind, o.Namespace, o.Name, instance)
		r.helmRelease(o)
	case "Application." + argo:
		o.Kind = desired.Application
		o.ID = id(o.Kind, o.Namespace, o.Name, instance)
		r.application(o)
	case "ApplicationSet." + argo:
		return r.applicationSet(object, instance, parent)
	default:
		return nil
	}
	return []*owner{o}
}

// id names an owner.
func id(kind desired.OwnerKind, namespace, name, instance string) string {
	s := string(kind) + " " + path.Join(namespace, name)
	if instance != "" {
		s += " (" + instance + ")"
	}
	return s
}

func text(u *unstructured.Unstructured, fields ...string) string {
	s, _, _ := unstructured.NestedString(u.Object, fields...)
	return s
}

func flag(u *unstructured.Unstructured, fields ...string) bool {
	b, _, _ := unstructured.NestedBool(u.Object, fields...)
	return b
}
