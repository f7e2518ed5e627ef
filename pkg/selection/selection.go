// Package selection decides which claims of its namespace a ProtectionPolicy takes, and what each is read from. It is what the
// controller saves by, and what the command line shows beforehand.
package selection

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// InvalidError says that a policy cannot mean what it says.
type InvalidError struct{ Err error }

func (e *InvalidError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *InvalidError) Unwrap() error { return e.Err }

// Verdict says of one claim whether it is taken, and in words why.
type Verdict struct {
	Claim corev1.PersistentVolumeClaim
	Taken bool
	Why   string
}

// Selector judges claims by a policy. It is for those who ask of many.
type Selector struct {
	namespace string
	wanted    labels.Requirements
	why       string
}

// Parse reads what a policy selects. A selector that is none is an InvalidError.
func Parse(p *v1alpha1.ProtectionPolicy) (*Selector, error) {
	s := &Selector{namespace: p.Namespace, why: "every claim of the namespace is selected"}
	if written := p.Spec.Volumes.Selector; written != nil {
		selector, err := metav1.LabelSelectorAsSelector(written)
		if err != nil {
			return nil, &InvalidError{fmt.Errorf("volumes.selector: %w", err)}
		}
		s.wanted, _ = selector.Requirements()
		s.why = "selected by " + metav1.FormatLabelSelector(written)
	}
	return s, nil
}

// Takes says whether a claim is taken, which is quicker than to say why.
func (s *Selector) Takes(claim *corev1.PersistentVolumeClaim) bool {
	_, excluded := claim.Annotations[v1alpha1.AnnotationExclude]
	return claim.Namespace == s.namespace && !excluded && s.unmet(claim) == nil
}

// Judge says of a claim of the policy's namespace whether it is taken, and why.
func (s *Selector) Judge(claim corev1.PersistentVolumeClaim) Verdict {
	v := Verdict{Claim: claim, Taken: true, Why: s.why}
	if reason, excluded := claim.Annotations[v1alpha1.AnnotationExclude]; excluded {
		v.Taken, v.Why = false, fmt.Sprintf("annotation %s: %s", v1alpha1.AnnotationExclude, cmp.Or(reason, "no reason given"))
	}
	if r := s.unmet(&claim); r != nil {
		v.Taken, v.Why = false, fmt.Sprintf("the selector wants %q, and %s", r.String(), has(claim.Labels, r.Key()))
	}
	return v
}

// unmet is the first thing that the selector wants and a claim does not have; nil if there is none.
func (s *Selector) unmet(claim *corev1.PersistentVolumeClaim) *labels.Requirement {
	for i := range s.wanted {
		if !s.wanted[i].Matches(labels.Set(claim.Labels)) {
			return &s.wanted[i]
		}
	}
	return nil
}

// Select judges claims, sorted by name. Those of other namespaces than the policy's are left out. A selector that is none is an
// InvalidError.
func Select(p *v1alpha1.ProtectionPolicy, claims []corev1.PersistentVolumeClaim) ([]Verdict, error) {
	s, err := Parse(p)
	if err != nil {
		return nil, err
	}
	var out []Verdict
	for _, claim := range claims {
		if claim.Namespace == p.Namespace {
			out = append(out, s.Judge(claim))
		}
	}
	slices.SortFunc(out, func(a, b Verdict) int { return strings.Compare(a.Claim.Name, b.Claim.Name) })
	return out, nil
}

func has(set map[string]string, key string) string {
	if value, ok := set[key]; ok {
		return fmt.Sprintf("its label is %q", key+"="+value)
	}
	return fmt.Sprintf("it has no label %q", key)
}
