package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

// Part is what a restore of single workloads takes out of a commit and its point.
type Part struct {
	// Objects are the workloads and what they need of the commit: claims, Secrets, ConfigMaps, ServiceAccounts, the Services that
	// select their pods, and namespaces.
	Objects []*unstructured.Unstructured
	// Record is the point with nothing but the volumes of the workloads' claims.
	Record point.Record
	// Left counts the other objects of the commit.
	Left int
	// needs are the objects that the workloads name, whether or not the commit renders them.
	needs map[object.Key]bool
	// faults say why the part cannot be had.
	faults []string
}

// Needs tells whether the workloads name the object, so that it comes back also where only the point holds it.
func (p *Part) Needs(key object.Key) bool { return p.needs[key] }

// Only takes single workloads out of a commit. A name that the commit does not render is in the refusals of the plan; an error
// means that an object has not the shape of its kind.
func Only(objects []*unstructured.Unstructured, record point.Record, asked []v1alpha1.WorkloadReference) (*Part, error) {
	p := &Part{Record: record, needs: map[object.Key]bool{}}
	p.Record.Volumes = nil
	claims := map[string]bool{}
	for _, a := range asked {
		u := workloadOf(objects, a)
		if u == nil {
			p.faults = append(p.faults, fmt.Sprintf("the commit renders no %s %s/%s; %s", a.Kind, a.Namespace, a.Name, rendered(objects)))
			continue
		}
		if err := p.add(u, objects, record, claims); err != nil {
			return nil, err
		}
	}
	for _, v := range record.Volumes {
		if claims[v.Key()] {
			p.Record.Volumes = append(p.Record.Volumes, v)
		}
	}
	for _, u := range objects {
		if p.needs[object.KeyOf(u)] {
			p.Objects = append(p.Objects, u)
		} else {
			p.Left++
		}
	}
	return p, nil
}

func workloadOf(objects []*unstructured.Unstructured, a v1alpha1.WorkloadReference) *unstructured.Unstructured {
	i := slices.IndexFunc(objects, func(u *unstructured.Unstructured) bool {
		return object.IsWorkload(u) && u.GetKind() == a.Kind && u.GetNamespace() == a.Namespace && u.GetName() == a.Name
	})
	if i < 0 {
		return nil
	}
	return objects[i]
}

// rendered names the workloads of a commit.
func rendered(objects []*unstructured.Unstructured) string {
	var names []string
	for _, u := range objects {
		if object.IsWorkload(u) {
			names = append(names, object.KeyOf(u).String())
		}
	}
	if len(names) == 0 {
		return "it renders no workload at all"
	}
	slices.Sort(names)
	return "it renders " + strings.Join(names, ", ")
}

// add notes a workload and what it needs.
func (p *Part) add(u *unstructured.Unstructured, objects []*unstructured.Unstructured, record point.Record, claims map[string]bool) error {
	pods, err := object.Pods(u)
	if err != nil {
		return err
	}
	set, err := object.StatefulSet(u)
	if err != nil {
		return err
	}
	for _, pod := range pods {
		for _, name := range pod.Claims {
			claims[name.String()] = true
			p.need(object.Claim.Kind, name)
		}
	}
	for _, v := range record.Volumes { // those of replicas that are not asked for now, too
		name := object.Name{Namespace: v.Namespace, Name: v.Claim}
		if set != nil {
			if _, _, ok := object.TemplateOf(set, name); ok {
				claims[v.Key()] = true
				p.need(object.Claim.Kind, name)
			}
		}
	}
	p.needs[object.KeyOf(u)] = true
	p.need(object.Namespace.Kind, object.Name{Name: u.GetNamespace()})
	if err := p.references(u); err != nil {
		return err
	}
	spec, err := object.PodSpec(u)
	if err != nil {
		return err
	}
	account := object.Name{Namespace: u.GetNamespace(), Name: spec.ServiceAccountName}
	for _, o := range objects {
		switch key := object.KeyOf(o); {
		case key.GroupKind() == object.ServiceAccount && key.NamespacedName() == account:
			p.needs[key] = true
			err = p.references(o)
		case key.Group == "" && key.Kind == "Service" && key.Namespace == u.GetNamespace():
			err = p.service(o, key, u)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *Part) need(kind string, name object.Name) {
	p.needs[object.Key{Kind: kind, Namespace: name.Namespace, Name: name.Name}] = true
}

func (p *Part) references(u *unstructured.Unstructured) error {
	refs, err := object.References(u)
	for _, r := range refs {
		p.need(r.Kind, r.Name)
	}
	return err
}

// service notes a Service that selects the pods of a workload.
func (p *Part) service(o *unstructured.Unstructured, key object.Key, workload *unstructured.Unstructured) error {
	service := &corev1.Service{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, service); err != nil {
		return fmt.Errorf("reading %s: %w: %w", key, object.ErrMalformed, err)
	}
	if selector := service.Spec.Selector; len(selector) > 0 && labels.SelectorFromSet(selector).Matches(labels.Set(podLabels(workload))) {
		p.needs[key] = true
	}
	return nil
}

// podLabels are the labels of the pods that a workload makes.
func podLabels(u *unstructured.Unstructured) map[string]string {
	path := []string{"spec", "template", "metadata", "labels"}
	switch u.GetKind() {
	case "Pod":
		return u.GetLabels()
	case "CronJob":
		path = append([]string{"spec", "jobTemplate"}, path...)
	}
	found, _, _ := unstructured.NestedStringMap(u.Object, path...)
	return maps.Clone(found)
}
