package volume_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/pkg/store"
	"github.com/lockstep-dr/lockstep/pkg/store/fs"
	"github.com/lockstep-dr/lockstep/pkg/store/storetest"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

const mark = ".lockstep-incomplete"

// wideTree has many small files, so that its records take several segments.
func wideTree(t *testing.T) string {
	t.Helper()
	dir := openDir(t)
	for i := range 40 {
		for j := range 100 {
			name := fmt.Sprintf("directory-%02d/%s-%03d", i, strings.Repeat("n", 80), j)
			write(t, filepath.Join(dir, name), []byte(name))
		}
	}
	return dir
}

func digest(t *testing.T, dir string) volume.Roots {
	t.Helper()
	roots, err := volume.Digest(t.Context(), dir)
	must(t, err)
	return roots
}

// A directory or a file is loaded alone, and little else is fetched.
func TestLoadPath(t *testing.T) {
	v := newVault(t, storetest.NewMemory())
	src := wideTree(t)
	write(t, filepath.Join(src, "a/first"), randomBytes(1, 100000))
	must(t, os.MkdirAll(filepath.Join(src, "b/sub"), 0o750))
	must(t, os.Link(filepath.Join(src, "a/first"), filepath.Join(src, "b/one")))
	must(t, os.Link(filepath.Join(src, "a/first"), filepath.Join(src, "b/sub/two")))
	write(t, filepath.Join(src, "b/x"), []byte("x"))
	must(t, os.Link(filepath.Join(src, "b/x"), filepath.Join(src, "b/y")))
	s := save(t, v, src)
	out := openDir(t)
	whole, err := v.Load(t.Context(), s.ID, filepath.Join(out, "whole"), volume.LoadOptions{})
	must(t, err)
	load := func(path, to string) *volume.LoadResult {
		t.Helper()
		r, err := v.Load(t.Context(), s.ID, filepath.Join(out, to), volume.LoadOptions{Path: path, Verify: volume.VerifyReadback})
		must(t, err)
		return r
	}
	r := load("directory-20", "dir")
	if want := digest(t, filepath.Join(src, "directory-20")); want != r.Roots || want != digest(t, filepath.Join(out, "dir")) {
		t.Errorf("roots %v, want %v", r.Roots, want)
	}
	if r.Stats.Files != 100 || r.Stats.Stored > whole.Stats.Stored/3 {
		t.Errorf("a directory: %d bytes fetched, all are %d: %+v", r.Stats.Stored, whole.Stats.Stored, r.Stats)
	}
	r = load("/directory-39/"+strings.Repeat("n", 80)+"-099", "file")
	if r.Stats.Files != 1 || r.Stats.Stored > whole.Stats.Stored/5 {
		t.Errorf("a file: %d bytes fetched, all are %d: %+v", r.Stats.Stored, whole.Stats.Stored, r.Stats)
	}
	compare1(t, filepath.Join(src, "directory-39", strings.Repeat("n", 80)+"-099"), filepath.Join(out, "file"))

	r = load("b/", "b")
	if want := digest(t, filepath.Join(src, "b")); want != r.Roots || want != digest(t, filepath.Join(out, "b")) {
		t.Errorf("with links to elsewhere: roots %v, want %v", r.Roots, want)
	}
	load("b/one", "one")
	compare1(t, filepath.Join(src, "b/one"), filepath.Join(out, "one"))

	for _, path := range []string{"none", "b/none", "b/x/none", "directory-20x"} {
		_, err := v.Load(t.Context(), s.ID, filepath.Join(out, "none"), volume.LoadOptions{Path: path})
		wantErr(t, path, err, volume.ErrPathNotFound)
	}
	for _, path := range []string{"..", "b/../a/\x00", strings.Repeat("x", 300)} {
		if _, err := v.Load(t.Context(), s.ID, filepath.Join(out, "none"), volume.LoadOptions{Path: path}); err == nil && path != ".." {
			t.Errorf("%q was loaded", path)
		}
	}
}

// compare1 compares two files with their metadata.
func compare1(t *testing.T, a, b string) {
	t.Helper()
	run(t, "cmp", a, b)
	if x, y := run(t, "stat", "-c", "%a %u %g %Y %s", a), run(t, "stat", "-c", "%a %u %g %Y %s", b); x != y {
		t.Errorf("%q, want %q", y, x)
	}
}

