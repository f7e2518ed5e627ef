package cached_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/cached"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return cached.New(mem.New(), t.TempDir(), 1<<20, "") })
}

// readAll lists and reads everything, as users of many objects do.
func readAll(t *testing.T, s store.Store, prefix string) (objects map[string][]byte) {
	t.Helper()
	objects = map[string][]byte{}
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		objects[info.Name] = nil
		data, err := s.Get(t.Context(), info.Name, 0, info.Size)
		if err != nil {
			t.Fatal(err)
		}
		objects[info.Name] = data
	}
	return objects
}

func filled(t *testing.T, n, size int) *storetest.Memory {
	t.Helper()
	s := storetest.NewMemory()
	for i := range n {
		if err := s.Put(t.Context(), fmt.Sprintf("index/%d", i), bytes.Repeat([]byte{byte(i)}, size)); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestReadsOnce(t *testing.T) {
	s, dir := filled(t, 10, 100), filepath.Join(t.TempDir(), "made/later")
	if err := s.Put(t.Context(), "packs/x", []byte("large")); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		c := cached.New(s, dir, 1<<20, "index/")
		s.SetFaults(nil)
		got := readAll(t, c, "")
		if len(got) != 11 || !bytes.Equal(got["index/7"], bytes.Repeat([]byte{7}, 100)) || string(got["packs/x"]) != "large" {
			t.Fatalf("read %q", got)
		}
		want := 1 // what is not to be kept
		if i == 0 {
			want = 11
		}
		if n := s.Count(storetest.Get); n != want {
			t.Errorf("round %d: %d objects were read from the store, want %d", i, n, want)
		}
	}
}

// What others delete is not found, though there is a copy.
func TestDeletedIsNotFound(t *testing.T) {
	s := filled(t, 2, 10)
	c := cached.New(s, t.TempDir(), 1<<20, "index/")
	readAll(t, c, "")
	if err := s.Delete(t.Context(), "index/0"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "index/0", 0, -1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("reading what was deleted: %v", err)
	}
	if left := readAll(t, c, ""); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// Whatever becomes of the directory, what is read is right.
func TestDirectoryMayBeAnything(t *testing.T) {
	want := readAll(t, filled(t, 5, 1000), "")
	for name, spoil := range map[string]func(dir string) error{
		"vanished": os.RemoveAll,
		"no directory": func(dir string) error {
			return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o600))
		},
		"garbage": func(dir string) error {
			return eachFile(dir, func(path string, data []byte) error {
				data[len(data)/2] ^= 1
				return os.WriteFile(path, data, 0o600)
			})
		},
		"cut": func(dir string) error {
			return eachFile(dir, func(path string, _ []byte) error { return os.Truncate(path, 7) })
		},
		"exchanged": func(dir string) error {
			var last []byte
			return eachFile(dir, func(path string, data []byte) error {
				defer func() { last = data }()
				return os.WriteFile(path, last, 0o600)
			})
		},
		"directories": func(dir string) error {
			return eachFile(dir, func(path string, _ []byte) error {
				return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := filled(t, 5, 1000), filepath.Join(t.TempDir(), "cache")
			c := cached.New(s, dir, 1<<20, "index/")
			for range 3 {
				for n, data := range readAll(t, c, "") {
					if !bytes.Equal(data, want[n]) {
						t.Errorf("%s is %q", n, data)
					}
				}
				if err := spoil(dir); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func eachFile(dir string, do func(path string, data []byte) error) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if errors.Is(err, syscall.EISDIR) {
			continue
		}
		if err != nil {
			return err
		}
		if err := do(path, data); err != nil {
			return err
		}
	}
	return nil
}

// The directory stays about within its limit, and what was used last stays longest.
func TestLimit(t *testing.T) {
	s, dir := filled(t, 100, 1000), t.TempDir()
	c := cached.New(s, dir, 20_000, "index/")
	for range 3 {
		readAll(t, c, "")
	}
	size := 0
	if err := eachFile(dir, func(_ string, data []byte) error { size += len(data); return nil }); err != nil {
		t.Fatal(err)
	}
	if size > 20_000 || size < 10_000 {
		t.Errorf("%d bytes are kept", size)
	}
}

// Several processes may share a directory.
func TestShared(t *testing.T) {
	s, dir := filled(t, 50, 1000), t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		c := cached.New(s, dir, 20_000, "index/")
		wg.Go(func() {
			for range 20 {
				for name, data := range readAll(t, c, "") {
					var i int
					if _, err := fmt.Sscanf(name, "index/%d", &i); err != nil || !bytes.Equal(data, bytes.Repeat([]byte{byte(i)}, 1000)) {
						t.Errorf("%s: %v, %.20x", name, err, data)
					}
				}
			}
		})
	}
	wg.Wait()
}
