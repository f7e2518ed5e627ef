package planner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/store"
)

func TestAnswerOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Answer
	}{
		{errors.New("anything"), Unknown},
		{context.DeadlineExceeded, Unknown},
		{store.ErrUnavailable, Unknown},
		{git.ErrUnreachable, Unknown},
		{fmt.Errorf("%w, %w", git.ErrUnreachable, git.ErrRefNotFound), Unknown},
		{git.ErrRefNotFound, Absent},
		{&git.GoneError{}, Absent},
		{git.ErrPathNotFound, Absent},
		{&match.AbsentError{}, Absent},
		{git.ErrAmbiguous, Ambiguous},
		{&match.AmbiguousError{}, Ambiguous},
		{&match.MismatchError{}, Mismatch},
		{git.ErrUnsupported, Unusable},
		{git.ErrUnsafe, Unusable},
		{match.ErrInvalid, Unusable},
		{&Error{StepRender, errors.New("no kustomization")}, Unusable},
		{&Error{StepVault, errors.New("no route")}, Unknown},
	} {
		if got := AnswerOf(fmt.Errorf("restoring: %w", tt.err)); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
	}
}

// TestMatch has commits and paths that are not those of the point.
func TestMatch(t *testing.T) {
	const other = "ffffffffffffffffffffffffffffffffffffffff"
	after := metav1.NewTime(taken.Add(time.Hour))
	history := func(differs bool) func(*shop) {
		return func(s *shop) {
			s.commit, s.tree = other, "other"
			s.ancestors = []revision.Ancestor{{Commit: strings.Repeat("e", 40)}, {Commit: commitID, Differs: differs}}
		}
	}
	elsewhere := func(s *shop) { s.tree, s.commit = "other", other }
	for _, tt := range []struct {
		name   string
		from   v1alpha1.RestoreFrom
		path   string
		git    func(*shop)
		match  string // empty for an error
		answer Answer
		says   string // in the reason or the error
		walked int
	}{
		{name: "ancestor, not allowed", from: v1alpha1.RestoreFrom{Tag: "v2"}, git: history(false), answer: Absent, says: "nearest: " + pointID},
		{name: "ancestor", from: v1alpha1.RestoreFrom{Tag: "v2", AllowAncestor: true}, git: history(false),
			match: match.Ancestor, says: "nearest before it that has one", walked: 1},
		{name: "ancestor allowed, not needed", from: v1alpha1.RestoreFrom{Tag: "v1", AllowAncestor: true}, git: func(*shop) {}, match: match.Exact},
		{name: "ancestor of another schema", from: v1alpha1.RestoreFrom{Branch: "main", AllowAncestor: true}, git: history(true),
			answer: Mismatch, says: "may expect another schema", walked: 1},
		{name: "ancestor of another schema, allowed", from: v1alpha1.RestoreFrom{Commit: other, AllowAncestor: true, AllowMismatch: true}, git: history(true),
			match: match.Ancestor, says: "was allowed", walked: 1},
		{name: "mismatch allowed, no ancestor", from: v1alpha1.RestoreFrom{Commit: other, AllowMismatch: true}, git: history(true), answer: Absent},
		{name: "history not known", from: v1alpha1.RestoreFrom{Tag: "v2", AllowAncestor: true}, walked: 1, answer: Unknown,
			git: func(s *shop) { s.commit, s.tree, s.history = other, "other", git.ErrUnreachable }},
		{name: "point at another path", from: v1alpha1.RestoreFrom{RestorePoint: pointID}, path: "staging", git: func(*shop) {}, answer: Mismatch,
			says: `deployed from path "deploy"`},
		{name: "point at another path, allowed", from: v1alpha1.RestoreFrom{RestorePoint: pointID, AllowMismatch: true}, path: "staging",
			git: func(*shop) {}, match: match.Named, says: "was allowed"},
		{name: "point whose commit has another tree", from: v1alpha1.RestoreFrom{RestorePoint: pointID}, git: elsewhere, answer: Mismatch, says: "--allow-mismatch"},
		{name: "moment before another tree", from: v1alpha1.RestoreFrom{Before: &after}, git: elsewhere, answer: Mismatch, says: "--allow-mismatch"},
		{name: "commit is gone", from: v1alpha1.RestoreFrom{RestorePoint: pointID}, git: func(s *shop) { s.resolve = git.ErrRefNotFound }, answer: Absent,
			says: `commit 0123456 is gone: no branch or tag leads to it, as after a force-push; "v1.0.0", by which it was found, is gone, too`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			tt.git(s.repository)
			q := request(tt.from)
			if tt.path != "" {
				q.Path = tt.path
			}
			replay, err := s.Plan(t.Context(), q)
			if s.repository.walked != tt.walked {
				t.Errorf("history was asked for %d times, want %d", s.repository.walked, tt.walked)
			}
			if tt.match == "" {
				if err == nil || AnswerOf(err) != tt.answer || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("got %v, which is %s; want %s with %q", err, AnswerOf(err), tt.answer, tt.says)
				}
				if len(s.steps) > 0 {
					t.Errorf("went on to %q", s.steps)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p := replay.Plan.Point; p.Match != tt.match || !strings.Contains(p.Reason, tt.says) || !strings.Contains(replay.Plan.Text(), p.Reason) {
				t.Errorf("chosen by %s: %s", p.Match, p.Reason)
			}
			// A controller that starts anew comes to the same.
			q.Point = &v1alpha1.ChosenPoint{ID: s.remembered.Record.ID, Match: s.remembered.Match, Message: s.remembered.Reason}
			q.Revision = &s.remembered.Revision
			again, err := s.Plan(t.Context(), q)
			if err != nil || again.Plan.Text() != replay.Plan.Text() {
				t.Errorf("planned again: %v, %v", again, err)
			}
		})
	}
}

// TestEarlierMismatch: what was chosen earlier is held to the same rule.
func TestEarlierMismatch(t *testing.T) {
	s := newScene(t)
	q := request(v1alpha1.RestoreFrom{RestorePoint: pointID})
	q.Point = &v1alpha1.ChosenPoint{ID: pointID, Match: match.Named}
	q.Revision = &v1alpha1.Revision{Repository: s.repository.URL(), Commit: strings.Repeat("f", 40), Path: "deploy", Tree: "other"}
	if _, err := s.Plan(t.Context(), q); AnswerOf(err) != Mismatch {
		t.Errorf("got %v, want a mismatch", err)
	}
}