// spoil makes a loaded oddTree differ from the snapshot in all ways.
func spoil(t *testing.T, dir, outside string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	must(t, os.WriteFile(at("plain"), []byte("HELLO\n"), 0o600))
	must(t, os.Remove(at("cell")))
	must(t, os.Mkdir(at("cell"), 0o755))
	write(t, at("cell/x/y"), []byte("in the way"))
	must(t, os.Remove(at("text")))
	must(t, os.Symlink(filepath.Join(outside, "victim"), at("text")))
	must(t, os.RemoveAll(at("d1/d2")))
	must(t, os.Symlink(outside, at("d1/d2")))
	must(t, os.RemoveAll(at("hollow")))
	write(t, at("hollow"), []byte("a file for a directory"))
	must(t, os.Remove(at("big")))
	must(t, os.Link(filepath.Join(outside, "victim"), at("big")))
	must(t, os.Remove(at("fifo")))
	write(t, at("fifo"), []byte("x"))
	must(t, os.Remove(at("dangling")))
	must(t, unix.Mkfifo(at("dangling"), 0o600))
	must(t, os.Remove(at("hard2")))
	write(t, at("hard2"), []byte("linked"))
	must(t, unix.Setxattr(at("acl"), "user.extra", []byte("x"), 0))
	must(t, unix.Setxattr(at("ünï"), "user.extra", []byte("x"), 0))
	must(t, unix.Chmod(at("ünï"), 0))
	run(t, "setfacl", "-d", "-m", "u:99:rwx", at("hardlinks"))
	must(t, os.Truncate(at("zeros"), 5))
	f, err := os.OpenFile(at("hole at end"), os.O_RDWR, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("x"), 1<<20), 100<<20)
	must(t, errors.Join(err, f.Close()))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at("link"), []unix.Timespec{{Sec: 1}, {Sec: 1}}, unix.AT_SYMLINK_NOFOLLOW))
}

// What is there is made as the snapshot has it, whatever it was; nothing outside is touched.
func TestLoadExisting(t *testing.T) {
	needRoot(t)
	for _, existing := range []volume.Existing{volume.ExistingOverwrite, volume.ExistingMirror} {
		t.Run(existing.String(), func(t *testing.T) {
			base := t.TempDir()
			src, dst, outside := filepath.Join(base, "src"), filepath.Join(base, "dst"), filepath.Join(base, "outside")
			must(t, os.Mkdir(src, 0o755))
			oddTree(t, src)
			write(t, filepath.Join(outside, "victim"), randomBytes(9, 200000))
			before := digest(t, outside)
			v := newVault(t, storetest.NewMemory())
			s := save(t, v, src)
			fresh, err := v.Load(t.Context(), s.ID, dst, volume.LoadOptions{})
			must(t, err)
			spoil(t, dst, outside)
			extra := []string{"extra/deep/file", "d1/extra", "0", "zzz"}
			for _, name := range extra {
				write(t, filepath.Join(dst, name), []byte("extra"))
			}
			_, err = v.Load(t.Context(), s.ID, dst, volume.LoadOptions{})
			wantErr(t, "refusing", err, volume.ErrNotEmpty)

			o := volume.LoadOptions{Existing: existing}
			if existing == volume.ExistingMirror {
				o.Verify = volume.VerifyReadback
			}
			r, err := v.Load(t.Context(), s.ID, dst, o)
			must(t, err)
			for _, name := range extra {
				_, err := os.Lstat(filepath.Join(dst, name))
				if stays := existing == volume.ExistingOverwrite; stays != (err == nil) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if existing == volume.ExistingOverwrite {
				for _, name := range []string{"extra", "d1/extra", "0", "zzz"} {
					must(t, os.RemoveAll(filepath.Join(dst, name)))
				}
				for _, name := range []string{"", "d1"} { // their times changed
					var st unix.Stat_t
					must(t, unix.Stat(filepath.Join(src, name), &st))
					must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dst, name), []unix.Timespec{st.Atim, st.Mtim}, 0))
				}
			}
			compare(t, src, dst)
			for _, name := range []string{"holes", "hole at end", "only hole", "zeros"} {
				if a, b := blocks(t, filepath.Join(src, name)), blocks(t, filepath.Join(dst, name)); a != b {
					t.Errorf("%s takes %d blocks, want %d", name, b, a)
				}
			}
			if digest(t, outside) != before {
				t.Error("what is outside was changed")
			}
			if r.Stats.Bytes != fresh.Stats.Bytes {
				t.Errorf("%d bytes are said to be done, want %d", r.Stats.Bytes, fresh.Stats.Bytes)
			}
			again, err := v.Load(t.Context(), s.ID, dst, o)
			must(t, err)
			if again.Stats.Stored > 10<<10 {
				t.Errorf("loading over the same fetched %d bytes", again.Stats.Stored)
			}
			compare(t, src, dst)
		})
	}
	v := newVault(t, storetest.NewMemory())
	s := save(t, v, smallTree(t))
	_, err := v.Load(t.Context(), s.ID, openDir(t), volume.LoadOptions{Existing: volume.ExistingOverwrite, Verify: volume.VerifyReadback})
	if err == nil {
		t.Error("read back among other things")
	}
}

