package coverage

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

// foreign is a claim that pods name and that Git does not bring: somebody has made it, or will, and it holds data all the same.
type foreign struct {
	*workload
	claim string
}

func (f foreign) full() string {
	return object.Name{Namespace: f.GetNamespace(), Name: f.claim}.String()
}

// foreigners are the claims that nothing in Git brings or is known to make, each once for those that deploy its users together.
func (v *view) foreigners() []foreign {
	if v.foreign != nil {
		return v.foreign
	}
	v.foreign = []foreign{}
	for _, namespace := range slices.Sorted(maps.Keys(v.workloads)) {
		known := map[string][]*workload{}
		for _, w := range v.workloads[namespace] {
			for _, claim := range w.claims() {
				if claim == "" || open(claim) || slices.ContainsFunc(known[claim], func(k *workload) bool { return v.together(k.Owner, w.Owner) }) {
					continue
				}
				known[claim] = append(known[claim], w)
				if !v.brings(claim, w) {
					v.foreign = append(v.foreign, foreign{w, claim})
				}
			}
		}
	}
	return v.foreign
}

// brings says that Git has a claim of the name beside the workload, or something that makes it: a set of its templates, an operator.
func (v *view) brings(claim string, w *workload) bool {
	namespace := w.GetNamespace()
	if slices.ContainsFunc(v.byVolume[namespace+"/"+claim], func(b *volume) bool { return v.together(b.Owner, w.Owner) }) {
		return true
	}
	if slices.ContainsFunc(v.sets, func(s *set) bool {
		return s.Object.GetNamespace() == namespace && v.together(s.Owner, w.Owner) &&
			slices.ContainsFunc(s.Spec.VolumeClaimTemplates, func(t corev1.PersistentVolumeClaim) bool {
				return strings.HasPrefix(claim, t.Name+"-"+s.Object.GetName()+"-")
			})
	}) {
		return true
	}
	return slices.ContainsFunc(v.operated, func(d operated) bool {
		named := strings.HasPrefix(claim+"-", d.GetName()+"-") || d.by.Label != "" && strings.Contains(claim, d.GetName())
		return d.GetNamespace() == namespace && named && v.together(d.Owner, w.Owner)
	})
}

// foreignProtection asks the policies of the namespace about a claim of which nothing but the name is known.
func (v *view) foreignProtection(f foreign) protection {
	nameless := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: f.GetNamespace(), Name: f.claim}}
	return v.protect(nameless, f.Owner, false)
}
