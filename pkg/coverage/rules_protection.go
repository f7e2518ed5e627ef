package coverage

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/spelling"
)

// These rules ask whether the data is protected.

func uncoveredVolume(s *scope) {
	lost := map[*volume]bool{}
	if s.Config.Rules["LS107"] != Off {
		for _, f := range s.fates { // LS107 says it
			lost[f.after] = f.after != nil && s.base.protection(f.before).answer == Protected
		}
	}
	for _, w := range s.head.volumes {
		p := s.head.protection(w)
		if lost[w] || p.answer == Protected || p.answer == Excluded {
			continue
		}
		message := w.sized() + " is not protected: " + p.why
		if p.answer == Unknown {
			message = "it is not known whether " + w.sized() + " is protected: " + p.why
		}
		s.find(w.Object, message, "put a ProtectionPolicy that selects it into the namespace, or annotate the claim (in a StatefulSet, its template) with "+
			v1alpha1.AnnotationExclude+" and the reason why it needs none").detail = w.id()
	}
	for _, f := range s.head.foreigners() {
		p := s.head.foreignProtection(f)
		if p.answer == Protected {
			continue
		}
		what := fmt.Sprintf("%s, which %s %s uses and Git does not bring,", f.full(), f.GetKind(), f.GetName())
		message := what + " is not protected: " + p.why
		if p.answer == Unknown {
			message = "it is not known whether " + what + " is protected: " + p.why
		}
		s.find(f.Object, message, "bring the claim by Git, and put a ProtectionPolicy that selects it into the namespace").detail = f.full()
	}
}

func policyMatchesNothing(s *scope) {
	matched := map[*policy]bool{}
	for _, w := range s.head.volumes {
		is := s.head.protection(w)
		for _, p := range slices.Concat(is.policies, is.idle) {
			matched[p] = true
		}
	}
	for _, f := range s.head.foreigners() {
		is := s.head.foreignProtection(f)
		for _, p := range slices.Concat(is.policies, is.idle) {
			matched[p] = true
		}
	}
	for _, d := range s.head.operated {
		if _, _, p := s.head.operatedProtection(d); p != nil {
			matched[p] = true
		}
	}
	for _, p := range s.head.eachPolicy() {
		if matched[p] {
			continue
		}
		const fix = "correct spec.volumes.selector: it is compared with the labels of claims, which are those of a StatefulSet's template and selector, not of its pods"
		if gaps := s.head.unseen(p.GetNamespace(), p.Owner); len(gaps) > 0 {
			s.find(p.Object, fmt.Sprintf("the policy %s selects no volume of those that were rendered; not rendered, so that it is not known: %s", p.GetName(), words(gaps)), fix).Severity = Note
			continue
		}
		s.find(p.Object, fmt.Sprintf("the policy %s selects no volume", p.GetName()), fix)
	}
}

func weakRPO(s *scope) {
	for _, p := range s.head.eachPolicy() {
		o := p.Spec.Objectives
		if o == nil || o.RPO == nil || o.RPO.Duration <= 0 {
			continue
		}
		const fix = "run the schedule at least as often as the RPO promises, or promise less"
		took, err := p.interval, p.err
		switch {
		case open(p.Spec.Schedule) || open(p.Spec.TimeZone):
			s.find(p.Object, fmt.Sprintf("the policy %s promises an RPO of %s, and its schedule has a variable whose value is not in the repository", p.GetName(), spelling.Duration(o.RPO.Duration)), fix).Severity = Note
		case err != nil:
			s.find(p.Object, fmt.Sprintf("the policy %s promises an RPO of %s, and its schedule never runs: %v", p.GetName(), spelling.Duration(o.RPO.Duration), err), fix)
		case took == 0 && p.Spec.Suspend:
			s.find(p.Object, fmt.Sprintf("the policy %s promises an RPO of %s and is suspended", p.GetName(), spelling.Duration(o.RPO.Duration)), fix)
		case took == 0:
			s.find(p.Object, fmt.Sprintf("the policy %s promises an RPO of %s and has no schedule", p.GetName(), spelling.Duration(o.RPO.Duration)), fix)
		case took > o.RPO.Duration:
			s.find(p.Object, fmt.Sprintf("the policy %s promises an RPO of %s, and its schedule %q leaves up to %s between two points", p.GetName(), spelling.Duration(o.RPO.Duration), p.Spec.Schedule, spelling.Duration(took)), fix)
		}
	}
}

