package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// What cannot be read is in the snapshot as such, by every name it has, and says why but not where; all else is there.
func TestKeepGoingPastUnreadable(t *testing.T) {
	v := newVault(t, storetest.NewMemory())
	dir := openDir(t)
	for _, name := range []string{"a", "d/b", "d/c", "e/f", "g/h"} {
		write(t, filepath.Join(dir, name), randomBytes(uint64(len(name)), 5000))
	}
	must(t, os.Link(filepath.Join(dir, "d/b"), filepath.Join(dir, "z")))
	must(t, os.Chmod(filepath.Join(dir, "d/b"), 0))
	must(t, os.Chmod(filepath.Join(dir, "e"), 0))
	var s *volume.Snapshot
	var err error
	unprivileged(t, func() { s, err = v.Save(t.Context(), dir, volume.SaveOptions{KeepGoing: true}) })
	must(t, os.Chmod(filepath.Join(dir, "e"), 0o755))
	var failed *volume.FileErrors
	if s == nil || !errors.As(err, &failed) || !errors.Is(err, os.ErrPermission) || s.Stats.Failed != 3 || s.Stats.Files != 3 {
		t.Fatalf("%+v, %v", s, err)
	}
	var paths []string
	for _, f := range failed.Files {
		paths = append(paths, f.Path)
	}
	if want := []string{"d/b", "e", "z"}; !slices.Equal(paths, want) {
		t.Errorf("failed %q, want %q", paths, want)
	}
	unread := map[string]string{}
	for e, err := range v.Entries(t.Context(), s.ID, "", true) {
		must(t, err)
		if e.Reason != "" {
			unread[e.Path] = e.Reason
		}
	}
	if diff := cmp.Diff(map[string]string{"d/b": "permission denied", "e": "permission denied", "z": "permission denied"}, unread); diff != "" {
		t.Errorf("unreadable (-want +got):\n%s", diff)
	}
	dst := filepath.Join(openDir(t), "x")
	r, err := v.Load(t.Context(), s.ID, dst, volume.LoadOptions{Verify: volume.VerifyReadback})
	if !errors.Is(err, volume.ErrUnreadable) || r == nil {
		t.Fatalf("load: %+v, %v", r, err)
	}
	for _, name := range []string{"a", "d/c", "g/h"} {
		want, errA := os.ReadFile(filepath.Join(dir, name))
		got, errB := os.ReadFile(filepath.Join(dst, name))
		if errA != nil || errB != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, errA, errB)
		}
	}
}

// Some failures leave nothing that a snapshot could be of.
func TestKeepGoingHasLimits(t *testing.T) {
	v := newVault(t, storetest.NewMemory())
	dir := openDir(t)
	write(t, filepath.Join(dir, ".lockstep-incomplete"), []byte("x"))
	s, err := v.Save(t.Context(), dir, volume.SaveOptions{KeepGoing: true})
	wantErr(t, "an unfinished load", err, volume.ErrIncomplete)
	must(t, os.Remove(filepath.Join(dir, ".lockstep-incomplete")))
	must(t, os.Chmod(dir, 0o311))
	unprivileged(t, func() {
		_, openErr := v.Save(t.Context(), dir, volume.SaveOptions{KeepGoing: true})
		wantErr(t, "a directory that cannot be listed", openErr, os.ErrPermission)
	})
	must(t, os.Chmod(dir, 0o777))
	if all, err := v.Snapshots(t.Context()); err != nil || len(all) != 0 || s != nil {
		t.Errorf("%d snapshots, %v", len(all), err)
	}
}
