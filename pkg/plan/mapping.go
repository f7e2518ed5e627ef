package plan

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// Mapping is under which other names a restore brings the commit and its data.
type Mapping struct {
	Namespaces     map[string]string `json:"namespaces,omitempty"`
	StorageClasses map[string]string `json:"storageClasses,omitempty"`
	// Notes say what differs from the original beside the names, and what a person should look at.
	Notes []ObjectNote `json:"notes,omitempty"`
}

// ObjectNote says what becomes of an object of the commit.
type ObjectNote struct {
	Object object.Key `json:"object"`
	Reason string     `json:"reason"`
}

// Mapped is a point and the objects of a commit under the names of a mapping.
type Mapped struct {
	object.Mapping
	Record  point.Record
	Objects []*unstructured.Unstructured
	// Notes are said with the plan, Refusals keep it from being carried out.
	Notes    []ObjectNote
	Refusals []string
}

// Map brings a point and the objects of a commit under the names of a mapping. A mapping that cannot be meant so is refused, and
// changes nothing.
func Map(m object.Mapping, record point.Record, objects []*unstructured.Unstructured) Mapped {
	out := Mapped{Mapping: m, Record: record, Objects: objects}
	if m.Empty() {
		return out
	}
	if out.Refusals = refuseMapping(m, record, objects); len(out.Refusals) > 0 {
		return out
	}
	out.Objects = make([]*unstructured.Unstructured, len(objects))
	for i, u := range objects {
		out.Objects[i] = m.Object(u)
		if out.leadsTo(object.KeyOf(out.Objects[i])) {
			out.beside(out.Objects[i])
		}
		for _, l := range m.Leftovers(out.Objects[i]) {
			out.notef(out.Objects[i], "%s may still lead into namespace %s", l.Field, l.Namespace)
		}
	}
	out.Record = mapRecord(m, record)
	return out
}

func mapRecord(m object.Mapping, record point.Record) point.Record {
	if name, err := object.ParseName(record.Application); err == nil {
		name.Namespace = m.Namespace(name.Namespace)
		record.Application = name.String()
	}
	record.Volumes = slices.Clone(record.Volumes)
	for i := range record.Volumes {
		v := &record.Volumes[i]
		v.Namespace = m.Namespace(v.Namespace)
		if class := v.Spec.StorageClassName; class != nil {
			mapped := m.StorageClass(*class)
			v.Spec.StorageClassName = &mapped
		}
		if from, ok := v.Labels[v1alpha1.LabelApplicationNamespace]; ok {
			v.Labels = maps.Clone(v.Labels)
			v.Labels[v1alpha1.LabelApplicationNamespace] = m.Namespace(from)
		}
	}
	return record
}

// refuseMapping says why a mapping cannot be meant so: a name that nothing has is a slip of the pen, and two namespaces in one
// would overwrite one another.
func refuseMapping(m object.Mapping, record point.Record, objects []*unstructured.Unstructured) []string {
	var refusals []string
	used := namespacesOf(record, objects)
	into := map[string]string{}
	for _, from := range slices.Sorted(maps.Keys(used)) {
		to := m.Namespace(from)
		if first, taken := into[to]; taken {
			refusals = append(refusals, fmt.Sprintf("namespaces %s and %s would both become %s; give each a name of its own", first, from, to))
		}
		into[to] = from
	}
	for _, from := range slices.Sorted(maps.Keys(m.Namespaces)) {
		if !used[from] {
			refusals = append(refusals, fmt.Sprintf("the mapping gives namespace %s another name, and neither the commit nor the point has it; they have %s",
				from, strings.Join(slices.Sorted(maps.Keys(used)), ", ")))
		}
	}
	for _, from := range slices.Sorted(maps.Keys(m.StorageClasses)) {
		if one := (object.Mapping{StorageClasses: map[string]string{from: m.StorageClasses[from]}}); from != m.StorageClasses[from] && !concerns(one, record, objects) {
			refusals = append(refusals, fmt.Sprintf("the mapping gives storage class %s another name, and no claim of the commit or the point asks for it", from))
		}
	}
	return refusals
}

func namespacesOf(record point.Record, objects []*unstructured.Unstructured) map[string]bool {
	used := map[string]bool{}
	if name, err := object.ParseName(record.Application); err == nil {
		used[name.Namespace] = true
	}
	for _, v := range record.Volumes {
		used[v.Namespace] = true
	}
	for _, u := range objects {
		if u.GroupVersionKind().GroupKind() == object.Namespace {
			used[u.GetName()] = true
		} else if u.GetNamespace() != "" {
			used[u.GetNamespace()] = true
		}
	}
	return used
}

// concerns says that a mapping changes anything.
func concerns(m object.Mapping, record point.Record, objects []*unstructured.Unstructured) bool {
	return !reflect.DeepEqual(record.Volumes, mapRecord(m, record).Volumes) || slices.ContainsFunc(objects, func(u *unstructured.Unstructured) bool {
		return !reflect.DeepEqual(u.Object, m.Object(u).Object)
	})
}

