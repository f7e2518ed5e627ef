package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// ErrHeld says that somebody holds the point.
var ErrHeld = errors.New("restore point is held")

// The n-th hold of a point is a document "<ID> <n>" of holdKind, and is over when there is one of the same name of releaseKind: so
// nothing has to be deleted, which a store may refuse, and whether a point is held is known without a listing, which may be late.
const (
	holdKind    = "hold"
	releaseKind = "release"
)

// Hold is why a point stays whatever its retention says.
type Hold struct {
	// Point is its ID.
	Point  string    `json:"point"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	// Until is when it ends by itself; zero for never.
	Until time.Time `json:"until,omitzero"`
}

// String implements fmt.Stringer.
func (h Hold) String() string {
	if h.Until.IsZero() {
		return h.Reason
	}
	return h.Reason + " (until " + h.Until.UTC().Format(time.RFC3339) + ")"
}

func (h Hold) refusal() error { return fmt.Errorf("%w: %s", ErrHeld, h) }

func (h Hold) over(now time.Time) bool { return !h.Until.IsZero() && !now.Before(h.Until) }

// PutHold holds a point. A hold that there is already is replaced. A point that is absent or removed gives ErrPointNotFound or
// ErrRemoved, and is not held.
func PutHold(ctx context.Context, v *volume.Vault, h Hold) error {
	if err := putHold(ctx, v, h); err != nil {
		return fmt.Errorf("holding restore point %q: %w", h.Point, err)
	}
	return nil
}

func putHold(ctx context.Context, v *volume.Vault, h Hold) error {
	if _, err := Get(ctx, v, h.Point); err != nil {
		return err
	}
	if h.Reason == "" {
		return fmt.Errorf("no reason is given: %w", point.ErrInvalid)
	}
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	var before []int
	for {
		holds, err := holdsOf(ctx, v, h.Point)
		if err != nil {
			return err
		}
		before = unreleased(holds)
		_, err = putOnce(ctx, v, holdKind, holdName(h.Point, len(holds)+1), data)
		if errors.Is(err, ErrConflict) {
			continue // somebody else holds it, too
		}
		if errors.Is(err, volume.ErrDocumentNotFound) { // a moment ago it was there: is it swept with its point?
			if _, gone := Get(ctx, v, h.Point); gone != nil {
				return gone
			}
		}
		if err != nil {
			return err
		}
		if removed := notRemoved(ctx, v, h.Point); removed != nil {
			return errors.Join(removed, release(ctx, v, h.Point, len(holds)+1))
		}
		break
	}
	for _, n := range before {
		if err := release(ctx, v, h.Point, n); err != nil {
			return err
		}
	}
	return nil
}

// Release ends all holds of a point, and says whether there was one.
func Release(ctx context.Context, v *volume.Vault, id string) (bool, error) {
	holds, err := holdsOf(ctx, v, id)
	left := unreleased(holds)
	for i := 0; i < len(left) && err == nil; i++ {
		err = release(ctx, v, id, left[i])
	}
	if err != nil {
		return false, fmt.Errorf("releasing restore point %q: %w", id, err)
	}
	return len(left) > 0, nil
}

func release(ctx context.Context, v *volume.Vault, id string, n int) error {
	_, err := putOnce(ctx, v, releaseKind, holdName(id, n), nil)
	if errors.Is(err, volume.ErrDocumentNotFound) {
		return nil // it was there a moment ago, and is swept with its hold
	}
	return err
}

// Holds returns the holds that are not over, by the IDs of their points. It is complete or an error.
func Holds(ctx context.Context, v *volume.Vault, now time.Time) (map[string]Hold, error) {
	documents, err := v.Documents(ctx, holdKind, "")
	if err != nil {
		return nil, fmt.Errorf("listing holds: %w", err)
	}
	held := map[string]Hold{}
	if len(documents) == 0 {
		return held, nil
	}
	released, err := v.Documents(ctx, releaseKind, "")
	if err != nil {
		return nil, fmt.Errorf("listing releases: %w", err)
	}
	for _, d := range documents {
		if slices.ContainsFunc(released, func(r volume.Document) bool { return r.Name == d.Name }) {
			continue
		}
		h, err := decodeHold(d)
		if err != nil {
			return nil, err
		}
		if !h.over(now) {
			held[h.Point] = h
		}
	}
	return held, nil
}

// numbered is one hold of a point.
type numbered struct {
	Hold
	released bool
}

// holdsOf reads all holds of a point, by their names.
func holdsOf(ctx context.Context, v *volume.Vault, id string) ([]numbered, error) {
	var all []numbered
	for {
		name := holdName(id, len(all)+1)
		d, err := v.Document(ctx, holdKind, name)
		if errors.Is(err, volume.ErrDocumentNotFound) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("asking whether it is held: %w", err)
		}
		h, err := decodeHold(d)
		if err != nil {
			return nil, err
		}
		_, err = v.Document(ctx, releaseKind, name)
		if err != nil && !errors.Is(err, volume.ErrDocumentNotFound) {
			return nil, fmt.Errorf("asking whether it is held: %w", err)
		}
		all = append(all, numbered{h, err == nil})
	}
}

// holdOf returns the hold of a point that is not over, or nil.
func holdOf(ctx context.Context, v *volume.Vault, id string, now time.Time) (*Hold, error) {
	holds, err := holdsOf(ctx, v, id)
	if err != nil {
		return nil, err
	}
	for _, h := range slices.Backward(holds) {
		if !h.released && !h.over(now) {
			return &h.Hold, nil
		}
	}
	return nil, nil
}

// unreleased are the numbers of the holds that nobody released.
func unreleased(holds []numbered) []int {
	var all []int
	for i, h := range holds {
		if !h.released {
			all = append(all, i+1)
		}
	}
	return all
}

// deleteHolds deletes the holds of a point, the last first: so those that are left can still be counted.
func deleteHolds(ctx context.Context, v *volume.Vault, id string) error {
	holds, err := holdsOf(ctx, v, id)
	if err != nil {
		return err
	}
	for n := len(holds); n > 0; n-- {
		for _, kind := range []string{holdKind, releaseKind} {
			if err := v.DeleteDocument(ctx, kind, holdName(id, n)); err != nil {
				return err
			}
		}
	}
	return nil
}

func holdName(id string, n int) string { return id + " " + strconv.Itoa(n) }

func decodeHold(d volume.Document) (Hold, error) {
	var h Hold
	if err := json.Unmarshal(d.Data, &h); err != nil {
		return h, fmt.Errorf("hold %q: %w: %w", d.Name, point.ErrInvalid, err)
	}
	if id, _, _ := strings.Cut(d.Name, " "); id != h.Point {
		return h, fmt.Errorf("hold %q: %w: it says it is of %q", d.Name, point.ErrInvalid, h.Point)
	}
	return h, nil
}
