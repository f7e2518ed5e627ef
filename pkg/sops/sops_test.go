package sops

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

func identity(t *testing.T) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// seal writes a value as SOPS does.
func seal(t *testing.T, key []byte, place, plain, kind string) string {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, 32)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 32)
	_, _ = rand.Read(iv)
	out := gcm.Seal(nil, iv, []byte(plain), []byte(place))
	text := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("ENC[AES256_GCM,data:%s,iv:%s,tag:%s,type:%s]", text(out[:len(out)-16]), text(iv), text(out[len(out)-16:]), kind)
}

func encrypted(t *testing.T, to age.Recipient) *unstructured.Unstructured {
	t.Helper()
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	var enc bytes.Buffer
	armored := armor.NewWriter(&enc)
	w, err := age.Encrypt(armored, to)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{func() error { _, err := w.Write(key); return err }(), w.Close(), armored.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "login", "namespace": "shop"},
		"stringData": map[string]any{"password": seal(t, key, "stringData:password:", "very secret", "str"), "empty": ""},
		"list":       []any{seal(t, key, "list:", "true", "bool"), seal(t, key, "list:", "42", "int")},
		"sops":       map[string]any{"age": []any{map[string]any{"recipient": "age1", "enc": enc.String()}}, "mac": "ENC[]", "version": "3.10.2"},
	}}
}

func TestDecrypt(t *testing.T) {
	id := identity(t)
	u := encrypted(t, id.Recipient())
	keys, err := ParseKeys(map[string][]byte{"other": nil, "old.agekey": []byte(identity(t).String()), "sops.agekey": []byte("# a key\n" + id.String() + "\n")})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := keys.Decrypt(u)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "login", "namespace": "shop"},
		"stringData": map[string]any{"password": "very secret", "empty": ""}, "list": []any{true, int64(42)},
	}
	if diff := cmp.Diff(want, plain.Object); diff != "" {
		t.Error(diff)
	}
	if !object.IsEncrypted(u) || object.IsEncrypted(plain) {
		t.Error("what is encrypted is not told from what is not")
	}
	if again, err := keys.Decrypt(plain); err != nil || !cmp.Equal(again, plain) {
		t.Errorf("what is not encrypted became %v, %v", again, err)
	}
}

func TestDecryptRefuses(t *testing.T) {
	id := identity(t)
	other, err := ParseKeys(map[string][]byte{"a.agekey": []byte(identity(t).String())})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Decrypt(encrypted(t, id.Recipient())); !errors.Is(err, ErrKey) {
		t.Errorf("with another's key: %v", err)
	}
	keys := Keys{id}
	for name, change := range map[string]func(u *unstructured.Unstructured){
		"moved": func(u *unstructured.Unstructured) {
			data := u.Object["stringData"].(map[string]any)
			data["other"] = data["password"]
		},
		"cut": func(u *unstructured.Unstructured) {
			data := u.Object["stringData"].(map[string]any)
			data["password"] = strings.Replace(data["password"].(string), "data:", "data:AAAA", 1)
		},
	} {
		u := encrypted(t, id.Recipient())
		change(u)
		if _, err := keys.Decrypt(u); !errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "very secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	u := encrypted(t, id.Recipient())
	unstructured.RemoveNestedField(u.Object, "sops", "age")
	if _, err := keys.Decrypt(u); !errors.Is(err, ErrUnsupported) {
		t.Errorf("without a recipient of age: %v", err)
	}
	inner := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "file"},
		"data": map[string]any{"app.env": base64.StdEncoding.EncodeToString([]byte("A=ENC[AES256_GCM,data:x]"))},
	}}
	if _, err := keys.Decrypt(inner); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a file in a Secret: %v", err)
	}
}

func TestParseKeys(t *testing.T) {
	for name, data := range map[string]map[string][]byte{
		"none": {"identity": []byte("x")}, "no key": {"a.agekey": []byte("AGE-SECRET-KEY-1NOT")},
	} {
		if _, err := ParseKeys(data); err == nil || strings.Contains(err.Error(), "1NOT") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
