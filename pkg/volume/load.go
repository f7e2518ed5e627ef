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
	x, err := v.loadIndex(ctx)
	if err != nil {
		return nil, err
	}
	if err := loadTree(ctx, dir, r, newFetcher(v, x, p), verify, p); err != nil {
		return nil, err
	}
	return &LoadResult{r.Snapshot, p.stats(), r.Roots, x.damaged}, nil
}

// treeGroup is how many segments of a tree are fetched at once.
const treeGroup = 32

// errTree says that the records of a tree do not fit together.
var errTree = fmt.Errorf("%w: records of the tree do not fit together", ErrDamaged)

// tree hands the records of a snapshot to visit, in their order, and verifies their roots. The root comes first, and ends last.
func (f *fetcher) tree(ctx context.Context, r *record, visit func(*entry) error) error {
	var m merkle
	var names []string // the last name in each open directory: they must ascend
	ended := false
	for segments := r.Tree; len(segments) > 0; {
		n := min(len(segments), treeGroup)
		chunks, err := f.read(ctx, segments[:n])
		if err != nil {
			return fmt.Errorf("reading tree: %w", err)
		}
		segments = segments[n:]
		for _, chunk := range chunks {
			for len(chunk) > 0 {
				var e *entry
				if e, chunk, err = nextEntry(chunk); err != nil {
					return fmt.Errorf("reading tree: %w", err)
				}
				if ended || !follows(&names, e) {
					return errTree
				}
				roots := m.add(e)
				if e.kind == kindEnd && roots != e.roots {
					return errTree
				}
				if ended = len(names) == 0; ended && roots != r.Roots {
					return errTree
				}
				if err := visit(e); err != nil {
					return err
				}
			}
		}
	}
	if !ended {
		return errTree
	}
	return nil
}

// follows tells whether a record may come next, and keeps the last name of each open directory.
func follows(names *[]string, e *entry) bool {
	depth := len(*names)
	switch {
	case depth == 0:
		*names = []string{""}
		return e.kind == kindDir && e.name == ""
	case e.kind == kindEnd:
		*names = (*names)[:depth-1]
		return true
	case e.name <= (*names)[depth-1], depth == 1 && e.name == marker:
		return false
	}
	(*names)[depth-1] = e.name
	if e.kind == kindDir {
		*names = append(*names, "")
	}
	return true
}

// damaged tells whether an error concerns what a Vault holds, and not whether it can be reached.
func damaged(err error) bool { return errors.Is(err, ErrDamaged) }
