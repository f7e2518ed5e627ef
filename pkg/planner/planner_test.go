package planner

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	gocmp "github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/match"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/plan"
	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/residual"
	"github.com/lockstep-dr/lockstep/pkg/revision"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

const (
	commitID = "0123456789abcdef0123456789abcdef01234567"
	pointID  = "20260301-040000-aaaaaaaa"
)

var taken = time.Date(2026, 3, 1, 4, 0, 0, 0, time.UTC)

// shop is a repository with one tag and one directory, which deploys one ConfigMap. It notes what it is asked.
type shop struct {
	manifest             string
	resolve, materialise error
	asked                []git.Ref
	// commit and tree are those of every name, if set.
	commit, tree string
	ancestors    []revision.Ancestor
	history      error
	walked       int
}

func (s *shop) URL() string { return "https://git.example.org/shop" }

func (s *shop) Resolve(_ context.Context, ref git.Ref, path string) (v1alpha1.Revision, error) {
	s.asked = append(s.asked, ref)
	return v1alpha1.Revision{
		Repository: s.URL(), Ref: ref.Tag, Commit: cmp.Or(s.commit, commitID), Path: path, Tree: cmp.Or(s.tree, "tree"),
	}, s.resolve
}

func (s *shop) Recall(ctx context.Context, recorded v1alpha1.Revision, path string) (v1alpha1.Revision, error) {
	found, err := s.Resolve(ctx, git.Ref{Commit: recorded.Commit}, path)
	found.Ref = recorded.Ref
	if errors.Is(err, git.ErrRefNotFound) {
		err = &git.GoneError{Recorded: recorded}
	}
	return found, err
}

func (s *shop) Ancestors(context.Context, v1alpha1.Revision, int, ...string) ([]revision.Ancestor, error) {
	s.walked++
	return s.ancestors, s.history
}

func (s *shop) Materialise(_ context.Context, at v1alpha1.Revision, dir string) error {
	if s.materialise != nil {
		return s.materialise
	}
	if err := os.Mkdir(filepath.Join(dir, at.Path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, at.Path, "all.yaml"), []byte(s.manifest), 0o644)
}

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {namespace: shop, name: settings}\n"

// scene is a vault with one point, and a planner that notes what happens in which order.
type scene struct {
	*Planner
	store      *storetest.Memory
	repository *shop
	steps      []string
	remembered Choice
}

func newScene(t *testing.T) *scene {
	t.Helper()
	ctx := t.Context()
	s := &scene{store: storetest.NewMemory(), repository: &shop{manifest: configMap}}
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	vault, err := volume.Create(ctx, s.store, identity.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	set := residual.Set{Version: residual.Version, Secrets: []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "login"}}}}
	data, err := residual.Encode(set)
	if err != nil {
		t.Fatal(err)
	}
	record := point.Record{
		Version: point.Version, ID: pointID, Application: "shop/shop", Trigger: v1alpha1.TriggerManual, Taken: taken, Completed: taken,
		Revision: v1alpha1.Revision{Repository: s.repository.URL(), Ref: "v1.0.0", Commit: commitID, Path: "deploy", Tree: "tree"},
		Residual: &point.Residual{Document: pointID, Secrets: 1},
		Volumes: []point.Volume{{
			Namespace: "shop", Claim: "data", Capacity: 1 << 30, Taken: taken, Snapshot: "5f3c", ContentRoot: "c", MetaRoot: "m",
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
		}},
	}
	if err := errors.Join(catalog.PutResidual(ctx, vault, pointID, data), catalog.Put(ctx, vault, record)); err != nil {
		t.Fatal(err)
	}
	s.Planner = &Planner{
		Vault: vault, Repository: s.repository,
		Remember: func(_ context.Context, c Choice) error {
			s.steps, s.remembered = append(s.steps, "remember"), c
			return nil
		},
		Facts: func(_ context.Context, _ match.Choice, objects []*unstructured.Unstructured) (plan.Facts, error) {
			s.steps = append(s.steps, "facts")
			if len(objects) != 1 || objects[0].GetName() != "settings" {
				t.Errorf("the cluster is asked about %v", objects)
			}
			return plan.Facts{RestoreNamespace: "shop"}, nil
		},
	}
	return s
}

