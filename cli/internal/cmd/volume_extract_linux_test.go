package cmd

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/pkg/volume"
)

// hostile names are what a file system allows and a person would not believe.
var hostile = []string{"-rf", "a b", "new\nline", "\x1b[31mred", "...", ".. ", "~", "$(id)", "café", "\xff\xfe", "%2e%2e", "..\\up"}

// newTree saves a tree into a new vault.
func newTree(t *testing.T) (d *disaster, tree, snapshot string) {
	t.Helper()
	d = newDisaster(t)
	tree = t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(tree, "etc", "app", "empty"), 0o750))
	for _, name := range append([]string{"app.conf", "App.conf.bak", "settings.yaml"}, hostile...) {
		must(os.WriteFile(filepath.Join(tree, "etc", "app", name), []byte("of "+name), 0o640))
	}
	must(os.Symlink("/etc/passwd", filepath.Join(tree, "etc", "app", "outside")))
	must(os.Symlink("..", filepath.Join(tree, "etc", "app", "up")))
	must(os.Symlink("/", filepath.Join(tree, "root")))
	must(os.Link(filepath.Join(tree, "etc", "app", "app.conf"), filepath.Join(tree, "etc", "app", "same")))
	must(unix.Setxattr(filepath.Join(tree, "etc", "app", "app.conf"), "user.note", []byte("kept"), 0))
	must(os.Chmod(filepath.Join(tree, "etc", "app", "app.conf"), 0o604))
	must(os.Chtimes(filepath.Join(tree, "etc", "app", "app.conf"), time.Time{}, time.Unix(1_600_000_000, 123456789)))
	saved := withoutCluster(t, d.flags("volume", "save", tree, "-o", "json")...)
	var s volume.Snapshot
	must(json.Unmarshal([]byte(saved.out), &s))
	return d, tree, s.ID
}

func within(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}

