package git

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1" //nolint:gosec // Git's own names are made so, and this one stands beside them
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/gobwas/glob"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"
)

// What lies below a path is not all that an engine makes of it. Flux's Kustomization of the path may patch it and give it variables, which it takes
// from a ConfigMap; an Application has parameters; an overlay of the cluster's directory patches either. An order is a document, anywhere in the
// commit, that may add to what is deployed from elsewhere. Those that concern a path count as what is below it does.

const (
	// maxOrdered bounds the bytes of a commit that are looked through for orders. What has more is known by the tree of the whole commit.
	maxOrdered = 256 << 20
	// maxParsed bounds the bytes of a document that is parsed. Of a larger one the text must do.
	maxParsed = 1 << 20
)

type orderKind int

const (
	// A deployer has a path deployed. One without a path is a patch of another that has its name.
	deployer orderKind = iota
	// An overlay is a kustomization whose directory refers to others, or that makes or changes what deployers are or take.
	overlay
	// A supply is a ConfigMap, a Secret or a source, from which deployers take what they need, by its name.
	supply
)

// order is a document that may add to what is deployed from elsewhere.
type order struct {
	kind orderKind
	// sum tells it from any other.
	sum plumbing.Hash
	// paths are what a deployer deploys, from the root of the repository; a * stands for what is not known of the rest.
	paths []string
	// name is that of a deployer's object, names are all that it mentions, or those of what an overlay makes or a supply is.
	name  string
	names []string
	// refs are the words of it that may be paths: of an overlay those upwards.
	refs []string
	// files are those from which an overlay makes or changes objects, relative to it.
	files []string
	// edits says that an overlay changes deployers that it reaches; anywhere, that others may lead it to them.
	edits, anywhere bool
	// globs are the files that a deployer takes parameters from.
	globs []string
	// opaque says that a deployer could not be read: what lies beside it may add to it.
	opaque bool
}

// orders are those of a file, own, or of all that is below a directory.
type orders struct {
	own   []order
	below []filed
	// supplies says that there are neither deployers nor overlays among them.
	supplies bool
	// bytes were looked through.
	bytes int64
}

type filed struct {
	name string
	*orders
}

// placed is an order at its place in the commit.
type placed struct {
	*order
	dir, file string
	counted   bool
	// beside is what counts with it; nil if nothing.
	beside *object.TreeEntry
}

var (
	// ordering is what a document of an engine has somewhere.
	ordering = regexp.MustCompile(`apiVersion["']?:\s*["']?((kustomize|helm)\.toolkit\.fluxcd\.io|fluxcd\.controlplane\.io|argoproj\.io)/`)
	supplies = regexp.MustCompile(`(?m)^[{ ]*["']?kind["']?:\s*["']?(ConfigMap|Secret|SealedSecret|GitRepository|OCIRepository|HelmRepository|HelmChart|Bucket|ExternalArtifact)\b`)
	named    = regexp.MustCompile(`\bname["']?:[ \t]*["']?([^\s"'#,{}]+)`)
	between  = regexp.MustCompile(`(?m)^---`)
	// deployers are the kinds that have something deployed from a path of a repository.
	deployerKinds = []string{"Kustomization", "FluxInstance", "ResourceSet", "HelmRelease", "Application", "ApplicationSet"}
	ofDeployers   = regexp.MustCompile(`kind["']?:\s*["']?(` + strings.Join(deployerKinds, "|") + `)\b`)
)

// ordersIn are the orders of a file.
func ordersIn(name string, data []byte) []order {
	if isKustomization(name) {
		if o := overlayOf(data); o != nil {
			return []order{*o}
		}
		return nil
	}
	if !ordering.Match(data) && !supplies.Match(data) {
		return nil
	}
	var all []order
	add := func(doc []byte) {
		if o := orderOf(doc); o != nil {
			o.sum = sha1.Sum(bytes.TrimSpace(doc)) //nolint:gosec // as above
			all = append(all, *o)
		}
	}
	from := 0
	for _, at := range between.FindAllIndex(data, -1) {
		add(data[from:at[0]])
		from = at[1]
	}
	add(data[from:])
	return all
}

