package git

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
)

// shop is a repository with two versions, the first with an annotated tag, the second with a light one.
func shop(t *testing.T) (w *work, v1, v2 string) {
	t.Helper()
	w = newWork(t)
	w.write("deploy/db.yaml", "one")
	w.write("other/x.yaml", "x")
	v1 = w.commit("one")
	w.git("tag", "-a", "-m", "v1", "v1.0.0")
	w.git("tag", "-a", "-m", "tag of a tag", "first", "v1.0.0")
	w.write("deploy/db.yaml", "two")
	v2 = w.commit("two")
	w.git("tag", "v2.0.0")
	w.git("branch", "release/1.x", v1)
	return w, v1, v2
}

func TestResolve(t *testing.T) {
	w, v1, v2 := shop(t)
	for name, location := range map[string]string{
		"exact names":    serve(t, w, "uploadpack.allowAnySHA1InWant=true").url(),
		"no exact names": serve(t, w).url(),
		"local":          w.dir,
		"local subdir":   filepath.Join(w.dir, "deploy"),
		"local bare":     serve(t, w).bare,
		"file URL":       "file://" + w.dir,
	} {
		t.Run(name, func(t *testing.T) {
			// One repository for all: later answers must not depend on what earlier ones left behind.
			r := open(t, location, Options{})
			for _, c := range []struct {
				ref            Ref
				path           string
				name, commit   string
				recorded, tree string
			}{
				{Ref{Tag: "v1.0.0"}, "deploy", "v1.0.0", v1, "deploy", v1 + ":deploy"},
				{Ref{Tag: "v2.0.0"}, ".", "v2.0.0", v2, ".", v2 + "^{tree}"},
				{Ref{Tag: "first"}, "", "first", v1, ".", v1 + "^{tree}"},
				{Ref{Branch: "main"}, "./deploy/", "main", v2, "deploy", v2 + ":deploy"},
				{Ref{Branch: "release/1.x"}, "other", "release/1.x", v1, "other", v1 + ":other"},
				{Ref{Commit: v1}, "deploy", "", v1, "deploy", v1 + ":deploy"},
				{Ref{Commit: v2[:7]}, "deploy", "", v2, "deploy", v2 + ":deploy"},
				{Ref{Commit: v1[:12]}, "deploy", "", v1, "deploy", v1 + ":deploy"},
			} {
				got, err := r.Resolve(t.Context(), c.ref, c.path)
				if err != nil {
					t.Errorf("%s: %v", c.ref, err)
					continue
				}
				want := v1alpha1.Revision{
					Repository: r.URL(), Ref: c.name, Commit: c.commit, Path: c.recorded, Tree: w.git("rev-parse", c.tree),
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", c.ref, diff)
				}
			}
		})
	}
}

func TestResolveIsShallow(t *testing.T) {
	w, v1, _ := shop(t)
	s := serve(t, w, "uploadpack.allowAnySHA1InWant=true")
	for _, ref := range []Ref{{Tag: "v2.0.0"}, {Commit: v1}} {
		r := open(t, s.url(), Options{})
		if _, err := r.Resolve(t.Context(), ref, "."); err != nil {
			t.Fatal(err)
		}
		if shallow, err := r.store.Shallow(); err != nil || len(shallow) == 0 && ref.Tag != "" {
			t.Errorf("%s: fetched with its history: %v", ref, err)
		}
		if r.remote.whole {
			t.Errorf("%s: the whole repository was fetched", ref)
		}
	}
}

func TestResolveForcePushed(t *testing.T) {
	w, _, _ := shop(t)
	lost := w.commit("lost")
	s := serve(t, w, "uploadpack.allowAnySHA1InWant=true")
	w.git("reset", "-q", "--hard", "HEAD~1")
	s.push(w)
	got, err := open(t, s.url(), Options{}).Resolve(t.Context(), Ref{Commit: lost}, ".")
	if err != nil || got.Commit != lost {
		t.Errorf("got %q, %v, want the commit that the force-push cut off", got.Commit, err)
	}
}

