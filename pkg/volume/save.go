package volume

import (
	"context"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
)

const (
	// uploads is how many packs are on their way to the store at once. With the two being filled they are the bulk of
	// what a save keeps in memory.
	uploads = 3

	// marker is a file at the top of a directory that is being loaded; it goes when the load is done.
	marker    = ".lockstep-incomplete"
	lostFound = "lost+found"

	segmentMin = 32 << 10
	segmentMax = 256 << 10
)

// SaveOptions adjust a save. The zero value is fine.
type SaveOptions struct {
	// Labels are kept with the snapshot, encrypted.
	Labels map[string]string
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
	x, err := v.loadIndex(ctx)
	if err != nil {
		return nil, err
	}
	up, upCtx := newUploader(ctx, v, p, x.adopted)
	s := &saver{
		keys: &v.keys, index: x, progress: p, fresh: map[chunkID]struct{}{},
		data: packer{up: up}, meta: packer{up: up},
	}
	roots, err := s.save(upCtx, dir)
	if upErr := up.finish(ctx, err); upErr != nil {
		return nil, upErr
	}
	r := &record{Snapshot{randomName(), created, maps.Clone(o.Labels), roots, p.stats()}, s.segments}
	if err := v.putRecord(ctx, r); err != nil {
		return nil, fmt.Errorf("recording snapshot: %w", err)
	}
	return &r.Snapshot, nil
}

// sink takes what a scan finds.
type sink interface {
	// chunk takes a cell or a list of cells (isList), from several goroutines at once. It must not keep raw; scratch is
	// the calling goroutine's own.
	chunk(ctx context.Context, d Hash, raw []byte, isList bool, scratch *[]byte) error
	// entry takes the records of the tree, in their order.
	entry(ctx context.Context, e *entry) error
}

// saver is the sink that stores what a scan finds.
type saver struct {
	keys       *keys
	index      *index
	progress   *progress
	data, meta packer // cells; lists and trees

	mu    sync.Mutex
	fresh map[chunkID]struct{} // chunks that this save stores

	segment  []byte // the segment of the tree being filled
	segments []Hash
	scratch  []byte
}

func (s *saver) save(ctx context.Context, dir string) (Roots, error) {
	roots, err := scanTree(ctx, dir, s, s.progress)
	if err != nil {
		return Roots{}, err
	}
	if err := s.closeSegment(ctx); err != nil {
		return Roots{}, err
	}
	if err := s.data.flush(ctx); err != nil {
		return Roots{}, err
	}
	return roots, s.meta.flush(ctx)
}

// chunk stores a chunk that the Vault does not have.
func (s *saver) chunk(ctx context.Context, d Hash, raw []byte, isList bool, scratch *[]byte) error {
	id := s.keys.chunkID(d)
	if _, known := s.index.find(id); known || !s.claim(id) {
		return nil
	}
	*scratch = encodeChunk((*scratch)[:0], raw)
	s.progress.fresh.Add(int64(len(raw)))
	to := &s.data
	if isList {
		to = &s.meta
	}
	return to.add(ctx, id, *scratch, len(raw))
}

// claim tells whether the caller is the first to store the chunk.
func (s *saver) claim(id chunkID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.fresh[id]; taken {
		return false
	}
	s.fresh[id] = struct{}{}
	return true
}

// entry appends a record to the tree. Where a segment ends depends on names, so that a file added or removed changes one
// segment and not all behind it.
func (s *saver) entry(ctx context.Context, e *entry) error {
	s.segment = appendEntry(s.segment, e)
	n := len(s.segment)
	if n >= segmentMax || n >= segmentMin && crc32.ChecksumIEEE([]byte(e.name))%16 == 0 {
		return s.closeSegment(ctx)
	}
	return nil
}

func (s *saver) closeSegment(ctx context.Context) error {
	if len(s.segment) == 0 {
		return nil
	}
	if len(s.segment) > maxChunk {
		return fmt.Errorf("a record of the tree takes %d bytes, more than %d", len(s.segment), maxChunk)
	}
	d := Hash(blake3.Sum256(s.segment))
	if err := s.chunk(ctx, d, s.segment, true, &s.scratch); err != nil {
		return err
	}
	s.segments = append(s.segments, d)
	s.segment = s.segment[:0]
	return nil
}

