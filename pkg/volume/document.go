package volume

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// MaxDocument is the size of the largest document, in bytes.
const MaxDocument = 16 << 20

const (
	documentPrefix  = "documents/"
	maxDocumentName = 4096
)

// Document is a small write-once piece of data, such as the record of a restore point. Whoever can read the store but has no
// key learns its kind, its size and when it was written, and nothing of its name or data.
type Document struct {
	Kind, Name string
	Data       []byte
}

// PutDocument adds a document, durable on return. Kind is a constant word of a-z, 0-9 and '-', visible in the store; name is any
// text of 1 to 4096 bytes. If there is one of that kind and name, PutDocument leaves it and returns ErrDocumentExists. In a store that
// locks it is locked for the store's retention on return, also if it was there before.
func (v *Vault) PutDocument(ctx context.Context, kind, name string, data []byte) error {
	object, err := v.putDocument(ctx, kind, name, data, v.store.Put)
	l := v.locker()
	if l == nil || err != nil && !errors.Is(err, ErrDocumentExists) {
		return err
	}
	if lockErr := v.keep(ctx, l, []string{object}); lockErr != nil {
		return fmt.Errorf("locking document %q of kind %q: %w", name, kind, lockErr)
	}
	return err
}

// putDocument adds a document and returns where it stands.
func (v *Vault) putDocument(ctx context.Context, kind, name string, data []byte, put putFunc) (string, error) {
	object, err := v.documentObject(kind, name)
	if err != nil {
		return "", err
	}
	if len(data) > MaxDocument {
		return "", fmt.Errorf("document %q of kind %q: %d bytes are more than %d", name, kind, len(data), MaxDocument)
	}
	plaintext := binary.AppendUvarint(nil, uint64(len(name)))
	plaintext = append(append(plaintext, name...), data...)
	err = put(ctx, object, v.keys.sealObject(typeDocument, object, plaintext))
	if errors.Is(err, store.ErrExists) {
		return object, fmt.Errorf("document %q of kind %q: %w", name, kind, ErrDocumentExists)
	}
	if err != nil {
		return object, fmt.Errorf("writing document %q of kind %q: %w", name, kind, err)
	}
	return object, nil
}

// Document returns one document, or ErrDocumentNotFound if it is proven absent.
func (v *Vault) Document(ctx context.Context, kind, name string) (Document, error) {
	object, err := v.documentObject(kind, name)
	if err != nil {
		return Document{}, err
	}
	return twice(v, func(v *Vault) (Document, error) {
		data, err := v.store.Get(ctx, object, 0, -1)
		if errors.Is(err, store.ErrNotFound) {
			if err = v.confirm(ctx); err == nil {
				err = ErrDocumentNotFound
			}
		}
		if err != nil {
			return Document{}, fmt.Errorf("reading document %q of kind %q: %w", name, kind, err)
		}
		return v.openDocument(kind, object, data)
	})
}

// Documents returns every document of a kind whose name begins with prefix, sorted by name. The result is complete: an
// object of that kind that cannot be read or opened is an error, whatever its name may be.
func (v *Vault) Documents(ctx context.Context, kind, prefix string) ([]Document, error) {
	if err := checkKind(kind); err != nil {
		return nil, err
	}
	infos, err := list(ctx, v.store, documentPrefix+kind+"/")
	if err != nil {
		return nil, fmt.Errorf("listing documents of kind %q: %w", kind, err)
	}
	all := make([]Document, len(infos))
	err = each(ctx, infos, func(ctx context.Context, i int, info store.Info) error {
		d, err := twice(v, func(v *Vault) (Document, error) {
			data, err := v.getSmall(ctx, info)
			if err != nil {
				return Document{}, fmt.Errorf("reading documents of kind %q: %w", kind, err)
			}
			return v.openDocument(kind, info.Name, data)
		})
		if errors.Is(err, store.ErrNotFound) {
			return nil // deleted meanwhile
		}
		if err == nil && strings.HasPrefix(d.Name, prefix) {
			all[i] = d
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := v.confirm(ctx); err != nil {
		return nil, fmt.Errorf("listing documents of kind %q: %w", kind, err)
	}
	all = slices.DeleteFunc(all, func(d Document) bool { return d.Name == "" })
	slices.SortFunc(all, func(a, b Document) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// CountDocuments says how many documents of a kind there are. It reads none of them, so that a damaged one counts, too.
func (v *Vault) CountDocuments(ctx context.Context, kind string) (int, error) {
	if err := checkKind(kind); err != nil {
		return 0, err
	}
	n := 0
	for _, err := range v.store.List(ctx, documentPrefix+kind+"/") {
		if err != nil {
			return 0, fmt.Errorf("counting documents of kind %q: %w", kind, err)
		}
		n++
	}
	if err := v.confirm(ctx); err != nil {
		return 0, fmt.Errorf("counting documents of kind %q: %w", kind, err)
	}
	return n, nil
}

// DeleteDocument deletes a document for good; that there is none is no error. The error matches store.ErrLocked if the store must keep
// it.
func (v *Vault) DeleteDocument(ctx context.Context, kind, name string) error {
	object, err := v.documentObject(kind, name)
	if err != nil {
		return err
	}
	if err := v.store.Delete(ctx, object); err != nil {
		return fmt.Errorf("deleting document %q of kind %q: %w", name, kind, err)
	}
	return nil
}

// openDocument decrypts a document, and makes sure that it stands where its kind and name belong.
func (v *Vault) openDocument(kind, object string, data []byte) (Document, error) {
	plaintext, err := v.keys.openObject(typeDocument, object, data)
	if err != nil {
		return Document{}, err
	}
	name, content, err := decodeDocument(plaintext)
	if err == nil {
		if want, nameErr := v.documentObject(kind, name); nameErr != nil || want != object {
			err = fmt.Errorf("%w: it is the document %q", ErrDamaged, name)
		}
	}
	if err != nil {
		return Document{}, fmt.Errorf("object %q: %w", object, err)
	}
	return Document{kind, name, content}, nil
}

func decodeDocument(b []byte) (name string, data []byte, err error) {
	n, used := binary.Uvarint(b)
	if used <= 0 || n == 0 || n > maxDocumentName || n > uint64(len(b)-used) {
		return "", nil, fmt.Errorf("%w: bad length of name", ErrDamaged)
	}
	return string(b[used : used+int(n)]), bytes.Clone(b[used+int(n):]), nil
}

// documentObject is where a document stands. The hash is keyed, so that a name cannot be guessed from it.
func (v *Vault) documentObject(kind, name string) (string, error) {
	if err := checkKind(kind); err != nil {
		return "", err
	}
	if name == "" || len(name) > maxDocumentName || !utf8.ValidString(name) {
		return "", fmt.Errorf("document name %q: want valid UTF-8 of 1 to %d bytes", name, maxDocumentName)
	}
	sum := keyed(v.keys.name, []byte(kind), []byte{0}, []byte(name))
	return documentPrefix + kind + "/" + hex.EncodeToString(sum[:]), nil
}

func checkKind(kind string) error {
	bad := strings.ContainsFunc(kind, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' })
	if kind == "" || len(kind) > 40 || bad {
		return fmt.Errorf("document kind %q: want 1 to 40 of a-z, 0-9 and '-'", kind)
	}
	return nil
}
