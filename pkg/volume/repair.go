package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// RepairOptions adjust a repair. The zero value is fine.
type RepairOptions struct {
	// DryRun changes nothing, and reports what would be done.
	DryRun bool
	// Progress is called from time to time, and once at the end, never from two goroutines at once. Files are packs whose footers
	// were read, and then snapshots; Stored is what was fetched from the store.
	Progress func(Progress)
}

// RepairReport tells what a repair did, or with DryRun would do.
type RepairReport struct {
	DryRun bool `json:"dryRun,omitempty"`
	// Described is how many packs were described in the index anew, from their footers.
	Described int `json:"described"`
	// Salvaged are chunks that were copied from packs without a good footer, and their bytes as they are stored.
	Salvaged Amount `json:"salvaged"`
	// Removed are damaged objects that were deleted because others say the same, or because they only said what to delete.
	Removed []string `json:"removed,omitempty"`
	// Left is what is damaged still: what no repair can bring back, and packs that a prune deletes. It names the hurt files.
	Left *VerifyReport `json:"left"`
}

// Err returns nil if nothing is damaged any more, and otherwise an error that matches ErrDamaged.
func (r *RepairReport) Err() error { return r.Left.Err() }

// Repair mends what can be mended: it describes packs anew whose index objects are lost, damaged or wrong; copies what can be read from
// packs with a damaged footer; removes damaged objects that only say what others say too; and tells what is left. Nothing that
// holds data is deleted. Saves and loads may run meanwhile, but no prune: it could count on an object that is removed.
func (v *Vault) Repair(ctx context.Context, o RepairOptions) (*RepairReport, error) {
	v = v.uncached()
	p := &progress{}
	defer p.report(o.Progress)()
	r := &repair{Vault: v, progress: p, report: &RepairReport{DryRun: o.DryRun}}
	if err := r.run(ctx); err != nil {
		return nil, fmt.Errorf("repairing: %w", err)
	}
	left := &verification{Vault: v, options: VerifyOptions{Level: VerifyFooters}, progress: p, report: &VerifyReport{Level: VerifyFooters}}
	if err := left.run(ctx); err != nil {
		return nil, fmt.Errorf("verifying what was repaired: %w", err)
	}
	left.finish()
	r.report.Left = left.report
	return r.report, nil
}

// repair is one run of Repair.
type repair struct {
	*Vault
	progress *progress
	report   *RepairReport
	x        *index

	mu     sync.Mutex
	broken map[uint32]bool // packs that exist, but not as the index says, or without a good footer
	wrong  map[uint32]bool // packs with a good footer that says something else than the index
}

func (r *repair) run(ctx context.Context) (err error) {
	if err := r.removeCondemned(ctx); err != nil {
		return err
	}
	if r.x, err = r.indexBeside(ctx, nil); err != nil {
		return err
	}
	defer r.x.close()
	if err := r.readFooters(ctx); err != nil {
		return err
	}
	bad := r.badObjects()
	up, upCtx := newUploader(ctx, r.Vault, &progress{}, slices.Clone(r.x.adopted))
	r.report.Described = len(r.x.adopted)
	if err = r.describeAgain(upCtx, up, bad); err == nil {
		err = r.salvage(upCtx, up)
	}
	if !r.report.DryRun {
		err = up.finish(ctx, err)
	}
	if err != nil {
		return err
	}
	return r.remove(ctx, bad) // what says the same is durable
}

// remove deletes objects. One that the store keeps is not reported as removed.
func (r *repair) remove(ctx context.Context, names []string) error {
	for _, name := range names {
		if !r.report.DryRun {
			err := r.store.Delete(ctx, name)
			if errors.Is(err, store.ErrLocked) || errors.Is(err, store.ErrDenied) {
				continue
			}
			if err != nil {
				return err
			}
		}
		r.report.Removed = append(r.report.Removed, name)
	}
	return nil
}

