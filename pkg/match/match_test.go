package match

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

const repository = "https://github.com/acme/shop"

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// sha stretches a digit into a full object name.
func sha(digit string) string { return strings.Repeat(digit, 40) }

// record is a point of the shop; hours is its age, larger is newer.
func record(id string, hours int, change ...func(*point.Record)) point.Record {
	r := point.Record{
		ID:          id,
		Application: "shop/shop",
		Revision:    v1alpha1.Revision{Repository: repository, Ref: "main", Commit: sha("a"), Path: "deploy", Tree: sha("1")},
		Taken:       noon.Add(time.Duration(hours) * time.Hour),
	}
	for _, c := range change {
		c(&r)
	}
	return r
}

func at(commit, tree string) func(*point.Record) {
	return func(r *point.Record) { r.Revision.Commit, r.Revision.Tree = commit, tree }
}

func under(path string) func(*point.Record) { return func(r *point.Record) { r.Revision.Path = path } }
func from(url string) func(*point.Record) {
	return func(r *point.Record) { r.Revision.Repository = url }
}
func of(app string) func(*point.Record) { return func(r *point.Record) { r.Application = app } }

func target(commit, tree string) v1alpha1.Revision {
	return v1alpha1.Revision{Repository: repository, Ref: "v1.0.0", Commit: commit, Path: "deploy", Tree: tree}
}

func TestChoose(t *testing.T) {
	moment := noon.Add(5 * time.Hour)
	sha256 := strings.Repeat("c", 64)
	for name, c := range map[string]struct {
		records []point.Record
		query   Query
		id      string
		match   string
		reason  string
	}{
		"exact commit": {
			records: []point.Record{record("p1", 1, at(sha("b"), sha("2"))), record("p2", 2)},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p2", match: Exact, reason: "taken while commit aaaaaaa was running; the only such point",
		},
		"newest of equals, however they are listed": {
			records: []point.Record{record("p3", 3), record("p9", 9), record("p5", 5)},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p9", match: Exact, reason: "taken while commit aaaaaaa was running; the newest of 3 such points",
		},
		"same moment, higher ID": {
			records: []point.Record{record("p2", 1), record("p3", 1), record("p1", 1)},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p3", match: Exact, reason: "taken while commit aaaaaaa was running; the newest of 3 such points",
		},
		"exact wins over a newer point of the same tree": {
			records: []point.Record{record("p1", 1), record("p9", 9, at(sha("b"), sha("1")))},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p1", match: Exact, reason: "taken while commit aaaaaaa was running; the only such point",
		},
		"same tree after a force-push": {
			records: []point.Record{record("p1", 1, at(sha("d"), sha("1"))), record("p2", 2, at(sha("e"), sha("2")))},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p1", match: SameTree,
			reason: `no point was taken at commit aaaaaaa, but commit ddddddd (main) has the same tree at path "deploy" and so deploys the same thing; the only such point`,
		},
		"monorepo: the commit of another path does not count": {
			records: []point.Record{record("p1", 1, at(sha("b"), sha("1"))), record("p9", 9, under("other"))},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p1", match: SameTree,
			reason: `no point was taken at commit aaaaaaa, but commit bbbbbbb (main) has the same tree at path "deploy" and so deploys the same thing; the only such point`,
		},
		"other ways to write the repository and path": {
			records: []point.Record{record("p1", 1, from("git@github.com:acme/shop.git"), under("./deploy/"))},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p1", match: Exact, reason: "taken while commit aaaaaaa was running; the only such point",
		},
		"SHA-256": {
			records: []point.Record{record("p1", 1, at(sha256, sha256)), record("p2", 2, at(sha256[:40], sha256[:40]))},
			query:   Query{Revision: target(sha256, sha256)},
			id:      "p1", match: Exact, reason: "taken while commit ccccccc was running; the only such point",
		},
		"one of several applications": {
			records: []point.Record{record("p1", 1), record("p2", 2, of("eu/shop"))},
			query:   Query{Revision: target(sha("a"), sha("1")), Application: "shop/shop"},
			id:      "p1", match: Exact, reason: "taken while commit aaaaaaa was running; the only such point",
		},
		"by ID": {
			records: []point.Record{record("p1", 1), record("p11", 2, of("eu/shop"), from("https://example.com/x"))},
			query:   Query{PointID: "p1"},
			id:      "p1", match: Named, reason: "asked for by its ID",
		},
		"by unambiguous prefix": {
			records: []point.Record{record("q7", 1), record("p11", 2)},
			query:   Query{PointID: "p"},
			id:      "p11", match: Named, reason: `the only point whose ID begins with "p"`,
		},
		"by prefix within an application": {
			records: []point.Record{record("p1", 1), record("p2", 2, of("eu/shop"))},
			query:   Query{PointID: "p", Application: "eu/shop"},
			id:      "p2", match: Named, reason: `the only point whose ID begins with "p"`,
		},
		"before a moment, whatever the commit": {
			records: []point.Record{record("p1", 1), record("p4", 4, at(sha("b"), sha("2"))), record("p5", 5), record("p6", 6), record("x", 4, under("other"))},
			query:   Query{Before: &moment, Revision: v1alpha1.Revision{Repository: repository, Path: "deploy"}},
			id:      "p4", match: Before, reason: "taken before 2026-03-01T17:00:00Z; the newest of 2 such points",
		},
		"before a moment, by application": {
			records: []point.Record{record("p1", 1), record("p4", 4, of("eu/shop"))},
			query:   Query{Before: &moment, Application: "shop/shop"},
			id:      "p1", match: Before, reason: "taken before 2026-03-01T17:00:00Z; the only such point",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Choose(c.records, c.query)
			if err != nil {
				t.Fatal(err)
			}
			if got.Record.ID != c.id || got.Match != c.match || got.Reason != c.reason {
				t.Errorf("got %s by %s:\n%s\nwant %s by %s:\n%s", got.Record.ID, got.Match, got.Reason, c.id, c.match, c.reason)
			}
		})
	}
}

