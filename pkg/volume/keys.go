package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	keyMagic  = "lockstep vault key 1\n"
	keyPrefix = "keys/"
	// keyKind is the kind of the documents that say whose the key objects are.
	keyKind = "key"
	// maxKeyObject bounds the size of a key object.
	maxKeyObject = 64 << 10
)

// Key is one of the keys that open a Vault.
type Key struct {
	ID        string    `json:"id"`                  // 32 hexadecimal digits
	Recipient string    `json:"recipient,omitempty"` // the public text of the recipient; empty if it is not known
	Comment   string    `json:"comment,omitempty"`
	Created   time.Time `json:"created,omitzero"` // zero if it is not known
}

// keyDocument is what the Vault keeps about a key object, as the document of kind "key" that has the object's id for a name.
type keyDocument struct {
	Recipient string    `json:"recipient"`
	Comment   string    `json:"comment,omitempty"`
	Created   time.Time `json:"created"`
	// SHA256 is the hash of the key object, so that whoever opened the Vault can verify the keys of others too.
	SHA256 string `json:"sha256"`
}

// keyObject is a key object as the store has it.
type keyObject struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

func (k keyObject) id() string { return strings.TrimPrefix(k.Name, keyPrefix) }

// newKey wraps the master key for one recipient.
func newKey(id string, master []byte, r age.Recipient) (keyObject, error) {
	data, err := wrapKey(id, master, r)
	return keyObject{keyPrefix + randomName(), data}, err
}

// wrapKey returns the content of a key object: the master key, encrypted to the recipient.
func wrapKey(id string, master []byte, r age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err != nil {
		return nil, fmt.Errorf("wrapping the master key: %w", err)
	}
	if _, err := io.WriteString(w, keyMagic+id+string(master)); err != nil {
		return nil, fmt.Errorf("wrapping the master key: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("wrapping the master key: %w", err)
	}
	return out.Bytes(), nil
}

// unwrapKey returns the master key in a key object, or nil if it is for other identities or another vault.
func unwrapKey(data []byte, id string, identities []age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(data), identities...)
	if noMatch := (*age.NoIdentityMatchError)(nil); errors.As(err, &noMatch) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	content, err := io.ReadAll(io.LimitReader(r, maxKeyObject))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	rest, ok := bytes.CutPrefix(content, []byte(keyMagic))
	if !ok || len(rest) != len(id)+masterSize {
		return nil, fmt.Errorf("%w: not a vault key", ErrDamaged)
	}
	if string(rest[:len(id)]) != id {
		return nil, nil
	}
	return rest[len(id):], nil
}

// readKeys reads all key objects.
func readKeys(ctx context.Context, s store.Store) ([]keyObject, error) {
	infos, err := list(ctx, s, keyPrefix)
	if err != nil {
		return nil, err
	}
	infos = slices.DeleteFunc(infos, func(i store.Info) bool { return !validID(strings.TrimPrefix(i.Name, keyPrefix)) })
	objects := make([]keyObject, len(infos))
	err = each(ctx, infos, func(ctx context.Context, i int, info store.Info) error {
		if info.Size > maxKeyObject {
			return fmt.Errorf("object %q: %w: %d bytes are too many", info.Name, ErrDamaged, info.Size)
		}
		data, err := s.Get(ctx, info.Name, 0, -1)
		if errors.Is(err, store.ErrNotFound) {
			return nil // removed meanwhile
		}
		objects[i] = keyObject{info.Name, data}
		return err
	})
	return slices.DeleteFunc(objects, func(k keyObject) bool { return k.Data == nil }), err
}

// openKeys returns the master key that the identities find in the key objects. One that is damaged only matters if no other
// opens the vault; two that hold different master keys are damage.
func openKeys(id string, objects []keyObject, identities []age.Identity) (master []byte, err error) {
	if len(identities) == 0 {
		return nil, fmt.Errorf("%w: no key given", ErrWrongKey)
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("%w: no key objects", ErrDamaged)
	}
	var damage error
	for _, k := range objects {
		found, err := unwrapKey(k.Data, id, identities)
		switch {
		case err != nil:
			damage = errors.Join(damage, fmt.Errorf("object %q: %w", k.Name, err))
		case found != nil && master != nil && !bytes.Equal(found, master):
			return nil, fmt.Errorf("object %q: %w: it holds another master key", k.Name, ErrDamaged)
		case found != nil:
			master = found
		}
	}
	switch {
	case master != nil:
		return master, nil
	case damage != nil:
		return nil, damage
	}
	return nil, ErrWrongKey
}

