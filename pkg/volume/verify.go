package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// VerifyLevel says how much Verify reads. Each level includes those before it.
type VerifyLevel int

const (
	// VerifyRecords opens every small object: config, keys, snapshots, documents, index, condemned.
	VerifyRecords VerifyLevel = iota
	// VerifyChunks reads trees, and makes sure that the Vault has all chunks that they name.
	VerifyChunks
	// VerifyFooters reads the footer of each pack and holds it against the index, and the whole pack if they differ.
	VerifyFooters
	// VerifyData reads and verifies every chunk, and the roots of every snapshot.
	VerifyData
)

var levelNames = [...]string{"records", "chunks", "footers", "data"}

func (l VerifyLevel) String() string {
	if l < 0 || int(l) >= len(levelNames) {
		return fmt.Sprintf("level %d", int(l))
	}
	return levelNames[l]
}

// UnmarshalText implements encoding.TextUnmarshaler for "records", "chunks", "footers" and "data".
func (l *VerifyLevel) UnmarshalText(text []byte) error {
	i := slices.Index(levelNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("level %q: want records, chunks, footers or data", text)
	}
	*l = VerifyLevel(i)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (l VerifyLevel) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// VerifyOptions adjust a verification. The zero value verifies the records.
type VerifyOptions struct {
	Level VerifyLevel
	// Snapshots are the ids of those to verify, and of whose packs; none means all, and all packs, needed or not.
	Snapshots []string
	// Sample is the fraction of packs, from 0 to 1, that VerifyData reads, chosen at random; 0 means all.
	Sample float64
	// Progress is called from time to time, and once at the end, never from two goroutines at once. Files are snapshots and packs
	// that are done; Stored is what was fetched from the store.
	Progress func(Progress)
}

// Damage is what is wrong with an object of the Vault.
type Damage struct {
	Object string `json:"object"`
	Reason string `json:"reason"`
}

// HurtSnapshot tells which files of a snapshot cannot be loaded as they were saved.
type HurtSnapshot struct {
	ID string `json:"id"`
	// Files names the first 10,000 of Count files, in tree order. Where a part of the tree is lost, it names the first path in it.
	Files []HurtFile `json:"files"`
	Count int        `json:"count"`
}

// HurtFile is a file that cannot be loaded as it was saved.
type HurtFile struct {
	Path   string `json:"path"` // "." is the root
	Reason string `json:"reason"`
}

// maxHurt is how many files a HurtSnapshot names, and how many objects a report.
const maxHurt = 10_000

// VerifyReport tells what a verification found.
type VerifyReport struct {
	Level     VerifyLevel `json:"level"`
	Snapshots int         `json:"snapshots"` // verified
	Documents int         `json:"documents"` // of all kinds
	Keys      int         `json:"keys"`
	Packs     int         `json:"packs"` // whose footers, or all of which, were read
	Chunks    int64       `json:"chunks"`
	Bytes     int64       `json:"bytes"` // of chunks, as they were saved
	// Damaged names the objects that are not as they were written, sorted, and at most 10,000.
	Damaged []Damage `json:"damaged,omitempty"`
	// Hurt are the snapshots that do not load completely.
	Hurt []HurtSnapshot `json:"hurt,omitempty"`
}

// Err returns nil if all is as it was written, and otherwise an error that matches ErrDamaged.
func (r *VerifyReport) Err() error {
	if len(r.Damaged) == 0 && len(r.Hurt) == 0 {
		return nil
	}
	files := 0
	for _, h := range r.Hurt {
		files += h.Count
	}
	first := ""
	if len(r.Damaged) > 0 {
		first = fmt.Sprintf(", the first %q: %s", r.Damaged[0].Object, r.Damaged[0].Reason)
	}
	return fmt.Errorf("%w: %d objects%s; %d files of %d snapshots are hurt", ErrDamaged, len(r.Damaged), first, files, len(r.Hurt))
}

// Verify makes sure that what the Vault holds is what was written, as thoroughly as the level says. Damage is no error but in the report,
// which names objects, and the files of each snapshot that they hurt. Saves, loads and prunes may run meanwhile.
//
// What a store hides or takes away as a whole, such as a snapshot, cannot be missed.
func (v *Vault) Verify(ctx context.Context, o VerifyOptions) (*VerifyReport, error) {
	p := &progress{}
	defer p.report(o.Progress)()
	c := &verification{Vault: v.uncached(), options: o, progress: p, report: &VerifyReport{Level: o.Level}}
	if err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("verifying: %w", err)
	}
	c.finish()
	return c.report, nil
}

func (c *verification) finish() {
	slices.SortFunc(c.report.Damaged, func(a, b Damage) int { return strings.Compare(a.Object, b.Object) })
}