// packer fills packs, one after the other.
type packer struct {
	up  *uploader
	mu  sync.Mutex
	cur *pack
}

func (p *packer) add(ctx context.Context, id chunkID, encoded []byte, raw int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur == nil {
		var err error
		if p.cur, err = p.up.take(ctx); err != nil {
			return err
		}
	}
	p.cur.add(id, encoded, raw)
	if len(p.cur.data) >= packTarget {
		p.up.send(p.cur)
		p.cur = nil
	}
	return nil
}

func (p *packer) flush(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cur != nil {
		p.up.send(p.cur)
		p.cur = nil
	}
	return ctx.Err()
}

// uploader stores packs and the index of those that are stored. Its few buffers are what holds back the readers when the
// store is slow.
type uploader struct {
	vault    *Vault
	progress *progress
	g        *errgroup.Group
	ctx      context.Context
	free     chan *pack

	mu     sync.Mutex
	stored []described // durable, and not yet in an index object
}

// newUploader returns an uploader, and a context that ends when an upload fails. Adopted packs go into the next index object.
func newUploader(ctx context.Context, v *Vault, p *progress, adopted []described) (*uploader, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	u := &uploader{vault: v, progress: p, g: g, ctx: ctx, free: make(chan *pack, uploads+2), stored: adopted}
	for range cap(u.free) {
		u.free <- &pack{}
	}
	return u, ctx
}

func (u *uploader) take(ctx context.Context) (*pack, error) {
	select {
	case p := <-u.free:
		p.reset()
		return p, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// send stores a pack in the background.
func (u *uploader) send(p *pack) {
	u.g.Go(func() error {
		p.seal(&u.vault.keys)
		if err := u.put(u.ctx, p.id.object(), p.data); err != nil {
			return fmt.Errorf("storing pack: %w", err)
		}
		d := described{p.id, [headerSize]byte(p.data), uint32(len(p.data)), slices.Clone(p.chunks)}
		u.free <- p
		return u.describe(u.ctx, d)
	})
}

func (u *uploader) put(ctx context.Context, name string, data []byte) error {
	if err := u.vault.store.Put(ctx, name, data); err != nil {
		return err
	}
	u.progress.stored.Add(int64(len(data)))
	return nil
}

// describe notes a durable pack, and writes an index object whenever there is enough for one.
func (u *uploader) describe(ctx context.Context, d described) error {
	u.mu.Lock()
	u.stored = append(u.stored, d)
	var full []described
	if len(u.stored) >= indexPacks {
		full, u.stored = u.stored, nil
	}
	u.mu.Unlock()
	return u.putIndex(ctx, full)
}

func (u *uploader) putIndex(ctx context.Context, packs []described) error {
	if len(packs) == 0 {
		return nil
	}
	name := indexPrefix + randomName()
	if err := u.put(ctx, name, u.vault.keys.sealObject(typeIndex, name, encodeIndex(packs))); err != nil {
		return fmt.Errorf("storing index: %w", err)
	}
	return nil
}

// finish waits for all packs and, unless the save failed, writes what is left of the index. It returns the error that
// came first: an upload that fails also ends the scan.
func (u *uploader) finish(ctx context.Context, saveErr error) error {
	if err := u.g.Wait(); err != nil {
		return err
	}
	if saveErr != nil {
		return saveErr
	}
	return u.putIndex(ctx, u.stored)
}

// Digest computes the roots of a tree on disk, to compare with those of a Snapshot. It reads every file, and returns a
// *FileErrors if some cannot be read.
func Digest(ctx context.Context, dir string) (Roots, error) {
	roots, err := scanTree(ctx, dir, nil, &progress{})
	if err != nil {
		return Roots{}, fmt.Errorf("digesting %q: %w", dir, err)
	}
	return roots, nil
}
