package volume_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"filippo.io/age"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func newIdentity(t testing.TB) *age.X25519Identity {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func newVault(t testing.TB, s store.Store) *volume.Vault {
	t.Helper()
	v, err := volume.Create(t.Context(), s, newIdentity(t).Recipient())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRoundTrip(t *testing.T) {
	src, dst := t.TempDir(), filepath.Join(t.TempDir(), "out")
	write(t, filepath.Join(src, "a"), []byte("hello"))
	write(t, filepath.Join(src, "d/b"), bytes.Repeat([]byte("0123456789abcdef"), 100000))
	write(t, filepath.Join(src, "empty"), nil)
	v := newVault(t, mem.New())
	s, err := v.Save(t.Context(), src, volume.SaveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := v.Load(t.Context(), s.ID, dst, volume.LoadOptions{Verify: volume.VerifyReadback})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v\n%+v", s, r)
	if got, err := os.ReadFile(filepath.Join(dst, "d/b")); err != nil || len(got) != 1600000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := v.Load(t.Context(), s.ID, dst, volume.LoadOptions{}); !errors.Is(err, volume.ErrNotEmpty) {
		t.Errorf("loading again: %v, want ErrNotEmpty", err)
	}
}