func TestChooseAbsent(t *testing.T) {
	moment := noon.Add(5 * time.Hour)
	for name, c := range map[string]struct {
		records []point.Record
		query   Query
		nearest []string
		message string
	}{
		"empty vault": {
			query:   Query{Revision: target(sha("a"), sha("1"))},
			message: `there is no restore point for commit aaaaaaa (v1.0.0) at path "deploy" of https://github.com/acme/shop: the vault was read whole and holds no point at all`,
		},
		"nothing related": {
			records: []point.Record{record("p1", 1, of("x/y"), from("https://example.com/x"))},
			query:   Query{Revision: target(sha("b"), sha("2"))},
			message: `there is no restore point for commit bbbbbbb (v1.0.0) at path "deploy" of https://github.com/acme/shop: the vault was read whole (1 point) and holds nothing of this repository or application`,
		},
		"newest of the path first, then others of the repository": {
			records: []point.Record{record("p1", 1), record("p2", 2), record("o9", 9, under("other"))},
			query:   Query{Revision: target(sha("b"), sha("2"))},
			nearest: []string{"p2", "p1", "o9"},
			message: `there is no restore point for commit bbbbbbb (v1.0.0) at path "deploy" of https://github.com/acme/shop: the vault was read whole (3 points); nearest: ` +
				`p2 of commit aaaaaaa (main), taken 2026-03-01T14:00:00Z; p1 of commit aaaaaaa (main), taken 2026-03-01T13:00:00Z; ` +
				`o9 of commit aaaaaaa (main), taken 2026-03-01T21:00:00Z at path "other" of https://github.com/acme/shop`,
		},
		"no more than three": {
			records: []point.Record{record("p1", 1), record("p2", 2), record("p3", 3), record("p4", 4)},
			query:   Query{Revision: target(sha("b"), "")},
			nearest: []string{"p4", "p3", "p2"},
		},
		"the commit under another address comes first": {
			records: []point.Record{record("p9", 9, at(sha("c"), sha("3"))), record("m1", 1, from("https://mirror.example.com/shop"))},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			nearest: []string{"m1", "p9"},
			message: `there is no restore point for commit aaaaaaa (v1.0.0) at path "deploy" of https://github.com/acme/shop: the vault was read whole (2 points); nearest: ` +
				`m1 of commit aaaaaaa (main), taken 2026-03-01T13:00:00Z at path "deploy" of https://mirror.example.com/shop; ` +
				`p9 of commit ccccccc (main), taken 2026-03-01T21:00:00Z`,
		},
		"the commit of another application": {
			records: []point.Record{record("p1", 1)},
			query:   Query{Revision: target(sha("a"), sha("1")), Application: "eu/shop"},
			nearest: []string{"p1"},
			message: `there is no restore point for commit aaaaaaa (v1.0.0) at path "deploy" of https://github.com/acme/shop for application "eu/shop": the vault was read whole (1 point); nearest: ` +
				`p1 of commit aaaaaaa (main), taken 2026-03-01T13:00:00Z for application "shop/shop"`,
		},
		"unknown trees are not the same tree": {
			records: []point.Record{record("p1", 1, at(sha("b"), ""))},
			query:   Query{Revision: target(sha("a"), "")},
			nearest: []string{"p1"},
		},
		"unknown ID": {
			records: []point.Record{record("p1", 1), record("p2", 2)},
			query:   Query{PointID: "q"},
			nearest: []string{"p2", "p1"},
			message: `there is no point "q": the vault was read whole (2 points); nearest: ` +
				`p2 of commit aaaaaaa (main), taken 2026-03-01T14:00:00Z at path "deploy" of https://github.com/acme/shop; ` +
				`p1 of commit aaaaaaa (main), taken 2026-03-01T13:00:00Z at path "deploy" of https://github.com/acme/shop`,
		},
		"nothing so early: the first after it": {
			records: []point.Record{record("p9", 9), record("p5", 5), record("p7", 7)},
			query:   Query{Before: &moment, Revision: v1alpha1.Revision{Repository: repository, Path: "deploy"}},
			nearest: []string{"p5", "p7", "p9"},
			message: `there is no point before 2026-03-01T17:00:00Z at path "deploy" of https://github.com/acme/shop: the vault was read whole (3 points); nearest: ` +
				`p5 of commit aaaaaaa (main), taken 2026-03-01T17:00:00Z; p7 of commit aaaaaaa (main), taken 2026-03-01T19:00:00Z; ` +
				`p9 of commit aaaaaaa (main), taken 2026-03-01T21:00:00Z`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Choose(c.records, c.query)
			var absent *AbsentError
			if !errors.As(err, &absent) {
				t.Fatalf("got error %v, want an AbsentError", err)
			}
			var ids []string
			for _, r := range absent.Nearest {
				ids = append(ids, r.ID)
			}
			if diff := cmp.Diff(c.nearest, ids); diff != "" {
				t.Errorf("nearest points (-want +got):\n%s", diff)
			}
			if c.message != "" && err.Error() != c.message {
				t.Errorf("message:\n%s\nwant:\n%s", err, c.message)
			}
		})
	}
}

