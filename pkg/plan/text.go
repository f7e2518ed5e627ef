package plan

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/object"
)

// Text says the plan in words, for the worst night. The same plan always gives the same text.
func (p *Plan) Text() string {
	var out strings.Builder
	if p.ReplaysCommit() {
		fmt.Fprintf(&out, "Restore %s to commit %s%s\n", p.Application, short(p.Revision.Commit), inParentheses(p.Revision.Ref))
		fmt.Fprintf(&out, "  from        %s, path %s\n", p.Revision.Repository, p.Revision.Path)
	} else {
		fmt.Fprintf(&out, "Restore %s of %s and replay no commit\n", count(int64(len(p.Claims)), "volume"), p.Application)
	}
	fmt.Fprintf(&out, "  with point  %s, taken %s at commit %s%s\n", p.Point.ID, p.Point.Taken.Format("2006-01-02 15:04:05 MST"),
		short(p.Point.Commit), inParentheses(p.Point.Ref))
	fmt.Fprintf(&out, "  because     %s: %s\n", p.Point.Match, p.Point.Reason)
	out.WriteString(p.textObjective())
	p.textEngine(&out)
	if p.Left > 0 {
		fmt.Fprintf(&out, "  only        what %s needs; %s left alone\n", p.workloadNames(), are(p.Left, "other object of the commit", "other objects of the commit"))
	}
	p.Mapping.text(&out)

	p.textRefusals(&out)
	p.textNotChecked(&out)
	if p.ReplaysCommit() {
		p.textFirst(&out)
	}
	p.textVolumes(&out)
	p.textAside(&out)
	if p.ReplaysCommit() {
		p.textWorkloads(&out)
		p.textHooks(&out)
	}
	p.Mapping.textNotes(&out)
	return out.String()
}

func (p *Plan) workloadNames() string {
	var names []string
	for _, l := range p.Workloads {
		names = append(names, l.String())
	}
	return strings.Join(names, ", ")
}

func are(n int, one, many string) string {
	if n == 1 {
		return "1 " + one + " is"
	}
	return fmt.Sprintf("%d %s are", n, many)
}

func (p *Plan) textEngine(out io.Writer) {
	if p.Engine == nil {
		return
	}
	name := string(p.Engine.Name)
	switch p.Engine.Name {
	case v1alpha1.EngineDirect:
		name = "Lockstep itself"
	case v1alpha1.EngineArgoCD:
		name = "Argo CD"
	}
	fmt.Fprintf(out, "  applied by  %s", name)
	if p.Engine.Reason != "" {
		fmt.Fprintf(out, ": %s", p.Engine.Reason)
	}
	fmt.Fprintln(out)
	for _, o := range p.Engine.Objects {
		what := map[v1alpha1.EngineRole]string{
			v1alpha1.RoleSource:    "is pinned to the commit until the restore is released",
			v1alpha1.RoleUnit:      "is held until every claim is reserved, and deploys this commit until the restore is released",
			v1alpha1.RoleBystander: "is not restored; it is held until the restore is released",
		}[o.Role]
		fmt.Fprintf(out, "    %s %s/%s %s\n", o.Kind, o.Namespace, o.Name, what)
	}
}

// text says what is given another name.
func (m *Mapping) text(out io.Writer) {
	if m == nil {
		return
	}
	for _, from := range slices.Sorted(maps.Keys(m.Namespaces)) {
		fmt.Fprintf(out, "  namespace   %s becomes %s\n", from, m.Namespaces[from])
	}
	for _, from := range slices.Sorted(maps.Keys(m.StorageClasses)) {
		fmt.Fprintf(out, "  class       %s becomes %s\n", from, m.StorageClasses[from])
	}
}

