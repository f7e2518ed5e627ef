package cmd

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-dr/lockstep/cli/internal/output"
	"github.com/lockstep-dr/lockstep/pkg/api/v1alpha1"
	"github.com/lockstep-dr/lockstep/pkg/mover"
	"github.com/lockstep-dr/lockstep/pkg/planner"
)

// description gathers what "describe" tells of one thing.
type description struct {
	now    time.Time
	fields [][]string
	tables []section
}

type section struct {
	title  string
	header []string
	rows   [][]string
}

func (d *description) field(name, value string) {
	if value != "" {
		d.fields = append(d.fields, []string{name + ":", value})
	}
}

// residual counts what Git does not hold.
func (d *description) residual(secrets, objects int) {
	text := output.Count(secrets, "Secret", "Secrets")
	if objects > 0 {
		text += ", " + output.Count(objects, "other object", "other objects")
	}
	d.field("Not in Git", text)
}

func (d *description) table(title string, header []string, rows [][]string) {
	if len(rows) > 0 {
		d.tables = append(d.tables, section{title, header, rows})
	}
}

func (d *description) write(w io.Writer) error {
	if err := output.Rows(w, nil, d.fields); err != nil {
		return err
	}
	for i, t := range d.tables {
		if i > 0 || len(d.fields) > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, t.title)
		if err := t.write(w); err != nil {
			return err
		}
	}
	return nil
}

// write writes the rows moved to the right, below the title.
func (t section) write(w io.Writer) error {
	var rows strings.Builder
	if err := output.Rows(&rows, t.header, t.rows); err != nil {
		return err
	}
	for line := range strings.Lines(rows.String()) {
		if _, err := io.WriteString(w, "  "+line); err != nil {
			return err
		}
	}
	return nil
}

func (d *description) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return output.Time(t) + " (" + output.Ago(d.now, t) + ")"
}

func (d *description) revision(r *v1alpha1.Revision) {
	if r == nil {
		return
	}
	d.field("Repository", r.Repository)
	d.field("Path", r.Path)
	d.field("Commit", r.Commit+parenthesised(r.Ref))
	d.field("Tree", r.Tree)
}

// state tells how an object stands, and whether that will change by itself.
func (d *description) state(o conditioned) {
	c := ready(o)
	d.field("Ready", string(c.Status)+", "+sentence(c.Reason, c.Message))
	if stalled(o) {
		d.field("Stalled", "nothing changes until a person mends this")
	}
}

func (d *description) object(kind string, o metav1.Object) {
	name := o.GetName()
	if o.GetNamespace() != "" {
		name = o.GetNamespace() + "/" + name
	}
	d.field(kind, name)
}

func (d *description) vault(v *v1alpha1.Vault) {
	d.object("Vault", v)
	d.state(v)
	if v.Status.DownSince != nil {
		d.field("Down since", d.when(v.Status.DownSince.Time))
	}
	if url, err := mover.URL(v.Spec); err == nil {
		d.field("URL", url)
	}
	if i := v.Spec.Immutability; i != nil {
		d.field("Immutable", fmt.Sprintf("each point for %s, mode %s", output.Duration(i.Retention.Duration), i.Mode))
	}
	d.field("ID", v.Status.ID)
	d.field("Points", strconv.Itoa(int(v.Status.Points)))
	d.field("Key", "Secret "+v1alpha1.SystemNamespace+"/"+v.Spec.KeySecretRef.Name)
	d.field("Checked", d.when(moment(v.Status.CheckedAt)))
}

func (d *description) policy(p *v1alpha1.ProtectionPolicy) {
	d.object("Policy", p)
	d.state(p)
	d.field("Vaults", strings.Join(p.Spec.Vaults, ", "))
	if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionCopiesBehind); c != nil && c.Status == metav1.ConditionTrue {
		d.field("Copies behind", c.Message)
	}
	d.field("Running", strings.TrimSpace(p.Annotations[v1alpha1.AnnotationRevision]))
	d.field("Repository", p.Annotations[v1alpha1.AnnotationRepository])
	d.field("Path", p.Annotations[v1alpha1.AnnotationPath])
	if p.Spec.Snapshots == v1alpha1.SnapshotsGroup {
		d.field("Snapshots", "one of all volumes together")
	}
	if s := p.Spec.ScaleToZero; s != nil {
		d.field("Scales to zero", "what mounts "+claimsOf(s.Selector)+", for at most "+output.Duration(s.Timeout.Duration))
	}
	if p.Spec.Consistency == v1alpha1.ConsistencyFuzzy {
		d.field("Consistency", string(p.Spec.Consistency)+" is enough")
	}
	schedule := p.Spec.Schedule
	if schedule == "" {
		schedule = "none: points are made by hand"
	} else if p.Spec.TimeZone != "" {
		schedule += " (" + p.Spec.TimeZone + ")"
	}
	if p.Spec.Suspend {
		schedule += ", suspended"
	}
	d.field("Schedule", schedule)
	d.field("Next run", d.when(moment(p.Status.NextRun)))
	if o := p.Spec.Objectives; o != nil {
		d.field("RPO", promised(o.RPO))
		d.field("RTO", promised(o.RTO))
	}
	d.field("Last point", "none")
	if last := p.Status.LastPoint; last != nil {
		d.fields[len(d.fields)-1][1] = last.Name + ", taken " + d.when(last.Taken.Time) + ", commit " + short(last.Commit)
	}
	rows := make([][]string, len(p.Status.Claims))
	for i, c := range p.Status.Claims {
		rows[i] = []string{c}
	}
	d.table("Protected claims", nil, rows)
}

