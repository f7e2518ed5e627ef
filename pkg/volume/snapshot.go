package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const snapshotPrefix = "snapshots/"

// Snapshot describes one saved tree.
type Snapshot struct {
	ID      string            `json:"id"` // 32 hexadecimal digits
	Created time.Time         `json:"created"`
	Labels  map[string]string `json:"labels,omitempty"`
	Roots   Roots             `json:"roots"`
	Stats   Stats             `json:"stats"`
	// Image says that the snapshot is of one file or block device and not of a directory.
	Image bool `json:"image,omitempty"`
}

// Stats count what a save or a load did.
type Stats struct {
	Files       int64 `json:"files"` // regular files
	Directories int64 `json:"directories"`
	Links       int64 `json:"links"`            // symlinks, and further names of what has several
	Specials    int64 `json:"specials"`         // FIFOs and devices
	Sockets     int64 `json:"sockets"`          // which are not saved
	Failed      int64 `json:"failed,omitempty"` // entries that a save that kept going could not read, or that changed meanwhile
	Size        int64 `json:"size"`             // bytes of files, with holes
	Bytes       int64 `json:"bytes"`            // bytes of files that were read or written, without holes
	New         int64 `json:"new"`              // bytes that the Vault did not have before this save
	Stored      int64 `json:"stored"`           // bytes written to the store by a save, fetched from it by a load
	// Files, counted in Files too, that a save found unchanged since its parent and did not read, and their bytes, without holes, which
	// are not in Bytes.
	Unchanged      int64 `json:"unchanged"`
	UnchangedBytes int64 `json:"unchangedBytes"`
}

// record is what a snapshot object holds.
type record struct {
	Snapshot
	Tree []Hash `json:"tree"` // the chunks of the table of the tree's segments
}

// Snapshot returns a snapshot, or ErrSnapshotNotFound if it is proven absent.
func (v *Vault) Snapshot(ctx context.Context, id string) (*Snapshot, error) {
	r, err := v.record(ctx, id)
	if err != nil {
		return nil, err
	}
	return &r.Snapshot, nil
}

// Snapshots returns all snapshots, oldest first. The result is complete: one that cannot be read or opened is an error.
func (v *Vault) Snapshots(ctx context.Context) ([]*Snapshot, error) {
	records, err := v.records(ctx)
	if err != nil {
		return nil, err
	}
	snapshots := make([]*Snapshot, len(records))
	for i, r := range records {
		snapshots[i] = &r.Snapshot
	}
	return snapshots, nil
}

// records returns the records of all snapshots, oldest first.
func (v *Vault) records(ctx context.Context) ([]*record, error) {
	infos, err := list(ctx, v.store, snapshotPrefix)
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	records := make([]*record, len(infos))
	err = each(ctx, infos, func(ctx context.Context, i int, info store.Info) error {
		r, err := twice(v, func(v *Vault) (*record, error) {
			data, err := v.getSmall(ctx, info)
			if err != nil {
				return nil, fmt.Errorf("reading snapshots: %w", err)
			}
			return v.openRecord(info.Name, data)
		})
		if errors.Is(err, store.ErrNotFound) {
			return nil // forgotten meanwhile
		}
		records[i] = r
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := v.confirm(ctx); err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	records = slices.DeleteFunc(records, func(r *record) bool { return r == nil })
	slices.SortStableFunc(records, func(a, b *record) int { return a.Created.Compare(b.Created) })
	return records, nil
}

// Latest returns the newest snapshot that has all of these labels and misses nothing, or nil if there is none.
func (v *Vault) Latest(ctx context.Context, labels map[string]string) (*Snapshot, error) {
	snapshots, err := v.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range slices.Backward(snapshots) {
		if s.Stats.Failed == 0 && s.hasLabels(labels) {
			return s, nil
		}
	}
	return nil, nil
}

func (s *Snapshot) hasLabels(labels map[string]string) bool {
	for name, want := range labels {
		if got, in := s.Labels[name]; !in || got != want {
			return false
		}
	}
	return true
}

// Forget removes snapshots. Their data stays until Prune finds that no other snapshot needs it. The error matches
// ErrSnapshotNotFound if some are proven absent, and store.ErrLocked if the store must keep some; all others are removed.
func (v *Vault) Forget(ctx context.Context, ids ...string) error {
	for _, id := range ids {
		if !validID(id) {
			return fmt.Errorf("snapshot id %q: want 32 hexadecimal digits", id)
		}
	}
	errs := make([]error, len(ids))
	err := each(ctx, ids, func(ctx context.Context, i int, id string) error {
		if err := v.forget(ctx, id); err != nil {
			errs[i] = fmt.Errorf("forgetting snapshot %q: %w", id, err)
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

func (v *Vault) forget(ctx context.Context, id string) error {
	_, err := v.store.Stat(ctx, snapshotPrefix+id)
	if errors.Is(err, store.ErrNotFound) {
		if err = v.confirm(ctx); err == nil {
			err = ErrSnapshotNotFound
		}
	}
	if err != nil {
		return err
	}
	return v.store.Delete(ctx, snapshotPrefix+id)
}

func (v *Vault) record(ctx context.Context, id string) (*record, error) {
	if !validID(id) {
		return nil, fmt.Errorf("snapshot id %q: want 32 hexadecimal digits", id)
	}
	return twice(v, func(v *Vault) (*record, error) {
		data, err := v.store.Get(ctx, snapshotPrefix+id, 0, -1)
		if errors.Is(err, store.ErrNotFound) {
			if err = v.confirm(ctx); err == nil {
				err = ErrSnapshotNotFound
			}
		}
		if err != nil {
			return nil, fmt.Errorf("reading snapshot %q: %w", id, err)
		}
		return v.openRecord(snapshotPrefix+id, data)
	})
}

func (v *Vault) openRecord(name string, data []byte) (*record, error) {
	r := &record{}
	plaintext, err := v.keys.openObject(typeSnapshot, name, data)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(plaintext, r); err != nil {
		return r, fmt.Errorf("object %q: %w: %w", name, ErrDamaged, err)
	}
	if snapshotPrefix+r.ID != name {
		return r, fmt.Errorf("object %q: %w: it is the snapshot %q", name, ErrDamaged, r.ID)
	}
	return r, nil
}

func (v *Vault) putRecord(ctx context.Context, r *record) error {
	plaintext, err := json.Marshal(r)
	if err != nil {
		return err
	}
	name := snapshotPrefix + r.ID
	return v.put(ctx, name, v.keys.sealObject(typeSnapshot, name, plaintext))
}
