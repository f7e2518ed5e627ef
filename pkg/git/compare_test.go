package git

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	w, v1, v2 := shop(t)
	bare := filepath.Join(t.TempDir(), "shop.git")
	w.git("clone", "-q", "--bare", "file://"+w.dir, bare)
	for _, dir := range []string{w.dir, bare} {
		r := open(t, dir, Options{})
		if (r.WorkTree() == "") != (dir == bare) {
			t.Errorf("%s: the work tree is %q", dir, r.WorkTree())
		}
		for name, want := range map[string]string{"v1.0.0": v1, v1[:8]: v1, v1: v1, "HEAD": v2, "HEAD^1": v1} {
			if got, err := r.Parse(t.Context(), name); err != nil || got != want {
				t.Errorf("%s: %q is %s, %v; want %s", dir, name, got, err, want)
			}
		}
		for _, name := range []string{"none", "HEAD^2", "HEAD~40", "", "--all", strings.Repeat("1", 40), "v1.0.0:deploy"} {
			if got, err := r.Parse(t.Context(), name); !errors.Is(err, ErrRefNotFound) {
				t.Errorf("%s: %q is %s, %v", dir, name, got, err)
			}
		}
	}
	if _, err := open(t, "https://git.example.com/shop.git", Options{}).Parse(t.Context(), "HEAD"); err == nil {
		t.Error("a name was found in a repository that was not asked")
	}
}

func TestBranch(t *testing.T) {
	w, v1, _ := shop(t)
	w.git("checkout", "-q", "-B", "develop")
	w.git("branch", "-f", "feature/a")
	w.git("tag", "both")
	w.git("branch", "-f", "both")
	dir := t.TempDir()
	clone, bare := filepath.Join(dir, "clone"), filepath.Join(dir, "bare")
	w.git("clone", "-q", "--bare", "file://"+w.dir, bare)
	w.git("clone", "-q", "file://"+w.dir, clone)
	detached := filepath.Join(dir, "detached")
	w.git("clone", "-q", "file://"+w.dir, detached)
	w.git("-C", detached, "checkout", "-q", "--detach")
	for _, c := range []struct{ dir, name, want string }{
		{clone, "HEAD", "develop"}, {clone, "develop", "develop"}, {clone, "refs/heads/develop", "develop"}, {clone, "origin", "develop"},
		{clone, "origin/feature/a", "feature/a"}, {clone, "feature/a", ""}, {clone, "v1.0.0", ""}, {clone, v1, ""}, {clone, "HEAD^1", ""}, {clone, "", ""},
		{clone, "../HEAD", ""}, {bare, "HEAD", "develop"}, {bare, "both", ""}, {bare, "origin", ""}, {detached, "HEAD", ""}, {detached, "origin", "develop"},
	} {
		if got := open(t, c.dir, Options{}).Branch(c.name); got != c.want {
			t.Errorf("%s: %q is the branch %q, want %q", filepath.Base(c.dir), c.name, got, c.want)
		}
	}
}

func TestMergeBase(t *testing.T) {
	w, top, merge, main, side, base := merged(t)
	w.git("checkout", "-q", "--orphan", "elsewhere")
	other := w.commit("of another history")
	r := open(t, w.dir, Options{})
	for _, c := range []struct{ base, head, want string }{
		{main, side, base}, {side, main, base}, {main, merge, main}, {side, merge, side}, {base, top, base}, {top, top, top},
	} {
		if got, err := r.MergeBase(t.Context(), c.base, c.head); err != nil || got != c.want {
			t.Errorf("of %s and %s: %s, %v; want %s", c.base, c.head, got, err, c.want)
		}
	}
	for _, base := range []string{"nowhere", "HEAD~9"} {
		if got, err := r.MergeBase(t.Context(), base, top); !errors.Is(err, ErrRefNotFound) || !strings.HasSuffix(err.Error(), ": "+base+" is "+ErrRefNotFound.Error()) {
			t.Errorf("of %s: %s, %v", base, got, err)
		}
	}
	if got, err := r.MergeBase(t.Context(), other, top); !errors.Is(err, ErrRefNotFound) {
		t.Errorf("of two histories: %s, %v", got, err)
	}
}

func TestMergeBaseOfAShallowClone(t *testing.T) {
	w, _, merge, main, side, _ := merged(t)
	w.git("checkout", "-q", merge)
	w.git("branch", "-f", "shown", merge)
	dir := filepath.Join(t.TempDir(), "clone")
	w.git("clone", "-q", "--depth=2", "--branch=shown", "file://"+w.dir, dir)
	r := open(t, dir, Options{})
	if got, err := r.MergeBase(t.Context(), "HEAD^1", "HEAD"); err != nil || got != main {
		t.Errorf("of a parent: %s, %v; want %s", got, err, main)
	}
	if got, err := r.MergeBase(t.Context(), main, side); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "shallow") {
		t.Errorf("of two parents: %s, %v", got, err)
	}
}

