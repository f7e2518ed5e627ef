package object

import (
	"encoding/base64"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// sealedBySOPS is what a value begins with that SOPS has encrypted.
const sealedBySOPS = "ENC[AES256_GCM,"

// IsEncrypted says that an object, or a file in a Secret or ConfigMap, is encrypted with SOPS, so that it must not be applied as it is.
func IsEncrypted(u *unstructured.Unstructured) bool {
	if sops, found, _ := unstructured.NestedMap(u.Object, "sops"); found && sops["mac"] != nil {
		return true
	}
	if gk := u.GroupVersionKind().GroupKind(); gk != Secret && gk != ConfigMap {
		return false
	}
	for _, field := range []string{"data", "stringData", "binaryData"} {
		values, _, _ := unstructured.NestedStringMap(u.Object, field)
		for _, value := range values {
			if strings.Contains(value, sealedBySOPS) {
				return true
			}
			if plain, err := base64.StdEncoding.DecodeString(value); err == nil && strings.Contains(string(plain), sealedBySOPS) {
				return true
			}
		}
	}
	return false
}
