package report

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// maxAnnotations is how many of one kind GitHub shows of a step; it drops the others without a word.
const maxAnnotations = 10

// writeGitHub writes the worst findings as annotations, and as far as there is room what was not rendered.
func writeGitHub(w io.Writer, d *Document) error {
	var out bytes.Buffer
	kinds := map[coverage.Severity]string{coverage.Error: "error", coverage.Warning: "warning", coverage.Note: "notice"}
	seen := map[coverage.Severity]int{}
	for _, f := range items(d.Findings) {
		if seen[f.Severity]++; seen[f.Severity] > maxAnnotations {
			continue
		}
		rule, _ := coverage.FindRule(f.Rule)
		properties := "title=" + property(strings.TrimSpace(f.Rule+" "+rule.Name))
		if !f.Gone {
			properties = at(properties, f.Origin)
		}
		fmt.Fprintf(&out, "::%s %s::%s\n", kinds[f.Severity], properties, data(name(f.Object)+": "+f.said()))
	}
	room := max(0, maxAnnotations-seen[coverage.Note])
	for _, g := range d.NotRendered[:min(room, len(d.NotRendered))] {
		fmt.Fprintf(&out, "::notice %s::%s\n", at("title=Not rendered", g.Origin), data(g.What+": "+g.Why))
	}
	for _, s := range []coverage.Severity{coverage.Error, coverage.Warning, coverage.Note} {
		if more := seen[s] - maxAnnotations; more > 0 {
			fmt.Fprintf(&out, "%s more of severity %s\n", count(more, "finding", "findings"), s)
		}
	}
	if more := len(d.NotRendered) - room; more > 0 {
		fmt.Fprintf(&out, "%s not rendered\n", count(more, "more part was", "more parts were"))
	}
	fmt.Fprintf(&out, "lockstep check: %s\n", d.verdict())
	_, err := out.WriteTo(w)
	return err
}

// at adds a place to the properties of a command.
func at(properties string, o desired.Origin) string {
	if o.File == "" {
		return properties
	}
	properties += ",file=" + property(o.File)
	if o.Line > 0 {
		properties += fmt.Sprintf(",line=%d", o.Line)
	}
	return properties
}

// data is the text of a command of a runner. Nothing in it can end the command or begin another.
func data(s string) string { return strings.ReplaceAll(plain(s), "%", "%25") }

// property is a value before that text.
func property(s string) string { return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(data(s)) }
