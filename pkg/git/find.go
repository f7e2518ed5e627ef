package git

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
)

// find gives the object that ref means, having fetched it.
func (r *Repository) find(ctx context.Context, ref Ref) (plumbing.Hash, error) {
	if err := ref.validate(); err != nil {
		return plumbing.ZeroHash, err
	}
	switch {
	case ref.Head && r.remote != nil:
		return plumbing.ZeroHash, errors.New("HEAD is what a local repository has checked out: name a tag, branch or commit of a remote one")
	case ref.Head:
		return r.findName(ctx, plumbing.HEAD)
	case ref.Tag != "":
		return r.findName(ctx, plumbing.NewTagReferenceName(ref.Tag))
	case ref.Branch != "":
		return r.findName(ctx, plumbing.NewBranchReferenceName(ref.Branch))
	case len(ref.Commit) == hashLength:
		return plumbing.NewHash(ref.Commit), r.ensure(ctx, plumbing.NewHash(ref.Commit))
	case len(ref.Commit) > hashLength:
		return plumbing.ZeroHash, errSHA256
	}
	return r.findPrefix(ctx, ref.Commit)
}

func (r *Repository) findName(ctx context.Context, name plumbing.ReferenceName) (plumbing.Hash, error) {
	if r.remote != nil {
		err := r.fetch(ctx, 1, config.RefSpec("+"+name+":"+name))
		if errors.Is(err, errNoSuchRef) {
			return plumbing.ZeroHash, r.absent(ctx, name)
		}
		if err != nil {
			return plumbing.ZeroHash, err
		}
	}
	ref, err := storer.ResolveReference(r.store, name)
	if errors.Is(err, plumbing.ErrReferenceNotFound) && name.IsBranch() && r.remote == nil {
		ref, err = storer.ResolveReference(r.store, plumbing.NewRemoteReferenceName("origin", name.Short()))
	}
	if errors.Is(err, plumbing.ErrReferenceNotFound) && r.remote == nil {
		return plumbing.ZeroHash, r.absent(ctx, name)
	}
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return ref.Hash(), nil
}

// ensure makes the object with a full name available.
func (r *Repository) ensure(ctx context.Context, hash plumbing.Hash) error {
	if r.has(hash) {
		return nil
	}
	if r.remote != nil {
		// Many servers give any commit by its name, also one that a force-push has cut off. Whatever they say to that is no
		// proof; only the whole repository is.
		if err := r.fetch(ctx, 1, config.RefSpec(hash.String()+":refs/lockstep/"+hash.String())); err == nil && r.has(hash) {
			return nil
		}
		if err := r.fetchAll(ctx); err != nil {
			return err
		}
	}
	if r.has(hash) {
		return nil
	}
	return r.noCommit()
}

func (r *Repository) findPrefix(ctx context.Context, prefix string) (plumbing.Hash, error) {
	if r.remote != nil {
		if err := r.fetchAll(ctx); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	digits, err := hex.DecodeString(prefix[:len(prefix)/2*2])
	if err != nil {
		return plumbing.ZeroHash, err
	}
	hashes, err := r.store.HashesWithPrefix(digits)
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	var commits []string
	for _, h := range hashes {
		if !strings.HasPrefix(h.String(), prefix) {
			continue
		}
		if _, err := object.GetCommit(r.store, h); err == nil {
			commits = append(commits, h.String())
		}
	}
	slices.Sort(commits)
	switch commits = slices.Compact(commits); len(commits) {
	case 0:
		return plumbing.ZeroHash, r.noCommit()
	case 1:
		return plumbing.NewHash(commits[0]), nil
	}
	return plumbing.ZeroHash, fmt.Errorf("%w: it fits %s", ErrAmbiguous, strings.Join(commits, ", "))
}

// noCommit is the proof that a commit is absent, if what is here is everything.
func (r *Repository) noCommit() error {
	if shallow, err := r.store.Shallow(); err != nil || len(shallow) > 0 {
		return fmt.Errorf("%w: the local clone is shallow and may lack it: run git fetch --unshallow, or give the URL", ErrUnreachable)
	}
	if r.borrows { // where the beginning of a name is not looked for
		return fmt.Errorf("%w: the local clone takes objects from another repository, and not all of those are looked through: give the whole name, or the URL", ErrUnreachable)
	}
	return fmt.Errorf("%w: no branch or tag leads to it", ErrRefNotFound)
}

func (r *Repository) has(hash plumbing.Hash) bool {
	if r.store == nil {
		return false
	}
	err := r.store.HasEncodedObject(hash)
	if err != nil && r.borrows { // which go-git asks only for the object itself
		_, err = r.store.EncodedObject(plumbing.AnyObject, hash)
	}
	return err == nil
}

// peel follows annotated tags to the commit.
func (r *Repository) peel(hash plumbing.Hash) (*object.Commit, error) {
	for range maxTagDepth {
		o, err := object.GetObject(r.store, hash)
		if err != nil {
			return nil, fmt.Errorf("%w: reading object %s: %w", ErrUnreachable, hash, err)
		}
		switch o := o.(type) {
		case *object.Commit:
			return o, nil
		case *object.Tag:
			hash = o.Target
		default:
			return nil, fmt.Errorf("%w: it names a %s, not a commit", ErrRefNotFound, o.Type())
		}
	}
	return nil, fmt.Errorf("%w: tags of tags without end", ErrRefNotFound)
}

// treeAt is the name of the tree at a clean path.
func (r *Repository) treeAt(commit *object.Commit, path string) (plumbing.Hash, error) {
	if path == "." {
		return commit.TreeHash, nil
	}
	tree, err := commit.Tree()
	if err != nil {
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	entry, err := tree.FindEntry(path)
	switch {
	case errors.Is(err, object.ErrEntryNotFound), errors.Is(err, object.ErrDirectoryNotFound):
		return plumbing.ZeroHash, fmt.Errorf("%w%s", ErrPathNotFound, neighbours(tree, path))
	case err != nil:
		return plumbing.ZeroHash, fmt.Errorf("%w: %w", ErrUnreachable, err)
	case entry.Mode != filemode.Dir:
		return plumbing.ZeroHash, fmt.Errorf("%w: it is not a directory", ErrPathNotFound)
	}
	return entry.Hash, nil
}
