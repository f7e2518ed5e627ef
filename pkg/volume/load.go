package volume

import (
	"context"
	"errors"
	"fmt"
)

// Verify says how a load makes sure of what it wrote.
type Verify int

const (
	// VerifyWrite trusts the digests taken while writing.
	VerifyWrite Verify = iota
	// VerifyReadback reads the whole tree back and compares its roots with the snapshot's.
	VerifyReadback
)

func (v Verify) String() string {
	if v == VerifyReadback {
		return "Readback"
	}
	return "Write"
}

// LoadOptions adjust a load. The zero value is fine.
type LoadOptions struct {
	Verify Verify
	// Progress is called from time to time, and once at the end, never from two goroutines at once.
	Progress func(Progress)
}

// LoadResult tells what was loaded.
type LoadResult struct {
	Snapshot Snapshot
	Stats    Stats
	Roots    Roots // of the loaded tree; equal to the snapshot's
	// Damaged names objects of the Vault that were found damaged and could be done without.
	Damaged []string
}

// Load writes a snapshot into dir, which must be empty but for lost+found, or not exist. On return all is on disk and
// verified as asked for.
//
// A directory that holds anything is refused with ErrNotEmpty, unless it is an earlier load that was never finished, which
// is removed first. When parts of the snapshot are damaged, the error is a *FileErrors that names every file they hurt;
// everything else was loaded, and the directory stays marked as unfinished.
func (v *Vault) Load(ctx context.Context, id, dir string, o LoadOptions) (*LoadResult, error) {
	p := &progress{}
	defer p.report(o.Progress)()
	result, err := v.load(ctx, id, dir, o.Verify, p)
	if err != nil {
		return nil, fmt.Errorf("loading snapshot %q into %q: %w", id, dir, err)
	}
	return result, nil
}

func (v *Vault) load(ctx context.Context, id, dir string, verify Verify, p *progress) (*LoadResult, error) {
	r, err := v.record(ctx, id)
	if err != nil {
		return nil, err
	}
	p.totalFiles.Store(r.Stats.Files)
	p.totalBytes.Store(r.Stats.Bytes)
	f, err := v.openFetcher(ctx, p)
	if err != nil {
		return nil, err
	}
	defer f.close()
	if err := loadTree(ctx, dir, r, f, verify, p); err != nil {
		return nil, err
	}
	return &LoadResult{r.Snapshot, p.stats(), r.Roots, f.damaged()}, nil
}

// damaged tells whether an error concerns what a Vault holds, and not whether it can be reached.
func damaged(err error) bool { return errors.Is(err, ErrDamaged) }