func (m *Mapping) textNotes(out io.Writer) {
	if m == nil || len(m.Notes) == 0 {
		return
	}
	fmt.Fprintf(out, "\nOther than the original\n")
	for _, n := range m.Notes {
		fmt.Fprintf(out, "  %s: %s\n", n.Object, n.Reason)
	}
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

func (p *Plan) textNotChecked(out io.Writer) {
	if len(p.NotChecked) == 0 {
		return
	}
	fmt.Fprintf(out, "\nNot checked\n")
	for _, n := range p.NotChecked {
		fmt.Fprintf(out, "  - %s\n", n)
	}
}

func (p *Plan) textFirst(out *strings.Builder) {
	fmt.Fprintf(out, "\nFirst\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, o := range append(append([]Object{}, p.Definitions...), p.Base...) {
		if after := worthSaying(o.Needs); len(after) > 0 {
			fmt.Fprintf(w, "  %s\tafter %s\n", o.Key, joinKeys(after))
			continue
		}
		fmt.Fprintf(w, "  %s\n", o.Key)
	}
	_ = w.Flush() // a strings.Builder takes everything
	if text := p.Residual.text(); text != "" {
		fmt.Fprintf(out, "  %s\n", text)
	}
	if n := p.Residual.Leading; n > 0 {
		fmt.Fprintf(out, "  look at %s of what Git does not hold: text in it may still lead into a namespace by its old name\n", count(int64(n), "object"))
	}
	if len(p.Definitions)+len(p.Base)+p.Residual.Secrets+p.Residual.Objects == 0 {
		fmt.Fprintf(out, "  nothing\n")
	}
}

// text says what comes back that Git does not hold; empty if nothing does.
func (r Residual) text() string {
	secrets, objects := count(int64(r.Secrets), "Secret"), count(int64(r.Objects), "object")
	unless := "unless they exist"
	if r.Secrets+r.Objects == 1 {
		unless = "unless it exists"
	}
	switch {
	case r.Secrets+r.Objects == 0:
		return ""
	case r.Objects == 0:
		return secrets + " that Git does not hold, from the point, " + unless
	case r.Secrets == 0:
		return objects + " that Git does not hold, from the point, " + unless
	}
	return fmt.Sprintf("%s and %s of other kinds that Git does not hold, from the point, %s", secrets, objects, unless)
}

func (p *Plan) textVolumes(out *strings.Builder) {
	fmt.Fprintf(out, "\nVolumes, each filled and verified before a pod can use it\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range p.Claims {
		class := c.StorageClass
		if class == "" {
			class = "default"
		}
		fmt.Fprintf(w, "  %s\t%s in %s\tonto %s of class %s\tsnapshot %s%s\n", c.Name, size(c.Bytes), contents(c), size(c.Size),
			class, short(c.Snapshot), p.originText(c))
	}
	_ = w.Flush() // a strings.Builder takes everything
	for _, n := range p.Notes {
		fmt.Fprintf(out, "  %s %s\n", n.Claim, n.Reason)
	}
	if len(p.Claims)+len(p.Notes) == 0 {
		fmt.Fprintf(out, "  none\n")
	}
}

func contents(c Claim) string {
	if c.Block {
		return "a device"
	}
	return count(c.Files, "file")
}

func (p *Plan) originText(c Claim) string {
	switch {
	case c.Empty:
		return " (without data)"
	case c.From != (object.Name{}):
		return " (of claim " + c.From.String() + ")"
	case c.Origin == OriginPoint && p.ReplaysCommit():
		return " (not in Git: made as it was captured)"
	}
	return ""
}

func (p *Plan) textWorkloads(out *strings.Builder) {
	fmt.Fprintf(out, "\nWorkloads\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, l := range p.Workloads {
		fmt.Fprintf(w, "  %s\t%s\n", l.Key, l.when())
	}
	_ = w.Flush() // a strings.Builder takes everything
	if len(p.Workloads) == 0 {
		fmt.Fprintf(out, "  none\n")
	}
}

func (p *Plan) textHooks(out io.Writer) {
	if len(p.Hooks) == 0 {
		return
	}
	fmt.Fprintf(out, "\nLeft out\n")
	for _, h := range p.Hooks {
		fmt.Fprintf(out, "  %s: %s\n", h.Object, h.Reason)
	}
}

// when says what a workload waits for.
func (l Workload) when() string {
	var parts []string
	if needs := worthSaying(l.Needs); len(needs) > 0 {
		parts = append(parts, "after "+joinKeys(needs))
	}
	if len(l.After) > 0 {
		parts = append(parts, "when healthy, as declared: "+joinKeys(l.After))
	}
	if len(l.WaitsFor) > 0 {
		parts = append(parts, "when its own volumes are whole: "+joinNames(l.WaitsFor))
	}
	if len(parts) == 0 {
		return "at once"
	}
	return strings.Join(parts, "; ")
}

// worthSaying leaves out that an object comes after its namespace.
func worthSaying(needs []object.Key) []object.Key {
	return slices.DeleteFunc(slices.Clone(needs), func(k object.Key) bool { return k.GroupKind() == object.Namespace })
}

func joinKeys(keys []object.Key) string {
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = k.String()
	}
	return strings.Join(parts, ", ")
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
