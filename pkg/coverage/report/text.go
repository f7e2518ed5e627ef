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
	t.findings(d, o)
	t.before(d)
	t.coverage(d)
	t.gaps(d)
	t.replayable(d)
	t.summary(d)
	if n := len(d.BaselineGone); n > 0 {
		t.printf("%s of the baseline %s no more: write it anew with --write-baseline\n\n", count(n, "finding", "findings"), one(n, "is", "are"))
	}
	verdict := d.verdict()
	switch {
	case d.Fails(o.FailOn):
		t.printf("%s\n", t.paint("31;1", "failed: "+verdict))
	case d.Unchecked:
		t.printf("%s\n", t.paint("31;1", verdict))
	case len(d.Findings)+len(d.NotRendered) == 0:
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

// most is how many findings of a rule are told that do not fail the check; those that do are all told.
const most = 10

// findings are those of one rule together, and among them those that are mended alike.
func (t *text) findings(d *Document, o Options) {
	for group := range groups(items(d.Findings), func(a, b item) bool { return a.Rule == b.Rule && a.Severity == b.Severity }) {
		first := group[0]
		rule, _ := coverage.FindRule(first.Rule)
		t.printf("%s %s %s: %s\n", t.severity(first.Severity), plain(first.Rule), rule.Name, rule.Summary)
		more := 0
		if len(group) > most && (o.FailOn == coverage.Off || !first.Severity.AtLeast(o.FailOn)) {
			group, more = group[:most], len(group)-most
		}
		var fixes []string
		for _, i := range group {
			if !slices.Contains(fixes, i.Fix) {
				fixes = append(fixes, i.Fix)
			}
		}
		for _, fix := range fixes {
			for _, i := range group {
				if i.Fix == fix {
					t.finding(i)
				}
			}
			if fix != "" {
				t.printf("  fix: %s\n", plain(fix))
			}
		}
		if more > 0 {
			t.printf("  … and %d more: --format json has them all\n", more)
		}
		t.printf("\n")
	}
}

func (t *text) finding(i item) {
	at := cmp.Or(place(i.Origin), "-")
	if i.Gone {
		at += " (before)"
	}
	t.printf("  %s  %s\n      %s\n", t.paint("1", plain(at)), plain(name(i.Object)), plain(i.Message))
	if in := i.in(); in != "" {
		t.printf("      %s\n", plain(in))
	}
}

// groups are the runs of things that belong together.
func groups[T any](all []T, together func(a, b T) bool) func(func([]T) bool) {
	return func(yield func([]T) bool) {
		for len(all) > 0 {
			n := 1
			for n < len(all) && together(all[0], all[n]) {
				n++
			}
			if !yield(all[:n]) {
				return
			}
			all = all[n:]
		}
	}
}

// long is from how many findings on a report ends with a table of them: its beginning is out of sight then.
const long = 20

func (t *text) summary(d *Document) {
	all := tallies(d.Findings)
	if d.Count(coverage.Error)+d.Count(coverage.Warning)+d.Count(coverage.Note) < long {
		return
	}
	t.printf("%s\n", t.paint("1", "Found"))
	w := tabwriter.NewWriter(t, 0, 0, 3, ' ', 0)
	for _, a := range all {
		fmt.Fprintf(w, "  %d\t%s\t%s %s\t%s\n", a.count, a.worst, plain(a.rule.ID), a.rule.Name, a.rule.Summary)
	}
	_ = w.Flush() // into memory
	t.printf("\n")
}

// before tells what the change did not bring.
func (t *text) before(d *Document) {
	if len(d.Existing) > 0 {
		t.printf("%s\n  %s\n  (the change does not bring these, and they do not fail it; lockstep check without a base shows them)\n\n",
			t.paint("1", "There before"), plain(d.before()))
	}
}

func (t *text) impact(d *Document) {
	if len(d.Impact) == 0 {
		return
	}
	t.printf("%s\n", t.paint("1", "What merging this does to data"))
	for _, i := range d.Impact {
		verb, rest := effect(i.Effect)
		t.printf("  will %s %s%s%s (%s)\n      %s\n", verb, plain(affected(i, func(s string) string { return s })), plain(sized(i.Size)), rest, protection(i), plain(i.Why))
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
	asked, column := d.asked(), ""
	if asked {
		column = "\tRESTORABLE TODAY"
	}
	fmt.Fprintln(w, "  APPLICATION\tVOLUME\tSIZE\tPROTECTED\tRPO\tVAULTS\tREPLAYABLE"+column)
	for _, r := range d.Coverage {
		if asked {
			column = "\t" + dash(restorable(r))
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s%s\n", dash(r.Application), plain(claim(r.Namespace, r.Volume)), dash(r.Size), plain(protectedBy(r)),
			dash(r.RPO), dash(strings.Join(r.Vaults, ", ")), replayable(r.Replayable), column)
	}
	_ = w.Flush() // into memory
	t.printf("\n")
}

// protectedBy is the policy of a volume, or in a word why there is none: a finding says more.
func protectedBy(r coverage.Row) string {
	switch {
	case r.Answer == coverage.Protected && r.OnRequest:
		return "on request, by " + cmp.Or(r.Policy, "a policy")
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