func TestFilesOfACommitComeWhenTheyAreWanted(t *testing.T) {
	w, v1, _ := shop(t)
	r := open(t, w.dir, Options{})
	dir := t.TempDir()
	f, err := r.Files(t.Context(), v1, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	db := filepath.Join(dir, "deploy", "db.yaml")
	if _, err := os.Lstat(db); !os.IsNotExist(err) {
		t.Errorf("the file is there before anybody wants it: %v", err)
	}
	for _, name := range []string{"deploy", "none"} {
		if err := f.Dir(name); err != nil {
			t.Errorf("the directory: %v", err)
		}
	}
	if made, err := os.ReadDir(dir); err != nil || len(made) != 1 || made[0].Name() != "deploy" {
		t.Errorf("the directories: %v, %v", made, err)
	}
	for range 2 {
		if err := f.Bring("deploy/db.yaml", "none"); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	sum := BlobHash(int64(len(data)))
	_, _ = sum.Write(data)
	if read, err := f.Read("deploy/db.yaml", 1<<20); err != nil || !bytes.Equal(read, data) {
		t.Errorf("read: %q, %v", read, err)
	}
	if read, err := f.Read("deploy/db.yaml", 2); err != nil || !bytes.Equal(read, data[:2]) {
		t.Errorf("its beginning: %q, %v", read, err)
	}
	if _, err := f.Read("none", 5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that there is not: %v", err)
	}
	if got, want := f.Hashes()["deploy/db.yaml"], hex.EncodeToString(sum.Sum(nil)); got != want || len(got) != 40 {
		t.Errorf("its hash is %q, want %q", got, want)
	}
	if err := f.Bring(slices.Collect(maps.Keys(f.Hashes()))...); err != nil {
		t.Fatal(err)
	}
	again, err := r.Files(t.Context(), v1, dir)
	if err == nil {
		t.Error("a commit was written over another")
		_ = again.Close()
	}
}

func TestFilesOfACommitWithLinksAreAllThere(t *testing.T) {
	w, _, _ := shop(t)
	if err := os.Symlink("/etc/passwd", filepath.Join(w.dir, "deploy", "out")); err != nil {
		t.Fatal(err)
	}
	c := w.commit("a link out of the repository")
	dir := t.TempDir()
	f, err := open(t, w.dir, Options{}).Files(t.Context(), c, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := os.Lstat(filepath.Join(dir, "deploy", "out")); !os.IsNotExist(err) {
		t.Errorf("the link is there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "deploy", "db.yaml")); err != nil {
		t.Error(err)
	}
}

// What is a link and a directory at once would lead elsewhere than it seems.
func TestFilesOfACommitThatNamesAPathTwice(t *testing.T) {
	w, _, _ := shop(t)
	r := open(t, w.dir, Options{})
	store := func(of plumbing.ObjectType, content string) plumbing.Hash {
		o := r.store.NewEncodedObject()
		o.SetType(of)
		in, err := o.Writer()
		if err == nil {
			_, err = io.WriteString(in, content)
		}
		hash, stored := r.store.SetEncodedObject(o)
		if err = errors.Join(err, stored); err != nil {
			t.Fatal(err)
		}
		return hash
	}
	entry := func(mode, name string, hash plumbing.Hash) string {
		return mode + " " + name + "\x00" + string(hash[:])
	}
	blob := store(plumbing.BlobObject, "..")
	tree := store(plumbing.TreeObject, entry("100644", "b", blob))
	for name, entries := range map[string]string{
		"file and file":           entry("100644", "a", blob) + entry("100644", "a", blob),
		"link and file":           entry("120000", "a", blob) + entry("100644", "a", blob),
		"link and directory":      entry("120000", "a", blob) + entry("40000", "a", tree),
		"directory and directory": entry("40000", "a", tree) + entry("40000", "a", tree),
	} {
		root := store(plumbing.TreeObject, entries)
		commit := store(plumbing.CommitObject, fmt.Sprintf("tree %s\nauthor a <a@b.test> 1 +0000\ncommitter a <a@b.test> 1 +0000\n\nm", root))
		if f, err := r.Files(t.Context(), commit.String(), t.TempDir()); !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: got %v, %v", name, f, err)
		}
	}
}

func TestFilesAreInTheOrderOfAWalk(t *testing.T) {
	w, _, _ := shop(t)
	for _, name := range []string{"a/b", "a-b", "a.b", "a0", "a/b-c/d", "a/b.c", "B", "a/Z/z"} {
		w.write(name, name)
	}
	f, err := open(t, w.dir, Options{}).Files(t.Context(), w.commit("names"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var walked []string
	err = filepath.WalkDir(w.dir, func(file string, entry fs.DirEntry, err error) error {
		if entry.Name() == ".git" {
			return fs.SkipDir
		}
		if name, _ := filepath.Rel(w.dir, file); entry.Type().IsRegular() {
			walked = append(walked, filepath.ToSlash(name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(walked, f.Names()); diff != "" {
		t.Errorf("names (-walked +listed):\n%s", diff)
	}
}

// The files of two commits are read out of a pack by many at once, and brought.
func TestFilesBesideOneAnother(t *testing.T) {
	w := newWork(t)
	contents := func(version string) map[string]string {
		files := map[string]string{}
		for i := range 60 {
			files[fmt.Sprintf("apps/app-%d/file.yaml", i)] = fmt.Sprintf("version: %s\nnumber: %d\n%s\n", version, i, strings.Repeat("the same in all\n", 50))
		}
		return files
	}
	var commits []string
	for _, version := range []string{"one", "two"} {
		for name, content := range contents(version) {
			w.write(name, content)
		}
		commits = append(commits, w.commit(version))
	}
	w.git("repack", "-adq")
	r := open(t, w.dir, Options{})
	var all sync.WaitGroup
	for at, version := range []string{"one", "two"} {
		files, err := r.Files(t.Context(), commits[at], t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = files.Close() })
		for range 6 {
			all.Go(func() {
				for name, want := range contents(version) {
					got, err := files.Read(name, 10_000)
					if err == nil {
						err = files.Bring(name)
					}
					if err != nil || string(got) != want {
						t.Errorf("%s of %s: %q, %v", name, version, got, err)
						return
					}
				}
			})
		}
	}
	all.Wait()
}
