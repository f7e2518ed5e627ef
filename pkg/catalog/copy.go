package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// CopyReport tells what a copy of a point did.
type CopyReport struct {
	ID string `json:"id"`
	// Present says that the other vault had the record already.
	Present bool `json:"present,omitempty"`
	// LockedUntil is until when the other vault keeps the point, whoever asks to delete it; zero is not at all.
	LockedUntil time.Time `json:"lockedUntil,omitzero"`
	volume.CopyReport
}

// Copy copies a point into another vault: its volumes, then what Git does not hold, and last of all its record, which is the same there.
// A point that the other vault has is left as it is, or, with Recheck, completed and read back. ErrPointNotFound says that the first
// vault has no such point, ErrRemoved that it was removed from one of them and so is not wanted in the other any more, ErrConflict that the other has another one of its ID.
func Copy(ctx context.Context, from, to *volume.Vault, id string, o volume.CopyOptions) (CopyReport, error) {
	report := CopyReport{ID: id}
	if err := report.copy(ctx, from, to, o); err != nil {
		return report, fmt.Errorf("copying restore point %q: %w", id, err)
	}
	return report, nil
}

func (c *CopyReport) copy(ctx context.Context, from, to *volume.Vault, o volume.CopyOptions) error {
	r, err := Get(ctx, from, c.ID)
	if err != nil {
		return err
	}
	if c.Present, err = has(ctx, to, r); err != nil {
		return err
	}
	if !c.Present || o.Recheck {
		err = c.bring(ctx, from, to, r, o)
	}
	if err == nil {
		c.LockedUntil, err = LockedUntil(ctx, to, r.ID)
	}
	return err
}

func (c *CopyReport) bring(ctx context.Context, from, to *volume.Vault, r point.Record, o volume.CopyOptions) error {
	ids := make([]string, len(r.Volumes))
	for i, v := range r.Volumes {
		ids[i] = v.Snapshot
	}
	copied, err := from.CopyTo(ctx, to, ids, o)
	if err != nil {
		return err
	}
	c.CopyReport = *copied
	residual, err := Residual(ctx, from, r)
	if err != nil {
		return err
	}
	if residual != nil {
		if _, err := putOnce(ctx, to, point.ResidualKind, r.Residual.Document, residual); err != nil {
			return fmt.Errorf("writing its residual: %w", err)
		}
	}
	return Put(ctx, to, r)
}

// has tells whether a vault has this very record.
func has(ctx context.Context, v *volume.Vault, r point.Record) (bool, error) {
	there, err := Get(ctx, v, r.ID)
	if errors.Is(err, ErrPointNotFound) && !errors.Is(err, ErrRemoved) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	want, err := point.Encode(r)
	if err != nil {
		return false, err
	}
	got, err := point.Encode(there)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(want, got) {
		return false, ErrConflict
	}
	return true, nil
}
