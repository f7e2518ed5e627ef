package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// Commit is one commit of a history, for people.
type Commit struct {
	Hash string
	Time time.Time // of the committer
	// Subject is the first line of the message.
	Subject string
	// Tags lead to the commit, sorted.
	Tags []string
}

// Log gives the newest commits that lead to ref, itself first and at most as many as limit says, and whether there are more. An empty ref
// is HEAD: what a local repository has checked out, or the default branch of a remote one.
func (r *Repository) Log(ctx context.Context, ref Ref, limit int) (commits []Commit, more bool, err error) {
	if ref == (Ref{}) {
		if ref, err = r.head(ctx); err != nil {
			return nil, false, fmt.Errorf("finding HEAD of %q: %w", r.url, err)
		}
	}
	tags, err := r.Tags(ctx)
	if err != nil {
		return nil, false, err
	}
	if commits, more, err = r.log(ctx, ref, limit); err != nil {
		return nil, false, fmt.Errorf("reading the commits of %s of %q: %w", ref, r.url, err)
	}
	for i := range commits {
		commits[i].Tags = tags[commits[i].Hash]
	}
	return commits, more, nil
}

func (r *Repository) log(ctx context.Context, ref Ref, limit int) (commits []Commit, more bool, err error) {
	hash, err := r.find(ctx, ref)
	if err != nil {
		return nil, false, err
	}
	tip, err := r.peel(hash)
	if err != nil {
		return nil, false, err
	}
	if err := r.fetchHistory(ctx, tip.Hash); err != nil {
		return nil, false, err
	}
	if tip, err = object.GetCommit(r.store, tip.Hash); err != nil { // with all before it
		return nil, false, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	history := object.NewCommitIterCTime(tip, nil, nil)
	defer history.Close()
	for {
		if err := ctx.Err(); err != nil {
			return nil, false, err
		}
		c, err := history.Next()
		switch {
		case errors.Is(err, io.EOF):
			return commits, false, nil
		case err != nil:
			return nil, false, fmt.Errorf("%w: %w", ErrUnreachable, err)
		case len(commits) == limit:
			return commits, true, nil
		}
		subject, _, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
		commits = append(commits, Commit{Hash: c.Hash.String(), Time: c.Committer.When, Subject: subject})
	}
}

// head is what HEAD of the repository leads to.
func (r *Repository) head(ctx context.Context) (Ref, error) {
	if r.remote == nil {
		return Ref{Head: true}, nil
	}
	if r.store == nil {
		r.store = r.newStore("shallow")
	}
	refs, err := r.list(ctx)
	if err != nil {
		return Ref{}, err
	}
	i := slices.IndexFunc(refs, func(ref *plumbing.Reference) bool {
		return ref.Name() == plumbing.HEAD && ref.Type() == plumbing.SymbolicReference && ref.Target().IsBranch()
	})
	if i < 0 {
		return Ref{}, fmt.Errorf("%w: the server names no default branch", ErrRefNotFound)
	}
	return Ref{Branch: refs[i].Target().Short()}, nil
}
