package catalog

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/lockstep-dr/lockstep/pkg/point"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// ReindexOptions of Reindex.
type ReindexOptions struct {
	// DryRun has nothing written.
	DryRun bool
	// Progress is told how many names of how many were looked at; nil if nobody asks. It is called from several goroutines.
	Progress func(done, of int)
}

// ReindexReport says what Reindex did, or would do.
type ReindexReport struct {
	DryRun bool `json:"dryRun"`
	// Records is the number of restore points of the vault, Names that of the names which lead to them.
	Records int `json:"records"`
	Names   int `json:"names"`
	// Written is how many of the names there were not.
	Written int `json:"written"`
}

// Reindex writes what the index lacks of the vault's records. It reads every record. Records that Put wrote are in the index
// already; this is for those that something else wrote, and for names that got lost.
func Reindex(ctx context.Context, v *volume.Vault, o ReindexOptions) (ReindexReport, error) {
	r := ReindexReport{DryRun: o.DryRun}
	if err := reindex(ctx, v, o, &r); err != nil {
		return r, fmt.Errorf("indexing restore points: %w", err)
	}
	return r, nil
}

func reindex(ctx context.Context, v *volume.Vault, o ReindexOptions, r *ReindexReport) error {
	secret, err := indexSecret(ctx, v, o.DryRun)
	if err != nil {
		return err
	}
	x, err := newIndex(v, secret)
	if err != nil {
		return err
	}
	records, err := List(ctx, v)
	if err != nil {
		return err
	}
	names := x.names(records)
	r.Records, r.Names = len(records), len(names)
	put := x.put
	if o.DryRun {
		put = x.lacks
	}
	if r.Written, err = count(ctx, names, put, o.Progress); err != nil || o.DryRun {
		return err
	}
	_, err = putOnce(ctx, v, indexKind, startedName, secret)
	return err
}

// indexSecret is the secret of the vault's index, which it makes where there is none. In a dry run it then is one that no name was
// written under.
func indexSecret(ctx context.Context, v *volume.Vault, dryRun bool) ([]byte, error) {
	fresh := make([]byte, secretLength)
	rand.Read(fresh)
	if !dryRun {
		if err := v.PutDocument(ctx, indexKind, secretName, fresh); err != nil && !errors.Is(err, volume.ErrDocumentExists) {
			return nil, err
		}
	}
	d, err := v.Document(ctx, indexKind, secretName) // whoever came first
	if dryRun && errors.Is(err, volume.ErrDocumentNotFound) {
		return fresh, nil
	}
	return d.Data, err
}

// names returns every name by which the records are found.
func (x *index) names(records []point.Record) []name {
	set := map[name]bool{}
	for _, r := range records {
		for _, way := range ways(r) {
			for i := 1; i < len(way); i++ {
				set[name{x.kind(way[:i]...), way[i]}] = true
			}
		}
	}
	all := make([]name, 0, len(set))
	for n := range set {
		all = append(all, n)
	}
	return all
}

// put writes a name, and says whether there was none.
func (x *index) put(ctx context.Context, n name) (bool, error) {
	return putOnce(ctx, x.vault, n.kind, n.name, nil)
}

// lacks says whether there is no such name.
func (x *index) lacks(ctx context.Context, n name) (bool, error) {
	_, err := x.vault.Document(ctx, n.kind, n.name)
	if errors.Is(err, volume.ErrDocumentNotFound) {
		return true, nil
	}
	return false, err
}

// count says of how many names do is true.
func count(ctx context.Context, names []name, do func(context.Context, name) (bool, error), progress func(done, of int)) (int, error) {
	var counted, done atomic.Int64
	err := each(ctx, len(names), func(ctx context.Context, i int) error {
		yes, err := do(ctx, names[i])
		if yes {
			counted.Add(1)
		}
		if progress != nil {
			progress(int(done.Add(1)), len(names))
		}
		return err
	})
	return int(counted.Load()), err
}