// verification is one run of Verify.
type verification struct {
	*Vault
	options  VerifyOptions
	progress *progress
	records  []*record

	x       *index
	f       *fetcher
	marking *marking
	only    map[packID]bool // if not nil, the packs to read
	amiss   bool            // some snapshot is hurt
	bad     bitmap          // places of chunks, by their position in the table, that were found damaged

	mu     sync.Mutex
	report *VerifyReport
}

func (c *verification) damage(object, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	same := func(d Damage) bool { return d.Object == object }
	if len(c.report.Damaged) < maxHurt && !slices.ContainsFunc(c.report.Damaged, same) {
		c.report.Damaged = append(c.report.Damaged, Damage{object, reason})
	}
}

// note takes an error about an object: damage goes into the report, and what is not there any more was deleted meanwhile.
func (c *verification) note(object string, err error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case damaged(err):
		c.damage(object, err.Error())
		return nil
	}
	return err
}

func (c *verification) run(ctx context.Context) error {
	if err := c.smallObjects(ctx); err != nil {
		return err
	}
	c.report.Snapshots = len(c.records)
	if err := c.openIndex(ctx); err != nil {
		return err
	}
	defer func() { c.f.close() }()
	if c.options.Level == VerifyRecords {
		return nil
	}
	// What is absent may have been moved by a prune since the index was read.
	for try := 0; ; try++ {
		if err := c.mark(ctx); err != nil {
			return err
		}
		if !c.amiss || try > 0 {
			break
		}
		c.f.close()
		if err := c.openIndex(ctx); err != nil {
			return err
		}
	}
	if c.options.Level >= VerifyFooters {
		if err := c.packs(ctx); err != nil {
			return err
		}
	}
	if !c.amiss && c.options.Level < VerifyData {
		return nil
	}
	for _, r := range c.records {
		if err := c.examine(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// openIndex reads the index and holds it against the packs that exist.
func (c *verification) openIndex(ctx context.Context) error {
	condemned := map[packID]bool{} // the condemned objects were verified before; to a reader they mean nothing
	x, err := c.indexBeside(ctx, condemned)
	if err != nil {
		return err
	}
	for _, name := range x.damaged {
		reason := "it is not what was written"
		if strings.HasPrefix(name, packPrefix) {
			reason = "its footer is damaged and no index describes it, or it has another size than the index says"
		}
		c.damage(name, reason)
	}
	c.x, c.f = x, newFetcher(c.Vault, x, c.progress)
	c.bad = newBitmap(len(x.places.slots))
	return nil
}

// mark finds out which chunks the snapshots need, and whether all are there.
func (c *verification) mark(ctx context.Context) error {
	var mu sync.Mutex
	c.amiss = false
	c.marking = newMarking(c.f, c.x, func(error) error {
		mu.Lock()
		defer mu.Unlock()
		c.amiss = true
		return nil
	})
	for _, r := range c.records {
		if err := c.marking.snapshot(ctx, r); err != nil {
			return err
		}
		c.progress.files.Add(1)
	}
	c.amiss = c.amiss || c.marking.absent.Load()
	return nil
}

// verifyPacks is how many packs are verified at once.
const verifyPacks = 4

// packs reads the footers of packs, or all of them.
func (c *verification) packs(ctx context.Context) error {
	todo := c.chosen()
	c.progress.totalFiles.Store(int64(len(c.records) + len(todo)))
	g, groupCtx := errgroup.WithContext(ctx)
	g.SetLimit(verifyPacks)
	for _, number := range todo {
		if groupCtx.Err() != nil {
			break
		}
		g.Go(func() error {
			p := &c.x.packs[number]
			err := c.pack(groupCtx, number)
			if errors.Is(err, store.ErrNotFound) {
				return c.confirm(groupCtx) // a prune deleted it, and not the store all of the vault
			}
			c.progress.files.Add(1)
			return c.note(p.id.object(), err)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// chosen returns the numbers of the packs to read.
func (c *verification) chosen() []uint32 {
	needed := newBitmap(len(c.x.packs))
	c.x.eachChunk(func(n int, places []slot) {
		for _, s := range places {
			if c.marking.used.has(n) {
				needed.set(int(s.pack))
			}
		}
	})
	var todo []uint32
	for i := range c.x.packs {
		sampled := c.options.Sample <= 0 || c.options.Level < VerifyData || rand.Float64() < c.options.Sample
		sampled = sampled && (c.only == nil || c.only[c.x.packs[i].id])
		if !c.x.packs[i].missing && sampled && (len(c.options.Snapshots) == 0 || needed.has(i)) {
			todo = append(todo, uint32(i))
		}
	}
	return todo
}

// pack verifies a pack.
func (c *verification) pack(ctx context.Context, number uint32) error {
	p := &c.x.packs[number]
	d, err := c.readFooter(ctx, p.id, int64(p.size))
	if err != nil {
		return c.packWithoutFooter(ctx, number, err)
	}
	c.mu.Lock()
	c.report.Packs++
	c.mu.Unlock()
	if err := c.x.agrees(number, d); err != nil {
		return c.packWithoutFooter(ctx, number, err)
	}
	if c.options.Level < VerifyData {
		return nil
	}
	slots := make([]slot, len(d.chunks))
	off := uint32(headerSize)
	for i, k := range d.chunks {
		slots[i] = slot{[16]byte(k.id[:]), place{number, off, k.stored, k.raw}}
		off += k.stored
	}
	return c.chunks(ctx, number, slots)
}

// packWithoutFooter verifies what the index says of a pack whose footer cannot be relied on, and returns what is wrong with the footer.
func (c *verification) packWithoutFooter(ctx context.Context, number uint32, footerErr error) error {
	if !damaged(footerErr) {
		return footerErr
	}
	var slots []slot
	for _, s := range c.x.places.slots {
		if s.pack == number {
			slots = append(slots, s)
		}
	}
	slices.SortFunc(slots, func(a, b slot) int { return int(a.off) - int(b.off) })
	if err := c.chunks(ctx, number, slots); err != nil && !damaged(err) {
		return err
	}
	return footerErr
}

// agrees returns an error if the index says something else of a pack than its footer does.
func (x *index) agrees(number uint32, d described) error {
	p := &x.packs[number]
	if p.header != d.header || int(p.chunks) != len(d.chunks) {
		return fmt.Errorf("%w: the index describes it differently", ErrDamaged)
	}
	off := uint32(headerSize)
	for _, k := range d.chunks {
		want := place{number, off, k.stored, k.raw}
		if !slices.ContainsFunc(x.find(k.id), func(s slot) bool { return s.place == want }) {
			return fmt.Errorf("%w: the index describes it differently", ErrDamaged)
		}
		off += k.stored
	}
	return nil
}

// chunks reads a pack and verifies chunks in it.
func (c *verification) chunks(ctx context.Context, number uint32, slots []slot) error {
	bad := slots
	_, err := twice(c.Vault, func(v *Vault) (struct{}, error) {
		var err error
		bad, err = c.badChunks(ctx, v, number, bad)
		return struct{}{}, err
	})
	if err != nil && !damaged(err) {
		return err
	}
	for _, at := range bad {
		c.x.markBad(c.bad, at)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Chunks += int64(len(slots) - len(bad))
	c.report.Bytes += rawSize(slots) - rawSize(bad)
	c.amiss = c.amiss || err != nil
	return err
}

// badChunks reads a pack and returns those of the chunks in it that are damaged.
func (c *verification) badChunks(ctx context.Context, from *Vault, number uint32, slots []slot) (bad []slot, damage error) {
	p := &c.x.packs[number]
	data, err := from.getPack(ctx, p.id, 0, int64(p.size))
	if err != nil {
		return slots, err
	}
	c.progress.stored.Add(int64(len(data)))
	s := c.keys.sealer(p.header[:], p.id.object())
	var scratch []byte
	for _, at := range slots {
		if int(at.raw) > len(scratch) {
			scratch = make([]byte, at.raw)
		}
		if err := c.checkChunk(s, at, data[at.off:at.off+at.stored], scratch); err != nil {
			bad = append(bad, at)
			damage = errors.Join(damage, fmt.Errorf("at %d: %w", at.off, err))
		}
	}
	return bad, damage
}

// checkChunk opens a chunk whose digest only its own id tells.
func (c *verification) checkChunk(s sealer, at slot, piece, scratch []byte) error {
	encoded, err := s.open(roleContent, int64(at.off), piece)
	if err != nil {
		return err
	}
	chunk, err := c.codec.decode(scratch, encoded, int(at.raw))
	if err != nil {
		return err
	}
	if id := c.keys.chunkID(blake3.Sum256(chunk)); !bytes.Equal(id[:16], at.id[:]) {
		return fmt.Errorf("%w: a chunk is not the one its place says", ErrDamaged)
	}
	return nil
}

// rawSize is how many bytes the chunks are.
func rawSize(slots []slot) (size int64) {
	for _, s := range slots {
		size += int64(s.raw)
	}
	return size
}

// markBad marks a place of a chunk.
func (x *index) markBad(bad bitmap, at slot) {
	var id chunkID
	copy(id[:], at.id[:])
	if n, found := x.places.number(id); found {
		for ; n < len(x.places.slots) && x.places.slots[n].id == at.id; n++ {
			if x.places.slots[n] == at {
				bad.set(n)
			}
		}
	}
}