// orderOf is what a document orders; nil if nothing.
func orderOf(doc []byte) *order {
	if !ordering.Match(doc) {
		if supplies.Match(doc) {
			return &order{kind: supply, names: namesIn(doc)}
		}
		return nil
	}
	o := &order{names: namesIn(doc)}
	for _, w := range word.FindAll(doc, -1) {
		if text := string(w); strings.Contains(text, "/") || path.Ext(text) == ".yaml" || path.Ext(text) == ".yml" {
			o.refs = append(o.refs, text)
		}
	}
	var u unstructured.Unstructured
	if len(doc) > maxParsed || yaml.Unmarshal(doc, &u.Object) != nil || u.GetKind() == "" {
		return o.byText(doc)
	}
	o.name = u.GetName()
	spec, _, _ := unstructured.NestedMap(u.Object, "spec")
	switch u.GetKind() {
	case "Kustomization":
		at, ok, _ := unstructured.NestedString(spec, "path")
		if _, whole := spec["sourceRef"]; ok || whole {
			o.paths = append(o.paths, pattern(at))
		}
	case "FluxInstance":
		if at, ok, _ := unstructured.NestedString(spec, "sync", "path"); ok {
			o.paths = append(o.paths, pattern(at))
		}
	case "HelmRelease":
		at, ok, _ := unstructured.NestedString(spec, "chart", "spec", "chart")
		if !ok {
			return nil // its chart is no path
		}
		o.paths = append(o.paths, pattern(at))
	case "Application", "ApplicationSet":
		o.source(spec)
		if _, patched := spec["templatePatch"]; patched {
			o.paths = append(o.paths, "*")
		}
	case "ConfigMap", "Secret":
		return &order{kind: supply, names: []string{u.GetName()}}
	case "ResourceSet", "List":
		return o.byText(doc)
	default:
		return nil
	}
	return o
}

// byText finds out what it can of a document that is a template, or else cannot be read.
func (o *order) byText(doc []byte) *order {
	for _, m := range paths.FindAllSubmatch(doc, -1) {
		o.paths = append(o.paths, pattern(string(m[1])))
	}
	if len(o.paths) == 0 {
		o.paths = []string{"*"}
	}
	o.opaque = true
	return o
}

// source finds the sources of an Application, or in the template of an ApplicationSet, and the files of its generators.
func (o *order) source(in any) {
	switch in := in.(type) {
	case map[string]any:
		at, ok := in["path"].(string)
		if _, source := in["repoURL"]; ok && source {
			o.paths = append(o.paths, pattern(at))
		}
		files, _ := in["files"].([]any)
		for _, f := range files {
			if f, ok := f.(map[string]any); ok && f["path"] != nil {
				at, _ := f["path"].(string)
				o.globs = append(o.globs, strings.TrimLeft(at, "/"))
			}
		}
		for _, value := range in {
			o.source(value)
		}
	case []any:
		for _, value := range in {
			o.source(value)
		}
	}
}

// pattern is a path as engines write it, in the form that compares.
func pattern(p string) string {
	if at := strings.IndexAny(p, "{$*?[<"); at >= 0 {
		return strings.TrimLeft(strings.TrimPrefix(p[:at], "./"), "/") + "*"
	}
	return path.Clean(strings.TrimLeft(p, "/"))
}

// covers says whether what a pattern names holds a file or directory, or may.
func covers(pattern, name string) bool {
	if begin, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(name+"/", begin) || strings.HasPrefix(begin, name+"/")
	}
	return within(pattern, name)
}

// within says whether a path is a directory, or below it.
func within(dir, name string) bool {
	return dir == "." || name == dir || strings.HasPrefix(name, dir+"/")
}

func namesIn(doc []byte) []string {
	var names []string
	for _, m := range named.FindAllSubmatch(doc, -1) {
		names = append(names, string(m[1]))
	}
	return names
}

// overlayOf is what a kustomization may add to deployers; nil if nothing.
func overlayOf(data []byte) *order {
	o := &order{kind: overlay, sum: sha1.Sum(data)} //nolint:gosec // as above
	for _, w := range word.FindAll(data, -1) {
		if slices.Contains(strings.Split(string(w), "/"), "..") {
			o.refs = append(o.refs, string(w))
		}
	}
	var k types.Kustomization
	if len(data) > maxParsed || yaml.Unmarshal(data, &k) != nil {
		o.edits, o.anywhere = true, true
		return o
	}
	o.anywhere = k.Kind == types.ComponentKind
	for _, p := range slices.Concat(k.Patches, k.PatchesJson6902) { //nolint:staticcheck // old kustomizations have these
		o.patch(p)
	}
	for _, r := range k.Replacements {
		o.edits = o.edits || r.Path != ""
		for _, to := range r.Targets {
			o.edits = o.edits || to.Select == nil || deploys(to.Select.Kind)
		}
		o.file(r.Path)
	}
	for _, file := range k.Transformers {
		o.edits = true
		o.file(file)
	}
	for _, g := range k.ConfigMapGenerator {
		o.generator(g.GeneratorArgs)
	}
	for _, g := range k.SecretGenerator {
		o.generator(g.GeneratorArgs)
	}
	if !o.edits && len(o.names)+len(o.refs) == 0 {
		return nil
	}
	return o
}

