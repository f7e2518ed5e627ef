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

// Select judges claims, sorted by name. Those of other namespaces than the policy's are left out. A selector that is none is an
// InvalidError.
func Select(p *v1alpha1.ProtectionPolicy, claims []corev1.PersistentVolumeClaim) ([]Verdict, error) {
	selector, why := labels.Everything(), "every claim of the namespace is selected"
	if s := p.Spec.Volumes.Selector; s != nil {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(s); err != nil {
			return nil, &InvalidError{fmt.Errorf("volumes.selector: %w", err)}
		}
		why = "selected by " + metav1.FormatLabelSelector(s)
	}
	wanted, _ := selector.Requirements()
	var out []Verdict
	for _, claim := range claims {
		if claim.Namespace != p.Namespace {
			continue
		}
		v := Verdict{Claim: claim, Taken: true, Why: why}
		if reason, excluded := claim.Annotations[v1alpha1.AnnotationExclude]; excluded {
			v.Taken, v.Why = false, fmt.Sprintf("annotation %s: %s", v1alpha1.AnnotationExclude, cmp.Or(reason, "no reason given"))
		}
		for _, r := range wanted {
			if !r.Matches(labels.Set(claim.Labels)) {
				v.Taken, v.Why = false, fmt.Sprintf("the selector wants %q, and %s", r.String(), has(claim.Labels, r.Key()))
				break
			}
		}
		out = append(out, v)
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
