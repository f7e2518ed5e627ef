package volume

import (
	"errors"
	"fmt"
	"strings"
)

// Errors of this package; match them with errors.Is. Errors of the store stay visible below them: in particular,
// store.ErrUnavailable and store.ErrDenied mean that the answer is unknown.
var (
	// ErrNoVault says that the store answered and holds no Vault.
	ErrNoVault = errors.New("the store holds no vault")
	// ErrVaultExists says that the store holds a Vault already.
	ErrVaultExists = errors.New("the store already holds a vault")
	// ErrWrongKey says that none of the given identities opens the Vault.
	ErrWrongKey = errors.New("the key does not open this vault")
	// ErrKeyNotFound says that the Vault proves to have no such key.
	ErrKeyNotFound = errors.New("key not found")
	// ErrLastKey says that a key is not removed, because no other is known to open the Vault.
	ErrLastKey = errors.New("no other key is known to open the vault")
	// ErrSnapshotNotFound says that the snapshot is proven absent from this Vault.
	ErrSnapshotNotFound = errors.New("snapshot not found")
	// ErrSnapshotExists says that the Vault holds another snapshot of this id. It is unchanged.
	ErrSnapshotExists = errors.New("another snapshot has this id")
	// ErrDocumentNotFound says that the document is proven absent from this Vault.
	ErrDocumentNotFound = errors.New("document not found")
	// ErrDocumentExists says that there is a document of that kind and name already. It is unchanged.
	ErrDocumentExists = errors.New("document already exists")
	// ErrDamaged says that an object of the Vault is missing, cut, altered, misplaced, or not of this format.
	ErrDamaged = errors.New("vault object is damaged")
	// ErrPathNotFound says that a snapshot is proven not to have the path.
	ErrPathNotFound = errors.New("path is not in the snapshot")
	// ErrUnreadable says that the snapshot lacks an entry because it could not be read when it was saved.
	ErrUnreadable = errors.New("could not be read when it was saved")
	// ErrNotEmpty says that a directory to load into holds something.
	ErrNotEmpty = errors.New("target directory is not empty")
	// ErrIncomplete says that a directory to save holds a load that was never finished.
	ErrIncomplete = errors.New("directory holds an unfinished load")
	// ErrChanged says that a file changed or vanished while it was read.
	ErrChanged = errors.New("changed while being read")
	// ErrOvertaken says that packs which a save needs were deleted or lost meanwhile. There is no snapshot; to save again helps.
	ErrOvertaken = errors.New("overtaken by a deletion")
	// ErrMismatch says that what was read back from a loaded directory is not what was saved.
	ErrMismatch = errors.New("loaded tree differs from the saved one")
)

// FileError is what went wrong with one file.
type FileError struct {
	Path string // relative to the saved or loaded directory, in the bytes of the filesystem; "." is the directory itself
	Err  error
}

func (e FileError) Error() string { return fmt.Sprintf("%q: %v", e.Path, e.Err) }

// Unwrap returns the cause.
func (e FileError) Unwrap() error { return e.Err }

// FileErrors names every file that could not be saved or loaded, in tree order. Find it with errors.As.
type FileErrors struct {
	Files []FileError
}

// Error names the first few files.
func (e *FileErrors) Error() string {
	const shown = 5
	parts := make([]string, 0, shown+1)
	for i, f := range e.Files {
		if i == shown {
			parts = append(parts, fmt.Sprintf("and %d more", len(e.Files)-shown))
			break
		}
		parts = append(parts, f.Error())
	}
	noun := "files"
	if len(e.Files) == 1 {
		noun = "file"
	}
	return fmt.Sprintf("%d %s failed: %s", len(e.Files), noun, strings.Join(parts, "; "))
}

// Unwrap returns the error of each file.
func (e *FileErrors) Unwrap() []error {
	errs := make([]error, len(e.Files))
	for i, f := range e.Files {
		errs[i] = f
	}
	return errs
}