// An unfinished load is taken up by default only where nothing but loads can have put anything.
func TestUnfinishedLoad(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := smallTree(t)
	first := save(t, v, src)
	write(t, filepath.Join(src, "d1/other"), []byte("other"))
	must(t, os.Remove(filepath.Join(src, "d0/file00")))
	second := save(t, v, src)
	interrupted := func(dir string, o volume.LoadOptions) {
		t.Helper()
		n := atomic.Int32{}
		s.SetFaults(func(c storetest.Call) storetest.Fault {
			if c.Op == storetest.Get && strings.HasPrefix(c.Name, "packs/") && n.Add(1) > 2 {
				return storetest.Fault{Err: store.ErrUnavailable}
			}
			return storetest.Fault{}
		})
		_, err := v.Load(t.Context(), first.ID, dir, o)
		s.SetFaults(nil)
		wantErr(t, "interrupted", err, store.ErrUnavailable)
		if _, err := os.Lstat(filepath.Join(dir, mark)); err != nil {
			t.Errorf("no mark: %v", err)
		}
	}
	empty := openDir(t)
	interrupted(empty, volume.LoadOptions{})
	write(t, filepath.Join(empty, "d0/stale"), []byte("x"))
	_, err := v.Load(t.Context(), second.ID, empty, volume.LoadOptions{})
	must(t, err)
	if digest(t, empty) != second.Roots {
		t.Error("another snapshot over an unfinished load is not as saved")
	}

	full := openDir(t)
	write(t, filepath.Join(full, "precious"), []byte("x"))
	overwrite := volume.LoadOptions{Existing: volume.ExistingOverwrite}
	interrupted(full, overwrite)
	_, err = v.Load(t.Context(), first.ID, full, volume.LoadOptions{})
	wantErr(t, "an unfinished load into a directory that held something", err, volume.ErrNotEmpty)
	interrupted(full, overwrite)
	_, err = v.Load(t.Context(), first.ID, full, overwrite)
	must(t, err)
	must(t, os.Remove(filepath.Join(full, "precious")))
	if got := digest(t, full); got.Content != first.Roots.Content {
		t.Error("a load that was overwriting, taken up, is not as saved")
	}
}

// A file of more chunks than are fetched together.
func TestLoadManyChunks(t *testing.T) {
	v := newVault(t, storetest.NewMemory())
	src, dst := openDir(t), filepath.Join(openDir(t), "x")
	write(t, filepath.Join(src, "many"), bytes.Repeat([]byte("x"), 300<<20))
	s := save(t, v, src)
	_, err := v.Load(t.Context(), s.ID, dst, volume.LoadOptions{})
	must(t, err)
	if digest(t, dst) != s.Roots {
		t.Error("not as saved")
	}
	must(t, os.WriteFile(filepath.Join(dst, "many"), bytes.Repeat([]byte("y"), 299<<20), 0o600))
	_, err = v.Load(t.Context(), s.ID, dst, volume.LoadOptions{Existing: volume.ExistingMirror, Verify: volume.VerifyReadback})
	must(t, err)
}

// killedLoad is set in a child process, which kills itself while it loads.
const killedLoad = "LOCKSTEP_TEST_KILLED_LOAD"