func noOffsiteCopy(s *scope) {
	for _, p := range s.head.eachPolicy() {
		const fix = "name a second vault in spec.vaults, in another place: each point is then copied there and verified"
		if len(p.Spec.Vaults) < 2 {
			s.find(p.Object, fmt.Sprintf("the points of the policy %s are in one vault only (%s)", p.GetName(), strings.Join(p.Spec.Vaults, ", ")), fix)
			continue
		}
		places := map[string]bool{}
		for _, name := range p.Spec.Vaults {
			places[s.head.place(name, p.Owner)] = true
		}
		if len(places) == 1 {
			s.find(p.Object, fmt.Sprintf("the vaults of the policy %s (%s) are all in one place", p.GetName(), strings.Join(p.Spec.Vaults, ", ")), fix)
		}
	}
}

// place is where a vault is, as far as Git tells; its own name if it does not.
func (v *view) place(vault, owner string) string {
	for _, o := range v.byKey[object.Key{Group: v1alpha1.GroupVersion.Group, Kind: "Vault", Name: vault}] {
		if !v.together(o.Owner, owner) {
			continue
		}
		bucket, isS3, _ := unstructured.NestedString(o.Object, "spec", "s3", "bucket")
		endpoint, _, _ := unstructured.NestedString(o.Object, "spec", "s3", "endpoint")
		if isS3 {
			return "s3 " + endpoint + " " + bucket
		}
	}
	return vault
}

func noAppConsistency(s *scope) {
	for _, d := range s.head.servings() {
		var saved *policy
		held := false
		for _, w := range s.head.volumesIn[d.GetNamespace()] {
			if !d.uses(w) {
				continue
			}
			for _, p := range s.head.protection(w).policies {
				saved = p
				held = held || holds(p, d.labels)
			}
		}
		if saved == nil || held {
			continue
		}
		s.find(d.Object, fmt.Sprintf("%s in the container %s is saved by the policy %s without a hook that holds it still: a point is what a power cut would leave", d.database.Name, d.container.Name, saved.GetName()),
			"add a hook to spec.quiesce of the policy whose selector chooses these pods").detail = d.container.Name
	}
}

func (w *workload) uses(v *volume) bool {
	if v.set != nil {
		return v.Object == w.Object
	}
	return slices.Contains(w.claims(), v.claim.Name)
}

func holds(p *policy, pod map[string]string) bool {
	return slices.ContainsFunc(p.Spec.Quiesce, func(h v1alpha1.QuiesceHook) bool {
		selector, err := metav1.LabelSelectorAsSelector(&h.Selector)
		return err == nil && selector.Matches(labels.Set(pod))
	})
}

func noDrill(s *scope) {
	for _, p := range s.head.eachPolicy() {
		if s.drilled(p) {
			continue
		}
		s.find(p.Object, fmt.Sprintf("nothing in Git tests that the points of the policy %s can be restored", p.GetName()),
			"restore into another namespace regularly and look at the result, for instance in a CronJob: lockstep restore --map-namespace "+
				cmp.Or(p.GetNamespace(), "shop")+"="+cmp.Or(p.GetNamespace(), "shop")+"-drill")
	}
}

// drilled says that something in Git restores what the policy saves.
func (s *scope) drilled(p *policy) bool {
	for _, o := range s.head.byKind[schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: "Drill"}] {
		name, _, _ := unstructured.NestedString(o.Object, "spec", "policyRef", "name")
		if name == p.GetName() && o.GetNamespace() == p.GetNamespace() {
			return true
		}
	}
	return slices.ContainsFunc(s.head.cron, func(w *workload) bool {
		return s.head.together(w.Owner, p.Owner) && slices.ContainsFunc(w.pod.Containers, func(c corev1.Container) bool {
			line := strings.Join(slices.Concat(c.Command, c.Args), " ")
			return (strings.Contains(line, "lockstep") || strings.Contains(c.Image, "lockstep")) && strings.Contains(line, "restore") && strings.Contains(line, p.GetNamespace())
		})
	})
}
