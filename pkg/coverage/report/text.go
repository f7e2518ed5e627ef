package report

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
)

// text writes for people.
type text struct {
	bytes.Buffer
	colour bool
}

func writeText(w io.Writer, d *Document, o Options) error {
	t := &text{colour: o.Colour}
	t.impact(d)
	t.findings(d)
	t.coverage(d)
	t.gaps(d)
	t.replayable(d)
	if n := len(d.BaselineGone); n > 0 {
		t.printf("%s of the baseline %s no more: write it anew with --write-baseline\n\n", count(n, "finding", "findings"), one(n, "is", "are"))
	}
	verdict := d.verdict()
	switch {
	case d.Fails(o.FailOn):
		t.printf("%s\n", t.paint("31;1", "failed: "+verdict))
	case len(d.Findings) == 0 && len(d.NotRendered) == 0:
		t.printf("%s\n", t.paint("32;1", verdict))
	default:
		t.printf("%s\n", t.paint("1", verdict))
	}
	_, err := t.WriteTo(w)
	return err
}

func (t *text) printf(format string, args ...any) { fmt.Fprintf(t, format, args...) }

// paint colours what Lockstep itself says, or what is plain already.
func (t *text) paint(colour, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (t *text) severity(s coverage.Severity) string {
	return t.paint(map[coverage.Severity]string{coverage.Error: "31;1", coverage.Warning: "33;1"}[s], string(s))
}

// findings are those of one rule together, with what mends them said once where that is the same for all.
func (t *text) findings(d *Document) {
	for group := range groups(d.Findings) {
		first := group[0]
		rule, _ := coverage.FindRule(first.Rule)
		t.printf("%s %s %s: %s\n", t.severity(first.Severity), plain(first.Rule), rule.Name, rule.Summary)
		same := !slices.ContainsFunc(group, func(f coverage.Finding) bool { return f.Fix != first.Fix })
		for len(group) > 0 {
			f := group[0]
			owners := alike(group)
			group = group[len(owners):]
			at := cmp.Or(place(f.Origin), "-")
			if f.Gone {
				at += " (before)"
			}
			t.printf("  %s  %s\n      %s\n", t.paint("1", plain(at)), plain(name(f.Object)), plain(f.Message))
			if named := slices.DeleteFunc(owners, func(id string) bool { return id == "" }); len(owners) > 1 && len(named) > 0 {
				t.printf("      in %s\n", plain(strings.Join(slices.Compact(named), ", ")))
			}
			if !same && f.Fix != "" {
				t.printf("      fix: %s\n", plain(f.Fix))
			}
		}
		if same && first.Fix != "" {
			t.printf("  fix: %s\n", plain(first.Fix))
		}
		t.printf("\n")
	}
}

// alike are the owners of the findings at the front that say the same of the same place: what several clusters deploy is found in each.
func alike(findings []coverage.Finding) []string {
	var owners []string
	for _, f := range findings {
		first := findings[0]
		if f.Origin != first.Origin || f.Object != first.Object || f.Gone != first.Gone || f.Message != first.Message || f.Fix != first.Fix {
			break
		}
		owners = append(owners, f.Owner)
	}
	return owners
}

// groups are the runs of findings with one rule and severity: they are in that order.
func groups(findings []coverage.Finding) func(func([]coverage.Finding) bool) {
	return func(yield func([]coverage.Finding) bool) {
		for len(findings) > 0 {
			n := 1
			for n < len(findings) && findings[n].Rule == findings[0].Rule && findings[n].Severity == findings[0].Severity {
				n++
			}
			if !yield(findings[:n]) {
				return
			}
			findings = findings[n:]
		}
	}
}

func (t *text) impact(d *Document) {
	if len(d.Impact) == 0 {
		return
	}
	t.printf("%s\n", t.paint("1", "What merging this does to data"))
	for _, i := range d.Impact {
		verb, rest := effect(i.Effect)
		t.printf("  will %s claim %s%s%s (%s)\n      %s\n", verb, plain(claim(i.Namespace, i.Volume)), plain(sized(i.Size)), rest, protection(i), plain(i.Why))
	}
	t.printf("\n")
}

func sized(size string) string {
	if size == "" {
		return ""
	}
	return ", " + size
}

func (t *text) coverage(d *Document) {
	if len(d.Coverage) == 0 {
		return
	}
	t.printf("%s\n", t.paint("1", "Volumes"))
	w := tabwriter.NewWriter(t, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "  APPLICATION\tVOLUME\tSIZE\tPROTECTED\tRPO\tVAULTS\tREPLAYABLE")
	for _, r := range d.Coverage {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", dash(r.Application), plain(claim(r.Namespace, r.Volume)), dash(r.Size), plain(protectedBy(r)),
			dash(r.RPO), dash(strings.Join(r.Vaults, ", ")), replayable(r.Replayable))
	}
	_ = w.Flush() // into memory
	t.printf("\n")
}

// protectedBy is the policy of a volume, or in a word why there is none: a finding says more.
func protectedBy(r coverage.Row) string {
	switch {
	case r.Answer == coverage.Protected:
		return "by " + cmp.Or(r.Policy, "a policy")
	case r.Answer == coverage.Unprotected:
		return "NO"
	case r.Answer == coverage.Excluded && r.Why != "":
		return string(r.Answer) + ": " + r.Why
	}
	return string(r.Answer)
}

func (t *text) gaps(d *Document) {
	if len(d.NotRendered) == 0 {
		return
	}
	t.printf("%s\n", t.paint("1", "Not rendered: nothing is known of what these deploy"))
	for _, g := range d.NotRendered {
		t.printf("  %s  %s\n      %s\n", plain(cmp.Or(place(g.Origin), "-")), plain(g.What), plain(g.Why))
	}
	t.printf("\n")
}

func (t *text) replayable(d *Document) {
	t.printf("%s %s\n", t.paint("1", "Replayable:"), replayable(d.Replayable.Answer))
	for _, why := range d.Replayable.Reasons {
		t.printf("  %s\n", plain(why))
	}
	t.printf("\n")
}

func dash(s string) string { return plain(cmp.Or(s, "-")) }

// plain takes out of a text what a terminal would act upon, or what would end its line.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}
