package reader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// ReadFile returns the bytes of a file of at most limit bytes.
func (v *Vault) ReadFile(e *Entry, limit uint64) ([]byte, error) {
	if e.Size > limit {
		return nil, fmt.Errorf("%q has %d bytes, more than %d", e.Path, e.Size, limit)
	}
	data := make([]byte, e.Size)
	err := v.Content(e, func(offset uint64, part []byte) error {
		copy(data[offset:], part)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%q: %w", e.Path, err)
	}
	return data, nil
}

// ErrLeftOut is in the error of an Extract that was complete but for what it does not make: devices, FIFOs, owners and attributes.
var ErrLeftOut = errors.New("left out")

// Extract makes the tree in dir, which must be empty: directories, files with their holes, symlinks and hard links, with mode and
// modification time. An image becomes the file dir/image.
func (v *Vault) Extract(s *Snapshot, dir string) error {
	if entries, err := os.ReadDir(dir); err != nil {
		return err
	} else if len(entries) > 0 {
		return fmt.Errorf("%s is not empty", dir)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	x := extractor{v: v, root: root}
	if err := v.Walk(s, x.entry); err != nil {
		return err
	}
	for i := len(x.dirs) - 1; i >= 0; i-- { // what is made in a directory changes its time
		if err := x.finish(x.dirs[i]); err != nil {
			return err
		}
	}
	return errors.Join(x.leftOut...)
}

type extractor struct {
	v       *Vault
	root    *os.Root
	dirs    []*Entry
	leftOut []error
}

func (x *extractor) entry(e *Entry) error {
	path := e.place()
	switch e.Kind {
	case Dir:
		x.dirs = append(x.dirs, e)
		if e.Path == "" {
			return nil
		}
		return x.root.Mkdir(path, 0o700)
	case File:
		if err := x.file(e); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		return x.finish(e)
	case Symlink:
		return x.root.Symlink(e.Target, path)
	case Hardlink:
		return x.root.Link(e.Target, path)
	}
	x.leftOut = append(x.leftOut, fmt.Errorf("%w: %s", ErrLeftOut, e))
	return nil
}

// place is where Extract puts the entry.
func (e *Entry) place() string {
	switch {
	case e.Path != "":
		return e.Path
	case e.Kind == File:
		return "image"
	}
	return "."
}

func (x *extractor) file(e *Entry) error {
	f, err := x.root.OpenFile(e.place(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = x.v.Content(e, func(offset uint64, data []byte) error {
		_, err := f.WriteAt(data, int64(offset))
		return err
	})
	return errors.Join(err, f.Truncate(int64(e.Size)), f.Close())
}

// finish sets mode and time.
func (x *extractor) finish(e *Entry) error {
	mode := fs.FileMode(e.Mode & 0o777)
	for bit, m := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if e.Mode&bit != 0 {
			mode |= m
		}
	}
	at := time.Unix(e.Sec, int64(e.Nsec))
	return errors.Join(x.root.Chmod(e.place(), mode), x.root.Chtimes(e.place(), at, at))
}
