package render

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/kustomize/api/types"

	"github.com/lockstep-dr/lockstep/pkg/desired"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// values are what an owner takes out of ConfigMaps and Secrets.
type values struct {
	from []valuesRef
	// known are variables of a Kustomization.
	known map[string]string
}

// valuesRef refers to a ConfigMap or Secret.
type valuesRef struct {
	kind, namespace, name string
	optional              bool
	// data is what it holds; nil if it was not found.
	data map[string]string
	// encrypted are the keys whose values are not readable.
	encrypted []string
	found     bool
}

func (ref valuesRef) String() string {
	return fmt.Sprintf("%s %s/%s", ref.kind, ref.namespace, ref.name)
}

// substitutes are the sources of an owner's variables.
func substitutes(o *owner) *values {
	list, _, _ := unstructured.NestedSlice(o.Object.Object, "spec", "postBuild", "substituteFrom")
	return &values{from: valuesRefs(o, list)}
}

func valuesRefs(o *owner, list []any) []valuesRef {
	var refs []valuesRef
	for _, entry := range list {
		if m, ok := entry.(map[string]any); ok {
			ref := valuesRef{namespace: o.Namespace}
			ref.kind, _ = m["kind"].(string)
			ref.name, _ = m["name"].(string)
			ref.optional, _ = m["optional"].(bool)
			refs = append(refs, ref)
		}
	}
	return refs
}

// take looks for the sources among objects.
func (v *values) take(objects []desired.Object) {
	for i := range v.from {
		ref := &v.from[i]
		for _, o := range objects {
			if o.GetKind() == ref.kind && o.GroupVersionKind().Group == "" && o.GetName() == ref.name && o.GetNamespace() == ref.namespace {
				ref.read(o)
			}
		}
	}
	v.known = map[string]string{}
	for _, ref := range v.from {
		for key, value := range ref.data {
			v.known[key] = strings.ReplaceAll(value, "\n", "")
		}
		for _, key := range ref.encrypted {
			delete(v.known, key)
		}
	}
}

// read takes the data of a ConfigMap or Secret.
func (ref *valuesRef) read(o desired.Object) {
	ref.found, ref.data, ref.encrypted = true, map[string]string{}, nil
	data, _, _ := unstructured.NestedMap(o.Object, "data")
	plain, _, _ := unstructured.NestedMap(o.Object, "stringData")
	encrypted := object.IsEncrypted(o.Unstructured)
	for key, value := range data {
		s, _ := value.(string)
		if ref.kind == "Secret" && !encrypted {
			decoded, err := base64.StdEncoding.DecodeString(s)
			if err != nil {
				ref.encrypted = append(ref.encrypted, key)
				continue
			}
			s = string(decoded)
		}
		ref.data[key] = s
	}
	for key, value := range plain {
		ref.data[key], _ = value.(string)
	}
	for key, value := range ref.data {
		if encrypted && strings.HasPrefix(value, "ENC[") || slices.ContainsFunc(o.Unknown, func(name string) bool { return strings.Contains(value, "${"+name+"}") }) {
			ref.encrypted = append(ref.encrypted, key)
			delete(ref.data, key)
		}
	}
	slices.Sort(ref.encrypted)
}

// missing says whether a source was looked for in vain, or is not readable.
func (v *values) missing() []valuesRef {
	return slices.DeleteFunc(slices.Clone(v.from), func(ref valuesRef) bool { return ref.found })
}

// unknown says which variables may have a value that is not known; nil if none.
func (v *values) unknown() func(string) bool {
	all := slices.ContainsFunc(v.missing(), func(ref valuesRef) bool { return !ref.optional })
	keys := map[string]bool{}
	for _, ref := range v.from {
		for _, key := range ref.encrypted {
			keys[key] = true
		}
	}
	if !all && len(keys) == 0 {
		return nil
	}
	return func(name string) bool { return all || keys[name] }
}

