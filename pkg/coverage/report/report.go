// Package report writes what came of a check: for people, for programs, and for the places where a pull request is looked at. Names and
// texts in a report come from repositories of strangers, and no form lets them be more than text.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/desired"
)

// Format is how a report is written.
type Format string

// The formats.
const (
	// Text is for people at a terminal.
	Text Format = "text"
	// JSON is a Document.
	JSON Format = "json"
	// SARIF 2.1.0 is for code scanning.
	SARIF Format = "sarif"
	// Markdown is for the summary of a job and for comments.
	Markdown Format = "markdown"
	// JUnit is XML for what shows the results of tests.
	JUnit Format = "junit"
	// GitHub is commands to the runner of a job of GitHub's.
	GitHub Format = "github"
)

// Formats are all of them.
var Formats = []Format{Text, JSON, SARIF, Markdown, JUnit, GitHub}

// Document is a report and what it is of.
type Document struct {
	coverage.Report
	// Head is the commit that was judged; with WorkTree, the files in the work tree over it, committed or not. Empty outside of Git.
	Head     string `json:"head,omitempty"`
	WorkTree bool   `json:"workTree,omitempty"`
	// Base is the commit that it was compared with; empty if it was with none.
	Base string `json:"base,omitempty"`
	// Unchecked says that nothing of what the commit deploys could be rendered: that nothing was found means nothing.
	Unchecked bool `json:"unchecked,omitempty"`
}

// Options of Write.
type Options struct {
	// FailOn is the least severity that fails the check; Off if none does.
	FailOn coverage.Severity
	// Colour marks severities in Text as terminals do.
	Colour bool
	// Limit is the greatest length of Markdown, in bytes; 0 means MaxSummary. What has no room is counted.
	Limit int
	// Blob is the address under which the files of the commit can be seen, for links in Markdown; empty for none.
	Blob string
	// Version of the program, for SARIF.
	Version string
}

