//go:build !windows

package cmd

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

func TestRetentionApprove(t *testing.T) {
	c := startCluster(t, true)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}))
	policy := &v1alpha1.ProtectionPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shop"},
		Spec:       v1alpha1.ProtectionPolicySpec{Vaults: []string{"primary"}, Retention: &v1alpha1.Retention{Last: 3}},
	}
	must(c.Create(t.Context(), policy))
	c.run(t, "retention", "approve", "shop/shop").want(t, fault.Done, "nothing of policy shop/shop waits")
	policy.Status.Retention = []v1alpha1.VaultRetention{{Vault: "primary", Kept: 3, Refused: &v1alpha1.RetentionRefusal{
		Digest: "5f3c81aa09b2e7d4", Count: 27, Points: []string{"20260102-030405-aaaaaaaa"},
	}}}
	must(c.Status().Update(t.Context(), policy))
	c.run(t, "retention", "approve", "shop/shop").
		want(t, fault.Done, "27 points would go", "20260102-030405-aaaaaaaa", "and 26 more", "--points 5f3c81aa09b2e7d4")
	c.run(t, "retention", "approve", "shop/shop", "--points", "0000000000000000").want(t, fault.Refused, "not the points that would go now")
	must(c.Get(t.Context(), client.ObjectKeyFromObject(policy), policy))
	if len(policy.Annotations) != 0 {
		t.Fatal("something was allowed without a word")
	}
	c.run(t, "retention", "approve", "shop/shop", "--points", "5f3c81aa09b2e7d4").want(t, fault.Done, "allowed to go")
	must(c.Get(t.Context(), client.ObjectKeyFromObject(policy), policy))
	if got := policy.Annotations[v1alpha1.AnnotationApprovedRemoval]; got != "5f3c81aa09b2e7d4" {
		t.Errorf("annotation %q", got)
	}
}
