package catalog_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// directories is a store in memory that lists a directory without looking at all that it has, as other stores do.
type directories struct {
	*mem.Store
	mu    sync.Mutex
	names map[string][]string
}

func (d *directories) Put(ctx context.Context, name string, data []byte) error {
	if err := d.Store.Put(ctx, name, data); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	dir := name[:strings.LastIndexByte(name, '/')+1]
	d.names[dir] = append(d.names[dir], name)
	return nil
}

func (d *directories) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		d.mu.Lock()
		names := slices.Clone(d.names[prefix])
		d.mu.Unlock()
		for _, name := range names {
			if !yield(d.Stat(ctx, name)) {
				return
			}
		}
	}
}

// BenchmarkFind asks a vault of 100,000 points from a cold start: the vault is opened anew for every question. The points are of
// 20 applications of one repository, one every half hour, and each commit runs for two days.
//
// The far store answers each request after 20 ms. For comparison, "everything" reads all records; from the far store that would
// be 12,500 times 20 ms and more.
func BenchmarkFind(b *testing.B) {
	const points, applications = 100_000, 20
	l := newLabOn(b, &directories{Store: mem.New(), names: map[string][]string{}})
	var records []point.Record
	for n := range points {
		app, turn := n%applications, n/applications
		taken := start.Add(time.Duration(turn) * 30 * time.Minute)
		commit := turn/96 + 1
		name := fmt.Sprintf("shop/%02d", app)
		r := numbered(n, name, "apps/"+name, taken, commit, 1000*app+commit)
		r.ID = point.NewID(taken, fmt.Sprintf("%08x", uint32(n)*2654435761)) // as scattered as UIDs are
		records = append(records, r)
	}
	l.putBare(records...)
	if _, err := catalog.Reindex(b.Context(), l.vault, catalog.ReindexOptions{}); err != nil {
		b.Fatal(err)
	}
	target := records[points/2]
	asked := questions(target)
	absent := match.Query{Revision: target.Revision}
	absent.Revision.Commit, absent.Revision.Tree = strings.Repeat("e", 40), strings.Repeat("f", 40)
	asked["absent"] = absent

	for _, far := range []time.Duration{0, 20 * time.Millisecond} {
		for name, q := range asked {
			b.Run(fmt.Sprintf("%s/%s", far, strings.ReplaceAll(name, ", ", " ")), func(b *testing.B) {
				l.store.SetFaults(storetest.On("", "", storetest.Fault{Delay: far}))
				for b.Loop() {
					v, err := volume.Open(b.Context(), l.store, l.key)
					if err != nil {
						b.Fatal(err)
					}
					if c, err := catalog.Find(b.Context(), v, q, nil); isAbsent(err) != (name == "absent") || err == nil && c.Record.Application != target.Application {
						b.Fatalf("got %q, %v", c.Record.ID, err)
					}
				}
				b.ReportMetric(float64(l.store.Count())/float64(b.N), "requests/op")
				l.store.SetFaults(nil)
			})
		}
	}
	b.Run("0s/everything", func(b *testing.B) {
		for b.Loop() {
			if all, err := catalog.List(context.Background(), l.vault); err != nil || len(all) != points {
				b.Fatal(len(all), err)
			}
		}
	})
}
