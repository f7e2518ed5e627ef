package volume

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

const (
	// GraceTime is how long packs stay condemned before they are deleted, and how old they are before they are condemned, at least.
	GraceTime = 24 * time.Hour
	// MinLive is below which share of live bytes Prune repacks, unless told otherwise: it then frees at least as much as it copies.
	MinLive = 0.5
)

// PruneOptions adjust a prune. The zero value is fine.
type PruneOptions struct {
	// Grace is how long ago, by the store's clock, packs must have been written before they are condemned, and have been condemned
	// before they are deleted. 0 is GraceTime, and less is refused, unless NoOtherSaves says that no save runs meanwhile: then it is
	// taken as it is, and with 0 what no snapshot needs is deleted at once.
	Grace        time.Duration
	NoOtherSaves bool
	// MinLive is the share of live bytes in a pack, from 0 to 1, below which what is live is copied to a new one; 0 is 0.5, and
	// less than 0 is never.
	MinLive float64
	// MaxRepack bounds the bytes that are copied for that; 0 is no bound.
	MaxRepack int64
	// DryRun changes nothing, and reports what would be done. Ages are then by this machine's clock.
	DryRun bool
	// Progress is called from time to time, and once at the end, never from two goroutines at once. Files are snapshots that
	// were read and packs that were copied; Stored is what was fetched from the store.
	Progress func(Progress)
}

// Amount is a number of objects and their size.
type Amount struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}

func (a *Amount) add(bytes int64) { a.addAll(Amount{1, bytes}) }

func (a *Amount) addAll(b Amount) { a.Objects += b.Objects; a.Bytes += b.Bytes }

// String implements fmt.Stringer.
func (a Amount) String() string { return fmt.Sprintf("%d (%d bytes)", a.Objects, a.Bytes) }

// PruneReport tells what a prune did, or with DryRun would do.
type PruneReport struct {
	DryRun    bool `json:"dryRun,omitempty"`
	Snapshots int  `json:"snapshots"`
	// Packs are those that existed; Live are the bytes in them that snapshots need.
	Packs Amount `json:"packs"`
	Live  int64  `json:"live"`
	// Repacked are packs whose live chunks were copied, and the bytes copied.
	Repacked Amount `json:"repacked"`
	// Condemned are packs that this run condemned; a later one deletes them.
	Condemned Amount `json:"condemned"`
	Deleted   Amount `json:"deleted"`
	// Waiting are packs that were condemned before, but not for the grace time yet.
	Waiting Amount `json:"waiting"`
	// Young are packs that would be condemned or repacked, were they older than the grace time.
	Young Amount `json:"young"`
	// Kept are objects that should go and that the store does not delete, because of retention or of rights.
	Kept Amount `json:"kept"`
	// Index are index objects that were replaced by fewer, or by such that do not describe packs that are gone.
	Index Amount `json:"index"`
	// Lost are chunks that snapshots need and that no pack has any more. Verify names the files.
	Lost int64 `json:"lost,omitempty"`
	// Damaged names objects that were found damaged, and left as they are.
	Damaged []string `json:"damaged,omitempty"`
}

// Reasons explains the report, a sentence a line.
func (r *PruneReport) Reasons() []string {
	var lines []string
	say := func(a Amount, what string) {
		if a.Objects > 0 {
			lines = append(lines, fmt.Sprintf("%d %s (%d bytes)", a.Objects, what, a.Bytes))
		}
	}
	say(r.Deleted, "packs deleted: condemned long enough ago, and no snapshot needs them")
	say(r.Condemned, "packs condemned: no snapshot needs them; a prune after the grace time deletes them")
	say(r.Repacked, "packs repacked: little in them was live, or they were condemned with something live in them")
	say(r.Waiting, "packs waiting: condemned, but not yet for the grace time")
	say(r.Young, "packs left: no snapshot needs all of them, but a save may still, because they are younger than the grace time")
	say(r.Kept, "objects kept by the store: retention or missing rights forbid to delete them; a later prune tries again")
	say(r.Index, "index objects merged, or rewritten without packs that are gone")
	if r.Lost > 0 {
		lines = append(lines, fmt.Sprintf("%d chunks that snapshots need are in no pack: verify the vault to learn which files that hurts", r.Lost))
	}
	for _, name := range r.Damaged {
		lines = append(lines, fmt.Sprintf("object %q is damaged, and was left alone: repair the vault", name))
	}
	return lines
}

