package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWriteIsDeterministic(t *testing.T) {
	dir := t.TempDir()
	write := func(out string, umask os.FileMode, when time.Time) []byte {
		t.Helper()
		src := filepath.Join(t.TempDir(), "src")
		for name, mode := range map[string]os.FileMode{"b.txt": 0o666, "a/run": 0o777} {
			p := filepath.Join(src, name)
			if err := os.MkdirAll(filepath.Dir(p), 0o777&^umask); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(p, []byte(name), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(p, mode&^umask); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(p, when, when); err != nil {
				t.Fatal(err)
			}
		}
		var l Layer
		l.AddLink("/bin/sh", "busybox")
		if err := l.AddFile("/srv", src); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, out)
		if err := Write(path, "lockstep.test/x:1", &l, Config{Entrypoint: []string{"/srv/a/run"}}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := write("1.tar", 0o022, time.Unix(1000, 0))
	second := write("2.tar", 0o002, time.Unix(2000, 0))
	if !bytes.Equal(first, second) {
		t.Error("times or the umask changed the archive")
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	var l Layer
	l.AddData("/etc/conf", 0o640, []byte("hello"))
	l.AddDir("/var/data", 0o700, 999, 998)
	l.AddDir("/tmp", os.ModeSticky|0o777, 0, 0)
	l.AddLink("/bin/sh", "busybox")
	out := filepath.Join(dir, "x.tar")
	config := Config{Entrypoint: []string{"/bin/sh", "-c"}, User: "999"}
	if err := Write(out, "lockstep.test/x:1", &l, config); err != nil {
		t.Fatal(err)
	}

	files := readTar(t, mustOpen(t, out))
	var man []manifest
	decode(t, files["manifest.json"].data, &man)
	if diff := cmp.Diff([]string{"lockstep.test/x:1"}, man[0].RepoTags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	var got struct{ Config Config }
	decode(t, files[man[0].Config].data, &got)
	if diff := cmp.Diff(config, got.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}

	layer := readTar(t, strings.NewReader(files[man[0].Layers[0]].data))
	want := map[string]tarEntry{
		"bin/":      {mode: 0o755},
		"bin/sh":    {mode: 0o777, link: "busybox"},
		"etc/":      {mode: 0o755},
		"etc/conf":  {mode: 0o640, data: "hello"},
		"tmp/":      {mode: 0o1777},
		"var/":      {mode: 0o755},
		"var/data/": {mode: 0o700, uid: 999, gid: 998},
	}
	if diff := cmp.Diff(want, layer, cmp.AllowUnexported(tarEntry{})); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
	if tags, err := Tags(out); err != nil || len(tags) != 1 || tags[0] != "lockstep.test/x:1" {
		t.Errorf("Tags: %q, %v", tags, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestWriteRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := Write(filepath.Join(dir, "x.tar"), "name-without-tag", &Layer{}, Config{}); err == nil {
		t.Error("a name without a tag was taken")
	}
	var l Layer
	if err := l.AddFile("/x", filepath.Join(dir, "missing")); err == nil {
		t.Error("a missing file was taken")
	}
	if err := l.AddFile("/x", os.DevNull); err == nil {
		t.Error("a device was taken")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("a refused archive left %v, %v", entries, err)
	}
}

func TestTagsOfSomethingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, []byte("not an archive at all"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Tags(path); err == nil {
		t.Error("no error")
	}
}

func TestAddProgramsFindsLibraries(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "prog"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	needed, _, err := dependencies(self)
	if err != nil {
		t.Fatal(err)
	}
	var l Layer
	err = l.AddPrograms(root, "/prog")
	switch {
	case len(needed) == 0 && err != nil:
		t.Errorf("static program: %v", err)
	case len(needed) > 0 && err == nil:
		t.Error("a program whose libraries are not in the root was packed")
	}
	if err := os.Symlink("/prog", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := resolve(root, "/link"); err != nil || got != filepath.Join(root, "prog") {
		t.Errorf("an absolute link led to %q, %v, out of the root", got, err)
	}
}

type tarEntry struct {
	mode     int64
	uid, gid int
	link     string
	data     string
}

func readTar(t *testing.T, r io.Reader) map[string]tarEntry {
	t.Helper()
	entries := map[string]tarEntry{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		entries[h.Name] = tarEntry{mode: h.Mode, uid: h.Uid, gid: h.Gid, link: h.Linkname, data: string(b)}
	}
}

func mustOpen(t *testing.T, path string) io.Reader {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.NewReader(b)
}

func decode(t *testing.T, s string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(s), v); err != nil {
		t.Fatal(err)
	}
}
