//go:build unix

package fs

import (
	iofs "io/fs"
	"os"
	"syscall"
)

// linked tells whether a directory has a name.
func linked(dir iofs.FileInfo) bool {
	stat, ok := dir.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink > 0
}

// syncDirectory has the entries of a directory reach the disk.
func syncDirectory(dir *os.File) error { return dir.Sync() }
