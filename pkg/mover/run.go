package mover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// maxPaths bounds the paths in a result; the message has room for few more.
const maxPaths = 20

// Open opens the vault at a URL with whatever the mover was given.
type Open func(ctx context.Context, url string) (*volume.Vault, error)

// Run carries out tasks, one after another, with one opened vault. One that fails does not keep the next from being done. After each,
// done is given the results so far, so that they outlive whatever becomes of the mover. Progress goes to stdout, one JSON line at a
// time.
func Run(ctx context.Context, tasks []Task, open Open, stdout io.Writer, done func(Results) error) (Results, error) {
	var v *volume.Vault
	var all Results
	once := func(ctx context.Context, url string) (*volume.Vault, error) {
		if v != nil {
			return v, nil
		}
		opened, err := open(ctx, url)
		if err == nil {
			v = opened
		}
		return opened, err
	}
	for _, t := range tasks {
		all = append(all, runTask(ctx, t, once, open, stdout))
		if err := done(all); err != nil {
			return all, err
		}
	}
	return all, nil
}

func runTask(ctx context.Context, t Task, open, openTo Open, stdout io.Writer) Result {
	r, err := run(ctx, t, open, openTo, json.NewEncoder(stdout))
	if err == nil {
		return r
	}
	r = Result{Snapshot: t.Snapshot, Error: err.Error(), Reason: reasonOf(err)}
	var files *volume.FileErrors
	if errors.As(err, &files) {
		r.Unreadable, r.More = paths(files)
		if t.Live && !slices.ContainsFunc(files.Files, lasting) {
			r.Reason = ReasonFailed
		}
	}
	return r
}

// paths are the first files that something is wrong with, and the number of further ones.
func paths(files *volume.FileErrors) (first []string, more int) {
	for _, f := range files.Files[:min(len(files.Files), maxPaths)] {
		first = append(first, fmt.Sprintf("%q", f.Path))
	}
	return first, max(0, len(files.Files)-maxPaths)
}

// lasting reports whether a file will not be read by another try either. One that is in use may be.
func lasting(f volume.FileError) bool {
	return !errors.Is(f.Err, volume.ErrChanged) && !errors.Is(f.Err, syscall.ESTALE)
}

func run(ctx context.Context, t Task, open, openTo Open, progress *json.Encoder) (Result, error) {
	v, err := open(ctx, t.VaultURL)
	if err != nil {
		return Result{}, err
	}
	// A line that cannot be written is progress that nobody sees; the result does not depend on it.
	var last volume.Progress
	since := time.Now()
	show := func(p volume.Progress) {
		if p != last {
			last, since = p, time.Now()
		}
		idle := int64(time.Since(since).Seconds())
		_ = progress.Encode(Progress{Claim: t.Claim, Bytes: p.Bytes, Total: p.TotalBytes, Files: p.Files, Verifying: p.Verifying, Idle: idle})
	}
	switch t.Action {
	case ActionSave:
		return save(ctx, v, t, show)
	case ActionLoad:
		return load(ctx, v, t, show)
	case ActionCopy:
		to, err := openTo(ctx, t.To)
		if err != nil {
			return Result{}, fmt.Errorf("the vault to copy to: %w", err)
		}
		return copyPoint(ctx, v, to, t, show)
	case ActionPrune:
		return prune(ctx, v, show)
	}
	return Result{}, fmt.Errorf("unknown action %q", t.Action)
}

func save(ctx context.Context, v *volume.Vault, t Task, show func(volume.Progress)) (Result, error) {
	s, err := v.Save(ctx, t.Dir, volume.SaveOptions{Labels: t.Labels, Live: t.Live, Progress: show})
	var changed *volume.FileErrors
	if err != nil && (s == nil || !errors.As(err, &changed)) {
		return Result{}, err
	}
	r := resultOf(s)
	if changed != nil {
		r.Changed, r.More = paths(changed)
	}
	return r, nil
}

// load fills the volume. A directory that an earlier mover filled, and whose result was lost with its pod, is proven instead. A
// device has no place for a mark of an unfinished load, so that it is always held against the snapshot: what differs is written,
// be it the rest of an earlier load or what the storage left of another volume.
func load(ctx context.Context, v *volume.Vault, t Task, show func(volume.Progress)) (Result, error) {
	o := volume.LoadOptions{Progress: show}
	if t.Device {
		o.Existing = volume.ExistingMirror
	}
	if t.Verify != v1alpha1.VerifyWrite {
		o.Verify = volume.VerifyReadback
	}
	reread := v.Reread() // for the volumes before
	_, loadErr := v.Load(ctx, t.Snapshot, t.Dir, o)
	if loadErr != nil && !errors.Is(loadErr, volume.ErrNotEmpty) {
		return Result{}, loadErr
	}
	s, err := v.Snapshot(ctx, t.Snapshot)
	if err != nil {
		return Result{}, err
	}
	r := resultOf(s)
	if r.ContentRoot != t.ContentRoot || r.MetaRoot != t.MetaRoot {
		return Result{}, fmt.Errorf("snapshot %q: %w: the restore point recorded another tree", t.Snapshot, volume.ErrMismatch)
	}
	if loadErr != nil {
		roots, err := volume.Digest(ctx, t.Dir)
		if err != nil {
			return Result{}, err
		}
		if roots != s.Roots {
			return Result{}, loadErr
		}
	}
	r.Stored, r.Verified, r.Reread = 0, true, v.Reread()-reread
	return r, nil
}

func resultOf(s *volume.Snapshot) Result {
	return Result{
		Snapshot: s.ID, Bytes: s.Stats.Size, Stored: s.Stats.Stored, Files: s.Stats.Files,
		ContentRoot: s.Roots.Content.String(), MetaRoot: s.Roots.Meta.String(),
	}
}

// reasonOf sorts errors by what another try could do about them.
func reasonOf(err error) Reason {
	var files *volume.FileErrors
	switch {
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrDenied):
		return ReasonUnavailable
	case errors.Is(err, catalog.ErrRemoved):
		return ReasonRemoved
	case errors.Is(err, volume.ErrDamaged), errors.Is(err, volume.ErrSnapshotNotFound):
		return ReasonDamaged
	case errors.As(err, &files), errors.Is(err, volume.ErrIncomplete):
		return ReasonFiles
	case errors.Is(err, volume.ErrMismatch), errors.Is(err, volume.ErrNotEmpty):
		return ReasonMismatch
	case errors.Is(err, volume.ErrNoVault), errors.Is(err, volume.ErrWrongKey):
		return ReasonVault
	}
	return ReasonFailed
}