// Keys returns all keys that open the Vault, sorted by id. Of one whose addition was cut short only the id is known.
func (v *Vault) Keys(ctx context.Context) ([]Key, error) {
	known, err := v.knownKeys(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	infos, err := list(ctx, v.store, keyPrefix)
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	var keys []Key
	for _, info := range infos {
		if id := strings.TrimPrefix(info.Name, keyPrefix); validID(id) {
			d := known[id]
			keys = append(keys, Key{id, d.Recipient, d.Comment, d.Created})
		}
	}
	return keys, nil
}

// knownKeys returns what the Vault keeps about its key objects, by their ids.
func (v *Vault) knownKeys(ctx context.Context) (map[string]keyDocument, error) {
	documents, err := v.Documents(ctx, keyKind, "")
	if err != nil {
		return nil, err
	}
	known := make(map[string]keyDocument, len(documents))
	for _, d := range documents {
		var k keyDocument
		if err := json.Unmarshal(d.Data, &k); err != nil {
			return nil, fmt.Errorf("document %q of kind %q: %w: %w", d.Name, keyKind, ErrDamaged, err)
		}
		known[d.Name] = k
	}
	return known, nil
}

// AddKey lets one more recipient open the Vault. Name is the recipient's public text and comment any text; both are kept for
// Keys, encrypted. To rotate a key, add the new one and then remove the old one.
func (v *Vault) AddKey(ctx context.Context, r age.Recipient, name, comment string) (Key, error) {
	k, err := newKey(v.id, v.keys.master, r)
	if err != nil {
		return Key{}, fmt.Errorf("adding key: %w", err)
	}
	d := keyDocument{Recipient: name, Comment: comment, Created: now()}
	if err := v.putKey(ctx, k, d); err != nil {
		return Key{}, fmt.Errorf("adding key: %w", err)
	}
	return Key{k.id(), d.Recipient, d.Comment, d.Created}, nil
}

func (v *Vault) putKey(ctx context.Context, k keyObject, d keyDocument) error {
	if err := v.store.Put(ctx, k.Name, k.Data); err != nil {
		return err
	}
	return v.describeKey(ctx, k, d)
}

// describeKey records whose a key object is. It follows the object, and goes before it: a document without an object means
// that the store lost one.
func (v *Vault) describeKey(ctx context.Context, k keyObject, d keyDocument) error {
	sum := sha256.Sum256(k.Data)
	d.SHA256 = hex.EncodeToString(sum[:])
	data, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return v.PutDocument(ctx, keyKind, k.id(), data)
}

// RemoveKey removes a key, which the Vault is not opened with any more from then on. It returns ErrKeyNotFound if it is proven absent,
// and ErrLastKey if no other key is left that is known to open this Vault. Whoever has opened the Vault before keeps what they learned.
func (v *Vault) RemoveKey(ctx context.Context, id string) error {
	if err := v.removeKey(ctx, id); err != nil {
		return fmt.Errorf("removing key %q: %w", id, err)
	}
	return nil
}

func (v *Vault) removeKey(ctx context.Context, id string) error {
	objects, known, err := v.describedKeys(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(objects, func(k keyObject) bool { return k.id() == id })
	if i < 0 {
		if err := v.confirm(ctx); err != nil {
			return err
		}
		return ErrKeyNotFound
	}
	if !othersOpen(objects, known, id) {
		return ErrLastKey
	}
	document, err := v.documentObject(keyKind, id)
	if err != nil {
		return err
	}
	if err := v.store.Delete(ctx, document); err != nil {
		return err
	}
	if err := v.store.Delete(ctx, objects[i].Name); err != nil {
		return err
	}
	// Two that remove different keys at once may each have counted on the other's.
	left, leftKnown, err := v.describedKeys(ctx)
	if err != nil || othersOpen(left, leftKnown, id) {
		return err
	}
	return errors.Join(ErrLastKey, v.putKey(ctx, keyObject{keyPrefix + randomName(), objects[i].Data}, known[id]))
}

// describedKeys returns the key objects, and what the Vault keeps about them.
func (v *Vault) describedKeys(ctx context.Context) ([]keyObject, map[string]keyDocument, error) {
	objects, err := readKeys(ctx, v.store)
	if err != nil {
		return nil, nil, err
	}
	known, err := v.knownKeys(ctx)
	return objects, known, err
}

// othersOpen tells whether a key object other than the given one is known to open this Vault.
func othersOpen(objects []keyObject, known map[string]keyDocument, id string) bool {
	return slices.ContainsFunc(objects, func(k keyObject) bool { return k.id() != id && known[k.id()].describes(k) })
}

// describes tells whether the key object is as it was written.
func (d keyDocument) describes(k keyObject) bool {
	sum := sha256.Sum256(k.Data)
	return d.SHA256 == hex.EncodeToString(sum[:])
}

// bootstrap is what it takes, besides an identity, to open a Vault without asking its store.
type bootstrap struct {
	Config []byte      `json:"config"`
	Keys   []keyObject `json:"keys"`
}

// Bootstrap returns what OpenBootstrap needs. It is no secret, but lets whoever can replace it have data encrypted for themselves.
func (v *Vault) Bootstrap(ctx context.Context) ([]byte, error) {
	objects, err := readKeys(ctx, v.store)
	if err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	return json.Marshal(bootstrap{v.config, objects})
}

// OpenBootstrap opens a Vault without a request to the store, for one that may only write to it. Errors are as those of Open.
func OpenBootstrap(s store.Store, data []byte, identities ...age.Identity) (*Vault, error) {
	var b bootstrap
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, fmt.Errorf("opening vault: bootstrap: %w: %w", ErrDamaged, err)
	}
	v, err := open(s, b.Config, b.Keys, identities)
	if err != nil {
		return nil, fmt.Errorf("opening vault: %w", err)
	}
	return v, nil
}
