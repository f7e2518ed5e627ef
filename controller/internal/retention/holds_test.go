package retention

import (
	"errors"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// Policies that are judged in the same minute share a listing; an error is nobody's answer but the one's who asked.
func TestHoldsAreListedOnceAMinute(t *testing.T) {
	ctx, now := t.Context(), time.Now().UTC().Truncate(time.Second)
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := storetest.NewMemory()
	v, err := volume.Create(ctx, s, identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	r := point.Record{Version: point.Version, ID: point.NewID(now, "x"), Application: "shop/shop", Trigger: "Manual", Taken: now, Completed: now,
		Revision: v1alpha1.Revision{Repository: "https://git.example/shop.git", Commit: strings.Repeat("c", 40), Path: ".", Tree: strings.Repeat("7", 40)}}
	if err := catalog.Put(ctx, v, r); err != nil {
		t.Fatal(err)
	}
	var h holds
	s.SetFaults(storetest.On(storetest.List, "documents/hold/", storetest.Fault{Err: store.ErrUnavailable}))
	if _, err := h.of(ctx, v, now); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v, want that the store is unavailable", err)
	}
	s.SetFaults(nil)
	for _, step := range []struct {
		after time.Duration
		want  int
	}{{0, 0}, {holdsAge - 1, 0}, {holdsAge, 1}, {0, 1}, {-time.Hour, 1}} {
		got, err := h.of(ctx, v, now.Add(step.after))
		if err != nil || len(got) != step.want {
			t.Errorf("after %s: %d holds, %v; want %d", step.after, len(got), err, step.want)
		}
		if step.after == 0 && step.want == 0 {
			if err := catalog.PutHold(ctx, v, catalog.Hold{Point: r.ID, Reason: "audit", Since: now}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
