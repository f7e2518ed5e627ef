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
	Links       int64 `json:"links"`    // symlinks, and further names of what has several
	Specials    int64 `json:"specials"` // FIFOs and devices
	Skipped     int64 `json:"skipped"`  // sockets, which are not saved
	Size        int64 `json:"size"`     // bytes of files, with holes
	Bytes       int64 `json:"bytes"`    // bytes of files that were read or written, without holes
	New         int64 `json:"new"`      // bytes that the Vault did not have before this save
	Stored      int64 `json:"stored"`   // bytes written to the store by a save, fetched from it by a load
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
	infos, err := list(ctx, v.store, snapshotPrefix)
	if err == nil {
		err = v.confirm(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("listing snapshots: %w", err)
	}
	snapshots := make([]*Snapshot, len(infos))
	err = each(ctx, infos, func(ctx context.Context, i int, info store.Info) error {
		data, err := v.getSmall(ctx, info)
		if err != nil {
			return fmt.Errorf("reading snapshots: %w", err)
		}
		r, err := v.openRecord(info.Name, data)
		snapshots[i] = &r.Snapshot
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(snapshots, func(a, b *Snapshot) int { return a.Created.Compare(b.Created) })
	return snapshots, nil
}

func (v *Vault) record(ctx context.Context, id string) (*record, error) {
	if !validID(id) {
		return nil, fmt.Errorf("snapshot id %q: want 32 hexadecimal digits", id)
	}
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
	return v.store.Put(ctx, name, v.keys.sealObject(typeSnapshot, name, plaintext))
}