// Prune deletes what no snapshot needs, in two steps: what it finds needless it condemns, and what was condemned long enough ago,
// and still is needless, it deletes. Packs of which little is needed are repacked. Saves, loads and other prunes may run meanwhile.
//
// A snapshot that cannot be read, or any other damage that leaves open what is needed, stops it before anything is condemned.
// What the store does not delete is reported and tried again by the next prune.
func (v *Vault) Prune(ctx context.Context, o PruneOptions) (*PruneReport, error) {
	switch {
	case o.Grace < 0, o.Grace < GraceTime && o.Grace != 0 && !o.NoOtherSaves:
		return nil, fmt.Errorf("pruning: a grace time of %v is too short: less than %v needs that no save runs meanwhile", o.Grace, GraceTime)
	case o.Grace == 0 && !o.NoOtherSaves:
		o.Grace = GraceTime
	}
	if o.MinLive == 0 {
		o.MinLive = MinLive
	}
	report, err := v.prune(ctx, o)
	if err == nil && o.Grace == 0 && !o.DryRun && report.Condemned.Objects > 0 {
		first := report
		if report, err = v.prune(ctx, o); err == nil {
			report.follow(first)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("pruning: %w", err)
	}
	return report, nil
}

// follow adds what the run before did.
func (r *PruneReport) follow(first *PruneReport) {
	r.Packs = first.Packs
	r.Repacked.addAll(first.Repacked)
	r.Deleted.addAll(first.Deleted)
	r.Index.addAll(first.Index)
}

// pruning is one run of a prune.
type pruning struct {
	*Vault
	options  PruneOptions
	report   *PruneReport
	progress *progress

	condemned []condemnedObject
	f         *fetcher
	x         *index
	marking   *marking
	numbers   map[packID]uint32 // of packs in the index
	packs     []packUse

	now time.Time // by the store's clock

	mu sync.Mutex // guards packs and the report while packs are copied or deleted
}

// packUse is what snapshots need of a pack, and what becomes of it.
type packUse struct {
	live   int64 // bytes of chunks that have their best place here
	only   bool  // it has chunks that only condemned packs have
	since  time.Time
	action action
}

// action is what a prune does with a pack.
type action byte

const (
	actionKeep    action = iota
	actionCondemn        // after its live chunks were copied
	actionDelete         // after chunks that only condemned packs have were copied
)

// prune is one run. It reads the condemned objects, then lists the packs, then the snapshots; only then it decides.
func (v *Vault) prune(ctx context.Context, o PruneOptions) (*PruneReport, error) {
	p := &pruning{Vault: v, options: o, report: &PruneReport{DryRun: o.DryRun}, progress: &progress{}}
	defer p.progress.report(o.Progress)()
	err := p.survey(ctx)
	if p.f != nil {
		defer p.f.close()
	}
	if err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{
		p.decide, p.copyLive, p.condemnPacks, p.deletePacks, p.tidyIndex, p.tidyCondemned,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	return p.report, nil
}

// survey reads what there is, and marks what snapshots need.
func (p *pruning) survey(ctx context.Context) (err error) {
	if p.condemned, err = p.condemnedObjects(ctx); err != nil {
		return err
	}
	since := map[packID]time.Time{}
	condemned := map[packID]bool{}
	for _, o := range p.condemned {
		for _, id := range o.packs {
			if !condemned[id] || o.since.Before(since[id]) {
				since[id] = o.since
			}
			condemned[id] = true
		}
	}
	if p.x, err = p.indexBeside(ctx, condemned); err != nil {
		return err
	}
	p.f = newFetcher(p.Vault, p.x, p.progress)
	p.marking = newMarking(p.f, p.x, func(err error) error { return err })
	p.report.Damaged = p.x.damaged
	p.packs = make([]packUse, len(p.x.packs))
	p.numbers = make(map[packID]uint32, len(p.x.packs))
	for i := range p.x.packs {
		p.numbers[p.x.packs[i].id] = uint32(i)
		p.packs[i].since = since[p.x.packs[i].id]
	}
	records, err := p.records(ctx)
	if err != nil {
		return err
	}
	p.report.Snapshots = len(records)
	p.progress.totalFiles.Store(int64(len(records)))
	for _, r := range records {
		err := p.marking.snapshot(ctx, r)
		if damaged(err) {
			if _, gone := p.Snapshot(ctx, r.ID); errors.Is(gone, ErrSnapshotNotFound) {
				err = nil // it was forgotten meanwhile
			}
		}
		if err != nil {
			return fmt.Errorf("snapshot %q: what it needs cannot be known: %w", r.ID, err)
		}
		p.progress.files.Add(1)
	}
	p.x.eachChunk(func(n int, places []slot) {
		if p.marking.used.has(n) {
			p.need(places)
		}
	})
	return nil
}

// eachChunk hands all places of each chunk to visit, and the number of the chunk.
func (x *index) eachChunk(visit func(n int, places []slot)) {
	slots := x.places.slots
	for first := 0; first < len(slots); {
		end := first + 1
		for end < len(slots) && slots[end].id == slots[first].id {
			end++
		}
		visit(first, slots[first:end])
		first = end
	}
}

// need counts a chunk that a snapshot needs, for the pack that has its best place. If only condemned packs have it, all of
// them are needed, because another prune may count on any.
func (p *pruning) need(places []slot) {
	if home, found := p.x.home(places); found {
		p.packs[home.pack].live += int64(home.stored)
		p.report.Live += int64(home.stored)
		return
	}
	lost := int64(1)
	for _, s := range places {
		p.packs[s.pack].live += int64(s.stored) // of a pack that was cut, too: it may be salvaged
		p.packs[s.pack].only = true
		if !p.x.packs[s.pack].missing {
			lost = 0
		}
	}
	p.report.Lost += lost
}

// home returns the best place of a chunk: in the newest of the packs that exist and are not condemned.
func (x *index) home(places []slot) (best slot, found bool) {
	for _, s := range places {
		p, q := &x.packs[s.pack], &x.packs[best.pack]
		if p.missing || p.condemned {
			continue
		}
		if !found || p.modified.After(q.modified) || p.modified.Equal(q.modified) && bytes.Compare(p.id[:], q.id[:]) > 0 {
			best, found = s, true
		}
	}
	return best, found
}

// payload is the size of the chunks in a pack.
func (p *packInfo) payload() int64 {
	return int64(p.size) - headerSize - tagSize - trailerSize - int64(p.chunks)*entrySize
}

// decide chooses what becomes of each pack.
func (p *pruning) decide(ctx context.Context) error {
	var sparse []int
	waiting := false
	for i := range p.x.packs {
		pack, use := &p.x.packs[i], &p.packs[i]
		if pack.gone() {
			continue
		}
		p.report.Packs.add(int64(pack.size))
		waiting = waiting || pack.condemned
		share := float64(use.live) / float64(pack.payload())
		if !pack.condemned && (use.live == 0 || share < p.options.MinLive && !pack.missing) {
			sparse = append(sparse, i)
		}
	}
	if !waiting && len(sparse) == 0 {
		return nil
	}
	if err := p.readClock(ctx); err != nil {
		return err
	}
	p.decideCondemned()
	sparse, err := p.unlocked(ctx, sparse)
	if err != nil {
		return err
	}
	p.decideSparse(sparse)
	return nil
}

// readClock learns the store's time, from an object that it writes: this machine's may be anything.
func (p *pruning) readClock(ctx context.Context) error {
	if p.options.DryRun {
		p.now = time.Now()
		return nil
	}
	now, probe, err := p.clock(ctx)
	p.now = now
	p.condemned = append(p.condemned, condemnedObject{name: probe})
	return err
}

// old tells whether something is older than the grace time. Without one everything is: stores tell the time of one object by the
// second, and of a list by less, so that what was just written may seem to be yet to come.
func (p *pruning) old(t time.Time) bool {
	return p.options.Grace == 0 || p.now.Sub(t) >= p.options.Grace
}

// decideCondemned has packs deleted that were condemned long enough ago.
func (p *pruning) decideCondemned() {
	for i := range p.x.packs {
		pack, use := &p.x.packs[i], &p.packs[i]
		switch {
		case pack.gone() || !pack.condemned:
		case p.old(use.since):
			use.action = actionDelete
		default:
			p.report.Waiting.add(int64(pack.size))
		}
	}
}

// decideSparse has packs condemned of which little or nothing is live: first those that cost least to copy.
func (p *pruning) decideSparse(sparse []int) {
	slices.SortStableFunc(sparse, func(a, b int) int { return cmp.Compare(p.packs[a].live, p.packs[b].live) })
	copied := int64(0)
	for _, i := range sparse {
		pack, use := &p.x.packs[i], &p.packs[i]
		switch {
		case !p.old(pack.modified):
			p.report.Young.add(int64(pack.size))
		case use.live == 0 || p.options.MaxRepack == 0 || copied+use.live <= p.options.MaxRepack:
			use.action = actionCondemn
			copied += use.live
		}
	}
}

// copyLive copies what must outlive its pack.
func (p *pruning) copyLive(ctx context.Context) error {
	var todo []int
	for i, use := range p.packs {
		if use.action == actionCondemn && use.live > 0 || use.action == actionDelete && use.only {
			todo = append(todo, i)
			p.report.Repacked.add(use.live)
		}
	}
	adopted := slices.DeleteFunc(slices.Clone(p.x.adopted), func(d described) bool {
		return p.packs[p.numbers[d.id]].action != actionKeep
	})
	if p.options.DryRun || len(todo) == 0 && len(adopted) == 0 {
		return nil
	}
	p.progress.totalFiles.Add(int64(len(todo)))
	up, upCtx := newUploader(ctx, p.Vault, &progress{}, adopted)
	c := &copier{Vault: p.Vault, progress: p.progress, data: packer{up: up}, meta: packer{up: up}}
	err := each(upCtx, todo, func(ctx context.Context, _, i int) error { return p.copyPack(ctx, c, i) })
	if err == nil {
		err = c.flush(upCtx)
	}
	return up.finish(ctx, err)
}

// copyPack copies what is live in a pack. If it cannot, the pack stays.
func (p *pruning) copyPack(ctx context.Context, c *copier, number int) error {
	pack := &p.x.packs[number]
	err := c.pack(ctx, pack.id, int64(pack.size), func(id chunkID) (want, meta bool) {
		n, found := p.x.places.number(id)
		if !found || !p.marking.used.has(n) {
			return false, false
		}
		home, found := p.x.home(p.x.find(id))
		return !found || int(home.pack) == number, p.marking.meta.has(n)
	})
	gone := errors.Is(err, store.ErrNotFound) // another prune deleted it, which made sure of what is in it
	if err != nil && !gone && !damaged(err) {
		return err
	}
	p.progress.files.Add(1)
	if err == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.packs[number].action = actionKeep
	if !gone {
		p.report.Damaged = append(p.report.Damaged, pack.id.object())
	}
	return nil
}

// condemnPacks writes down what is to be deleted.
func (p *pruning) condemnPacks(ctx context.Context) error {
	var ids []packID
	for i, use := range p.packs {
		if use.action == actionCondemn {
			ids = append(ids, p.x.packs[i].id)
			p.report.Condemned.add(int64(p.x.packs[i].size))
		}
	}
	if p.options.DryRun || len(ids) == 0 {
		return nil
	}
	_, err := p.condemn(ctx, ids)
	return err
}

// deletePacks deletes what was condemned long enough ago.
func (p *pruning) deletePacks(ctx context.Context) error {
	var todo []int
	for i, use := range p.packs {
		if use.action == actionDelete {
			todo = append(todo, i)
		}
	}
	return each(ctx, todo, func(ctx context.Context, _, i int) error {
		pack := &p.x.packs[i]
		gone, err := p.delete(ctx, pack.id.object(), int64(pack.size))
		if gone {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.report.Deleted.add(int64(pack.size))
			pack.missing, pack.modified = true, time.Time{}
		}
		return err
	})
}

// delete deletes an object, unless the store keeps it.
func (p *pruning) delete(ctx context.Context, name string, size int64) (gone bool, err error) {
	if p.options.DryRun {
		return true, nil
	}
	locked, err := p.locked(ctx, name)
	if err == nil && !locked {
		err = p.store.Delete(ctx, name)
	}
	if locked || errors.Is(err, store.ErrLocked) || errors.Is(err, store.ErrDenied) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.report.Kept.add(size)
		return false, nil
	}
	return err == nil, err
}

// tidyCondemned deletes condemned objects of which no pack is left. Those whose packs this run deleted stay for a later one: a
// save that began before may still have to see them.
func (p *pruning) tidyCondemned(ctx context.Context) error {
	listed := func(id packID) bool {
		number, known := p.numbers[id]
		return p.x.unread[id] || known && (!p.x.packs[number].gone() || p.packs[number].action == actionDelete)
	}
	for _, o := range p.condemned {
		if slices.ContainsFunc(o.packs, listed) {
			continue
		}
		if _, err := p.delete(ctx, o.name, 0); err != nil {
			return err
		}
	}
	return nil
}
