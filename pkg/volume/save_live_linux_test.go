package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What a program does to its files while they are saved live: the snapshot has what is there, and names what changed.
func TestLive(t *testing.T) {
	v := testVault(t)
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	writeFile(t, log, noise(1, 5<<20))
	writeFile(t, filepath.Join(dir, "still"), []byte("still"))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				if err := appendTo(log, "x"); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	s, err := v.Save(t.Context(), dir, SaveOptions{Live: true})
	close(stop)
	<-stopped
	var changed *FileErrors
	if s == nil || !errors.As(err, &changed) || len(changed.Files) != 1 || changed.Files[0].Path != "log" || !errors.Is(err, ErrChanged) {
		t.Fatalf("%+v, %v", s, err)
	}
	dst := filepath.Join(t.TempDir(), "dst")
	r, err := v.Load(t.Context(), s.ID, dst, LoadOptions{Verify: VerifyReadback})
	if err != nil || len(r.Changed) != 1 || r.Changed[0] != "log" {
		t.Fatalf("%+v, %v", r, err)
	}
	if got, err := os.ReadFile(filepath.Join(dst, "still")); err != nil || string(got) != "still" {
		t.Errorf("%q, %v", got, err)
	}
}

// A file that vanishes before it is its turn is not in the snapshot, and is no failure; its directory, which changed, is named.
func TestLiveVanished(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 * ahead {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("%06d", i)), nil)
	}
	name := fmt.Sprintf("%06d", 2*ahead-1)
	sink := &vanisher{t: t, path: filepath.Join(dir, name)}
	s := &scanner{sink: sink, budget: &budget{}, gear: testGear(), progress: &progress{}, keepGoing: true, live: true}
	roots, failed, err := s.run(t.Context(), dir)
	if err != nil || failed == nil || len(failed.Files) != 1 || failed.Files[0].Path != "." || len(sink.failed) != 0 {
		t.Fatalf("%v, %v, recorded %v", failed, err, sink.failed)
	}
	if after, err := Digest(t.Context(), dir); err != nil || after.Content != roots.Content {
		t.Errorf("what was saved is not what is there: %v, %v, %v", roots, after, err)
	}
}

// What is worse than a change fails a live save.
func TestLiveRefuses(t *testing.T) {
	v := testVault(t)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), []byte("a"))
	writeFile(t, filepath.Join(dir, marker), nil)
	if s, err := v.Save(t.Context(), dir, SaveOptions{Live: true}); s != nil || !errors.Is(err, ErrIncomplete) {
		t.Errorf("an unfinished load: %+v, %v", s, err)
	}
	failed := failures{}
	failed.note(&node{entry: &entry{kind: kindFile, name: "a"}, dir: &directory{}, err: os.ErrPermission}, true, true)
	if !failed.fatal {
		t.Error("a file that cannot be read is let pass")
	}
	failed = failures{}
	first := &node{entry: &entry{kind: kindFile, name: "a"}, dir: &directory{}}
	first.err = vanished(unix.ENOENT)
	if !failed.vanished(first) {
		t.Fatal("a file that vanished is not known as such")
	}
	failed.note(&node{entry: &entry{kind: kindHard, name: "b", target: "a"}, dir: &directory{}}, true, true)
	if !failed.fatal {
		t.Error("another name of a file that vanished is let pass")
	}
}
