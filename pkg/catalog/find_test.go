package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// lab is a vault in a store that can misbehave and counts requests.
type lab struct {
	t      testing.TB
	memory *mem.Store
	store  *storetest.Faulty
	key    *age.X25519Identity
	vault  *volume.Vault
}

func newLab(t testing.TB) *lab {
	t.Helper()
	memory := mem.New()
	l := newLabOn(t, memory)
	l.memory = memory
	return l
}

func newLabOn(t testing.TB, s store.Store) *lab {
	t.Helper()
	l := &lab{t: t, store: storetest.NewFaulty(s)}
	var err error
	if l.key, err = age.GenerateX25519Identity(); err != nil {
		t.Fatal(err)
	}
	if l.vault, err = volume.Create(context.Background(), l.store, l.key.Recipient()); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) put(records ...point.Record) {
	l.t.Helper()
	for _, r := range records {
		if err := catalog.Put(context.Background(), l.vault, r); err != nil {
			l.t.Fatal(err)
		}
	}
}

// putBare writes records as they were written before there was an index.
func (l *lab) putBare(records ...point.Record) {
	l.t.Helper()
	for _, r := range records {
		data, err := point.Encode(r)
		if err == nil {
			err = l.vault.PutDocument(context.Background(), point.DocumentKind, r.ID, data)
		}
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

var start = time.Date(2026, 1, 30, 22, 0, 0, 0, time.UTC)

// numbered is the nth point of an application; commit and tree are digits that are stretched.
func numbered(n int, app, path string, taken time.Time, commit, tree int) point.Record {
	return point.Record{
		Version: point.Version, ID: point.NewID(taken, fmt.Sprintf("%08x", n)), Application: app, Trigger: v1alpha1.TriggerSchedule,
		Taken: taken, Completed: taken.Add(time.Minute),
		Revision: v1alpha1.Revision{
			Repository: "https://git.example.com/shop.git", Ref: "main", Commit: fmt.Sprintf("%040x", commit), Path: path, Tree: fmt.Sprintf("%040x", tree),
		},
	}
}

// answer is what can be compared of what a query gave. What comes nearest to something absent is a courtesy, not an answer.
type answer struct {
	ID, Match, Reason string
	Absent            bool
	Refused           string
}

func answerOf(c match.Choice, err error) answer {
	a := answer{ID: c.Record.ID, Match: c.Match, Reason: c.Reason}
	if absent := (*match.AbsentError)(nil); errors.As(err, &absent) {
		a.Absent = true
	} else if err != nil {
		a.Refused = err.Error()
	}
	return a
}

// TestTheIndexAnswersAsAllRecordsDo asks many questions of vaults with few values, so that much coincides, and compares with the
// answer of reading everything.
func TestTheIndexAnswersAsAllRecordsDo(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 4))
			l := newLab(t)
			apps, paths := []string{"shop/shop", "eu/shop", "x/y"}, []string{".", "deploy", "./deploy/", "other"}
			taken := start
			for n := range 40 {
				taken = taken.Add(time.Duration(r.IntN(9)) * 3 * time.Hour)
				commit := r.IntN(6)
				l.put(numbered(n, apps[r.IntN(3)], paths[r.IntN(4)], taken, commit, commit/2))
			}
			all, err := catalog.List(t.Context(), l.vault)
			if err != nil {
				t.Fatal(err)
			}
			seen := map[answer]bool{}
			for range 150 {
				q := match.Query{AllowMismatch: r.IntN(4) == 0}
				if r.IntN(2) == 0 {
					q.Application = apps[r.IntN(3)]
				}
				rev := v1alpha1.Revision{Repository: "git@git.example.com:shop", Path: paths[r.IntN(4)]}
				if commit := r.IntN(9); commit < 8 {
					rev.Commit, rev.Tree = fmt.Sprintf("%040x", commit), fmt.Sprintf("%040x", commit/2)
				}
				switch r.IntN(4) {
				case 0:
					id := all[r.IntN(len(all))].ID
					q.PointID = id[:1+r.IntN(len(id))]
				case 1:
					before := all[r.IntN(len(all))].Taken.Add(time.Duration(r.IntN(3)-1) * time.Second)
					q.Before = &before
				}
				if q.PointID == "" || r.IntN(2) == 0 {
					q.Revision = rev
				}
				var ancestors func(context.Context) ([]revision.Ancestor, error)
				given := q
				if r.IntN(2) == 0 && q.Revision.Commit != "" {
					for range r.IntN(4) {
						given.Ancestors = append(given.Ancestors, revision.Ancestor{Commit: fmt.Sprintf("%040x", r.IntN(6)), Differs: r.IntN(2) == 0})
					}
					ancestors = func(context.Context) ([]revision.Ancestor, error) { return given.Ancestors, nil }
				}
				want := answerOf(match.Choose(all, given))
				got := answerOf(catalog.Find(t.Context(), l.vault, q, ancestors))
				if ancestors != nil { // that an ancestor fits is not asked where a mismatch is allowed
					const allowed = "; that its data may not fit the commit was allowed"
					want.Reason, got.Reason = strings.TrimSuffix(want.Reason, allowed), strings.TrimSuffix(got.Reason, allowed)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("%s with %d ancestors (-all +index):\n%s", q, len(given.Ancestors), diff)
				}
				got.ID, got.Reason, got.Refused = "", "", head(got.Refused, 9)
				seen[got] = true
			}
			if len(seen) < 6 {
				t.Errorf("only these kinds of answers were seen: %v", seen)
			}
		})
	}
}

