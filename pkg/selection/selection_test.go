package selection

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func claim(namespace, name string, labels map[string]string, exclude ...string) corev1.PersistentVolumeClaim {
	c := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}}
	if len(exclude) > 0 {
		c.Annotations = map[string]string{v1alpha1.AnnotationExclude: exclude[0]}
	}
	return c
}

func TestSelect(t *testing.T) {
	claims := []corev1.PersistentVolumeClaim{
		claim("shop", "data", map[string]string{"app": "db"}), claim("shop", "cache", map[string]string{"app": "cache"}),
		claim("shop", "bare", nil), claim("shop", "tmp", map[string]string{"app": "db"}, "made again"), claim("shop", "mute", nil, ""), claim("other", "data", nil),
	}
	for name, c := range map[string]struct {
		selector *metav1.LabelSelector
		want     []string
	}{
		"every claim": {nil, []string{
			"+bare: every claim of the namespace is selected", "+cache: every claim of the namespace is selected", "+data: every claim of the namespace is selected",
			"-mute: annotation lockstep.dev/exclude: no reason given", "-tmp: annotation lockstep.dev/exclude: made again"}},
		"an empty selector": {&metav1.LabelSelector{}, []string{
			"+bare: selected by <none>", "+cache: selected by <none>", "+data: selected by <none>", "-mute: annotation", "-tmp: annotation"}},
		"a label": {&metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, []string{
			`-bare: the selector wants "app=db", and it has no label "app"`, `-cache: the selector wants "app=db", and its label is "app=cache"`,
			"+data: selected by app=db", `-mute: the selector wants`, "-tmp: annotation lockstep.dev/exclude: made again"}},
		"an expression": {&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"cache"}}}},
			[]string{"+bare: selected by", `-cache: the selector wants "app notin (cache)", and its label is "app=cache"`, "+data: selected by", "-mute", "-tmp"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &v1alpha1.ProtectionPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop"}, Spec: v1alpha1.ProtectionPolicySpec{Volumes: v1alpha1.VolumeSelection{Selector: c.selector}}}
			got, err := Select(p, claims)
			if err != nil || len(got) != len(c.want) {
				t.Fatalf("%v, %v", got, err)
			}
			for i, v := range got {
				text := "-"
				if v.Taken {
					text = "+"
				}
				if text += v.Claim.Name + ": " + v.Why; !strings.HasPrefix(text, c.want[i]) {
					t.Errorf("got %s, want %s", text, c.want[i])
				}
			}
		})
	}
	bad := &v1alpha1.ProtectionPolicy{Spec: v1alpha1.ProtectionPolicySpec{Volumes: v1alpha1.VolumeSelection{Selector: &metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: "Like"}}}}}}
	var invalid *InvalidError
	if _, err := Select(bad, claims); !errors.As(err, &invalid) || !strings.Contains(err.Error(), "volumes.selector") {
		t.Errorf("a selector that is none: %v", err)
	}
}
