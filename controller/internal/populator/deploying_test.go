package populator

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/lockstep-dr/lockstep/controller/internal/trees"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/git"
)

// repository is a Git repository in which every path has one tree, or none that answers.
type repository struct {
	tree  string
	err   error
	asked *int
}

func (r repository) Resolve(_ context.Context, ref git.Ref, path string) (v1alpha1.Revision, error) {
	*r.asked++
	return v1alpha1.Revision{Commit: ref.Commit, Path: path, Tree: r.tree}, r.err
}

func (repository) Close() error { return nil }

// withEngines lets the scene's cluster serve the kinds of Flux and Argo CD.
func (s *scene) withEngines() {
	known := s.Client.Scheme()
	kinds := []schema.GroupVersionKind{
		{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Kind: "Kustomization"}, {Group: "source.toolkit.fluxcd.io", Version: "v1", Kind: "GitRepository"},
		{Group: "helm.toolkit.fluxcd.io", Version: "v2", Kind: "HelmRelease"}, {Group: "argoproj.io", Version: "v1alpha1", Kind: "Application"},
	}
	for _, gvk := range kinds {
		known.AddKnownTypeWithName(gvk, &unstructured.Unstructured{})
		known.AddKnownTypeWithName(gvk.GroupVersion().WithKind(gvk.Kind+"List"), &unstructured.UnstructuredList{})
	}
	mapper := meta.NewDefaultRESTMapper(known.PrioritizedVersionsAllGroups())
	for gvk := range known.AllKnownTypes() {
		mapper.Add(gvk, meta.RESTScopeNamespace)
	}
	c := fake.NewClientBuilder().WithScheme(known).WithRESTMapper(mapper).Build()
	s.Client, s.Reader = c, c
}

func engineObject(apiVersion, kind, name string, labels map[string]string, spec, status map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind, "spec": spec}}
	if status != nil {
		u.Object["status"] = status
	}
	u.SetNamespace("engine")
	u.SetName(name)
	u.SetLabels(labels)
	return u
}

func fluxLabels() map[string]string {
	return map[string]string{"kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "engine"}
}

// fluxOf are the objects of a Flux that deploys what the scene's points are of; an empty commit means that it has not begun.
func fluxOf(commit string) []client.Object {
	var status map[string]any
	if commit != "" {
		status = map[string]any{"lastAttemptedRevision": "main@sha1:" + commit}
	}
	return []client.Object{
		engineObject("source.toolkit.fluxcd.io/v1", "GitRepository", "shop", nil, map[string]any{
			"url": "https://git.example.org/shop.git", "secretRef": map[string]any{"name": "git"},
		}, nil),
		engineObject("kustomize.toolkit.fluxcd.io/v1", "Kustomization", "shop", nil, map[string]any{
			"path": "./deploy", "sourceRef": map[string]any{"kind": "GitRepository", "name": "shop"},
		}, status),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "engine", Name: "git"}, Data: map[string][]byte{"username": []byte("lockstep")}},
	}
}

// argoOf are those of an Argo CD.
func argoOf(commit string) []client.Object {
	return []client.Object{engineObject("argoproj.io/v1alpha1", "Application", "shop", nil, map[string]any{
		"destination": map[string]any{"server": "https://kubernetes.default.svc"},
		"source":      map[string]any{"repoURL": "https://git.example.org/shop", "path": "deploy", "targetRevision": "main"},
	}, map[string]any{"operationState": map[string]any{"phase": "Running", "syncResult": map[string]any{"revision": commit}}})}
}

