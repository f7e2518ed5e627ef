package volume

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	// marker is a file at the top of a directory that is being loaded; it goes when the load is done.
	marker    = ".lockstep-incomplete"
	lostFound = "lost+found"
	// forgetTimeout is how long a save tries to remove its own snapshot after it failed.
	forgetTimeout = 30 * time.Second
)

// SaveOptions adjust a save. The zero value is fine.
type SaveOptions struct {
	// Labels are kept with the snapshot, encrypted.
	Labels      map[string]string
	Compression Compression
	// Parent is the id of an earlier snapshot of the same tree, or empty. Files that did not change since are not read.
	Parent string
	Detect Detect
	// KeepGoing records a snapshot even if files cannot be read, change while they are read, or vanish.
	KeepGoing bool
	// Live says that the tree is written to while it is read. A file that changes meanwhile is read again, and recorded as it was found
	// at last if it changes every time; one that vanishes is not in the snapshot. The *FileErrors beside the snapshot names the former, and
	// the directories that changed. What cannot be read for another reason fails the save.
	Live bool
	// Blind reads nothing of the Vault, for credentials that may only write: all is stored, what the Vault has already, too, and
	// there can be no parent.
	Blind bool
	// Progress is called from time to time, and once at the end, never from two goroutines at once.
	Progress func(Progress)
}

// Detect says how a save recognises a file that did not change since its parent. One that changed within two seconds before the parent
// was made is always read.
//
// Times and inodes tell the truth in a file system that is mounted, or was unmounted or frozen. In a snapshot of a disk that was in use, data
// may be newer than the times that tell of it, for fdatasync writes the one and not the other: only DetectNone is safe there.
type Detect int

const (
	// DetectStrict compares size, modification time, change time and inode.
	DetectStrict Detect = iota
	// DetectMtime compares size and modification time, for trees that are copied, or cloned, between saves.
	DetectMtime
	// DetectNone reads all files.
	DetectNone
)

func (d Detect) String() string {
	switch d {
	case DetectMtime:
		return "mtime"
	case DetectNone:
		return "none"
	}
	return "strict"
}

// UnmarshalText implements encoding.TextUnmarshaler for "strict", "mtime" and "none".
func (d *Detect) UnmarshalText(text []byte) error {
	for _, known := range []Detect{DetectStrict, DetectMtime, DetectNone} {
		if string(text) == known.String() {
			*d = known
			return nil
		}
	}
	return fmt.Errorf("detection %q: want strict, mtime or none", text)
}

// MarshalText implements encoding.TextMarshaler.
func (d Detect) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Save stores what is at path as a new snapshot: the tree below a directory, or the bytes of one regular file or block device. What
// the Vault has already is not stored again. The snapshot is recorded after all that it refers to is durable.
//
// If files cannot be read, change while they are read or vanish, the error is a *FileErrors that names every one of
// them, and no snapshot is recorded. With KeepGoing there is one all the same, beside the error: files that cannot be read are
// in it as such, and those that change as they were found at last; with Live there is one if files did nothing worse than
// change or vanish. ErrOvertaken says that packs were deleted which the save relied
// on; there is no snapshot then. In a store that locks, all that the snapshot needs is locked for the store's retention, what it
// reuses included, before it is recorded; store.ErrCannotLock says that the store does not, and there is no snapshot either.
//
// Sockets, a lost+found at the top, and extended attributes other than user.*, POSIX ACLs and file capabilities are left out.
func (v *Vault) Save(ctx context.Context, path string, o SaveOptions) (*Snapshot, error) {
	s, err := v.save(ctx, path, o)
	if err != nil {
		err = fmt.Errorf("saving %q: %w", path, err)
	}
	return s, err
}