func promised(d *metav1.Duration) string {
	if d == nil {
		return ""
	}
	return output.Duration(d.Duration)
}

func (d *description) point(p *v1alpha1.RestorePoint) {
	d.object("RestorePoint", p)
	d.state(p)
	d.field("Policy", p.Spec.PolicyRef.Name)
	d.field("Trigger", string(p.Spec.Trigger))
	d.field("Before", p.Spec.Before)
	d.field("ID", p.Status.ID)
	d.revision(p.Status.Revision)
	d.field("Started", d.when(moment(p.Status.StartedAt)))
	d.field("Taken", d.when(moment(p.Status.Taken)))
	d.field("Completed", d.when(moment(p.Status.CompletedAt)))
	d.field("Consistency", string(p.Status.Consistency))
	if g := p.Status.Group; g != nil {
		d.field("One moment", "all volumes, by VolumeGroupSnapshot "+g.Name+" of class "+g.Class)
	}
	if r := p.Status.Residual; r != nil {
		d.residual(int(r.Secrets), int(r.Objects))
	}
	for _, c := range p.Status.Copies {
		if c.VerifiedAt != nil {
			text := c.Vault + ", verified " + d.when(c.VerifiedAt.Time)
			if c.LockedUntil != nil {
				text += ", locked until " + c.LockedUntil.UTC().Format(time.RFC3339)
			}
			d.field("In vault", text)
			continue
		}
		lacks := fmt.Sprintf("%s, not yet: %s", c.Vault, c.State)
		if c.Message != "" {
			lacks += ", " + c.Message
		}
		d.field("In vault", lacks)
	}
	rows := make([][]string, len(p.Status.Volumes))
	for i, v := range p.Status.Volumes {
		rows[i] = []string{v.Claim, string(v.State), output.Bytes(v.Bytes), output.Bytes(v.Stored), fmt.Sprint(v.Files), dash(string(v.Consistency)),
			v.Snapshot, cmp.Or(v.Message, changedWhileRead(v))}
	}
	d.table("Volumes", []string{"CLAIM", "STATE", "DATA", "NEW", "FILES", "CONSISTENCY", "SNAPSHOT", "MESSAGE"}, rows)
	held := make([][]string, len(p.Status.Quiesce))
	for i, q := range p.Status.Quiesce {
		held[i] = []string{q.Pod, q.Container, heldFor(q), q.Message}
	}
	d.table("Held still", []string{"POD", "CONTAINER", "FOR", "MESSAGE"}, held)
	if s := p.Status.ScaleToZero; s != nil {
		scaled := make([][]string, len(s.Workloads))
		for i, w := range s.Workloads {
			scaled[i] = []string{w.Kind + "/" + w.Name, fmt.Sprint(w.Replicas), awayFor(w), w.Message}
		}
		d.table("Scaled to zero", []string{"WORKLOAD", "REPLICAS", "FOR", "MESSAGE"}, scaled)
	}
}

// claimsOf says which of a policy's claims a selector chooses.
func claimsOf(selector *metav1.LabelSelector) string {
	if selector == nil {
		return "a claim of the policy"
	}
	return "a claim with " + metav1.FormatLabelSelector(selector)
}

// awayFor is how long a workload was at zero, or how it stands.
func awayFor(w v1alpha1.ScaledWorkload) string {
	switch {
	case w.ScaledAt != nil && w.ScaledBackAt != nil:
		return w.ScaledBackAt.Sub(w.ScaledAt.Time).Round(time.Millisecond).String()
	case w.ScaleBackDue:
		return "still, or not known"
	}
	return "not"
}

