package checker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// chart is a repository with a chart of one template, and what deploys it.
func chart(template string) map[string]string {
	return map[string]string{
		"app.yaml": "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: a, namespace: argocd}\n" +
			"spec: {source: {repoURL: https://git.example.com/r.git, path: c}, destination: {namespace: x}}\n",
		"c/Chart.yaml": "{apiVersion: v2, name: c, version: 1.0.0}", "c/templates/a.yaml": template,
	}
}

// TestLimits gives up what takes more than it may, in time and memory, whatever it is, and leaves nothing lying about.
func TestLimits(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for name, c := range map[string]struct {
		template string
		limits   Limits
		says     string
	}{
		// Both come to an end, as the test's own process lives on: after 2 GiB and some seconds.
		"memory": {"{{ range 50 }}{{ range 10000 }}" + strings.Repeat("x", 4000) + "{{ end }}{{ end }}", Limits{Memory: 512 << 20}, "more than 512Mi of memory"},
		"time":   {"{{ range 100 }}{{ range 500000 }}{{ end }}{{ end }}", Limits{Time: 100 * time.Millisecond}, "longer than 100ms"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepository(t, chart(c.template))
			_, err := Check(t.Context(), Request{Path: r.dir, Head: "HEAD", Now: time.Now(), Limits: c.limits})
			var limit *LimitError
			if !errors.As(err, &limit) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if left, err := filepath.Glob(filepath.Join(os.TempDir(), "lockstep-check-*")); err != nil || len(left) > 0 {
				t.Errorf("it left %v, %v", left, err)
			}
		})
	}
}