func (v *Vault) save(ctx context.Context, path string, o SaveOptions) (*Snapshot, error) {
	if o.Blind && o.Parent != "" {
		return nil, errors.New("a blind save cannot have a parent")
	}
	created := time.Now().UTC()
	p := &progress{}
	defer p.report(o.Progress)()
	v.budget.enter()
	defer v.budget.leave()
	var x *index
	var parent *record
	err := both(ctx, func(ctx context.Context) (err error) {
		x, err = v.openIndex(ctx, o.Blind)
		return err
	}, func(ctx context.Context) (err error) {
		if o.Parent != "" {
			parent, err = v.record(ctx, o.Parent)
		}
		return err
	})
	if err != nil {
		x.close()
		return nil, err
	}
	f := newFetcher(v, x, &progress{}) // for the tree of the parent
	defer f.close()
	up, upCtx := newUploader(ctx, v, p, x.adopted)
	s := newSaver(v, x, up, p, o.Compression)
	s.keepGoing, s.live = o.KeepGoing || o.Live, o.Live && !o.KeepGoing
	s.follow(parent, f, o.Detect)
	roots, failed, err := s.save(upCtx, path)
	if err := up.finish(ctx, err); err != nil {
		return nil, err
	}
	r := &record{Snapshot{ID: randomName(), Created: created, Labels: maps.Clone(o.Labels), Roots: roots, Stats: p.stats(), Image: s.image}, s.table}
	if err := s.record(ctx, r, o.Blind); err != nil {
		return nil, err
	}
	if failed != nil {
		return &r.Snapshot, failed
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
	relied     []atomic.Bool // by number of pack: the save relies on it
	up         *uploader
	progress   *progress
	data, meta packer // cells; lists and trees
	compress   Compression
	keepGoing  bool
	live       bool

	parent  *record // nil: all is read
	fetcher *fetcher
	detect  Detect

	tree    treeWriter
	table   []Hash // of the tree, when that is stored
	image   bool
	scratch []byte

	mu    sync.Mutex
	fresh idSet // chunks that this save stores
}

// newSaver returns a saver that stores what the index lacks.
func newSaver(v *Vault, x *index, up *uploader, p *progress, c Compression) *saver {
	s := &saver{vault: v, index: x, up: up, progress: p, compress: c, data: packer{up: up}, meta: packer{up: up}}
	s.relied = make([]atomic.Bool, len(x.packs))
	s.tree.store = func(ctx context.Context, d Hash, raw []byte) error { return s.chunk(ctx, d, raw, true, &s.scratch) }
	return s
}

// openIndex returns what a save may rely on.
func (v *Vault) openIndex(ctx context.Context, blind bool) (*index, error) {
	if blind {
		return &index{places: &table{}}, nil
	}
	return v.checkIndex(ctx)
}

// follow has the save use the tree of its parent, unless that is nil.
func (s *saver) follow(parent *record, f *fetcher, detect Detect) {
	if parent == nil {
		return
	}
	if s.compress == CompressAuto {
		s.compress = CompressZstd
	}
	s.parent, s.fetcher, s.detect = parent, f, detect
}

// save stores what is at path and returns its roots. All chunks are durable then.
func (s *saver) save(ctx context.Context, path string) (Roots, *FileErrors, error) {
	defer s.fresh.close()
	roots, failed, err := scanTree(ctx, path, s)
	if err != nil {
		return Roots{}, nil, err
	}
	if s.table, err = s.tree.finish(ctx); err != nil {
		return Roots{}, nil, err
	}
	if err := s.data.flush(ctx); err != nil {
		return Roots{}, nil, err
	}
	return roots, failed, s.meta.flush(ctx)
}

// chunk stores a chunk that the Vault does not have.
func (s *saver) chunk(ctx context.Context, d Hash, raw []byte, isMeta bool, scratch *[]byte) error {
	id := s.vault.keys.chunkID(d)
	if s.has(id) || !s.claim(id) {
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

// has tells whether the Vault has a chunk that the save may rely on, and notes that it does.
func (s *saver) has(id chunkID) bool {
	for _, at := range s.index.find(id) {
		if p := &s.index.packs[at.pack]; p.missing || p.condemned {
			continue
		}
		if relied := &s.relied[at.pack]; !relied.Load() {
			relied.Store(true)
		}
		return true
	}
	return false
}

// claim tells whether the caller is the first to store the chunk.
func (s *saver) claim(id chunkID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fresh.add(id)
}

// entry appends a record to the tree. Only an image has a file without a name.
func (s *saver) entry(ctx context.Context, e *entry) error {
	s.image = s.image || e.kind == kindFile && e.name == ""
	return s.tree.add(ctx, e)
}

// record records the snapshot, unless a deletion took, or is about to take, what it needs. A deletion that began too late for the
// reading before it sees the snapshot, or is seen by the reading after it.
func (s *saver) record(ctx context.Context, r *record, blind bool) error {
	if !blind {
		if err := s.overtaken(ctx); err != nil {
			return err
		}
		if err := s.lock(ctx); err != nil {
			return err
		}
	}
	if err := s.vault.putRecord(ctx, r); err != nil {
		return fmt.Errorf("recording snapshot: %w", err)
	}
	if blind {
		return nil
	}
	err := s.vault.recordLocked(ctx, r.ID)
	if err == nil {
		err = s.overtaken(ctx)
	}
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgetTimeout)
	defer cancel()
	if forgetErr := s.vault.store.Delete(ctx, snapshotPrefix+r.ID); forgetErr != nil {
		return errors.Join(err, fmt.Errorf("forgetting snapshot %q: %w", r.ID, forgetErr))
	}
	return err
}

// overtaken returns ErrOvertaken if a pack that the save needs is condemned or gone.
func (s *saver) overtaken(ctx context.Context) error {
	condemned, err := s.vault.condemned(ctx)
	if err != nil {
		return err
	}
	existing, err := s.vault.listPacks(ctx)
	if err != nil {
		return fmt.Errorf("listing packs: %w", err)
	}
	for id, size := range s.needs() {
		file, listed := existing[id]
		if !listed && !condemned[id] {
			if file.size, err = s.size(ctx, id); err != nil {
				return err
			}
		}
		if condemned[id] || file.size != int64(size) {
			return fmt.Errorf("%w: %q is deleted, or about to be; save again", ErrOvertaken, id.object())
		}
	}
	return nil
}

// needs are the packs that the save relies on or stored, and their sizes.
func (s *saver) needs() iter.Seq2[packID, uint32] {
	return func(yield func(packID, uint32) bool) {
		for i := range s.relied {
			if p := &s.index.packs[i]; s.relied[i].Load() && !yield(p.id, p.size) {
				return
			}
		}
		for _, p := range s.up.packs {
			if !yield(p.id, p.size) {
				return
			}
		}
	}
}

// size asks for one pack, because a listing may be late. One that does not exist has the size 0.
func (s *saver) size(ctx context.Context, id packID) (int64, error) {
	info, err := s.vault.store.Stat(ctx, id.object())
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return info.Size, err
}

// Digest computes the roots of a tree on disk, or of one file or block device, to compare with those of a Snapshot. It reads every
// file, and returns a *FileErrors if some cannot be read.
func Digest(ctx context.Context, path string) (Roots, error) {
	roots, err := digestTree(ctx, path)
	if err != nil {
		return Roots{}, fmt.Errorf("digesting %q: %w", path, err)
	}
	return roots, nil
}