// Write writes a document.
func Write(w io.Writer, f Format, d *Document, o Options) error {
	switch f {
	case JSON:
		return writeJSON(w, d)
	case SARIF:
		return writeJSON(w, newSARIF(d, o))
	case Markdown:
		_, err := io.WriteString(w, markdown(d, o))
		return err
	case JUnit:
		return writeJUnit(w, d, o)
	case GitHub:
		return writeGitHub(w, d)
	case Text:
		return writeText(w, d, o)
	}
	return fmt.Errorf("unknown format %q", f)
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Fails says whether the check fails.
func (d *Document) Fails(on coverage.Severity) bool {
	return on != coverage.Off && slices.ContainsFunc(d.Findings, func(f coverage.Finding) bool { return f.Severity.AtLeast(on) })
}

// Count counts the findings of a severity: what several clusters deploy counts once.
func (d *Document) Count(s coverage.Severity) int {
	n := 0
	for _, i := range items(d.Findings) {
		if i.Severity == s {
			n++
		}
	}
	return n
}

// item is a finding with the owners of those that say the same of the same place: what several clusters deploy is found in each, and said
// once.
type item struct {
	coverage.Finding
	// owners are empty if there is but one.
	owners []string
}

func items(findings []coverage.Finding) []item {
	var all []item
	for len(findings) > 0 {
		owners := alike(findings)
		i := item{Finding: findings[0]}
		findings = findings[len(owners):]
		if owners = slices.DeleteFunc(slices.Compact(owners), func(id string) bool { return id == "" }); len(owners) > 1 {
			i.owners = owners
		}
		all = append(all, i)
	}
	return all
}

// alike are the owners of the findings at the front that differ in nothing else.
func alike(findings []coverage.Finding) []string {
	var owners []string
	for _, f := range findings {
		first := findings[0]
		if f.Rule != first.Rule || f.Severity != first.Severity || f.Origin != first.Origin || f.Object != first.Object || f.Gone != first.Gone ||
			f.Message != first.Message || f.Fix != first.Fix {
			break
		}
		owners = append(owners, f.Owner)
	}
	return owners
}

// in names the owners, if there are several.
func (i item) in() string {
	if len(i.owners) == 0 {
		return ""
	}
	return "in " + strings.Join(i.owners, ", ")
}

// what is wrong, in sentences.
func (i item) what() string { return strings.TrimSpace(sentence(i.Message) + " " + sentence(i.in())) }

// said is what is wrong and what to do, in sentences.
func (i item) said() string { return strings.TrimSpace(i.what() + " " + sentence(i.Fix)) }

// verdict is the report in a line.
func (d *Document) verdict() string {
	var parts []string
	for _, s := range []struct {
		severity  coverage.Severity
		one, many string
	}{{coverage.Error, "error", "errors"}, {coverage.Warning, "warning", "warnings"}, {coverage.Note, "note", "notes"}} {
		if n := d.Count(s.severity); n > 0 {
			parts = append(parts, count(n, s.one, s.many))
		}
	}
	said := "nothing found"
	switch {
	case len(parts) > 0:
		said = strings.Join(parts, ", ")
	case d.Unchecked:
		said = "could not be checked, as nothing could be rendered"
	case len(d.Existing) > 0:
		said = "nothing new found"
	}
	var aside []string
	if n := len(items(d.Existing)); n > 0 {
		aside = append(aside, fmt.Sprintf("%d there before", n))
	}
	if n := len(d.Suppressed); n > 0 {
		aside = append(aside, fmt.Sprintf("%d silenced", n))
	}
	if len(aside) > 0 {
		said += " (" + strings.Join(aside, ", ") + ")"
	}
	if n := len(d.Unchanged); n > 0 {
		said += "; " + count(n, "application is", "applications are") + " the same as before and not judged"
	}
	if n := len(d.NotRendered); n > 0 {
		said += "; " + count(n, "part was", "parts were") + " not rendered, and nothing is known of " + one(n, "it", "them")
	}
	return said
}

// covered says that nothing is left to wish for: a volume may be without protection where nothing new is found.
func (d *Document) covered() bool {
	return len(d.Findings)+len(d.Existing)+len(d.NotRendered)+len(d.Unchanged) == 0 && !slices.ContainsFunc(d.Coverage, func(r coverage.Row) bool {
		return r.Answer != coverage.Protected && r.Answer != coverage.Excluded
	})
}

// tally counts findings by their rules, in the order in which they first come.
type tally struct {
	rule  coverage.Rule
	count int
	worst coverage.Severity
}

func tallies(findings []coverage.Finding) []tally {
	var all []tally
	for _, i := range items(findings) {
		at := slices.IndexFunc(all, func(t tally) bool { return t.rule.ID == i.Rule && t.worst == i.Severity })
		if at < 0 {
			rule, ok := coverage.FindRule(i.Rule)
			if !ok {
				rule.ID = i.Rule
			}
			at, all = len(all), append(all, tally{rule: rule, worst: i.Severity})
		}
		all[at].count++
	}
	return all
}

// before are the findings that a change did not bring, in a line.
func (d *Document) before() string {
	var parts []string
	for _, t := range tallies(d.Existing) {
		parts = append(parts, fmt.Sprintf("%s %s (%d)", t.rule.ID, t.rule.Name, t.count))
	}
	return strings.Join(parts, ", ")
}

// replayable is the answer in words.
func replayable(r coverage.Replay) string {
	switch r {
	case coverage.ReplayYes:
		return "yes"
	case coverage.ReplayWithLockfile:
		return "with a lockfile"
	case coverage.ReplayNo:
		return "no"
	}
	return "unknown"
}

// effect is what becomes of data, as a verb behind "merging this will", with what is said of it behind the name.
func effect(e coverage.Effect) (verb, rest string) {
	switch e {
	case coverage.Deleted:
		return "delete", ""
	case coverage.MayBeDeleted:
		return "perhaps delete", ""
	case coverage.LeftBehind:
		return "leave behind", ": nothing uses its data any more"
	}
	return "change", ""
}

// protection says of a claim that data is about to leave whether there may be a point of it.
func protection(i coverage.Impact) string {
	switch {
	case i.Protected == coverage.Protected:
		return "a policy protects it now"
	case i.Protected == coverage.Excluded:
		return "left out of all policies"
	case i.Protected == coverage.Unprotected && i.Effect == coverage.LeftBehind:
		return "no policy protects it"
	case i.Protected == coverage.Unprotected:
		return "no policy protects it: there is no way back"
	}
	return "not known whether a policy protects it"
}

// asked says whether a vault was asked from which points the commit could be restored.
func (d *Document) asked() bool {
	return slices.ContainsFunc(d.Coverage, func(r coverage.Row) bool { return r.Point != nil })
}

// restorable says from which point a volume could be restored today.
func restorable(r coverage.Row) string {
	switch p := r.Point; {
	case p == nil:
		return ""
	case p.Found == "found" && p.Match != "Exact":
		return fmt.Sprintf("from %s (%s)", p.ID, p.Match)
	case p.Found == "found":
		return "from " + p.ID
	case p.Found == "absent":
		return "NO"
	}
	return "not known"
}

// name is an object in words.
func name(o coverage.Object) string {
	switch {
	case o.Name == "":
		return o.Kind
	case o.Namespace == "":
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// affected is what a change does something to, with its name marked: a claim, or the volumes that an operator makes.
func affected(i coverage.Impact, mark func(string) string) string {
	if !i.InWords {
		return "claim " + mark(claim(i.Namespace, i.Volume))
	}
	return "the " + mark(i.Volume) + " in " + mark(i.Namespace)
}

func claim(namespace, volume string) string {
	if namespace == "" {
		return volume
	}
	return namespace + "/" + volume
}

// place is file:line, as far as it is known.
func place(at desired.Origin) string {
	if at.File == "" || at.Line == 0 {
		return at.File
	}
	return fmt.Sprintf("%s:%d", at.File, at.Line)
}

// sentence is one with its capital, unless it begins with a name, and its full stop.
func sentence(s string) string {
	if s == "" {
		return s
	}
	word, _, _ := strings.Cut(s, " ")
	if !strings.ContainsFunc(word, func(r rune) bool { return !unicode.IsLetter(r) }) {
		first, size := utf8.DecodeRuneInString(s)
		s = string(unicode.ToUpper(first)) + s[size:]
	}
	return strings.TrimSuffix(s, ".") + "."
}

func count(n int, singular, plural string) string {
	return fmt.Sprintf("%d %s", n, one(n, singular, plural))
}

func one(n int, singular, plural string) string {
	if n == 1 {
		return singular
	}
	return plural
}
