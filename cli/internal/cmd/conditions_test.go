package cmd

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

const commit = "0123456789abcdef0123456789abcdef01234567"

// TestFinished is the moment in which the conditions of a restore are written and the rest of its status is not.
func TestFinished(t *testing.T) {
	r := &v1alpha1.Restore{Status: v1alpha1.RestoreStatus{Conditions: isReady(v1alpha1.ReasonSucceeded)}}
	if finished(r) {
		t.Error("a restore is taken to be over before it says what it took")
	}
	r.Status.CompletedAt = &metav1.Time{}
	if !finished(r) {
		t.Error("a restore that is over is not taken to be")
	}
	r = &v1alpha1.Restore{Status: v1alpha1.RestoreStatus{Conditions: []metav1.Condition{
		condition(v1alpha1.ConditionReady, metav1.ConditionFalse, "", ""), condition(v1alpha1.ConditionStalled, metav1.ConditionTrue, "", ""),
	}}}
	if !finished(r) {
		t.Error("a restore that was stopped is not taken to be over")
	}
}

func condition(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.Now()}
}

func isReady(reason string) []metav1.Condition {
	return []metav1.Condition{condition(v1alpha1.ConditionReady, metav1.ConditionTrue, reason, "")}
}

func hasStalled(reason, message string) []metav1.Condition {
	return []metav1.Condition{
		condition(v1alpha1.ConditionReady, metav1.ConditionFalse, reason, message),
		condition(v1alpha1.ConditionStalled, metav1.ConditionTrue, reason, message),
	}
}