// A load that is killed at any of its reads of packs is taken up: the result is as saved, and what was there is not fetched again.
func TestLoadKilled(t *testing.T) {
	if args := os.Getenv(killedLoad); args != "" {
		loadAndDie(t, strings.Split(args, "\n"))
	}
	src, vault := openDir(t), filepath.Join(t.TempDir(), "vault")
	for i := range 30 {
		write(t, filepath.Join(src, fmt.Sprint(i%3), fmt.Sprint(i)), randomBytes(uint64(i), 30000))
	}
	write(t, filepath.Join(src, "large"), randomBytes(100, 100<<20))
	write(t, filepath.Join(src, "odd"), randomBytes(101, 5<<20+1))
	must(t, os.Link(filepath.Join(src, "large"), filepath.Join(src, "linked")))
	backing, err := fs.Create(vault)
	must(t, err)
	key := newIdentity(t)
	v, err := volume.Create(t.Context(), backing, key.Recipient())
	must(t, err)
	s := save(t, v, src)
	base := openDir(t)
	whole, err := v.Load(t.Context(), s.ID, filepath.Join(base, "whole"), volume.LoadOptions{})
	must(t, err)
	for n := 3; ; n += 3 {
		dst := filepath.Join(base, fmt.Sprint(n))
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLoadKilled$")
		cmd.Env = append(os.Environ(), killedLoad+"="+strings.Join([]string{vault, key.String(), s.ID, dst, fmt.Sprint(n)}, "\n"))
		out, err := cmd.CombinedOutput()
		if err == nil {
			if n < 12 {
				t.Errorf("a load reads only %d ranges of packs", n)
			}
			break
		}
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%v\n%s", err, out)
		}
		there := int64(0)
		for _, name := range []string{"large", "odd"} {
			if st := (unix.Stat_t{}); unix.Stat(filepath.Join(dst, name), &st) == nil {
				there += st.Blocks * 512
			}
		}
		r, err := v.Load(t.Context(), s.ID, dst, volume.LoadOptions{Verify: volume.VerifyReadback})
		must(t, err)
		// A block that was being written, and what lies between pieces that are missing, comes again.
		if most := whole.Stats.Stored - there + 2<<20; r.Stats.Stored > most {
			t.Errorf("killed at read %d: with %d bytes there, %d of %d were fetched", n, there, r.Stats.Stored, whole.Stats.Stored)
		}
		if digest(t, dst) != s.Roots {
			t.Errorf("killed at read %d: not as saved", n)
		}
		must(t, os.RemoveAll(dst))
	}
}

// dying is a store that kills its process at the nth read of a pack.
type dying struct {
	store.Store
	left *atomic.Int64
}

func (d dying) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	if strings.HasPrefix(name, "packs/") && d.left.Add(-1) == 0 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return nil, err
		}
		<-ctx.Done()
	}
	return d.Store.Get(ctx, name, off, length)
}

func loadAndDie(t *testing.T, args []string) {
	t.Helper()
	backing, err := fs.Open(args[0])
	must(t, err)
	key, err := age.ParseX25519Identity(args[1])
	must(t, err)
	n := int64(0)
	_, err = fmt.Sscan(args[4], &n)
	must(t, err)
	left := &atomic.Int64{}
	left.Store(n)
	v, err := volume.Open(t.Context(), dying{backing, left}, key)
	must(t, err)
	_, err = v.Load(t.Context(), args[2], args[3], volume.LoadOptions{})
	must(t, err)
	os.Exit(0)
}

// A disk that is full ends a load, which keeps its mark and what it wrote, and is taken up when there is room.
func TestLoadFullDisk(t *testing.T) {
	needRoot(t)
	disk := t.TempDir()
	must(t, unix.Mount("lockstep-test", disk, "tmpfs", 0, "size=3m"))
	t.Cleanup(func() { must(t, unix.Unmount(disk, 0)) })
	v := newVault(t, storetest.NewMemory())
	src := smallTree(t)
	write(t, filepath.Join(src, "large"), randomBytes(1, 8<<20))
	s := save(t, v, src)
	_, err := v.Load(t.Context(), s.ID, disk, volume.LoadOptions{})
	if file := (volume.FileError{}); !errors.Is(err, unix.ENOSPC) || !errors.As(err, &file) {
		t.Errorf("error %v, want the file for which there is no space", err)
	}
	if _, err := os.Lstat(filepath.Join(disk, mark)); err != nil {
		t.Errorf("the mark: %v", err)
	}
	must(t, unix.Mount("", disk, "", unix.MS_REMOUNT, "size=30m"))
	r, err := v.Load(t.Context(), s.ID, disk, volume.LoadOptions{Verify: volume.VerifyReadback})
	must(t, err)
	if r.Stats.Stored > s.Stats.Stored-1<<20 {
		t.Errorf("%d of %d bytes were fetched again", r.Stats.Stored, s.Stats.Stored)
	}
}