func TestResolveAbsent(t *testing.T) {
	w, _, v2 := shop(t)
	empty := newWork(t)
	for name, c := range map[string]struct {
		work *work
		ref  Ref
		path string
		is   error
		says string
	}{
		"tag":              {w, Ref{Tag: "v1.0.1"}, ".", ErrRefNotFound, "; nearest: v1.0.0, v2.0.0, first"},
		"branch":           {w, Ref{Branch: "mian"}, ".", ErrRefNotFound, "; nearest: main, release/1.x"},
		"branch as tag":    {w, Ref{Tag: "main"}, ".", ErrRefNotFound, "there is refs/heads/main"},
		"commit":           {w, Ref{Commit: strings.Repeat("1", 40)}, ".", ErrRefNotFound, "no branch or tag leads to it"},
		"short commit":     {w, Ref{Commit: "1111111"}, ".", ErrRefNotFound, "no branch or tag leads to it"},
		"path":             {w, Ref{Commit: v2}, "deploi", ErrPathNotFound, "; nearest: deploy, other"},
		"deeper path":      {w, Ref{Commit: v2}, "deploy/base/x", ErrPathNotFound, ""},
		"file":             {w, Ref{Commit: v2}, "deploy/db.yaml", ErrPathNotFound, "not a directory"},
		"tag, empty":       {empty, Ref{Tag: "v1"}, ".", ErrRefNotFound, ""},
		"commit, empty":    {empty, Ref{Commit: v2}, ".", ErrRefNotFound, ""},
		"no commit, empty": {empty, Ref{Commit: "abcdef0"}, ".", ErrRefNotFound, ""},
	} {
		for kind, location := range map[string]string{"remote": serve(t, c.work).url(), "local": c.work.dir} {
			t.Run(name+" "+kind, func(t *testing.T) {
				_, err := open(t, location, Options{}).Resolve(t.Context(), c.ref, c.path)
				if !errors.Is(err, c.is) || errors.Is(err, ErrUnreachable) {
					t.Fatalf("got error %v, want %v", err, c.is)
				}
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("got error %q, want it to say %q", err, c.says)
				}
			})
		}
	}
}

func TestResolveAmbiguous(t *testing.T) {
	w := newWork(t)
	// Commits until two share their first digits; minPrefix digits would take too long, so ask below the public door.
	seen := map[string]string{}
	for i := 0; ; i++ {
		c := w.commit(fmt.Sprint(i))
		if other, ok := seen[c[:2]]; ok {
			r := open(t, serve(t, w).url(), Options{})
			_, err := r.findPrefix(t.Context(), c[:2])
			if !errors.Is(err, ErrAmbiguous) || !strings.Contains(err.Error(), c) || !strings.Contains(err.Error(), other) {
				t.Errorf("got error %v, want ErrAmbiguous with %s and %s", err, c, other)
			}
			return
		}
		seen[c[:2]] = c
	}
}

func TestResolveRefuses(t *testing.T) {
	w, v1, _ := shop(t)
	w.git("tag", "blob", v1+":deploy/db.yaml")
	r := open(t, w.dir, Options{})
	for name, c := range map[string]struct {
		ref  Ref
		path string
		says string
	}{
		"nothing":       {Ref{}, ".", "exactly one way"},
		"two ways":      {Ref{Tag: "v1.0.0", Commit: v1}, ".", "exactly one way"},
		"too short":     {Ref{Commit: "abc"}, ".", "7 to 64"},
		"not digits":    {Ref{Commit: "HEAD~1xyz"}, ".", "7 to 64"},
		"SHA-256":       {Ref{Commit: strings.Repeat("a", 64)}, ".", "SHA-256"},
		"parent":        {Ref{Commit: v1}, "../x", "leaves the repository"},
		"hidden parent": {Ref{Commit: v1}, "a/../../x", "leaves the repository"},
		"absolute":      {Ref{Commit: v1}, "/etc", "leaves the repository"},
		"tag of a file": {Ref{Tag: "blob"}, ".", "names a blob"},
	} {
		if _, err := r.Resolve(t.Context(), c.ref, c.path); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got error %v, want it to say %q", name, err, c.says)
		}
	}
}

func TestLocalShallowCloneProvesNothing(t *testing.T) {
	w, v1, _ := shop(t)
	dir := filepath.Join(t.TempDir(), "clone")
	w.git("clone", "-q", "--depth=1", "file://"+w.dir, dir)
	_, err := open(t, dir, Options{}).Resolve(t.Context(), Ref{Commit: v1}, ".")
	if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrRefNotFound) {
		t.Errorf("got error %v, want ErrUnreachable", err)
	}
}

