package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// TestClone brings the shop back beside itself: in the same cluster and another namespace, with the data of the point and with what Git
// does not hold, while the original goes on with newer data.
func TestClone(t *testing.T) {
	const clone = "shop-clone"
	watchOver(t)
	ctx := t.Context()
	prod := shared.prod
	repo, err := shop.Publish(ctx, shared.lab, fmt.Sprintf("clone-%d", time.Now().UnixNano()), t.TempDir())
	must(t, err)
	must(t, shop.CreateSecret(ctx, prod))
	byHand := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: shop.Namespace, Name: "by-hand"}, Data: map[string]string{"made": "by hand", "host": "database." + shop.Namespace + ".svc"}}
	must(t, prod.Create(ctx, byHand))
	lockstep(ctx, t, prod, "apply", "--repo", repo.URL, "--path", ".", "--tag", shop.V1)
	must(t, shop.Sell(ctx, prod, "saved", 2_000))
	saved, err := shop.TakeFingerprint(ctx, prod)
	must(t, err)
	lockstep(ctx, t, prod, "backup", shop.Policy, "-n", shop.Namespace)
	must(t, shop.Sell(ctx, prod, "later", 100))
	running, err := shop.TakeFingerprint(ctx, prod)
	must(t, err)
	claims := claimsOf(t, prod, shop.Namespace)

	args := []string{"restore", "--tag", shop.V1, "--repo", repo.URL, "--path", ".", "--vault", "primary", "--map-namespace", shop.Namespace + "=" + clone}
	plan := lockstep(ctx, t, prod, append(args, "--dry-run")...)
	for _, line := range []string{"shop becomes shop-clone", "ConfigMap shop-clone/by-hand\n    data.host may still lead into namespace shop\n"} {
		if !strings.Contains(plan, line) {
			t.Errorf("the dry run does not say %q:\n%s", line, plan)
		}
	}
	lockstep(ctx, t, prod, args...)

	got, err := shop.TakeFingerprintIn(ctx, prod, clone)
	must(t, err)
	if got != saved {
		t.Errorf("the clone is not what was saved:\nwant %+v\n got %+v", saved, got)
	}
	again, err := shop.TakeFingerprint(ctx, prod)
	must(t, err)
	if again != running || !maps.Equal(claims, claimsOf(t, prod, shop.Namespace)) {
		t.Errorf("the original was touched:\nwant %+v\n got %+v", running, again)
	}
	settings := &corev1.ConfigMap{}
	must(t, prod.Get(ctx, client.ObjectKey{Namespace: clone, Name: byHand.Name}, settings))
	if settings.Data["made"] != "by hand" || settings.Annotations[v1alpha1.AnnotationRestoredFrom] == "" {
		t.Errorf("what Git does not hold came back as %+v", settings)
	}
	policy := &v1alpha1.ProtectionPolicy{}
	must(t, prod.Get(ctx, client.ObjectKey{Namespace: clone, Name: shop.Policy}, policy))
	if !policy.Spec.Suspend {
		t.Error("the clone's policy is not suspended")
	}
	nothingLeft(ctx, t, prod, clone)
	forget(ctx, t, prod, clone)
	forget(ctx, t, prod, shop.Namespace)
}

// claimsOf are the volumes of a namespace's claims, and which claim each is of.
func claimsOf(t *testing.T, c client.Reader, namespace string) map[string]string {
	t.Helper()
	var list corev1.PersistentVolumeClaimList
	must(t, c.List(t.Context(), &list, client.InNamespace(namespace)))
	out := map[string]string{}
	for _, claim := range list.Items {
		out[claim.Name] = string(claim.UID) + " " + claim.Spec.VolumeName
	}
	return out
}
