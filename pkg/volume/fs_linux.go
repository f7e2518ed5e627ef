package volume

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// retry repeats a system call that a signal interrupted.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

func retry0(call func() error) error {
	_, err := retry(func() (struct{}, error) { return struct{}{}, call() })
	return err
}

func fstat(fd int, st *unix.Stat_t) error {
	return retry0(func() error { return unix.Fstat(fd, st) })
}

func fstatat(dir int, name string, st *unix.Stat_t) error {
	return vanished(retry0(func() error { return unix.Fstatat(dir, name, st, unix.AT_SYMLINK_NOFOLLOW) }))
}

// vanished says so when an entry that a directory listed is gone.
func vanished(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: %w", ErrChanged, err)
	}
	return err
}

// openRoot opens the directory that a tree is in. It may be named by a symlink.
func openRoot(dir string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := retry(func() (int, error) { return unix.Open(dir, flags|unix.O_NOATIME, 0) })
	if errors.Is(err, unix.EPERM) {
		fd, err = retry(func() (int, error) { return unix.Open(dir, flags, 0) })
	}
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// openNoAtime opens an entry of a directory for reading, not through a symlink, and without changing its access time
// where that is allowed.
func openNoAtime(dir int, name string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NOCTTY
	fd, err := retry(func() (int, error) { return unix.Openat(dir, name, flags|unix.O_NOATIME, 0) })
	if errors.Is(err, unix.EPERM) {
		fd, err = retry(func() (int, error) { return unix.Openat(dir, name, flags, 0) })
	}
	return fd, vanished(err)
}

// readNames returns the sorted names in an open directory.
func readNames(fd int) ([]string, error) {
	dup, err := retry(func() (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "directory")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// readFull reads len(b) bytes at off. A file that ends earlier was changed.
func readFull(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := retry(func() (int, error) { return unix.Pread(fd, b, off) })
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%w: %w", ErrChanged, io.ErrUnexpectedEOF)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

func writeFull(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := retry(func() (int, error) { return unix.Pwrite(fd, b, off) })
		if err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// changed tells whether an inode was modified between two looks.
func changed(a, b *unix.Stat_t) bool { return a.Mtim != b.Mtim || a.Ctim != b.Ctim }

// setMeta copies what all kinds have from an inode.
func (e *entry) setMeta(st *unix.Stat_t) {
	e.mode = st.Mode & maxMode
	e.uid, e.gid = st.Uid, st.Gid
	e.sec, e.nsec = int64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
}

// setSpecial completes the entry of something that is neither directory nor file.
func (e *entry) setSpecial(dir int, st *unix.Stat_t) (err error) {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		e.kind = kindLink
		e.target, err = readLink(dir, e.name)
	case unix.S_IFIFO:
		e.kind = kindFIFO
	case unix.S_IFCHR:
		e.kind = kindChar
	case unix.S_IFBLK:
		e.kind = kindBlock
	default:
		return fmt.Errorf("unknown kind of file: mode %o", st.Mode)
	}
	if e.kind == kindChar || e.kind == kindBlock {
		e.major, e.minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	if err == nil {
		e.xattrs, err = pathXattrs(entryPath(dir, e.name))
	}
	return err
}

func readLink(dir int, name string) (string, error) {
	b := make([]byte, unix.PathMax)
	n, err := retry(func() (int, error) { return unix.Readlinkat(dir, name, b) })
	if err != nil {
		return "", vanished(err)
	}
	return string(b[:n]), nil
}

// entryPath names an entry of an open directory for system calls that take no directory. Only its last part, which those
// calls do not follow, is under the control of whoever owns the tree.
func entryPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

func fdXattrs(fd int) ([]xattr, error) {
	return readXattrs(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
}

func pathXattrs(path string) ([]xattr, error) {
	return readXattrs(func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(name string, b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
}

func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) (xattrs []xattr, err error) {
	names, err := sized(list)
	if errors.Is(err, unix.ENOTSUP) || len(names) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing attributes: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if !keepXattr(name) {
			continue
		}
		value, err := sized(func(b []byte) (int, error) { return get(name, b) })
		if err != nil {
			return nil, fmt.Errorf("reading attribute %q: %w", name, err)
		}
		xattrs = append(xattrs, xattr{name, string(value)})
	}
	slices.SortFunc(xattrs, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return xattrs, nil
}

// sized reads a value whose size must be asked for, and may grow before it is read.
func sized(read func([]byte) (int, error)) ([]byte, error) {
	for {
		n, err := retry(func() (int, error) { return read(nil) })
		if err != nil || n == 0 {
			return nil, err
		}
		b := make([]byte, n)
		n, err = retry(func() (int, error) { return read(b) })
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		return b[:max(n, 0)], err
	}
}
