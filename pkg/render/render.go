// Package render turns a directory of a commit into Kubernetes objects, as Flux does: by kustomize, and where there is no
// kustomization by one generated from all manifests below. It never leaves the commit: no network, no plugins, no
// links to elsewhere, so that the same commit always gives the same objects.
package render

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/fluxcd/pkg/kustomize"
	securefs "github.com/fluxcd/pkg/kustomize/filesys"
	"github.com/fluxcd/pkg/sourceignore"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/kustomize/kyaml/openapi/kubernetesapi"
	"sigs.k8s.io/kustomize/kyaml/yaml"
	yamls "sigs.k8s.io/yaml"
)

var (
	// ErrRemote is wrapped when a kustomization refers to something outside the commit.
	ErrRemote = errors.New("refers to something outside the repository")
	// ErrUnsupported is wrapped when a kustomization wants what would make the result depend on this machine: Helm, plugins.
	ErrUnsupported = errors.New("is not supported")
	// ErrEmpty is wrapped when a directory gives no objects: deploying nothing is never what was meant.
	ErrEmpty = errors.New("gives no objects")
)

// Error says which file or directory, relative to the root, does not render and why.
type Error struct {
	File string
	Err  error
}

func (e *Error) Error() string { return e.File + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// schemas guards the variables in which kustomize keeps the schemas of all kinds: builds share them, but one that brings schemas of its
// own has them to itself.
var schemas sync.RWMutex

// Render builds the objects of the directory path inside root, a materialised commit, in a deterministic order.
// Objects of built-in namespaced kinds, and of kinds defined among the objects, that name no namespace get "default".
// Nothing in root is changed. Errors are of type Error, save that of a context which is over.
func Render(ctx context.Context, root, path string) ([]*unstructured.Unstructured, error) {
	return Build(ctx, root, As{Path: path})
}

// Build builds a directory as Render does, and makes of it what an engine makes of it.
func Build(ctx context.Context, root string, as As) ([]*unstructured.Unstructured, error) {
	fs, dir, err := open(ctx, root, as.Path)
	if err != nil {
		return nil, err
	}
	fs.check = as.Check
	if as.Ignore != nil {
		has, err := fs.artifact(*as.Ignore)
		if err != nil {
			return nil, &Error{File: as.Path, Err: err}
		}
		fs.seeing(has)
	}
	built, err := fs.make(ctx, dir, as)
	if err != nil {
		return nil, err
	}
	objects, err := convert(built)
	if err == nil && len(objects) == 0 {
		err = ErrEmpty
	}
	if err == nil {
		err = as.label(objects)
	}
	if err != nil {
		return nil, &Error{File: as.Path, Err: err}
	}
	setNamespaces(objects, cmp.Or(as.Namespace, defaultNamespace))
	return objects, ctx.Err()
}

// make generates, builds and substitutes. Errors are of type Error, save that of a context which is over.
func (fs *guardedFS) make(ctx context.Context, dir string, as As) (resmap.ResMap, error) {
	err := fs.generate(dir, as)
	var built resmap.ResMap
	if err == nil {
		built, err = fs.buildAnyhow(dir)
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case fs.refused != nil:
		return nil, fs.refused // kustomize hides why it could not read a file
	case err != nil:
		return nil, &Error{File: as.Path, Err: fs.relative(err)}
	}
	switch {
	case fs.origins == nil:
	case fs.tracked:
		if err := fs.takeOrigins(dir, built); err != nil {
			return nil, &Error{File: as.Path, Err: err}
		}
	case !fs.matchOrigins(built):
		fs.tracked, fs.generated, fs.content = true, "", nil
		return fs.make(ctx, dir, as)
	}
	if err := as.substitute(ctx, built, fs.leave); err != nil {
		return nil, &Error{File: as.Path, Err: err}
	}
	return built, nil
}

func (fs *guardedFS) leave(i int, unknown []string) {
	if fs.unknown == nil {
		fs.unknown = map[int][]string{}
	}
	fs.unknown[i] = unknown
}

// buildAnyhow builds beside others, and alone if a kustomization with schemas of its own is met.
func (fs *guardedFS) buildAnyhow(dir string) (resmap.ResMap, error) {
	schemas.RLock()
	built, err := fs.build(dir)
	schemas.RUnlock()
	if !errors.Is(fs.refused, errSchemas) {
		return built, err
	}
	schemas.Lock()
	defer schemas.Unlock()
	fs.refused, fs.alone = nil, true
	defer func() {
		if openapi.GetSchemaVersion() != kubernetesapi.DefaultOpenAPI {
			openapi.ResetOpenAPI()
			openapi.Schema()
		}
	}()
	return fs.build(dir)
}

// open confines the build to root and finds the directory in it. Errors are of type Error, save that of a context which is over.
func open(ctx context.Context, root, path string) (*guardedFS, string, error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	fs, err := guard(ctx.Err, root)
	if err != nil {
		return nil, "", &Error{File: path, Err: err}
	}
	dir, err := fs.directory(path)
	if err != nil {
		return nil, "", &Error{File: path, Err: err}
	}
	return fs, dir, nil
}

func guard(over func() error, root string) (*guardedFS, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, err
	}
	secure, err := securefs.MakeFsOnDiskSecure(root)
	if err != nil {
		return nil, err
	}
	return &guardedFS{FileSystem: secure, over: over, root: root, plugins: map[string]bool{}, bounds: defaultBounds}, nil
}