func (o *order) patch(p types.Patch) {
	switch {
	case p.Target != nil:
		o.edits = o.edits || deploys(p.Target.Kind)
	case p.Patch != "":
		o.edits = o.edits || ofDeployers.MatchString(p.Patch)
	}
	o.file(p.Path) // without a target it is a deployer without a path
}

func (o *order) generator(g types.GeneratorArgs) {
	o.names = append(o.names, g.Name)
	for _, source := range slices.Concat(g.FileSources, g.EnvSources, []string{g.EnvSource}) {
		_, file, found := strings.Cut(source, "=")
		if !found {
			file = source
		}
		o.file(file)
	}
}

func (o *order) file(name string) {
	if name != "" {
		o.files = append(o.files, name)
	}
}

// deploys says whether a selector of kinds, which is a regular expression, may mean a deployer.
func deploys(kind string) bool {
	return kind == "" || regexp.QuoteMeta(kind) != kind || slices.Contains(deployerKinds, kind)
}

// ordersBelow reads the orders of a directory and all below it; nil if it is more than may be looked through, of which so much is left.
func (s *scan) ordersBelow(ctx context.Context, hash plumbing.Hash, left int64) (*orders, error) {
	if known := s.repo.orders[hash]; known != nil {
		return known, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	tree := s.tree(hash)
	if tree == nil {
		return nil, s.broken
	}
	all := &orders{supplies: true}
	for _, e := range tree.Entries {
		var found *orders
		var err error
		switch {
		case e.Mode == filemode.Dir:
			found, err = s.ordersBelow(ctx, e.Hash, left-all.bytes)
		case e.Mode != filemode.Symlink && e.Mode.IsFile() && refers(e.Name):
			found, err = s.ordersOf(e)
		default:
			continue
		}
		if err != nil || found == nil {
			return nil, err
		}
		if all.bytes += found.bytes; all.bytes > left {
			return nil, nil
		}
		if len(found.own)+len(found.below) > 0 {
			all.below = append(all.below, filed{e.Name, found})
			all.supplies = all.supplies && found.supplies
		}
	}
	s.repo.remember(hash, all)
	return all, nil
}

func (s *scan) ordersOf(e object.TreeEntry) (*orders, error) {
	key := e.Hash
	if isKustomization(e.Name) { // by another name the same contents mean something else
		key = plumbing.ComputeHash(plumbing.BlobObject, []byte("kustomization "+e.Hash.String()))
	}
	if known := s.repo.orders[key]; known != nil {
		return known, nil
	}
	blob, err := object.GetBlob(s.repo.store, e.Hash)
	if err != nil {
		return nil, err
	}
	found := &orders{bytes: blob.Size}
	if blob.Size <= s.repo.limits.ordered {
		data, err := contents(blob)
		if err != nil {
			return nil, err
		}
		found.own = ordersIn(e.Name, data)
	}
	found.supplies = !slices.ContainsFunc(found.own, func(o order) bool { return o.kind != supply })
	s.repo.remember(key, found)
	return found, nil
}

func (r *Repository) remember(hash plumbing.Hash, found *orders) {
	if r.orders == nil || len(r.orders) >= maxQuiet {
		r.orders = map[plumbing.Hash]*orders{}
	}
	r.orders[hash] = found
}

// place gives deployers and overlays their places.
func (o *orders) place(dir, file string, all []placed) []placed {
	for i := range o.own {
		if o.own[i].kind != supply {
			all = append(all, placed{order: &o.own[i], dir: dir, file: file})
		}
	}
	for _, b := range o.below {
		switch {
		case b.supplies:
		case len(b.below) > 0:
			all = b.place(path.Join(dir, b.name), "", all)
		default:
			all = b.place(dir, b.name, all)
		}
	}
	return all
}

// order has those deployers and overlays count that concern a directory, and says whether there were any that did not count yet.
func (s *scan) order(ctx context.Context, dir string, root plumbing.Hash) (more bool, err error) {
	if s.all == nil {
		if s.all, err = s.ordersBelow(ctx, root, s.repo.limits.ordered); err != nil {
			return false, err
		}
		if s.all == nil {
			s.whole = true
			return false, nil
		}
		s.orders = s.all.place(".", "", nil)
	}
	for again := true; again && !s.whole; {
		again = false
		places := len(s.places)
		for i := range s.orders {
			o := &s.orders[i]
			if o.counted || !s.concerns(o, dir) || s.has(path.Join(o.dir, o.file)) {
				continue
			}
			o.counted, again, more = true, true, true
			s.obey(o, dir)
		}
		again = again || len(s.places) > places
	}
	return more, nil
}

// supplied are the supplies that are mentioned, once all is known that counts. It does not matter where they lie.
func (s *scan) supplied(o *orders, sums []plumbing.Hash) []plumbing.Hash {
	for i := range o.own {
		if own := &o.own[i]; own.kind == supply && slices.ContainsFunc(own.names, s.mentioned) {
			sums = append(sums, own.sum)
		}
	}
	for _, b := range o.below {
		sums = s.supplied(b.orders, sums)
	}
	return sums
}

// concerns says whether an order may add to what a directory deploys, or to an order that does. The directory of an overlay that leads to such
// an order is a place from then on.
func (s *scan) concerns(o *placed, dir string) bool {
	switch {
	case o.kind == deployer && len(o.paths) == 0:
		return s.mentioned(o.name)
	case o.kind == deployer:
		return slices.ContainsFunc(o.paths, func(p string) bool {
			return covers(p, dir) || within(dir, p) || slices.ContainsFunc(s.places, func(place string) bool { return covers(p, place) })
		})
	}
	reaches := slices.ContainsFunc(s.places, func(place string) bool {
		return within(o.dir, place) || slices.ContainsFunc(o.refs, func(ref string) bool { return within(path.Join(o.dir, ref), place) })
	})
	if reaches && !slices.Contains(s.places, o.dir) {
		s.places = append(s.places, o.dir) // it deploys what is there
	}
	return o.edits && (o.anywhere || reaches) || slices.ContainsFunc(o.names, s.mentioned)
}

// obey has an order count, with what it refers to.
func (s *scan) obey(o *placed, dir string) {
	if o.kind == overlay {
		for _, file := range o.files {
			s.add(path.Join(o.dir, file))
		}
		return
	}
	s.places = append(s.places, path.Join(o.dir, o.file))
	s.mention(o.names)
	if chart := s.inChart(o.dir); o.opaque || chart != "" {
		// What it reads there counts, but not what it makes of others with it.
		if o.beside = s.entry(cmp.Or(chart, o.dir)); o.beside == nil {
			s.whole = true
		}
	}
	bases := append([]string{dir}, o.paths...)
	for _, ref := range o.refs {
		if slices.Contains(strings.Split(ref, "/"), "..") {
			for _, base := range bases {
				s.add(path.Join(base, ref))
			}
			continue
		}
		s.addFile(fromRoot(ref))
	}
	for _, pattern := range o.globs {
		s.addFiles(pattern)
	}
}

// inChart is the chart of which a directory holds templates; empty if it holds none.
func (s *scan) inChart(dir string) string {
	for ; dir != "."; dir = path.Dir(dir) {
		if path.Base(dir) == "templates" && s.is(path.Join(path.Dir(dir), "Chart.yaml"), filemode.Regular) {
			return path.Dir(dir)
		}
	}
	return ""
}

// addFiles adds the files that fit a pattern. Where Argo CD has * end at a slash or not by its settings, it does not here.
func (s *scan) addFiles(pattern string) {
	fits, err := glob.Compile(strings.TrimPrefix(pattern, "./"))
	if err != nil {
		return // Argo CD refuses it, too
	}
	var look func(tree *object.Tree, dir string)
	look = func(tree *object.Tree, dir string) {
		for _, e := range tree.Entries {
			name := path.Join(dir, e.Name)
			switch {
			case s.whole:
				return
			case e.Mode == filemode.Dir:
				if below := s.tree(e.Hash); below != nil {
					look(below, name)
				}
			case fits.Match(name):
				s.add(name)
			}
		}
	}
	look(s.root, "")
}
