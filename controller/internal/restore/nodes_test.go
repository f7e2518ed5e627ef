package restore

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNodeLocal(t *testing.T) {
	in := func(key string, values ...string) corev1.NodeSelectorRequirement {
		return corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}
	}
	term := func(e ...corev1.NodeSelectorRequirement) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: e}
	}
	field := corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{in("metadata.name", "one")}}
	one := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: map[string]string{
		corev1.LabelHostname: "one", "topology.kubernetes.io/zone": "a", "topology.topolvm.io/node": "one",
	}}}
	other := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "two", Labels: map[string]string{corev1.LabelHostname: "two", "topology.kubernetes.io/zone": "b"}}}
	for _, tt := range []struct {
		name                 string
		terms                []corev1.NodeSelectorTerm
		local, first, second bool // node-local; reached from the first and the second node
	}{
		{"network storage", nil, false, false, false},
		{"a zone", []corev1.NodeSelectorTerm{term(in("topology.kubernetes.io/zone", "a"))}, false, true, false},
		{"a node by its label", []corev1.NodeSelectorTerm{term(in(corev1.LabelHostname, "one"))}, true, true, false},
		{"a node by its name", []corev1.NodeSelectorTerm{field}, true, true, false},
		{"a node by a driver's label", []corev1.NodeSelectorTerm{term(in("topology.topolvm.io/node", "one"))}, true, true, false},
		{"a node or a zone", []corev1.NodeSelectorTerm{term(in(corev1.LabelHostname, "gone")), term(in("topology.kubernetes.io/zone", "b"))}, false, false, true},
		{"a node that is gone", []corev1.NodeSelectorTerm{term(in(corev1.LabelHostname, "gone"))}, true, false, false},
		{"what is not understood", []corev1.NodeSelectorTerm{term(corev1.NodeSelectorRequirement{Key: "a", Operator: corev1.NodeSelectorOpGt, Values: []string{"1"}})}, false, true, true},
	} {
		pv := &corev1.PersistentVolume{}
		if tt.terms != nil {
			pv.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: tt.terms}}
		}
		if got := nodeLocal(pv); got != tt.local {
			t.Errorf("%s: node-local %v", tt.name, got)
		}
		if tt.terms == nil {
			continue
		}
		if a, b := reaches(one, pv), reaches(other, pv); a != tt.first || b != tt.second {
			t.Errorf("%s: reached from %v and %v", tt.name, a, b)
		}
	}
}
