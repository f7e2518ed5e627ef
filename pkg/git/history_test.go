package git

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/revision"
)

// merged is a repository with this history, the newest first; side is a branch that was merged and deleted:
//
//	top: deploy and schema as in merge
//	merge of main and side: schema changed by side
//	main: other changed | side: schema changed
//	base
func merged(t *testing.T) (w *work, top, merge, main, side, base string) {
	t.Helper()
	w = newWork(t)
	w.write("deploy/schema.sql", "one")
	w.write("deploy/app.yaml", "one")
	base = w.commit("base")
	w.git("checkout", "-q", "-b", "side")
	w.write("deploy/schema.sql", "two")
	side = w.commit("side")
	w.git("checkout", "-q", "main")
	w.write("other/x", "x")
	main = w.commit("main")
	w.git("merge", "-q", "--no-ff", "-m", "merge", "side")
	merge = w.git("rev-parse", "HEAD")
	w.git("branch", "-q", "-D", "side")
	w.write("deploy/app.yaml", "two")
	top = w.commit("top")
	return w, top, merge, main, side, base
}

func TestAncestors(t *testing.T) {
	w, top, merge, main, side, base := merged(t)
	all := func(differs ...bool) []revision.Ancestor {
		var a []revision.Ancestor
		for i, c := range []string{merge, main, side, base}[:len(differs)] {
			a = append(a, revision.Ancestor{Commit: c, Differs: differs[i]})
		}
		return a
	}
	for name, location := range map[string]string{
		"remote": serve(t, w).url(), "remote by name": serve(t, w, "uploadpack.allowAnySHA1InWant=true").url(), "local": w.dir,
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, location, Options{})
			for _, c := range []struct {
				path   string
				limit  int
				schema []string
				want   []revision.Ancestor
			}{
				{"deploy", 0, nil, all(true, true, true, true)},
				{"other", 0, nil, all(false, false, true, true)},
				{"deploy", 0, []string{"deploy/schema.sql"}, all(false, true, false, true)},
				{"deploy", 0, []string{"./other/", "deploy/schema.sql"}, all(false, true, true, true)},
				{"deploy", 2, []string{"."}, all(true, true)},
			} {
				rev, err := r.Resolve(t.Context(), Ref{Branch: "main"}, c.path)
				if err != nil || rev.Commit != top {
					t.Fatalf("got %q, %v", rev.Commit, err)
				}
				got, err := r.Ancestors(t.Context(), rev, c.limit, c.schema...)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("%v (-want +got):\n%s", c, diff)
				}
			}
			if got, err := r.Ancestors(t.Context(), v1alpha1.Revision{Commit: top, Path: "deploy"}, 0, "none"); !errors.Is(err, ErrPathNotFound) {
				t.Errorf("a schema path that is not there: got %v, %v", got, err)
			}
			if got, err := r.Ancestors(t.Context(), v1alpha1.Revision{Commit: base, Path: "deploy"}, 0); err != nil || len(got) > 0 {
				t.Errorf("before the first commit: got %v, %v", got, err)
			}
		})
	}
}

