package fs

import (
	iofs "io/fs"
	"os"
)

// linked tells whether a directory has a name: one that is open cannot be removed.
func linked(iofs.FileInfo) bool { return true }

// syncDirectory does nothing: directories cannot be synced, and NTFS keeps a journal of its own.
func syncDirectory(*os.File) error { return nil }
