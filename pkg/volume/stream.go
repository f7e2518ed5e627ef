package volume

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// A stretch is so many bytes of a stream, or so many steps, that are fetched together.
	stretchBytes = 16 << 20
	stretchSteps = 8192
	// stretchesAhead is how many are fetched ahead of the one being written.
	stretchesAhead = 3
)

// Cat writes the bytes of a file of a snapshot to w, holes as zeros; of an image if path is empty. What it wrote before an error
// is right as far as it goes. It returns ErrPathNotFound if the snapshot proves not to have the path.
func (v *Vault) Cat(ctx context.Context, id, path string, w io.Writer) error {
	err := v.stream(ctx, id, path, func(ctx context.Context, s *streamer) error { return s.cat(ctx) }, func(st step) error {
		return st.writeTo(w)
	})
	if err != nil {
		return fmt.Errorf("writing %q of snapshot %q: %w", path, id, err)
	}
	return nil
}

// Tar writes what is at path in a snapshot, and all below it, to w as a tar archive in the PAX format: names relative to path,
// extended attributes and ACLs as GNU tar has them, holes as zeros. Entries that could not be read when they were saved are
// left out and named in a *FileErrors, which matches ErrUnreadable, after all else was written.
func (v *Vault) Tar(ctx context.Context, id, path string, w io.Writer) error {
	archive := tar.NewWriter(w)
	var missing FileErrors
	err := v.stream(ctx, id, path, func(ctx context.Context, s *streamer) error { return s.tar(ctx, &missing) }, func(st step) error {
		if st.header != nil {
			return archive.WriteHeader(st.header)
		}
		return st.writeTo(archive)
	})
	if err == nil {
		err = archive.Close()
	}
	if err == nil && len(missing.Files) > 0 {
		err = &missing
	}
	if err != nil {
		return fmt.Errorf("archiving %q of snapshot %q: %w", path, id, err)
	}
	return nil
}

// step is what is written to a stream next: a header, a part of a chunk, or zeros.
type step struct {
	header   *tar.Header
	digest   Hash
	from, to int64 // of the chunk
	chunk    []byte
	zeros    int64
}

func (s step) writeTo(w io.Writer) error {
	if _, err := w.Write(s.chunk); err != nil {
		return err
	}
	for zeros := make([]byte, min(s.zeros, cellSize)); s.zeros > 0; s.zeros -= int64(len(zeros)) {
		zeros = zeros[:min(s.zeros, cellSize)]
		if _, err := w.Write(zeros); err != nil {
			return err
		}
	}
	return nil
}

// stretch is a part of a stream whose chunks are fetched together.
type stretch struct {
	steps []step
	bytes int64
	ready chan struct{} // closed when the chunks are there
}

// streamer finds out what a stream is made of, and has it fetched, a few stretches ahead of the one that is being written.
type streamer struct {
	*fetcher
	record  *record
	path    string
	links   linker
	current *stretch
	g       *errgroup.Group
	ahead   chan *stretch
}