// An ordinary user takes up a load, whatever modes it left.
func TestLoadExistingUnprivileged(t *testing.T) {
	v := newVault(t, storetest.NewMemory())
	base := openDir(t)
	unprivileged(t, func() {
		src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
		write(t, filepath.Join(src, "d/readonly"), randomBytes(1, 100000))
		write(t, filepath.Join(src, "d/secret"), randomBytes(2, 1000))
		write(t, filepath.Join(src, "d/e/other"), []byte("x"))
		for name, mode := range map[string]os.FileMode{"d/readonly": 0o400, "d/secret": 0o400, "d/e": 0o500, "d": 0o555} {
			must(t, os.Chmod(filepath.Join(src, name), mode))
		}
		s := save(t, v, src)
		for range 2 {
			_, err := v.Load(t.Context(), s.ID, dst, volume.LoadOptions{Existing: volume.ExistingMirror, Verify: volume.VerifyReadback})
			must(t, err)
			must(t, os.Chmod(filepath.Join(dst, "d/e"), 0))
		}
		must(t, os.Chmod(filepath.Join(dst, "d/e"), 0o700))
	})
}

// A pack that is replaced while a load runs is found in its new place.
func TestPackReplacedDuringLoad(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := smallTree(t)
	write(t, filepath.Join(src, "large"), randomBytes(1, 3<<20))
	snapshot := save(t, v, src)
	var replaced atomic.Int32
	var swapping atomic.Bool
	s.SetFaults(func(c storetest.Call) storetest.Fault {
		if c.Op == storetest.Get && strings.HasPrefix(c.Name, "packs/") && replaced.Load() < 3 && swapping.CompareAndSwap(false, true) {
			replaced.Add(1)
			if err := s.Delete(t.Context(), c.Name); err != nil {
				t.Error(err)
			}
			save(t, v, src)
			swapping.Store(false)
		}
		return storetest.Fault{}
	})
	dst := filepath.Join(openDir(t), "x")
	_, err := v.Load(t.Context(), snapshot.ID, dst, volume.LoadOptions{})
	s.SetFaults(nil)
	must(t, err)
	if replaced.Load() != 3 || digest(t, dst) != snapshot.Roots {
		t.Errorf("%d packs were replaced", replaced.Load())
	}
}

// A tree goes through an archive and GNU tar and comes out as it was.
func TestTar(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
	must(t, os.Mkdir(src, 0o755))
	oddTree(t, src)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, src, []unix.Timespec{{Sec: 5}, {Sec: 1e9, Nsec: 42}}, 0))
	v := newVault(t, storetest.NewMemory())
	s := save(t, v, src)
	extract := func(path string) string {
		t.Helper()
		must(t, os.RemoveAll(dst))
		must(t, os.Mkdir(dst, 0o700))
		cmd := exec.CommandContext(t.Context(), "tar", "--extract", "--directory", dst, "--preserve-permissions", "--same-owner", "--numeric-owner", "--xattrs",
			"--xattrs-include=*", "--acls", "--sparse", "--warning=no-timestamp")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		in, err := cmd.StdinPipe()
		must(t, err)
		must(t, cmd.Start())
		err = v.Tar(t.Context(), s.ID, path, in)
		must(t, errors.Join(err, in.Close()))
		if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
			t.Fatalf("%v\n%s", err, stderr.String())
		}
		return dst
	}
	compare(t, src, extract(""))
	if want := digest(t, filepath.Join(src, "hardlinks")); want != digest(t, extract("hardlinks")) {
		t.Error("a directory with links to elsewhere is not as saved")
	}
	extract("big")
	compare1(t, filepath.Join(src, "big"), filepath.Join(dst, "big"))
	var archive bytes.Buffer
	err := v.Tar(t.Context(), s.ID, "none", &archive)
	wantErr(t, "none", err, volume.ErrPathNotFound)
	must(t, v.Tar(t.Context(), s.ID, "d1", &archive))
	names := []string{}
	for r := tar.NewReader(&archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		names = append(names, h.Name)
	}
	if want := []string{"./", "d2/", "d2/d3/", "d2/d3/deep"}; !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
}