func head(s string, n int) string { return s[:min(n, len(s))] }

// questions are one of each kind, about a vault with target.
func questions(target point.Record) map[string]match.Query {
	tree, other, before := target.Revision, target.Revision, target.Taken.Add(time.Second)
	tree.Commit = strings.Repeat("e", 40)
	other.Commit, other.Tree = strings.Repeat("e", 40), strings.Repeat("e", 40)
	place := v1alpha1.Revision{Repository: target.Revision.Repository, Path: target.Revision.Path}
	return map[string]match.Query{
		"commit":                 {Revision: target.Revision},
		"commit of application":  {Revision: target.Revision, Application: target.Application},
		"same tree":              {Revision: tree},
		"ancestor":               {Revision: other, Ancestors: []revision.Ancestor{{Commit: strings.Repeat("d", 40)}, {Commit: target.Revision.Commit}}},
		"before, by place":       {Revision: place, Before: &before},
		"before, by application": {Application: target.Application, Before: &before},
		"ID":                     {PointID: target.ID},
		"beginning of an ID":     {PointID: target.ID[:len(target.ID)-1]},
	}
}

// TestRequestsDoNotGrowWithTheRecords counts what a question costs in a vault with few records and in one with many others.
func TestRequestsDoNotGrowWithTheRecords(t *testing.T) {
	target := numbered(1, "shop/shop", "deploy", start.AddDate(0, 3, 0), 0xabc, 0xdef)
	cost := func(others int) map[string]int {
		l := newLab(t)
		for n := range others {
			// Other applications, on days before and after.
			taken := target.Taken.Add(time.Duration(n%40*2-39) * 24 * time.Hour)
			l.put(numbered(100+n, fmt.Sprintf("other/%d", n), fmt.Sprintf("path/%d", n), taken, 100+n, 100+n))
		}
		l.put(target)
		costs := map[string]int{}
		for name, q := range questions(target) {
			l.store.SetFaults(nil)
			c, err := catalog.Find(t.Context(), l.vault, q, nil)
			if err != nil || c.Record.ID != target.ID {
				t.Fatalf("%s among %d: got %q, %v", name, others, c.Record.ID, err)
			}
			costs[name] = l.store.Count()
		}
		q := match.Query{Revision: target.Revision}
		q.Revision.Commit, q.Revision.Tree = strings.Repeat("e", 40), strings.Repeat("e", 40)
		l.store.SetFaults(nil)
		if _, err := catalog.Find(t.Context(), l.vault, q, nil); !isAbsent(err) {
			t.Fatalf("absent among %d: got %v", others, err)
		}
		costs["absent"] = l.store.Count()
		return costs
	}
	few, many := cost(40), cost(400)
	t.Log(many)
	for name, n := range many {
		if n > few[name] {
			t.Errorf("%s: %d requests among 40 others, %d among 400", name, few[name], n)
		}
		if n > 40 {
			t.Errorf("%s: %d requests", name, n)
		}
	}
}

