package catalog_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func TestRecordsComeBackInOrderOfTheirData(t *testing.T) {
	v := newVault(t)
	ctx := context.Background()
	late, early := record("20260102-000000-bbbbbbbb", 2), record("20260103-000000-aaaaaaaa", 1)
	for _, r := range []point.Record{late, early, late} {
		if err := catalog.Put(ctx, v, r); err != nil {
			t.Fatal(err)
		}
	}
	got, err := catalog.List(ctx, v)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]point.Record{early, late}, got); diff != "" {
		t.Error(diff)
	}
	one, err := catalog.Get(ctx, v, late.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(late, one); diff != "" {
		t.Error(diff)
	}
	if _, err := catalog.Get(ctx, v, "20260101-000000-cccccccc"); !errors.Is(err, catalog.ErrPointNotFound) {
		t.Errorf("absent point: got %v", err)
	}
}

func TestAnotherRecordUnderTheSameIDIsRefused(t *testing.T) {
	v := newVault(t)
	ctx := context.Background()
	first, second := record("20260102-000000-bbbbbbbb", 1), record("20260102-000000-bbbbbbbb", 2)
	if err := catalog.Put(ctx, v, first); err != nil {
		t.Fatal(err)
	}
	if err := catalog.Put(ctx, v, second); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	got, err := catalog.Get(ctx, v, first.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, got); diff != "" {
		t.Errorf("the first record changed: %s", diff)
	}
}

func TestOneRecordOfAnotherVersionFailsTheListing(t *testing.T) {
	v := newVault(t)
	ctx := context.Background()
	if err := catalog.Put(ctx, v, record("20260102-000000-bbbbbbbb", 1)); err != nil {
		t.Fatal(err)
	}
	if err := v.PutDocument(ctx, point.DocumentKind, "20260103-000000-dddddddd", []byte(`{"version":2}`)); err != nil {
		t.Fatal(err)
	}
	if records, err := catalog.List(ctx, v); !errors.Is(err, point.ErrInvalid) {
		t.Errorf("got %d records and %v", len(records), err)
	}
}

func TestResidualGoesWithItsPoint(t *testing.T) {
	v := newVault(t)
	ctx := context.Background()
	r := record("20260102-000000-bbbbbbbb", 1)
	if data, err := catalog.Residual(ctx, v, r); data != nil || err != nil {
		t.Errorf("a point without residual: got %q, %v", data, err)
	}
	if err := catalog.PutResidual(ctx, v, r.ID, []byte("sealed")); err != nil {
		t.Fatal(err)
	}
	r.Residual = &point.Residual{Document: r.ID, Secrets: 1}
	data, err := catalog.Residual(ctx, v, r)
	if err != nil || string(data) != "sealed" {
		t.Errorf("got %q, %v", data, err)
	}
}

func newVault(t *testing.T) *volume.Vault {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	v, err := volume.Create(context.Background(), mem.New(), id.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func record(id string, day int) point.Record {
	at := time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC)
	return point.Record{
		Version: point.Version, ID: id, Application: "shop/shop", Trigger: v1alpha1.TriggerManual, Taken: at, Completed: at.Add(time.Minute),
		Revision: v1alpha1.Revision{Repository: "https://git.example.com/shop.git", Ref: "main", Commit: "c0ffee", Path: ".", Tree: "7ee"},
	}
}
