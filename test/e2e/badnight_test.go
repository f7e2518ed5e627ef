package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-dr/lockstep/test/lab"
	"github.com/lockstep-dr/lockstep/test/shop"
)

// TestBadNight does what docs/bad-night.md says, command by command, on a cluster that has nothing: only the values of its
// step 1 are others.
func TestBadNight(t *testing.T) {
	watchOver(t)
	ctx := t.Context()
	prod, dr := shared.prod, shared.dr
	repo, err := shop.Publish(ctx, shared.lab, fmt.Sprintf("night-%d", time.Now().UnixNano()), t.TempDir())
	must(t, err)
	must(t, shop.CreateSecret(ctx, prod))
	lockstep(ctx, t, prod, "apply", "--repo", repo.URL, "--path", ".", "--tag", shop.V1)
	must(t, shop.Sell(ctx, prod, shop.V1, 2_000))
	held, err := shop.TakeFingerprint(ctx, prod)
	must(t, err)
	lockstep(ctx, t, prod, "backup", shop.Policy, "-n", shop.Namespace)

	values := map[string]string{
		"KUBECONFIG": dr.Kubeconfig, "AWS_ACCESS_KEY_ID": shared.lab.S3.AccessKey, "AWS_SECRET_ACCESS_KEY": shared.lab.S3.SecretKey,
		"VAULT": shared.vault, "KEY": shared.key, "IMAGE": shared.lab.Image(), "REPO": repo.URL, "DIR": ".", "TAG": shop.V1,
	}
	steps := runbook(t, values)
	for _, s := range steps {
		out, err := shared.lab.Shell(ctx, "set -eu\n"+s.commands, values)
		if err != nil {
			t.Fatalf("%s%v", s.commands, err)
		}
		for _, line := range s.shows {
			if !strings.Contains(spaced(out), line) {
				t.Errorf("%sdoes not print %q, but\n%s", s.commands, line, out)
			}
		}
	}
	got, err := shop.TakeFingerprint(ctx, dr)
	must(t, err)
	if got != held {
		t.Errorf("what came back is not what was:\nwant %+v\n got %+v", held, got)
	}
	nothingLeft(ctx, t, dr, shop.Namespace)
	forget(ctx, t, dr, shop.Namespace)
	forget(ctx, t, prod, shop.Namespace)
}

// pageStep is one block of commands of the runbook, with the lines that it must print: those without figures of the block of
// output below it.
type pageStep struct {
	commands string
	shows    []string
}

var (
	blocks  = regexp.MustCompile("(?ms)^```(sh|console)\n(.*?)^```$")
	setting = regexp.MustCompile(`(?m)(?:^|export |\s)([A-Z_]+)=`)
	figures = regexp.MustCompile(`[0-9]`)
)

// runbook reads the page. The values that it sets must be those of the test, or it could not be carried out as written.
func runbook(t *testing.T, values map[string]string) []pageStep {
	t.Helper()
	root, err := lab.Root()
	must(t, err)
	page, err := os.ReadFile(filepath.Join(root, "docs", "bad-night.md"))
	must(t, err)
	var steps []pageStep
	var set []string
	for _, b := range blocks.FindAllStringSubmatch(string(page), -1) {
		switch {
		case strings.HasPrefix(b[2], "export KUBECONFIG="):
			for _, m := range setting.FindAllStringSubmatch(b[2], -1) {
				set = append(set, m[1])
			}
		case b[1] == "sh":
			steps = append(steps, pageStep{commands: b[2]})
		case len(steps) > 0:
			for line := range strings.Lines(b[2]) {
				if line = spaced(line); line != "" && !figures.MatchString(line) {
					steps[len(steps)-1].shows = append(steps[len(steps)-1].shows, line)
				}
			}
		}
	}
	want := make([]string, 0, len(values))
	for name := range values {
		want = append(want, name)
	}
	slices.Sort(want)
	slices.Sort(set)
	if diff := cmp.Diff(want, set); diff != "" {
		t.Fatalf("the page sets other values than the test (-test +page):\n%s", diff)
	}
	return steps
}

// spaced has one space wherever there are some.
func spaced(s string) string { return strings.Join(strings.Fields(s), " ") }