// gaps name the sources without which the owner is not wholly known.
func (v *values) gaps(o *owner) []desired.Gap {
	var gaps []desired.Gap
	for _, ref := range v.from {
		why := ""
		switch {
		case !ref.found && !ref.optional:
			why = "it is not in the repository: variables that it may give are left as they are"
		case len(ref.encrypted) > 0:
			why = "it cannot be read: its variables are left as they are: " + strings.Join(ref.encrypted, ", ")
		default:
			continue
		}
		gaps = append(gaps, desired.Gap{Origin: o.Origin, What: ref.String(), Why: why})
	}
	return gaps
}

// hashed stands for the values in the hash of an owner.
func (v *values) hashed() string {
	sum := sha256.New()
	for _, ref := range v.from {
		_ = json.NewEncoder(sum).Encode([]any{ref.kind, ref.namespace, ref.name, ref.found, ref.data, ref.encrypted})
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// findValues looks for what owners take from ConfigMaps and Secrets, and renders who has such a one in its files.
func (r *Repository) findValues(ctx context.Context) error {
	for range 2 {
		r.takeValues()
		var wanted []*owner
		missing := map[string][]valuesRef{}
		for _, o := range r.owners {
			if !o.done {
				missing[o.instance] = append(missing[o.instance], o.values.missing()...)
			}
		}
		for _, o := range r.owners {
			if !o.done && len(o.values.missing()) == 0 && len(missing[o.instance]) > 0 && r.declaresAny(o.reads, missing[o.instance]) {
				wanted = append(wanted, o)
			}
		}
		if len(wanted) == 0 {
			return nil
		}
		if err := r.renderAll(ctx, wanted); err != nil {
			return err
		}
	}
	r.takeValues()
	return nil
}

func (r *Repository) takeValues() {
	objects := map[string][]desired.Object{}
	for _, o := range r.sorted() {
		for _, object := range o.objects {
			if kind := object.GetKind(); kind == "ConfigMap" || kind == "Secret" {
				objects[o.instance] = append(objects[o.instance], object)
			}
		}
	}
	for _, o := range r.owners {
		if !o.done && len(o.values.from) > 0 {
			o.values.take(objects[o.instance])
		}
	}
}

// declaresAny says whether one of the sources may be written in what is read.
func (r *Repository) declaresAny(s *reads, refs []valuesRef) bool {
	for p := range s.paths {
		files := []string{p}
		if isDir, _ := r.lies(p); isDir {
			files = below(r.index.files, p)
		}
		for _, file := range files {
			if declared, ok := r.declarations(file); ok && slices.ContainsFunc(refs, func(ref valuesRef) bool {
				return slices.Contains(declared, ref.kind+"/"+ref.name)
			}) {
				return true
			}
		}
	}
	return false
}

// declarations are the ConfigMaps and Secrets of a file; false if there are none.
func (r *Repository) declarations(file string) ([]string, bool) {
	if found, ok := r.declared.Load(file); ok {
		return found.([]string), len(found.([]string)) > 0
	}
	var found []string
	data, _ := r.small(file)
	if bytes.Contains(data, []byte("ConfigMap")) || bytes.Contains(data, []byte("Secret")) {
		for _, d := range documentsOf(data) {
			if d.kind == "ConfigMap" || d.kind == "Secret" {
				found = append(found, d.kind+"/"+d.name)
			}
		}
	}
	var k types.Kustomization
	if isKustomization(file) && k.Unmarshal(data) == nil {
		for _, g := range k.ConfigMapGenerator {
			found = append(found, "ConfigMap/"+k.NamePrefix+g.Name+k.NameSuffix)
		}
		for _, g := range k.SecretGenerator {
			found = append(found, "Secret/"+k.NamePrefix+g.Name+k.NameSuffix)
		}
	}
	r.declared.Store(file, found)
	return found, len(found) > 0
}
