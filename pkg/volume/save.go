package volume

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"
)

const (
	// marker is a file at the top of a directory that is being loaded; it goes when the load is done.
	marker    = ".lockstep-incomplete"
	lostFound = "lost+found"
)

// SaveOptions adjust a save. The zero value is fine.
type SaveOptions struct {
	// Labels are kept with the snapshot, encrypted.
	Labels      map[string]string
	Compression Compression
	// Progress is called from time to time, and once at the end, never from two goroutines at once.
	Progress func(Progress)
}

// Save stores the tree below dir as a new snapshot. What the Vault has already is not stored again. The snapshot is
// recorded after all that it refers to is durable.
//
// If files cannot be read, change while they are read or vanish, the error is a *FileErrors that names every one of
// them, and no snapshot is recorded. Sockets, a lost+found at the top, and extended attributes other than user.*, POSIX
// ACLs and file capabilities are left out.
func (v *Vault) Save(ctx context.Context, dir string, o SaveOptions) (*Snapshot, error) {
	s, err := v.save(ctx, dir, o)
	if err != nil {
		return nil, fmt.Errorf("saving %q: %w", dir, err)
	}
	return s, nil
}

func (v *Vault) save(ctx context.Context, dir string, o SaveOptions) (*Snapshot, error) {
	created := time.Now().UTC()
	p := &progress{}
	defer p.report(o.Progress)()
	x, err := v.checkIndex(ctx)
	if err != nil {
		return nil, err
	}
	defer x.close()
	up, upCtx := newUploader(ctx, v, p, x.adopted)
	roots, table, err := newSaver(v, x, up, p, o.Compression).save(upCtx, dir)
	if upErr := up.finish(ctx, err); upErr != nil {
		return nil, upErr
	}
	r := &record{Snapshot{ID: randomName(), Created: created, Labels: maps.Clone(o.Labels), Roots: roots, Stats: p.stats()}, table}
	if err := v.putRecord(ctx, r); err != nil {
		return nil, fmt.Errorf("recording snapshot: %w", err)
	}
	return &r.Snapshot, nil
}

// sink takes what a scan finds.
type sink interface {
	// chunk takes a part of a file, or a list of chunks (isMeta), from several goroutines at once. It must not keep raw; scratch is
	// the calling goroutine's own.
	chunk(ctx context.Context, d Hash, raw []byte, isMeta bool, scratch *[]byte) error
	// entry takes the records of the tree, in their order.
	entry(ctx context.Context, e *entry) error
}

// saver is the sink that stores what a scan finds.
type saver struct {
	vault      *Vault
	index      *index
	progress   *progress
	data, meta packer // cells; lists and trees

	tree     treeWriter
	compress Compression
	scratch  []byte

	mu    sync.Mutex
	fresh idSet // chunks that this save stores
}

// newSaver returns a saver that must be closed.
func newSaver(v *Vault, x *index, up *uploader, p *progress, c Compression) *saver {
	s := &saver{vault: v, index: x, progress: p, compress: c, data: packer{up: up}, meta: packer{up: up}}
	s.tree.store = func(ctx context.Context, d Hash, raw []byte) error { return s.chunk(ctx, d, raw, true, &s.scratch) }
	return s
}

// save stores the tree below dir and returns its roots and the chunks of its table.
func (s *saver) save(ctx context.Context, dir string) (Roots, []Hash, error) {
	defer s.fresh.close()
	roots, err := scanTree(ctx, dir, s, s.progress)
	if err != nil {
		return Roots{}, nil, err
	}
	table, err := s.tree.finish(ctx)
	if err != nil {
		return Roots{}, nil, err
	}
	if err := s.data.flush(ctx); err != nil {
		return Roots{}, nil, err
	}
	return roots, table, s.meta.flush(ctx)
}

// chunk stores a chunk that the Vault does not have.
func (s *saver) chunk(ctx context.Context, d Hash, raw []byte, isMeta bool, scratch *[]byte) error {
	id := s.vault.keys.chunkID(d)
	if s.index.usable(id) || !s.claim(id) {
		return nil
	}
	to, compress := &s.data, s.compress
	if isMeta {
		to, compress = &s.meta, CompressZstd
	}
	*scratch = s.vault.codec.encode((*scratch)[:0], raw, compress)
	s.progress.fresh.Add(int64(len(raw)))
	return to.add(ctx, id, *scratch, len(raw))
}

// claim tells whether the caller is the first to store the chunk.
func (s *saver) claim(id chunkID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fresh.add(id)
}

// entry appends a record to the tree.
func (s *saver) entry(ctx context.Context, e *entry) error { return s.tree.add(ctx, e) }

// Digest computes the roots of a tree on disk, to compare with those of a Snapshot. It reads every file, and returns a
// *FileErrors if some cannot be read.
func Digest(ctx context.Context, dir string) (Roots, error) {
	roots, err := scanTree(ctx, dir, nil, &progress{})
	if err != nil {
		return Roots{}, fmt.Errorf("digesting %q: %w", dir, err)
	}
	return roots, nil
}
