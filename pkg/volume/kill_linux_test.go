package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"filippo.io/age"
	"go.uber.org/goleak"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/fs"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
	"github.com/lockstep-dr/lockstep/test/reader"
)

// killed is the environment variable that makes this program be the process that TestKill kills.
const killed = "LOCKSTEP_TEST_KILLED"

func TestMain(m *testing.M) {
	if dir := os.Getenv(killed); dir != "" {
		if err := beKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// killing is how the store's operations go on in the process that is killed: SIGKILL comes before or after the nth.
func killing(n int, after bool) storetest.Faults {
	kill := func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) }
	return func(c storetest.Call) storetest.Fault {
		switch {
		case c.N == n && after:
			return storetest.Fault{After: kill}
		case c.N == n:
			kill()
		}
		return storetest.Fault{}
	}
}

// beKilled saves, prunes and rotates the key of the vault in dir/store, as far as it comes.
func beKilled(dir string) error {
	ctx := context.Background()
	n, err := strconv.Atoi(os.Getenv(killed + "_AT"))
	if err != nil {
		return err
	}
	files, err := fs.Open(filepath.Join(dir, "store"))
	if err != nil {
		return err
	}
	old, fresh, err := rotated(dir)
	if err != nil {
		return err
	}
	s := storetest.NewFaulty(files)
	s.SetFaults(killing(n, os.Getenv(killed+"_AFTER") != ""))
	v, err := volume.Open(ctx, s, old, fresh)
	if err != nil {
		return err
	}
	return saveAndRotate(ctx, v, filepath.Join(dir, "src"), fresh)
}

func rotated(dir string) (old, fresh *age.X25519Identity, err error) {
	ids := make([]*age.X25519Identity, 2)
	for i, name := range []string{"old", "fresh"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, nil, err
		}
		if ids[i], err = age.ParseX25519Identity(string(text)); err != nil {
			return nil, nil, err
		}
	}
	return ids[0], ids[1], nil
}

// saveAndRotate is what can be killed at any time, and then simply done again.
func saveAndRotate(ctx context.Context, v *volume.Vault, src string, fresh *age.X25519Identity) error {
	if _, err := v.Save(ctx, src, volume.SaveOptions{}); err != nil {
		return err
	}
	if _, err := v.Prune(ctx, volume.PruneOptions{NoOtherSaves: true, MinLive: 0.9}); err != nil {
		return err
	}
	keys, err := v.Keys(ctx)
	if err != nil {
		return err
	}
	name := fresh.Recipient().String()
	if !slices.ContainsFunc(keys, func(k volume.Key) bool { return k.Recipient == name }) {
		if _, err := v.AddKey(ctx, fresh.Recipient(), name, ""); err != nil {
			return err
		}
	}
	for _, k := range keys {
		if k.Recipient == name {
			continue
		}
		if err := v.RemoveKey(ctx, k.ID); err != nil {
			return err
		}
	}
	return nil
}

// killable makes a directory with a vault that has something to prune.
func killable(t *testing.T) string {
	t.Helper()
	dir := fastDir(t)
	old, fresh := newIdentity(t), newIdentity(t)
	must(t, os.WriteFile(filepath.Join(dir, "old"), []byte(old.String()), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "fresh"), []byte(fresh.String()), 0o600))
	s, err := fs.Create(filepath.Join(dir, "store"))
	must(t, err)
	v, err := volume.Create(t.Context(), s, old.Recipient())
	must(t, err)
	first := save(t, v, tree(t, numbers(0, 6)...))
	save(t, v, tree(t, numbers(3, 9)...))
	must(t, v.Forget(t.Context(), first.ID))
	for i := range 3 {
		write(t, filepath.Join(dir, "src", fmt.Sprint(i)), randomBytes(uint64(i+5), 20_000))
	}
	return dir
}

// A process that is killed with SIGKILL at any operation on the store, of a save, a prune and a rotation of the key, leaves a vault that
// verifies clean, of which everything recorded loads, and in which the same can be done again.
func TestKill(t *testing.T) {
	t.Parallel()
	base := killable(t)
	for _, after := range []string{"", "yes"} {
		n := 1
		for ; ; n++ {
			dir := filepath.Join(fastDir(t), "x")
			must(t, os.CopyFS(dir, os.DirFS(base)))
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), killed+"="+dir, killed+"_AT="+strconv.Itoa(n), killed+"_AFTER="+after)
			out, err := cmd.CombinedOutput()
			if err == nil {
				break
			}
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != -1 {
				t.Fatalf("operation %d: %v: %s", n, err, out)
			}
			afterKill(t, dir, fmt.Sprintf("killed at operation %d, after it: %q", n, after))
			must(t, os.RemoveAll(dir))
		}
		if n < 50 {
			t.Errorf("only %d operations", n)
		}
	}
}

func afterKill(t *testing.T, dir, when string) {
	t.Helper()
	s, err := fs.Open(filepath.Join(dir, "store"))
	must(t, err)
	old, fresh, err := rotated(dir)
	must(t, err)
	v, err := volume.Open(t.Context(), s, old, fresh)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	verifies(t, v, when)
	reader.CheckVault(t, filepath.Join(dir, "store"), old, fresh)
	snapshots, err := v.Snapshots(t.Context())
	if err != nil || len(snapshots) == 0 {
		t.Fatalf("%s: %d snapshots, %v", when, len(snapshots), err)
	}
	if err := saveAndRotate(t.Context(), v, filepath.Join(dir, "src"), fresh); err != nil {
		t.Errorf("%s: again: %v", when, err)
	}
	verifies(t, v, when+", and done again")
	loadsAll(t, v, when)
	for _, open := range []struct {
		id   *age.X25519Identity
		want error
	}{{old, volume.ErrWrongKey}, {fresh, nil}} {
		if _, err := volume.Open(t.Context(), s, open.id); !errors.Is(err, open.want) {
			t.Errorf("%s: opening: %v, want %v", when, err, open.want)
		}
	}
}

