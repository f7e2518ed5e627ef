package fs_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/fs"
)

// writerDir names the directory in which a process of this test writes until it is killed.
const writerDir = "LOCKSTEP_TEST_WRITER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		fmt.Fprintln(os.Stderr, writeForEver(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForEver writes objects that are named by what they hold, and tells of each that is durable.
func writeForEver(dir string) error {
	s, err := fs.Open(dir)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		data := bytes.Repeat(fmt.Appendf(nil, "%d of %d,", i, os.Getpid()), 1+i%7*10_000)
		sum := sha256.Sum256(data)
		name := "packs/" + hex.EncodeToString(sum[:1]) + "/" + hex.EncodeToString(sum[:])
		if err := s.Put(context.Background(), name, data); err != nil {
			return err
		}
		fmt.Println(name)
	}
}

// Writers are killed at any moment. What they acknowledged is there, and all that is there is whole.
func TestKilledWriters(t *testing.T) {
	dir := t.TempDir()
	s, err := fs.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := map[string]bool{}
	for kill := range 20 {
		writer := exec.CommandContext(t.Context(), os.Args[0])
		writer.Env = append(os.Environ(), writerDir+"="+dir)
		writer.Stderr = os.Stderr
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acknowledged[lines.Text()] = true
			if n == kill {
				if err := writer.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := writer.Wait(); err == nil || writer.ProcessState.Exited() {
			t.Fatalf("writer ended by itself: %v", err)
		}
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		data, err := s.Get(t.Context(), info.Name, 0, -1)
		if sum := sha256.Sum256(data); err != nil || filepath.Base(info.Name) != hex.EncodeToString(sum[:]) {
			t.Errorf("%s: %d bytes, %v: it is not whole", info.Name, len(data), err)
		}
		delete(acknowledged, info.Name)
	}
	for name := range acknowledged {
		t.Errorf("%s was acknowledged and is not there", name)
	}
}

// A store whose filesystem is no longer mounted is unavailable, not empty, to whoever opens it; who has it open keeps it.
func TestUnmounted(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Skipf("NOT RUN: mounting a filesystem: %v", err)
	}
	unmount := sync.OnceFunc(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	defer unmount()
	s, err := fs.Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "x", nil); err != nil {
		t.Fatal(err)
	}
	unmount()
	if _, err := fs.Open(dir); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Open: %v, want ErrUnavailable", err)
	}
	if _, err := s.Stat(t.Context(), "x"); err != nil {
		t.Errorf("Stat in the store that is open: %v", err)
	}
}
