package render

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	securefs "github.com/fluxcd/pkg/kustomize/filesys"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// guardedFS is what kustomize reads from. Everything that kustomize follows it has read here before, so this is the place
// to refuse a kustomization that leads out of the repository: kustomize itself would go and fetch.
type guardedFS struct {
	filesys.FileSystem
	root string
	// generated is a kustomization that is not on disk, with its content.
	generated string
	content   []byte
	// plugins are files, and directories of files, that configure generators, transformers and validators.
	plugins map[string]bool
	// check is asked of each other file, if set.
	check func([]byte) error
	// refused is the first refusal.
	refused error
	// over says that the time is over.
	over   func() error
	bounds bounds
	// files read and bring those that are not on disk; nil if all are. The index knows their names.
	files Files
	index *index
	// sight is what Flux sees; nil for all.
	sight *sight
	// alone says that no other build runs.
	alone bool
	// origins are those of the objects that were built, in their order; nil if nobody wants to know.
	origins []origin
	// tracked says that kustomize is to find them.
	tracked bool
	// resources are files that kustomizations name, generators what makes objects there.
	resources  []string
	generators []origin
	// unknown are variables without a value, by the index of the object that has them.
	unknown map[int][]string
	// annotated says that the kustomization itself asks for them in the objects.
	annotated bool
	// contents are the files that were read, if origins are wanted; documents are where those in them begin.
	contents  map[string][]byte
	documents map[string][]document
	// lenient is told what leads elsewhere and is left out; nil refuses it.
	lenient func(gap desired.Gap)
}

// errSchemas asks for a build alone.
var errSchemas = errors.New("brings schemas of its own")

// ReadFile reads a file after having checked it, where it can lead elsewhere.
func (fs *guardedFS) ReadFile(file string) ([]byte, error) {
	if file == fs.generated {
		return fs.content, nil
	}
	data, err := fs.read(file)
	switch {
	case errors.As(err, new(*BoundError)), err != nil && fs.over() != nil:
	case err != nil:
		if outside := fs.outside(err); outside != nil && fs.refused == nil {
			fs.refused = &Error{File: fs.name(file), Err: outside}
		}
		return nil, err
	case isKustomization(filepath.ToSlash(file)):
		if fs.lenient != nil {
			if data, err = fs.withoutRemote(file, data); err != nil {
				break
			}
		}
		err = fs.checkKustomization(file, data)
	case fs.plugins[file]:
		err = checkPlugin(data)
	case fs.check != nil:
		err = fs.check(data)
	}
	if err != nil {
		err = &Error{File: fs.name(file), Err: err}
		if fs.refused == nil {
			fs.refused = err
		}
		return nil, err
	}
	return data, nil
}

func (fs *guardedFS) checkKustomization(file string, data []byte) error {
	var k types.Kustomization
	if err := k.Unmarshal(data); err != nil {
		return err
	}
	k.FixKustomization()
	if len(k.OpenAPI) > 0 && !fs.alone {
		return errSchemas
	}
	if len(k.HelmCharts)+len(k.HelmChartInflationGenerator) > 0 || k.HelmGlobals != nil {
		return fmt.Errorf("inflating Helm charts in a kustomization %w", ErrUnsupported)
	}
	for _, p := range references(&k) {
		if isRemote(p) {
			return fmt.Errorf("%w: %q", ErrRemote, p)
		}
	}
	dir := filepath.Dir(file)
	fs.noteSources(file, &k)
	for _, p := range k.Components {
		if rel, err := filepath.Rel(fs.root, filepath.Join(dir, p)); err != nil || !filepath.IsLocal(rel) {
			return fmt.Errorf("%w: %q", ErrRemote, p)
		}
	}
	plugins := slices.Concat(k.Generators, k.Transformers, k.Validators)
	if fs.plugins[dir] {
		plugins = append(plugins, k.Resources...)
	}
	for _, p := range plugins {
		if err := checkPlugin([]byte(p)); err != nil { // kustomize takes the configuration itself, too
			return err
		}
		fs.plugins[filepath.Join(dir, p)] = true
		if d, name, err := fs.CleanedAbs(filepath.Join(dir, p)); err == nil {
			fs.plugins[filepath.Join(d.String(), name)] = true
		}
	}
	return nil
}

