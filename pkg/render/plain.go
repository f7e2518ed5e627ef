package render

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// plainly reads a directory of which kustomize would make what is in the files, at most with a namespace: kustomize takes
// most of the time of a check, and time by the square of the objects. Whatever is not plain is left to it.
func (r *Repository) plainly(ctx context.Context, as As, sight *sight) ([]desired.Object, bool) {
	files, namespace, ok := r.plainFiles(as, sight)
	if !ok {
		return nil, false
	}
	fs := r.guard(ctx.Err).seeing(sight)
	var objects []desired.Object
	var plain []*unstructured.Unstructured
	seen := map[string]bool{}
	left := r.bounds.all
	for _, file := range files {
		read, err := known(r.blobs, "plain", r.content(file), func() (plainFile, error) {
			data, err := fs.read(r.file(file))
			if err != nil {
				return plainFile{}, err
			}
			return plainObjects(data)
		})
		if left -= read.size; err != nil || left < 0 {
			return nil, false
		}
		for _, object := range read.objects {
			object, ok := placed(object, file, namespace)
			if !ok {
				return nil, false
			}
			key := object.GetKind() + " " + object.GetName()
			if namespace == "" {
				key += " " + object.GetNamespace() + " " + object.GetAPIVersion()
			}
			if seen[key] {
				return nil, false
			}
			seen[key] = true
			objects, plain = append(objects, object), append(plain, object.Unstructured)
		}
	}
	setNamespaces(plain, cmp.Or(as.Namespace, defaultNamespace))
	return objects, true
}

// plainFiles are those that a directory is built of, and the namespace that its objects get; empty for those that they have.
func (r *Repository) plainFiles(as As, sight *sight) (files []string, namespace string, ok bool) {
	entries := r.index.entries
	if sight != nil {
		entries = sight.entries
	}
	if sight != nil && sight.unsure || as.change != nil || as.Check != nil || as.Flat || sight == nil && len(r.index.links) > 0 || !entries[path.Clean(as.Path)] {
		return nil, "", false
	}
	if as.Kustomization != nil {
		spec, _, _ := unstructured.NestedMap(as.Kustomization.Object, "spec")
		for _, field := range slices.Concat(transforming, []string{"commonMetadata", "postBuild"}) {
			if _, ok := spec[field]; ok {
				return nil, "", false
			}
		}
		if target, ok := spec["targetNamespace"]; ok {
			if namespace, ok = target.(string); !ok || namespace == "" {
				return nil, "", false
			}
		}
	}
	switch kustomizations := r.index.kustomizationOf[path.Clean(as.Path)]; {
	case len(kustomizations) == 1:
		k := r.followed(kustomizations[0])
		if files, ok = r.resourceFiles(as.Path, k, entries); !ok {
			return nil, "", false
		}
		return files, cmp.Or(namespace, k.namespace), true
	case len(kustomizations) > 1 || as.Kustomization == nil:
		return nil, "", false
	}
	if len(below(r.index.kustomizations, as.Path)) > 0 {
		return nil, "", false
	}
	for _, file := range below(r.index.files, as.Path) {
		if ext := path.Ext(file); (ext == ".yaml" || ext == ".yml") && sight.sees(file) {
			files = append(files, file)
		}
	}
	return files, namespace, true
}

// isPlain says whether a kustomization says nothing but resources and a namespace.
func isPlain(k *types.Kustomization) bool {
	rest := *k
	rest.TypeMeta, rest.MetaData, rest.Resources, rest.Namespace = types.TypeMeta{}, nil, nil, ""
	return k.Kind == types.KustomizationKind && len(k.EnforceFields()) == 0 && len(k.Resources) > 0 && reflect.DeepEqual(rest, types.Kustomization{})
}

// resourceFiles are what a plain kustomization names, if all of that are files.
func (r *Repository) resourceFiles(dir string, k followed, entries map[string]bool) (files []string, ok bool) {
	if !k.plain {
		return nil, false
	}
	for _, ref := range k.refs {
		file := path.Join(dir, ref)
		isDir, there := entries[file]
		if !there || isDir || strings.TrimPrefix(ref, "./") != path.Clean(ref) || strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "..") ||
			isKustomization(ref) {
			return nil, false
		}
		files = append(files, file)
	}
	return files, true
}