func request(from v1alpha1.RestoreFrom) Request { return Request{From: from, Path: "deploy"} }

func TestPlan(t *testing.T) {
	before := metav1.NewTime(taken.Add(time.Hour))
	tests := []struct {
		name  string
		from  v1alpha1.RestoreFrom
		match string
		asked git.Ref
	}{
		{"tag", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, match.Exact, git.Ref{Tag: "v1.0.0"}},
		{"commit", v1alpha1.RestoreFrom{Commit: commitID}, match.Exact, git.Ref{Commit: commitID}},
		{"branch", v1alpha1.RestoreFrom{Branch: "main"}, match.Exact, git.Ref{Branch: "main"}},
		{"point says which commit", v1alpha1.RestoreFrom{RestorePoint: "20260301"}, match.Named, git.Ref{Commit: commitID}},
		{"moment says which point", v1alpha1.RestoreFrom{Before: &before}, match.Before, git.Ref{Commit: commitID}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			replay, err := s.Plan(t.Context(), request(tt.from))
			if err != nil {
				t.Fatal(err)
			}
			if got := replay.Plan; got.Point.ID != pointID || got.Point.Match != tt.match || got.Revision.Commit != commitID || len(got.Refusals) > 0 {
				t.Errorf("plan of point %+v at %+v, refused for %q", got.Point, got.Revision, got.Refusals)
			}
			if len(replay.Residual.Secrets) != 1 || replay.Residual.Secrets[0].Name != "login" {
				t.Errorf("residual %v", replay.Residual)
			}
			if diff := gocmp.Diff([]git.Ref{tt.asked}, s.repository.asked); diff != "" {
				t.Errorf("asked Git (-want +got):\n%s", diff)
			}
			if s.remembered.Record.ID != pointID || s.remembered.Revision.Commit != commitID || !slices.Equal(s.steps, []string{"remember", "facts"}) {
				t.Errorf("remembered %+v, steps %q", s.remembered, s.steps)
			}
			if s.remembered.Revision.Ref != "v1.0.0" && tt.from.Commit+tt.from.Branch == "" {
				t.Errorf("the revision's ref is %q", s.remembered.Revision.Ref)
			}
		})
	}
}