// directory is the absolute path of a directory of the repository.
func (fs *guardedFS) directory(path string) (string, error) {
	if !filepath.IsLocal(filepath.FromSlash(path)) {
		return "", fmt.Errorf("the path %w", ErrRemote)
	}
	dir, file, err := fs.CleanedAbs(filepath.Join(fs.root, filepath.FromSlash(path)))
	switch {
	case err != nil:
		return "", fs.relative(err)
	case file != "":
		return "", errors.New("is a file, not a directory")
	}
	return dir.String(), nil
}

// generate adds a kustomization of all manifests in dir if it has none, and to the one there is what an engine's own adds.
func (fs *guardedFS) generate(dir string, as As) error {
	there := fs.kustomizationsIn(dir)
	if len(there) > 0 && as.Kustomization == nil {
		if as.change == nil && !fs.tracked {
			return nil
		}
		return fs.wantOrigins(there[0], as)
	}
	data, file, err := fs.settled(there, as)
	if data == nil && err == nil {
		data, file, err = fs.fromGenerator(dir, len(there) > 0, as)
	}
	if err != nil {
		return err
	}
	if fs.lenient != nil {
		if data, err = fs.withoutRemote(file, data); err != nil {
			return err
		}
	}
	return fs.take(file, data)
}

// kustomizationsIn are those of a directory: what has a name of one.
func (fs *guardedFS) kustomizationsIn(dir string) []string {
	var found []string
	for _, name := range konfig.RecognizedKustomizationFileNames() {
		if file := filepath.Join(dir, name); fs.Exists(file) {
			found = append(found, file)
		}
	}
	return found
}

// take puts a kustomization in the place of the one there is.
func (fs *guardedFS) take(file string, data []byte) (err error) {
	if fs.tracked {
		if data, err = fs.withOrigins(data); err != nil {
			return err
		}
	}
	fs.generated, fs.content = file, data
	return fs.checkKustomization(file, data)
}

// transforming are the fields by which Flux's Kustomizations add to that of a directory, save the namespace.
var transforming = []string{"namePrefix", "nameSuffix", "patches", "patchesStrategicMerge", "patchesJson6902", "images", "components", "buildMetadata"}

// settled is what Flux's generator makes of the kustomizations of a directory if there is one, to which its own adds at most a namespace;
// nil leaves them to the generator, which reads disks, and these more slowly than kustomize builds.
func (fs *guardedFS) settled(there []string, as As) (data []byte, file string, err error) {
	if len(there) != 1 || fs.IsDir(there[0]) || as.Kustomization == nil {
		return nil, "", nil
	}
	file = there[0]
	spec, _ := as.Kustomization.Object["spec"].(map[string]any)
	if slices.ContainsFunc(transforming, func(field string) bool { _, adds := spec[field]; return adds }) {
		return nil, "", nil
	}
	if data, err = fs.read(file); err != nil {
		return nil, "", err
	}
	k := types.Kustomization{TypeMeta: types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind}}
	if err := yamls.Unmarshal(data, &k); err != nil || len(k.Resources) == 0 {
		return nil, "", nil
	}
	if target, ok := spec["targetNamespace"]; ok {
		if k.Namespace, ok = target.(string); !ok {
			return nil, "", nil
		}
	}
	data, err = yamls.Marshal(k)
	return data, file, err
}

