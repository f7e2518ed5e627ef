package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/lockstep-dr/lockstep/pkg/revision"
)

var errRemote = errors.New("the repository is not on this machine")

// WorkTree is the directory with the checked-out files of a local repository; empty for a bare one, and for a remote one.
func (r *Repository) WorkTree() string { return r.workTree }

// Parse finds the commit that a name means in a local repository, as git rev-parse does: HEAD, HEAD^1, main, origin/main, v1.2.0, 1a2b3c4.
func (r *Repository) Parse(ctx context.Context, name string) (string, error) {
	commit, err := r.parse(ctx, name)
	if err != nil {
		return "", fmt.Errorf("finding %q in %q: %w", name, r.url, err)
	}
	return commit.Hash.String(), nil
}

// Branch is the branch that a name means in a local repository, as its remote calls it: of main, origin/main and refs/heads/main it is
// main, of HEAD the one that is checked out, of origin the default one of that remote. It is empty if the name means none.
func (r *Repository) Branch(name string) string {
	if r.remote != nil || name == "" {
		return ""
	}
	for _, rule := range plumbing.RefRevParseRules {
		ref, err := r.store.Reference(plumbing.ReferenceName(fmt.Sprintf(rule, name)))
		if err != nil {
			continue
		}
		branch := ref.Name()
		if ref.Type() == plumbing.SymbolicReference {
			branch = ref.Target()
		}
		if short, ok := strings.CutPrefix(branch.String(), "refs/remotes/"); ok {
			_, short, _ = strings.Cut(short, "/")
			return short
		}
		if branch.IsBranch() {
			return branch.Short()
		}
		return ""
	}
	return ""
}

func (r *Repository) parse(ctx context.Context, name string) (*object.Commit, error) {
	if r.remote != nil {
		return nil, errRemote
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if strings.Contains(name, ":") {
		return nil, fmt.Errorf("%w: it names no commit", ErrRefNotFound)
	}
	local, err := git.Open(r.store, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	hash, err := local.ResolveRevision(plumbing.Revision(name))
	if errors.Is(err, plumbing.ErrReferenceNotFound) || errors.Is(err, plumbing.ErrObjectNotFound) || errors.Is(err, io.EOF) { // of HEAD~9 with fewer before it
		return nil, fmt.Errorf("%w%s", ErrRefNotFound, r.perhapsElsewhere())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefNotFound, err)
	}
	return r.peel(*hash)
}

// perhapsElsewhere explains why something may be missing from a local clone.
func (r *Repository) perhapsElsewhere() string {
	if shallow, err := r.store.Shallow(); err != nil || len(shallow) > 0 {
		return ": the local clone is shallow: fetch more of the history"
	}
	if r.borrows {
		return ": the local clone takes objects from another repository: give the whole name"
	}
	return ""
}

// MergeBase is the commit of a local repository from which head has left base: head's changes are those since then. Of several it is
// the first by name.
func (r *Repository) MergeBase(ctx context.Context, base, head string) (string, error) {
	found, err := r.mergeBase(ctx, base, head)
	if err != nil {
		return "", fmt.Errorf("finding where %s has left %s in %q: %w", called(head), called(base), r.url, err)
	}
	return found, nil
}

// called is a name as a person gave it, or what is enough of a commit.
func called(name string) string {
	if plumbing.IsHash(name) {
		return revision.Short(name)
	}
	return name
}

func (r *Repository) mergeBase(ctx context.Context, base, head string) (string, error) {
	from, err := r.parse(ctx, base)
	if errors.Is(err, ErrRefNotFound) {
		err = fmt.Errorf("%s is %w", called(base), err)
	}
	if err != nil {
		return "", err
	}
	to, err := r.parse(ctx, head)
	if err != nil {
		return "", err
	}
	// A shallow clone knows this much.
	if from.Hash == to.Hash || slices.Contains(to.ParentHashes, from.Hash) {
		return from.Hash.String(), nil
	}
	if err := r.fetchHistory(ctx, to.Hash); err != nil {
		return "", err
	}
	common, err := to.MergeBase(from)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if len(common) == 0 {
		return "", fmt.Errorf("%w: they have no commit in common", ErrRefNotFound)
	}
	hashes := make([]string, len(common))
	for i, c := range common {
		hashes[i] = c.Hash.String()
	}
	return slices.Min(hashes), nil
}