// TestMapped: the cluster is asked about what is to be made, the vault about what was saved; what the commit brings itself is no
// residual any more.
func TestMapped(t *testing.T) {
	s := newScene(t)
	s.repository.manifest = configMap + `---
{apiVersion: v1, kind: Secret, metadata: {namespace: shop, name: login}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: reader}}
`
	s.Facts = func(_ context.Context, choice match.Choice, objects []*unstructured.Unstructured) (plan.Facts, error) {
		for _, u := range objects {
			if u.GetNamespace() == "shop" {
				t.Errorf("the cluster is asked about %s", object.KeyOf(u))
			}
		}
		if got := choice.Record.Volumes[0].Key(); got != "clone/data" {
			t.Errorf("the cluster is asked about claim %s", got)
		}
		return plan.Facts{RestoreNamespace: v1alpha1.SystemNamespace}, nil
	}
	s.Existing = func(_ context.Context, objects []*unstructured.Unstructured) (map[object.Key]bool, error) {
		if len(objects) != 1 || objects[0].GetName() != "reader" {
			t.Errorf("looked for %v", objects)
		}
		return map[object.Key]bool{object.KeyOf(objects[0]): true}, nil
	}
	q := request(v1alpha1.RestoreFrom{Tag: "v1.0.0"})
	q.Mapping = Mapping(&v1alpha1.RestoreMap{Namespaces: map[string]v1alpha1.NamespaceName{"shop": "clone"}})
	replay, err := s.Plan(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	if p := replay.Plan; len(p.Refusals) > 0 || p.Application != "clone/shop" || p.Claims[0].Name.Namespace != "clone" || len(p.Base) != 2 {
		t.Errorf("plan %+v", p)
	}
	if !replay.Residual.Empty() {
		t.Errorf("residual %v", replay.Residual.Keys())
	}
	if s.remembered.Record.Application != "shop/shop" {
		t.Errorf("remembered %q", s.remembered.Record.Application)
	}
}

// TestEarlierChoice: what was chosen stays chosen, without Git being asked which commit a tag is at now.
func TestEarlierChoice(t *testing.T) {
	s := newScene(t)
	first, err := s.Plan(t.Context(), request(v1alpha1.RestoreFrom{Tag: "v1.0.0"}))
	if err != nil {
		t.Fatal(err)
	}
	again := request(v1alpha1.RestoreFrom{Tag: "moved"})
	again.Point = &v1alpha1.ChosenPoint{ID: pointID, Match: s.remembered.Match, Message: s.remembered.Reason}
	again.Revision = &s.remembered.Revision
	s.steps, s.repository.asked = nil, nil
	second, err := s.Plan(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(first.Plan.Text(), second.Plan.Text()); diff != "" {
		t.Errorf("another plan (-first +second):\n%s", diff)
	}
	if len(s.repository.asked) > 0 || !slices.Equal(s.steps, []string{"facts"}) {
		t.Errorf("asked Git for %v, steps %q", s.repository.asked, s.steps)
	}
}

// TestErrors: each step is told apart, and none of the later ones is taken.
func TestErrors(t *testing.T) {
	lost := errors.New("lost")
	unreadable := func(prefix string) func(*scene) {
		return func(s *scene) {
			s.store.SetFaults(storetest.On(storetest.Get, prefix, storetest.Fault{Err: store.ErrUnavailable}))
		}
	}
	tests := []struct {
		name   string
		from   v1alpha1.RestoreFrom
		break_ func(*scene)
		step   Step // empty for an error that is passed on
		is     error
		steps  []string
	}{
		{"Git does not answer", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(s *scene) { s.repository.resolve = git.ErrUnreachable }, StepGit, git.ErrUnreachable, nil},
		{"Git does not hold the point's commit", v1alpha1.RestoreFrom{RestorePoint: pointID}, func(s *scene) { s.repository.resolve = git.ErrRefNotFound },
			StepGit, git.ErrRefNotFound, nil},
		{"vault does not answer", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, unreadable("documents/"), StepVault, store.ErrUnavailable, nil},
		{"no such point", v1alpha1.RestoreFrom{RestorePoint: "2099"}, func(*scene) {}, StepMatch, nil, nil},
		{"choice is not remembered", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(s *scene) {
			s.Remember = func(context.Context, Choice) error { return lost }
		}, "", lost, nil},
		{"commit cannot be had", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(s *scene) { s.repository.materialise = git.ErrUnreachable },
			StepGit, git.ErrUnreachable, []string{"remember"}},
		{"commit does not render", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(s *scene) { s.repository.manifest = "a: [" }, StepRender, nil, []string{"remember"}},
		{"object of a wrong shape", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(s *scene) {
			s.repository.manifest = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {namespace: shop, name: settings}\nspec: {template: 1}\n"
		}, StepRender, nil, []string{"remember"}},
		{"cluster does not answer", v1alpha1.RestoreFrom{Tag: "v1.0.0"}, func(s *scene) {
			s.Facts = func(context.Context, match.Choice, []*unstructured.Unstructured) (plan.Facts, error) {
				return plan.Facts{}, lost
			}
		}, "", lost, []string{"remember"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			tt.break_(s)
			replay, err := s.Plan(t.Context(), request(tt.from))
			var e *Error
			if err == nil || replay != nil || errors.As(err, &e) != (tt.step != "") || e != nil && e.Step != tt.step {
				t.Fatalf("got %+v and error %#v", replay, err)
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("got %v, want %v", err, tt.is)
			}
			if !slices.Equal(s.steps, tt.steps) {
				t.Errorf("steps %q, want %q", s.steps, tt.steps)
			}
		})
	}
}

// TestResidualReach: a dry run refuses, as the controller does, to bring back what belongs to another namespace.
func TestResidualReach(t *testing.T) {
	s := newScene(t)
	s.Facts = func(context.Context, match.Choice, []*unstructured.Unstructured) (plan.Facts, error) {
		return plan.Facts{RestoreNamespace: "other"}, nil
	}
	replay, err := s.Plan(t.Context(), request(v1alpha1.RestoreFrom{Tag: "v1.0.0"}))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(replay.Plan.Refusals, "\n")
	if !strings.Contains(text, "holds objects of namespace shop that Git does not hold") || strings.Contains(text, "login") {
		t.Errorf("refusals %q", text)
	}
}
