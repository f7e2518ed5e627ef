package fs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/fs"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := fs.Create(t.TempDir())
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

// A directory with nothing in it may be what a filesystem was mounted over. Only Create takes it for a store.
func TestEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := fs.Open(dir); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "mounted") {
		t.Errorf("Open of an empty directory: %v, want ErrUnavailable", err)
	}
	for name, open := range map[string]func(string) (*fs.Store, error){"Create": fs.Create, "Open after Create": fs.Open} {
		if _, err := fs.Create(dir); err != nil {
			t.Fatal(err)
		}
		if s, err := open(dir); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if _, err := s.Stat(t.Context(), "x"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: Stat: %v", name, err)
		}
	}
}

// What a writer that died left behind is neither listed nor in the way, and goes when it is old.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	s, err := fs.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	staging := filepath.Join(dir, ".staging")
	for name, age := range map[string]time.Duration{"old": 25 * time.Hour, "young": 23 * time.Hour} {
		path := filepath.Join(staging, name)
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(t.Context(), "a/b", []byte("x")); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(staging)
	if err != nil || len(left) != 1 || left[0].Name() != "young" {
		t.Errorf("left in staging: %v, %v; want what is young", left, err)
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Name != "a/b" {
			t.Errorf("listed %q, %v", info.Name, err)
		}
	}
}

// A writer gets along with somebody who clears up directories, and does not take one for an object.
func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	s, err := fs.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Put(t.Context(), "a/b/c", nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), "a/b"); err != nil {
			t.Errorf("Delete of a directory: %v", err)
		}
		if err := s.Delete(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
		if err := s.Delete(t.Context(), "a/b"); err != nil {
			t.Errorf("Delete of an empty directory: %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "a", "b")); err != nil {
			t.Errorf("Delete removed a directory: %v", err)
		}
		for _, gone := range []string{"a", ".staging"} {
			if err := os.RemoveAll(filepath.Join(dir, gone)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What lies beside the prefix is not read: a vault has a directory for each node of its index, which are many.
func TestListReadsOnlyBelowThePrefix(t *testing.T) {
	dir := t.TempDir()
	s, err := fs.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		if err := os.MkdirAll(filepath.Join(dir, "documents", fmt.Sprintf("node-%d", i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put(t.Context(), "documents/hold/x", nil); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"documents/hold/", "documents/release/"} {
		allocated := testing.AllocsPerRun(3, func() {
			for _, err := range s.List(t.Context(), prefix) {
				if err != nil {
					t.Fatal(err)
				}
			}
		})
		if allocated > 1000 {
			t.Errorf("List(%q) made %.0f allocations beside 3,000 other directories", prefix, allocated)
		}
	}
}