// leadsTo tells of an object whether it is in a namespace that the mapping leads to, or is that namespace.
func (m *Mapped) leadsTo(key object.Key) bool {
	namespace := key.Namespace
	if key.GroupKind() == object.Namespace {
		namespace = key.Name
	}
	for _, to := range m.Namespaces {
		if namespace == to {
			return true
		}
	}
	return false
}

// Apart are the objects of the commit that the mapping does not lead to, if it gives namespaces other names: cluster-wide ones,
// and those of other namespaces. The original may run with them, so that only what is absent of them is created.
func (m *Mapped) Apart() []*unstructured.Unstructured {
	var out []*unstructured.Unstructured
	for _, u := range m.Objects {
		if len(m.Namespaces) > 0 && !m.leadsTo(object.KeyOf(u)) {
			out = append(out, u)
		}
	}
	return out
}

// beside takes from an object of a mapped namespace what only one can have, and notes what both would have.
func (m *Mapped) beside(u *unstructured.Unstructured) {
	gk := u.GroupVersionKind().GroupKind()
	switch {
	case gk == schema.GroupKind{Kind: "Service"}:
		if freeService(u) {
			m.notef(u, "gets a new cluster address and new node ports: the commit's may be in use")
		}
	case gk == schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: "ProtectionPolicy"}:
		_ = unstructured.SetNestedField(u.Object, true, "spec", "suspend") // fails on a malformed policy only, which the API server refuses
		m.notef(u, "is applied suspended: no points of it are made by schedule until spec.suspend is removed")
	case gk.Kind == "Ingress", gk.Group == "gateway.networking.k8s.io" && strings.HasSuffix(gk.Kind, "Route"):
		if hosts := hostsOf(u); len(hosts) > 0 {
			m.notef(u, "answers to the same names as the original: %s", strings.Join(hosts, ", "))
		}
	}
}

// freeService removes the addresses and ports that are fixed; it tells whether there were any.
func freeService(u *unstructured.Unstructured) bool {
	spec, _, _ := unstructured.NestedMap(u.Object, "spec")
	before := len(spec)
	if spec["clusterIP"] != "None" {
		delete(spec, "clusterIP")
		delete(spec, "clusterIPs")
	}
	delete(spec, "healthCheckNodePort")
	freed := len(spec) != before
	ports, _ := spec["ports"].([]any)
	for _, p := range ports {
		if port, ok := p.(map[string]any); ok && port["nodePort"] != nil {
			delete(port, "nodePort")
			freed = true
		}
	}
	if freed {
		u.Object["spec"] = spec
	}
	return freed
}

// hostsOf are the names that an Ingress or a route answers to.
func hostsOf(u *unstructured.Unstructured) []string {
	hosts, _, _ := unstructured.NestedStringSlice(u.Object, "spec", "hostnames")
	rules, _, _ := unstructured.NestedSlice(u.Object, "spec", "rules")
	for _, r := range rules {
		if rule, ok := r.(map[string]any); ok {
			if host, ok := rule["host"].(string); ok && !slices.Contains(hosts, host) {
				hosts = append(hosts, host)
			}
		}
	}
	return hosts
}

func (m *Mapped) notef(u *unstructured.Unstructured, format string, args ...any) {
	m.Notes = append(m.Notes, ObjectNote{object.KeyOf(u), fmt.Sprintf(format, args...)})
}

// mapping puts the mapping into the plan.
func (b *builder) mapping() error {
	m := b.in.Mapped
	if m.Empty() {
		return nil
	}
	b.plan.Mapping = &Mapping{Namespaces: m.Namespaces, StorageClasses: m.StorageClasses, Notes: m.Notes}
	for _, u := range m.Apart() {
		if key := object.KeyOf(u); b.in.Facts.Existing[key] {
			b.plan.Mapping.Notes = append(b.plan.Mapping.Notes, ObjectNote{key, "is there and is left as it is: the mapping does not lead to it"})
		}
	}
	slices.SortStableFunc(b.plan.Mapping.Notes, func(x, y ObjectNote) int { return x.Object.Compare(y.Object) })
	return nil
}

// refuseMapping refuses what cannot be meant, and keeps a Restore outside lockstep-system from taking the data of another namespace
// into its own.
func (b *builder) refuseMapping() {
	b.plan.Refusals = append(b.plan.Refusals, b.in.Mapped.Refusals...)
	if home := b.in.Facts.RestoreNamespace; home != "" && home != v1alpha1.SystemNamespace && len(b.in.Mapped.Namespaces) > 0 {
		b.refusef("namespaces are given other names; only a Restore in %s may do that", v1alpha1.SystemNamespace)
	}
}
