// Package trees asks Git which tree a path has at a commit that an engine names: engines do not say it, and by it commits are known
// that deploy the same thing.
package trees

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/git"
	"github.com/lockstep-dr/lockstep/pkg/object"
	"github.com/lockstep-dr/lockstep/pkg/planner"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// +kubebuilder:rbac:groups="",resources=secrets,verbs=get

// Repository answers questions about a Git repository; *git.Repository does.
type Repository interface {
	Resolve(ctx context.Context, ref git.Ref, path string) (v1alpha1.Revision, error)
	Close() error
}

// timeout bounds one question to Git.
const timeout = time.Minute

// maxKnown bounds what is remembered.
const maxKnown = 1000

// Trees remembers the trees of the last commits that Git was asked for: they never change, and the same ones are asked for again and
// again. It may be used by several goroutines.
type Trees struct {
	// Reader reads Secrets from the API server itself.
	Reader client.Reader
	// Open is git.Open if nil.
	Open func(url string, o git.Options) (Repository, error)

	mu    sync.Mutex
	known map[string]string
}

// Of is the tree of the path of a revision at its commit. The Secret holds the credentials of the repository, under the keys of Flux;
// none is used if its name is empty.
func (t *Trees) Of(ctx context.Context, at v1alpha1.Revision, secret object.Name) (string, error) {
	if tree, ok := t.get(at); ok {
		return tree, nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var options git.Options
	if secret.Name != "" {
		s := &corev1.Secret{}
		if err := t.Reader.Get(ctx, client.ObjectKey(secret), s); err != nil {
			return "", fmt.Errorf("reading the secret of repository %s: %w", at.Repository, err)
		}
		options.Auth = planner.Auth(s.Data)
	}
	repository, err := t.open(at.Repository, options)
	if err != nil {
		return "", err
	}
	found, err := repository.Resolve(ctx, git.Ref{Commit: at.Commit}, at.Path)
	if closed := repository.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return "", err
	}
	t.put(at, found.Tree)
	return found.Tree, nil
}

func (t *Trees) open(url string, o git.Options) (Repository, error) {
	if t.Open != nil {
		return t.Open(url, o)
	}
	return git.Open(url, o)
}

func key(at v1alpha1.Revision) string {
	return revision.NormalizeURL(at.Repository) + "\x00" + at.Commit + "\x00" + at.Path
}

func (t *Trees) get(at v1alpha1.Revision) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	tree, ok := t.known[key(at)]
	return tree, ok
}

func (t *Trees) put(at v1alpha1.Revision, tree string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known == nil || len(t.known) >= maxKnown {
		t.known = map[string]string{}
	}
	t.known[key(at)] = tree
}