func isAbsent(err error) bool {
	absent := (*match.AbsentError)(nil)
	return errors.As(err, &absent)
}

// TestARecordImpliesItsNames ends Put before and after each request, and looks whether what is there can be found.
func TestARecordImpliesItsNames(t *testing.T) {
	first := numbered(1, "shop/shop", "deploy", start, 1, 1)
	second := numbered(2, "shop/shop", "deploy", start.Add(time.Hour), 2, 2)
	for name, crash := range map[string]func(int) storetest.Faults{"before": storetest.CrashBefore, "after": storetest.CrashAfter} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.putBare(first)
			for n := 1; ; n++ {
				l.store.SetFaults(crash(n))
				err := catalog.Put(t.Context(), l.vault, second)
				l.store.SetFaults(nil)
				for _, r := range []point.Record{first, second} {
					_, getErr := catalog.Get(t.Context(), l.vault, r.ID)
					for question, q := range questions(r) {
						c, findErr := catalog.Find(t.Context(), l.vault, q, nil)
						if found := findErr == nil && c.Record.ID == r.ID; found != (getErr == nil) {
							t.Fatalf("request %d, %s of point %s: found %q, %v, and by its ID %v", n, question, r.ID, c.Record.ID, findErr, getErr)
						}
					}
				}
				if err == nil {
					return
				}
				if n > 300 {
					t.Fatal("no end")
				}
			}
		})
	}
}

// TestANameWithoutItsRecordIsIgnored has points that were never finished, among them one whose ID another point took.
func TestANameWithoutItsRecordIsIgnored(t *testing.T) {
	l := newLab(t)
	whole := numbered(1, "shop/shop", "deploy", start, 1, 1)
	l.put(whole)
	for n := range 20 {
		dead := numbered(10+n, "shop/shop", "deploy", start.Add(time.Duration(n+1)*7*time.Hour), 1, 1)
		l.store.SetFaults(storetest.On(storetest.Put, "documents/point/", storetest.Fault{Err: store.ErrUnavailable}))
		if err := catalog.Put(t.Context(), l.vault, dead); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("got %v", err)
		}
		l.store.SetFaults(nil)
	}
	taken := whole
	taken.Taken, taken.Application = whole.Taken.Add(1000*time.Hour), "eu/shop"
	if err := catalog.Put(t.Context(), l.vault, taken); !errors.Is(err, catalog.ErrConflict) {
		t.Fatalf("got %v", err)
	}
	for name, q := range questions(whole) {
		if c, err := catalog.Find(t.Context(), l.vault, q, nil); err != nil || c.Record.ID != whole.ID {
			t.Errorf("%s: got %q, %v", name, c.Record.ID, err)
		}
	}
	after := start.Add(9000 * time.Hour)
	c, err := catalog.Find(t.Context(), l.vault, match.Query{Before: &after, Revision: v1alpha1.Revision{Repository: whole.Revision.Repository, Path: "deploy"}}, nil)
	if err != nil || c.Record.ID != whole.ID {
		t.Errorf("got %q, %v", c.Record.ID, err)
	}
	if _, err := catalog.Find(t.Context(), l.vault, match.Query{Before: &after, Application: "eu/shop"}, nil); !isAbsent(err) {
		t.Errorf("an application that only has names: got %v", err)
	}
}