// fromGenerator is what Flux's generator makes. Files that Flux leaves out of its artifacts, and those that a .sourceignore in dir names, are
// no manifests.
func (fs *guardedFS) fromGenerator(dir string, there bool, as As) (data []byte, file string, err error) {
	if err := fs.bringFor(dir, there); err != nil {
		return nil, "", err
	}
	if !there {
		if err := fs.boundAll(dir, as.Flat); err != nil {
			return nil, "", err
		}
	}
	var engine unstructured.Unstructured
	if as.Kustomization != nil {
		engine = *as.Kustomization
	}
	if components, _, _ := unstructured.NestedStringSlice(engine.Object, "spec", "components"); fs.files != nil {
		for _, c := range components { // the generator looks whether they are there
			if inside := fs.index.in(fs.name(filepath.Join(dir, c))); len(inside) > 0 {
				if err := fs.files.Bring(inside[0]); err != nil {
					return nil, "", err
				}
			}
		}
	}
	generator := kustomize.NewGenerator(fs.root, engine)
	if !there {
		hidden, ignore := "", []string{sourceignore.ExcludeVCS, sourceignore.ExcludeExt, sourceignore.ExcludeCI, sourceignore.ExcludeExtra}
		if as.Flat {
			ignore = append(ignore, "/*/")
		}
		if fs.sight != nil {
			if fs.hasKustomization(dir) {
				return nil, "", errors.New("its kustomization is a link, or a .sourceignore or the source leaves it out: Flux does not have it")
			}
			hidden = "\n" + strings.Join(fs.sight.patternsFor(fs.name(dir)), "\n")
		}
		generator = kustomize.NewGeneratorWithIgnore(fs.root, strings.ReplaceAll(strings.Join(ignore, ","), ",", "\n")+hidden, engine)
	}
	data, file, _, err = generator.GenerateManifest(dir)
	return data, file, err
}

// build runs kustomize with the options of Flux's own Build, and like it with the schemas of all Kubernetes kinds and none that an
// earlier build brought along. Flux loads the schemas for each build, which takes longer than most builds; here they stay.
func (fs *guardedFS) build(dir string) (built resmap.ResMap, err error) {
	openapi.Schema()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("kustomize cannot build it: %v", r)
		}
	}()
	options := &krusty.Options{LoadRestrictions: types.LoadRestrictionsNone, PluginConfig: types.DisabledPluginConfig()}
	return krusty.MakeKustomizer(options).Run(fs, dir)
}

func convert(built resmap.ResMap) ([]*unstructured.Unstructured, error) {
	objects := make([]*unstructured.Unstructured, 0, built.Size())
	for _, r := range built.Resources() {
		content, err := plainValue(r.YNode())
		if err != nil {
			return nil, fmt.Errorf("converting %s: %w", r.CurId(), err)
		}
		u := &unstructured.Unstructured{}
		u.Object, _ = content.(map[string]any)
		if u.GetKind() == "" {
			return nil, fmt.Errorf("converting %s: it has no kind", r.CurId())
		}
		if u.GetName() == "" {
			return nil, fmt.Errorf("%s has no name: what Git holds must be found again by its name", u.GetKind())
		}
		objects = append(objects, u)
	}
	return objects, nil
}

// plainValue is what the API server would read out of the value's JSON, without the way through text.
func plainValue(node *yaml.Node) (any, error) {
	var decoded any
	if err := node.Decode(&decoded); err != nil {
		return nil, err
	}
	return asJSON(decoded)
}

func asJSON(value any) (any, error) {
	var err error
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			if v[key], err = asJSON(v[key]); err != nil {
				return nil, err
			}
		}
		return v, nil
	case []any:
		for i := range v {
			if v[i], err = asJSON(v[i]); err != nil {
				return nil, err
			}
		}
		return v, nil
	case nil, string, bool, int64:
		return v, nil
	case int:
		return int64(v), nil
	}
	data, err := json.Marshal(value) // numbers that are not whole, dates, and what JSON does not know
	if err != nil {
		return nil, err
	}
	var read any
	err = utiljson.Unmarshal(data, &read)
	return read, err
}
