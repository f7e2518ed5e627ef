package docs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recipes are the policies with hooks that examples/quiesce has, by the names of what they hold still.
func recipes(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "examples", "quiesce", "*", "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(filepath.Dir(path))] = string(data)
	}
	return out
}

// TestRecipesAreTheExamples wants every recipe word for word in the page; as it stands there, TestExamplesAreAccepted asks the API server
// about it.
func TestRecipesAreTheExamples(t *testing.T) {
	page := documents(t)["docs/consistency.md"]
	found := recipes(t)
	if len(found) != 4 {
		t.Errorf("examples/quiesce has %d recipes", len(found))
	}
	for name, recipe := range found {
		if !strings.Contains(page, "```yaml\n"+recipe+"```\n") {
			t.Errorf("docs/consistency.md does not show examples/quiesce/%s/policy.yaml as it is", name)
		}
		if err := strict("ProtectionPolicy", []byte(recipe)); err != nil {
			t.Errorf("examples/quiesce/%s/policy.yaml: %v", name, err)
		}
	}
	shown := 0
	for _, block := range fenced.FindAllStringSubmatch(page, -1) {
		if strings.Contains(block[1], "quiesce:") {
			shown++
		}
	}
	if shown != len(found) {
		t.Errorf("docs/consistency.md shows %d recipes, examples/quiesce has %d", shown, len(found))
	}
}