// TestAVaultOfUnfinishedPointsIsEmpty tells a vault without any record from one that has others.
func TestAVaultOfUnfinishedPointsIsEmpty(t *testing.T) {
	l := newLab(t)
	target := numbered(1, "shop/shop", "deploy", start, 1, 1)
	for n := range 10 {
		l.store.SetFaults(storetest.On(storetest.Put, "documents/point/", storetest.Fault{Err: store.ErrUnavailable}))
		_ = catalog.Put(t.Context(), l.vault, numbered(10+n, "shop/shop", "deploy", start.Add(time.Duration(n+1)*time.Hour), 1, 1))
		l.store.SetFaults(nil)
	}
	for name, q := range questions(target) {
		_, err := catalog.Find(t.Context(), l.vault, q, nil)
		if !isAbsent(err) || !strings.HasSuffix(err.Error(), "holds no point at all") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	l.put(numbered(2, "x/y", "elsewhere", start, 7, 7))
	for name, q := range questions(target) {
		if name == "beginning of an ID" {
			continue // it is the beginning of that of the other, too
		}
		if _, err := catalog.Find(t.Context(), l.vault, q, nil); !isAbsent(err) || strings.Contains(err.Error(), "no point at all") {
			t.Errorf("%s, beside another point: got %v", name, err)
		}
	}
}

// TestFindKnowsOrFails makes each request fail in turn: that something is not there is never concluded from it.
func TestFindKnowsOrFails(t *testing.T) {
	target := numbered(1, "shop/shop", "deploy", start, 1, 1)
	l := newLab(t)
	l.put(target, numbered(2, "x/y", "other", start, 2, 2))
	for name, q := range questions(target) {
		for n := 1; ; n++ {
			failed := false
			l.store.SetFaults(func(c storetest.Call) storetest.Fault {
				if c.N != n {
					return storetest.Fault{}
				}
				failed = true
				return storetest.Fault{Err: store.ErrUnavailable}
			})
			c, err := catalog.Find(t.Context(), l.vault, q, nil)
			l.store.SetFaults(nil)
			if !failed {
				break
			}
			if !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s, request %d failed: got %q, %v", name, n, c.Record.ID, err)
			}
		}
	}
	// Another vault took the place of this one.
	stranger := newLab(t)
	for _, name := range l.memory.Names() {
		if err := l.memory.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	config, err := stranger.memory.Get(t.Context(), "config", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	for _, there := range []bool{false, true} {
		if there {
			l.memory.Overwrite("config", config)
		}
		for name, q := range questions(target) {
			if _, err := catalog.Find(t.Context(), l.vault, q, nil); err == nil || isAbsent(err) {
				t.Errorf("%s, the vault is gone: got %v", name, err)
			}
		}
	}
}

// TestDamageOfTheIndexIsNoDamage damages each document that is not a record.
func TestDamageOfTheIndexIsNoDamage(t *testing.T) {
	target := numbered(1, "shop/shop", "deploy", start, 1, 1)
	l := newLab(t)
	l.put(target)
	for _, name := range l.memory.Names() {
		if !strings.HasPrefix(name, "documents/point-") {
			continue
		}
		whole, err := l.memory.Get(t.Context(), name, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		damaged := slices.Clone(whole)
		damaged[len(damaged)-1] ^= 1
		l.memory.Overwrite(name, damaged)
		for question, q := range questions(target) {
			if c, err := catalog.Find(t.Context(), l.vault, q, nil); err != nil || c.Record.ID != target.ID {
				t.Errorf("%s is damaged, %s: got %q, %v", name, question, c.Record.ID, err)
			}
		}
		l.memory.Overwrite(name, whole)
	}
}

func TestReindex(t *testing.T) {
	l := newLab(t)
	old, lost := numbered(1, "shop/shop", "deploy", start, 1, 1), numbered(2, "shop/shop", "deploy", start, 2, 2)
	l.put(lost)
	l.putBare(old)
	for _, name := range l.memory.Names() {
		if strings.HasPrefix(name, "documents/point-") && !strings.HasPrefix(name, "documents/point-index/") {
			if err := l.memory.Delete(t.Context(), name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := catalog.Find(t.Context(), l.vault, match.Query{Revision: old.Revision}, nil); !isAbsent(err) {
		t.Fatalf("without its names: got %v", err)
	}
	before := l.memory.Names()
	planned, err := catalog.Reindex(t.Context(), l.vault, catalog.ReindexOptions{DryRun: true})
	if err != nil || planned.Written == 0 || planned.Written != planned.Names || planned.Records != 2 {
		t.Errorf("a dry run would write %+v, %v", planned, err)
	}
	if diff := cmp.Diff(before, l.memory.Names()); diff != "" {
		t.Errorf("a dry run changed the vault (-before +after):\n%s", diff)
	}
	for _, want := range []int{planned.Written, 0} {
		var last atomic.Int64
		r, err := catalog.Reindex(t.Context(), l.vault, catalog.ReindexOptions{Progress: func(done, _ int) { last.Store(max(last.Load(), int64(done))) }})
		if err != nil || r.Written != want || int(last.Load()) == 0 {
			t.Errorf("wrote %+v, %v, want %d names; progress ended at %d", r, err, want, last.Load())
		}
	}
	for _, r := range []point.Record{old, lost} {
		for name, q := range questions(r) {
			if strings.HasPrefix(name, "before") || name == "beginning of an ID" {
				continue // these fit both
			}
			if c, err := catalog.Find(t.Context(), l.vault, q, nil); err != nil || c.Record.ID != r.ID {
				t.Errorf("%s of %s: got %q, %v", name, r.ID, c.Record.ID, err)
			}
		}
	}
}

func TestAncestorsAreAskedForOnlyIfNeeded(t *testing.T) {
	l := newLab(t)
	target := numbered(1, "shop/shop", "deploy", start, 1, 1)
	l.put(target)
	unreachable := errors.New("git does not answer")
	asked := 0
	ancestors := func(context.Context) ([]revision.Ancestor, error) { asked++; return nil, unreachable }
	for name, q := range questions(target) {
		if _, err := catalog.Find(t.Context(), l.vault, q, ancestors); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if asked > 0 {
		t.Errorf("asked %d times for what was not needed", asked)
	}
	q := match.Query{Revision: target.Revision}
	q.Revision.Commit, q.Revision.Tree = strings.Repeat("e", 40), strings.Repeat("e", 40)
	if _, err := catalog.Find(t.Context(), l.vault, q, ancestors); !errors.Is(err, unreachable) || isAbsent(err) {
		t.Errorf("got %v, want the error of Git", err)
	}
	if _, err := catalog.Find(t.Context(), l.vault, q, nil); !isAbsent(err) {
		t.Errorf("not allowed: got %v", err)
	}
}

func TestManyPointsWithOnePrefix(t *testing.T) {
	l := newLab(t)
	var records []point.Record
	for n := range 120 {
		records = append(records, numbered(n, "shop/shop", "deploy", start.Add(time.Duration(n)*time.Minute), 1, 1))
	}
	l.putBare(records...)
	if _, err := catalog.Reindex(t.Context(), l.vault, catalog.ReindexOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := catalog.Find(t.Context(), l.vault, match.Query{PointID: "2026"}, nil)
	ambiguous := (*match.AmbiguousError)(nil)
	if !errors.As(err, &ambiguous) || !strings.Contains(err.Error(), `point "2026" fits more than 100 points: 20260130-222000-00000014, `) {
		t.Errorf("got %v", err)
	}
	if c, err := catalog.Find(t.Context(), l.vault, match.Query{PointID: "20260130-2359"}, nil); err != nil || c.Record.ID != "20260130-235900-00000077" {
		t.Errorf("got %q, %v", c.Record.ID, err)
	}
}
