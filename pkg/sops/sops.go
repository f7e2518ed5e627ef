// Package sops opens objects that are encrypted with SOPS for age recipients. Each value is sealed with AES-256-GCM under the object's
// data key and bound to its place in the object, and the data key is sealed for each recipient.
//
// The MAC over the whole is one of the file in the commit: it depends on the order there, which is gone when the object has been
// rendered. So there are two steps: Verify takes files, Decrypt what has become of them. kustomize-controller does the second only.
package sops

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

// keySuffix is what the names of a Secret's entries with age keys end in.
const keySuffix = ".agekey"

var (
	// ErrKey is wrapped when none of the keys opens an object.
	ErrKey = errors.New("none of the age keys given opens it")
	// ErrUnsupported is wrapped when an object is encrypted in a way that is not known here.
	ErrUnsupported = errors.New("is encrypted in a way that only Flux opens here")
	// ErrDamaged is wrapped when a value was altered, or moved to another place.
	ErrDamaged = errors.New("was altered after it was encrypted")
)

var sealed = regexp.MustCompile(`^ENC\[AES256_GCM,data:(.*),iv:(.+),tag:(.+),type:(.+)\]$`)

// Keys opens what is encrypted for one of them.
type Keys []age.Identity

// ParseKeys reads the age keys of a Secret: its entries whose names end in .agekey, as for Flux.
func ParseKeys(secret map[string][]byte) (Keys, error) {
	var keys Keys
	for _, name := range slices.Sorted(maps.Keys(secret)) {
		if !strings.HasSuffix(name, keySuffix) {
			continue
		}
		parsed, err := age.ParseIdentities(strings.NewReader(string(secret[name])))
		if err != nil { // which may repeat a part of the key
			return nil, fmt.Errorf("entry %q holds no age key", name)
		}
		keys = append(keys, parsed...)
	}
	if len(keys) == 0 {
		return nil, errors.New("no entry has a name that ends in " + keySuffix)
	}
	return keys, nil
}

// Decrypt gives the object as it was before it was encrypted; one that is not encrypted is given back as it is. No error holds a value.
func (k Keys) Decrypt(u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	if !object.IsEncrypted(u) {
		return u, nil
	}
	metadata, found, _ := unstructured.NestedMap(u.Object, "sops")
	if !found {
		return nil, fmt.Errorf("%s holds a file that %w", object.KeyOf(u), ErrUnsupported)
	}
	key, err := k.dataKey(metadata)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object.KeyOf(u), err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", object.KeyOf(u), ErrDamaged)
	}
	plain := u.DeepCopy()
	delete(plain.Object, "sops")
	for field, value := range plain.Object {
		opened, err := open(block, value, []string{field})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", object.KeyOf(u), err)
		}
		plain.Object[field] = opened
	}
	return plain, nil
}

// dataKey opens the data key with the first key that fits.
func (k Keys) dataKey(metadata map[string]any) ([]byte, error) {
	recipients, _, _ := unstructured.NestedSlice(metadata, "age")
	if groups, _, _ := unstructured.NestedSlice(metadata, "key_groups"); len(groups) > 0 || len(recipients) == 0 {
		return nil, fmt.Errorf("it %w", ErrUnsupported)
	}
	for _, r := range recipients {
		recipient, _ := r.(map[string]any)
		text, _ := recipient["enc"].(string)
		plain, err := age.Decrypt(armor.NewReader(strings.NewReader(text)), k...)
		if err != nil {
			continue
		}
		key, err := io.ReadAll(io.LimitReader(plain, 64))
		if err != nil || len(key) != 32 {
			return nil, ErrDamaged
		}
		return key, nil
	}
	return nil, ErrKey
}

// open opens every sealed value below one, whose place is the path of its fields; the items of a list have the place of the list.
func open(block cipher.Block, value any, path []string) (any, error) {
	var err error
	switch v := value.(type) {
	case map[string]any:
		for field, below := range v {
			if v[field], err = open(block, below, append(slices.Clone(path), field)); err != nil {
				return nil, err
			}
		}
	case []any:
		for i, below := range v {
			if v[i], err = open(block, below, path); err != nil {
				return nil, err
			}
		}
	case string:
		if parts := sealed.FindStringSubmatch(v); parts != nil {
			return openValue(block, parts, path)
		}
	}
	return value, nil
}

func openValue(block cipher.Block, parts, path []string) (any, error) {
	value, err := openBound(block, parts, strings.Join(path, ":")+":")
	if err != nil {
		return nil, fmt.Errorf("the value of %s %w", strings.Join(path, "."), err)
	}
	return value, nil
}

// openBound opens a value that is bound to a text.
func openBound(block cipher.Block, parts []string, bound string) (any, error) {
	var raw [3][]byte
	for i, text := range parts[1:4] {
		var err error
		if raw[i], err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, ErrDamaged
		}
	}
	if len(raw[1]) == 0 || len(raw[2]) != 16 {
		return nil, ErrDamaged
	}
	gcm, err := cipher.NewGCMWithNonceSize(block, len(raw[1]))
	if err != nil {
		return nil, ErrDamaged
	}
	plain, err := gcm.Open(nil, raw[1], append(raw[0], raw[2]...), []byte(bound))
	if err != nil {
		return nil, ErrDamaged
	}
	switch parts[4] {
	case "int":
		n, err := strconv.ParseInt(string(plain), 10, 64)
		if err != nil {
			return nil, ErrDamaged
		}
		return n, nil
	case "float":
		n, err := strconv.ParseFloat(string(plain), 64)
		if err != nil {
			return nil, ErrDamaged
		}
		return n, nil
	case "bool":
		b, err := strconv.ParseBool(string(plain))
		if err != nil {
			return nil, ErrDamaged
		}
		return b, nil
	}
	return string(plain), nil
}
