package cmd

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/checker"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/point"
)

func TestPointOf(t *testing.T) {
	const commit, older, tree = "1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222", "3333333333333333333333333333333333333333"
	record := func(id, application, commit, path, tree string) point.Record {
		return point.Record{ID: id, Application: application, Taken: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC),
			Revision: v1alpha1.Revision{Repository: "https://git.example.com/shop.git", Commit: commit, Path: path, Tree: tree}}
	}
	resolve := func(path string) (v1alpha1.Revision, error) {
		switch path {
		case "gone":
			return v1alpha1.Revision{}, fmt.Errorf("at %s: %w", path, git.ErrPathNotFound)
		case "broken":
			return v1alpha1.Revision{}, git.ErrUnreachable
		}
		return v1alpha1.Revision{Repository: "file:///clone", Commit: commit, Path: path, Tree: tree}, nil
	}
	for name, tt := range map[string]struct {
		records     []point.Record
		found, id   string
		fit         string
		unreachable bool
		// owner deploys the policy from the directory apps/shop, beside another one of its name.
		owner string
	}{
		"none":                   {found: "absent"},
		"of another application": {records: []point.Record{record("a", "shop/other", commit, "deploy", tree)}, found: "absent"},
		"of the commit":          {records: []point.Record{record("a", "shop/shop", commit, "deploy", tree)}, found: "found", id: "a", fit: "Exact"},
		"of the same tree":       {records: []point.Record{record("a", "shop/shop", older, "deploy", tree)}, found: "found", id: "a", fit: "SameTree"},
		"of another tree":        {records: []point.Record{record("a", "shop/shop", older, "deploy", older)}, found: "absent"},
		"of a path that is gone": {records: []point.Record{record("a", "shop/shop", older, "gone", tree)}, found: "absent"},
		"of another cluster":     {records: []point.Record{record("a", "shop/shop", commit, "deploy", tree)}, owner: "Kustomization a/b", found: "absent"},
		"of this cluster": {records: []point.Record{record("a", "shop/shop", commit, "deploy", tree), record("b", "shop/shop", commit, "apps/shop", tree)},
			owner: "Kustomization a/b", found: "found", id: "b", fit: "Exact"},
		"of a clone cut too short": {records: []point.Record{record("a", "shop/shop", older, "broken", tree)}, unreachable: true},
	} {
		policy := checker.Policy{Name: object.Name{Namespace: "shop", Name: "shop"}}
		if tt.owner != "" {
			policy.Owner, policy.Path = tt.owner, "apps/shop"
		}
		got, err := pointOf(tt.records, policy, resolve)
		if tt.unreachable {
			if !errors.Is(err, git.ErrUnreachable) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			continue
		}
		if err != nil || got.Found != tt.found || got.ID != tt.id || got.Match != tt.fit || (got.Why == "") != (tt.found == "found") {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}
