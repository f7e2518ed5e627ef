// Package object gives Kubernetes objects their identity and says what a workload uses: its claims, Secrets and
// ConfigMaps. It reads objects as they stand in Git, before any API server has put defaults into them.
package object

import (
	"cmp"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Name is a namespaced name; as text it is "<namespace>/<name>".
type Name struct {
	Namespace string
	Name      string
}

// ParseName reads what String wrote.
func ParseName(s string) (Name, error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return Name{}, fmt.Errorf("%q is not <namespace>/<name>", s)
	}
	return Name{namespace, name}, nil
}

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// MarshalText makes a Name a string in JSON.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (n *Name) UnmarshalText(text []byte) error {
	var err error
	*n, err = ParseName(string(text))
	return err
}

// Compare orders names by namespace, then by name.
func (n Name) Compare(other Name) int {
	return cmp.Or(cmp.Compare(n.Namespace, other.Namespace), cmp.Compare(n.Name, other.Name))
}

// Key identifies an object within a cluster, whatever version of its kind is spoken.
type Key struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// KeyOf returns the identity of an object.
func KeyOf(u *unstructured.Unstructured) Key {
	gk := u.GroupVersionKind().GroupKind()
	return Key{Group: gk.Group, Kind: gk.Kind, Namespace: u.GetNamespace(), Name: u.GetName()}
}

// GroupKind returns the kind with its group.
func (k Key) GroupKind() schema.GroupKind { return schema.GroupKind{Group: k.Group, Kind: k.Kind} }

// NamespacedName returns the name without the kind.
func (k Key) NamespacedName() Name { return Name{k.Namespace, k.Name} }

// IsCustom tells of an API group that it does not come with Kubernetes, nor from its makers.
func IsCustom(group string) bool {
	return strings.Contains(group, ".") && !strings.HasSuffix(group, ".k8s.io")
}

// String is "<Kind> <namespace>/<name>", or "<Kind> <name>" where there is no namespace. Kinds outside the groups that
// come with Kubernetes show their group.
func (k Key) String() string {
	kind := k.Kind
	if IsCustom(k.Group) {
		kind += "." + k.Group
	}
	if k.Namespace == "" {
		return kind + " " + k.Name
	}
	return kind + " " + k.Namespace + "/" + k.Name
}

// Compare orders keys by namespace, kind, group and name.
func (k Key) Compare(other Key) int {
	return cmp.Or(cmp.Compare(k.Namespace, other.Namespace), cmp.Compare(k.Kind, other.Kind),
		cmp.Compare(k.Group, other.Group), cmp.Compare(k.Name, other.Name))
}

// Set is a set of objects by identity.
type Set map[Key]*unstructured.Unstructured

// NewSet makes a Set; of two objects with one identity it names the first it finds twice in the error.
func NewSet(objects []*unstructured.Unstructured) (Set, error) {
	set := make(Set, len(objects))
	for _, u := range objects {
		key := KeyOf(u)
		if _, taken := set[key]; taken {
			return nil, fmt.Errorf("%s stands twice", key)
		}
		set[key] = u
	}
	return set, nil
}

// Has tells whether the set holds an object of the kind with the name.
func (s Set) Has(kind schema.GroupKind, name Name) bool {
	_, ok := s[Key{Group: kind.Group, Kind: kind.Kind, Namespace: name.Namespace, Name: name.Name}]
	return ok
}

// Kinds that the rest of Lockstep asks about.
var (
	Namespace                = schema.GroupKind{Kind: "Namespace"}
	Claim                    = schema.GroupKind{Kind: "PersistentVolumeClaim"}
	Secret                   = schema.GroupKind{Kind: "Secret"}
	ConfigMap                = schema.GroupKind{Kind: "ConfigMap"}
	ServiceAccount           = schema.GroupKind{Kind: "ServiceAccount"}
	CustomResourceDefinition = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
)

// IsDefinition tells whether other objects need this one before they can be created at all: a Namespace or a
// CustomResourceDefinition.
func IsDefinition(u *unstructured.Unstructured) bool {
	gk := u.GroupVersionKind().GroupKind()
	return gk == Namespace || gk == CustomResourceDefinition
}