// noteSources notes where objects come from, if somebody wants to know.
func (fs *guardedFS) noteSources(file string, k *types.Kustomization) {
	if fs.origins == nil {
		return
	}
	for _, p := range k.Resources {
		if p = filepath.Join(filepath.Dir(file), p); !slices.Contains(fs.resources, p) {
			fs.resources = append(fs.resources, p)
		}
	}
	note := func(kind, name string) {
		if g := (origin{fs.name(file), kind, name}); !slices.Contains(fs.generators, g) {
			fs.generators = append(fs.generators, g)
		}
	}
	for _, c := range k.ConfigMapGenerator {
		note("ConfigMap", c.Name)
	}
	for _, s := range k.SecretGenerator {
		note("Secret", s.Name)
	}
}

// references are all places where a kustomization names a file or directory; some may be YAML instead.
func references(k *types.Kustomization) []string {
	refs := slices.Concat(k.Resources, k.Components, k.Crds, k.Configurations, k.Generators, k.Transformers, k.Validators)
	for _, p := range k.OpenAPI {
		refs = append(refs, p)
	}
	for _, p := range k.PatchesStrategicMerge { //nolint:staticcheck // kustomize still follows it, so it must be guarded
		refs = append(refs, string(p))
	}
	for _, p := range slices.Concat(k.Patches, k.PatchesJson6902) { //nolint:staticcheck // likewise
		refs = append(refs, p.Path)
	}
	for _, r := range k.Replacements {
		refs = append(refs, r.Path)
	}
	for _, c := range k.ConfigMapGenerator {
		refs = append(refs, sources(c.KvPairSources)...)
	}
	for _, s := range k.SecretGenerator {
		refs = append(refs, sources(s.KvPairSources)...)
	}
	return refs
}

func sources(s types.KvPairSources) []string {
	refs := append(slices.Clone(s.EnvSources), s.EnvSource)
	for _, f := range s.FileSources {
		refs = append(refs, f)
		if _, file, ok := strings.Cut(f, "="); ok {
			refs = append(refs, file)
		}
	}
	return refs
}

// remote covers all that kustomize takes for a URL or a Git repository.
var remote = regexp.MustCompile(`(?i)^(?:git::|[a-z][a-z0-9+.-]*://|https?:|github\.com[/:]|[a-z][a-z0-9-]*@[^/:]*[/:])`)

func isRemote(ref string) bool {
	return strings.ContainsAny(ref, ":@/") && !strings.Contains(ref, "\n") && remote.MatchString(strings.TrimSpace(ref))
}

// checkPlugin refuses URLs in the configuration of a generator, transformer or validator.
func checkPlugin(data []byte) error {
	for _, doc := range bytes.Split(data, []byte("\n---")) {
		var config any
		if err := yaml.Unmarshal(doc, &config); err != nil {
			return err
		}
		if ref := findRemote(config); ref != "" {
			return fmt.Errorf("%w: %q", ErrRemote, ref)
		}
	}
	return nil
}

func findRemote(config any) string {
	switch c := config.(type) {
	case string:
		if _, file, ok := strings.Cut(c, "="); isRemote(c) || ok && isRemote(file) {
			return c
		}
	case []any:
		for _, v := range c {
			if ref := findRemote(v); ref != "" {
				return ref
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(c)) {
			if key == "literals" { // values, not files
				continue
			}
			if ref := findRemote(c[key]); ref != "" {
				return ref
			}
		}
	}
	return ""
}

// name is a file as people know it: relative to the root.
func (fs *guardedFS) name(file string) string {
	if rel, err := filepath.Rel(fs.root, file); err == nil {
		return filepath.ToSlash(rel)
	}
	return file
}

// outside is ErrRemote if the error says that a path or link left the root, else nil.
func (fs *guardedFS) outside(err error) error {
	var left *securefs.ConstraintError
	if !errors.As(err, &left) {
		return nil
	}
	return fmt.Errorf("%w: %q", ErrRemote, fs.name(left.Path))
}

// relative takes the temporary place of the commit out of an error. Nothing tells kustomize's errors apart but text.
func (fs *guardedFS) relative(err error) error {
	if errors.Is(err, ErrRemote) || errors.Is(err, ErrUnsupported) {
		return err
	}
	if outside := fs.outside(err); outside != nil {
		return outside
	}
	message := strings.ReplaceAll(err.Error(), fs.root+string(filepath.Separator), "")
	return errors.New(strings.ReplaceAll(message, fs.root, "."))
}
