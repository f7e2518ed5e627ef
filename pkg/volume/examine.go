package volume

import (
	"context"
	"errors"
	"fmt"
)

// examination walks the whole tree of a snapshot and names the files that do not load.
type examination struct {
	*verification
	hurt HurtSnapshot
	// The order of records and their roots are verified as long as no part of the tree is lost.
	whole  bool
	merkle merkle
	order  *order
}

// examine names the files of a snapshot that are hurt.
func (c *verification) examine(ctx context.Context, r *record) error {
	e := &examination{verification: c, hurt: HurtSnapshot{ID: r.ID}, whole: true, order: &order{image: r.Image}}
	table, err := c.f.table(ctx, r)
	switch {
	case damaged(err):
		e.lose("", err)
	case err != nil:
		return err
	default:
		if err := e.walk(ctx, r, table); err != nil {
			return err
		}
	}
	if e.hurt.Count > 0 {
		c.report.Hurt = append(c.report.Hurt, e.hurt)
	}
	return nil
}

// lose notes a file that is hurt, or the first path in a lost part of the tree.
func (e *examination) lose(path string, err error) {
	if path == "" {
		path = "."
	}
	if e.hurt.Count++; e.hurt.Count <= maxHurt {
		e.hurt.Files = append(e.hurt.Files, HurtFile{path, err.Error()})
	}
}

// walk visits all segments in their order. A lost one does not keep those behind it from being visited.
func (e *examination) walk(ctx context.Context, r *record, table []segment) error {
	for len(table) > 0 {
		n := min(len(table), treeGroup)
		chunks, errs := make([][]byte, n), make([]error, n)
		wants := make([]want, n)
		for i, s := range table[:n] {
			wants[i] = want{s.digest, func(chunk []byte, err error) error {
				chunks[i], errs[i] = append([]byte(nil), chunk...), err
				return nil
			}}
		}
		if err := e.f.fetch(ctx, wants); err != nil {
			return err
		}
		for i, s := range table[:n] {
			err := errs[i]
			if err == nil {
				err = e.segment(ctx, r, s, chunks[i])
			}
			if err != nil && !damaged(err) {
				return err
			}
			if err != nil {
				e.whole = false
				e.lose(s.path, fmt.Errorf("the tree is lost from here to %s: %w", upTo(table[i+1:]), err))
			}
		}
		table = table[n:]
	}
	if e.whole && !e.order.ended {
		e.lose("", errTree)
	}
	return nil
}

// upTo says where a lost part of the tree ends.
func upTo(rest []segment) string {
	if len(rest) == 0 {
		return "its end"
	}
	return fmt.Sprintf("%q", rest[0].path)
}

func (e *examination) segment(ctx context.Context, r *record, s segment, chunk []byte) error {
	if !e.whole {
		e.order = newOrder(r, s.path)
	}
	return eachRecord(chunk, e.order, func(l located) error {
		if e.whole {
			roots := e.merkle.add(l.entry)
			if l.kind == kindEnd && roots != l.roots || e.order.ended && roots != r.Roots {
				return errTree
			}
		}
		if l.kind != kindFile {
			return nil
		}
		err := e.file(ctx, &l.file)
		if damaged(err) {
			e.lose(l.path(), err)
			return nil
		}
		return err
	})
}

// errLost says that no good place of a chunk is left.
var errLost = fmt.Errorf("%w: a chunk of it is lost", ErrDamaged)

// file returns an error that is ErrDamaged if the file does not load.
func (e *examination) file(ctx context.Context, f *file) error {
	if f.form == formWhole {
		return e.chunk(f.whole)
	}
	digest := newFileHash(f.size)
	err := e.f.eachList(ctx, f, func(number int64, l *spanList) error {
		var lost error
		for _, c := range l.cells {
			lost = errors.Join(lost, e.chunk(c.digest))
		}
		for _, c := range l.chunks {
			lost = errors.Join(lost, e.chunk(c.digest))
		}
		if len(l.cells) > 0 {
			digest.add(number, spanDigest(l.cells))
		}
		if lost != nil {
			return errLost
		}
		return nil
	})
	if err == nil && f.form == formFixed && digest.sum() != f.digest {
		return fmt.Errorf("%w: cells do not make up the file", ErrDamaged)
	}
	return err
}

// chunk returns errLost unless a place of the chunk is good.
func (e *examination) chunk(d Hash) error {
	x := e.x
	id := e.keys.chunkID(d)
	first, found := x.places.number(id)
	for i := range x.find(id) {
		if found && !x.packs[x.places.slots[first+i].pack].missing && !e.bad.has(first+i) {
			return nil
		}
	}
	return errLost
}
