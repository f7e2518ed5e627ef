package restore

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/runtime/conditions"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// secretPassword is what nobody may read anywhere but in the cluster's Secret.
const secretPassword = "only the Secret holds this"

// seal is a Secret as the program sops writes it with encrypted_regex: ^stringData$, for one recipient.
func seal(t *testing.T, namespace string, to age.Recipient) string {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, 32)
	if err != nil {
		t.Fatal(err)
	}
	value := func(plain, place string) string {
		iv := make([]byte, 32)
		_, _ = rand.Read(iv)
		out := gcm.Seal(nil, iv, []byte(plain), []byte(place))
		text := base64.StdEncoding.EncodeToString
		return fmt.Sprintf("ENC[AES256_GCM,data:%s,iv:%s,tag:%s,type:str]", text(out[:len(out)-16]), text(iv), text(out[len(out)-16:]))
	}
	const modified = "2026-03-01T04:00:00Z"
	mac := fmt.Sprintf("%X", sha512.Sum512([]byte("v1"+"Secret"+"sealed"+namespace+secretPassword)))
	return fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: sealed, namespace: %s}
stringData: {password: "%s"}
sops:
  age:
  - recipient: %s
    enc: |
      %s
  lastmodified: "%s"
  mac: "%s"
  encrypted_regex: ^stringData$
  version: 3.10.2
`, namespace, value(secretPassword, "stringData:password:"), to, strings.ReplaceAll(strings.TrimSpace(envelope(t, key, to)), "\n", "\n      "),
		modified, value(mac, modified))
}

// envelope is a data key for its recipient.
func envelope(t *testing.T, key []byte, to age.Recipient) string {
	t.Helper()
	var text bytes.Buffer
	armored := armor.NewWriter(&text)
	w, err := age.Encrypt(armored, to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(key)
	for _, err := range []error{err, w.Close(), armored.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}

func newIdentity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// opened proves that the Secret is there in clear, and that the Restore says nothing of it.
func (b *bench) opened(ctx context.Context) {
	b.t.Helper()
	secret := &corev1.Secret{}
	b.must(b.Get(ctx, client.ObjectKey{Namespace: b.commit.namespace, Name: "sealed"}, secret))
	if got := string(secret.Data["password"]); got != secretPassword {
		b.t.Errorf("the Secret holds %q", got)
	}
	if all := fmt.Sprintf("%+v", b.restore(ctx)); strings.Contains(all, secretPassword) {
		b.t.Error("the Restore tells the secret")
	}
}

// openBySelf restores a commit with an encrypted Secret by Lockstep itself: not without a key, not with another's, and with the right one.
func openBySelf(t *testing.T, c *cluster) {
	ctx := ctrl.LoggerInto(t.Context(), logr.Discard())
	b := newBench(ctx, t, c, "sealed")
	b.save(ctx)
	id := newIdentity(t)
	b.commit.more = seal(t, "sealed", id.Recipient())
	for name, key := range map[string]*age.X25519Identity{"right": id, "wrong": newIdentity(t)} {
		b.must(b.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}, Data: map[string][]byte{"age.agekey": []byte(key.String())},
		}))
	}
	ask := func(key string) {
		t.Helper()
		b.start()
		b.ask(ctx, v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(r *v1alpha1.Restore) {
			r.Name += "-" + key
			if key != "no-key" {
				r.Spec.Decryption = &v1alpha1.Decryption{SecretRef: v1alpha1.SecretReference{Name: key}}
			}
		})
	}
	for key, words := range map[string]string{"no-key": "spec.decryption.secretRef", "wrong": "none of the age keys given opens it"} {
		ask(key)
		b.run(ctx, func(r *v1alpha1.Restore) bool {
			return strings.Contains(conditions.GetMessage(r, v1alpha1.ConditionReady), words)
		})
		if len(b.restore(ctx).Status.Volumes) > 0 {
			t.Errorf("%s: volumes were begun", key)
		}
		b.must(b.Delete(ctx, b.restore(ctx)))
		_, err := b.reconciler.Reconcile(ctx, b.request)
		b.must(err)
	}
	ask("right")
	b.run(ctx, isReady)
	b.opened(ctx)
}

// openByFlux restores it through Flux, which has the key; the Restore has none.
func openByFlux(t *testing.T, c *cluster) {
	ctx := ctrl.LoggerInto(t.Context(), logr.Discard())
	b, _, f := fluxBench(ctx, t, c, "sealedflux")
	id := newIdentity(t)
	b.commit.more = seal(t, "sealedflux", id.Recipient())
	b.must(b.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "sealedflux", Name: "sops-age"}, Data: map[string][]byte{"age.agekey": []byte(id.String())},
	}))
	k := &kustomizev1.Kustomization{}
	b.must(b.Get(ctx, client.ObjectKey{Namespace: "sealedflux", Name: "shop"}, k))
	k.Spec.Decryption = &kustomizev1.Decryption{Provider: "sops", SecretRef: &meta.LocalObjectReference{Name: "sops-age"}}
	b.must(b.Update(ctx, k))
	drive(ctx, b, f.Step, false, func() bool { return isReady(b.restore(ctx)) })
	b.opened(ctx)
}