// removeCondemned removes damaged condemned objects: their packs will be condemned again if need be.
func (r *repair) removeCondemned(ctx context.Context) error {
	infos, err := list(ctx, r.store, condemnedPrefix)
	if err != nil {
		return err
	}
	var bad []string
	for _, info := range infos {
		_, err := r.readCondemned(ctx, info)
		if damaged(err) {
			bad = append(bad, info.Name)
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return r.remove(ctx, bad)
}

// readFooters reads the footers of all packs that the index describes.
func (r *repair) readFooters(ctx context.Context) error {
	r.broken, r.wrong = map[uint32]bool{}, map[uint32]bool{}
	r.progress.totalFiles.Store(int64(len(r.x.packs)))
	numbers := make([]uint32, len(r.x.packs))
	for i := range numbers {
		numbers[i] = uint32(i)
	}
	return each(ctx, numbers, func(ctx context.Context, _ int, number uint32) error {
		p := &r.x.packs[number]
		defer r.progress.files.Add(1)
		if p.gone() {
			return nil // it does not exist
		}
		d, err := described{}, error(ErrDamaged)
		if !p.missing {
			d, err = r.readFooter(ctx, p.id, int64(p.size))
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		switch {
		case errors.Is(err, store.ErrNotFound):
		case damaged(err):
			r.broken[number] = true
		case err != nil:
			return err
		case r.x.agrees(number, d) != nil:
			r.wrong[number] = true
		}
		return nil
	})
}

// badObjects returns the index objects that are damaged or wrong.
func (r *repair) badObjects() []string {
	var bad []string
	for _, name := range r.x.damaged {
		if strings.HasPrefix(name, indexPrefix) {
			bad = append(bad, name)
		}
	}
	for _, o := range r.x.objects {
		if slices.ContainsFunc(o.packs, func(n uint32) bool { return r.wrong[n] }) && !slices.Contains(bad, o.name) {
			bad = append(bad, o.name)
		}
	}
	return bad
}

// describeAgain describes the packs that only bad index objects describe, from their footers or, if these are damaged, as before.
func (r *repair) describeAgain(ctx context.Context, up *uploader, bad []string) error {
	described := newBitmap(len(r.x.packs))
	for _, d := range r.x.adopted {
		for i := range r.x.packs {
			if r.x.packs[i].id == d.id {
				described.set(i)
			}
		}
	}
	for _, o := range r.x.objects {
		for _, n := range o.packs {
			if !slices.Contains(bad, o.name) {
				described.set(int(n))
			}
		}
	}
	for i := range r.x.packs {
		p := &r.x.packs[i]
		if described.has(i) || p.gone() {
			continue
		}
		d, err := r.describePack(ctx, uint32(i))
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		r.report.Described++
		if !r.report.DryRun {
			if err := up.describe(ctx, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// describePack describes a pack from its footer or, if that is damaged, as the index does.
func (r *repair) describePack(ctx context.Context, number uint32) (described, error) {
	p := &r.x.packs[number]
	if !r.broken[number] {
		return r.readFooter(ctx, p.id, int64(p.size))
	}
	for _, o := range r.x.objects {
		if !slices.Contains(o.packs, number) {
			continue
		}
		packs, err := r.readIndexObject(ctx, store.Info{Name: o.name, Size: -1})
		if err != nil {
			return described{}, err
		}
		for _, d := range packs {
			if d.id == p.id && d.header == p.header && d.size == p.size {
				return d, nil
			}
		}
	}
	return described{}, fmt.Errorf("object %q: %w", p.id.object(), store.ErrNotFound)
}

// salvage copies what can be read from broken packs, and is nowhere else.
func (r *repair) salvage(ctx context.Context, up *uploader) error {
	c := &copier{Vault: r.Vault, progress: r.progress, data: packer{up: up}, meta: packer{up: up}}
	for number := range r.broken {
		if err := r.salvagePack(ctx, c, number); err != nil && !damaged(err) && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return c.flush(ctx)
}

func (r *repair) salvagePack(ctx context.Context, c *copier, number uint32) error {
	d, err := r.describePack(ctx, number)
	if err != nil {
		return err
	}
	info, err := r.store.Stat(ctx, d.id.object())
	if err != nil {
		return err
	}
	var parts []packedAt
	off := int64(headerSize)
	for _, k := range d.chunks {
		p := packedAt{k, off, false}
		off = p.end()
		elsewhere := slices.ContainsFunc(r.x.find(k.id), func(s slot) bool { return !r.broken[s.pack] && !r.x.packs[s.pack].missing })
		if !elsewhere && p.end() <= info.Size {
			parts = append(parts, p)
			r.report.Salvaged.add(int64(k.stored))
		}
	}
	if r.report.DryRun {
		return nil
	}
	return c.parts(ctx, d.id, r.keys.sealer(d.header[:], d.id.object()), parts)
}
