package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestMatching asks for commits, and gets each answer there is about points: found in every way, proven absent, a question back,
// refused for the schema's sake, and unknown.
func TestMatching(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	const ns, path, order = "matching", "apps/notes", "clusters/prod/notes.yaml"
	kustomization := func(version string) string {
		return "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: notes, namespace: flux-system}\nspec:\n  path: ./apps/notes\n" +
			"  sourceRef: {kind: GitRepository, name: flux-system}\n  postBuild: {substitute: {VERSION: \"" + version + "\"}}\n"
	}
	repo, _ := newNotesAt(ctx, t, path, ns)
	publish(ctx, t, repo, "v1.0.1", path+"/more.yaml", "apiVersion: lockstep.dev/v1alpha1\nkind: ProtectionPolicy\nmetadata: {name: more, namespace: "+ns+"}\nspec: {vaults: [primary]}\n")
	publish(ctx, t, repo, "v1.1.0", order, kustomization("15"))
	lockstep(ctx, t, shared.prod, "apply", "--repo", repo.URL, "--path", path, "--tag", "v1.1.0", "--application", ns+"/notes")
	lockstep(ctx, t, shared.prod, "backup", "notes", "-n", ns)
	id := newestPoint(ctx, t, ns+"/notes")
	// Beside the path; what an engine's object adds to the path; a file of the path that tells nothing about the schema.
	publish(ctx, t, repo, "v1.1.1", "README.md", "read me\n")
	publish(ctx, t, repo, "v1.2.0", order, kustomization("16"))
	publish(ctx, t, repo, "v1.3.0", path+"/about.md", "read me\n")

	const dead = "http://127.0.0.1:9/notes.git"
	before := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	withVault := func(args ...string) []string {
		return append(append([]string{"restore", "--path", path, "--dry-run"}, args...), "--vault", shared.vault, "--key-file", shared.key)
	}
	tests := []struct {
		name string
		code int
		says []string
		args []string
	}{
		{"the very commit", 0, []string{id, "Exact"}, withVault("--repo", repo.URL, "--tag", "v1.1.0")},
		{"another commit that deploys the same", 0, []string{id, "SameTree"}, withVault("--repo", repo.URL, "--tag", "v1.1.1")},
		{"a point by its ID", 0, []string{id, "Named"}, withVault("--repo", repo.URL, "--point", id)},
		{"a moment", 0, []string{id, "Before"}, withVault("--repo", repo.URL, "--before", before)},
		{"what only the engine's object changes", 4, []string{"v1.2.0", id}, withVault("--repo", repo.URL, "--tag", "v1.2.0")},
		{"its ancestor", 5, []string{"schema", "v1.1.0", "v1.2.0", "--allow-mismatch"}, withVault("--repo", repo.URL, "--tag", "v1.2.0", "--allow-ancestor")},
		{"its ancestor, allowed", 0, []string{id, "Ancestor", "was allowed"}, withVault("--repo", repo.URL, "--tag", "v1.2.0", "--allow-ancestor", "--allow-mismatch")},
		{"an ancestor with the same schema", 0, []string{id, "Ancestor"},
			withVault("--repo", repo.URL, "--tag", "v1.3.0", "--allow-ancestor", "--schema-path", path+"/notes.yaml")},
		{"a commit before the first point", 4, []string{tag}, withVault("--repo", repo.URL, "--tag", tag, "--allow-ancestor")},
		{"a tag that is not there", 4, []string{"v9.9.9"}, withVault("--repo", repo.URL, "--tag", "v9.9.9")},
		{"a Git server that does not answer", 3, []string{dead}, withVault("--repo", dead, "--tag", tag)},
		{"a vault that does not answer", 3, []string{"127.0.0.1:9"},
			[]string{"restore", "--path", path, "--dry-run", "--repo", repo.URL, "--tag", tag, "--vault", "s3://none/at?endpoint=http://127.0.0.1:9", "--key-file", shared.key}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.code != 0 {
				for _, says := range tt.says {
					refused(t.Context(), t, shared.dr, tt.code, says, tt.args...)
				}
				return
			}
			out := lockstep(t.Context(), t, shared.dr, tt.args...)
			for _, says := range tt.says {
				if !strings.Contains(out, says) {
					t.Errorf("nothing is said of %q:\n%s", says, out)
				}
			}
		})
	}
	t.Run("points of two applications", func(t *testing.T) {
		lockstep(ctx, t, shared.prod, "apply", "--repo", repo.URL, "--path", path, "--tag", "v1.1.0", "--application", ns+"/more")
		lockstep(ctx, t, shared.prod, "backup", "more", "-n", ns)
		asked := withVault("--repo", repo.URL, "--tag", "v1.1.0")
		refused(ctx, t, shared.dr, 2, ns+"/more", asked...)
		if out := lockstep(ctx, t, shared.dr, append(asked, "--application", ns+"/notes")...); !strings.Contains(out, id) {
			t.Errorf("the point of the application that was named is not taken:\n%s", out)
		}
	})
	forget(ctx, t, shared.prod, ns)
}
