package fs_test

import (
	iofs "io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/store/fs"
)

// The controller and the movers are different users with one group.
func TestAStoreIsSharedByItsDirectorysGroup(t *testing.T) {
	for _, c := range []struct {
		name            string
		root, dir, file iofs.FileMode
	}{
		{"private", 0o700, 0o700, 0o600},
		{"shared", 0o770 | iofs.ModeSetgid, 0o770 | iofs.ModeSetgid, 0o660},
		{"readable", 0o755, 0o750, 0o640},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, c.root); err != nil {
				t.Fatal(err)
			}
			s, err := fs.Create(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Put(t.Context(), "packs/a", []byte("data")); err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]iofs.FileMode{"packs": c.dir | iofs.ModeDir, "packs/a": c.file} {
				info, err := os.Stat(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode() != want {
					t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
				}
			}
		})
	}
}
