package volume_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/pkg/store/fs"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// run runs a tool of the system, which must be there.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, stderr.String())
	}
	return stdout.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// randomBytes is the same for the same seed, and cannot be compressed.
func randomBytes(seed uint64, n int) []byte {
	b := make([]byte, n+8)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b[:n]
}

// oddTree fills dir with all that a tree may hold.
func oddTree(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, data := range map[string][]byte{
		"plain": []byte("hello\n"), "empty": nil, "cell": randomBytes(1, 64<<10), "cell+1": randomBytes(2, 64<<10+1),
		"big": randomBytes(3, 3<<20+17), "text": bytes.Repeat([]byte("lorem ipsum "), 50000), "zeros": make([]byte, 1<<20),
		"setuid": []byte("x"), "setgid": []byte("x"), "locked": []byte("secret"), "capable": []byte("x"), "acl": []byte("x"), "owned": []byte("x"),
		"attributes": []byte("x"), "d1/d2/d3/deep": []byte("deep"), "new\nline": []byte("x"), "tab\tand space ": []byte("x"),
		"latin\xe9\xff": []byte("x"), "-dash": []byte("x"), "$(echo)`'\"\\": []byte("x"), strings.Repeat("n", 255): []byte("x"), "ünï/日本": []byte("x"),
		"old": []byte("x"), "future": []byte("x"), "hard1": []byte("linked"),
	} {
		write(t, at(name), data)
	}
	must(t, os.MkdirAll(at("hollow/inner"), 0o755))
	must(t, os.MkdirAll(at("hardlinks"), 0o755))
	must(t, os.Link(at("hard1"), at("hard2")))
	must(t, os.Link(at("hard1"), at("hardlinks/hard3")))
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	must(t, os.Link(at("fifo"), at("hardlinks/fifo")))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("loop"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 300))))
	for name, target := range map[string]string{"link": "plain", "dangling": "no/where\n", "outside": "/etc/passwd", "dirlink": "d1", "long": strings.Repeat("x/", 1000)} {
		must(t, os.Symlink(target, at(name)))
	}
	must(t, unix.Lchown(at("link"), 4242, 4343))
	must(t, os.Lchown(at("owned"), 999, 4000000000))
	must(t, unix.Setxattr(at("attributes"), "user.simple", []byte("value"), 0))
	must(t, unix.Setxattr(at("attributes"), "user.binary", []byte{0, 1, 255, '\n'}, 0))
	must(t, unix.Setxattr(at("attributes"), "user.empty", nil, 0))
	must(t, unix.Setxattr(at("d1"), "user.on-directory", []byte("d"), 0))
	run(t, "setfacl", "-m", "u:1234:rw,g:4321:r,m::rw", at("acl"))
	run(t, "setfacl", "-m", "u:1234:rwx", "-d", "-m", "u:77:rx", at("d1/d2"))
	run(t, "setcap", "cap_net_bind_service,cap_chown=+ep", at("capable"))
	sparse(t, at("holes"), 10<<20, 0, 5000, 1<<20, 3<<20+4096, 9<<20)
	sparse(t, at("hole at end"), 200<<20, 70<<20)
	sparse(t, at("only hole"), 1<<20)
	for name, mode := range map[string]uint32{"setuid": 0o4755, "setgid": 0o2711, "locked": 0, "d1": 0o3770, "hollow": 0o111} {
		must(t, unix.Chmod(at(name), mode))
	}
	sec := func(s int64, ns int64) []unix.Timespec { return []unix.Timespec{{Sec: 1, Nsec: 1}, {Sec: s, Nsec: ns}} }
	for name, times := range map[string][]unix.Timespec{
		"old": sec(-86400*365*2, 123456789), "future": sec(4102444800, 999999999), "link": sec(1e9, 1), "fifo": sec(1e9, 2), "null": sec(1e9, 3),
		"hollow/inner": sec(1e9, 4), "hollow": sec(1e9, 5), "d1/d2/d3": sec(1e9, 6), "d1": sec(1e9, 7), "dangling": sec(1e9, 8), "": sec(1e9, 9),
	} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), times, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// sparse makes a file of the given size with a few bytes at each offset and holes between.
func sparse(t *testing.T, path string, size int64, offsets ...int64) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	for _, off := range offsets {
		_, err := f.WriteAt([]byte("data here"), off)
		must(t, err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners, devices and capabilities cannot be set otherwise")
	}
}

// compare has tools of the system compare two trees.
func compare(t *testing.T, a, b string) {
	t.Helper()
	// With -i and -n, rsync lists whatever it would have to change.
	if diff := run(t, "rsync", "-aHAXin", "--checksum", "--numeric-ids", "--modify-window=-1", "--delete", a+"/", b+"/"); diff != "" {
		t.Errorf("rsync finds differences:\n%s", diff)
	}
	for _, command := range [][]string{
		{"find", ".", "-printf", `%P\0%y %m %U %G %n %T@ %l\n`},
		{"find", ".", "!", "-type", "d", "-printf", `%P\0%s\n`},
		{"find", ".", "(", "-type", "b", "-o", "-type", "c", ")", "-exec", "stat", "-c", "%n %t %T", "{}", "+"},
		{"getfattr", "-R", "-h", "-P", "-d", "-m", "-", "-e", "hex", "."},
		{"getfacl", "-R", "-P", "-n", "."},
		{"getcap", "-r", "."},
	} {
		if diff := diffLines(in(t, a, command), in(t, b, command)); diff != "" {
			t.Errorf("%q differs:\n%s", command, diff)
		}
	}
}

