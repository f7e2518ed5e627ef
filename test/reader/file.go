package reader

import (
	"errors"
	"fmt"
	"math"
)

// fileContent is what a record says about the chunks of a file.
type fileContent struct {
	form   byte
	digest digest // of the file
	chunk  digest // form 0
	spans  []span
	raw    []byte // form and what it has, as it stands
}

// A span is one of those that are listed.
type span struct {
	number  uint64
	list    []byte
	inChunk bool // the list is not here but in a chunk
	chunk   digest
	length  uint64 // of the list in the chunk
}

// file decodes stamp, flags, size and chunks.
func (e *Entry) file(c *cursor) {
	c.varint()
	c.upTo(1e9-1, "nanoseconds")
	c.uvarint()
	e.Changed = c.upTo(1, "flags") == 1
	e.Size = c.upTo(math.MaxInt64, "size")
	from := c.rest
	f := &e.content
	switch f.form = c.byte(); f.form {
	case 0:
		if e.Size == 0 || e.Size > cellSize {
			c.fail("one chunk of %d bytes", e.Size)
		}
		f.chunk = c.digest()
		f.digest = smallFile(e.Size, f.chunk)
	case 1, 2:
		f.digest = c.digest()
		f.spans = decodeSpans(c, e.Size)
	default:
		c.fail("form %d is unknown", f.form)
	}
	if c.err == nil {
		f.raw = from[:len(from)-len(c.rest)]
	}
}

func decodeSpans(c *cursor, size uint64) (spans []span) {
	number := uint64(0)
	for n := c.uvarint(); n > 0 && c.err == nil; n-- {
		number += c.upTo(math.MaxInt64, "distance")
		if number >= (size+spanSize-1)/spanSize {
			c.fail("span %d of a file of %d bytes", number, size)
		}
		s := span{number: number}
		switch how := c.byte(); how {
		case 0:
			s.list = c.bytes()
		case 1:
			s.inChunk, s.chunk = true, c.digest()
			s.length = c.upTo(maxChunk, "length of a list")
		default:
			c.fail("a list of sort %d", how)
		}
		spans = append(spans, s)
		number++
	}
	return spans
}

// A list says where the bytes of one span are.
type list struct {
	extents []extent
	pieces  []piece
}

// An extent is a part of a span that is no hole.
type extent struct{ start, end uint64 }

// A piece is a chunk: a cell in form 1, where start counts from the start of the span, or part of the extents' bytes in form 2.
type piece struct {
	start, length uint64
	chunk         digest
}

// decodeList decodes the list of a span of that length.
func decodeList(form byte, data []byte, length uint64) (*list, error) {
	c := &cursor{rest: data}
	l := &list{extents: decodeExtents(c, length)}
	switch {
	case c.err != nil:
	case form == 1:
		l.pieces = decodeRuns(c, length)
	default:
		l.pieces = decodeVariable(c, l.extents)
	}
	return l, c.end()
}

func decodeExtents(c *cursor, length uint64) (extents []extent) {
	at := uint64(0)
	n := c.uvarint()
	if n == 0 {
		c.fail("a span without extents")
	}
	for ; n > 0 && c.err == nil; n-- {
		gap := c.upTo(length-at, "distance of an extent")
		size := c.upTo(length-at-gap, "length of an extent")
		if c.err == nil && (size == 0 || gap == 0 && len(extents) > 0) {
			c.fail("an extent that is empty or touches the one before")
		}
		extents = append(extents, extent{at + gap, at + gap + size})
		at += gap + size
	}
	return extents
}

func decodeRuns(c *cursor, length uint64) (pieces []piece) {
	cells := (length + cellSize - 1) / cellSize
	for at := uint64(0); len(c.rest) > 0; {
		gap := c.upTo(cells-at, "distance of a run")
		n := c.upTo(cells-at-gap, "number of cells")
		if n == 0 || gap == 0 && at > 0 {
			c.fail("a run that is empty or touches the one before")
		}
		at += gap
		for ; n > 0 && c.err == nil; n-- {
			start := at * cellSize
			pieces = append(pieces, piece{start, min(cellSize, length-start), c.digest()})
			at++
		}
	}
	return pieces
}

func decodeVariable(c *cursor, extents []extent) (pieces []piece) {
	total := uint64(0)
	for _, e := range extents {
		total += e.end - e.start
	}
	at := uint64(0)
	for len(c.rest) > 0 {
		n := c.upTo(min(maxVariable, total-at), "length of a chunk")
		if n == 0 {
			c.fail("an empty chunk")
		}
		pieces = append(pieces, piece{at, n, c.digest()})
		at += n
	}
	if at != total {
		c.fail("chunks of %d bytes in extents of %d", at, total)
	}
	return pieces
}

