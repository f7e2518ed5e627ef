package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/store/backend"
	"github.com/lockstep-dr/lockstep/test/lab"
)

// TestCopies loses all of the first vault, and restores from the copy in the second, which has another key.
func TestCopies(t *testing.T) {
	const name = "copied"
	watchOver(t)
	ctx := t.Context()
	first, second := newVault(ctx, t, "first"), newVault(ctx, t, "second")
	repo, digest := newNotes(ctx, t, name)
	policy := &v1alpha1.ProtectionPolicy{}
	must(t, shared.prod.Get(ctx, client.ObjectKey{Namespace: name, Name: "notes"}, policy))
	policy.Spec.Vaults = []string{"first", "second"}
	must(t, shared.prod.Update(ctx, policy))
	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", name)
	must(t, lab.Eventually(ctx, patience, func(ctx context.Context) (bool, error) {
		var points v1alpha1.RestorePointList
		err := shared.prod.List(ctx, &points, client.InNamespace(name))
		if err != nil || len(points.Items) != 1 {
			return false, err
		}
		p := points.Items[0]
		return len(p.Status.Copies) == 2 && p.Status.Copies[1].State == v1alpha1.CopyVerified && len(p.Finalizers) == 0, nil
	}))
	nothingLeft(ctx, t, shared.prod, name)
	forget(ctx, t, shared.prod, name)
	destroy(ctx, t, first)
	refused(ctx, t, shared.prod, 3, "first", "restore", "--tag", tag, "--repo", repo.URL, "--path", ".", "--vault", "first")
	kubectl(ctx, t, shared.prod, "-n", v1alpha1.SystemNamespace, "delete", "restores", "--all") // it would go on waiting for the first vault

	lockstep(ctx, t, shared.prod, "restore", "--tag", tag, "--repo", repo.URL, "--path", ".", "--vault", "second")
	if got := notesDigest(ctx, t, shared.prod, name); got != digest {
		t.Errorf("the copy gives back %s, want %s", got, digest)
	}
	lockstep(ctx, t, nil, "volume", "verify", "--level", "data", "--vault", second.url, "--key-file", second.key)
	forget(ctx, t, shared.prod, name)
}

// ownVault is a vault in a bucket of its own.
type ownVault struct{ url, key string }

// newVault makes a vault with a key of its own, and its Vault on prod, which are gone after the test.
func newVault(ctx context.Context, t *testing.T, name string) ownVault {
	t.Helper()
	bucket := fmt.Sprintf("%s-%d", name, time.Now().UnixNano())
	url, err := shared.lab.Bucket(ctx, bucket, "vault")
	must(t, err)
	return newVaultIn(ctx, t, name, bucket, url, nil)
}

// newVaultIn is newVault in a bucket that there is.
func newVaultIn(ctx context.Context, t *testing.T, name, bucket, url string, immutability *v1alpha1.Immutability) ownVault {
	t.Helper()
	v := ownVault{url, filepath.Join(t.TempDir(), "key")}
	lockstep(ctx, t, nil, "vault", "init", v.url, "--key-file", v.key)
	key, err := os.ReadFile(v.key)
	must(t, err)
	var primary v1alpha1.Vault
	must(t, shared.prod.Get(ctx, client.ObjectKey{Name: "primary"}, &primary))
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name + "-key"}, Data: map[string][]byte{"identity": key}}
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: primary.Spec}
	vault.Spec.S3.Bucket, vault.Spec.KeySecretRef.Name, vault.Spec.Immutability = bucket, secret.Name, immutability
	for _, o := range []client.Object{secret, vault} {
		must(t, shared.prod.Create(ctx, o))
		t.Cleanup(func() { must(t, client.IgnoreNotFound(shared.prod.Delete(context.WithoutCancel(ctx), o))) })
	}
	return v
}

// destroy deletes every object of a vault.
func destroy(ctx context.Context, t *testing.T, v ownVault) {
	t.Helper()
	s, err := backend.Open(ctx, v.url, backend.Credentials{AccessKeyID: shared.lab.S3.AccessKey, SecretAccessKey: shared.lab.S3.SecretKey})
	must(t, err)
	for info, err := range s.List(ctx, "") {
		must(t, err)
		must(t, s.Delete(ctx, info.Name))
	}
}
