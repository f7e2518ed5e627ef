package volume

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// parentBatch is how many records of the parent's tree are handed over at once, and parentBatches how many batches wait.
	parentBatch   = 256
	parentBatches = 4
	// racy is how long before its snapshot a file must have changed last. One that changed later may have changed once more
	// within the resolution of its time stamps.
	racy = 2 * time.Second
)

// parent is the tree of an earlier snapshot, read beside the walk: both are in the same order. A nil parent has no files.
type parent struct {
	saver   *saver
	batches chan []*entry
	stopped chan struct{} // the walk needs no more
	batch   []*entry      // its first is the record that comes next
	missing int           // open directories that the parent does not have
}

func newParent(s *saver) *parent {
	return &parent{saver: s, batches: make(chan []*entry, parentBatches), stopped: make(chan struct{})}
}

// read reads the tree, for the walk to take. If it is damaged it ends early: what is not found unchanged is read.
func (p *parent) read(ctx context.Context) error {
	defer close(p.batches)
	errStopped := errors.New("stopped")
	batch := make([]*entry, 0, parentBatch)
	send := func() error {
		select {
		case p.batches <- batch:
			batch = make([]*entry, 0, parentBatch)
			return nil
		case <-p.stopped:
			return errStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	table, err := p.saver.fetcher.table(ctx, p.saver.parent)
	if err == nil {
		err = p.saver.fetcher.records(ctx, table, func(e *entry) error {
			if batch = append(batch, e); len(batch) == parentBatch {
				return send()
			}
			return nil
		})
	}
	if err == nil {
		err = send()
	}
	if errors.Is(err, ErrDamaged) || errors.Is(err, errStopped) {
		return nil
	}
	return err
}

// stop ends read.
func (p *parent) stop() {
	if p != nil {
		close(p.stopped)
	}
}

// next returns the record that comes next, or nil at the end.
func (p *parent) next() *entry {
	for len(p.batch) == 0 {
		batch, more := <-p.batches
		if !more {
			return nil
		}
		p.batch = batch
	}
	return p.batch[0]
}

// pass passes over a record and, if it begins a directory, all that is in it.
func (p *parent) pass() {
	for depth := 0; p.next() != nil; {
		switch p.batch[0].kind {
		case kindDir:
			depth++
		case kindEnd:
			depth--
		}
		if p.batch = p.batch[1:]; depth <= 0 {
			return
		}
	}
}

// find returns the record of a name in the directory that is being walked, or nil. Names come in ascending order.
func (p *parent) find(name string) *entry {
	if p == nil || p.missing > 0 {
		return nil
	}
	e := p.next()
	for e != nil && e.kind != kindEnd && e.name < name {
		p.pass()
		e = p.next()
	}
	if e == nil || e.kind == kindEnd || e.name != name {
		return nil
	}
	return e
}

// enter begins a directory, and leave ends it.
func (p *parent) enter(name string) {
	switch e := p.find(name); {
	case p == nil:
	case e == nil || e.kind != kindDir:
		p.missing++
	default:
		p.batch = p.batch[1:]
	}
}

func (p *parent) leave() {
	switch {
	case p == nil:
	case p.missing > 0:
		p.missing--
	default:
		for e := p.next(); e != nil && e.kind != kindEnd; e = p.next() {
			p.pass()
		}
		if p.next() != nil {
			p.batch = p.batch[1:]
		}
	}
}

// unchanged returns the record of a file that looks as it did, or nil.
func (p *parent) unchanged(name string, st *unix.Stat_t) *entry {
	e := p.find(name)
	if e == nil || e.kind != kindFile || e.flags != 0 || e.size != st.Size {
		return nil
	}
	settled := p.saver.parent.Created.Add(-racy)
	if modified := time.Unix(st.Mtim.Unix()); !modified.Before(settled) || !modified.Equal(time.Unix(e.sec, int64(e.nsec))) {
		return nil
	}
	if p.saver.detect == DetectStrict && (e.stamp != newStamp(st) || !time.Unix(st.Ctim.Unix()).Before(settled)) {
		return nil
	}
	return e
}

// keep completes the entry of a file that looks unchanged, if the Vault has all of its chunks.
func (r *reader) keep(ctx context.Context, f *inFile) bool {
	bytes, err := r.parent.chunks(ctx, &f.old.file)
	switch {
	case errors.Is(err, ErrDamaged):
		return false
	case err != nil:
		r.abort(err)
		return false
	}
	xattrs := f.old.xattrs
	if r.parent.saver.detect != DetectStrict { // else they cannot have changed
		if xattrs, err = f.readXattrs(); err != nil {
			return false
		}
	}
	f.entry.file, f.entry.xattrs = f.old.file, xattrs
	f.entry.stamp = newStamp(&f.stat)
	r.progress.unchanged.Add(1)
	r.progress.unchangedBytes.Add(bytes)
	return true
}

func (f *inFile) readXattrs() ([]xattr, error) {
	if f.fd >= 0 {
		return fdXattrs(f.fd)
	}
	return pathXattrs(entryPath(f.dir.fd, f.entry.name))
}

// chunks makes sure that the Vault has all chunks of a file, and returns how many bytes they are. If it lacks one the error is
// ErrDamaged.
func (p *parent) chunks(ctx context.Context, f *file) (bytes int64, err error) {
	if f.form == formWhole {
		return f.size, p.need(f.whole)
	}
	for _, s := range f.spans {
		if s.inline == nil {
			if err := p.need(s.list); err != nil {
				return 0, err
			}
		}
	}
	err = p.saver.fetcher.eachList(ctx, f, func(_ int64, l *spanList) error {
		for _, x := range l.extents {
			bytes += x.length
		}
		for _, c := range l.cells {
			if err := p.need(c.digest); err != nil {
				return err
			}
		}
		for _, c := range l.chunks {
			if err := p.need(c.digest); err != nil {
				return err
			}
		}
		return nil
	})
	return bytes, err
}

func (p *parent) need(d Hash) error {
	if !p.saver.has(p.saver.vault.keys.chunkID(d)) {
		return ErrDamaged
	}
	return nil
}
