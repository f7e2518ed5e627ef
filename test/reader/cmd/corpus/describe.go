//go:build linux

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/test/reader"
)

// describe writes down what is at path, without the engine's help.
func describe(path string) ([]reader.ManifestEntry, error) {
	w := walk{names: map[[2]uint64]string{}}
	err := w.add(path, "")
	return w.entries, err
}

type walk struct {
	entries []reader.ManifestEntry
	names   map[[2]uint64]string // device and inode → first path
}

func (w *walk) add(file, path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return fmt.Errorf("reading %q: %w", file, err)
	}
	e := reader.ManifestEntry{Path: reader.Quote(path), Mode: fmt.Sprintf("%04o", st.Mode&0o7777), UID: st.Uid, GID: st.Gid,
		ModTime: time.Unix(st.Mtim.Unix()).UTC().Format(time.RFC3339Nano)}
	inode := [2]uint64{st.Dev, st.Ino}
	if first, ok := w.names[inode]; ok {
		w.entries = append(w.entries, reader.ManifestEntry{Path: e.Path, Kind: "h", Target: reader.Quote(first)})
		return nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		w.names[inode] = path
	}
	if err := fill(&e, file, st); err != nil {
		return fmt.Errorf("reading %q: %w", file, err)
	}
	w.entries = append(w.entries, e)
	if e.Kind != "d" {
		return nil
	}
	children, err := os.ReadDir(file) // sorted by name
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := w.add(filepath.Join(file, child.Name()), strings.TrimPrefix(path+"/"+child.Name(), "/")); err != nil {
			return err
		}
	}
	return nil
}

// fill says what an entry has of its kind.
func fill(e *reader.ManifestEntry, file string, st unix.Stat_t) (err error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Kind = "d"
	case unix.S_IFREG:
		e.Kind, e.Size = "f", uint64(st.Size)
		if e.SHA256, e.Data, err = content(file, e.Size); err != nil {
			return err
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(file)
		e.Kind, e.Target = "l", reader.Quote(target)
		return err
	case unix.S_IFIFO:
		e.Kind = "p"
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Kind, e.Major, e.Minor = "c", unix.Major(st.Rdev), unix.Minor(st.Rdev)
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			e.Kind = "b"
		}
	}
	e.Xattrs, err = attributes(file)
	return err
}

func content(file string, size uint64) (digest string, data [][2]uint64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", nil, err
	}
	for at := int64(0); at < int64(size); {
		from, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		} else if err != nil {
			return "", nil, err
		}
		if at, err = f.Seek(from, unix.SEEK_HOLE); err != nil {
			return "", nil, err
		}
		data = append(data, [2]uint64{uint64(from), uint64(at)})
	}
	return hex.EncodeToString(h.Sum(nil)), reader.Sparse(data, size), nil
}

func attributes(file string) (map[string]string, error) {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(file, names)
	if err != nil || n == 0 {
		return nil, err
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(file, name, value)
		if err != nil {
			return nil, err
		}
		all[name] = reader.Quote(string(value[:n]))
	}
	return all, nil
}
