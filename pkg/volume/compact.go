package volume

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// smallIndexes is from how many small index objects on they are merged.
const smallIndexes = 8

// tidyIndex merges small index objects, and rewrites those that describe packs that are gone. What replaces objects is durable
// before these are deleted.
func (p *pruning) tidyIndex(ctx context.Context) error {
	superfluous, rewrite := p.x.untidy()
	p.report.Index = Amount{Objects: len(superfluous) + len(rewrite)}
	if p.options.DryRun {
		return nil
	}
	if err := p.rewriteIndex(ctx, rewrite); err != nil {
		return err
	}
	for _, o := range append(superfluous, rewrite...) {
		if _, err := p.delete(ctx, o.name, 0); err != nil {
			return err
		}
	}
	return nil
}

// untidy returns the index objects that may go because others, which stay, describe their packs, and those to be rewritten. Of two
// that describe the same packs every prune finds the same one superfluous, so that no two delete both.
func (x *index) untidy() (superfluous, rewrite []indexObject) {
	unlisted := func(number uint32) bool { return x.packs[number].gone() }
	var whole, gone []indexObject
	for _, o := range x.objects {
		switch {
		case slices.Contains(x.damaged, o.name):
		case slices.ContainsFunc(o.packs, unlisted):
			gone = append(gone, o)
		default:
			whole = append(whole, o)
		}
	}
	described := newBitmap(len(x.packs))
	// fresh tells whether the object describes a pack that none before it does.
	fresh := func(o indexObject) (any bool) {
		for _, number := range o.packs {
			any = !unlisted(number) && described.set(int(number)) || any
		}
		return any
	}
	slices.SortFunc(whole, largestFirst)
	var small []indexObject
	for _, o := range whole {
		if !fresh(o) {
			superfluous = append(superfluous, o)
		} else if len(o.packs) < indexPacks/2 && o.chunks < indexChunks/2 {
			small = append(small, o)
		}
	}
	for _, o := range gone {
		if fresh(o) {
			rewrite = append(rewrite, o)
		} else {
			superfluous = append(superfluous, o)
		}
	}
	if len(small) >= smallIndexes || len(small) > 0 && len(rewrite) > 0 {
		rewrite = append(rewrite, small...)
	}
	return superfluous, rewrite
}

func largestFirst(a, b indexObject) int {
	return cmp.Or(cmp.Compare(len(b.packs), len(a.packs)), strings.Compare(a.name, b.name))
}

// bySize returns the index objects, the largest first.
func (x *index) bySize() []indexObject {
	return slices.SortedFunc(slices.Values(x.objects), largestFirst)
}

// rewriteIndex writes what index objects say of packs that exist. They are read one by one.
func (p *pruning) rewriteIndex(ctx context.Context, objects []indexObject) (err error) {
	up, upCtx := newUploader(ctx, p.Vault, &progress{}, nil)
	defer func() { err = up.finish(ctx, err) }()
	done := map[packID]bool{}
	for _, o := range objects {
		packs, err := p.readIndexObject(upCtx, store.Info{Name: o.name, Size: -1})
		if errors.Is(err, store.ErrNotFound) {
			continue // another prune replaced it
		}
		if err != nil {
			return err
		}
		for _, d := range packs {
			if p.x.packs[p.numbers[d.id]].gone() || done[d.id] {
				continue
			}
			done[d.id] = true
			if err := up.describe(upCtx, d); err != nil {
				return err
			}
		}
	}
	return nil
}
