package git

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing/transport"
)

// peeled is how a server marks the commit that an annotated tag leads to.
const peeled = "^{}"

// Tags gives the tags of each commit that has any, sorted. It is complete, or an error that matches ErrUnreachable. A server is asked
// for names alone, and nothing is fetched.
func (r *Repository) Tags(ctx context.Context) (map[string][]string, error) {
	commits, err := r.tagged(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the tags of %s: %w", r.url, err)
	}
	tags := map[string][]string{}
	for tag, commit := range commits {
		tags[commit] = append(tags[commit], tag)
	}
	for _, names := range tags {
		slices.Sort(names)
	}
	return tags, nil
}

// tagged gives the commit of each tag that leads to one.
func (r *Repository) tagged(ctx context.Context) (map[string]string, error) {
	commits := map[string]string{}
	if r.remote == nil {
		refs, err := r.list(ctx)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			if !ref.Name().IsTag() {
				continue
			}
			commit, err := r.peel(ref.Hash())
			if errors.Is(err, ErrRefNotFound) {
				continue // it leads to something else
			}
			if err != nil {
				return nil, err
			}
			commits[ref.Name().Short()] = commit.Hash.String()
		}
		return commits, nil
	}
	err := r.ask(ctx, func(ctx context.Context, via transport.ProxyOptions) error {
		refs, err := r.connection().ListContext(ctx, &git.ListOptions{
			Auth: r.remote.auth, CABundle: r.remote.ca, ProxyOptions: via, PeelingOption: git.AppendPeeled,
		})
		if err != nil {
			return err
		}
		clear(commits)
		for _, ref := range refs {
			name, isPeeled := strings.CutSuffix(ref.Name().Short(), peeled)
			if _, known := commits[name]; ref.Name().IsTag() && (isPeeled || !known) {
				commits[name] = ref.Hash().String()
			}
		}
		return nil
	})
	if errors.Is(err, errNoSuchRef) {
		return nil, nil
	}
	return commits, err
}
