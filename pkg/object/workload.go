package object

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// ErrMalformed is wrapped where an object does not have the shape of its kind.
var ErrMalformed = errors.New("malformed object")

// IsWorkload tells whether the object makes pods: Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob or Pod.
// A custom resource is not a workload, whatever its controller makes of it.
func IsWorkload(u *unstructured.Unstructured) bool {
	gk := u.GroupVersionKind().GroupKind()
	switch gk.Group {
	case "":
		return gk.Kind == "Pod"
	case "apps":
		return slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"}, gk.Kind)
	case "batch":
		return gk.Kind == "Job" || gk.Kind == "CronJob"
	}
	return false
}

// PodSpec returns the pods that a workload makes; nil for an object that is no workload.
func PodSpec(u *unstructured.Unstructured) (*corev1.PodSpec, error) {
	if !IsWorkload(u) {
		return nil, nil
	}
	path := []string{"spec", "template", "spec"}
	switch u.GetKind() {
	case "Pod":
		path = []string{"spec"}
	case "CronJob":
		path = []string{"spec", "jobTemplate", "spec", "template", "spec"}
	}
	fields, found, err := unstructured.NestedMap(u.Object, path...)
	if err != nil || !found {
		return nil, malformed(u, fmt.Errorf("no pod at %s", strings.Join(path, ".")))
	}
	spec := &corev1.PodSpec{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(fields, spec); err != nil {
		return nil, malformed(u, err)
	}
	return spec, nil
}

// StatefulSet reads an object of that kind; nil for any other.
func StatefulSet(u *unstructured.Unstructured) (*appsv1.StatefulSet, error) {
	if u.GroupVersionKind().GroupKind() != appsv1.SchemeGroupVersion.WithKind("StatefulSet").GroupKind() {
		return nil, nil
	}
	set := &appsv1.StatefulSet{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, set); err != nil {
		return nil, malformed(u, err)
	}
	return set, nil
}

// Pod is one pod, or a number of alike pods, of a workload with the claims it mounts.
type Pod struct {
	// Name tells the pods of one workload apart: the pod's own name in a StatefulSet, else the workload's.
	Name   string
	Claims []Name
}

// Pods returns the pods of a workload with their claims, sorted by name. The pods of a StatefulSet have their own claims
// each; those of the other kinds are alike. Generic ephemeral volumes live and die with their pod and are no claims.
func Pods(u *unstructured.Unstructured) ([]Pod, error) {
	spec, err := PodSpec(u)
	if err != nil || spec == nil {
		return nil, err
	}
	set, err := StatefulSet(u)
	if err != nil {
		return nil, err
	}
	named := volumeClaims(u.GetNamespace(), spec)
	if set == nil {
		return []Pod{{Name: u.GetName(), Claims: named}}, nil
	}
	// A template hides a volume of the same name in the pod's own list.
	for _, t := range set.Spec.VolumeClaimTemplates {
		for _, v := range spec.Volumes {
			if v.Name == t.Name && v.PersistentVolumeClaim != nil {
				hidden := Name{set.Namespace, v.PersistentVolumeClaim.ClaimName}
				named = slices.DeleteFunc(named, func(n Name) bool { return n == hidden })
			}
		}
	}
	var pods []Pod
	for _, ordinal := range ordinals(set) {
		pod := Pod{Name: set.Name + "-" + strconv.Itoa(ordinal), Claims: slices.Clone(named)}
		for _, t := range set.Spec.VolumeClaimTemplates {
			pod.Claims = append(pod.Claims, TemplateClaim(set, t.Name, ordinal))
		}
		slices.SortFunc(pod.Claims, Name.Compare)
		pods = append(pods, pod)
	}
	return pods, nil
}

// TemplateClaim names the claim that a StatefulSet looks for, by name alone, for one of its pods.
func TemplateClaim(set *appsv1.StatefulSet, template string, ordinal int) Name {
	return Name{set.Namespace, template + "-" + set.Name + "-" + strconv.Itoa(ordinal)}
}

// TemplateOf finds the template of a StatefulSet that a claim's name follows, whether or not the set has so many
// replicas now; pod is the name of the pod that would mount it.
func TemplateOf(set *appsv1.StatefulSet, claim Name) (template *corev1.PersistentVolumeClaim, pod string, ok bool) {
	if claim.Namespace != set.Namespace {
		return nil, "", false
	}
	for i, t := range set.Spec.VolumeClaimTemplates {
		suffix, found := strings.CutPrefix(claim.Name, t.Name+"-"+set.Name+"-")
		if !found {
			continue
		}
		if n, err := strconv.Atoi(suffix); err == nil && n >= 0 && strconv.Itoa(n) == suffix {
			return &set.Spec.VolumeClaimTemplates[i], set.Name + "-" + suffix, true
		}
	}
	return nil, "", false
}

// ClaimFromTemplate builds the claim as the StatefulSet controller would: the template's metadata and spec, and the
// set's selector laid over the labels.
func ClaimFromTemplate(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, name Name) *corev1.PersistentVolumeClaim {
	claim := &corev1.PersistentVolumeClaim{}
	claim.APIVersion, claim.Kind = "v1", Claim.Kind
	claim.Namespace, claim.Name = name.Namespace, name.Name
	claim.Annotations = maps.Clone(template.Annotations)
	claim.Labels = maps.Clone(template.Labels)
	if set.Spec.Selector != nil && len(set.Spec.Selector.MatchLabels) > 0 {
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
	}
	template.Spec.DeepCopyInto(&claim.Spec)
	return claim
}

func ordinals(set *appsv1.StatefulSet) []int {
	replicas, start := 1, 0
	if set.Spec.Replicas != nil {
		replicas = int(*set.Spec.Replicas)
	}
	if set.Spec.Ordinals != nil {
		start = int(set.Spec.Ordinals.Start)
	}
	out := make([]int, 0, max(replicas, 0))
	for i := range replicas {
		out = append(out, start+i)
	}
	return out
}

func volumeClaims(namespace string, spec *corev1.PodSpec) []Name {
	var claims []Name
	for _, v := range spec.Volumes {
		if v.PersistentVolumeClaim != nil {
			claims = append(claims, Name{namespace, v.PersistentVolumeClaim.ClaimName})
		}
	}
	return unique(claims)
}

func unique(names []Name) []Name {
	slices.SortFunc(names, Name.Compare)
	return slices.Compact(names)
}

func malformed(u *unstructured.Unstructured, err error) error {
	return fmt.Errorf("reading %s: %w: %w", KeyOf(u), ErrMalformed, err)
}
