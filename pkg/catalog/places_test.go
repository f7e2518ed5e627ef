package catalog_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

// placesOf are the directories that records are of.
func placesOf(records []point.Record, fits func(point.Record) bool) map[string]bool {
	places := map[string]bool{}
	for _, r := range records {
		if fits(r) {
			places[revision.NormalizeURL(r.Revision.Repository)+" "+revision.CleanPath(r.Revision.Path)] = true
		}
	}
	return places
}

// TestPlacesAreThoseOfAllRecords, with an index and without, and with one for much less than all records.
func TestPlacesAreThoseOfAllRecords(t *testing.T) {
	var records []point.Record
	for n := range 120 {
		records = append(records, numbered(n, []string{"shop/shop", "bank/bank"}[n%2], []string{"deploy", "other", "deploy"}[n%3], start.Add(time.Duration(n)*6*time.Hour), n, n))
	}
	indexed, bare := newLab(t), newLab(t)
	indexed.put(records...)
	bare.putBare(records...)
	for _, asked := range []struct{ application, id string }{
		{"shop/shop", ""}, {"", records[7].ID}, {"", records[7].ID[:4]}, {"bank/bank", records[7].ID}, {"shop/shop", records[7].ID}, {"absent/absent", ""}, {"", ""},
	} {
		want := placesOf(records, func(r point.Record) bool {
			return (asked.application == "" || r.Application == asked.application) && strings.HasPrefix(r.ID, asked.id)
		})
		for name, l := range map[string]*lab{"indexed": indexed, "bare": bare} {
			l.store.SetFaults(nil)
			found, err := catalog.Places(t.Context(), l.vault, asked.application, asked.id)
			got := placesOf(found, func(r point.Record) bool {
				return (asked.application == "" || r.Application == asked.application) && strings.HasPrefix(r.ID, asked.id)
			})
			if err != nil || !cmp.Equal(want, got) {
				t.Errorf("%s, %+v: %v, %v, want %v", name, asked, got, err, want)
			}
			if n := l.store.Count(); name == "indexed" && asked.application != "" && n > len(records)/2 {
				t.Errorf("%+v: %d requests for %d records", asked, n, len(records))
			}
		}
	}
}

// TestCount counts without reading a record, and does not count what it cannot know.
func TestCount(t *testing.T) {
	l := newLab(t)
	if n, err := catalog.Count(t.Context(), l.vault); n != 0 || err != nil {
		t.Errorf("an empty vault has %d, %v", n, err)
	}
	for n := range 20 {
		l.put(numbered(n, "shop/shop", "deploy", start.Add(time.Duration(n)*6*time.Hour), n, n))
	}
	l.store.SetFaults(nil)
	if n, err := catalog.Count(t.Context(), l.vault); n != 20 || err != nil || l.store.Count() > 3 {
		t.Errorf("counted %d with %d requests, %v", n, l.store.Count(), err)
	}
	l.store.SetFaults(func(storetest.Call) storetest.Fault { return storetest.Fault{Err: store.ErrUnavailable} })
	if n, err := catalog.Count(t.Context(), l.vault); err == nil {
		t.Errorf("counted %d in a store that does not answer", n)
	}
}