// plainFile is a file of plain objects.
type plainFile struct {
	objects []desired.Object
	// size is that of the file, in bytes.
	size int64
}

// errNotPlain leaves a file to kustomize.
var errNotPlain = errors.New("is not a plain object")

// separator is what kustomize cuts a file at.
var separator = regexp.MustCompile(`^---[ \t]*(#.*)?\n`)

// plainObjects reads the objects of a file with kustomize's parser; an error leaves it to kustomize itself.
func plainObjects(data []byte) (plainFile, error) {
	file := plainFile{size: int64(len(data))}
	if bytes.IndexByte(data, '\r') >= 0 || bytes.IndexByte(data, 0) >= 0 || bytes.HasPrefix(data, []byte("\ufeff")) {
		return file, errNotPlain
	}
	line := 1
	for _, text := range splitDocuments(data) {
		from := line
		line += bytes.Count(text, []byte("\n"))
		if bytes.HasPrefix(text, []byte("---")) && !separator.Match(text) {
			return file, errNotPlain
		}
		first := firstLine(text)
		if first == 0 {
			continue
		}
		var node yaml.Node
		if err := yaml.Unmarshal(text, &node); err != nil {
			return file, err
		}
		value, err := plainValue(&node)
		u := &unstructured.Unstructured{}
		u.Object, _ = value.(map[string]any)
		if err != nil || !isPlainObject(u) || aliased(&node) {
			return file, cmp.Or(err, errNotPlain)
		}
		file.objects = append(file.objects, desired.Object{Unstructured: u, Origin: desired.Origin{Line: from + first - 1}})
	}
	return file, nil
}

// aliased says whether a value is written elsewhere.
func aliased(node *yaml.Node) bool {
	return node.Kind == yaml.AliasNode || node.Anchor != "" || slices.ContainsFunc(node.Content, aliased)
}

// isPlainObject says whether kustomize leaves an object as it is. It means something by some annotations, makes strings of others, and
// fills in the namespaces of what role bindings, webhooks and API services refer to.
func isPlainObject(u *unstructured.Unstructured) bool {
	metadata, ok := u.Object["metadata"].(map[string]any)
	if !ok || u.GetKind() == "" || u.GetAPIVersion() == "" || u.GetName() == "" || strings.HasSuffix(u.GetKind(), "List") {
		return false
	}
	switch u.GroupVersionKind().Group {
	case "rbac.authorization.k8s.io", "admissionregistration.k8s.io", "apiregistration.k8s.io":
		return false
	}
	if namespace, ok := metadata["namespace"]; ok && namespace != u.GetNamespace() {
		return false
	}
	for _, field := range []string{"labels", "annotations"} {
		value, ok := metadata[field]
		if !ok {
			continue
		}
		entries, ok := value.(map[string]any)
		if !ok || len(entries) == 0 {
			return false
		}
		for key, value := range entries {
			if _, ok := value.(string); !ok || strings.Contains(key, "config.kubernetes.io/") || strings.HasPrefix(key, "kustomize.config.k8s.io/") {
				return false
			}
		}
	}
	return true
}

// placed is an object of a file as kustomize puts it into a namespace, if that is no more than a field of it. It shares all but its
// metadata with the object that it is given.
func placed(o desired.Object, file, namespace string) (desired.Object, bool) {
	u := &unstructured.Unstructured{Object: maps.Clone(o.Object)}
	metadata, ok := u.Object["metadata"].(map[string]any)
	if !ok {
		return o, false
	}
	metadata = maps.Clone(metadata)
	u.Object["metadata"] = metadata
	switch gk := u.GroupVersionKind().GroupKind(); {
	case namespace == "", gk == schema.GroupKind{Kind: "Namespace"} && u.GetName() == namespace:
	case !isNamespaced(gk) || gk.Kind == "PodSecurityPolicy":
		return o, false
	default:
		metadata["namespace"] = namespace
	}
	return desired.Object{Unstructured: u, Origin: desired.Origin{File: file, Line: o.Line}}, true
}
