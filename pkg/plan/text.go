package plan

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Text says the plan in words, for the worst night. The same plan always gives the same text.
func (p *Plan) Text() string {
	var out strings.Builder
	fmt.Fprintf(&out, "Restore %s to commit %s%s\n", p.Application, short(p.Revision.Commit), inParentheses(p.Revision.Ref))
	fmt.Fprintf(&out, "  from        %s, path %s\n", p.Revision.Repository, p.Revision.Path)
	fmt.Fprintf(&out, "  with point  %s, taken %s at commit %s%s\n", p.Point.ID, p.Point.Taken.Format("2006-01-02 15:04:05 MST"),
		short(p.Point.Commit), inParentheses(p.Point.Ref))
	fmt.Fprintf(&out, "  because     %s: %s\n", p.Point.Match, p.Point.Reason)

	p.textRefusals(&out)
	p.textFirst(&out)
	p.textVolumes(&out)
	p.textWorkloads(&out)
	return out.String()
}

func (p *Plan) textRefusals(out io.Writer) {
	if len(p.Refusals) == 0 {
		return
	}
	fmt.Fprintf(out, "\nREFUSED: nothing is done until this is mended\n")
	for _, r := range p.Refusals {
		fmt.Fprintf(out, "  - %s\n", r)
	}
}

func (p *Plan) textFirst(out io.Writer) {
	fmt.Fprintf(out, "\nFirst\n")
	for _, o := range append(append([]Object{}, p.Definitions...), p.Base...) {
		fmt.Fprintf(out, "  %s\n", o.Key)
	}
	switch p.Secrets {
	case 0:
	case 1:
		fmt.Fprintf(out, "  1 Secret that Git does not hold, from the point, unless it exists\n")
	default:
		fmt.Fprintf(out, "  %d Secrets that Git does not hold, from the point, unless they exist\n", p.Secrets)
	}
	if len(p.Definitions)+len(p.Base)+p.Secrets == 0 {
		fmt.Fprintf(out, "  nothing\n")
	}
}

func (p *Plan) textVolumes(out *strings.Builder) {
	fmt.Fprintf(out, "\nVolumes, each filled and verified before a pod can use it\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range p.Claims {
		class := c.StorageClass
		if class == "" {
			class = "default"
		}
		fmt.Fprintf(w, "  %s\t%s in %s\tonto %s of class %s\tsnapshot %s%s\n", c.Name, size(c.Bytes), count(c.Files, "file"), size(c.Size),
			class, short(c.Snapshot), originText(c.Origin))
	}
	_ = w.Flush() // a strings.Builder takes everything
	for _, n := range p.Notes {
		fmt.Fprintf(out, "  %s %s\n", n.Claim, n.Reason)
	}
	if len(p.Claims)+len(p.Notes) == 0 {
		fmt.Fprintf(out, "  none\n")
	}
}

func originText(o Origin) string {
	if o == OriginPoint {
		return " (not in Git: made as it was captured)"
	}
	return ""
}

func (p *Plan) textWorkloads(out *strings.Builder) {
	fmt.Fprintf(out, "\nWorkloads\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, l := range p.Workloads {
		when := "at once"
		if len(l.WaitsFor) > 0 {
			when = "when its own volumes are whole: " + joinNames(l.WaitsFor)
		}
		fmt.Fprintf(w, "  %s\t%s\n", l.Key, when)
	}
	_ = w.Flush() // a strings.Builder takes everything
	if len(p.Workloads) == 0 {
		fmt.Fprintf(out, "  none\n")
	}
}

func joinNames(names []object.Name) string {
	parts := make([]string, len(names))
	for i, n := range names {
		parts[i] = n.String()
	}
	return strings.Join(parts, ", ")
}

func inParentheses(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// short cuts an object name or a snapshot id to what a person compares.
func short(id string) string { return id[:min(len(id), 12)] }

func count(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// size writes bytes in binary units with at most one decimal.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1023.95 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	text := strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0")
	return fmt.Sprintf("%s %ciB", text, units[unit])
}