// stream writes what plan plans.
func (v *Vault) stream(ctx context.Context, id, path string, plan func(context.Context, *streamer) error, write func(step) error) error {
	path, err := cleanPath(path)
	if err != nil {
		return err
	}
	r, err := v.record(ctx, id)
	if err != nil {
		return err
	}
	f, err := v.openFetcher(ctx, &progress{})
	if err != nil {
		return err
	}
	defer f.close()
	g, ctx := errgroup.WithContext(ctx)
	s := &streamer{fetcher: f, record: r, path: path, links: linker{fetcher: f, record: r, base: path}, current: &stretch{}, g: g,
		ahead: make(chan *stretch, stretchesAhead-1)}
	g.Go(func() error {
		defer close(s.ahead)
		if err := plan(ctx, s); err != nil {
			return err
		}
		return s.flush(ctx)
	})
	g.Go(func() error {
		for w := range s.ahead {
			select {
			case <-w.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			for _, st := range w.steps {
				if err := write(st); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return g.Wait()
}

// add puts a step into the stream.
func (s *streamer) add(ctx context.Context, st step) error {
	s.current.steps = append(s.current.steps, st)
	s.current.bytes += st.to - st.from
	if s.current.bytes < stretchBytes && len(s.current.steps) < stretchSteps {
		return nil
	}
	return s.flush(ctx)
}

// flush starts to fetch the stretch. It waits while enough are ahead.
func (s *streamer) flush(ctx context.Context) error {
	w := s.current
	s.current = &stretch{}
	w.ready = make(chan struct{})
	select {
	case s.ahead <- w:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.g.Go(func() error {
		if err := s.fetch(ctx, w.wants()); err != nil {
			return err
		}
		close(w.ready)
		return nil
	})
	return nil
}

func (w *stretch) wants() []want {
	var wants []want
	for i := range w.steps {
		st := &w.steps[i]
		if st.to == 0 {
			continue
		}
		wants = append(wants, want{st.digest, func(chunk []byte, err error) error {
			if err == nil && st.to > int64(len(chunk)) {
				err = fmt.Errorf("%w: a chunk is too short", ErrDamaged)
			}
			if err == nil {
				st.chunk = bytes.Clone(chunk[st.from:st.to])
			}
			return err
		}})
	}
	return wants
}

// cat plans the bytes of the file at the path.
func (s *streamer) cat(ctx context.Context) error {
	var found *entry
	err := s.subtree(ctx, s.record, s.path, func(e *entry) error {
		if found == nil {
			found = e
		}
		if found.kind == kindDir {
			return errors.New("it is a directory")
		}
		return nil
	})
	if err == nil && found.kind == kindHard {
		found, err = s.links.find(ctx, found.target)
	}
	switch {
	case err != nil:
		return err
	case found.kind == kindError:
		return fmt.Errorf("%w: %s", ErrUnreadable, found.target)
	case found.kind != kindFile:
		return fmt.Errorf("it is no file but a %s", found.kind.name())
	}
	return s.content(ctx, &found.file)
}

// content plans the bytes of a file.
func (s *streamer) content(ctx context.Context, f *file) error {
	if f.form == formWhole {
		return s.add(ctx, step{digest: f.whole, to: f.size})
	}
	c := content{streamer: s, ctx: ctx}
	err := s.eachList(ctx, f, func(number int64, l *spanList) error {
		start := number * spanSize
		if f.form == formVariable {
			return c.chunks(start, l)
		}
		for _, cell := range l.cells {
			if err := c.chunk(start+int64(cell.number)*cellSize, cell.digest, 0, cellLength(spanLength(f.size, number), cell.number)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.zeros(f.size)
}

// content is how far a file is planned.
type content struct {
	*streamer
	ctx context.Context
	end int64
}

// zeros plans zeros up to an offset.
func (c *content) zeros(to int64) error {
	if to == c.end {
		return nil
	}
	st := step{zeros: to - c.end}
	c.end = to
	return c.add(c.ctx, st)
}

// chunk plans a part of a chunk at an offset.
func (c *content) chunk(off int64, d Hash, from, to int64) error {
	if err := c.zeros(off); err != nil {
		return err
	}
	c.end = off + to - from
	return c.add(c.ctx, step{digest: d, from: from, to: to})
}

// chunks plans the chunks of a span, which are the bytes of its extents.
func (c *content) chunks(start int64, l *spanList) error {
	todo, from := l.chunks, int64(0)
	for _, x := range l.extents {
		for off := x.off; off < x.off+x.length; {
			n := min(todo[0].length-from, x.off+x.length-off)
			if err := c.chunk(start+off, todo[0].digest, from, from+n); err != nil {
				return err
			}
			off, from = off+n, from+n
			if from == todo[0].length {
				todo, from = todo[1:], 0
			}
		}
	}
	return nil
}

// tar plans an archive.
func (s *streamer) tar(ctx context.Context, missing *FileErrors) error {
	if s.record.Image {
		return errors.New("it is an image and has no files")
	}
	var dirs []string // that are open, with what is before them
	return s.subtree(ctx, s.record, s.path, func(e *entry) (err error) {
		if e.kind == kindEnd {
			dirs = dirs[:len(dirs)-1]
			return nil
		}
		at := e.name // in the archive
		if len(dirs) > 0 {
			at = path.Join(dirs[len(dirs)-1], e.name)
		} else if e.kind == kindDir {
			at = "."
		}
		if e.kind == kindDir {
			dirs = append(dirs, at)
		}
		if e.kind == kindError {
			missing.Files = append(missing.Files, FileError{path.Join(s.path, at), fmt.Errorf("%w: %s", ErrUnreadable, e.target)})
			return nil
		}
		if e.kind == kindHard {
			if e, err = s.links.resolve(ctx, e, at); err != nil {
				return err
			}
		}
		header, err := e.header(at)
		if err == nil {
			err = s.add(ctx, step{header: header})
		}
		if err == nil && e.kind == kindFile {
			err = s.content(ctx, &e.file)
		}
		return err
	})
}

// header returns what an archive says about an entry.
func (e *entry) header(name string) (*tar.Header, error) {
	h := &tar.Header{Format: tar.FormatPAX, Name: name, Mode: int64(e.mode), Uid: int(e.uid), Gid: int(e.gid), ModTime: time.Unix(e.sec, int64(e.nsec))}
	switch e.kind {
	case kindDir:
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
	case kindFile:
		h.Typeflag, h.Size = tar.TypeReg, e.size
	case kindLink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.target
	case kindHard:
		h.Typeflag, h.Linkname = tar.TypeLink, e.target
	case kindFIFO:
		h.Typeflag = tar.TypeFifo
	case kindChar, kindBlock:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(e.major), int64(e.minor)
		if e.kind == kindBlock {
			h.Typeflag = tar.TypeBlock
		}
	}
	for _, x := range e.xattrs {
		key, value, err := x.record()
		if err != nil {
			return nil, err
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[key] = value
	}
	return h, nil
}

// record returns an attribute as archives have it.
func (x xattr) record() (key, value string, err error) {
	switch x.name {
	case "system.posix_acl_access":
		value, err = aclText(x.value)
		return "SCHILY.acl.access", value, err
	case "system.posix_acl_default":
		value, err = aclText(x.value)
		return "SCHILY.acl.default", value, err
	}
	return "SCHILY.xattr." + strings.NewReplacer("%", "%25", "=", "%3D").Replace(x.name), x.value, nil
}

// aclText returns a POSIX ACL, as Linux keeps it in an attribute, in its long text form with numbers for names.
func aclText(value string) (string, error) {
	tags := map[uint16]string{1: "user:", 2: "user:%d", 4: "group:", 8: "group:%d", 16: "mask:", 32: "other:"}
	b := []byte(value)
	if len(b) < 4 || binary.LittleEndian.Uint32(b) != 2 || len(b)%8 != 4 {
		return "", fmt.Errorf("%w: not an ACL", ErrDamaged)
	}
	var text strings.Builder
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm := tags[binary.LittleEndian.Uint16(b)], binary.LittleEndian.Uint16(b[2:])
		if tag == "" {
			return "", fmt.Errorf("%w: not an ACL", ErrDamaged)
		}
		if strings.Contains(tag, "%") {
			tag = fmt.Sprintf(tag, binary.LittleEndian.Uint32(b[4:]))
		}
		mode := []byte("---")
		for i, letter := range []byte("rwx") {
			if perm&(4>>i) != 0 {
				mode[i] = letter
			}
		}
		fmt.Fprintf(&text, "%s:%s\n", tag, mode)
	}
	return text.String(), nil
}
