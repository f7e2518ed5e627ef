package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	tableRow = regexp.MustCompile(`(?m)^\| [^-].*\|$`)
	proof    = regexp.MustCompile("`(Test[A-Za-z]+)` in `([a-z0-9/]+)`(?:: \\*([^*]+)\\*)?")
)

// TestFaultsAreProven wants every row of reliability.md to name a test that exists, with the case that it says.
func TestFaultsAreProven(t *testing.T) {
	page := documents(t)["docs/reliability.md"]
	rows := 0
	for _, row := range tableRow.FindAllString(page, -1) {
		if strings.HasPrefix(row, "| fault") {
			continue
		}
		rows++
		proofs := proof.FindAllStringSubmatch(row, -1)
		if len(proofs) == 0 {
			t.Errorf("no test proves: %s", row)
		}
		for _, p := range proofs {
			name, dir, what := p[1], p[2], p[3]
			tests := testsOf(t, dir)
			if !strings.Contains(tests, "func "+name+"(") {
				t.Errorf("there is no %s in %s", name, dir)
			}
			if what != "" && !strings.Contains(tests, `"`+what+`"`) {
				t.Errorf("%s in %s has no case %q", name, dir, what)
			}
		}
	}
	if rows < 10 {
		t.Errorf("reliability.md has %d faults", rows)
	}
}

// testsOf is the text of all tests in a directory.
func testsOf(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	return all.String()
}