func TestLocalURL(t *testing.T) {
	w, _, _ := shop(t)
	if got := open(t, filepath.Join(w.dir, "deploy"), Options{}).URL(); got != "file://"+w.dir {
		t.Errorf("without a remote: %q", got)
	}
	w.git("remote", "add", "origin", "https://user:hunter2@example.com/shop.git")
	if got := open(t, w.dir, Options{}).URL(); got != "https://example.com/shop.git" {
		t.Errorf("with a remote: %q", got)
	}
	if _, err := Open(t.TempDir(), Options{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("no repository: got error %v, want ErrUnreachable", err)
	}
}

// TestUnknown is about everything that must never look like "there is no such commit".
func TestUnknown(t *testing.T) {
	w, v1, _ := shop(t)
	refs := []Ref{{Tag: "v1.0.0"}, {Tag: "none"}, {Branch: "main"}, {Commit: v1}, {Commit: strings.Repeat("1", 40)}, {Commit: v1[:7]}, {Commit: "1111111"}}
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"server error": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) {
				http.Error(out, "down for maintenance", http.StatusServiceUnavailable)
			})
		},
		"not found, as a private repository is": func(http.Handler) http.Handler { return http.NotFoundHandler() },
		"not a git server": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { fmt.Fprint(out, "<html>please log in</html>") })
		},
		"empty answers": func(http.Handler) http.Handler {
			return http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { out.WriteHeader(http.StatusOK) })
		},
		"empty packs":               onlyPacks(func([]byte) []byte { return nil }),
		"packs cut short":           onlyPacks(func(b []byte) []byte { return b[:len(b)*3/4] }),
		"packs cut by a byte":       onlyPacks(func(b []byte) []byte { return b[:len(b)-1] }),
		"names cut within a line":   onlyNames(func(b []byte) []byte { return b[:len(b)*3/4] }),
		"names cut between lines":   onlyNames(func(b []byte) []byte { return b[:bytes.LastIndexByte(b[:len(b)-5], '\n')+1] }),
		"names without their end":   onlyNames(func(b []byte) []byte { return bytes.TrimSuffix(b, []byte("0000")) }),
		"names cut after the first": onlyNames(func(b []byte) []byte { i := bytes.IndexByte(b[40:], '\n') + 41; return b[:i] }),
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, w, "uploadpack.allowAnySHA1InWant=true")
			s.wrap = wrap
			for _, ref := range refs {
				if strings.HasPrefix(name, "packs") && ref.Tag == "none" || name == "empty packs" && ref.Tag == "none" {
					continue // needs no pack to be answered
				}
				_, err := open(t, s.url(), Options{}).Resolve(t.Context(), ref, ".")
				if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrRefNotFound) {
					t.Errorf("%s: got error %v, want ErrUnreachable", ref, err)
				}
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		s := serve(t, w)
		s.Close()
		for _, ref := range refs {
			_, err := open(t, s.url(), Options{}).Resolve(t.Context(), ref, ".")
			if !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrRefNotFound) {
				t.Errorf("%s: got error %v, want ErrUnreachable", ref, err)
			}
		}
	})
}

// onlyPacks changes what comes after the names: the packs; onlyNames the names.
func onlyPacks(change func([]byte) []byte) func(http.Handler) http.Handler {
	return alter(http.MethodPost, change)
}

func onlyNames(change func([]byte) []byte) func(http.Handler) http.Handler {
	return alter(http.MethodGet, change)
}

func alter(method string, change func([]byte) []byte) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
			if in.Method != method {
				next.ServeHTTP(out, in)
				return
			}
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, in)
			for k, v := range rec.Header() {
				out.Header()[k] = v
			}
			out.WriteHeader(rec.Code)
			_, _ = out.Write(change(rec.Body.Bytes()))
		})
	}
}

func TestContextAndTimeout(t *testing.T) {
	w, _, _ := shop(t)
	s := serve(t, w)
	asked, done := make(chan struct{}, 1), make(chan struct{})
	s.wrap = func(http.Handler) http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, in *http.Request) {
			asked <- struct{}{}
			select {
			case <-in.Context().Done():
			case <-done:
			}
		})
	}
	t.Cleanup(func() { close(done) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := open(t, s.url(), Options{}).Resolve(ctx, Ref{Tag: "v1.0.0"}, "."); !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got error %v", err)
	}
	_, err := open(t, s.url(), Options{Timeout: time.Millisecond}).Resolve(t.Context(), Ref{Tag: "v1.0.0"}, ".")
	if !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("timeout: got error %v", err)
	}
}

func TestHTTPAuth(t *testing.T) {
	w, v1, _ := shop(t)
	s := serve(t, w)
	s.wrap = func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
			user, password, _ := in.BasicAuth()
			if in.Header.Get("Authorization") != "Bearer hunter2" && (user != "git" || password != "hunter2") {
				out.Header().Set("WWW-Authenticate", "Basic")
				out.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(out, in)
		})
	}
	inURL := strings.Replace(s.url(), "://", "://git:hunter2@", 1)
	wrongURL := strings.Replace(s.url(), "://", "://git:hunter3@", 1)
	for name, c := range map[string]struct {
		location string
		auth     Auth
		ok       bool
	}{
		"basic":              {s.url(), Auth{Username: "git", Password: "hunter2"}, true},
		"bearer":             {s.url(), Auth{BearerToken: "hunter2"}, true},
		"in the URL":         {inURL, Auth{}, true},
		"beats the URL":      {wrongURL, Auth{BearerToken: "hunter2"}, true},
		"none":               {s.url(), Auth{}, false},
		"wrong":              {s.url(), Auth{Username: "git", Password: "hunter3"}, false},
		"wrong in the URL":   {wrongURL, Auth{}, false},
		"wrong bearer token": {s.url(), Auth{BearerToken: "hunter3"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, c.location, Options{Auth: c.auth})
			got, err := r.Resolve(t.Context(), Ref{Tag: "v1.0.0"}, ".")
			if c.ok && (err != nil || got.Commit != v1 || got.Repository != s.url()) {
				t.Errorf("got %+v, %v", got, err)
			}
			if !c.ok && (!errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "hunter") || !strings.Contains(err.Error(), "credentials")) {
				t.Errorf("got error %v, want ErrUnreachable that speaks of credentials and shows none", err)
			}
		})
	}
}

