package volume

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
)

// Verify says how a load makes sure of what it wrote.
type Verify int

const (
	// VerifyWrite trusts the digests taken while writing.
	VerifyWrite Verify = iota
	// VerifyReadback reads all of the target back and compares its roots with what was to be loaded.
	VerifyReadback
)

func (v Verify) String() string {
	if v == VerifyReadback {
		return "Readback"
	}
	return "Write"
}

// Existing says what a load may do to a target that holds something.
type Existing int

const (
	// ExistingRefuse leaves it alone: the load fails with ErrNotEmpty.
	ExistingRefuse Existing = iota
	// ExistingOverwrite makes what the snapshot has as it is there, and leaves everything else.
	ExistingOverwrite
	// ExistingMirror removes what the snapshot does not have, too, but for a lost+found at the top.
	ExistingMirror
)

func (e Existing) String() string {
	switch e {
	case ExistingOverwrite:
		return "overwrite"
	case ExistingMirror:
		return "mirror"
	}
	return "refuse"
}

// UnmarshalText implements encoding.TextUnmarshaler for "refuse", "overwrite" and "mirror".
func (e *Existing) UnmarshalText(text []byte) error {
	for _, known := range []Existing{ExistingRefuse, ExistingOverwrite, ExistingMirror} {
		if string(text) == known.String() {
			*e = known
			return nil
		}
	}
	return fmt.Errorf("existing %q: want refuse, overwrite or mirror", text)
}

// MarshalText implements encoding.TextMarshaler.
func (e Existing) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// LoadOptions adjust a load. The zero value is fine.
type LoadOptions struct {
	// Path is one directory or file of the snapshot, to load alone. Its parts are separated by "/". Empty is all.
	Path     string
	Existing Existing
	// Verify is how to make sure of what was written. VerifyReadback cannot go with ExistingOverwrite, which leaves unknown things
	// in the target.
	Verify Verify
	// Progress is called from time to time, and once at the end, never from two goroutines at once.
	Progress func(Progress)
}

// LoadResult tells what was loaded.
type LoadResult struct {
	Snapshot Snapshot
	Stats    Stats
	// Roots are those of what was loaded: the snapshot's, unless entries of it were unreadable or a Path was given.
	Roots Roots
	// Changed names files that changed while they were saved, so that their bytes may never have been together.
	Changed []string
	// Damaged names objects of the Vault that were found damaged and could be done without.
	Damaged []string
}

// Load writes a snapshot, or a part of it, to target. On return all is on disk and verified as asked for.
//
// A directory is loaded into target, which is made if it does not exist. Until all is there it holds a mark: a file named
// .lockstep-incomplete. A load that was interrupted is taken up by the next, of whatever snapshot: what is right on disk is not
// fetched again. A target that holds anything else is refused with ErrNotEmpty, unless Existing allows more; it is then held
// against the snapshot, and only what differs is fetched and written. No symlink in it is followed.
//
// A file or an image is loaded into the file target, by way of a file beside it whose name ends in .lockstep-incomplete; or, if
// target is a block device, into that. The device must be as large, and not in use. It counts as empty if the first and the
// last of it are zero. What lies behind an image that is smaller stays, but that ExistingMirror makes it zero: then a load that
// was interrupted is taken up, and no byte of what the device held before is left.
//
// When parts of the snapshot are damaged, the error is a *FileErrors that names every file they hurt; everything else was
// loaded, and the target stays marked as unfinished. When only entries are missing that could not be read when they were
// saved, there is a result besides such an error, which matches ErrUnreadable, and no mark.
func (v *Vault) Load(ctx context.Context, id, target string, o LoadOptions) (*LoadResult, error) {
	p := &progress{}
	defer p.report(o.Progress)()
	result, err := v.load(ctx, id, target, o, p)
	if err != nil {
		return result, fmt.Errorf("loading snapshot %q into %q: %w", id, target, err)
	}
	return result, nil
}

func (v *Vault) load(ctx context.Context, id, target string, o LoadOptions, p *progress) (*LoadResult, error) {
	if o.Existing == ExistingOverwrite && o.Verify == VerifyReadback {
		return nil, errors.New("what else is in the target cannot be told from what was loaded: reading back needs it empty or mirrored")
	}
	var err error
	if o.Path, err = cleanPath(o.Path); err != nil {
		return nil, err
	}
	var r *record
	var f *fetcher
	err = both(ctx, func(ctx context.Context) (err error) {
		r, err = v.record(ctx, id)
		return err
	}, func(ctx context.Context) (err error) {
		f, err = v.openFetcher(ctx, p)
		return err
	})
	if f != nil {
		defer f.close()
	}
	if err != nil {
		return nil, err
	}
	if o.Path == "" {
		p.totalFiles.Store(r.Stats.Files)
		p.totalBytes.Store(r.Stats.Bytes + r.Stats.UnchangedBytes)
	}
	result, err := loadTree(ctx, target, r, f, o, p)
	if result != nil {
		result.Snapshot, result.Stats, result.Damaged = r.Snapshot, p.stats(), f.damaged()
	}
	return result, err
}

// cleanPath returns a path in a snapshot as it is kept there; that of the root is empty.
func cleanPath(p string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+p), "/")
	if clean != "" && !validPath(clean) {
		return "", fmt.Errorf("path %q: no entry can have it", p)
	}
	return clean, nil
}

// damaged tells whether an error concerns what a Vault holds, and not whether it can be reached.
func damaged(err error) bool { return errors.Is(err, ErrDamaged) }
