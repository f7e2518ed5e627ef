// Package residual finds what an application needs and Git does not hold, keeps it, and puts it back.
//
// Survey gathers facts of a cluster, Decide says of each object whether it is residual and why, Capture keeps those that are,
// and Replay creates those that are absent. Names and values leave the cluster only in a sealed document of the vault;
// the survey itself reads no content of a Secret but that of a Helm release's storage, and the URLs of Argo CD's repositories.
package residual

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Version is the version of the document that this package writes, and the newest that it reads. Version 1 held Secrets only.
const Version = 2

// MaxDocument is the size of the largest document, in bytes: that of a vault's.
const MaxDocument = 16 << 20

// ErrInvalid is wrapped by every refusal of Decode.
var ErrInvalid = errors.New("invalid residual document")

// Set is what was captured with one restore point.
type Set struct {
	Version int             `json:"version"`
	Secrets []corev1.Secret `json:"secrets"`
	// Objects are those of all other kinds.
	Objects []unstructured.Unstructured `json:"objects,omitempty"`
}

// MissingError names a Secret or ConfigMap that an object of Git needs and that neither Git nor the cluster holds.
type MissingError struct {
	// Kind is "secret" or "configmap", Secret is its "<namespace>/<name>", By is "<kind> <name>".
	Kind, Secret, By string
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s needs %s %q, which is not in the cluster: without it this commit cannot be replayed", e.By, e.Kind, e.Secret)
}

// SizeError says that the residual objects are too large for a document of a vault.
type SizeError struct {
	// Largest is the largest of the objects, Bytes its size.
	Largest object.Key
	Bytes   int
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("what Git does not hold is larger than %d MiB; the largest of it is %s with %d bytes: keep it in Git or a volume, "+
		"or leave it out by the annotation lockstep.dev/exclude", MaxDocument>>20, e.Largest, e.Bytes)
}

// Encode writes the set as JSON. The result is secret.
func Encode(s Set) ([]byte, error) {
	s.Version = Version
	if s.Secrets == nil {
		s.Secrets = []corev1.Secret{}
	}
	data, err := json.Marshal(s)
	if err != nil || len(data) <= MaxDocument {
		return data, err
	}
	largest := SizeError{}
	for key, o := range s.all() {
		if one, err := json.Marshal(o); err == nil && len(one) > largest.Bytes {
			largest = SizeError{key, len(one)}
		}
	}
	return nil, &largest
}

// Decode reads what Encode wrote, now or in an older version, strictly. What it says of a document quotes none of its values.
func Decode(data []byte) (Set, error) {
	if len(data) > MaxDocument {
		return Set{}, fmt.Errorf("%w: %d bytes are more than %d", ErrInvalid, len(data), MaxDocument)
	}
	var head struct {
		Version int `json:"version"`
	}
	// The causes are left out: they may quote a value.
	if json.Unmarshal(data, &head) != nil {
		return Set{}, fmt.Errorf("%w: not the JSON that was expected", ErrInvalid)
	}
	if head.Version < 1 || head.Version > Version {
		return Set{}, fmt.Errorf("%w: version %d, this program reads versions 1 to %d", ErrInvalid, head.Version, Version)
	}
	var s Set
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if d.Decode(&s) != nil {
		return Set{}, fmt.Errorf("%w: not the JSON that was expected", ErrInvalid)
	}
	if _, err := d.Token(); err != io.EOF {
		return Set{}, fmt.Errorf("%w: data after the document", ErrInvalid)
	}
	if head.Version == 1 && s.Objects != nil {
		return Set{}, fmt.Errorf("%w: version 1 holds nothing but Secrets", ErrInvalid)
	}
	s.Version = Version
	return s, s.check()
}

// check refuses what a replay would stumble over, or would do that no capture asked for.
func (s Set) check() error {
	seen := map[object.Key]bool{}
	for i := range s.Secrets {
		meta := &s.Secrets[i].ObjectMeta
		if meta.UID != "" || meta.ResourceVersion != "" || len(meta.OwnerReferences) > 0 {
			return fmt.Errorf("%w: a Secret is tied to its old cluster", ErrInvalid)
		}
	}
	for i := range s.Objects {
		o := &s.Objects[i]
		_, status := o.Object["status"]
		if o.GetUID() != "" || o.GetResourceVersion() != "" || len(o.GetOwnerReferences()) > 0 || status {
			return fmt.Errorf("%w: an object is tied to its old cluster", ErrInvalid)
		}
		if gk := o.GroupVersionKind().GroupKind(); gk == object.Secret || derivedKind(gk) != "" {
			return fmt.Errorf("%w: it holds an object of kind %q where none belongs", ErrInvalid, gk)
		}
	}
	for key := range s.all() {
		if key.Kind == "" || key.Namespace == "" || key.Name == "" {
			return fmt.Errorf("%w: an object without kind, namespace or name", ErrInvalid)
		}
		if seen[key] {
			return fmt.Errorf("%w: %s stands twice", ErrInvalid, key)
		}
		seen[key] = true
	}
	return nil
}

// Empty tells whether nothing is residual.
func (s Set) Empty() bool { return len(s.Secrets)+len(s.Objects) == 0 }

// Keys are those of the objects, sorted.
func (s Set) Keys() []object.Key {
	keys := make([]object.Key, 0, len(s.Secrets)+len(s.Objects))
	for key := range s.all() {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, object.Key.Compare)
	return keys
}

// Without is the set less what others bring: with the objects of the commit that is replayed, what Git has come to hold.
func (s Set) Without(brought func(object.Key) bool) Set {
	out := Set{Version: s.Version}
	for i := range s.Secrets {
		if !brought(secretKey(&s.Secrets[i])) {
			out.Secrets = append(out.Secrets, s.Secrets[i])
		}
	}
	for i := range s.Objects {
		if !brought(object.KeyOf(&s.Objects[i])) {
			out.Objects = append(out.Objects, s.Objects[i])
		}
	}
	return out
}

// Map is the set under the names of a mapping.
func (s Set) Map(m object.Mapping) Set {
	out := Set{Version: s.Version}
	for i := range s.Secrets {
		secret := s.Secrets[i].DeepCopy()
		secret.Namespace = m.Namespace(secret.Namespace)
		out.Secrets = append(out.Secrets, *secret)
	}
	for i := range s.Objects {
		out.Objects = append(out.Objects, *m.Object(&s.Objects[i]))
	}
	return out
}

// Leftovers finds, in a set that is under the names of a mapping, the text that may still lead into the namespaces by their old
// names. No value is in it.
func (s Set) Leftovers(m object.Mapping) (map[object.Key][]object.Leftover, error) {
	found := map[object.Key][]object.Leftover{}
	for key, o := range s.all() {
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", key, err)
		}
		if l := m.Leftovers(&unstructured.Unstructured{Object: fields}); len(l) > 0 {
			found[key] = l
		}
	}
	return found, nil
}

func secretKey(s *corev1.Secret) object.Key {
	return object.Key{Kind: object.Secret.Kind, Namespace: s.Namespace, Name: s.Name}
}
