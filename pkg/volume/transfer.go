package volume

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// CopyOptions adjust a copy. The zero value is fine.
type CopyOptions struct {
	// Recheck looks again at snapshots that the other Vault has already, brings what it lacks of them, and reads back all packs that they
	// need, and not only those that this copy stored.
	Recheck bool
	// Progress is called from time to time, and once at the end, never from two goroutines at once. Bytes are those of chunks that were
	// copied, Stored those written to the other store.
	Progress func(Progress)
}

// CopyReport tells what a copy did.
type CopyReport struct {
	// Copied are the snapshots whose records were written, Present those that the other Vault had.
	Copied  int `json:"copied"`
	Present int `json:"present"`
	// Bytes is the size of the chunks that the other Vault lacked, Stored what was written to its store.
	Bytes  int64 `json:"bytes"`
	Stored int64 `json:"stored"`
	// Packs is how many packs were read back and found to hold what was sent.
	Packs int `json:"packs"`
}

// maxWanted is how many chunks are asked for at once, in the order in which they lie.
const maxWanted = 2048

// CopyTo copies snapshots, under the same ids, into another Vault, which has a key of its own: chunks are opened, held against their
// digests and sealed anew. What the other Vault has is not sent again, be it of other snapshots or of a copy that was interrupted. What
// was sent is read back, and all that the snapshots need found there, before they are recorded.
//
// ErrOvertaken says that packs of the other Vault were deleted which the copy relied on; to copy again helps.
func (v *Vault) CopyTo(ctx context.Context, to *Vault, ids []string, o CopyOptions) (*CopyReport, error) {
	if v.id == to.id {
		return nil, fmt.Errorf("copying snapshots: both places hold the same vault %s", v.id)
	}
	p := &progress{}
	defer p.report(o.Progress)()
	report, err := v.copyTo(ctx, to, ids, o, p)
	if err != nil {
		return nil, fmt.Errorf("copying snapshots: %w", err)
	}
	return report, nil
}

func (v *Vault) copyTo(ctx context.Context, to *Vault, ids []string, o CopyOptions, p *progress) (*CopyReport, error) {
	report := &CopyReport{}
	var todo, fresh []*record
	for _, id := range ids {
		r, err := v.record(ctx, id)
		if err != nil {
			return nil, err
		}
		there, err := to.hasRecord(ctx, r)
		if err != nil {
			return nil, err
		}
		if there {
			report.Present++
		} else {
			fresh = append(fresh, r)
		}
		if !there || o.Recheck {
			todo = append(todo, r)
		}
	}
	if len(todo) == 0 {
		return report, nil
	}
	to.budget.enter()
	defer to.budget.leave()
	x, err := to.checkIndex(ctx)
	if err != nil {
		return nil, err
	}
	defer x.close()
	up, upCtx := newUploader(ctx, to, p, x.adopted)
	t := &transfer{to: newSaver(to, x, up, p, CompressAuto), progress: p}
	defer t.to.fresh.close()
	if err := up.finish(ctx, t.chunks(upCtx, v, todo)); err != nil {
		return nil, err
	}
	if report.Packs, err = t.arrived(ctx, to, todo, o.Recheck); err != nil {
		return nil, err
	}
	if err := t.record(ctx, fresh); err != nil {
		return nil, err
	}
	report.Copied, report.Bytes, report.Stored = len(fresh), p.fresh.Load(), p.stored.Load()
	return report, nil
}