// A save may be cut at any operation on the store: the vault verifies clean, everything recorded loads.
func TestSaveKilled(t *testing.T) {
	t.Parallel()
	base := newWorld(t)
	save(t, base.vault, tree(t, 1, 2, 3))
	src := tree(t, 2, 3, 4, 5)
	for way, crash := range map[string]func(int) storetest.Faults{"before": storetest.CrashBefore, "after": storetest.CrashAfter} {
		for n := 1; ; n++ {
			w := base.copy(t)
			w.SetFaults(crash(n))
			_, err := w.vault.Save(t.Context(), src, volume.SaveOptions{})
			w.SetFaults(nil)
			if err == nil {
				break
			}
			when := fmt.Sprintf("killed %s operation %d", way, n)
			if !errors.Is(err, storetest.ErrCrashed) {
				t.Errorf("%s: %v", when, err)
			}
			w.check(t, when)
			w.loads(t, when)
			save(t, w.vault, src)
			w.check(t, when+", and saved again")
		}
	}
}

// unhelpful are the ways in which a store misbehaves without breaking its promises.
func unhelpful(w *world) []storetest.Fault {
	return []storetest.Fault{
		{Err: store.ErrUnavailable},
		{Err: store.ErrUnavailable, Done: true},
		{Err: store.ErrUnavailable, Keep: 2},
		{Err: context.DeadlineExceeded, Late: 1},
		{Err: context.DeadlineExceeded, Late: 20},
		{Late: 1},
		{Late: 20},
		{Delay: 1},
		{After: func() { w.clock.pass(30 * 3600e9) }},
		{After: func() { w.clock.pass(-20 * 3600e9) }},
	}
}

// Whatever a store does but lie, and wherever its clock jumps: what was recorded loads, and the vault verifies clean.
func TestUnhelpfulStore(t *testing.T) {
	t.Parallel()
	for seed := range uint64(60) {
		w := newWorld(t)
		src := tree(t, numbers(0, 8)...)
		save(t, w.vault, src)
		done := 0
		for round := range 15 {
			w.SetLag(int(seed) % 4)
			w.SetFaults(storetest.Random(seed*100+uint64(round), 0.03, unhelpful(w)...))
			err := w.act(t, src, round)
			w.SetFaults(nil)
			if err == nil {
				done++
			}
			write(t, filepath.Join(src, fmt.Sprint(round)), randomBytes(uint64(round)*1000+seed, 20_000))
		}
		w.SetLag(0)
		w.Deliver()
		when := fmt.Sprintf("seed %d, %d rounds done", seed, done)
		w.check(t, when)
		w.loads(t, when)
		if done == 0 {
			t.Errorf("seed %d: nothing was done", seed)
		}
	}
}

// act does one of the things that are done with vaults.
func (w *world) act(t *testing.T, src string, round int) error {
	switch round % 5 {
	case 0, 2:
		_, err := w.vault.Save(t.Context(), src, volume.SaveOptions{})
		return err
	case 4:
		return w.loadOne(t)
	case 1:
		snapshots, err := w.vault.Snapshots(t.Context())
		if err == nil && len(snapshots) > 1 {
			err = w.vault.Forget(t.Context(), snapshots[0].ID)
		}
		return err
	}
	_, err := w.vault.Prune(t.Context(), volume.PruneOptions{MinLive: 0.9})
	return err
}

// loadOne loads the newest snapshot, which must be right unless it fails.
func (w *world) loadOne(t *testing.T) error {
	latest, err := w.vault.Latest(t.Context(), nil)
	if err != nil || latest == nil {
		return err
	}
	dir := fastDir(t)
	defer os.RemoveAll(dir)
	if _, err := w.vault.Load(t.Context(), latest.ID, dir, volume.LoadOptions{}); err != nil {
		return err
	}
	roots, err := volume.Digest(t.Context(), dir)
	if err != nil || roots != latest.Roots {
		t.Errorf("loaded something else, and %v", err)
	}
	return nil
}

// A store that gives wrong, or too few, bytes for a time, whoever asks: nothing panics, nothing wrong is loaded, and what was done on
// the way leaves a vault that verifies clean.
func TestLyingStore(t *testing.T) {
	t.Parallel()
	lies := []storetest.Fault{
		{Corrupt: func(b []byte) []byte { return b[:len(b)/2] }},
		{Corrupt: func([]byte) []byte { return nil }},
		{Corrupt: func(b []byte) []byte {
			if len(b) > 0 {
				b[len(b)/2] ^= 4
			}
			return b
		}},
		{Corrupt: func(b []byte) []byte { return append(b, 0) }},
	}
	for seed := range uint64(40) {
		w := living(t)
		src := tree(t, numbers(1, 9)...)
		for round := range 15 {
			random := storetest.Random(seed*100+uint64(round), 0.1, lies...)
			w.SetFaults(func(c storetest.Call) storetest.Fault {
				if c.Op != storetest.Get {
					return storetest.Fault{}
				}
				return random(c)
			})
			if round == 6 || round == 12 {
				_, _ = w.vault.Verify(t.Context(), volume.VerifyOptions{Level: volume.VerifyData})
				_, _ = w.vault.Repair(t.Context(), volume.RepairOptions{})
			}
			_ = w.act(t, src, round)
			w.SetFaults(nil)
			w.clock.pass(13 * 3600e9)
		}
		w.check(t, fmt.Sprintf("seed %d", seed))
		w.loads(t, fmt.Sprintf("seed %d", seed))
	}
}