// in runs a command in a directory and returns its lines as a set.
func in(t *testing.T, dir string, command []string) map[string]int {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q in %s: %v\n%s", command, dir, err, stderr.String())
	}
	lines := map[string]int{}
	for line := range strings.SplitSeq(string(out), "\n") {
		lines[line]++
	}
	if len(lines) < 2 {
		t.Fatalf("%q in %s found nothing", command, dir)
	}
	return lines
}

func diffLines(a, b map[string]int) string {
	var diff strings.Builder
	for line, n := range a {
		if b[line] != n {
			fmt.Fprintf(&diff, "-%d %q\n", n, line)
		}
	}
	for line, n := range b {
		if a[line] != n {
			fmt.Fprintf(&diff, "+%d %q\n", n, line)
		}
	}
	return diff.String()
}

func blocks(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Blocks
}

// A tree with everything in it comes back as it was, in the judgement of rsync, find, getfattr, getfacl and getcap.
func TestFidelity(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
	must(t, os.Mkdir(src, 0o755))
	oddTree(t, src)
	must(t, unix.Chmod(src, 0o1751))
	must(t, unix.Chown(src, 12, 34))
	must(t, unix.Setxattr(src, "user.root", []byte("r"), 0))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, src, []unix.Timespec{{Sec: 5}, {Sec: 1e9, Nsec: 42}}, 0))
	must(t, os.Mkdir(dst, 0o700))
	must(t, os.Mkdir(filepath.Join(dst, "lost+found"), 0o700))
	must(t, unix.Setxattr(dst, "user.foreign", []byte("x"), 0))
	run(t, "setfacl", "-d", "-m", "u:55:rwx", dst)

	s, err := fs.Create(t.TempDir())
	must(t, err)
	v := newVault(t, s)
	snapshot, err := v.Save(t.Context(), src, volume.SaveOptions{Labels: map[string]string{"a": "b"}})
	must(t, err)
	result, err := v.Load(t.Context(), snapshot.ID, dst, volume.LoadOptions{Verify: volume.VerifyReadback})
	must(t, err)
	must(t, os.Remove(filepath.Join(dst, "lost+found")))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dst, []unix.Timespec{{Sec: 5}, {Sec: 1e9, Nsec: 42}}, 0)) // the removal changed it
	compare(t, src, dst)

	for _, name := range []string{"holes", "hole at end", "only hole", "zeros"} {
		if a, b := blocks(t, filepath.Join(src, name)), blocks(t, filepath.Join(dst, name)); a != b {
			t.Errorf("%s takes %d blocks, want %d", name, b, a)
		}
	}
	for _, dir := range []string{src, dst} {
		if roots, err := volume.Digest(t.Context(), dir); err != nil || roots != snapshot.Roots || roots != result.Roots {
			t.Errorf("Digest(%s) = %v, %v; want %v", dir, roots, err, snapshot.Roots)
		}
	}
	if snapshot.Stats.Sockets != 0 || snapshot.Stats.Specials != 3 || snapshot.Stats.Links != 8 {
		t.Errorf("stats %+v", snapshot.Stats)
	}
}

// Each kind of change to a tree changes the root it belongs to.
func TestDigestSeesChanges(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	oddTree(t, dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	// keep makes a change without a trace in the times.
	keep := func(name string, change func() error) func() error {
		return func() error {
			var st unix.Stat_t
			must(t, unix.Lstat(at(name), &st))
			err := change()
			return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, at(name), []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW))
		}
	}
	writeAt := func(name string, off int64, data string) func() error {
		return keep(name, func() error {
			f, err := os.OpenFile(at(name), os.O_WRONLY, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteAt([]byte(data), off)
			return err
		})
	}
	last, err := volume.Digest(t.Context(), dir)
	must(t, err)
	for _, c := range []struct {
		name          string
		change        func() error
		content, meta bool
	}{
		{"byte", writeAt("big", 1<<20, "!"), true, false},
		{"byte in a hole", writeAt("hole at end", 150<<20, "!"), true, false},
		{"zeros in a hole", writeAt("hole at end", 100<<20, "\x00\x00"), false, false},
		{"size", keep("zeros", func() error { return os.Truncate(at("zeros"), 1<<20+1) }), true, false},
		{"mode", keep("plain", func() error { return unix.Chmod(at("plain"), 0o600) }), false, true},
		{"setuid", func() error { return unix.Chmod(at("setuid"), 0o755) }, false, true},
		{"owner of link", func() error { return unix.Lchown(at("link"), 1, 1) }, false, true},
		{"time", func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, at("d1/d2"), []unix.Timespec{{}, {Sec: 1e9, Nsec: 77}}, 0)
		}, false, true},
		{"attribute", func() error { return unix.Setxattr(at("attributes"), "user.simple", []byte("other"), 0) }, false, true},
		{"capability", func() error { return unix.Removexattr(at("capable"), "security.capability") }, false, true},
		{"name", keep("", func() error { return os.Rename(at("text"), at("text2")) }), true, true},
		{"target", keep("", func() error { return errors.Join(os.Remove(at("dirlink")), os.Symlink("d2", at("dirlink"))) }), true, true},
		{"device", keep("", func() error {
			return errors.Join(os.Remove(at("loop")), unix.Mknod(at("loop"), unix.S_IFBLK|0o660, int(unix.Mkdev(7, 301))))
		}), true, true},
		{"nothing", func() error { return nil }, false, false},
	} {
		must(t, c.change())
		now, err := volume.Digest(t.Context(), dir)
		must(t, err)
		if now.Content != last.Content != c.content || now.Meta != last.Meta != c.meta {
			t.Errorf("%s: content changed %v, meta changed %v; want %v, %v", c.name, now.Content != last.Content, now.Meta != last.Meta, c.content, c.meta)
		}
		last = now
	}
}