// failingWriter fails after some bytes.
type failingWriter struct{ left int }

var errWriter = errors.New("nobody listens")

func (w *failingWriter) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		return 0, errWriter
	}
	return len(b), nil
}

// A stream that nobody takes ends, whatever is on its way; so does one whose chunks are damaged, after what is right.
func TestStreamEnds(t *testing.T) {
	s := storetest.NewMemory()
	v := newVault(t, s)
	src := t.TempDir()
	write(t, filepath.Join(src, "a"), randomBytes(1, 100<<20))
	snapshot := save(t, v, src)
	if err := v.Cat(t.Context(), snapshot.ID, "a", &failingWriter{30 << 20}); !errors.Is(err, errWriter) {
		t.Errorf("a writer that fails: %v", err)
	}
	if err := v.Tar(t.Context(), snapshot.ID, "", &failingWriter{30 << 20}); !errors.Is(err, errWriter) {
		t.Errorf("a writer that fails: %v", err)
	}
	packs := objects(s, "packs/")
	for _, name := range packs[:len(packs)/2] {
		s.Overwrite(name, flipped(object(t, s, name), len(object(t, s, name))/2))
	}
	var got bytes.Buffer
	err := v.Cat(t.Context(), snapshot.ID, "a", &got)
	wantErr(t, "damaged", err, volume.ErrDamaged)
	if !bytes.HasPrefix(randomBytes(1, 100<<20), got.Bytes()) {
		t.Error("what came before the damage is not right")
	}
}

func entries(t *testing.T, v *volume.Vault, id, path string, recursive bool) (paths []string) {
	t.Helper()
	for e, err := range v.Entries(t.Context(), id, path, recursive) {
		must(t, err)
		paths = append(paths, e.Path)
	}
	return paths
}

func TestEntries(t *testing.T) {
	needRoot(t)
	v := newVault(t, storetest.NewMemory())
	src := t.TempDir()
	oddTree(t, src)
	s := save(t, v, src)
	var want []string
	must(t, filepath.WalkDir(src, func(path string, _ os.DirEntry, err error) error {
		if path != src {
			want = append(want, strings.TrimPrefix(path, src+"/"))
		}
		return err
	}))
	got := entries(t, v, s.ID, "", true)
	slices.Sort(want)
	if diff := cmp.Diff(want, slices.Sorted(slices.Values(got))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"d1/d2/d3", "d1/d2/d3/deep"}, entries(t, v, s.ID, "d1/d2", true)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"d1/d2"}, entries(t, v, s.ID, "/d1", false)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for path, check := range map[string]func(volume.Entry) bool{
		"big":       func(e volume.Entry) bool { return e.Kind == "file" && e.Size == 3<<20+17 && e.Mode == 0o644 },
		"owned":     func(e volume.Entry) bool { return e.UID == 999 && e.GID == 4000000000 },
		"old":       func(e volume.Entry) bool { return e.ModTime.UnixNano() == -86400*365*2*1e9+123456789 },
		"dirlink":   func(e volume.Entry) bool { return e.Kind == "symlink" && e.Target == "d1" },
		"hard2":     func(e volume.Entry) bool { return e.Kind == "hardlink" && e.Target == "hard1" },
		"null":      func(e volume.Entry) bool { return e.Kind == "char" },
		"loop":      func(e volume.Entry) bool { return e.Kind == "block" },
		"fifo":      func(e volume.Entry) bool { return e.Kind == "fifo" },
		"d1/d2/d3/": func(e volume.Entry) bool { return e.Path == "d1/d2/d3/deep" },
	} {
		n := 0
		for e, err := range v.Entries(t.Context(), s.ID, path, false) {
			must(t, err)
			if n++; !check(e) {
				t.Errorf("%s: %+v", path, e)
			}
		}
		if n != 1 {
			t.Errorf("%s: %d entries", path, n)
		}
	}
	for _, err := range v.Entries(t.Context(), s.ID, "none", true) {
		wantErr(t, "none", err, volume.ErrPathNotFound)
	}
	for _, err := range v.Entries(t.Context(), strings.Repeat("0", 32), "", true) {
		wantErr(t, "no snapshot", err, volume.ErrSnapshotNotFound)
	}
}

// counted is a store that counts the bytes of packs that are read.
type counted struct {
	store.Store
	read *atomic.Int64
}