// hasRecord tells whether the Vault has a record; another one of its id is ErrSnapshotExists.
func (v *Vault) hasRecord(ctx context.Context, r *record) (bool, error) {
	there, err := v.record(ctx, r.ID)
	if errors.Is(err, ErrSnapshotNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	want, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	got, err := json.Marshal(there)
	if err != nil {
		return false, err
	}
	if !bytes.Equal(want, got) {
		return false, fmt.Errorf("snapshot %q: %w", r.ID, ErrSnapshotExists)
	}
	return true, nil
}

// transfer brings chunks from one Vault to another.
type transfer struct {
	to       *saver
	progress *progress
	scratch  sync.Pool // of *[]byte, to encode chunks in

	mu     sync.Mutex
	wanted []wantedChunk
}

// wantedChunk is one that the other Vault lacks.
type wantedChunk struct {
	digest Hash
	meta   bool
}

// chunks brings all that the records need and the other Vault lacks. It keeps no more than what a few segments of a tree name.
func (t *transfer) chunks(ctx context.Context, from *Vault, records []*record) error {
	f, err := from.openFetcher(ctx, &progress{})
	if err != nil {
		return err
	}
	defer f.close()
	m := newMarking(f, f.current(), func(err error) error { return err })
	m.take = t.want
	m.settle = func(ctx context.Context) error { return t.bring(ctx, f) }
	for _, r := range records {
		if err := m.snapshot(ctx, r); err != nil {
			return fmt.Errorf("snapshot %q: %w", r.ID, err)
		}
	}
	if err := t.to.data.flush(ctx); err != nil {
		return err
	}
	return t.to.meta.flush(ctx)
}

// want notes a chunk unless the other Vault has it.
func (t *transfer) want(d Hash, meta bool) {
	if t.to.has(t.to.vault.keys.chunkID(d)) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wanted = append(t.wanted, wantedChunk{d, meta})
}

// bring fetches the chunks that were noted and has them stored.
func (t *transfer) bring(ctx context.Context, f *fetcher) error {
	wanted := t.wanted
	t.wanted = nil
	for len(wanted) > 0 {
		n := min(len(wanted), maxWanted)
		wants := make([]want, n)
		for i, w := range wanted[:n] {
			wants[i] = want{w.digest, func(chunk []byte, err error) error {
				if err != nil {
					return err
				}
				return t.store(ctx, w, chunk)
			}}
		}
		if err := f.fetch(ctx, wants); err != nil {
			return err
		}
		wanted = wanted[n:]
	}
	return nil
}

func (t *transfer) store(ctx context.Context, w wantedChunk, chunk []byte) error {
	scratch, ok := t.scratch.Get().(*[]byte)
	if !ok {
		scratch = new([]byte)
	}
	defer t.scratch.Put(scratch)
	t.progress.bytes.Add(int64(len(chunk)))
	return t.to.chunk(ctx, w.digest, chunk, w.meta, scratch)
}

// arrived makes sure that the other Vault has every chunk that the records need, and reads back the packs that were stored, or all that
// the records need. It returns how many it read.
func (t *transfer) arrived(ctx context.Context, to *Vault, records []*record, all bool) (int, error) {
	c := &verification{
		Vault: to.uncached(), options: VerifyOptions{Level: VerifyData}, progress: &progress{}, records: records,
		report: &VerifyReport{Level: VerifyData},
	}
	for _, r := range records {
		c.options.Snapshots = append(c.options.Snapshots, r.ID)
	}
	if !all {
		c.only = map[packID]bool{}
		for _, p := range t.to.up.packs {
			c.only[p.id] = true
		}
	}
	if err := c.openIndex(ctx); err != nil {
		return 0, err
	}
	defer func() { c.f.close() }()
	c.report.Damaged = nil // what none of these snapshots needs is for Verify to tell
	if err := c.mark(ctx); err != nil {
		return 0, err
	}
	if c.amiss {
		return 0, fmt.Errorf("reading back what was sent: %w: the other vault lacks a part of it", ErrDamaged)
	}
	if err := c.packs(ctx); err != nil {
		return 0, err
	}
	c.finish()
	if err := c.report.Err(); err != nil {
		return 0, fmt.Errorf("reading back what was sent: %w", err)
	}
	return c.report.Packs, nil
}

// record writes the records, all of whose chunks are durable.
func (t *transfer) record(ctx context.Context, records []*record) error {
	if len(records) == 0 {
		if err := t.to.overtaken(ctx); err != nil {
			return err
		}
		return t.to.lock(ctx) // what was found there may be of a time when the store did not lock
	}
	for _, r := range records {
		err := t.to.record(ctx, r, false)
		if errors.Is(err, store.ErrExists) { // another copy was quicker
			_, err = t.to.vault.hasRecord(ctx, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
