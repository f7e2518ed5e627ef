//go:build !windows

package cmd

import (
	"encoding/json"
	"io"
	"net/http/cgi"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-dr/lockstep/cli/internal/fault"
	"github.com/lockstep-dr/lockstep/cli/internal/vault"
	"github.com/lockstep-dr/lockstep/pkg/catalog"
)

const noCommit = "0123456789012345678901234567890123456789"

func gitOutput(t *testing.T, args ...string) string {
	t.Helper()
	return outputOf(t, "git", args...)
}

func outputOf(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return strings.TrimSpace(string(out))
}

func TestPointsGit(t *testing.T) {
	d := newDisaster(t)
	c := &testCluster{kubeconfig: "/does/not/exist"}
	log := func(args ...string) outcome {
		t.Helper()
		return c.run(t, d.flags(append([]string{"points", "--git", "--repo", d.repository}, args...)...)...)
	}
	o := log("-o", "json")
	o.want(t, fault.Done)
	var got gitLog
	if err := json.Unmarshal([]byte(o.out), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Commits) != 2 || got.More || len(got.Elsewhere) != 0 {
		t.Fatalf("got %+v", got)
	}
	newest, oldest := got.Commits[0], got.Commits[1]
	if newest.Commit != gitOutput(t, "-C", d.repository, "rev-parse", "v2.0.0^{commit}") || len(newest.Points) != 0 || len(newest.Tags) != 1 || newest.Tags[0] != "v2.0.0" {
		t.Errorf("newest: %+v", newest)
	}
	if oldest.Commit != d.record.Revision.Commit || len(oldest.Tags) != 1 || oldest.Tags[0] != "v1.0.0" || len(oldest.Points) != 1 ||
		oldest.Points[0].ID != d.record.ID || oldest.Points[0].Volumes != 1 || oldest.Points[0].Bytes != 3<<20 {
		t.Errorf("oldest: %+v", oldest)
	}
	log().want(t, fault.Done, "(v2.0.0)", "(v1.0.0)\n         * "+d.record.ID, "shop/shop", "1 volume", "3.0 MiB")
	log("--max-count", "1").want(t, fault.Done, "1 point is of older commits")

	// A point of a commit that is gone is not lost from sight, nor is a hold.
	f := vault.Flags{Vault: d.vault, KeyFile: d.key}
	v, err := f.OpenURL(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := d.record
	r.ID, r.Taken, r.Revision.Commit = "20260102-040405-aaaaaaaa", r.Taken.Add(time.Hour), noCommit
	if err := catalog.Put(t.Context(), v.Vault, r); err != nil {
		t.Fatal(err)
	}
	c.run(t, d.flags("hold", d.record.ID, "--reason", "audit")...).want(t, fault.Done)
	log().want(t, fault.Done, "held: audit", "1 point is of commits that this branch does not lead to")
	log("--application", "shop/other").lacks(t, d.record.ID, "1 point is")

	log("--max-count", "0").want(t, fault.Usage, "at least 1")
	log("--branch", "absent").want(t, fault.Absent, "absent")
	c.run(t, d.flags("points", "--git", "--application", "shop/other")...).want(t, fault.Absent, "Name a repository with --repo.")
	r.ID, r.Revision.Repository = "20260102-050405-aaaaaaaa", "https://git.example.com/other"
	if err := catalog.Put(t.Context(), v.Vault, r); err != nil {
		t.Fatal(err)
	}
	c.run(t, d.flags("points", "--git")...).want(t, fault.Usage, "of 2 repositories", "Name one with --repo.")
	log().lacks(t, r.ID)
}

func TestPointsAnnounce(t *testing.T) {
	d := newDisaster(t)
	c := &testCluster{kubeconfig: "/does/not/exist"}
	root := t.TempDir()
	bare := filepath.Join(root, "shop.git")
	gitOutput(t, "clone", "-q", "--bare", d.repository, bare)
	gitOutput(t, "-C", bare, "config", "http.receivepack", "true")
	server := httptest.NewServer(&cgi.Handler{
		Path: filepath.Join(gitOutput(t, "--exec-path"), "git-http-backend"), Stderr: io.Discard,
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "HOME=" + root},
	})
	t.Cleanup(server.Close)
	announce := func(args ...string) outcome {
		t.Helper()
		return c.run(t, d.flags(append([]string{"points", "announce", "--repo", server.URL + "/shop.git"}, args...)...)...)
	}
	name := "lockstep/shop/shop/" + d.record.ID
	tags := func() string { return gitOutput(t, "-C", bare, "tag", "--list", "lockstep/*") }

	announce(d.record.ID).want(t, fault.Done, "tag "+name, "if it were pushed", "1 volume, 3.0 MiB")
	announce("20200101-000000-aaaaaaaa", "--push").want(t, fault.Absent, "no point")
	c.run(t, d.flags("points", "announce", d.record.ID, "--push", "--repo", d.repository)...).want(t, fault.Failed, "a local repository is never changed")
	if got := tags(); got != "" {
		t.Fatalf("there are tags %q", got)
	}

	announce(d.record.ID, "--push").want(t, fault.Done, "made tag "+name)
	if got := gitOutput(t, "-C", bare, "rev-parse", name+"^{commit}"); tags() != name || got != d.record.Revision.Commit {
		t.Errorf("tags %q, of commit %s", tags(), got)
	}
	message := gitOutput(t, "-C", bare, "cat-file", "tag", name)
	if !strings.Contains(message, "lockstep restore --point "+d.record.ID) || strings.Contains(message, d.record.Volumes[0].Claim) {
		t.Errorf("message %q", message)
	}
	announce(d.record.ID, "--push").want(t, fault.Done, "already")
	announce(d.record.ID, "--push", "-o", "json").want(t, fault.Done, `"pushed": true`, `"made": false`)

	gitOutput(t, "-C", bare, "update-ref", "refs/tags/"+name, "v2.0.0^{commit}")
	announce(d.record.ID, "--push").want(t, fault.Refused, "the tag exists already")
	if got := gitOutput(t, "-C", bare, "rev-parse", name+"^{commit}"); got == d.record.Revision.Commit {
		t.Error("the tag was moved")
	}
}