// TestEngineNamesTheCommit: the policy of a fresh cluster says nothing, and the engine that brought it or the claim does.
func TestEngineNamesTheCommit(t *testing.T) {
	const mine, ofOld = "20260302-030000-aaaaaaaa", "20260302-020000-bbbbbbbb"
	tracked := func(s *scene) {
		s.policy.Annotations = map[string]string{"argocd.argoproj.io/tracking-id": "shop:lockstep.dev/ProtectionPolicy:shop/shop"}
	}
	tests := []struct {
		name   string
		engine []client.Object
		change func(*scene)
		tree   string
		git    error
		says   string
		asks   bool
		made   bool
	}{
		{name: "Flux", engine: fluxOf(commit), says: "Restoring: from point " + mine, made: true},
		{name: "Flux, the claim's label", engine: fluxOf(commit), change: func(s *scene) {
			s.policy.Labels, s.claim.Labels = nil, fluxLabels()
		}, says: "Restoring: from point " + mine, made: true},
		{name: "a HelmRelease of Flux", engine: append(fluxOf(commit),
			engineObject("helm.toolkit.fluxcd.io/v2", "HelmRelease", "chart", fluxLabels(), nil, nil)), change: func(s *scene) {
			s.policy.Labels = map[string]string{"helm.toolkit.fluxcd.io/name": "chart", "helm.toolkit.fluxcd.io/namespace": "engine"}
		}, says: "Restoring: from point " + mine, made: true},
		{name: "Flux, the same tree", engine: fluxOf(strings.Repeat("c", 40)), tree: "tree-" + older, says: "Restoring: from point " + ofOld, asks: true, made: true},
		{name: "Flux, another tree", engine: fluxOf(strings.Repeat("c", 40)), tree: "tree", says: "Undecided: ", asks: true},
		{name: "Flux, Git does not answer", engine: fluxOf(strings.Repeat("c", 40)), git: errors.New("connection refused"), says: "Unknown: vault", asks: true},
		{name: "Flux goes before what ran", engine: fluxOf(strings.Repeat("c", 40)), change: func(s *scene) { s.runs(older) }, tree: "tree", says: "Undecided: ", asks: true},
		{name: "Flux has not begun", engine: fluxOf(""), says: "Unknown: Kustomization engine/shop has not deployed anything yet, and nothing says which commit is running"},
		{name: "Flux has not begun, but the policy says it", engine: fluxOf(""), change: func(s *scene) { s.runs(older) },
			says: "Restoring: from point " + ofOld, made: true},
		{name: "Flux names no commit", engine: fluxOf("abc"), says: "Unknown: Kustomization engine/shop does not name the commit that it deploys: not a revision"},
		{name: "Flux is gone", says: "Unknown: Kustomization engine/shop is gone"},
		{name: "Argo CD", engine: argoOf(commit), change: func(s *scene) { s.policy.Labels = nil; tracked(s) }, says: "Restoring: from point " + mine, made: true},
		{name: "Argo CD has not begun", engine: argoOf(""), change: func(s *scene) { s.policy.Labels = nil; tracked(s) },
			says: "Unknown: Application engine/shop has not synced a commit yet"},
		{name: "a label of Helm", engine: argoOf(commit), change: func(s *scene) {
			s.policy.Labels = map[string]string{"app.kubernetes.io/instance": "other"}
		}, says: "Unknown: nothing says which commit is running"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, pointOf(mine, commit, "data"), pointOf(ofOld, older, "data"))
			s.withEngines()
			s.policy.Annotations, s.policy.Labels = nil, fluxLabels()
			if tt.change != nil {
				tt.change(s)
			}
			asked := 0
			s.Trees.Reader = s.Reader
			s.Trees.Open = func(_ string, o git.Options) (trees.Repository, error) {
				if o.Auth.Username != "lockstep" {
					t.Errorf("Git is asked as %q", o.Auth.Username)
				}
				return repository{tree: tt.tree, err: tt.git, asked: &asked}, nil
			}
			says, made := s.reconcile(tt.engine...)
			if !strings.HasPrefix(says, tt.says) || (made != nil) != tt.made {
				t.Errorf("the claim says %q, want %q; made %v", says, tt.says, made)
			}
			if (asked > 0) != tt.asks || asked > 1 && tt.git == nil {
				t.Errorf("Git was asked %d times", asked)
			}
		})
	}
}

// TestFirstDeployNeedsNoGit: where the vault holds nothing of the application, no tree could change that.
func TestFirstDeployNeedsNoGit(t *testing.T) {
	s := newScene(t)
	s.withEngines()
	s.policy.Annotations, s.policy.Labels = nil, fluxLabels()
	s.Trees.Open = func(string, git.Options) (trees.Repository, error) {
		t.Error("Git was asked")
		return nil, errors.New("asked")
	}
	if says, made := s.reconcile(fluxOf(commit)...); !strings.HasPrefix(says, "StartsEmpty: ") || made == nil {
		t.Errorf("the claim says %q", says)
	}
}

// runs lets the policy say that the commit runs.
func (s *scene) runs(commit string) {
	at := at(commit)
	s.policy.Annotations = map[string]string{
		v1alpha1.AnnotationRepository: at.Repository, v1alpha1.AnnotationPath: at.Path,
		v1alpha1.AnnotationRevision: "main@sha1:" + at.Commit, v1alpha1.AnnotationTree: at.Tree,
	}
}
