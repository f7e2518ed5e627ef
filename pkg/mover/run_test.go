//go:build linux

package mover_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/mem"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

func newVault(t *testing.T) (mover.Open, *mem.Store) {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := mem.New()
	if _, err := volume.Create(t.Context(), s, identity.Recipient()); err != nil {
		t.Fatal(err)
	}
	return func(ctx context.Context, _ string) (*volume.Vault, error) { return volume.Open(ctx, s, identity) }, s
}

func write(t *testing.T, dir, name, data string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o640); err != nil {
		t.Fatal(err)
	}
}

// run carries out one task.
func run(t *testing.T, task mover.Task, open mover.Open, out io.Writer) mover.Result {
	t.Helper()
	all, err := mover.Run(t.Context(), []mover.Task{task}, open, out, func(mover.Results) error { return nil })
	if err != nil || len(all) != 1 {
		t.Fatalf("%d results, %v", len(all), err)
	}
	return all[0]
}

// TestSeveral: one volume that cannot be loaded keeps no other from being loaded, and each result is told at once.
func TestSeveral(t *testing.T) {
	open, _ := newVault(t)
	opened := 0
	counted := func(ctx context.Context, url string) (*volume.Vault, error) {
		opened++
		return open(ctx, url)
	}
	from := t.TempDir()
	write(t, from, "a", "data")
	r := saved(t, open, from)
	var tasks []mover.Task
	for _, claim := range []string{"one", "broken", "two"} {
		tasks = append(tasks, mover.Task{
			Action: mover.ActionLoad, Claim: claim, Dir: t.TempDir(), Snapshot: r.Snapshot, ContentRoot: r.ContentRoot, MetaRoot: r.MetaRoot,
		})
	}
	tasks[1].Snapshot = strings.Repeat("0", 32)
	var out bytes.Buffer
	var told []int
	all, err := mover.Run(t.Context(), tasks, counted, &out, func(all mover.Results) error {
		told = append(told, len(all))
		return nil
	})
	if err != nil || len(all) != 3 || !all[0].Verified || all[1].Reason != mover.ReasonDamaged || !all[2].Verified || opened != 1 {
		t.Errorf("got %+v, %v; the vault was opened %d times", all, err, opened)
	}
	if diff := cmp.Diff([]int{1, 2, 3}, told); diff != "" {
		t.Error(diff)
	}
	for _, claim := range []string{`"claim":"one"`, `"claim":"two"`} {
		if !strings.Contains(out.String(), claim) {
			t.Errorf("no progress with %s:\n%s", claim, out.String())
		}
	}
}

func saved(t *testing.T, open mover.Open, dir string) mover.Result {
	t.Helper()
	r := run(t, mover.Task{Action: mover.ActionSave, Dir: dir}, open, &bytes.Buffer{})
	if r.Error != "" {
		t.Fatal(r.Error)
	}
	return r
}

func TestSaveAndLoad(t *testing.T) {
	open, _ := newVault(t)
	from, to := t.TempDir(), t.TempDir()
	write(t, from, "a", strings.Repeat("data", 1000))
	var out bytes.Buffer
	r := run(t, mover.Task{Action: mover.ActionSave, Dir: from}, open, &out)
	if r.Error != "" || r.Snapshot == "" || r.Files != 1 || r.Bytes != 4000 || r.ContentRoot == "" || r.MetaRoot == "" {
		t.Fatalf("save: %+v", r)
	}
	var p mover.Progress
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &p); err != nil || p.Bytes != 4000 || p.Files != 1 {
		t.Errorf("last line of progress %q: %+v, %v", lines[len(lines)-1], p, err)
	}
	load := mover.Task{Action: mover.ActionLoad, Dir: to, Snapshot: r.Snapshot, ContentRoot: r.ContentRoot, MetaRoot: r.MetaRoot}
	got := run(t, load, open, &out)
	if got.Error != "" || !got.Verified || got.ContentRoot != r.ContentRoot || got.MetaRoot != r.MetaRoot {
		t.Fatalf("load: %+v", got)
	}
	data, err := os.ReadFile(filepath.Join(to, "a"))
	if err != nil || string(data) != strings.Repeat("data", 1000) {
		t.Errorf("loaded %d bytes, %v", len(data), err)
	}
	// A mover whose result was lost with its pod is followed by one that finds the work done.
	if again := run(t, load, open, &out); again.Error != "" || !again.Verified {
		t.Errorf("load again: %+v", again)
	}
}