func TestCA(t *testing.T) {
	w, v1, _ := shop(t)
	s := start(t, w, tlsServer)
	_, err := open(t, s.url(), Options{}).Resolve(t.Context(), Ref{Tag: "v1.0.0"}, ".")
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown certificate: got error %v", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if got, err := open(t, s.url(), Options{Auth: Auth{CA: ca}}).Resolve(t.Context(), Ref{Commit: v1}, "."); err != nil || got.Commit != v1 {
		t.Errorf("known certificate: got %+v, %v", got, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := temporary(t)
	for name, c := range map[string]struct {
		location string
		auth     Auth
		says     string
	}{
		"scheme":               {"ftp://user:hunter2@example.com/x", Auth{}, "none of https, http and ssh"},
		"unencrypted git":      {"git://example.com/x", Auth{}, "none of https, http and ssh"},
		"no URL":               {"https://user:hunter2%zz@example.com/x", Auth{}, "not the URL"},
		"SSH without hosts":    {"ssh://git@example.com/x", Auth{Identity: []byte("x")}, "known_hosts"},
		"SSH without identity": {"git@example.com:x", Auth{Identity: []byte("hunter2"), KnownHosts: []byte("x")}, "identity"},
	} {
		_, err := Open(c.location, Options{Auth: c.auth})
		if err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got error %v, want it to say %q and no secret", name, err, c.says)
		}
	}
	leftBehind(t, dir)
}

func TestClose(t *testing.T) {
	w, v1, _ := shop(t)
	s := serve(t, w)
	dir := temporary(t)
	r, err := Open(s.url(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context(), Ref{Commit: v1}, "."); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	leftBehind(t, dir)
}

// temporary gives the test a directory for temporary files of its own.
func temporary(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	return dir
}

// leftBehind fails the test if anything is in dir.
func leftBehind(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestMaxFetch(t *testing.T) {
	w, _, _ := shop(t)
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(i * i >> 3 * 31)
	}
	w.write("big", string(noise))
	v3 := w.commit("big")
	s := serve(t, w)
	for _, ref := range []Ref{{Branch: "main"}, {Commit: v3}, {Commit: v3[:7]}} {
		_, err := open(t, s.url(), Options{MaxFetch: 1000}).Resolve(t.Context(), ref, ".")
		if !errors.Is(err, ErrUnsafe) {
			t.Errorf("%s: got error %v, want ErrUnsafe", ref, err)
		}
	}
}

// TestBorrowed reads a clone that takes its objects from another repository, which takes some of them from a third.
func TestBorrowed(t *testing.T) {
	w := newWork(t)
	w.write("deploy/a.yaml", "a")
	commit := w.commit("begin")
	lender, clone := filepath.Join(t.TempDir(), "lender"), filepath.Join(t.TempDir(), "clone")
	w.git("clone", "-q", "--shared", w.dir, lender)
	w.git("clone", "-q", "--shared", lender, clone)
	r := open(t, clone, Options{})
	files, err := r.Files(t.Context(), commit, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := files.Read("deploy/a.yaml", 10); err != nil || string(got) != "a" {
		t.Errorf("a file: %q, %v", got, err)
	}
	if err := files.Close(); err != nil {
		t.Error(err)
	}
	for _, ref := range []Ref{{Head: true}, {Branch: "main"}, {Commit: commit}} {
		if got, err := r.Resolve(t.Context(), ref, "deploy"); err != nil || got.Commit != commit {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	if err := r.Materialise(t.Context(), mustResolve(t, r, commit, "deploy"), t.TempDir()); err != nil {
		t.Error(err)
	}
	for _, absent := range []string{commit[:8], strings.Repeat("1", 40)} {
		if got, err := r.Resolve(t.Context(), Ref{Commit: absent}, "deploy"); err == nil && got.Commit != commit || err != nil && !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s, of which not all is known: %+v, %v", absent, got, err)
		}
	}
}