func TestAncestorsUnknown(t *testing.T) {
	w, top, _, _, _, _ := merged(t)
	rev := v1alpha1.Revision{Commit: top, Path: "deploy"}
	dir := filepath.Join(t.TempDir(), "clone")
	w.git("clone", "-q", "--depth=2", "file://"+w.dir, dir)
	s := serve(t, w)
	gone := open(t, s.url(), Options{})
	if _, err := gone.Resolve(t.Context(), Ref{Branch: "main"}, "."); err != nil {
		t.Fatal(err)
	}
	s.Close()
	for name, r := range map[string]*Repository{"shallow clone": open(t, dir, Options{}), "server gone": gone} {
		if got, err := r.Ancestors(t.Context(), rev, 0); !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: got %v, %v, want ErrUnreachable", name, got, err)
		}
	}
	if _, err := open(t, w.dir, Options{}).Ancestors(t.Context(), v1alpha1.Revision{Commit: strings.Repeat("1", 40)}, 0); !errors.Is(err, ErrRefNotFound) {
		t.Errorf("no such commit: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(t, w.dir, Options{}).Ancestors(ctx, rev, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

// TestAnswersAfterHistory asks for the history first: it must not spoil the proofs after it.
func TestAnswersAfterHistory(t *testing.T) {
	w, top, _, _, _, _ := merged(t)
	r := open(t, serve(t, w).url(), Options{})
	if _, err := r.Ancestors(t.Context(), v1alpha1.Revision{Commit: top, Path: "."}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context(), Ref{Branch: "main"}, "."); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context(), Ref{Commit: strings.Repeat("1", 40)}, "."); !errors.Is(err, ErrRefNotFound) || errors.Is(err, ErrUnreachable) {
		t.Errorf("got %v, want the proof", err)
	}
}

// TestRecall has commits that ran once and were then taken out of the branch that led to them.
func TestRecall(t *testing.T) {
	w, _, v2 := shop(t)
	recorded := func(ref string) v1alpha1.Revision {
		return v1alpha1.Revision{
			Repository: "x", Ref: ref, Commit: w.git("rev-parse", "HEAD"), Path: "deploy", Tree: w.git("rev-parse", "HEAD:deploy"),
		}
	}
	w.write("deploy/db.yaml", "three")
	w.commit("three")
	reworded, orphan, tagged, bare := recorded("main"), recorded("feature"), recorded("v2.0.0"), recorded("")
	w.git("commit", "-q", "--amend", "-m", "three, reworded")
	again := w.git("rev-parse", "HEAD")
	w.git("reflog", "expire", "--expire=now", "--all")
	w.git("gc", "-q", "--prune=now")
	for name, location := range map[string]string{
		"remote": serve(t, w).url(), "remote by name": serve(t, w, "uploadpack.allowAnySHA1InWant=true").url(), "local": w.dir,
	} {
		t.Run(name, func(t *testing.T) {
			r := open(t, location, Options{})
			for _, c := range []struct {
				recorded  v1alpha1.Revision
				tip, same string
				says      string
			}{
				{reworded, again, again, fmt.Sprintf(`"main", by which it was found, is now at commit %s; commit %s has the same tree at path "deploy"`, again[:7], again)},
				{orphan, "", "", `"feature", by which it was found, is gone, too`},
				{tagged, v2, "", `"v2.0.0", by which it was found, is now at commit ` + v2[:7]},
				{bare, "", "", "no branch or tag leads to it, as after a force-push"},
			} {
				_, err := r.Recall(t.Context(), c.recorded, "deploy")
				var gone *GoneError
				if !errors.As(err, &gone) || !errors.Is(err, ErrRefNotFound) || gone.Tip != c.tip || gone.Same != c.same {
					t.Fatalf("%q: got %+v, %v", c.recorded.Ref, gone, err)
				}
				if !strings.Contains(err.Error(), c.says) {
					t.Errorf("%q: got %q, want it to say %q", c.recorded.Ref, err, c.says)
				}
			}
			got, err := r.Recall(t.Context(), v1alpha1.Revision{Commit: v2, Ref: "was-deleted"}, "other")
			if err != nil || got.Commit != v2 || got.Ref != "was-deleted" || got.Path != "other" || got.Tree != w.git("rev-parse", v2+":other") {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
	s := serve(t, w)
	s.Close()
	if _, err := open(t, s.url(), Options{}).Recall(t.Context(), reworded, "deploy"); !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrRefNotFound) {
		t.Errorf("nobody listens: got %v, want ErrUnreachable", err)
	}
}

// TestSHA256 has repositories of the kind that cannot be read yet, which must be told from those that do not answer.
func TestSHA256(t *testing.T) {
	w := &work{t: t, dir: t.TempDir()}
	w.git("init", "-q", "-b", "main", "--object-format=sha256")
	w.write("deploy/db.yaml", "one")
	commit := w.commit("one")
	w.git("tag", "v1.0.0")
	if _, err := Open(w.dir, Options{}); !errors.Is(err, ErrUnsupported) || errors.Is(err, ErrUnreachable) {
		t.Errorf("local: got %v, want ErrUnsupported", err)
	}
	r := open(t, serve(t, w).url(), Options{})
	for _, ref := range []Ref{{Tag: "v1.0.0"}, {Branch: "main"}, {Commit: commit}, {Commit: commit[:40]}, {Commit: commit[:10]}, {Tag: "none"}} {
		if _, err := r.Resolve(t.Context(), ref, "."); !errors.Is(err, ErrUnsupported) || errors.Is(err, ErrUnreachable) || errors.Is(err, ErrRefNotFound) {
			t.Errorf("%s: got %v, want ErrUnsupported", ref, err)
		}
	}
}
