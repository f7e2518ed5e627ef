//go:build unix

package render

import (
	"bytes"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// readFile gives the first bytes of a file, at most so many. What os does beside that, so that goroutines can wait for what is no file,
// takes longer than to read a manifest.
func readFile(name string, most int64) ([]byte, error) {
	file, err := uninterrupted(func() (int, error) { return unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(file)
	var data []byte
	for int64(len(data)) < most {
		data = slices.Grow(data, bytes.MinRead)
		n, err := uninterrupted(func() (int, error) { return unix.Read(file, data[len(data):cap(data)]) })
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			return data, nil
		}
		data = data[:len(data)+n]
	}
	return data[:most], nil
}

// uninterrupted calls again what a signal ended, as it does on some file systems.
func uninterrupted(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR { //nolint:errorlint // it comes out of the kernel
			return n, err
		}
	}
}
