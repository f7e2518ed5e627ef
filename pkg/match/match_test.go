package match

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/revision"
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
			id:      "p2", match: Exact, reason: "taken while commit aaaaaaa was running; the newest such point",
		},
		"newest of equals, however they are listed": {
			records: []point.Record{record("p3", 3), record("p9", 9), record("p5", 5)},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p9", match: Exact, reason: "taken while commit aaaaaaa was running; the newest such point",
		},
		"same moment, higher ID": {
			records: []point.Record{record("p2", 1), record("p3", 1), record("p1", 1)},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p3", match: Exact, reason: "taken while commit aaaaaaa was running; the newest such point",
		},
		"exact wins over a newer point of the same tree": {
			records: []point.Record{record("p1", 1), record("p9", 9, at(sha("b"), sha("1")))},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p1", match: Exact, reason: "taken while commit aaaaaaa was running; the newest such point",
		},
		"same tree after a force-push": {
			records: []point.Record{record("p1", 1, at(sha("d"), sha("1"))), record("p2", 2, at(sha("e"), sha("2")))},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p1", match: SameTree,
			reason: `no point was taken at commit aaaaaaa, but commit ddddddd (main) has the same tree at path "deploy" and so deploys the same thing; the newest such point`,
		},
		"monorepo: the commit of another path does not count": {
			records: []point.Record{record("p1", 1, at(sha("b"), sha("1"))), record("p9", 9, under("other"))},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p1", match: SameTree,
			reason: `no point was taken at commit aaaaaaa, but commit bbbbbbb (main) has the same tree at path "deploy" and so deploys the same thing; the newest such point`,
		},
		"other ways to write the repository and path": {
			records: []point.Record{record("p1", 1, from("git@github.com:acme/shop.git"), under("./deploy/"))},
			query:   Query{Revision: target(sha("a"), sha("1"))},
			id:      "p1", match: Exact, reason: "taken while commit aaaaaaa was running; the newest such point",
		},
		"SHA-256": {
			records: []point.Record{record("p1", 1, at(sha256, sha256)), record("p2", 2, at(sha256[:40], sha256[:40]))},
			query:   Query{Revision: target(sha256, sha256)},
			id:      "p1", match: Exact, reason: "taken while commit ccccccc was running; the newest such point",
		},
		"one of several applications": {
			records: []point.Record{record("p1", 1), record("p2", 2, of("eu/shop"))},
			query:   Query{Revision: target(sha("a"), sha("1")), Application: "shop/shop"},
			id:      "p1", match: Exact, reason: "taken while commit aaaaaaa was running; the newest such point",
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
			id:      "p4", match: Before, reason: "taken before 2026-03-01T17:00:00Z; the newest such point",
		},
		"before a moment, by application": {
			records: []point.Record{record("p1", 1), record("p4", 4, of("eu/shop"))},
			query:   Query{Before: &moment, Application: "shop/shop"},
			id:      "p1", match: Before, reason: "taken before 2026-03-01T17:00:00Z; the newest such point",
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

// earlier makes ancestors of commits, the nearest first; one that ends in "!" has another schema.
func earlier(commits ...string) []revision.Ancestor {
	var all []revision.Ancestor
	for _, c := range commits {
		digit, differs := strings.CutSuffix(c, "!")
		all = append(all, revision.Ancestor{Commit: sha(digit), Differs: differs})
	}
	return all
}

func TestChooseAncestor(t *testing.T) {
	of3 := []point.Record{record("p1", 1, at(sha("1"), sha("a"))), record("p2", 2, at(sha("2"), sha("b"))), record("p3", 3, at(sha("2"), sha("b")))}
	for name, c := range map[string]struct {
		records   []point.Record
		ancestors []revision.Ancestor
		allow     bool
		id        string
		match     string
		reason    string
	}{
		"the nearest that has a point, not the newest point": {
			records: of3, ancestors: earlier("9", "1", "2"), id: "p1", match: Ancestor,
			reason: "no point was taken at commit fffffff or one that deploys the same thing, and commit 1111111 (main) is the nearest before it that has one; the newest such point",
		},
		"the newest of the nearest": {
			records: of3, ancestors: earlier("2", "1"), id: "p3", match: Ancestor,
			reason: "no point was taken at commit fffffff or one that deploys the same thing, and commit 2222222 (main) is the nearest before it that has one; the newest such point",
		},
		"the same tree wins": {
			records: append([]point.Record{record("q0", 0, at(sha("8"), sha("e")))}, of3...), ancestors: earlier("2"), id: "q0", match: SameTree,
			reason: `no point was taken at commit fffffff, but commit 8888888 (main) has the same tree at path "deploy" and so deploys the same thing; the newest such point`,
		},
		"the commit itself wins": {
			records: append([]point.Record{record("q0", 0, at(sha("f"), sha("e")))}, of3...), ancestors: earlier("2"), id: "q0", match: Exact,
			reason: "taken while commit fffffff was running; the newest such point",
		},
		"another schema, allowed": {
			records: of3, ancestors: earlier("2!"), allow: true, id: "p3", match: Ancestor,
			reason: "no point was taken at commit fffffff or one that deploys the same thing, and commit 2222222 (main) is the nearest before it that has one; the newest such point" +
				"; that its data may not fit the commit was allowed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Choose(c.records, Query{Revision: target(sha("f"), sha("e")), Ancestors: c.ancestors, AllowMismatch: c.allow})
			if err != nil {
				t.Fatal(err)
			}
			if got.Record.ID != c.id || got.Match != c.match || got.Reason != c.reason {
				t.Errorf("got %s by %s:\n%s\nwant %s by %s:\n%s", got.Record.ID, got.Match, got.Reason, c.id, c.match, c.reason)
			}
		})
	}
}

