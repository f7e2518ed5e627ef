package git

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// maxHistory bounds the commits that are looked at.
const maxHistory = 10_000

// GoneError says that a commit which ran once is proven not to be in the repository any more, as after a force-push. It matches
// ErrRefNotFound.
type GoneError struct {
	// Recorded is what was known of the commit when it ran.
	Recorded v1alpha1.Revision
	// Tip is the commit that the branch or tag of Recorded leads to now, empty if there is none of that name.
	Tip string
	// Same is the newest commit from Tip on that has the recorded tree at the recorded path and so deploys the same thing; empty if
	// none was found.
	Same string
}

// Error says what became of the commit, and what can be restored instead.
func (e *GoneError) Error() string {
	s := fmt.Sprintf("commit %s is gone: no branch or tag leads to it, as after a force-push", revision.Short(e.Recorded.Commit))
	switch {
	case e.Recorded.Ref == "":
	case e.Tip == "":
		s += fmt.Sprintf("; %q, by which it was found, is gone, too", e.Recorded.Ref)
	default:
		s += fmt.Sprintf("; %q, by which it was found, is now at commit %s", e.Recorded.Ref, revision.Short(e.Tip))
	}
	if e.Same != "" {
		s += fmt.Sprintf("; commit %s has the same tree at path %q and so deploys the same thing", e.Same, e.Recorded.Path)
	}
	return s
}

// Unwrap returns ErrRefNotFound.
func (e *GoneError) Unwrap() error { return ErrRefNotFound }

// Recall finds the commit of a recorded revision again, and the tree that path has in it. If the commit is proven to be gone,
// it returns a GoneError.
func (r *Repository) Recall(ctx context.Context, recorded v1alpha1.Revision, path string) (v1alpha1.Revision, error) {
	found, err := r.Resolve(ctx, Ref{Commit: recorded.Commit}, path)
	found.Ref = recorded.Ref
	if !errors.Is(err, ErrRefNotFound) {
		return found, err
	}
	gone := &GoneError{Recorded: recorded}
	if err := r.findSame(ctx, gone); err != nil {
		return v1alpha1.Revision{}, fmt.Errorf("finding out about commit %s of %q: %w", revision.Short(recorded.Commit), r.url, err)
	}
	return v1alpha1.Revision{}, fmt.Errorf("finding commit %q in %q: %w", recorded.Commit, r.url, gone)
}

// findSame looks where the branch or tag of a lost commit is now.
func (r *Repository) findSame(ctx context.Context, gone *GoneError) error {
	if gone.Recorded.Ref == "" {
		return nil
	}
	tip, err := r.tip(ctx, gone.Recorded.Ref)
	if err != nil || tip == nil {
		return err
	}
	gone.Tip = tip.Hash.String()
	want := plumbing.NewHash(gone.Recorded.Tree)
	return r.walk(ctx, tip.Hash, func(c *object.Commit) (bool, error) {
		have, err := r.deployedIfThere(ctx, c, gone.Recorded.Path)
		if err == nil && have == want {
			gone.Same = c.Hash.String()
		}
		return gone.Same == "", err
	})
}