// heldFor is how long a container was held still, or how it stands.
func heldFor(q v1alpha1.Quiesced) string {
	switch {
	case q.FrozenAt != nil && q.ThawedAt != nil:
		return q.ThawedAt.Sub(q.FrozenAt.Time).Round(time.Millisecond).String()
	case q.PostHookDue:
		return "still, or not known"
	}
	return "not"
}

// changedWhileRead names what of a volume in use is as it was found at last.
func changedWhileRead(v v1alpha1.VolumeCapture) string {
	if len(v.Changed) == 0 {
		return ""
	}
	message := "changed while it was read: " + strings.Join(v.Changed, ", ")
	if v.MoreChanged > 0 {
		message += fmt.Sprintf(" and %d more", v.MoreChanged)
	}
	return message
}

// mappedNames says what is given another name; empty if nothing is.
func mappedNames(asked *v1alpha1.RestoreMap) string {
	m := planner.Mapping(asked)
	var parts []string
	for _, from := range slices.Sorted(maps.Keys(m.Namespaces)) {
		parts = append(parts, "namespace "+from+" to "+m.Namespaces[from])
	}
	for _, from := range slices.Sorted(maps.Keys(m.StorageClasses)) {
		parts = append(parts, "class "+from+" to "+m.StorageClasses[from])
	}
	return strings.Join(parts, ", ")
}

func (d *description) restore(r *v1alpha1.Restore) {
	d.object("Restore", r)
	d.state(r)
	d.field("Vault", r.Spec.From.Vault)
	d.field("Asked for", wanted(r.Spec.From))
	for _, l := range r.Spec.Only {
		d.field("Only", l.Kind+" "+l.Namespace+"/"+l.Name)
	}
	for _, v := range r.Spec.Volumes {
		d.field("Volume", strings.TrimSuffix(v.Claim+" as "+v.As, " as "))
	}
	d.field("Mapped", mappedNames(r.Spec.Map))
	d.revision(r.Status.Revision)
	if c := r.Status.Point; c != nil {
		d.field("Point", c.ID+", taken "+d.when(c.Taken.Time)+", commit "+short(c.Commit))
		d.field("Chosen", c.Match+": "+c.Message)
	}
	d.field("Started", d.when(moment(r.Status.StartedAt)))
	d.field("Completed", d.when(moment(r.Status.CompletedAt)))
	if rto, ok := recoveryTime(r); ok {
		d.field("RTO", output.Duration(rto))
	}
	d.field("Objective", objective(r))
	d.field("Back", r.Status.Summary)
	volumes := make([][]string, len(r.Status.Volumes))
	for i, v := range r.Status.Volumes {
		message := v.Message
		if message == "" && v.Reread > 0 {
			message = fmt.Sprintf("%s altered on the way from the vault, and good when read once more", output.Count(int(v.Reread), "part was", "parts were"))
		}
		volumes[i] = []string{v.Namespace + "/" + v.Claim, string(v.State), output.Bytes(v.Progress) + " of " + output.Bytes(v.Bytes), message}
	}
	d.table("Volumes", []string{"CLAIM", "STATE", "WRITTEN", "MESSAGE"}, volumes)
	if rows := asideRows(r); len(rows) > 0 {
		d.table("Kept from before", []string{"CLAIM", "VOLUME"}, rows)
	}
	workloads := make([][]string, len(r.Status.Workloads))
	for i, l := range r.Status.Workloads {
		workloads[i] = []string{workloadName(l), string(l.State), dash(strings.Join(stillWaitsFor(r, l), ", ")), l.Message}
	}
	d.table("Workloads", []string{"WORKLOAD", "STATE", "WAITS FOR", "MESSAGE"}, workloads)
	unknown := make([][]string, len(r.Status.NotChecked))
	for i, n := range r.Status.NotChecked {
		unknown[i] = []string{n}
	}
	d.table("Not checked", nil, unknown)
	d.table("Timeline", nil, timelineRows(r))
}

func wanted(f v1alpha1.RestoreFrom) string {
	switch {
	case f.Tag != "":
		return "tag " + f.Tag
	case f.Commit != "":
		return "commit " + f.Commit
	case f.RestorePoint != "":
		return "point " + f.RestorePoint
	case f.Before != nil:
		return "the newest point before " + output.Time(f.Before.Time)
	default:
		return ""
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func workloadName(l v1alpha1.WorkloadRestore) string {
	return strings.ToLower(l.Kind) + " " + l.Namespace + "/" + l.Name
}