func TestChooseAmbiguous(t *testing.T) {
	moment := noon.Add(9 * time.Hour)
	two := []point.Record{record("p1", 1), record("p2", 2, of("eu/shop")), record("p3", 3)}
	for name, c := range map[string]struct {
		records []point.Record
		query   Query
		message string
	}{
		"commit": {
			records: two, query: Query{Revision: target(sha("a"), sha("1"))},
			message: `commit aaaaaaa (v1.0.0) at path "deploy" of https://github.com/acme/shop fits points of 2 applications: eu/shop, shop/shop; say which application is meant`,
		},
		"tree": {
			records: two, query: Query{Revision: target(sha("b"), sha("1"))},
			message: `commit bbbbbbb (v1.0.0) at path "deploy" of https://github.com/acme/shop fits points of 2 applications: eu/shop, shop/shop; say which application is meant`,
		},
		"moment": {
			records: two, query: Query{Before: &moment, Revision: v1alpha1.Revision{Repository: repository, Path: "deploy"}},
			message: `a point before 2026-03-01T21:00:00Z at path "deploy" of https://github.com/acme/shop fits points of 2 applications: eu/shop, shop/shop; say which application is meant`,
		},
		"prefix": {
			records: append([]point.Record{record("p4", 4)}, two...), query: Query{PointID: "p"},
			message: `point "p" fits 4 points: p1, p2, p3 and 1 more; give more of the ID`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Choose(c.records, c.query)
			var ambiguous *AmbiguousError
			if !errors.As(err, &ambiguous) {
				t.Fatalf("got error %v, want an AmbiguousError", err)
			}
			if err.Error() != c.message {
				t.Errorf("message:\n%s\nwant:\n%s", err, c.message)
			}
		})
	}
}

func TestChooseNothingAsked(t *testing.T) {
	moment := noon
	for name, q := range map[string]Query{
		"empty":         {Revision: v1alpha1.Revision{Repository: repository, Path: "deploy"}},
		"moment of all": {Before: &moment},
	} {
		_, err := Choose([]point.Record{record("p1", 1)}, q)
		var absent *AbsentError
		if err == nil || errors.As(err, &absent) {
			t.Errorf("%s: got error %v, want a refusal that is no proof", name, err)
		}
	}
}
