package report

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"

	"github.com/lockstep-dr/lockstep/pkg/coverage"
	"github.com/lockstep-dr/lockstep/pkg/desired"
)

const (
	// MaxSummary is the greatest length of a job's summary that GitHub takes, less some room, in bytes.
	MaxSummary = 1<<20 - 4096
	// reserve is kept for what is said of rows that have no room, in bytes.
	reserve = 1024
)

// page is Markdown of bounded length.
type page struct {
	strings.Builder
	limit int
	blob  string
}

func markdown(d *Document, o Options) string {
	p := &page{limit: cmp.Or(o.Limit, MaxSummary) - reserve, blob: o.Blob}
	heading := "✅ Nothing new found"
	switch {
	case d.Fails(o.FailOn):
		heading = "❌ Data is at risk"
	case d.Unchecked:
		heading = "❌ Could not be checked"
	case d.covered():
		heading = "✅ Data is covered"
	case len(d.Findings)+len(d.NotRendered) > 0:
		heading = "⚠️ Data coverage"
	}
	fmt.Fprintf(p, "## %s\n\n`lockstep check`: %s.\n\n", heading, d.verdict())
	p.impact(d)
	p.findings(d)
	p.section("", "\n", min(1, len(d.Existing)), func(int) string {
		return fmt.Sprintf("**There before**, and not brought by this change: %s.\n", md(d.before()))
	})
	p.coverage(d)
	p.gaps(d)
	fmt.Fprintf(p, "**Replayable:** %s\n", replayable(d.Replayable.Answer))
	if len(d.Replayable.Reasons) > 0 {
		p.section("", "\n", len(d.Replayable.Reasons), func(i int) string { return "- " + md(d.Replayable.Reasons[i]) + "\n" })
	}
	return p.String()
}

// section writes a heading and as many rows as there is room for.
func (p *page) section(heading, end string, rows int, row func(int) string) {
	if rows == 0 {
		return
	}
	if p.Len()+len(heading) > p.limit {
		return
	}
	p.WriteString(heading)
	written := 0
	for i := range rows {
		r := row(i)
		if p.Len()+len(r)+len(end) > p.limit {
			break
		}
		p.WriteString(r)
		written++
	}
	if more := rows - written; more > 0 {
		fmt.Fprintf(p, "\n… and %d more, for which there is no room here: see the log, or `lockstep check`.\n", more)
	}
	p.WriteString(end)
}

func (p *page) impact(d *Document) {
	p.section("### What merging this does to data\n\n", "\n", len(d.Impact), func(i int) string {
		at := d.Impact[i]
		verb, rest := effect(at.Effect)
		return fmt.Sprintf("- **Merging this will %s %s%s**%s. %s %s\n", verb, affected(at, Code), md(sized(at.Size)), rest,
			md(sentence(at.Why)), sentence(protection(at)))
	})
}

func (p *page) findings(d *Document) {
	all := items(d.Findings)
	p.section("### Findings\n\n| | Rule | Where | What | Fix |\n| --- | --- | --- | --- | --- |\n", "\n", len(all), func(i int) string {
		f := all[i]
		rule, _ := coverage.FindRule(f.Rule)
		return fmt.Sprintf("| %s | [%s](%s%s.md)<br>%s | %s<br>%s | %s | %s |\n", f.Severity, md(f.Rule), rulePages, url.PathEscape(f.Rule), rule.Name,
			p.place(f.Origin, f.Gone), Code(name(f.Object)), md(f.what()), md(sentence(f.Fix)))
	})
}

func (p *page) coverage(d *Document) {
	asked := d.asked()
	column, line := "", ""
	if asked {
		column, line = " Restorable today |", " --- |"
	}
	p.section("### Coverage\n\n| Application | Volume | Size | Protected | RPO | Vaults | Replayable |"+column+"\n| --- | --- | --- | --- | --- | --- | --- |"+line+"\n", "\n",
		len(d.Coverage), func(i int) string {
			r := d.Coverage[i]
			protected := md(protectedBy(r))
			if r.Answer == coverage.Unprotected {
				protected = "**no**"
			}
			if asked {
				column = " " + cell(restorable(r)) + " |"
			}
			return fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |%s\n", cell(r.Application), Code(claim(r.Namespace, r.Volume)), cell(r.Size), protected,
				cell(r.RPO), cell(strings.Join(r.Vaults, ", ")), replayable(r.Replayable), column)
		})
}

func (p *page) gaps(d *Document) {
	p.section("### Not rendered\n\nNothing is known of what these deploy.\n\n", "\n", len(d.NotRendered), func(i int) string {
		g := d.NotRendered[i]
		return fmt.Sprintf("- %s %s: %s\n", p.place(g.Origin, false), md(g.What), md(g.Why))
	})
}

// place is file:line, with a link where the file can be seen.
func (p *page) place(at desired.Origin, gone bool) string {
	if at.File == "" {
		return ""
	}
	shown := Code(place(at))
	switch {
	case gone:
		return shown + " (before)"
	case p.blob == "":
		return shown
	}
	link := strings.TrimSuffix(p.blob, "/") + "/" + escapePath(at.File)
	if at.Line > 0 {
		link += fmt.Sprintf("#L%d", at.Line)
	}
	return "[" + shown + "](" + link + ")"
}

// escapePath leaves nothing of a path by which a link could end.
func escapePath(file string) string {
	var b strings.Builder
	for _, c := range []byte(file) {
		if c == '/' || c == '.' || c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func cell(s string) string {
	if s == "" {
		return "–"
	}
	return md(s)
}

// references write every character that means something in Markdown, in HTML or to GitHub so that it is only itself.
func references(extra ...string) *strings.Replacer {
	pairs := extra
	for _, c := range "&<>|`@*_~[]()#\\!$:{}^\"'" {
		pairs = append(pairs, string(c), fmt.Sprintf("&#%d;", c))
	}
	return strings.NewReplacer(pairs...)
}

var (
	inCode = references()
	// GitHub looks for mentions and issues in what Markdown has become: a space of no width keeps them from being any.
	inText = references("@", "&#64;&#8203;", "#", "&#35;&#8203;")
)

// md writes a text as text into a line of Markdown, a table's cell among it.
func md(s string) string { return inText.Replace(plain(s)) }

// Code writes a text into a line of Markdown as code. It is written as HTML: a backtick in the text would end the other kind.
func Code(s string) string { return "<code>" + inCode.Replace(plain(s)) + "</code>" }
