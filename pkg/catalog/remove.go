package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// removalKind is the kind of the documents that say, under its ID, that a point is removed. One is written before anything of the
// point is deleted, and deleted after everything.
const removalKind = "removal"

// Removal is what is known of a point that was removed, until nothing of it is left.
type Removal struct {
	// Record is the point's.
	Record point.Record `json:"record"`
	// Why it was removed.
	Why string `json:"why"`
	// At is when, Until how long its data stays for those who began to read it before.
	At    time.Time `json:"at"`
	Until time.Time `json:"until"`
}

// RemoveOptions of Remove.
type RemoveOptions struct {
	// Why is kept with the removal.
	Why string
	// Grace is how long the data stays.
	Grace time.Duration
	Now   time.Time
}

// Remove removes a point. On return its record is proven absent, so that nothing finds it any more; what it kept of the vault is left
// to Sweep. It may end anywhere and be repeated: that the point is removed is written down before anything is deleted.
//
// A point that is held is not removed, which is ErrHeld; one whose record the store must keep gives store.ErrLocked. Either stays as it
// is until the hold or the lock is over: Sweep then removes it.
func Remove(ctx context.Context, v *volume.Vault, id string, o RemoveOptions) error {
	if err := remove(ctx, v, id, o); err != nil {
		return fmt.Errorf("removing restore point %q: %w", id, err)
	}
	return nil
}

