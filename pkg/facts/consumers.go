package facts

import (
	"context"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// Consumers finds what mounts claims in the namespaces of those that are bound, or makes what does, and what scales it. What is over
// and will not come again is left out. The reader must not be a stale cache.
func Consumers(ctx context.Context, c client.Reader, claims map[object.Name]plan.ClaimFact) ([]plan.Consumer, error) {
	namespaces := map[string]bool{}
	for name, fact := range claims {
		if fact.Phase == corev1.ClaimBound {
			namespaces[name.Namespace] = true
		}
	}
	var all []plan.Consumer
	for _, namespace := range slices.Sorted(maps.Keys(namespaces)) {
		found, err := consumersIn(ctx, c, namespace)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

func consumersIn(ctx context.Context, c client.Reader, namespace string) ([]plan.Consumer, error) {
	var out []plan.Consumer
	for _, kind := range []schema.GroupVersionKind{
		appsv1.SchemeGroupVersion.WithKind("Deployment"), appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
		appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
		batchv1.SchemeGroupVersion.WithKind("CronJob"), batchv1.SchemeGroupVersion.WithKind("Job"),
		corev1.SchemeGroupVersion.WithKind("Pod"),
	} {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := c.List(ctx, list, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("listing objects of kind %s in namespace %q: %w", kind.Kind, namespace, err)
		}
		for i := range list.Items {
			found, err := consumer(&list.Items[i])
			if err != nil {
				return nil, err
			}
			if found != nil {
				out = append(out, *found)
			}
		}
	}
	return out, scaled(ctx, c, namespace, out)
}

// consumer reads a workload; nil if it is over.
func consumer(u *unstructured.Unstructured) (*plan.Consumer, error) {
	if over(u) {
		return nil, nil
	}
	found := &plan.Consumer{Key: object.KeyOf(u)}
	pods, err := object.Pods(u)
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		found.Claims = append(found.Claims, p.Claims...)
	}
	if by := metav1.GetControllerOf(u); by != nil {
		found.By = object.Key{Group: schema.FromAPIVersionAndKind(by.APIVersion, by.Kind).Group, Kind: by.Kind, Namespace: u.GetNamespace(), Name: by.Name}
	}
	replicas, set, _ := unstructured.NestedInt64(u.Object, "spec", "replicas")
	if !set {
		replicas = 1
	}
	found.Replicas = int32(replicas)
	if replicas == 0 {
		found.ScaledBy = u.GetAnnotations()[v1alpha1.AnnotationScaledBy]
	}
	found.Suspended, _, _ = unstructured.NestedBool(u.Object, "spec", "suspend")
	found.Deletes, err = deletes(u, pods)
	return found, err
}

// deletes are the claims that a StatefulSet deletes when it is scaled to zero: all that it has made for its pods, or none.
func deletes(u *unstructured.Unstructured, pods []object.Pod) ([]object.Name, error) {
	set, err := object.StatefulSet(u)
	if err != nil || set == nil {
		return nil, err
	}
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	if policy == nil || policy.WhenScaled != appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		return nil, nil
	}
	var own []object.Name
	for _, p := range pods {
		for _, name := range p.Claims {
			if _, _, ok := object.TemplateOf(set, name); ok {
				own = append(own, name)
			}
		}
	}
	return own, nil
}

// over says that a pod or a Job has ended and uses nothing any more.
func over(u *unstructured.Unstructured) bool {
	switch u.GetKind() {
	case "Pod":
		phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
		return phase == string(corev1.PodSucceeded) || phase == string(corev1.PodFailed)
	case "Job":
		job := &batchv1.Job{}
		if runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, job) != nil {
			return false
		}
		return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
			return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
		})
	}
	return false
}

// scaled notes which of the consumers an autoscaler scales.
func scaled(ctx context.Context, c client.Reader, namespace string, consumers []plan.Consumer) error {
	var scalers autoscalingv2.HorizontalPodAutoscalerList
	if err := c.List(ctx, &scalers, client.InNamespace(namespace)); err != nil {
		return fmt.Errorf("listing autoscalers in namespace %q: %w", namespace, err)
	}
	for _, s := range scalers.Items {
		at := s.Spec.ScaleTargetRef
		for i := range consumers {
			if consumers[i].Kind == at.Kind && consumers[i].Name == at.Name {
				consumers[i].Autoscaler = "HorizontalPodAutoscaler " + namespace + "/" + s.Name
			}
		}
	}
	return nil
}