// tip is the commit of a branch or tag, with its history, or nil if there is none of that name.
func (r *Repository) tip(ctx context.Context, name string) (*object.Commit, error) {
	for _, full := range []plumbing.ReferenceName{plumbing.NewBranchReferenceName(name), plumbing.NewTagReferenceName(name)} {
		hash, err := r.findName(ctx, full)
		if errors.Is(err, ErrRefNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		commit, err := r.peel(hash)
		if err != nil {
			return nil, err
		}
		return commit, r.fetchHistory(ctx, commit.Hash)
	}
	return nil, nil
}

// Ancestors returns commits before that of rev, the nearest first and at most as many as limit says (0: 1,000). Nearness counts
// steps from child to parent; among equals the first parent goes first. Schema names files and directories that tell
// whether one commit understands the data of the other: an ancestor differs if one of them is not the same; by
// default it is all that the path of rev deploys. That one of them is not in rev is ErrPathNotFound.
func (r *Repository) Ancestors(ctx context.Context, rev v1alpha1.Revision, limit int, schema ...string) ([]revision.Ancestor, error) {
	found, err := r.ancestors(ctx, rev, limit, schema)
	if err != nil {
		return nil, fmt.Errorf("finding the commits before %s of %q: %w", revision.Short(rev.Commit), r.url, err)
	}
	return found, nil
}

func (r *Repository) ancestors(ctx context.Context, rev v1alpha1.Revision, limit int, schema []string) ([]revision.Ancestor, error) {
	if limit <= 0 {
		limit = 1000
	}
	names := func(c *object.Commit) ([]plumbing.Hash, error) { return r.entriesAt(c, schema) }
	if len(schema) == 0 {
		schema = []string{rev.Path}
		names = func(c *object.Commit) ([]plumbing.Hash, error) {
			name, err := r.deployedIfThere(ctx, c, rev.Path)
			return []plumbing.Hash{name}, err
		}
	}
	hash, err := r.find(ctx, Ref{Commit: rev.Commit})
	if err != nil {
		return nil, err
	}
	if err := r.fetchHistory(ctx, hash); err != nil {
		return nil, err
	}
	var want []plumbing.Hash
	var found []revision.Ancestor
	err = r.walk(ctx, hash, func(c *object.Commit) (bool, error) {
		have, err := names(c)
		if err != nil {
			return false, err
		}
		if want == nil { // the commit itself
			want = have
			if i := slices.Index(have, plumbing.ZeroHash); i >= 0 {
				return false, fmt.Errorf("%w: %q", ErrPathNotFound, schema[i])
			}
			return true, nil
		}
		a := revision.Ancestor{Commit: c.Hash.String()}
		for i := range want {
			a.Differs = a.Differs || have[i] != want[i]
		}
		found = append(found, a)
		return len(found) < limit, nil
	})
	return found, err
}

// fetchHistory makes sure that all commits before one are here.
func (r *Repository) fetchHistory(ctx context.Context, hash plumbing.Hash) error {
	if r.remote == nil {
		if shallow, err := r.store.Shallow(); err != nil || len(shallow) > 0 {
			return fmt.Errorf("%w: the local clone is shallow: run git fetch --unshallow, or give the URL", ErrUnreachable)
		}
		return nil
	}
	if err := r.fetchAll(ctx); err != nil || r.has(hash) {
		return err
	}
	return r.fetch(ctx, 0, config.RefSpec(hash.String()+":refs/lockstep/"+hash.String()))
}

// walk shows a commit and those before it to visit, the nearest first, until it returns false.
func (r *Repository) walk(ctx context.Context, from plumbing.Hash, visit func(*object.Commit) (bool, error)) error {
	seen := map[plumbing.Hash]bool{from: true}
	for queue := []plumbing.Hash{from}; len(queue) > 0 && len(seen) < maxHistory; queue = queue[1:] {
		if err := ctx.Err(); err != nil {
			return err
		}
		c, err := object.GetCommit(r.store, queue[0])
		if err != nil {
			return fmt.Errorf("%w: reading commit %s: %w", ErrUnreachable, queue[0], err)
		}
		if more, err := visit(c); err != nil || !more {
			return err
		}
		for _, p := range c.ParentHashes {
			if !seen[p] {
				seen[p] = true
				queue = append(queue, p)
			}
		}
	}
	return nil
}

// entriesAt is entryAt for several paths, which it cleans.
func (r *Repository) entriesAt(c *object.Commit, paths []string) ([]plumbing.Hash, error) {
	hashes := make([]plumbing.Hash, 0, len(paths))
	for _, p := range paths {
		inside, err := cleanPath(p)
		if err != nil {
			return nil, err
		}
		hash, err := r.entryAt(c, inside)
		if err != nil {
			return nil, err
		}
		hashes = append(hashes, hash)
	}
	return hashes, nil
}

// entryAt is the name of the file or directory at a clean path, or zero if there is none.
func (r *Repository) entryAt(c *object.Commit, path string) (plumbing.Hash, error) {
	if path == "." {
		return c.TreeHash, nil
	}
	tree, err := c.Tree()
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	entry, err := tree.FindEntry(path)
	switch {
	case errors.Is(err, object.ErrEntryNotFound), errors.Is(err, object.ErrDirectoryNotFound):
		return plumbing.ZeroHash, nil
	case err != nil:
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return entry.Hash, nil
}