func remove(ctx context.Context, v *volume.Vault, id string, o RemoveOptions) error {
	switch held, err := holdOf(ctx, v, id, o.Now); {
	case err != nil:
		return err
	case held != nil:
		return held.refusal()
	}
	r, err := get(ctx, v, id)
	if errors.Is(err, ErrPointNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	data, err := json.Marshal(Removal{Record: r, Why: o.Why, At: o.Now.UTC(), Until: o.Now.Add(o.Grace).UTC()})
	if err != nil {
		return err
	}
	// Whoever said so before is to say until when the data stays.
	if _, err := putOnce(ctx, v, removalKind, id, data); err != nil && !errors.Is(err, ErrConflict) {
		if _, gone := get(ctx, v, id); errors.Is(err, volume.ErrDocumentNotFound) && errors.Is(gone, ErrPointNotFound) {
			return nil // a moment ago it was there: somebody else has removed the point, and swept it
		}
		return err
	}
	return deleteRecord(ctx, v, id, o.Now)
}

// deleteRecord deletes the record of a point whose removal is written down, and proves that it is gone. A hold that was written before
// that removal is seen here; one that comes later sees the removal.
func deleteRecord(ctx context.Context, v *volume.Vault, id string, now time.Time) error {
	switch held, err := holdOf(ctx, v, id, now); {
	case err != nil:
		return err
	case held != nil:
		return held.refusal()
	}
	if err := v.DeleteDocument(ctx, point.DocumentKind, id); err != nil {
		return err
	}
	switch _, err := v.Document(ctx, point.DocumentKind, id); {
	case err == nil:
		return fmt.Errorf("the record is still there after it was deleted: %w", store.ErrUnavailable)
	case !errors.Is(err, volume.ErrDocumentNotFound):
		return err
	}
	return nil
}

// notRemoved is ErrRemoved if it is written down that the point is removed.
func notRemoved(ctx context.Context, v *volume.Vault, id string) error {
	_, err := v.Document(ctx, removalKind, id)
	switch {
	case err == nil:
		return ErrRemoved
	case errors.Is(err, volume.ErrDocumentNotFound):
		return nil
	}
	return fmt.Errorf("asking whether it was removed: %w", err)
}

// Removals returns what is removed and not wholly gone yet, sorted by ID. It is complete or an error.
func Removals(ctx context.Context, v *volume.Vault) ([]Removal, error) {
	documents, err := v.Documents(ctx, removalKind, "")
	if err != nil {
		return nil, fmt.Errorf("listing removals: %w", err)
	}
	all := make([]Removal, len(documents))
	for i, d := range documents {
		if err := json.Unmarshal(d.Data, &all[i]); err != nil {
			return nil, fmt.Errorf("removal of restore point %q: %w: %w", d.Name, point.ErrInvalid, err)
		}
		if all[i].Record.ID != d.Name {
			return nil, fmt.Errorf("removal of restore point %q: %w: it says it is of %q", d.Name, point.ErrInvalid, all[i].Record.ID)
		}
	}
	return all, nil
}

// SweepReport says what a Sweep did.
type SweepReport struct {
	// Swept are points of which nothing is left but chunks that a prune finds needless.
	Swept int `json:"swept"`
	// Waiting are removed points whose data stays for now.
	Waiting int `json:"waiting"`
	// Held are points that were to be removed when somebody held them; Locked are those of which the store must keep something.
	Held   int `json:"held"`
	Locked int `json:"locked"`
}

// Sweep ends what Remove began, wherever that stopped, and gives up what removed points kept of the vault once their grace time is over:
// saved volumes that no other point needs, the residual objects, and their names in the index. It may run beside anything else, and end
// anywhere. An error stops it before it forgets anything more.
func Sweep(ctx context.Context, v *volume.Vault, now time.Time) (SweepReport, error) {
	var report SweepReport
	if err := sweep(ctx, v, now, &report); err != nil {
		return report, fmt.Errorf("sweeping removed restore points: %w", err)
	}
	return report, nil
}

func sweep(ctx context.Context, v *volume.Vault, now time.Time, report *SweepReport) error {
	removals, err := Removals(ctx, v)
	if err != nil {
		return err
	}
	ended := make([]error, len(removals))
	err = each(ctx, len(removals), func(ctx context.Context, i int) error {
		ended[i] = deleteRecord(ctx, v, removals[i].Record.ID, now)
		return unlessKept(ended[i])
	})
	if err != nil {
		return err
	}
	var due []Removal
	for i, r := range removals {
		switch {
		case report.count(ended[i]):
		case now.Before(r.Until):
			report.Waiting++
		default:
			due = append(due, r)
		}
	}
	if len(due) == 0 {
		return nil
	}
	needed, err := neededSnapshots(ctx, v)
	if err != nil {
		return err
	}
	x, err := openIndex(ctx, v)
	if err != nil && !errors.Is(err, volume.ErrDamaged) {
		return err
	}
	forgotten := make([]error, len(due))
	err = each(ctx, len(due), func(ctx context.Context, i int) error {
		forgotten[i] = forget(ctx, v, x, due[i].Record, needed)
		return unlessKept(forgotten[i])
	})
	if err != nil {
		return err
	}
	for _, err := range forgotten {
		if !report.count(err) {
			report.Swept++
		}
	}
	return nil
}

// unlessKept returns the error, unless it says that something stays, for now, as it is meant to.
func unlessKept(err error) error {
	if errors.Is(err, ErrHeld) || locked(err) {
		return nil
	}
	return err
}

// count counts what stays, and says whether it does.
func (r *SweepReport) count(err error) bool {
	switch {
	case errors.Is(err, ErrHeld):
		r.Held++
	case locked(err):
		r.Locked++
	default:
		return false
	}
	return true
}

// locked tells whether the store keeps what should go, for now.
func locked(err error) bool {
	return errors.Is(err, store.ErrLocked) || errors.Is(err, store.ErrDenied)
}

// neededSnapshots are those of the points that there are.
func neededSnapshots(ctx context.Context, v *volume.Vault) (map[string]bool, error) {
	records, err := List(ctx, v)
	if err != nil {
		return nil, err
	}
	needed := map[string]bool{}
	for _, r := range records {
		for _, volume := range r.Volumes {
			needed[volume.Snapshot] = true
		}
	}
	return needed, nil
}

// forget gives up all that a removed point kept, and last of all what says that it was removed.
func forget(ctx context.Context, v *volume.Vault, x *index, r point.Record, needed map[string]bool) error {
	var snapshots []string
	for _, volume := range r.Volumes {
		if !needed[volume.Snapshot] && !slices.Contains(snapshots, volume.Snapshot) {
			snapshots = append(snapshots, volume.Snapshot)
		}
	}
	for _, id := range snapshots {
		if err := v.Forget(ctx, id); err != nil && !errors.Is(err, volume.ErrSnapshotNotFound) {
			return err
		}
	}
	if r.Residual != nil {
		if err := v.DeleteDocument(ctx, point.ResidualKind, r.Residual.Document); err != nil {
			return err
		}
	}
	if x != nil { // only the last name of each way is the point's alone
		for _, way := range ways(r) {
			last := len(way) - 1
			if err := v.DeleteDocument(ctx, x.kind(way[:last]...), way[last]); err != nil {
				return err
			}
		}
	}
	if err := deleteHolds(ctx, v, r.ID); err != nil {
		return err
	}
	return v.DeleteDocument(ctx, removalKind, r.ID)
}

// OfApplication returns all records of an application, oldest first. Like Find it asks the index.
func OfApplication(ctx context.Context, v *volume.Vault, application string) ([]point.Record, error) {
	const all = 1 << 30
	x, err := openIndex(ctx, v)
	var records []point.Record
	if err == nil && x != nil {
		records, err = x.ofApplication(ctx, application, order{}, all)
	}
	if x == nil && err == nil || errors.Is(err, volume.ErrDamaged) {
		records, err = List(ctx, v)
		records = slices.DeleteFunc(records, func(r point.Record) bool { return r.Application != application })
	}
	if err != nil {
		return nil, fmt.Errorf("listing the restore points of %q: %w", application, err)
	}
	slices.SortStableFunc(records, func(a, b point.Record) int {
		if c := a.Taken.Compare(b.Taken); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return records, nil
}