func (c counted) Get(ctx context.Context, name string, off, length int64) ([]byte, error) {
	data, err := c.Store.Get(ctx, name, off, length)
	if strings.HasPrefix(name, "packs/") {
		c.read.Add(int64(len(data)))
	}
	return data, err
}

// The top of a wide tree is listed, and trees that hardly differ are compared, without reading all of them.
func TestEntriesAreFrugal(t *testing.T) {
	s := counted{storetest.NewMemory(), &atomic.Int64{}}
	v := newVault(t, s)
	src := openDir(t)
	for i := range 20000 {
		dir := fmt.Sprintf("directory-%d", i/10000)
		write(t, filepath.Join(src, dir, fmt.Sprintf("%x", randomBytes(uint64(i), 60))), nil)
	}
	a := save(t, v, src)
	read := func(f func()) int64 {
		t.Helper()
		s.read.Store(0)
		f()
		return s.read.Load()
	}
	var top []string
	all := read(func() {
		if n := len(entries(t, v, a.ID, "", true)); n != 20002 {
			t.Errorf("%d entries", n)
		}
	})
	if some := read(func() { top = entries(t, v, a.ID, "", false) }); some > all/3 || len(top) != 2 {
		t.Errorf("the top has %q; %d of %d bytes were read", top, some, all)
	}
	write(t, filepath.Join(src, "directory-1/00"), nil)
	b := save(t, v, src)
	n := 0
	some := read(func() {
		for _, err := range v.Diff(t.Context(), a.ID, b.ID) {
			must(t, err)
			n++
		}
	})
	if some > all/2 || n != 2 {
		t.Errorf("%d differences; %d of %d bytes were read", n, some, all)
	}
}

func TestDiff(t *testing.T) {
	v := newVault(t, storetest.NewMemory())
	src := wideTree(t)
	write(t, filepath.Join(src, "e/old/file"), []byte("x"))
	write(t, filepath.Join(src, "f"), []byte("x"))
	a := save(t, v, src)
	at := func(name string) string { return filepath.Join(src, name) }
	keep := func(dir string, change func()) {
		var st unix.Stat_t
		must(t, unix.Stat(at(dir), &st))
		change()
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, at(dir), []unix.Timespec{st.Atim, st.Mtim}, 0))
	}
	long := strings.Repeat("n", 80)
	keep("directory-05", func() {
		must(t, os.Remove(at("directory-05/"+long+"-007")))
		write(t, at("directory-05/"+long+"-007a"), []byte("new"))
	})
	must(t, os.WriteFile(at("directory-20/"+long+"-050"), []byte("changed"), 0o644))
	must(t, os.Chmod(at("directory-30/"+long+"-099"), 0o600))
	keep("", func() {
		must(t, os.RemoveAll(at("e")))
		must(t, os.Remove(at("f")))
		must(t, os.Mkdir(at("f"), 0o755))
	})
	b := save(t, v, src)
	diff := func(a, b string) (changes []volume.Change) {
		t.Helper()
		for c, err := range v.Diff(t.Context(), a, b) {
			must(t, err)
			changes = append(changes, c)
		}
		return changes
	}
	size := int64(len("directory-05/" + long + "-007"))
	want := []volume.Change{
		{Path: "directory-05/" + long + "-007", What: "removed", Kind: "file", OldSize: size},
		{Path: "directory-05/" + long + "-007a", What: "added", Kind: "file", NewSize: 3},
		{Path: "directory-20/" + long + "-050", What: "content", Kind: "file", OldSize: size, NewSize: 7},
		{Path: "directory-30/" + long + "-099", What: "metadata", Kind: "file", OldSize: size, NewSize: size},
		{Path: "e", What: "removed", Kind: "directory"},
		{Path: "e/old", What: "removed", Kind: "directory"},
		{Path: "e/old/file", What: "removed", Kind: "file", OldSize: 1},
		{Path: "f", What: "kind", Kind: "directory", OldSize: 1},
	}
	if d := cmp.Diff(want, diff(a.ID, b.ID)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if back := diff(b.ID, a.ID); len(back) != len(want) || back[0].What != "added" {
		t.Errorf("the other way: %+v", back)
	}
	if same := diff(a.ID, a.ID); len(same) != 0 {
		t.Errorf("with itself: %+v", same)
	}
}
