package facts_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/facts"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
)

// TestConsumersScaled reads how much of a workload runs, and who says so.
func TestConsumersScaled(t *testing.T) {
	mark := map[string]string{v1alpha1.AnnotationScaledBy: "nightly"}
	for name, tt := range map[string]struct {
		replicas    *int32
		annotations map[string]string
		want        plan.Consumer
	}{
		"not said":                     {nil, nil, plan.Consumer{Replicas: 1}},
		"of a point":                   {new(int32(0)), mark, plan.Consumer{ScaledBy: "nightly"}},
		"of somebody":                  {new(int32(0)), nil, plan.Consumer{}},
		"brought back beside the mark": {new(int32(2)), mark, plan.Consumer{Replicas: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", Annotations: tt.annotations}, Spec: appsv1.DeploymentSpec{Replicas: tt.replicas}}
			scaler := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cache"},
				Spec: autoscalingv2.HorizontalPodAutoscalerSpec{ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{Kind: "Deployment", Name: "cache"}}}
			c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(d, scaler).Build()
			got, err := facts.Consumers(t.Context(), c, map[object.Name]plan.ClaimFact{{Namespace: "shop", Name: "data"}: {Phase: corev1.ClaimBound}})
			if err != nil || len(got) != 1 {
				t.Fatalf("%+v, %v", got, err)
			}
			if g := got[0]; g.Replicas != tt.want.Replicas || g.ScaledBy != tt.want.ScaledBy || g.Autoscaler != "" {
				t.Errorf("%+v", g)
			}
		})
	}
}

// TestConsumersThatDelete knows the claims that go when a StatefulSet is scaled to zero: those that it made, if it says so.
func TestConsumersThatDelete(t *testing.T) {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas:             new(int32(2)),
		VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "shared"},
		}}}}},
	}}
	own := []object.Name{{Namespace: "shop", Name: "data-db-0"}, {Namespace: "shop", Name: "data-db-1"}}
	for name, tt := range map[string]struct {
		policy *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy
		want   []object.Name
	}{
		"not said":           {nil, nil},
		"when it is deleted": {&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: "Delete", WhenScaled: "Retain"}, nil},
		"when it is scaled":  {&appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: "Retain", WhenScaled: "Delete"}, own},
	} {
		t.Run(name, func(t *testing.T) {
			set := set.DeepCopy()
			set.Spec.PersistentVolumeClaimRetentionPolicy = tt.policy
			c := fake.NewClientBuilder().WithScheme(newScheme(t)).WithObjects(set).Build()
			got, err := facts.Consumers(t.Context(), c, map[object.Name]plan.ClaimFact{own[0]: {Phase: corev1.ClaimBound}})
			if err != nil || len(got) != 1 {
				t.Fatalf("%+v, %v", got, err)
			}
			if diff := cmp.Diff(tt.want, got[0].Deletes); diff != "" {
				t.Error(diff)
			}
		})
	}
}
