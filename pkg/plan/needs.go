package plan

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

var (
	priorityClass = schema.GroupKind{Group: "scheduling.k8s.io", Kind: "PriorityClass"}
	runtimeClass  = schema.GroupKind{Group: "node.k8s.io", Kind: "RuntimeClass"}
)

// needs names what the restore itself brings and an object cannot do without: its namespace and what defines its kind, and for
// a workload the objects that its pods name. What only makes a pod better, such as an optional ConfigMap, is not among it.
func (b *builder) needs(u *unstructured.Unstructured) ([]object.Key, error) {
	var needs []object.Key
	add := func(kind schema.GroupKind, namespace, name string) {
		key := object.Key{Group: kind.Group, Kind: kind.Kind, Namespace: namespace, Name: name}
		if name != "" && key != object.KeyOf(u) && b.brings(key) && !slices.Contains(needs, key) {
			needs = append(needs, key)
		}
	}
	add(object.Namespace, "", u.GetNamespace())
	if definition, ok := b.definers()[u.GroupVersionKind().GroupKind()]; ok {
		needs = append(needs, definition)
	}
	spec, err := object.PodSpec(u)
	if err != nil {
		return nil, err
	}
	if spec != nil {
		add(object.ServiceAccount, u.GetNamespace(), account(spec))
		add(priorityClass, "", spec.PriorityClassName)
		if spec.RuntimeClassName != nil {
			add(runtimeClass, "", *spec.RuntimeClassName)
		}
		if err := b.references(u, add); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(needs, object.Key.Compare)
	return needs, nil
}

// references adds the Secrets and ConfigMaps of a workload, and its claims that no point fills.
func (b *builder) references(u *unstructured.Unstructured, add func(kind schema.GroupKind, namespace, name string)) error {
	references, err := object.References(u)
	if err != nil {
		return err
	}
	for _, r := range references {
		if !r.Optional {
			add(schema.GroupKind{Kind: r.Kind}, r.Name.Namespace, r.Name.Name)
		}
	}
	pods, err := object.Pods(u)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		for _, claim := range pod.Claims {
			if b.plan.Claim(claim) == nil {
				add(object.Claim, claim.Namespace, claim.Name)
			}
		}
	}
	return nil
}

func account(spec *corev1.PodSpec) string {
	if spec.ServiceAccountName != "" {
		return spec.ServiceAccountName
	}
	if spec.DeprecatedServiceAccount != "" {
		return spec.DeprecatedServiceAccount
	}
	return "default"
}

// brings tells whether the restore makes the object: it stands in the commit, or comes from the point.
func (b *builder) brings(key object.Key) bool {
	_, rendered := b.set[key]
	return rendered || slices.Contains(b.in.Residual, key)
}

// definers are the definitions of the commit, by the kinds that they define.
func (b *builder) definers() map[schema.GroupKind]object.Key {
	if b.definitions == nil {
		b.definitions = map[schema.GroupKind]object.Key{}
		for key, u := range b.set {
			if key.GroupKind() == object.CustomResourceDefinition {
				b.definitions[definedBy(u)] = key
			}
		}
	}
	return b.definitions
}

func definedBy(definition *unstructured.Unstructured) schema.GroupKind {
	group, _, _ := unstructured.NestedString(definition.Object, "spec", "group")
	kind, _, _ := unstructured.NestedString(definition.Object, "spec", "names", "kind")
	return schema.GroupKind{Group: group, Kind: kind}
}

// order lets workloads wait for those that their authors declared to come before them: the next earlier ones. One whose data
// is in the point waits for no Job: such a Job may well be made for the data, and to wait for each other would be without end.
func (b *builder) order() {
	var orders []object.Order
	ranks := map[object.Order][]object.Key{}
	for _, l := range b.plan.Workloads {
		o := object.OrderOf(l.Manifest)
		ranks[o] = append(ranks[o], l.Key)
		orders = append(orders, o)
	}
	slices.SortFunc(orders, object.Order.Compare)
	orders = slices.Compact(orders)
	lasting := map[object.Order][]object.Key{}
	for o, keys := range ranks {
		lasting[o] = slices.DeleteFunc(slices.Clone(keys), func(k object.Key) bool { return k.Kind == "Job" })
	}
	for i := range b.plan.Workloads {
		l := &b.plan.Workloads[i]
		earlier := ranks
		if len(l.WaitsFor) > 0 {
			earlier = lasting
		}
		own := slices.Index(orders, object.OrderOf(l.Manifest))
		for r := own - 1; r >= 0 && len(l.After) == 0; r-- {
			l.After = earlier[orders[r]]
		}
	}
}
