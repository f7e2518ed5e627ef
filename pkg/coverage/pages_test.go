package coverage

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var example = regexp.MustCompile("(?ms)^```yaml (before|bad|good)\n(.*?)^```$")

// byFacts are found by what is known from elsewhere than Git; their cases are in other tests.
var byFacts = map[string]bool{"LS306": true, "LS401": true, "LS402": true, "LS403": true, "LS404": true}

// TestPagesAreTrue runs the examples of every rule's page: what is shown as found is, and what is shown as not found is not.
func TestPagesAreTrue(t *testing.T) {
	for _, rule := range Rules() {
		t.Run(rule.ID, func(t *testing.T) {
			page := rule.Page()
			if !strings.HasPrefix(page, "# "+rule.ID+" "+rule.Name+"\n") || !strings.Contains(page, "\n## What to do\n") {
				t.Error("the page has not the form of the others")
			}
			before, bad, good := "", 0, 0
			for _, m := range example.FindAllStringSubmatch(page, -1) {
				if m[1] == "before" {
					before = m[2]
					continue
				}
				got := found(check(t, before, m[2]), rule.ID)
				switch m[1] {
				case "bad":
					if bad++; len(got) == 0 {
						t.Errorf("not found:\n%s", m[2])
					}
				case "good":
					if good++; len(got) > 0 {
						t.Errorf("found %q:\n%s", got, m[2])
					}
				}
			}
			if rule.Compares != (before != "") || !byFacts[rule.ID] && (bad == 0 || good == 0) {
				t.Errorf("%d examples of what is found, %d of what is not, with a commit before: %t", bad, good, before != "")
			}
		})
	}
	files, err := os.ReadDir("rules")
	if err != nil || len(files) != len(Rules()) {
		t.Errorf("%d pages for %d rules: %v", len(files), len(Rules()), err)
	}
}