func TestExtract(t *testing.T) {
	d, tree, id := newTree(t)
	extract := func(to string, args ...string) outcome {
		return withoutCluster(t, d.flags(append([]string{"volume", "extract", id, "--to", to}, args...)...)...)
	}

	to := filepath.Join(t.TempDir(), "new", "dir")
	extract(to, "etc/app/app.conf", "/etc/app/settings.yaml").want(t, fault.Done, "extracted "+to+"/etc/app/app.conf: 1 file, 11 B")
	got := filepath.Join(to, "etc", "app", "app.conf")
	info, err := os.Stat(got)
	if err != nil {
		t.Fatal(err)
	}
	note := make([]byte, 10)
	n, err := unix.Getxattr(got, "user.note", note)
	if info.Mode() != 0o604 || info.ModTime().UnixNano() != 1_600_000_000_123456789 || err != nil || string(note[:n]) != "kept" {
		t.Errorf("%s: %s, %s, %q, %v", got, info.Mode(), info.ModTime(), note[:max(n, 0)], err)
	}
	if left := within(t, to); !slices.Equal(left, []string{"etc"}) {
		t.Errorf("the directory holds %q", left)
	}

	// Nothing is overwritten without being told.
	if err := os.WriteFile(got, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	extract(to, "etc/app/app.conf").want(t, fault.Refused, "exists", "--force")
	extract(to, "etc").want(t, fault.Refused, "exists")
	if data, _ := os.ReadFile(got); string(data) != "mine" {
		t.Errorf("overwritten with %q", data)
	}
	extract(to, "etc/app/app.conf", "--force").want(t, fault.Done)
	mine := filepath.Join(to, "etc", "app", "mine")
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	extract(to, "etc", "etc/app", "--force").want(t, fault.Done)
	if want := append(within(t, filepath.Join(tree, "etc", "app")), "mine"); true {
		slices.Sort(want)
		if diff := cmp.Diff(want, within(t, filepath.Join(to, "etc", "app"))); diff != "" {
			t.Errorf("names (-want +got):\n%s", diff)
		}
	}
	for _, name := range append([]string{"app.conf"}, hostile...) {
		if data, err := os.ReadFile(filepath.Join(to, "etc", "app", name)); err != nil || string(data) != "of "+name {
			t.Errorf("%q holds %q, %v", name, data, err)
		}
	}
	if target, err := os.Readlink(filepath.Join(to, "etc", "app", "outside")); err != nil || target != "/etc/passwd" {
		t.Errorf("the symlink points to %q, %v", target, err)
	}

	// All of it, into an empty directory only.
	whole := t.TempDir()
	extract(whole, ".").want(t, fault.Done)
	if diff := cmp.Diff([]string{"etc", "root"}, within(t, whole)); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	extract(whole, "/").want(t, fault.Refused, "is not empty")
}

func TestExtractStaysBelowItsDirectory(t *testing.T) {
	d, _, id := newTree(t)
	for _, force := range []bool{false, true} {
		to, outside := t.TempDir(), t.TempDir()
		precious := filepath.Join(outside, "app.conf")
		if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(to, "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(to, "etc", "app")); err != nil {
			t.Fatal(err)
		}
		args := d.flags("volume", "extract", id, "--to", to)
		if force {
			args = append(args, "--force")
		}
		withoutCluster(t, append(args, "etc/app/app.conf")...).want(t, fault.Refused, "no symlink is followed")
		withoutCluster(t, append(args, "../../../etc/app/app.conf")...).want(t, fault.Refused, "no symlink is followed")
		if force { // the symlink is replaced, what it points to stays
			withoutCluster(t, append(args, "etc/app")...)
		}
		if data, _ := os.ReadFile(precious); string(data) != "precious" || !slices.Equal(within(t, outside), []string{"app.conf"}) {
			t.Errorf("outside there is %q now: %q", within(t, outside), data)
		}
	}
	// What is at the end of a symlink of the snapshot is not in the snapshot.
	withoutCluster(t, d.flags("volume", "extract", id, "--to", t.TempDir(), "root/etc/passwd")...).want(t, fault.Absent, "path is not in the snapshot")
	withoutCluster(t, d.flags("volume", "extract", id, "--to", t.TempDir(), "root")...).want(t, fault.Failed, "only a directory or a file can be loaded alone")
}

func TestHalvesAreNamed(t *testing.T) {
	d, _, id := newTree(t)
	to := t.TempDir()
	half := filepath.Join(to, ".lockstep-extract-ABC")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	withoutCluster(t, d.flags("volume", "extract", id, "etc/app/app.conf", "--to", to)...).want(t, fault.Done, half, "was killed or is under way")
	if _, err := os.Stat(half); err != nil {
		t.Errorf("what may be another's was taken away: %v", err)
	}
}

func TestAbsentPathsAreSaidWithNearNames(t *testing.T) {
	d, _, id := newTree(t)
	to := t.TempDir()
	for path, near := range map[string]string{
		"etc/app/ap.conf":      "There is: etc/app/app.conf",
		"etc/app/APP.CONF":     "etc/app/app.conf, etc/app/App.conf.bak",
		"etcc/app/app.conf":    "There is: etc",
		"etc/app/red":          `"etc/app/\x1b[31mred"`,
		"etc/app/quite/else/x": "See what there is: lockstep volume list " + id[:8] + " etc/app",
	} {
		withoutCluster(t, d.flags("volume", "extract", id, path, "--to", to)...).want(t, fault.Absent, "path is not in the snapshot", near)
		withoutCluster(t, d.flags("volume", "cat", id, path)...).want(t, fault.Absent, near)
	}
	if left := within(t, to); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

func TestVolumesOfAPointAreNamedByItsClaims(t *testing.T) {
	d := newDisaster(t)
	const id = "20260103-030405-bbbbbbbb"
	d.savePoint(t, id, d.record.Taken.Add(24*time.Hour))
	for _, name := range []string{id, id[:11], id + ":shop/data", id + ":data"} {
		got := withoutCluster(t, d.flags("volume", "cat", name, "file")...)
		if got.want(t, fault.Done); got.out != "data" {
			t.Errorf("%s: %q", name, got.out)
		}
	}
	withoutCluster(t, d.flags("volume", "cat", id+":shop/other", "file")...).want(t, fault.Absent, `has no volume "shop/other"`, id+":shop/data")
	withoutCluster(t, d.flags("volume", "cat", "20270101-", "file")...).want(t, fault.Absent, "no point")
	to := t.TempDir()
	out := withoutCluster(t, d.flags("volume", "extract", id+":shop/data", "file", "--to", to, "-o", "json")...)
	if out.want(t, fault.Done, `"path": "file"`); !strings.Contains(out.out, `"target": "`+to+`/file"`) {
		t.Error(out.out)
	}
}
