// Package catalog keeps the records of restore points, and the residual objects that go with them, in a vault, and finds
// them there.
package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// ErrPointNotFound says that the vault answered and holds no such point.
var ErrPointNotFound = errors.New("restore point not found")

// ErrRemoved says that the vault answered, and that the point was removed, or is being removed. It matches ErrPointNotFound, too.
var ErrRemoved = fmt.Errorf("%w: it was removed", ErrPointNotFound)

// ErrConflict says that another record stands under the same ID.
var ErrConflict = errors.New("another restore point has this id")

// Put writes a record, durable on return, and reads it back, after it was put into the index, by which Find finds it. Writing the
// same record again changes nothing but its lock; a different one under the same ID is refused with ErrConflict. The first record of a vault that
// has records but no index has those indexed before. What was removed does not come back: that is ErrRemoved.
func Put(ctx context.Context, v *volume.Vault, r point.Record) error {
	data, err := point.Encode(r)
	if err != nil {
		return fmt.Errorf("writing restore point %q: %w", r.ID, err)
	}
	if err := notRemoved(ctx, v, r.ID); err != nil {
		return fmt.Errorf("writing restore point %q: %w", r.ID, err)
	}
	x, err := startIndex(ctx, v)
	if err == nil {
		_, err = count(ctx, x.names([]point.Record{r}), x.put, nil)
	}
	if err != nil {
		return fmt.Errorf("indexing restore point %q: %w", r.ID, err)
	}
	if _, err = putOnce(ctx, v, point.DocumentKind, r.ID, data); err == nil {
		err = Lock(ctx, v, r.ID)
	}
	if err == nil {
		err = notRemoved(ctx, v, r.ID) // meanwhile: whoever removes it looks for the record after that was said
	}
	if err != nil {
		return fmt.Errorf("writing restore point %q: %w", r.ID, err)
	}
	return nil
}

// PutResidual writes the residual objects of a point under its ID, durable on return, in the same way as Put.
func PutResidual(ctx context.Context, v *volume.Vault, id string, data []byte) error {
	if _, err := putOnce(ctx, v, point.ResidualKind, id, data); err != nil {
		return fmt.Errorf("writing residual of restore point %q: %w", id, err)
	}
	return nil
}

// Residual reads the residual objects of a point. It returns nil for a point that has none.
func Residual(ctx context.Context, v *volume.Vault, r point.Record) ([]byte, error) {
	if r.Residual == nil {
		return nil, nil
	}
	d, err := v.Document(ctx, point.ResidualKind, r.Residual.Document)
	if err != nil {
		return nil, fmt.Errorf("reading residual of restore point %q: %w", r.ID, err)
	}
	return d.Data, nil
}

// List returns every record of the vault, oldest first. It is complete or an error: a record that cannot be read or
// understood is never left out.
func List(ctx context.Context, v *volume.Vault) ([]point.Record, error) {
	documents, err := v.Documents(ctx, point.DocumentKind, "")
	if err != nil {
		return nil, fmt.Errorf("listing restore points: %w", err)
	}
	records := make([]point.Record, 0, len(documents))
	for _, d := range documents {
		r, err := decode(d)
		if err != nil {
			return nil, fmt.Errorf("listing restore points: %w", err)
		}
		records = append(records, r)
	}
	slices.SortStableFunc(records, func(a, b point.Record) int {
		if c := a.Taken.Compare(b.Taken); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return records, nil
}

// Count says how many records the vault has, from a listing alone.
func Count(ctx context.Context, v *volume.Vault) (int, error) {
	n, err := v.CountDocuments(ctx, point.DocumentKind)
	if err != nil {
		return 0, fmt.Errorf("counting restore points: %w", err)
	}
	return n, nil
}

// Get returns one record, or ErrPointNotFound, which for some time after its removal is ErrRemoved.
func Get(ctx context.Context, v *volume.Vault, id string) (point.Record, error) {
	r, err := get(ctx, v, id)
	if errors.Is(err, ErrPointNotFound) {
		if why := notRemoved(ctx, v, id); why != nil {
			err = fmt.Errorf("restore point %q: %w", id, why)
		}
	}
	return r, err
}

// get is Get without a look at removals.
func get(ctx context.Context, v *volume.Vault, id string) (point.Record, error) {
	d, err := v.Document(ctx, point.DocumentKind, id)
	if errors.Is(err, volume.ErrDocumentNotFound) {
		return point.Record{}, fmt.Errorf("restore point %q: %w", id, ErrPointNotFound)
	}
	if err != nil {
		return point.Record{}, fmt.Errorf("reading restore point %q: %w", id, err)
	}
	return decode(d)
}

func decode(d volume.Document) (point.Record, error) {
	r, err := point.Decode(d.Data)
	if err != nil {
		return r, fmt.Errorf("restore point %q: %w", d.Name, err)
	}
	if r.ID != d.Name {
		return r, fmt.Errorf("restore point %q: %w: it says it is %q", d.Name, point.ErrInvalid, r.ID)
	}
	return r, nil
}

// putOnce writes a document and reads it back: what the store acknowledged and does not give back is not durable. It says
// whether there was none before.
func putOnce(ctx context.Context, v *volume.Vault, kind, name string, data []byte) (bool, error) {
	put := v.PutDocument
	if unlocked[kind] {
		put = v.PutUnlockedDocument
	}
	err := put(ctx, kind, name, data)
	if err != nil && !errors.Is(err, volume.ErrDocumentExists) {
		return false, err
	}
	d, readErr := v.Document(ctx, kind, name)
	if readErr != nil {
		return false, readErr
	}
	if !bytes.Equal(d.Data, data) {
		return false, ErrConflict
	}
	return err == nil, nil
}

// unlocked are the kinds of documents that a store which locks does not lock as they are written: what is deleted before its point, or
// soon after it; and the record, which Put locks itself.
var unlocked = map[string]bool{point.DocumentKind: true, removalKind: true, holdKind: true, releaseKind: true}

// Lock makes sure that the record of a point is locked in a store that locks, if whoever put it died before it was.
func Lock(ctx context.Context, v *volume.Vault, id string) error {
	if err := v.LockDocument(ctx, point.DocumentKind, id); err != nil {
		return fmt.Errorf("locking restore point %q: %w", id, err)
	}
	return nil
}

// LockedUntil says until when the store keeps a point, whoever asks to delete it: its record and, at least as long, all that it needs.
// The zero time is not at all.
func LockedUntil(ctx context.Context, v *volume.Vault, id string) (time.Time, error) {
	until, err := v.DocumentLockedUntil(ctx, point.DocumentKind, id)
	if errors.Is(err, volume.ErrDocumentNotFound) {
		err = ErrPointNotFound
	}
	if err != nil {
		return until, fmt.Errorf("asking for the lock of restore point %q: %w", id, err)
	}
	return until, nil
}