// A sink takes bytes of a file at ascending offsets. What it is not given is a hole.
type sink func(offset uint64, data []byte) error

// Content gives write the bytes of the file, at ascending offsets; what it is not given is a hole. It refuses a file whose bytes are not those
// that the record names.
func (v *Vault) Content(e *Entry, write func(offset uint64, data []byte) error) error {
	h := newContentHasher(e.Size)
	both := func(offset uint64, data []byte) error {
		if err := write(offset, data); err != nil {
			return err
		}
		return h.write(offset, data)
	}
	if err := v.content(e, both); err != nil {
		return err
	}
	if h.sum() != e.content.digest {
		return errors.New("the file digest is another")
	}
	return nil
}

func (v *Vault) content(e *Entry, write sink) error {
	if e.content.form == 0 {
		data, err := v.fullChunk(e.content.chunk, e.Size)
		if err != nil {
			return err
		}
		return write(0, data)
	}
	for _, s := range e.content.spans {
		start := s.number * spanSize
		if err := v.span(e.content.form, s, start, min(spanSize, e.Size-start), write); err != nil {
			return fmt.Errorf("span %d: %w", s.number, err)
		}
	}
	return nil
}

// fullChunk is a chunk of that length that is not all zero.
func (v *Vault) fullChunk(d digest, length uint64) ([]byte, error) {
	data, err := v.chunk(d)
	switch {
	case err != nil:
		return nil, err
	case uint64(len(data)) != length:
		return nil, fmt.Errorf("chunk %x has %d bytes where %d belong", d, len(data), length)
	case zeros(data):
		return nil, fmt.Errorf("chunk %x is all zero", d)
	}
	return data, nil
}

func (v *Vault) span(form byte, s span, start, length uint64, write sink) error {
	data := s.list
	if s.inChunk {
		var err error
		if data, err = v.chunk(s.chunk); err != nil {
			return fmt.Errorf("its list: %w", err)
		}
		if uint64(len(data)) != s.length {
			return fmt.Errorf("its list has %d bytes where %d belong", len(data), s.length)
		}
	}
	l, err := decodeList(form, data, length)
	if err != nil {
		return fmt.Errorf("its list: %w", err)
	}
	at := func(offset uint64, data []byte) error { return write(start+offset, data) }
	if form == 1 {
		return v.fixed(l, length, at)
	}
	return v.variable(l, at)
}

// fixed goes through the cells: of each, what lies in an extent is written, and what does not must be zero.
func (v *Vault) fixed(l *list, length uint64, write sink) error {
	blank := make([]byte, cellSize)
	extents, pieces := l.extents, l.pieces
	for start := uint64(0); start < length; start += cellSize {
		cell := blank[:min(cellSize, length-start)]
		if len(pieces) > 0 && pieces[0].start == start {
			data, err := v.fullChunk(pieces[0].chunk, pieces[0].length)
			if err != nil {
				return err
			}
			cell, pieces = data, pieces[1:]
		}
		end, at := start+uint64(len(cell)), start
		for len(extents) > 0 && extents[0].start < end {
			from, to := max(start, extents[0].start), min(end, extents[0].end)
			if !zeros(cell[at-start : from-start]) {
				return fmt.Errorf("the hole at %d has bytes", at)
			}
			if err := write(from, cell[from-start:to-start]); err != nil {
				return err
			}
			if at = to; extents[0].end > end {
				break
			}
			extents = extents[1:]
		}
		if !zeros(cell[at-start:]) {
			return fmt.Errorf("the hole at %d has bytes", at)
		}
	}
	return nil
}

// variable lays the chunks, one after the other, into the extents.
func (v *Vault) variable(l *list, write sink) error {
	extents := l.extents
	at := extents[0].start
	for i, p := range l.pieces {
		data, err := v.chunk(p.chunk)
		if err != nil {
			return err
		}
		if uint64(len(data)) != p.length {
			return fmt.Errorf("chunk %x has %d bytes where %d belong", p.chunk, len(data), p.length)
		}
		v.seen(data, i == len(l.pieces)-1)
		for len(data) > 0 {
			n := min(uint64(len(data)), extents[0].end-at)
			if err := write(at, data[:n]); err != nil {
				return err
			}
			data = data[n:]
			if at += n; at == extents[0].end && len(extents) > 1 {
				extents = extents[1:]
				at = extents[0].start
			}
		}
	}
	return nil
}