// Five gigabytes that are nearly all hole stay a hole.
func TestLargeSparseFile(t *testing.T) {
	base := t.TempDir()
	src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
	must(t, os.Mkdir(src, 0o755))
	sparse(t, filepath.Join(src, "disk.img"), 5<<30, 0, 1<<30+12345, 5<<30-9)
	s, err := fs.Create(t.TempDir())
	must(t, err)
	v := newVault(t, s)
	snapshot, err := v.Save(t.Context(), src, volume.SaveOptions{})
	must(t, err)
	_, err = v.Load(t.Context(), snapshot.ID, dst, volume.LoadOptions{Verify: volume.VerifyReadback})
	must(t, err)
	if n := blocks(t, filepath.Join(dst, "disk.img")); n > 64 {
		t.Errorf("the file takes %d blocks", n)
	}
	// So few blocks leave no room for other data than that compared here.
	for _, off := range []string{"0", fmt.Sprint(1 << 30), fmt.Sprint(5<<30 - 1<<20)} {
		run(t, "cmp", "-i", off, "-n", fmt.Sprint(1<<20), filepath.Join(src, "disk.img"), filepath.Join(dst, "disk.img"))
	}
	if a, b := run(t, "stat", "-c", "%s %Y", filepath.Join(src, "disk.img")), run(t, "stat", "-c", "%s %Y", filepath.Join(dst, "disk.img")); a != b {
		t.Errorf("size and time %q, want %q", b, a)
	}
}

// What is the system's business, or cannot be saved, is left out.
func TestLeftOut(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	src, dst := filepath.Join(base, "src"), filepath.Join(base, "dst")
	write(t, filepath.Join(src, "lost+found/fragment"), []byte("x"))
	write(t, filepath.Join(src, "sub/lost+found/kept"), []byte("x"))
	write(t, filepath.Join(src, "file"), []byte("x"))
	must(t, unix.Setxattr(filepath.Join(src, "file"), "trusted.secret", []byte("x"), 0))
	listener, err := net.Listen("unix", filepath.Join(src, "sub/socket"))
	must(t, err)
	defer listener.Close()
	s, err := fs.Create(t.TempDir())
	must(t, err)
	v := newVault(t, s)
	snapshot, err := v.Save(t.Context(), src, volume.SaveOptions{})
	must(t, err)
	_, err = v.Load(t.Context(), snapshot.ID, dst, volume.LoadOptions{Verify: volume.VerifyReadback})
	must(t, err)
	if snapshot.Stats.Sockets != 1 {
		t.Errorf("skipped %d, want the socket", snapshot.Stats.Sockets)
	}
	if got, want := run(t, "find", dst, "-mindepth", "1", "-printf", `%P\n`), "file\nsub\nsub/lost+found\nsub/lost+found/kept\n"; sorted(got) != sorted(want) {
		t.Errorf("loaded\n%s", got)
	}
	if n, err := unix.Getxattr(filepath.Join(dst, "file"), "trusted.secret", nil); !errors.Is(err, unix.ENODATA) {
		t.Errorf("trusted attribute: %d, %v", n, err)
	}
}

// Reading a tree does not change its access times, even where the filesystem keeps them strictly.
func TestAccessTimesStay(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "d/file"), randomBytes(1, 1<<20))
	old := []unix.Timespec{{Sec: 1e9}, {Sec: 2e9}} // accessed before it was modified: relatime would update it
	for _, name := range []string{"d/file", "d", ""} {
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, name), old, 0))
	}
	_, err := volume.Digest(t.Context(), dir)
	must(t, err)
	for _, name := range []string{"d/file", "d", ""} {
		var st unix.Stat_t
		must(t, unix.Lstat(filepath.Join(dir, name), &st))
		if st.Atim.Sec != 1e9 {
			t.Errorf("%q was accessed at %d", name, st.Atim.Sec)
		}
	}
}

func sorted(lines string) string {
	parts := strings.Split(lines, "\n")
	slices.Sort(parts)
	return strings.Join(parts, "\n")
}
