package cmd

import (
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// conditioned is every kind of Lockstep.
type conditioned interface {
	metav1.Object
	GetConditions() []metav1.Condition
}

// ready is the Ready condition of an object, Unknown while the controller has not looked at it.
func ready(o conditioned) metav1.Condition {
	c := meta.FindStatusCondition(o.GetConditions(), v1alpha1.ConditionReady)
	if c == nil {
		return metav1.Condition{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonProgressing,
			Message: "the controller has not looked at it yet",
		}
	}
	return *c
}

// stalled reports that nothing will change without a person.
func stalled(o conditioned) bool {
	return meta.IsStatusConditionTrue(o.GetConditions(), v1alpha1.ConditionStalled)
}

// finished reports that a point or a restore has come to its end, good or bad. Conditions are written a moment before the rest of a status:
// a restore that is Ready and does not say when it ended will, and then what it took.
func finished(o conditioned) bool {
	if r, ok := o.(*v1alpha1.Restore); ok && r.Status.CompletedAt == nil {
		return stalled(r)
	}
	return ready(o).Status == metav1.ConditionTrue || stalled(o)
}

// unknowable reports that the controller cannot find out something that it needs. It asks again by itself.
func unknowable(o conditioned) bool {
	c := ready(o)
	return c.Status == metav1.ConditionUnknown && c.Reason != v1alpha1.ReasonProgressing
}

// moment is the time of a status field that may not be set.
func moment(t *metav1.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}

// sentence joins a reason and a message; either may be empty.
func sentence(reason, message string) string {
	return strings.Trim(reason+": "+message, ": ")
}

// named makes an object of the API fit to be printed: with its kind, and without the bookkeeping of the API server.
func named[T client.Object](o T, kind string) T {
	o.GetObjectKind().SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	o.SetManagedFields(nil)
	return o
}
