package report

import (
	"encoding/xml"
	"io"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
)

type junitSuites struct {
	XMLName  xml.Name     `xml:"testsuites"`
	Name     string       `xml:"name,attr"`
	Tests    int          `xml:"tests,attr"`
	Failures int          `xml:"failures,attr"`
	Suites   []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Skipped  int         `xml:"skipped,attr"`
	Cases    []junitCase `xml:"testcase"`
}

type junitCase struct {
	Name    string      `xml:"name,attr"`
	Class   string      `xml:"classname,attr"`
	File    string      `xml:"file,attr,omitempty"`
	Line    int         `xml:"line,attr,omitempty"`
	Failure *junitSaid  `xml:"failure,omitempty"`
	Error   *junitSaid  `xml:"error,omitempty"`
	Skipped *junitSaid  `xml:"skipped,omitempty"`
	Out     *junitPlain `xml:"system-out,omitempty"`
}

type junitSaid struct {
	Type    string `xml:"type,attr,omitempty"`
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

type junitPlain struct {
	Text string `xml:",chardata"`
}

// writeJUnit makes a suite of every rule. A finding that does not fail the check is a test that passes and says something; a rule
// that found nothing is one that passes.
func writeJUnit(w io.Writer, d *Document, o Options) error {
	all := junitSuites{Name: "lockstep check"}
	for _, rule := range coverage.Rules() {
		s := junitSuite{Name: rule.ID + " " + rule.Name}
		for _, i := range items(d.Findings) {
			if i.Rule != rule.ID {
				continue
			}
			c := caseOf(rule, i.Finding)
			if o.FailOn != coverage.Off && i.Severity.AtLeast(o.FailOn) {
				s.Failures++
				c.Failure = &junitSaid{Type: string(i.Severity), Message: plain(i.what()), Text: plain(strings.TrimSpace(place(i.Origin) + " " + i.said()))}
			} else {
				c.Out = &junitPlain{Text: plain(string(i.Severity) + ": " + i.said())}
			}
			s.Cases = append(s.Cases, c)
		}
		for _, i := range items(d.Existing) {
			if i.Rule == rule.ID {
				c := caseOf(rule, i.Finding)
				c.Skipped = &junitSaid{Message: plain("there before the change: " + i.said())}
				s.Skipped++
				s.Cases = append(s.Cases, c)
			}
		}
		for _, q := range d.Suppressed {
			if q.Rule == rule.ID {
				c := caseOf(rule, q.Finding)
				c.Skipped = &junitSaid{Message: plain(silencedBy(q))}
				s.Skipped++
				s.Cases = append(s.Cases, c)
			}
		}
		if len(s.Cases) == 0 {
			s.Cases = []junitCase{{Name: rule.Name, Class: rule.ID}}
		}
		s.Tests = len(s.Cases)
		all.Tests, all.Failures = all.Tests+s.Tests, all.Failures+s.Failures
		all.Suites = append(all.Suites, s)
	}
	if s := notRendered(d); len(s.Cases) > 0 {
		all.Tests += s.Tests
		all.Suites = append(all.Suites, s)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// notRendered is a suite of what no rule has seen: tests that did not run, and where that is all, that could not.
func notRendered(d *Document) junitSuite {
	s := junitSuite{Name: "not rendered", Tests: len(d.NotRendered)}
	for _, g := range d.NotRendered {
		c := junitCase{Name: plain(g.What), Class: "not rendered", File: plain(g.File), Line: g.Line}
		said := &junitSaid{Message: plain("not rendered: " + g.Why)}
		if d.Unchecked {
			s.Errors++
			c.Error = said
		} else {
			s.Skipped++
			c.Skipped = said
		}
		s.Cases = append(s.Cases, c)
	}
	return s
}

func caseOf(rule coverage.Rule, f coverage.Finding) junitCase {
	return junitCase{Name: plain(name(f.Object)), Class: rule.ID, File: plain(f.File), Line: f.Line}
}

// silencedBy says who took responsibility for a finding, and why.
func silencedBy(s coverage.Silenced) string {
	if s.Reason == "" {
		return "silenced by " + s.By
	}
	return "silenced by " + s.By + ": " + s.Reason
}
