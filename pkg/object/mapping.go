package object

import (
	"encoding/base64"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Mapping gives namespaces and storage classes other names. The zero value changes nothing.
type Mapping struct {
	Namespaces     map[string]string
	StorageClasses map[string]string
}

// Empty tells whether nothing is given another name.
func (m Mapping) Empty() bool { return len(m.Namespaces)+len(m.StorageClasses) == 0 }

// Namespace is the name that a namespace has after the mapping.
func (m Mapping) Namespace(name string) string { return other(m.Namespaces, name) }

// StorageClass is the name that a storage class has after the mapping.
func (m Mapping) StorageClass(name string) string { return other(m.StorageClasses, name) }

// Key is the identity that an object has after the mapping.
func (m Mapping) Key(k Key) Key {
	k.Namespace = m.Namespace(k.Namespace)
	if k.GroupKind() == Namespace {
		k.Name = m.Namespace(k.Name)
	}
	return k
}

func other(names map[string]string, name string) string {
	if to, ok := names[name]; ok {
		return to
	}
	return name
}

// Object is the object after the mapping: in its namespace, and with every reference to a namespace or class that can be told
// from its place. What is only text is left as it is; Leftovers finds it. The object given is not changed.
func (m Mapping) Object(u *unstructured.Unstructured) *unstructured.Unstructured {
	out := u.DeepCopy()
	if m.Empty() {
		return out
	}
	for field, value := range out.Object {
		if !isText(u, field) {
			out.Object[field] = m.value(field, value)
		}
	}
	if u.GroupVersionKind().GroupKind() == Namespace {
		out.SetName(m.Namespace(u.GetName()))
	}
	return out
}

// isText tells of a field of an object that nothing can be known about what is in it.
func isText(u *unstructured.Unstructured, field string) bool {
	gk := u.GroupVersionKind().GroupKind()
	return (gk == ConfigMap || gk == Secret) && slices.Contains([]string{"data", "stringData", "binaryData"}, field)
}

// Fields that hold the name of a namespace, of several, and of a storage class, in the kinds of Kubernetes as in others'.
var (
	namespaceFields = []string{"namespace", "targetNamespace", corev1.LabelMetadataName}
	namespacesLists = []string{"namespaces", "targetNamespaces", "watchNamespaces", "matchNames"}
	classFields     = []string{"storageClassName", "storageClass", corev1.BetaStorageClassAnnotation}
	// pathAnnotations hold "<namespace>/<name>".
	pathAnnotations = []string{"cert-manager.io/inject-ca-from", "cert-manager.io/inject-ca-from-secret"}
)

// value maps what stands in a field.
func (m Mapping) value(field string, value any) any {
	switch v := value.(type) {
	case string:
		return m.text(field, v)
	case []any:
		return m.list(field, v)
	case map[string]any:
		if field == "openAPIV3Schema" {
			return v
		}
		for inner, item := range v {
			v[inner] = m.value(inner, item)
		}
		if values, ok := v["values"].([]any); ok && v["key"] == corev1.LabelMetadataName {
			v["values"] = m.list("namespaces", values)
		}
	}
	return value
}

func (m Mapping) list(field string, list []any) []any {
	for i, item := range list {
		if name, ok := item.(string); ok && slices.Contains(namespacesLists, field) {
			list[i] = m.Namespace(name)
			continue
		}
		list[i] = m.value("", item)
	}
	return list
}

func (m Mapping) text(field, text string) string {
	switch {
	case slices.Contains(namespaceFields, field):
		return m.Namespace(text)
	case slices.Contains(classFields, field):
		return m.StorageClass(text)
	}
	if namespace, name, ok := strings.Cut(text, "/"); ok && slices.Contains(pathAnnotations, field) {
		return m.Namespace(namespace) + "/" + name
	}
	// Users and groups that are service accounts.
	if namespace, ok := strings.CutPrefix(text, "system:serviceaccounts:"); ok {
		return "system:serviceaccounts:" + m.Namespace(namespace)
	}
	if account, ok := strings.CutPrefix(text, "system:serviceaccount:"); ok {
		if namespace, name, ok := strings.Cut(account, ":"); ok {
			return "system:serviceaccount:" + m.Namespace(namespace) + ":" + name
		}
	}
	return text
}

// Leftover is a place of an object whose text seems to name a namespace that was given another name.
type Leftover struct {
	// Field is the path of the place: "spec.template.spec.containers[0].env[2].value".
	Field string
	// Namespace is the one that is named.
	Namespace string
}

// Leftovers finds what Object leaves as it is and may yet lead into the old namespaces: the names of Services in environment,
// arguments and ConfigMaps. It may find too much, and quotes nothing. They are sorted by field.
func (m Mapping) Leftovers(u *unstructured.Unstructured) []Leftover {
	var found []Leftover
	for _, from := range slices.Sorted(maps.Keys(m.Namespaces)) {
		if m.Namespaces[from] == from {
			continue
		}
		name := regexp.QuoteMeta(from)
		s := search{
			namespace: from,
			service:   regexp.MustCompile(`[a-z0-9]\.` + name + `(\.svc\b|$|[^a-z0-9.-])`),
			setting:   regexp.MustCompile(`(?i)namespaces?["']?\s*[=: ]\s*["']?` + name + `($|[^a-z0-9.-])`),
		}
		for field, value := range u.Object {
			s.visit(field, value, u.GroupVersionKind().GroupKind() == Secret && field == "data")
		}
		found = append(found, s.found...)
	}
	slices.SortFunc(found, func(a, b Leftover) int {
		return strings.Compare(a.Field+" "+a.Namespace, b.Field+" "+b.Namespace)
	})
	return found
}

type search struct {
	namespace        string
	service, setting *regexp.Regexp
	found            []Leftover
}

func (s *search) visit(path string, value any, encoded bool) {
	switch v := value.(type) {
	case string:
		if encoded {
			if plain, err := base64.StdEncoding.DecodeString(v); err == nil {
				v = string(plain)
			}
		}
		if s.service.MatchString(v) || s.setting.MatchString(v) {
			s.add(path)
		}
	case []any:
		for i, item := range v {
			s.visit(fmt.Sprintf("%s[%d]", path, i), item, encoded)
		}
	case map[string]any:
		// An environment variable.
		if name, ok := v["name"].(string); ok && v["value"] == s.namespace && strings.Contains(strings.ToUpper(name), "NAMESPACE") {
			s.add(path + ".value")
		}
		for field, item := range v {
			s.visit(path+"."+field, item, encoded)
		}
	}
}

func (s *search) add(path string) { s.found = append(s.found, Leftover{path, s.namespace}) }