func TestLoadRefuses(t *testing.T) {
	open, _ := newVault(t)
	from := t.TempDir()
	write(t, from, "a", "data")
	r := saved(t, open, from)
	good := mover.Task{Action: mover.ActionLoad, Snapshot: r.Snapshot, ContentRoot: r.ContentRoot, MetaRoot: r.MetaRoot}
	tests := []struct {
		name   string
		reason mover.Reason
		change func(task *mover.Task)
	}{
		{"a directory with other data", mover.ReasonMismatch, func(task *mover.Task) { write(t, task.Dir, "foreign", "precious") }},
		{"a tree that is not the recorded one", mover.ReasonMismatch, func(task *mover.Task) { task.ContentRoot = strings.Repeat("0", 64) }},
		{"a snapshot that is not there", mover.ReasonDamaged, func(task *mover.Task) { task.Snapshot = strings.Repeat("0", 32) }},
		{"an unknown action", mover.ReasonFailed, func(task *mover.Task) { task.Action = "Shuffle" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			task := good
			task.Dir = t.TempDir()
			tt.change(&task)
			got := run(t, task, open, &bytes.Buffer{})
			if got.Error == "" || got.Reason != tt.reason || got.Verified {
				t.Errorf("got %+v, want reason %s", got, tt.reason)
			}
		})
	}
}

func TestUnopenedVault(t *testing.T) {
	for err, want := range map[error]mover.Reason{
		volume.ErrWrongKey: mover.ReasonVault, volume.ErrNoVault: mover.ReasonVault,
		store.ErrUnavailable: mover.ReasonUnavailable, store.ErrDenied: mover.ReasonUnavailable, volume.ErrDamaged: mover.ReasonDamaged,
	} {
		open := func(context.Context, string) (*volume.Vault, error) { return nil, fmt.Errorf("opening: %w", err) }
		got := run(t, mover.Task{Action: mover.ActionSave, Dir: t.TempDir()}, open, &bytes.Buffer{})
		if got.Reason != want || got.Error == "" {
			t.Errorf("%v: got %+v, want reason %s", err, got, want)
		}
	}
}

func TestUnreadableFilesAreNamed(t *testing.T) {
	errs := &volume.FileErrors{}
	for i := range 30 {
		errs.Files = append(errs.Files, volume.FileError{Path: fmt.Sprintf("odd\n%d", i), Err: os.ErrPermission})
	}
	open := func(context.Context, string) (*volume.Vault, error) { return nil, fmt.Errorf("saving: %w", errs) }
	got := run(t, mover.Task{Action: mover.ActionSave}, open, &bytes.Buffer{})
	if got.Reason != mover.ReasonFiles || len(got.Unreadable) != 20 || got.More != 10 || got.Unreadable[0] != `"odd\n0"` {
		t.Errorf("got %+v", got)
	}
}

// A live save that fails only because files were in use may be tried again; one that cannot read a file may not.
func TestFilesInUseAreTriedAgain(t *testing.T) {
	inUse := volume.FileError{Path: "log", Err: volume.ErrChanged}
	for _, tt := range []struct {
		name  string
		live  bool
		files []volume.FileError
		want  mover.Reason
	}{
		{"in use", true, []volume.FileError{inUse, {Path: "b", Err: syscall.ESTALE}}, mover.ReasonFailed},
		{"in use, and one unreadable", true, []volume.FileError{inUse, {Path: "b", Err: os.ErrPermission}}, mover.ReasonFiles},
		{"a snapshot that changes", false, []volume.FileError{inUse}, mover.ReasonFiles},
	} {
		open := func(context.Context, string) (*volume.Vault, error) { return nil, &volume.FileErrors{Files: tt.files} }
		if got := run(t, mover.Task{Action: mover.ActionSave, Live: tt.live}, open, io.Discard); got.Reason != tt.want {
			t.Errorf("%s: reason %q, want %q", tt.name, got.Reason, tt.want)
		}
	}
}

// TestLiveSaveNamesWhatChanged: the result is one of success, and says which files are as they were found.
func TestLiveSaveNamesWhatChanged(t *testing.T) {
	open, _ := newVault(t)
	dir := t.TempDir()
	write(t, dir, "log", strings.Repeat("line", 1<<20))
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for ctx.Err() == nil {
			if _, err := f.WriteString("x"); err != nil {
				t.Error(err)
			}
		}
	}()
	// On a busy machine the file may be read before the writer has its turn.
	var got mover.Result
	for range 100 {
		if got = run(t, mover.Task{Action: mover.ActionSave, Live: true, Dir: dir}, open, io.Discard); len(got.Changed) > 0 || got.Error != "" {
			break
		}
	}
	stop()
	<-stopped
	if diff := cmp.Diff([]string{`"log"`}, got.Changed); diff != "" || got.Error != "" || got.Snapshot == "" || got.More != 0 {
		t.Errorf("got %+v; changed: %s", got, diff)
	}
}