// TestChooseMismatch has points that are found, and whose data another commit is to run with than it came from.
func TestChooseMismatch(t *testing.T) {
	moment := noon.Add(9 * time.Hour)
	refusal := refusalOf("fffffff")
	for name, c := range map[string]struct {
		record  point.Record
		query   Query
		match   string
		refused string
	}{
		"named, the commit itself":     {record("p1", 1), Query{PointID: "p1", Revision: target(sha("a"), sha("2"))}, Named, ""},
		"named, the same tree":         {record("p1", 1), Query{PointID: "p1", Revision: target(sha("f"), sha("1"))}, Named, ""},
		"named, no commit is asked of": {record("p1", 1), Query{PointID: "p1"}, Named, ""},
		"named, an ancestor with the same schema": {
			record("p1", 1), Query{PointID: "p1", Revision: target(sha("f"), sha("2")), Ancestors: earlier("9", "a")}, Named, "",
		},
		"before, the same tree": {record("p1", 1), Query{Before: &moment, Revision: target(sha("f"), sha("1"))}, Before, ""},
		"named, another tree": {
			record("p1", 1), Query{PointID: "p1", Revision: target(sha("f"), sha("2"))}, Named,
			refusal + `at path "deploy" the tree of the first is 1111111, that of the second 2222222; restore commit aaaaaaa with this point, or allow the mismatch (--allow-mismatch, spec.from.allowMismatch)`,
		},
		"before, another tree": {
			record("p1", 1), Query{Before: &moment, Revision: target(sha("f"), sha("2"))}, Before,
			refusal + `at path "deploy" the tree of the first is 1111111, that of the second 2222222; restore commit aaaaaaa with this point, or allow the mismatch (--allow-mismatch, spec.from.allowMismatch)`,
		},
		"named, another path with the same tree": {
			record("p1", 1, under("other")), Query{PointID: "p1", Revision: target(sha("a"), sha("1"))}, Named,
			refusalOf("aaaaaaa") + `the first was deployed from path "other" of https://github.com/acme/shop, the second is at path "deploy" of https://github.com/acme/shop; ` +
				`restore commit aaaaaaa with this point, or allow the mismatch (--allow-mismatch, spec.from.allowMismatch)`,
		},
		"named, trees that are not known": {
			record("p1", 1, at(sha("a"), "")), Query{PointID: "p1", Revision: target(sha("f"), "")}, Named,
			refusal + `at path "deploy" the tree of the first is not known, that of the second not known; restore commit aaaaaaa with this point, or allow the mismatch (--allow-mismatch, spec.from.allowMismatch)`,
		},
		"an ancestor with another schema": {
			record("p1", 1), Query{Revision: target(sha("f"), sha("2")), Ancestors: earlier("9", "a!")}, Ancestor,
			refusal + `at path "deploy" the tree of the first is 1111111, that of the second 2222222; restore commit aaaaaaa with this point, or allow the mismatch (--allow-mismatch, spec.from.allowMismatch)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Choose([]point.Record{c.record}, c.query)
			var mismatch *MismatchError
			switch {
			case c.refused == "" && (err != nil || got.Match != c.match):
				t.Fatalf("got %q, %v, want %q", got.Match, err, c.match)
			case c.refused != "" && (!errors.As(err, &mismatch) || mismatch.Match != c.match):
				t.Fatalf("got %+v, %v, want a MismatchError by %s", got, err, c.match)
			case c.refused != "" && err.Error() != c.refused:
				t.Errorf("message:\n%s\nwant:\n%s", err, c.refused)
			}
			c.query.AllowMismatch = true
			got, err = Choose([]point.Record{c.record}, c.query)
			if err != nil || got.Record.ID != "p1" {
				t.Fatalf("allowed: got %+v, %v", got, err)
			}
			if said := strings.Contains(got.Reason, "was allowed"); said != (c.refused != "") {
				t.Errorf("allowed: the reason is %q", got.Reason)
			}
		})
	}
}

func refusalOf(target string) string {
	return "point p1 holds the data of commit aaaaaaa (main), taken 2026-03-01T13:00:00Z, and commit " + target + " (v1.0.0) may expect another schema: "
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
			message: `there is no restore point for commit aaaaaaa (v1.0.0) at path "deploy" of https://github.com/acme/shop: the vault answered and holds no point at all`,
		},
		"nothing related": {
			records: []point.Record{record("p1", 1, of("x/y"), from("https://example.com/x"))},
			query:   Query{Revision: target(sha("b"), sha("2"))},
			message: `there is no restore point for commit bbbbbbb (v1.0.0) at path "deploy" of https://github.com/acme/shop: the vault answered and holds none, nor anything of this repository or application`,
		},
		"newest of the path first, then others of the repository": {
			records: []point.Record{record("p1", 1), record("p2", 2), record("o9", 9, under("other"))},
			query:   Query{Revision: target(sha("b"), sha("2"))},
			nearest: []string{"p2", "p1", "o9"},
			message: `there is no restore point for commit bbbbbbb (v1.0.0) at path "deploy" of https://github.com/acme/shop: the vault answered and holds none; nearest: ` +
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
			message: `there is no restore point for commit aaaaaaa (v1.0.0) at path "deploy" of https://github.com/acme/shop: the vault answered and holds none; nearest: ` +
				`m1 of commit aaaaaaa (main), taken 2026-03-01T13:00:00Z at path "deploy" of https://mirror.example.com/shop; ` +
				`p9 of commit ccccccc (main), taken 2026-03-01T21:00:00Z`,
		},
		"the commit of another application": {
			records: []point.Record{record("p1", 1)},
			query:   Query{Revision: target(sha("a"), sha("1")), Application: "eu/shop"},
			nearest: []string{"p1"},
			message: `there is no restore point for commit aaaaaaa (v1.0.0) at path "deploy" of https://github.com/acme/shop for application "eu/shop": the vault answered and holds none; nearest: ` +
				`p1 of commit aaaaaaa (main), taken 2026-03-01T13:00:00Z for application "shop/shop"`,
		},
		"none of the ancestors either": {
			records: []point.Record{record("p1", 1)},
			query:   Query{Revision: target(sha("b"), sha("2")), Ancestors: earlier("3", "4")},
			nearest: []string{"p1"},
			message: `there is no restore point for commit bbbbbbb (v1.0.0) at path "deploy" of https://github.com/acme/shop, nor for any of the 2 commits before it: ` +
				`the vault answered and holds none; nearest: p1 of commit aaaaaaa (main), taken 2026-03-01T13:00:00Z`,
		},
		"monorepo: an ancestor's point at another path does not count": {
			records: []point.Record{record("p1", 1, under("other"))},
			query:   Query{Revision: target(sha("b"), sha("2")), Ancestors: earlier("a")},
			nearest: []string{"p1"},
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
			message: `there is no point "q": the vault answered and holds none; nearest: ` +
				`p2 of commit aaaaaaa (main), taken 2026-03-01T14:00:00Z at path "deploy" of https://github.com/acme/shop; ` +
				`p1 of commit aaaaaaa (main), taken 2026-03-01T13:00:00Z at path "deploy" of https://github.com/acme/shop`,
		},
		"nothing so early: the first after it": {
			records: []point.Record{record("p9", 9), record("p5", 5), record("p7", 7)},
			query:   Query{Before: &moment, Revision: v1alpha1.Revision{Repository: repository, Path: "deploy"}},
			nearest: []string{"p5", "p7", "p9"},
			message: `there is no point before 2026-03-01T17:00:00Z at path "deploy" of https://github.com/acme/shop: the vault answered and holds none; nearest: ` +
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
		"ancestor": {
			records: two, query: Query{Revision: target(sha("b"), sha("2")), Ancestors: earlier("a")},
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
