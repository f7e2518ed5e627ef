package fs_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/fs"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := fs.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// A directory that is not there, or no longer, is not an empty store.
func TestMissingDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if _, err := fs.Open(dir); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Open: %v, want ErrUnavailable", err)
	}
	s, err := fs.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "config", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "config", 0, -1); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get in a removed store: %v, want ErrUnavailable", err)
	}
	if _, err := s.Stat(t.Context(), "config"); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Stat in a removed store: %v, want ErrUnavailable", err)
	}
	var last error
	for _, err := range s.List(t.Context(), "") {
		last = err
	}
	if !errors.Is(last, store.ErrUnavailable) {
		t.Errorf("List of a removed store: %v, want ErrUnavailable", last)
	}
}

// What a writer that died left behind is neither listed nor in the way.
func TestStagingIsInvisible(t *testing.T) {
	dir := t.TempDir()
	s, err := fs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, ".staging"))
	if err != nil || len(left) != 0 {
		t.Errorf("Put left %v in staging, %v", left, err)
	}
	if err := os.WriteFile(filepath.Join(dir, ".staging", "half"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Name != "a/b" {
			t.Errorf("listed %q, %v", info.Name, err)
		}
	}
}
